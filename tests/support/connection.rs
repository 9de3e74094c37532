//! A client's connection over HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Answer, PATIENCE};

/// Sends a call to an instance that shares its limits in a store, on a connection of its own; again while the instance has
/// none. A machine that stalls for a second ends the store's loans of limits, and until the next ones calls are refused
/// before their stamps are used.
pub(crate) async fn send_to_instance(
    address: SocketAddr,
    request: &Request<Full<Bytes>>,
) -> Answer {
    let began = Instant::now();
    loop {
        let answer = Connection::open(address).await.send(request.clone()).await;
        let is_late = answer.refusal() == Some("store_unavailable");
        if !is_late || began.elapsed() > PATIENCE {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The stream under HTTP: TCP, or TLS over TCP.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

pub(crate) struct Connection(http1::SendRequest<Full<Bytes>>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(dial(address).await).await
    }

    /// Speaks HTTP/1.1 on an open stream.
    pub(crate) async fn over(stream: impl Stream) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .expect("an HTTP/1.1 connection");
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Answer> {
        self.0.ready().await?;
        collect(self.0.send_request(request).await?).await
    }
}

/// A connection that speaks HTTP/2 from its first byte. Clones share it.
#[derive(Clone)]
pub(crate) struct Http2(http2::SendRequest<Full<Bytes>>);

impl Http2 {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(dial(address).await).await
    }

    /// Speaks HTTP/2 on an open stream.
    pub(crate) async fn over(stream: impl Stream) -> Self {
        let io = TokioIo::new(stream);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .expect("an HTTP/2 connection");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Whether the connection has ended, or the peer has announced its end.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Sends a request as HTTP/2 writes it: with its host in the target.
    pub(crate) async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Answer {
        let host = request.headers_mut().remove("host").expect("it has a host");
        let host = host.to_str().expect("a host is text");
        *request.uri_mut() =
            Uri::try_from(format!("http://{host}{}", request.uri())).expect("a good target");
        self.send_as_it_is(request).await
    }

    /// Sends a request unchanged: its target may lack the host.
    pub(crate) async fn send_as_it_is(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.0.ready().await.expect("the connection is open");
        let response = self.0.send_request(request).await.expect("an answer");
        collect(response).await.expect("a whole answer")
    }
}

async fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address)
        .await
        .expect("the listener accepts")
}

async fn collect(response: http::Response<hyper::body::Incoming>) -> hyper::Result<Answer> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    })
}
