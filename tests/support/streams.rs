//! An HTTP/2 client that can delay parts of a request.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use gatepay_proxy::process::clock::Clock;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::Uri;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::Stream;
use super::{Answer, Call, PATIENCE};

/// A connection on which streams are opened one by one.
#[derive(Clone)]
pub(crate) struct Streams(SendRequest<Bytes>);

/// A stream whose head was sent.
pub(crate) struct OpenStream {
    /// The sending side of the stream, for the body.
    pub(crate) body: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Streams {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await;
        Self::over(tcp.expect("the listener accepts")).await
    }

    /// Speaks HTTP/2 on an open byte stream.
    pub(crate) async fn over(stream: impl Stream) -> Self {
        let (sender, connection) = client::handshake(stream)
            .await
            .expect("an HTTP/2 connection");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends the head of a call. The caller sends the body, unless the head ends the stream.
    pub(crate) async fn begin(&self, call: &Call, clock: &Clock, is_all: bool) -> OpenStream {
        let (mut head, _) = call.request(clock).into_parts();
        let host = head.headers.remove("host").expect("it has a host");
        let host = host.to_str().expect("a host is text");
        let target = format!("http://{host}{}", head.uri);
        head.uri = Uri::try_from(target).expect("a good target");
        let request = http::Request::from_parts(head, ());
        let mut sender = self.0.clone().ready().await.expect("it is open");
        let (response, body) = sender.send_request(request, is_all).expect("a stream");
        OpenStream { body, response }
    }
}

impl OpenStream {
    /// The status of the next informational answer, or `None` once the final answer follows.
    pub(crate) async fn informed(&mut self) -> Option<u16> {
        let informed = poll_fn(|cx| self.response.poll_informational(cx));
        let informed = timeout(PATIENCE, informed).await.expect("it is answered");
        informed.map(|answer| answer.expect("the stream lasts").status().as_u16())
    }

    /// The final answer, and the sending side, which shows a reset of the stream.
    pub(crate) async fn answer(self) -> (Answer, SendStream<Bytes>) {
        let answer = self.try_answer().await;
        answer.expect("the stream lasts")
    }

    /// Like `answer`, unless the stream ends first.
    pub(crate) async fn try_answer(self) -> Result<(Answer, SendStream<Bytes>), h2::Error> {
        let answering = async {
            let (head, mut receive) = self.response.await?.into_parts();
            let mut body = BytesMut::new();
            while let Some(piece) = receive.data().await {
                let piece = piece?;
                receive.flow_control().release_capacity(piece.len())?;
                body.extend_from_slice(&piece);
            }
            let answer = Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.freeze(),
            };
            Ok((answer, self.body))
        };
        timeout(PATIENCE, answering).await.expect("it is answered")
    }
}

/// Sends these many bytes of a body as fast as the window allows. Returns the reason of an early reset, if any.
pub(crate) async fn send(body: &mut SendStream<Bytes>, mut bytes: usize) -> Option<Reason> {
    while bytes > 0 {
        body.reserve_capacity(bytes.min(16 * 1024));
        let room = poll_fn(|cx| body.poll_capacity(cx));
        let room = timeout(PATIENCE, room).await.expect("it is taken");
        match room {
            Some(Ok(room)) => {
                bytes -= room.min(bytes);
                let sent = body.send_data(vec![b'x'; room].into(), bytes == 0);
                sent.expect("there is room");
            }
            Some(Err(error)) => return error.reason(),
            None => return Some(reset(body).await),
        }
    }
    None
}

/// Why a stream was reset.
pub(crate) async fn reset(body: &mut SendStream<Bytes>) -> Reason {
    let reason = timeout(PATIENCE, poll_fn(|cx| body.poll_reset(cx))).await;
    reason.expect("it is reset").expect("the connection lasts")
}
