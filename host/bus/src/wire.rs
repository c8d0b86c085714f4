//! A TCP stream that writes late, so that many acknowledgements share a write.
//!
//! The library writes and flushes every acknowledgement on its own: one system
//! call a message. Here flushing does nothing; what was written goes out when
//! the event loop turns to reading, which it does as soon as it has no more
//! requests, or when there is enough of it. Half the CPU time of a received
//! message is saved by it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// More than this is not kept back: 4,096 PUBACKs.
const ENOUGH: usize = 16 * 1024;

/// See the module.
pub(super) struct LateWriter {
    inner: TcpStream,
    kept: Vec<u8>,
}

impl LateWriter {
    pub(super) fn new(inner: TcpStream) -> Self {
        Self { inner, kept: Vec::new() }
    }

    fn write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.kept))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for LateWriter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // While the far side takes nothing it may still send, and the task is
        // woken for either.
        if let Poll::Ready(Err(error)) = self.write_out(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for LateWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.kept.len() >= ENOUGH {
            ready!(self.write_out(cx))?;
        }
        self.kept.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Drop for LateWriter {
    /// The last acknowledgements and the DISCONNECT, as far as the socket takes
    /// them at once. What does not go out comes again: it was not acknowledged.
    fn drop(&mut self) {
        let mut rest = self.kept.as_slice();
        while !rest.is_empty() {
            match self.inner.try_write(rest) {
                Ok(written) if written > 0 => rest = rest.get(written..).unwrap_or_default(),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (LateWriter, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (LateWriter::new(near.unwrap()), far.unwrap().0)
    }

    #[tokio::test]
    async fn what_was_written_goes_out_with_the_next_read() {
        let (mut near, mut far) = pair().await;
        for _ in 0..3 {
            near.write_all(b"ack").await.unwrap();
            near.flush().await.unwrap();
        }
        assert_eq!(near.kept, b"ackackack");
        far.write_all(b"x").await.unwrap();
        let mut byte = [0; 1];
        near.read_exact(&mut byte).await.unwrap();
        assert!(near.kept.is_empty());
        let mut seen = [0; 9];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"ackackack");
    }

    #[tokio::test]
    async fn too_much_is_not_kept_back() {
        let (mut near, mut far) = pair().await;
        near.write_all(&[1; ENOUGH]).await.unwrap();
        near.write_all(&[2; 4]).await.unwrap();
        assert_eq!(near.kept, [2; 4]);
        let mut seen = vec![0; ENOUGH];
        far.read_exact(&mut seen).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_writes_out_what_is_left() {
        for shutdown in [false, true] {
            let (mut near, mut far) = pair().await;
            near.write_all(b"bye").await.unwrap();
            if shutdown {
                near.shutdown().await.unwrap();
            }
            drop(near);
            let mut seen = Vec::new();
            far.read_to_end(&mut seen).await.unwrap();
            assert_eq!(seen, b"bye");
        }
    }
}
