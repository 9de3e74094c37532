//! Admin: metrics, health, version, reload and the kill switch, on a separate listener, never on the tenants' address.

mod approvals;
mod approver_count;
mod cap_raise;
mod cap_view;
mod cluster_view;
mod find;
mod gate;
mod halt;
mod isolation;
mod last_hour;
mod log;
mod notification_acts;
mod notification_endpoints;
mod notification_order;
mod notification_view;
pub mod operation_list;
mod places;
mod query_fields;
mod reply;
mod statement_page;
pub mod status;
mod status_report;
mod suspend;
pub mod tenant_list;
mod test_notification;
mod trouble;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::query_text;
use gatepay_http1::content_coding;
use gatepay_tenancy::{ConfigFacts, facts};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::sleep;

use self::approvals::Decision;
use self::gate::{AdminDenial, AdminGate};
use self::places::{AdminConnections, AdminSlot, ObservedStream};
use self::reply::{AdminResponse, answer_of, answer_text, json, text};
use self::suspend::AdminActor;
use crate::admin::status::SnapshotHistory;
use crate::app::{App, Readiness};
use crate::cluster::ClusterReadiness;
use crate::generation::reload_status::{ReloadResult, ReloadState};
use crate::upstream::credential_rotation::SwitchResult;

/// The size limit in bytes of a request head and of an answer's write buffer.
const BUFFER: usize = 64 << 10;

/// Hands the suspensions that this process keeps by itself to the store that instances share, once it answers.
pub async fn hand_suspensions_to_store(app: &Arc<App>) {
    suspend::hand_to_store(app).await;
}

/// Answers admin requests until the runtime ends.
pub async fn serve(app: Arc<App>, listener: TcpListener) {
    let places = Arc::new(AdminConnections::new());
    let history = Arc::new(SnapshotHistory::default());
    tokio::spawn(Arc::clone(&history.hour).keep(Arc::clone(&app)));
    // The process's parent may have bound the socket, to another address than `admin.address`.
    let bound = listener.local_addr();
    let is_local = bound.is_ok_and(|bound| bound.ip().to_canonical().is_loopback());
    let gate = Arc::new(AdminGate { is_local });
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an admin connection was not accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(guard) = places.take(peer.ip()) else {
            continue;
        };
        let (app, places, gate) = (Arc::clone(&app), Arc::clone(&places), Arc::clone(&gate));
        let history = Arc::clone(&history);
        tokio::spawn(async move {
            let slot = Arc::clone(guard.slot());
            let exchange = |request| {
                let (app, places, gate) =
                    (Arc::clone(&app), Arc::clone(&places), Arc::clone(&gate));
                let (slot, history) = (Arc::clone(guard.slot()), Arc::clone(&history));
                let peer = peer.ip().to_canonical();
                async move {
                    slot.request_begun();
                    let answer =
                        answer(&app, &history, &gate, &places, (&slot, peer), &request).await;
                    slot.answer_ready();
                    answer
                }
            };
            connection(tcp, slot, exchange).await;
        });
    }
}

