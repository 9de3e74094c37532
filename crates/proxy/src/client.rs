//! One request and its answer on a connection of its own, as a tenant sends it: what `call` is made of.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::Catalogue;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::time::{Instant, timeout_at};

use crate::egress::{ConnectError, Upstream};
use crate::metrics::Metrics;
use crate::pool::Pool;

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
    upstream: Upstream,
    request: Request<Full<Bytes>>,
    timeout: Duration,
) -> Result<Response<Bytes>, CallError> {
    let deadline = Instant::now() + timeout;
    // A pool counts; nobody asks what.
    let metrics = Metrics::new(&Catalogue::standard());
    let pool = Pool::new(Arc::new(upstream), Arc::new(metrics), 1, 0);
    let mut connection = pool.connect(deadline).await?.connection;
    let exchange = async {
        let (head, body) = connection
            .sender()
            .send_request(request)
            .await?
            .into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    };
    match timeout_at(deadline, exchange).await {
        Ok(answered) => answered.map_err(|error: hyper::Error| CallError::Lost(error.to_string())),
        Err(_) => Err(CallError::Lost(format!(
            "no whole answer within {} ms",
            timeout.as_millis()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_tenancy::settings::UpstreamUrl;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Sends to a server that reads one request and then says this much.
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
                // Says nothing, and stays.
                std::future::pending::<()>().await;
            }
        };
        let upstream = Upstream::new(UpstreamUrl::parse(&url).unwrap(), None, timeout).unwrap();
        tokio::spawn(server);
        send(upstream, Request::new(Full::default()), timeout).await
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
        let upstream = Upstream::new(
            UpstreamUrl::parse(&format!("http://{free}")).unwrap(),
            None,
            Duration::from_secs(5),
        )
        .unwrap();
        let refused = send(
            upstream,
            Request::new(Full::default()),
            Duration::from_secs(5),
        )
        .await;
        assert!(matches!(
            refused,
            Err(CallError::NotSent(ConnectError::Connect(_)))
        ));
    }
}
