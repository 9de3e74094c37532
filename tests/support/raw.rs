//! A bare socket, for bytes that no client library would send.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{Answer, PATIENCE};

pub(crate) struct Raw {
    tcp: TcpStream,
    seen: Vec<u8>,
}

impl Raw {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address)
            .await
            .expect("the listener accepts");
        // Separate writes leave as separate packets.
        tcp.set_nodelay(true).expect("a connected socket");
        Self {
            tcp,
            seen: Vec::new(),
        }
    }

    /// Wraps a connection that was opened elsewhere.
    pub(crate) fn over(tcp: TcpStream) -> Self {
        Self {
            tcp,
            seen: Vec::new(),
        }
    }

    /// Connects from another of this machine's loopback addresses. The proxy may reset the connection at once.
    pub(crate) async fn open_from(from: &str, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4().expect("a socket");
        let from = from.parse().expect("an address");
        let bound = socket.bind(SocketAddr::new(from, 0));
        bound.expect("all of 127.0.0.0/8 is this machine's");
        Ok(Self {
            tcp: socket.connect(address).await?,
            seen: Vec::new(),
        })
    }

    /// Closes the sending side, and keeps reading.
    pub(crate) async fn half_close(&mut self) {
        self.tcp.shutdown().await.expect("the connection lasts");
    }

    /// Resets the connection, as a crashed caller does, or a firewall in between.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.tcp);
        let set = socket.set_linger(Some(Duration::ZERO));
        set.expect("a connected socket");
    }

    /// Writes as much as possible to a peer that may have closed the connection.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tcp.write_all(bytes).await
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.tcp
            .write_all(bytes.as_ref())
            .await
            .expect("the proxy reads");
    }

    /// The next answer. It must have a Content-Length.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("the connection lasts")
    }

    /// Like `answer`, unless the connection ends before the answer begins.
    pub(crate) async fn try_answer(&mut self) -> Option<Answer> {
        let end = loop {
            match self.seen.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => break at,
                None if self.try_more().await => {}
                None => return None,
            }
        };
        let head = String::from_utf8(self.seen.drain(..end + 4).collect()).expect("text");
        let (first, lines) = head.split_once("\r\n").expect("a status line");
        let headers: HeaderMap = lines
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| {
                let name: HeaderName = name.parse().expect("a header name");
                (name, HeaderValue::from_str(value).expect("a header value"))
            })
            .collect();
        let status = first
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let length = headers.get("content-length").map_or(0, |length| {
            let length = length.to_str().expect("digits");
            length.parse().expect("a number")
        });
        while self.seen.len() < length {
            self.more().await;
        }
        Some(Answer {
            status: status.expect("a status"),
            headers,
            body: self.seen.drain(..length).collect::<Vec<u8>>().into(),
        })
    }

    /// The next frame of HTTP/2: its type, flags, stream and payload.
    pub(crate) async fn frame(&mut self) -> (u8, u8, u32, Vec<u8>) {
        while self.seen.len() < 9 {
            self.more().await;
        }
        let head: Vec<u8> = self.seen.drain(..9).collect();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        while self.seen.len() < length {
            self.more().await;
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        (
            head[3],
            head[4],
            stream,
            self.seen.drain(..length).collect(),
        )
    }

    /// All bytes up to the end of the connection, or the connection's error.
    pub(crate) async fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.seen);
        timeout(PATIENCE, self.tcp.read_to_end(&mut rest))
            .await
            .expect("the proxy closes the connection")?;
        Ok(rest)
    }

    /// Whether an answer has begun or the connection has ended.
    pub(crate) fn is_answered(&mut self) -> bool {
        let ended = match self.tcp.try_read_buf(&mut self.seen) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        ended || !self.seen.is_empty()
    }

    async fn more(&mut self) {
        let more = self.try_more().await;
        assert!(more, "closed after {} bytes", self.seen.len());
    }

    /// Whether more bytes arrived.
    async fn try_more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.tcp.read_buf(&mut self.seen)).await;
        let read = read.expect("the proxy answers");
        read.is_ok_and(|bytes| bytes > 0)
    }
}
