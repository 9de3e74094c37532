//! A fast upstream that counts how often it received each call of a [`Load`](super::Load).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::background::Background;

/// The upstream; it ends when this value is dropped.
pub(crate) struct Counting {
    counts: Arc<[AtomicU8]>,
    background: Background,
}

impl Counting {
    /// Starts for calls numbered from 0 to `calls`.
    pub(crate) fn start(calls: usize) -> Self {
        let counts: Arc<[AtomicU8]> = (0..calls).map(|_| AtomicU8::new(0)).collect();
        let kept = Arc::clone(&counts);
        Self {
            counts,
            background: Background::serve(move |listener| accept(listener, kept)),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.background.address)
    }

    /// How many calls arrived this number of times.
    pub(crate) fn got(&self, times: u8) -> usize {
        let counts = self.counts.iter();
        counts
            .filter(|count| count.load(Ordering::Relaxed) == times)
            .count()
    }
}

async fn accept(listener: TcpListener, counts: Arc<[AtomicU8]>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            let service = service_fn(|request| count(request, &counts));
            // The proxy, not this upstream, has to notice a broken connection.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(tcp), service)
                .await;
        });
    }
}

async fn count(
    request: Request<Incoming>,
    counts: &[AtomicU8],
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    let body = body.map_or(Bytes::new(), http_body_util::Collected::to_bytes);
    if let Some(number) = number(&body) {
        counts[number].fetch_add(1, Ordering::Relaxed);
    }
    let answer =
        br#"{"status":"SUCCESS","code":"000000","errorMessage":"","data":{"prepayId":"1"}}"#;
    Ok(Response::new(Full::new(Bytes::from_static(answer))))
}

/// The digits after `"L-`.
fn number(body: &[u8]) -> Option<usize> {
    let at = body.windows(3).position(|three| three == b"\"L-")? + 3;
    let digits = body[at..].split(|byte| !byte.is_ascii_digit()).next()?;
    str::from_utf8(digits).ok()?.parse().ok()
}
