//! Disruptions: ends of a connection outside HTTP, performed on the raw stream after hyper has released it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::server::TlsStream;

use crate::wire::answer::SandboxAnswer;

/// The end of a connection in place of an answer. The request handler returns it as the error that stops hyper.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the connection is disrupted on purpose")]
pub(crate) enum ConnectionDisruption {
    /// These bytes, then a TCP reset.
    Reset(Bytes),
    /// These bytes, then an orderly close.
    Close(Bytes),
    /// These bytes one by one, with a pause before each, then an orderly close.
    Drip(Bytes, Duration),
    /// A chunked answer without an end, bounded in bytes of body and in time.
    Endless { max_bytes: u64, max_time: Duration },
}

impl ConnectionDisruption {
    /// The disruption that caused hyper's error, if there is one.
    pub(crate) fn behind(error: &hyper::Error) -> Option<Self> {
        std::error::Error::source(error)?.downcast_ref().cloned()
    }

    /// Ends the connection. A caller that disconnects first causes an error, which is ignored.
    pub(crate) async fn perform(self, mut stream: impl DisruptibleStream) -> io::Result<()> {
        match self {
            Self::Reset(first) => {
                stream.write_all(&first).await?;
                stream.flush().await?;
                // Closing a socket that must not linger sends a reset instead of a FIN.
                SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO))
            }
            Self::Close(first) => {
                stream.write_all(&first).await?;
                stream.shutdown().await
            }
            Self::Drip(bytes, pause) => {
                for byte in bytes {
                    sleep(pause).await;
                    stream.write_all(&[byte]).await?;
                    stream.flush().await?;
                }
                stream.shutdown().await
            }
            Self::Endless {
                max_bytes,
                max_time,
            } => {
                let end = Instant::now() + max_time;
                match timeout_at(end, endless(&mut stream, max_bytes)).await {
                    Ok(written) => written,
                    Err(_elapsed) => Ok(()),
                }
            }
        }
    }
}

/// Writes chunks of white space, which may precede any JSON, up to `max_bytes` of body.
async fn endless(stream: &mut impl DisruptibleStream, max_bytes: u64) -> io::Result<()> {
    const CHUNK: &[u8] = &[b' '; 1024];
    const CHUNK_BYTES: u64 = 1024;

    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut left = max_bytes;
    while left > 0 {
        let bytes = left.min(CHUNK_BYTES);
        let chunk = &CHUNK[..usize::try_from(bytes).expect("a chunk has at most 1024 bytes")];
        stream
            .write_all(format!("{bytes:x}\r\n").as_bytes())
            .await?;
        stream.write_all(chunk).await?;
        stream.write_all(b"\r\n").await?;
        left -= bytes;
    }
    stream.flush().await
}

/// The bytes of an answer on the wire.
pub(crate) fn on_the_wire(answer: &SandboxAnswer) -> Bytes {
    let head = format!(
        "HTTP/1.1 {} \r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.status,
        answer.media,
        answer.body.len(),
    );
    [head.as_bytes(), &answer.body].concat().into()
}

/// A stream with access to its TCP socket.
pub(crate) trait DisruptibleStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl DisruptibleStream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl DisruptibleStream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}
