//! A listening socket on loopback that can be unplugged and plugged in again.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// How long [`Plug::plug`] tries to get its port back: another program may
/// have been given it in the meantime as a port of its own.
const PORT_PATIENCE: Duration = Duration::from_secs(5);

/// The handle of a listening socket. The socket and all its connections end
/// with the last clone.
#[derive(Clone)]
pub struct Plug {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    orders: mpsc::Sender<Order>,
}

struct Order {
    what: What,
    done: oneshot::Sender<io::Result<()>>,
}

enum What {
    Unplug,
    Plug,
    Cut,
}

type Handler = Box<dyn Fn(TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Plug {
    /// Listens on a free port of 127.0.0.1; each connection runs `handler` in
    /// a task of its own.
    pub async fn start<F, Fut>(handler: F) -> io::Result<Self>
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicU64::new(0));
        let (orders, inbox) = mpsc::channel(4);
        let handler: Handler = Box::new(move |stream| Box::pin(handler(stream)));
        tokio::spawn(serve(listener, address, Arc::clone(&connections), handler, inbox));
        Ok(Self { address, connections, orders })
    }

    /// Where it listens, or listened before it was unplugged.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted since it started.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Stops listening and cuts every connection; returns when both are done.
    pub async fn unplug(&self) -> io::Result<()> {
        self.order(What::Unplug).await
    }

    /// Listens again on the same port.
    pub async fn plug(&self) -> io::Result<()> {
        self.order(What::Plug).await
    }

    /// Cuts every connection and continues to listen.
    pub async fn cut(&self) -> io::Result<()> {
        self.order(What::Cut).await
    }

    async fn order(&self, what: What) -> io::Result<()> {
        let gone = || io::Error::other("the listening task has ended");
        let (done, answer) = oneshot::channel();
        self.orders.send(Order { what, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    handler: Handler,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut listener = Some(listener);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(Order { what, done }) = order else { return };
                let result = match what {
                    What::Plug if listener.is_some() => Ok(()),
                    What::Plug => bind_again(address).await.map(|bound| listener = Some(bound)),
                    What::Cut => {
                        open.shutdown().await;
                        Ok(())
                    }
                    What::Unplug => {
                        listener = None;
                        open.shutdown().await;
                        Ok(())
                    }
                };
                // The caller has stopped waiting: the order is carried out all the same.
                let _ = done.send(result);
            }
            stream = accept(listener.as_ref()) => {
                connections.fetch_add(1, Ordering::Relaxed);
                open.spawn(handler(stream));
            }
            Some(_) = open.join_next() => {}
        }
    }
}

/// The next connection; for ever pending while unplugged.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are single bytes: they must not wait for more.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            // Out of file handles or a peer that is gone already: go on after a moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn bind_again(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = tokio::time::Instant::now() + PORT_PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Err(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo(mut stream: TcpStream) {
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte).await.unwrap();
        }
    }

    async fn talk(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_all(b"x").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn an_unplugged_socket_refuses_and_comes_back_on_the_same_port() {
        let plug = Plug::start(echo).await.unwrap();
        let mut stream = TcpStream::connect(plug.address()).await.unwrap();
        assert_eq!(talk(&mut stream).await.unwrap(), b'x');

        plug.unplug().await.unwrap();
        assert!(talk(&mut stream).await.is_err());
        assert!(TcpStream::connect(plug.address()).await.is_err());

        plug.plug().await.unwrap();
        let mut stream = TcpStream::connect(plug.address()).await.unwrap();
        assert_eq!(talk(&mut stream).await.unwrap(), b'x');
        assert_eq!(plug.connections(), 2);

        plug.cut().await.unwrap();
        assert!(talk(&mut stream).await.is_err());
        assert!(TcpStream::connect(plug.address()).await.is_ok());
    }
}