/// Serves one connection until it ends, until another connection needs its slot, or until its deadline.
async fn connection<S, F>(
    stream: S,
    slot: Arc<AdminSlot>,
    exchange: impl Fn(Request<Incoming>) -> F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = AdminResponse>,
{
    let stream = ObservedStream {
        stream,
        slot: Arc::clone(&slot),
    };
    let service = service_fn(|request| {
        let answer = exchange(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        // The deadline for the whole exchange covers the head as well.
        .header_read_timeout(None)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An error is ignored: usually the peer has left early.
        _ = connection => {}
        () = slot.ends() => {}
    }
}

async fn answer(
    app: &Arc<App>,
    history: &Arc<SnapshotHistory>,
    gate: &AdminGate,
    places: &AdminConnections,
    (slot, peer): (&AdminSlot, IpAddr),
    request: &Request<Incoming>,
) -> AdminResponse {
    let path = request.uri().path();
    let method = match request.method() {
        // hyper omits the body of an answer to HEAD.
        &Method::HEAD => &Method::GET,
        method => method,
    };
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        return refusal(AdminDenial::Malformed).await;
    }
    // Monitoring asks for these under any name. They hold no secrets, change nothing and cost nothing.
    if let Some(probe) = probe(app, path) {
        return only_get(method).unwrap_or(probe);
    }
    let _admitted = places.admit(slot, method != Method::GET).await;
    if path == "/metrics" {
        if let Some(refusal) = only_get(method) {
            return refusal;
        }
        let in_gzip = takes_gzip(request.headers());
        return on_blocking_thread(app, move |app| metrics(app, in_gzip)).await;
    }
    let admin = &app.settings.admin;
    if path == "/" {
        return match gate.denies_page(request, admin) {
            Some(denied) => refusal(denied).await,
            None => only_get(method).unwrap_or_else(page),
        };
    }
    let name = match gate.admits(request, admin) {
        Ok(name) => name,
        Err(denied) => return refusal(denied).await,
    };
    let query = request.uri().query();
    match ACTIONS.iter().find(|action| **action == path) {
        Some(action) if method == Method::POST => {
            let actor = AdminActor { name, peer };
            let answer = act(app, action, query, actor.clone()).await;
            tracing::info!(
                operator = %actor.name, %peer, path = action, status = answer.status().as_u16(), "admin action"
            );
            answer
        }
        _ => look(app, history, (method, path), query).await,
    }
}

/// The description of this listener's paths. A test compares it with what the listener answers.
fn description() -> AdminResponse {
    let body = Bytes::from_static(include_bytes!("admin/openapi.json"));
    answer_of(StatusCode::OK, "application/json", body)
}

/// Answers requests that only read.
async fn look(
    app: &Arc<App>,
    history: &Arc<SnapshotHistory>,
    (method, path): (&Method, &str),
    query: Option<&str>,
) -> AdminResponse {
    match (method, path) {
        (&Method::GET, "/status") => {
            let history = Arc::clone(history);
            on_blocking_thread(app, move |app| json(StatusCode::OK, &history.look(app))).await
        }
        (&Method::GET, "/openapi.json") => description(),
        (&Method::GET, "/operations") => {
            let generation = app.generation.load();
            let rows = generation.catalogue.rows().iter();
            json(
                StatusCode::OK,
                &rows.map(operation_list::object).collect::<Vec<_>>(),
            )
        }
        (&Method::GET, "/tenants") => tenants(app, query),
        (&Method::GET, path) if let Some(id) = path.strip_prefix("/tenants/") => {
            let generation = app.generation.load();
            let suspended = app.suspensions();
            match tenant_list::named(&generation, &suspended, id, &app.clock) {
                Some(one) => json(StatusCode::OK, &one),
                None => text(StatusCode::NOT_FOUND, "no tenant or operator has this id\n"),
            }
        }
        (&Method::GET, "/notifications/endpoints") => {
            notification_endpoints::list(app, query).await
        }
        (&Method::GET, "/notifications") => notification_view::list(app, query).await,
        (&Method::GET, path) if let Some(id) = path.strip_prefix("/notifications/") => {
            notification_view::one(app, id, query).await
        }
        (&Method::GET, "/ledger") => notification_view::ledger(app, query).await,
        (&Method::GET, "/statements") => statement_page::show(app, query).await,
        (&Method::GET, "/approvals") => approvals::list(app, query).await,
        (&Method::GET, "/find") => find::find(app, query).await,
        (&Method::GET, "/caps") => cap_view::caps(app, query).await,
        (&Method::GET, "/config") => config(app),
        (&Method::GET, "/cluster") => cluster_view::cluster(app),
        (&Method::GET, "/institution") => {
            let generation = app.generation.load();
            json(
                StatusCode::OK,
                &app.upstream
                    .credential_rotation
                    .state(&generation.institution),
            )
        }
        (&Method::GET, "/-/probe/isolation") => isolation::show(app).await,
        (&Method::GET, "/-/halt") => halt::look(app, query),
        (&Method::GET, "/-/log") => log::look(app),
        (&Method::GET, "/-/registry") => on_blocking_thread(app, registry).await,
        (&Method::GET, "/-/reload") => json(StatusCode::OK, &app.lifecycle.reload.state()),
        _ => unsupported(path),
    }
}

/// The answer to a method that the path does not support, or to an unknown path.
fn unsupported(path: &str) -> AdminResponse {
    match path {
        "/-/institution/switch" => not_allowed(
            "POST",
            "POST has another credential of the institution's sign\n",
        ),
        "/-/halt" => not_allowed(
            "GET, HEAD, POST",
            "GET shows the halts, POST with ?scope= halts calls: all, money, payouts or tenant:<id>\n",
        ),
        "/-/halt/end" => not_allowed("POST", "POST with ?scope= ends a halt by POST /-/halt\n"),
        "/-/log" => not_allowed(
            "GET, HEAD, POST",
            "GET shows the level of the program's log, POST with ?level= sets it until the process ends\n",
        ),
        "/-/approvals/approve" | "/-/approvals/reject" => not_allowed(
            "POST",
            "POST with ?id= decides about a call that waits in /approvals\n",
        ),
        "/-/caps/raise" => not_allowed(
            "POST",
            "POST with ?id= has a raise of caps that waits hold at once\n",
        ),
        "/-/suspend" => not_allowed(
            "POST",
            "POST with ?tenant= refuses all calls of a tenant or an operator from now on\n",
        ),
        "/-/resume" => not_allowed(
            "POST",
            "POST with ?tenant= ends a suspension by POST /-/suspend\n",
        ),
        "/-/notifications/assign" => not_allowed(
            "POST",
            "POST with ?id= and &tenant= gives a notification in quarantine to a tenant\n",
        ),
        "/-/notifications/replay" => not_allowed(
            "POST",
            "POST with ?id=, or with ?tenant= and &since=, sends dead notifications again\n",
        ),
        "/-/notifications/test" => not_allowed(
            "POST",
            "POST with ?tenant= sends a test event to the endpoints of a tenant\n",
        ),
        "/-/notifications/enable" => not_allowed(
            "POST",
            "POST with ?tenant= turns the endpoints of a tenant on again\n",
        ),
        "/-/probe/isolation" => not_allowed(
            "GET, HEAD, POST",
            "GET shows the newest results, POST with ?objects= finds out whether GatePay keeps accounts apart\n",
        ),
        "/-/registry" => not_allowed(
            "GET, HEAD",
            "GET returns the configuration in force, for check --against running\n",
        ),
        "/-/reload" => not_allowed(
            "GET, HEAD, POST",
            "GET compares the configuration on disk with the one in force, POST reloads\n",
        ),
        _ => text(StatusCode::NOT_FOUND, PATHS),
    }
}

/// The paths of the admin address.
const PATHS: &str = "there are /metrics, /live, /ready, /version, /, /openapi.json, /status, /operations, /tenants, /config, /cluster, /institution, \
    /notifications, /notifications/endpoints, /ledger, /find, /caps, /approvals, /statements, /-/reload, /-/log, /-/registry, /-/suspend, /-/resume, /-/halt, /-/halt/end, \
    /-/approvals/approve, /-/approvals/reject, /-/caps/raise, \
    /-/notifications/assign, /-/notifications/replay, /-/notifications/test, /-/notifications/enable, \
    /-/probe/isolation and /-/institution/switch\n";

/// The paths at which POST changes or sends something.
const ACTIONS: [&str; 15] = [
    "/-/halt",
    "/-/halt/end",
    "/-/log",
    "/-/approvals/approve",
    "/-/approvals/reject",
    "/-/caps/raise",
    "/-/suspend",
    "/-/resume",
    "/-/notifications/assign",
    "/-/notifications/replay",
    "/-/notifications/test",
    "/-/notifications/enable",
    "/-/probe/isolation",
    "/-/reload",
    "/-/institution/switch",
];

async fn act(
    app: &Arc<App>,
    action: &str,
    query: Option<&str>,
    actor: AdminActor,
) -> AdminResponse {
    match action {
        "/-/halt" => halt::halt(app, query, actor).await,
        "/-/halt/end" => halt::end(app, query, actor).await,
        "/-/log" => log::set(app, query),
        "/-/approvals/approve" => approvals::decide(app, query, (actor, Decision::Approve)).await,
        "/-/approvals/reject" => approvals::decide(app, query, (actor, Decision::Reject)).await,
        "/-/caps/raise" => cap_raise::raise(app, query, actor).await,
        "/-/suspend" => suspend::suspend(app, query, actor).await,
        "/-/resume" => suspend::resume(app, query, actor).await,
        "/-/notifications/assign" => notification_acts::assign(app, query, actor).await,
        "/-/notifications/replay" => notification_acts::replay(app, query, actor).await,
        "/-/notifications/test" => test_notification::test(app, query).await,
        "/-/notifications/enable" => notification_acts::enable(app, query, actor).await,
        "/-/probe/isolation" => isolation::probe(app, query, actor).await,
        "/-/reload" => reload(app, query).await,
        _ => switch(app, query).await,
    }
}

/// The answer to a method that the path does not support.
fn not_allowed(allowed: &'static str, body: &'static str) -> AdminResponse {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, body);
    let allowed = HeaderValue::from_static(allowed);
    answer.headers_mut().insert(header::ALLOW, allowed);
    answer
}

/// The answers that need no turn and no token, on any address.
fn probe(app: &App, path: &str) -> Option<AdminResponse> {
    Some(match path {
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" => ready(app.readiness()),
        "/version" => text(
            StatusCode::OK,
            concat!("gatepay-proxy ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
        _ => return None,
    })
}

/// The answer to a method other than GET.
fn only_get(method: &Method) -> Option<AdminResponse> {
    (method != Method::GET).then(|| not_allowed("GET, HEAD", "only GET is answered here\n"))
}

async fn refusal(denied: AdminDenial) -> AdminResponse {
    match denied {
        AdminDenial::Malformed => text(
            StatusCode::BAD_REQUEST,
            "a request has one Host, in visible ASCII\n",
        ),
        AdminDenial::Address => text(
            StatusCode::FORBIDDEN,
            "this answers on a loopback address, or with a token\n",
        ),
        AdminDenial::Name => text(
            StatusCode::FORBIDDEN,
            "without a token this answers under localhost or a loopback address: the request's Host is another\n",
        ),
        AdminDenial::Browser => text(StatusCode::FORBIDDEN, "this is not for browsers\n"),
        AdminDenial::Token => unproved("Bearer").await,
        AdminDenial::PageToken => unproved("Basic realm=\"the password is the admin token\"").await,
    }
}

async fn unproved(challenge: &'static str) -> AdminResponse {
    // The delay slows the guessing of tokens.
    sleep(Duration::from_millis(100)).await;
    let mut refusal = text(
        StatusCode::UNAUTHORIZED,
        "send Authorization: Bearer with admin.token or an operator's token\n",
    );
    let challenge = HeaderValue::from_static(challenge);
    refusal
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    refusal
}

fn ready(readiness: Readiness) -> AdminResponse {
    match readiness {
        Readiness::Ready => text(StatusCode::OK, "ready\n"),
        Readiness::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        Readiness::Starting => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "starting: waiting for stamps of the run before to go stale\n",
        ),
        Readiness::Cluster(ClusterReadiness::ClockSkew { offset_ms }) => answer_text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("clock: the store's clock is {offset_ms} ms ahead of this machine's\n"),
        ),
        Readiness::Cluster(ClusterReadiness::StaleLists { age }) => answer_text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "lists: the store was asked about lists of destinations {} s ago: money calls with a target are refused\n",
                age.as_secs()
            ),
        ),
        Readiness::Cluster(_) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "store: the store that instances share does not answer\n",
        ),
        Readiness::Stalled(stalled) => answer_text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("stalled: {stalled}\n"),
        ),
    }
}

