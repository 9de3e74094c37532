//! Client: one request and its answer on a connection of its own, as a tenant sends it. Used by the commands `call`,
//! `check` and `demo`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gatepay_http1::{request_encoder, wire_lines};
use http::{Method, Request, Response};
use tokio::time::Instant;

use crate::upstream::connect::{ConnectError, UpstreamConnector};
use crate::upstream::connection::ExchangeError;
use crate::upstream::meters::UpstreamMeters;
use crate::upstream::pool::{Pool, PoolLimits};
use crate::upstream::wait_line::LineClaim;

/// Why there is no whole answer. "Nothing was sent" and "sent, outcome unknown" are different facts.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There was no connection: nothing was sent.
    #[error(transparent)]
    NotSent(#[from] ConnectError),
    /// Something may have been sent.
    #[error("{0}")]
    Lost(String),
}

/// Sends a request once and reads the whole answer, both within `timeout`.
pub async fn send(
    upstream: UpstreamConnector,
    request: Request<Bytes>,
    timeout: Duration,
) -> Result<Response<Bytes>, CallError> {
    // A pool needs meters; these are never scraped.
    let meters = UpstreamMeters::unscraped();
    let limits = PoolLimits {
        connections: 1,
        idle: 0,
        idle_timeout: Duration::ZERO,
    };
    let pool = Pool::new(Arc::new(upstream), Arc::new(meters), limits);
    exchange(&pool, &request, timeout).await
}

/// Sends a request once, on a new connection of this pool, and reads the whole answer.
pub async fn exchange(
    pool: &Pool,
    request: &Request<Bytes>,
    timeout: Duration,
) -> Result<Response<Bytes>, CallError> {
    let deadline = Instant::now() + timeout;
    let mut pooled = pool.connect(LineClaim::OWN, deadline).await?.pooled;
    let connection = &mut pooled.connection;
    let exchange = async {
        let head = connection
            .ask(
                &mut |head: &mut Vec<u8>| write(request, head),
                |_| true,
                deadline,
            )
            .await?;
        let mut body = BytesMut::new();
        while let Some(piece) = connection.piece().await? {
            body.extend_from_slice(&piece);
        }
        Ok(head.with(body.freeze()))
    };
    exchange.await.map_err(|broken| {
        CallError::Lost(match broken {
            ExchangeError::Late => format!("no whole answer within {} ms", timeout.as_millis()),
            broken => broken.to_string(),
        })
    })
}

fn write(request: &Request<Bytes>, head: &mut Vec<u8>) -> Bytes {
    let (method, uri) = (request.method(), request.uri());
    request_encoder::write_request_line(head, method.as_str(), uri.path(), uri.query());
    for (name, value) in request.headers() {
        wire_lines::write(head, name, value.as_bytes());
    }
    let body = request.body();
    request_encoder::write_end(head, body.len(), method == Method::POST);
    body.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_tenancy::settings::UpstreamUrl;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Sends a request to a server that reads it and then writes `answer`.
    async fn sent_to(
        answer: &'static [u8],
        timeout: Duration,
    ) -> Result<Response<Bytes>, CallError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = async move {
            let mut stream = listener.accept().await.unwrap().0;
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(answer).await.unwrap();
            if answer.is_empty() {
                // Sends no byte and keeps the connection open.
                std::future::pending::<()>().await;
            }
        };
        let upstream =
            UpstreamConnector::new(UpstreamUrl::parse(&url).unwrap(), None, timeout).unwrap();
        tokio::spawn(server);
        send(upstream, Request::new(Bytes::new()), timeout).await
    }

    #[tokio::test]
    async fn a_whole_answer_is_returned() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let answer = sent_to(answer, Duration::from_secs(5)).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.body()[..]),
            (200, &b"{}"[..])
        );
    }

    #[tokio::test]
    async fn half_an_answer_and_silence_are_lost() {
        let half = sent_to(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            Duration::from_secs(5),
        )
        .await;
        assert!(matches!(half, Err(CallError::Lost(_))));
        let silence = sent_to(b"", Duration::from_millis(50)).await;
        assert_eq!(
            silence.unwrap_err().to_string(),
            "no whole answer within 50 ms"
        );
    }

    #[tokio::test]
    async fn where_nothing_listens_nothing_is_sent() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let upstream = UpstreamConnector::new(
            UpstreamUrl::parse(&format!("http://{free}")).unwrap(),
            None,
            Duration::from_secs(5),
        )
        .unwrap();
        let refused = send(upstream, Request::new(Bytes::new()), Duration::from_secs(5)).await;
        assert!(matches!(
            refused,
            Err(CallError::NotSent(ConnectError::Connect(_)))
        ));
    }
}
