//! A link that fails on command: it listens on a port that stays the same and
//! forwards to a target, as long and as well as it is told to.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ports::free_port;
use crate::{LOOK, PATIENCE};

/// Most bytes that are read at once, and how many such pieces wait in one
/// direction: what a network would hold.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 16;

/// How long the garbage of [`Proxy::garble`] may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    #[default]
    Open,
    /// They wait, however long, and pass when the link is whole again, as over
    /// a network that lost its route for a while.
    Held,
    /// They are taken and never come out. A connection that lost some is cut
    /// when the link is whole again: it could not continue.
    Swallowed,
    /// So many bytes a second pass.
    Slow(u32),
    /// Each passes so much later.
    Late(Duration),
    /// A connection is closed when so many have passed, counted from its start.
    CutAfter(u64),
}

/// How the link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// From the client to the target.
    pub to_target: Flow,
    /// The answers.
    pub to_client: Flow,
    /// No listener: connecting fails at once. Open connections stay.
    pub refuses: bool,
}

/// A listening socket on loopback before a target. It ends with this value.
pub struct Proxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    listening: watch::Receiver<bool>,
    ends: broadcast::Sender<End>,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// How connections end on command.
#[derive(Clone, Debug)]
enum End {
    Close,
    Reset,
    Garbage(Bytes),
}

/// Which way bytes go.
#[derive(Clone, Copy)]
enum Way {
    ToTarget,
    ToClient,
}

impl Proxy {
    /// Listens on a port of 127.0.0.1 of its own and forwards to `target`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(target: SocketAddr) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let listener = TcpListener::bind(address).await.expect("a free port");
        let (link, link_seen) = watch::channel(Link::default());
        let (listens, listening) = watch::channel(true);
        let (ends, _) = broadcast::channel(8);
        let connections = Arc::new(AtomicU64::new(0));
        let task =
            tokio::spawn(serve(listener, target, link_seen, listens, ends.clone(), connections.clone()));
        Self { address, link, listening, ends, connections, task }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The link is like this from now on; returns when it listens, or does not
    /// any more.
    ///
    /// # Panics
    /// When the port was taken meanwhile.
    pub async fn set(&self, link: Link) {
        self.link.send_replace(link);
        let mut listening = self.listening.clone();
        let told = listening.wait_for(|listening| *listening != link.refuses);
        let told = timeout(PATIENCE, told).await;
        assert!(matches!(told, Ok(Ok(_))), "{} cannot be listened on again", self.address);
    }

    /// Everything passes again.
    pub async fn heal(&self) {
        self.set(Link::default()).await;
    }

    /// Closes every connection as a program does that ends properly.
    pub fn cut(&self) {
        self.end(End::Close);
    }

    /// Ends every connection by a reset (RST): what is under way is lost.
    pub fn reset(&self) {
        self.end(End::Reset);
    }

    /// Says this to each client, out of turn, and closes every connection.
    pub fn garble(&self, garbage: impl Into<Bytes>) {
        self.end(End::Garbage(garbage.into()));
    }

    fn end(&self, end: End) {
        // An error says that there is no connection.
        let _ = self.ends.send(end);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    target: SocketAddr,
    mut link: watch::Receiver<Link>,
    listens: watch::Sender<bool>,
    ends: broadcast::Sender<End>,
    connections: Arc<AtomicU64>,
) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    let mut open = JoinSet::new();
    loop {
        let refuses = link.borrow_and_update().refuses;
        if refuses {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
        }
        listens.send_replace(listener.is_some());
        tokio::select! {
            changed = link.changed() => if changed.is_err() { return },
            accepted = accept(listener.as_ref()) => {
                connections.fetch_add(1, Ordering::Relaxed);
                open.spawn(connection(accepted, target, link.clone(), ends.subscribe()));
            }
            Some(_) = open.join_next() => {}
            // Another process has the port for the moment.
            () = sleep(LOOK), if listener.is_none() && !refuses => {}
        }
    }
}