/// Whether the client accepts an answer in gzip.
fn takes_gzip(lines: &HeaderMap) -> bool {
    let values = lines.get_all(header::ACCEPT_ENCODING).iter();
    content_coding::accepts_gzip(values.map(HeaderValue::as_bytes))
}

/// The metrics in the format that Prometheus scrapes.
fn metrics(app: &App, in_gzip: bool) -> AdminResponse {
    let metrics = &app.metrics;
    let ready = app.readiness() == Readiness::Ready;
    metrics.ready.set(i64::from(ready));
    let number = |entries| i64::try_from(entries).unwrap_or(i64::MAX);
    metrics
        .replay_entries
        .set(number(app.admission.replay.entries()));
    metrics
        .replay_entries_limit
        .set(number(app.admission.replay.capacity()));
    metrics.tenants.limits.show(&app.admission.quota.view());
    let suspensions = &app.admission.tenant_limits.suspensions;
    let meters = &metrics.suspensions;
    meters.count.set(number(app.suspensions().len()));
    meters.unkept.set(suspensions.are_unkept().into());
    metrics.halted.show(&app.halts());
    let (generation, now) = (app.generation.load_full(), app.clock.elapsed());
    for limits in generation.all_tenant_limits() {
        limits.meters().limits.stands(|| {
            let view = limits.view(now);
            [view.share, view.used]
        });
    }
    let pushed_back = generation
        .all_tenant_limits()
        .filter(|limits| limits.pushed_back_to(now).is_some());
    metrics.tenants.limits.pushed_back(pushed_back.count());
    let failing = generation
        .all_tenant_limits()
        .filter(|limits| limits.breaker.is_failing());
    let failing = number(failing.count());
    metrics.upstream.breaker_open_tenants.set(failing);
    let is_open = app.upstream.breaker.is_open();
    metrics.upstream.breaker.is_open.set(is_open.into());
    let own = generation.registry.own_series(&app.settings.metrics);
    let scrape = metrics.scrape(&generation, &own, app.clock.unix_ms());
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let body = if in_gzip {
        content_coding::encoded(&scrape)
    } else {
        scrape
    };
    let mut answer = answer_of(StatusCode::OK, kind, body.into());
    let lines = answer.headers_mut();
    lines.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if in_gzip {
        lines.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

/// The status page. Its policy allows fetches from this listener and its own script and style, and no other load.
fn page() -> AdminResponse {
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

async fn switch(app: &App, query: Option<&str>) -> AdminResponse {
    let Some(client_id) = query.and_then(|query| query.strip_prefix("client_id=")) else {
        return text(
            StatusCode::BAD_REQUEST,
            "say client_id=, and nothing else\n",
        );
    };
    // A client id is any visible characters; clients that build queries escape most of them.
    let client_id = query_text(client_id).into_owned();
    let Some(switch) = app.upstream.credential_rotation.ask(client_id).await else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "another switch is under way, or this process is ending\n",
        );
    };
    let status = match switch {
        SwitchResult::Switched | SwitchResult::Unchanged => StatusCode::OK,
        SwitchResult::Unknown => StatusCode::NOT_FOUND,
        SwitchResult::Failed(_) => StatusCode::BAD_GATEWAY,
    };
    json(status, &switch)
}

/// The configuration in force, with defaults and without secrets. Tenants and operations have their own paths.
fn config(app: &App) -> AdminResponse {
    #[derive(Serialize)]
    struct ConfigurationPage<'a> {
        hash: Option<String>,
        settings: ConfigFacts,
        /// The settings that `proxy.toml` states itself.
        written: &'a ConfigFacts,
        /// Keys that were changed in the file since and take effect at the next start.
        restart: BTreeSet<String>,
        institution: ConfigFacts,
    }
    let generation = app.generation.load();
    let ReloadState { hash, restart, .. } = app.lifecycle.reload.state();
    let config = ConfigurationPage {
        hash,
        settings: app.lifecycle.reload.settings(),
        written: &generation.written,
        restart,
        institution: facts::of_institution(&generation.institution),
    };
    json(StatusCode::OK, &config)
}

