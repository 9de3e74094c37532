//! Admin: metrics, health, version and reload, on a listener of their own, never on the tenants' address.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::{SecretKey, SigningKey, query_text};
use gatepay_tenancy::facts::{self, Facts};
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::app::{App, Readiness};
use crate::reload::{State, Verdict};
use crate::signer::Switch;
use crate::{roster, rows, status};

/// Scrapes and probes are few; more than this at once is a fault or an attack.
const CONNECTIONS: usize = 64;
const TEXT: &str = "text/plain; charset=utf-8";

type Answer = Response<Full<Bytes>>;

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
                let app = Arc::clone(&app);
                async move { Ok::<_, Infallible>(answer(&app, &request).await) }
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

async fn answer(app: &Arc<App>, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    // Known by everybody who watches it: no secrets, and nothing to change.
    if let Some(open) = open(app, path).await {
        return match *request.method() {
            Method::GET => open,
            _ => text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET is answered here\n",
            ),
        };
    }
    if let Some(refusal) = forbidden(app, request) {
        // Guessing a token takes its time.
        sleep(Duration::from_millis(100)).await;
        return refusal;
    }
    match (request.method(), path) {
        (&Method::GET, "/status") => {
            aside(app, |app| json(StatusCode::OK, &app.looks.look(app))).await
        }
        (&Method::GET, "/operations") => {
            let generation = app.generation.load();
            let rows = generation.catalogue.rows().iter();
            json(StatusCode::OK, &rows.map(rows::object).collect::<Vec<_>>())
        }
        (&Method::GET, "/tenants") => tenants(app, request.uri().query()),
        (&Method::GET, path) if let Some(id) = path.strip_prefix("/tenants/") => {
            let generation = app.generation.load();
            match roster::named(&generation, id, app.clock.unix_ms()) {
                Some(one) => json(StatusCode::OK, &one),
                None => text(StatusCode::NOT_FOUND, "nobody has this id\n"),
            }
        }
        (&Method::GET, "/config") => config(app),
        (&Method::GET, "/institution") => {
            let generation = app.generation.load();
            json(StatusCode::OK, &app.signer.state(&generation.institution))
        }
        (&Method::POST, "/-/institution/switch") => switch(app, request.uri().query()).await,
        (_, "/-/institution/switch") => text(
            StatusCode::METHOD_NOT_ALLOWED,
            "POST has another credential of the institution's sign\n",
        ),
        (&Method::GET, "/-/registry") => aside(app, registry).await,
        (_, "/-/registry") => text(
            StatusCode::METHOD_NOT_ALLOWED,
            "GET says what is at work, for check --against running\n",
        ),
        (&Method::GET, "/-/reload") => json(StatusCode::OK, &app.reload.state()),
        (&Method::POST, "/-/reload") => reload(app, request.uri().query()).await,
        (_, "/-/reload") => text(
            StatusCode::METHOD_NOT_ALLOWED,
            "GET says how the files and what is at work compare, POST reloads\n",
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /live, /ready, /version, /, /status, /operations, /tenants, /config, /institution, \
             /-/reload, /-/registry and /-/institution/switch\n",
        ),
    }
}

/// What answers to everybody, on any address.
async fn open(app: &Arc<App>, path: &str) -> Option<Answer> {
    Some(match path {
        "/metrics" => aside(app, metrics).await,
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" => ready(app.readiness()),
        "/version" => text(
            StatusCode::OK,
            concat!("gatepay-proxy ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
        // It has no figures of its own: it asks for them, with the token if there is one.
        "/" if app.settings.admin.token.is_some() || is_local(app) => page(),
        _ => return None,
    })
}

fn ready(readiness: Readiness) -> Answer {
    match readiness {
        Readiness::Ready => text(StatusCode::OK, "ready\n"),
        Readiness::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        Readiness::Starting => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "starting: waiting for stamps of the run before to go stale\n",
        ),
        Readiness::Stalled(stalled) => answer_of(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            format!("stalled: {stalled}\n").into(),
        ),
    }
}

/// What Prometheus scrapes.
fn metrics(app: &App) -> Answer {
    let metrics = &app.metrics;
    let ready = app.readiness() == Readiness::Ready;
    metrics.ready.set(i64::from(ready));
    let number = |entries| i64::try_from(entries).unwrap_or(i64::MAX);
    metrics.replay_entries.set(number(app.replay.entries()));
    metrics
        .replay_entries_limit
        .set(number(app.replay.capacity()));
    metrics.limits.stands(&app.quota.view());
    let generation = app.generation.load_full();
    for lane in generation.lanes() {
        lane.meters().limits.stands(|| lane.view());
    }
    let pushed_back = generation
        .lanes()
        .filter(|lane| lane.pushed_back_to().is_some());
    metrics.limits.pushed_back(pushed_back.count());
    let own = app.settings.metrics.own(&generation.registry);
    let scrape = metrics.scrape(&generation, &own);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    answer_of(StatusCode::OK, kind, scrape.into())
}

/// Whether only this machine reaches the listener.
fn is_local(app: &App) -> bool {
    app.settings.admin.address.ip().is_loopback()
}

/// The status page, which may fetch from here, and run and load nothing else.
fn page() -> Answer {
    let body = Bytes::from_static(status::PAGE.as_bytes());
    let mut page = answer_of(StatusCode::OK, "text/html; charset=utf-8", body);
    let lines = page.headers_mut();
    lines.insert(header::CONTENT_SECURITY_POLICY, status::POLICY.clone());
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        lines.insert(name, HeaderValue::from_static(value));
    }
    page
}

