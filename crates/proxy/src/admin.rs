//! Admin: metrics, health and version, on a listener of their own, never on the tenants' address.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::app::App;
use crate::drain::Phase;

/// Scrapes and probes are few; more than this at once is a fault or an attack.
const CONNECTIONS: usize = 64;

/// Answers until the runtime it runs on ends.
pub async fn serve(app: Arc<App>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&room)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "an admin connection was not accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| {
                let answer = answer(&app, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(tcp), service);
            // Who asks and leaves has not asked for anything that matters.
            let _ = connection.await;
        });
    }
}

fn answer(app: &App, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered here\n",
        );
    }
    match request.uri().path() {
        "/metrics" => {
            let ready = app.drain.phase() == Phase::Serving && !app.is_starting();
            app.metrics.ready.set(i64::from(ready));
            app.metrics
                .replay_entries
                .set(i64::try_from(app.replay.entries()).unwrap_or(i64::MAX));
            app.metrics
                .replay_entries_limit
                .set(i64::try_from(app.replay.capacity()).unwrap_or(i64::MAX));
            app.metrics.limits.stands(&app.quota.view());
            for lane in app.generation.load().lanes() {
                lane.meters.limits.stands(|| lane.view());
            }
            let mut response = Response::new(Full::new(Bytes::from(app.metrics.render())));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" if app.drain.phase() != Phase::Serving => {
            text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        }
        "/ready" if app.is_starting() => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "starting: waiting for stamps of the run before to go stale\n",
        ),
        "/ready" => text(StatusCode::OK, "ready\n"),
        "/version" => text(
            StatusCode::OK,
            concat!("gatepay-proxy ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /live, /ready and /version\n",
        ),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