fn tenants(app: &App, query: Option<&str>) -> AdminResponse {
    let after = query.map(|query| query.strip_prefix("after="));
    if after == Some(None) {
        return text(
            StatusCode::BAD_REQUEST,
            "say ?after= and the last id you have, or nothing\n",
        );
    }
    let generation = app.generation.load();
    let suspended = app.suspensions();
    match tenant_list::page(
        &generation,
        &suspended,
        after.flatten(),
        &app.clock,
        app.lifecycle.began_ms,
    ) {
        Some(page) => json(StatusCode::OK, &page),
        None => text(
            StatusCode::NOT_FOUND,
            "no tenant or operator has the id in after=\n",
        ),
    }
}

async fn reload(app: &App, query: Option<&str>) -> AdminResponse {
    let confirm = match query {
        None | Some("") => None,
        Some(query) => match query.strip_prefix("confirm=") {
            Some(hash) => Some(hash.to_owned()),
            None => return text(StatusCode::BAD_REQUEST, "the only parameter is confirm\n"),
        },
    };
    let Some(answer) = app.lifecycle.reload.now(confirm).await else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "this process does not watch its files, or is ending\n",
        );
    };
    let status = match answer.result {
        ReloadResult::Applied | ReloadResult::Unchanged => StatusCode::OK,
        ReloadResult::Failed => StatusCode::UNPROCESSABLE_ENTITY,
        ReloadResult::Waiting => StatusCode::CONFLICT,
        ReloadResult::Unsettled => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &answer)
}

