//! Listener: the connections on which GatePay calls. HTTP/1.1, over TLS or behind a proxy that has it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepay_tenancy::notifications::NotificationSettings;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::notify::receive::meters::ReceptionMeters;
use crate::notify::receive::notification_exchange::NotificationExchange;
use crate::process::drain::{Drain, DrainPhase, RunningGuard};
use crate::tls::certificate::ListenerIdentity;

/// The most connections: GatePay is one caller, and each call is short.
pub const CONNECTIONS: usize = 256;
/// How long a TLS handshake and a request's head may take, and a connection may idle.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// The largest head, and the most lines of it.
pub const HEAD: usize = 16 << 10;
const HEAD_LINES: usize = 64;
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
    /// The process's drain.
    pub drain: Arc<Drain>,
    /// The metrics.
    pub meters: ReceptionMeters,
}

impl NotificationListener {
    /// Accepts connections until the process takes no new ones.
    pub async fn run(self, socket: TcpListener) {
        let (listener, places) = (Arc::new(self), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            let accepted = tokio::select! {
                () = listener.drain.reached(DrainPhase::Finishing) => return,
                accepted = socket.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection for notifications cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = Arc::clone(&places).try_acquire_owned();
            let (Ok(place), true) = (place, listener.allows(peer.ip())) else {
                listener.meters.refused_connections.inc();
                continue;
            };
            let listener = Arc::clone(&listener);
            tokio::spawn(async move {
                listener.connection(tcp).await;
                drop(place);
            });
        }
    }

    fn allows(&self, peer: IpAddr) -> bool {
        self.settings.allows_caller(peer.to_canonical())
    }

    async fn connection(&self, tcp: TcpStream) {
        let acceptor = self.identity.as_ref().map(|identity| identity.acceptor());
        match acceptor {
            None => self.serve(tcp).await,
            Some(acceptor) => {
                if let Some(tls) = handshake(&acceptor, tcp).await {
                    self.serve(tls).await;
                }
            }
        }
    }

    /// Serves a connection to its end. Once the process ends, the request under way is the last one.
    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| async {
            let _running = RunningGuard::begin(&self.drain);
            Ok::<_, Infallible>(self.exchange.answer(request).await)
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
        }
        connection.as_mut().graceful_shutdown();
        let _ended = connection.await;
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
