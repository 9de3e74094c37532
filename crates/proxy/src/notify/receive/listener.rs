//! Listener: the connections on which GatePay calls. HTTP/1.1, over TLS or behind a proxy that has it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use gatepay_tenancy::notifications::NotificationSettings;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::notify::receive::caller_shares::{CallerConnection, CallerShares};
use crate::notify::receive::log_budget::LogBudget;
use crate::notify::receive::meters::ReceptionMeters;
use crate::notify::receive::notification_exchange::{
    BODY_BYTES, BODY_WITHIN, NotificationExchange,
};
use crate::notify::receive::reception;
use crate::process::clock::Clock;
use crate::process::drain::{Drain, DrainPhase, RunningGuard};
use crate::tls::certificate::ListenerIdentity;

/// The most connections: GatePay is one caller, and each call is short. One address may hold a part of them.
pub const CONNECTIONS: usize = 256;
/// How long a TLS handshake and a request's head may take, and a connection may idle.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// The largest head, and the most lines of it.
pub const HEAD: usize = 16 << 10;
const HEAD_LINES: usize = 64;
/// How long a connection serves new requests.
const LIFETIME: Duration = Duration::from_mins(5);
/// How long the last request of a connection may take: its head, its body, its commit and the answer.
const LAST_REQUEST: Duration = HEAD_WITHIN
    .saturating_add(BODY_WITHIN)
    .saturating_add(reception::WITHIN)
    .saturating_add(Duration::from_secs(5));
/// How long accepting pauses after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The listener for notifications.
pub struct NotificationListener {
    /// The settings.
    pub settings: Arc<NotificationSettings>,
    /// The TLS identity; without it connections are plain text.
    pub identity: Option<Arc<ListenerIdentity>>,
    /// Answers each call.
    pub exchange: Arc<NotificationExchange>,
    /// The process's clock.
    pub clock: Clock,
    /// The process's drain.
    pub drain: Arc<Drain>,
    /// The metrics.
    pub meters: ReceptionMeters,
}

impl NotificationListener {
    /// Accepts connections until the process takes no new ones.
    pub async fn run(self, socket: TcpListener) {
        let (listener, errors) = (Arc::new(self), LogBudget::default());
        let shares = CallerShares::new(CONNECTIONS, BODY_BYTES);
        loop {
            let accepted = tokio::select! {
                () = listener.drain.reached(DrainPhase::Finishing) => return,
                accepted = socket.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(left_out) = errors.line(listener.clock.elapsed()) {
                        tracing::warn!(%error, left_out, "a connection for notifications cannot be accepted");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let address = peer.ip().to_canonical();
            let allowed = Some(address).filter(|address| listener.settings.allows_caller(*address));
            let Some(caller) = allowed.and_then(|address| shares.connection(address)) else {
                listener.meters.refused_connections.inc();
                continue;
            };
            let listener = Arc::clone(&listener);
            tokio::spawn(async move {
                tokio::select! {
                    () = listener.connection(tcp, &caller) => {}
                    () = caller.evicted() => listener.meters.refused_connections.inc(),
                }
            });
        }
    }

    async fn connection(&self, tcp: TcpStream, caller: &CallerConnection) {
        let acceptor = self.identity.as_ref().map(|identity| identity.acceptor());
        match acceptor {
            None => self.serve(tcp, caller).await,
            Some(acceptor) => {
                if let Some(tls) = handshake(&acceptor, tcp).await {
                    self.serve(tls, caller).await;
                }
            }
        }
    }

    /// Serves a connection to its end. Once it is old or the process ends, the request under way is the last one.
    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin, caller: &CallerConnection) {
        let service = service_fn(|request| async {
            let _running = RunningGuard::begin(&self.drain);
            Ok::<_, Infallible>(self.exchange.answer(request, caller).await)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD)
            .max_headers(HEAD_LINES)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // An error is ignored: usually the peer has left.
            _ = connection.as_mut() => return,
            () = self.drain.reached(DrainPhase::Finishing) => {}
            () = sleep(LIFETIME) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ended = timeout(LAST_REQUEST, connection).await;
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    match timeout(HEAD_WITHIN, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => Some(tls),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection for notifications ended in its handshake");
            None
        }
        Err(_) => None,
    }
}