/// The running configuration, as one side of a comparison, without secrets.
fn registry(app: &App) -> AdminResponse {
    json(StatusCode::OK, &app.generation.load_full().side())
}

/// Answers on a thread of its own: an answer about a hundred thousand tenants is some megabytes, which must not hold up
/// the thread of the clock and the drain.
async fn on_blocking_thread(
    app: &Arc<App>,
    answer: impl FnOnce(&App) -> AdminResponse + Send + 'static,
) -> AdminResponse {
    let app = Arc::clone(app);
    let answered = tokio::task::spawn_blocking(move || answer(&app)).await;
    answered.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "it could not be told\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::reply::TEXT;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::{Instant, timeout};

    const ASKS: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";

    /// A connection to a service that answers with a megabyte; the future returns the time after which it ended.
    fn serving() -> (DuplexStream, impl Future<Output = Duration>) {
        let (peer, stream) = duplex(1 << 10);
        let places = Arc::new(AdminConnections::new());
        let began = Instant::now();
        let ended = async move {
            let guard = places.take([127, 0, 0, 1].into()).unwrap();
            let exchange = |_| {
                let slot = Arc::clone(guard.slot());
                async move {
                    slot.request_begun();
                    slot.answer_ready();
                    answer_of(StatusCode::OK, TEXT, vec![b'.'; 1 << 20].into())
                }
            };
            connection(stream, Arc::clone(guard.slot()), exchange).await;
            began.elapsed()
        };
        (peer, ended)
    }

    /// Reads one answer to its end.
    async fn reads_an_answer(peer: &mut DuplexStream) {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.push(peer.read_u8().await.unwrap());
        }
        let mut body = vec![0; 1 << 20];
        peer.read_exact(&mut body).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_admin_exchange_takes_at_most_a_minute_however_slow_its_peer_is() {
        let never = std::future::pending::<()>;
        let says_nothing = async |_peer: DuplexStream| never().await;
        let says_half = async |mut peer: DuplexStream| {
            peer.write_all(b"GET /live HT").await.unwrap();
            never().await;
        };
        let dribbles = async |mut peer: DuplexStream| {
            for byte in b"GET /live HTTP/1.1\r\nx: "
                .iter()
                .chain([b'.'; 1_000].iter())
            {
                if peer.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        let never_reads = async |mut peer: DuplexStream| {
            while peer.write_all(ASKS).await.is_ok() {}
        };
        let sips = async |mut peer: DuplexStream| {
            peer.write_all(ASKS).await.unwrap();
            while peer.read_u8().await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        let minute = Duration::from_mins(1);
        let mut ends = Vec::new();
        macro_rules! ended {
            ($peer:expr) => {{
                let (peer, ended) = serving();
                let both = async { tokio::select! { ended = ended => ended, () = async { $peer(peer).await; never().await } => unreachable!() } };
                ends.push(timeout(2 * minute, both).await.expect(stringify!($peer)));
            }};
        }
        ended!(says_nothing);
        ended!(says_half);
        ended!(dribbles);
        ended!(never_reads);
        ended!(sips);
        assert_eq!(ends, [minute; 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_admin_connection_lasts_while_its_peer_sends_requests_and_reads_answers() {
        let (mut peer, ended) = serving();
        let requests = async {
            for _ in 0..100 {
                peer.write_all(ASKS).await.unwrap();
                reads_an_answer(&mut peer).await;
                sleep(Duration::from_secs(59)).await;
            }
            // Then the connection is idle, and after the idle limit it is closed.
            assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
        };
        let (lasted, ()) = tokio::join!(ended, requests);
        assert_eq!(lasted, Duration::from_secs(99 * 59 + 75));
    }
}