/// Why somebody may not see and do the rest. With the token they may if there is one, else on this machine only.
fn forbidden(app: &App, request: &Request<Incoming>) -> Option<Answer> {
    let admin = &app.settings.admin;
    let headers = request.headers();
    let Some(token) = &admin.token else {
        if !is_local(app) {
            return Some(text(
                StatusCode::FORBIDDEN,
                "this answers on a loopback address, or with admin.token\n",
            ));
        }
        // No operator's tool sends it. A page in a browser on this machine is nobody who may ask, but for our own.
        let browser =
            headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
        let browser = browser && !(request.method() == Method::GET && is_own_page(headers));
        return browser.then(|| text(StatusCode::FORBIDDEN, "this is not for browsers\n"));
    };
    let presented = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, presented)| SecretKey::new(Zeroizing::new(presented.to_owned())).ok());
    if presented.is_some_and(|presented| SigningKey::new(&presented).same_secret(token)) {
        return None;
    }
    let mut refusal = text(
        StatusCode::UNAUTHORIZED,
        "say Authorization: Bearer and what admin.token holds\n",
    );
    let challenge = HeaderValue::from_static("Bearer");
    refusal
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    Some(refusal)
}

/// Whether a browser asks for the page that came from here, or somebody typed the address: not for a page of somebody
/// else's, and not under a name that somebody else made lead here.
fn is_own_page(headers: &HeaderMap) -> bool {
    let says = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = says("host").and_then(|host| host.parse::<Authority>().ok());
    let local = host.is_some_and(|host| {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        name == "localhost"
            || name
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    });
    local
        && !headers.contains_key(header::ORIGIN)
        && matches!(says("sec-fetch-site"), Some("same-origin" | "none"))
}

async fn switch(app: &App, query: Option<&str>) -> Answer {
    let Some(client_id) = query.and_then(|query| query.strip_prefix("client_id=")) else {
        return text(
            StatusCode::BAD_REQUEST,
            "say client_id=, and nothing else\n",
        );
    };
    // A client id is any visible characters; a client that writes queries escapes most of them.
    let client_id = query_text(client_id).into_owned();
    let Some(switch) = app.signer.ask(client_id).await else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "another switch is under way, or this process is ending\n",
        );
    };
    let status = match switch {
        Switch::Switched | Switch::Unchanged => StatusCode::OK,
        Switch::Unknown => StatusCode::NOT_FOUND,
        Switch::Failed(_) => StatusCode::BAD_GATEWAY,
    };
    json(status, &switch)
}

/// What is in force, defaults included, and no secret. Tenants and operations are asked for by themselves.
fn config(app: &App) -> Answer {
    #[derive(Serialize)]
    struct Config<'a> {
        hash: Option<String>,
        settings: Facts,
        /// What `proxy.toml` says of that itself.
        written: &'a Facts,
        /// Keys that say something else by now, which waits for the next start.
        restart: BTreeSet<String>,
        institution: Facts,
    }
    let generation = app.generation.load();
    let State { hash, restart, .. } = app.reload.state();
    let config = Config {
        hash,
        settings: app.reload.settings(),
        written: &generation.written,
        restart,
        institution: facts::of_institution(&generation.institution),
    };
    json(StatusCode::OK, &config)
}

fn tenants(app: &App, query: Option<&str>) -> Answer {
    let after = query.map(|query| query.strip_prefix("after="));
    if after == Some(None) {
        return text(
            StatusCode::BAD_REQUEST,
            "say ?after= and the last id you have, or nothing\n",
        );
    }
    let generation = app.generation.load();
    let (now, since) = (app.clock.unix_ms(), app.began_ms);
    match roster::page(&generation, after.flatten(), now, since) {
        Some(page) => json(StatusCode::OK, &page),
        None => text(StatusCode::NOT_FOUND, "nobody has the id after=\n"),
    }
}

async fn reload(app: &App, query: Option<&str>) -> Answer {
    let confirm = match query {
        None | Some("") => None,
        Some(query) => match query.strip_prefix("confirm=") {
            Some(hash) => Some(hash.to_owned()),
            None => return text(StatusCode::BAD_REQUEST, "the only parameter is confirm\n"),
        },
    };
    let Some(answer) = app.reload.now(confirm).await else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "this process does not watch its files, or is ending\n",
        );
    };
    let status = match answer.result {
        Verdict::Applied | Verdict::Unchanged => StatusCode::OK,
        Verdict::Failed => StatusCode::UNPROCESSABLE_ENTITY,
        Verdict::Waiting => StatusCode::CONFLICT,
        Verdict::Unsettled => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &answer)
}

/// What is at work, as one side of a plan: no secrets.
fn registry(app: &App) -> Answer {
    json(StatusCode::OK, &app.generation.load_full().side())
}

/// Answers on a thread of its own: of a hundred thousand tenants that is some megabytes, which must not hold up the clock's
/// and the drain's thread.
async fn aside(app: &Arc<App>, answer: fn(&App) -> Answer) -> Answer {
    let app = Arc::clone(app);
    let told = tokio::task::spawn_blocking(move || answer(&app)).await;
    told.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "it could not be told\n"))
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut body = serde_json::to_vec(value).expect("its keys are texts");
    body.push(b'\n');
    answer_of(status, "application/json", body.into())
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    let body = Bytes::from_static(body.as_bytes());
    answer_of(status, TEXT, body)
}

fn answer_of(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