/// The next connection; pending for ever while there is no listener.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Out of file handles, or a peer that is gone already.
            Err(_) => sleep(LOOK).await,
        }
    }
}

async fn connection(
    mut client: TcpStream,
    target: SocketAddr,
    link: watch::Receiver<Link>,
    mut ends: broadcast::Receiver<End>,
) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    // What waits here waits because it was told to, never for more bytes.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let outward = pump(from_client, to_server, Way::ToTarget, link.clone());
        let homeward = pump(from_server, to_client, Way::ToClient, link);
        // The end of one direction leaves the other; an error ends both.
        let carried = async { tokio::try_join!(outward, homeward) };
        tokio::select! {
            _ = carried => End::Close,
            end = ends.recv() => end.unwrap_or(End::Close),
        }
    };
    match end {
        End::Close => {}
        End::Reset => {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
        End::Garbage(garbage) => {
            let _ = timeout(LAST_WORDS, client.write_all(&garbage)).await;
        }
    }
}

/// Carries one direction until its source ends; an error ends both.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    mut link: watch::Receiver<Link>,
) -> io::Result<()> {
    let (pieces, mut waiting) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let read = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = from.read(&mut buffer).await?;
            let piece = (Instant::now(), Bytes::copy_from_slice(&buffer[..count]));
            if count == 0 || pieces.send(piece).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let write = async move {
        let (mut passed, mut swallowed) = (0, false);
        loop {
            let next = tokio::select! {
                next = waiting.recv() => next,
                () = whole_again(&mut link, way), if swallowed => return Err(aborted()),
            };
            let Some((came, mut piece)) = next else { break };
            while !piece.is_empty() {
                let flow = settled(&mut link, way).await;
                if swallowed && flow != Flow::Swallowed {
                    return Err(aborted());
                }
                let part = match flow {
                    Flow::Open | Flow::Held => piece.split_off(0),
                    Flow::Swallowed => {
                        swallowed = true;
                        piece.clear();
                        continue;
                    }
                    Flow::Slow(rate) => {
                        // Ten times a second, so that a change is soon felt.
                        let part = piece.split_to(piece.len().min((rate as usize / 10).max(1)));
                        sleep(Duration::from_secs_f64(part.len() as f64 / f64::from(rate.max(1)))).await;
                        part
                    }
                    Flow::Late(time) => {
                        sleep_until(came + time).await;
                        piece.split_off(0)
                    }
                    Flow::CutAfter(bytes) => {
                        let left = usize::try_from(bytes.saturating_sub(passed)).unwrap_or(usize::MAX);
                        if left == 0 {
                            return Err(aborted());
                        }
                        piece.split_to(piece.len().min(left))
                    }
                };
                to.write_all(&part).await?;
                passed += part.len() as u64;
            }
        }
        // The end of the source is part of what waits.
        settled(&mut link, way).await;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// The flow, as soon as it is another one than [`Flow::Held`].
async fn settled(link: &mut watch::Receiver<Link>, way: Way) -> Flow {
    match link.wait_for(|link| way.flow(link) != Flow::Held).await {
        Ok(link) => way.flow(&link),
        // The proxy is gone, and this task with it in a moment.
        Err(_) => Flow::Open,
    }
}

/// Returns when nothing is swallowed any more.
async fn whole_again(link: &mut watch::Receiver<Link>, way: Way) {
    let _ = link.wait_for(|link| way.flow(link) != Flow::Swallowed).await;
}

fn aborted() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl Way {
    fn flow(self, link: &Link) -> Flow {
        match self {
            Self::ToTarget => link.to_target,
            Self::ToClient => link.to_client,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::ErrorKind;

    use super::*;

    /// A proxy before a server that says back what it hears.
    async fn before_echo() -> (Proxy, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        let echo = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        (Proxy::start(target).await, echo)
    }

    async fn talk(stream: &mut TcpStream, words: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(words).await?;
        let mut heard = vec![0; words.len()];
        timeout(PATIENCE, stream.read_exact(&mut heard)).await.expect("an answer in time")?;
        Ok(heard)
    }

    async fn connected(proxy: &Proxy) -> TcpStream {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(talk(&mut stream, b"hello").await.unwrap(), b"hello");
        stream
    }

    /// The kind of the error with which a connection ends; none: it was closed.
    async fn last(stream: &mut TcpStream) -> Option<ErrorKind> {
        let mut rest = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
        end.err().map(|error| error.kind())
    }

    #[tokio::test]
    async fn it_forwards_until_it_is_cut_or_reset() {
        let (proxy, _echo) = before_echo().await;
        let (mut one, mut two) = (connected(&proxy).await, connected(&proxy).await);
        let long = vec![7; 300_000];
        let (mut from, mut to) = one.split();
        let mut heard = vec![0; long.len()];
        tokio::try_join!(to.write_all(&long), from.read_exact(&mut heard)).unwrap();
        assert!(heard == long);
        proxy.cut();
        assert_eq!((last(&mut one).await, last(&mut two).await), (None, None));

        let mut three = connected(&proxy).await;
        proxy.reset();
        assert_eq!(last(&mut three).await, Some(ErrorKind::ConnectionReset));
        connected(&proxy).await;
        assert_eq!(proxy.connections(), 4);
    }

    #[tokio::test]
    async fn close_of_one_side_reaches_the_other() {
        let (proxy, _echo) = before_echo().await;
        let mut stream = connected(&proxy).await;
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"bye");
    }

    #[tokio::test]
    async fn held_bytes_arrive_later_and_swallowed_ones_never() {
        let (proxy, _echo) = before_echo().await;
        for held in [
            Link { to_target: Flow::Held, ..Link::default() },
            Link { to_client: Flow::Held, ..Link::default() },
        ] {
            let mut stream = connected(&proxy).await;
            proxy.set(held).await;
            stream.write_all(b"later").await.unwrap();
            let mut heard = [0; 5];
            assert!(timeout(4 * LOOK, stream.read_exact(&mut heard)).await.is_err());
            proxy.heal().await;
            timeout(PATIENCE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
            assert_eq!(&heard, b"later");
        }

        let mut stream = connected(&proxy).await;
        proxy.set(Link { to_target: Flow::Swallowed, ..Link::default() }).await;
        stream.write_all(b"never").await.unwrap();
        assert!(timeout(4 * LOOK, stream.read_u8()).await.is_err());
        proxy.heal().await;
        let mut heard = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, b"", "the connection is cut");
        connected(&proxy).await;
    }

    #[tokio::test]
    async fn slow_is_slow_and_late_is_late() {
        let (proxy, _echo) = before_echo().await;
        let mut stream = connected(&proxy).await;
        for link in [
            Link { to_target: Flow::Slow(1000), ..Link::default() },
            Link { to_client: Flow::Late(Duration::from_millis(200)), ..Link::default() },
        ] {
            proxy.set(link).await;
            let began = Instant::now();
            let words = vec![1; 200];
            assert_eq!(talk(&mut stream, &words).await.unwrap(), words);
            assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
        }
    }

    #[tokio::test]
    async fn connection_ends_after_limit_of_bytes() {
        let (proxy, _echo) = before_echo().await;
        proxy.set(Link { to_client: Flow::CutAfter(7), ..Link::default() }).await;
        let mut stream = connected(&proxy).await;
        stream.write_all(b"words").await.unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        assert_eq!(heard, b"wo");
    }

    #[tokio::test]
    async fn garbage_comes_out_of_turn_and_ends_the_connection() {
        let (proxy, _echo) = before_echo().await;
        let mut stream = connected(&proxy).await;
        proxy.garble(&b"\xff\x00"[..]);
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"\xff\x00");
    }

    #[tokio::test]
    async fn refusing_link_returns_on_same_port() {
        let (proxy, _echo) = before_echo().await;
        let mut stream = connected(&proxy).await;
        proxy.set(Link { refuses: true, ..Link::default() }).await;
        let error = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(talk(&mut stream, b"still").await.unwrap(), b"still");
        proxy.heal().await;
        connected(&proxy).await;
    }
}
