//! The server: its thread, its sockets, and the `Sandbox` handle.

use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, DATE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::api::accounts::AccountBook;
use crate::config::{Clock, NotificationSending, OpeningBalance, SandboxConfig};
use crate::ledger::Ledger;
use crate::notify::sender::NotificationSender;
use crate::rules::news::NewsBook;
use crate::service::authentication::SignatureGate;
use crate::service::disruption::{ConnectionDisruption, DisruptibleStream};
use crate::service::exchange::exchange;
use crate::service::fault::{FaultInjection, FaultQueue};
use crate::service::received::{ReceivedLog, ReceivedRequest};
use crate::service::world::{SandboxState, SandboxWorld};
use crate::wire::amount::Amount;
use crate::wire::answer::SandboxAnswer;
use crate::wire::failure::ApiFailure;

/// The size of the accept queue, in connections: a load test opens all connections at once.
const BACKLOG: i32 = 1024;

/// The pause after an accept error, which is most likely a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A running sandbox. Clones are handles to the same sandbox, which stops when the last handle is dropped.
#[derive(Clone)]
pub struct Sandbox(Arc<RunningSandbox>);

struct RunningSandbox {
    address: SocketAddr,
    world: Arc<SandboxWorld>,
    stop: Arc<Notify>,
    /// The server's thread; `None` once the sandbox was stopped.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sandbox {
    /// Binds `address` (port 0 lets the system choose) and serves on a thread of its own.
    pub fn start(config: SandboxConfig, address: SocketAddr) -> io::Result<Self> {
        let SandboxConfig {
            institution,
            sub_accounts,
            institution_account,
            merchant_id,
            opening_balances,
            account_delay,
            numbers_unique_per,
            order_look_ups,
            answer_forms,
            clock,
            tls,
            record,
            answer_delay,
            notifications,
        } = config;
        let accounts = AccountBook::new(
            institution_account,
            merchant_id,
            account_delay,
            sub_accounts,
        );
        let sender = notifications.map(|sending| sender(sending, &clock));
        let sender = sender.transpose()?;
        let mut ledger = Ledger::new(accounts, numbers_unique_per, answer_forms);
        ledger.orders.look_ups = order_look_ups;
        if sender.is_some() {
            ledger.news = NewsBook::read();
        }
        let state = SandboxState {
            gate: SignatureGate::new(institution),
            ledger,
            faults: FaultQueue::default(),
            log: ReceivedLog::new(record),
            examples: 0,
        };
        let world = Arc::new(SandboxWorld::new(clock, answer_delay, state, sender));
        fund_accounts(&world, opening_balances)?;
        let listener = bind(address)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(Notify::new());
        let thread = spawn_server(
            listener,
            tls.map(tls_acceptor),
            Arc::clone(&world),
            Arc::clone(&stop),
        )?;
        Ok(Self(Arc::new(RunningSandbox {
            address,
            world,
            stop,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Pays an order of a sub-account, as its customer would.
    pub fn pay(&self, sub_account: &str, prepay_id: &str) -> Result<(), ApiFailure> {
        self.0.world.pay(Some(sub_account), prepay_id)
    }

    /// Gives money from outside to a sub-account or to the institution's own account.
    pub fn fund(&self, account: &str, currency: &str, amount: &str) -> Result<(), ApiFailure> {
        self.0.world.fund(account, currency, amount_of(amount)?)
    }

    /// Sends money to a static address, as a payer on its chain would.
    pub fn deposit(&self, address: &str, currency: &str, amount: &str) -> Result<(), ApiFailure> {
        self.0.world.deposit(address, currency, amount_of(amount)?)
    }

    /// Pays a subscription on its chain, as its plan schedules.
    pub fn collect(
        &self,
        subscription_order_no: &str,
        currency: &str,
        amount: &str,
    ) -> Result<(), ApiFailure> {
        let amount = amount_of(amount)?;
        self.0
            .world
            .collect(subscription_order_no, currency, amount)
    }

    /// The balance of an account in a currency, as decimal text in its shortest form.
    pub fn balance(&self, account: &str, currency: &str) -> String {
        let state = self.0.world.state();
        state
            .ledger
            .balances
            .available(account, currency)
            .to_string()
    }

    /// The shared state, in which [`examples`](crate::examples) prepare requests.
    pub(crate) fn world(&self) -> &SandboxWorld {
        &self.0.world
    }

    /// Appends a fault to the fault queue.
    pub fn inject(&self, injection: FaultInjection) {
        self.0.world.state().faults.inject(injection);
    }

    /// Removes all faults from both fault queues.
    pub fn clear_faults(&self) {
        self.0.world.state().faults.clear();
        if let Some(sender) = &self.0.world.sender {
            sender.outbox().faults.clear();
        }
    }

    /// The logged requests, in the order in which they took effect. A request is logged once its answer is composed,
    /// before the answer is delayed or sent.
    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.0.world.state().log.all().cloned().collect()
    }

    /// Clears the log of received requests. Orders, nonces and faults stay.
    pub fn clear(&self) {
        self.0.world.state().log.clear();
    }

    /// Stops serving, cuts open connections, and waits until the port is free. Further calls do nothing.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sandbox({})", self.0.address)
    }
}

impl RunningSandbox {
    fn stop(&self) {
        self.stop.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // If the thread panicked, the panic message was printed already.
            drop(thread.join());
        }
    }
}

impl Drop for RunningSandbox {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The sender of notifications.
fn sender(sending: NotificationSending, clock: &Clock) -> io::Result<Arc<NotificationSender>> {
    let url = sending.url.clone();
    let sender = NotificationSender::new(sending, Arc::clone(clock));
    sender.map(Arc::new).map_err(|problem| {
        let text = format!("the callback URL {url} {problem}");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

/// An amount above zero.
fn amount_of(text: &str) -> Result<Amount, ApiFailure> {
    Amount::positive(text).ok_or(ApiFailure::Malformed("amount"))
}

/// Funds the accounts that the configuration gives an opening balance.
fn fund_accounts(world: &SandboxWorld, opening_balances: Vec<OpeningBalance>) -> io::Result<()> {
    for opening in opening_balances {
        let OpeningBalance {
            account,
            currency,
            amount,
        } = opening;
        let opened = amount_of(&amount).and_then(|amount| world.fund(&account, &currency, amount));
        opened.map_err(|failure| {
            let text = format!(
                "opening balance of account {account}: {}",
                failure.message()
            );
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
    }
    Ok(())
}

fn tls_acceptor(config: Arc<rustls::ServerConfig>) -> TlsAcceptor {
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Lets a test restart the sandbox on the same port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves on a thread with its own runtime until `stop` is notified. Connections still open are cut when the runtime is
/// dropped.
fn spawn_server(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    world: Arc<SandboxWorld>,
    stop: Arc<Notify>,
) -> io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("gatepay-sandbox".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                if let Some(sender) = &world.sender {
                    tokio::spawn(Arc::clone(sender).run());
                }
                tokio::select! {
                    () = accept(listener, tls, world) => {}
                    () = stop.notified() => {}
                }
            });
        })
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, world: Arc<SandboxWorld>) {
    let listener = tokio::net::TcpListener::from_std(listener)
        .expect("the listener does not block, and this is a runtime with I/O");
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                tokio::spawn(greet(tcp, tls.clone(), Arc::clone(&world)));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves a connection from its first byte. Errors of the connection are ignored: the caller notices them.
async fn greet(tcp: TcpStream, tls: Option<TlsAcceptor>, world: Arc<SandboxWorld>) {
    // With Nagle's algorithm a small answer may wait for the acknowledgment of the previous answer.
    drop(tcp.set_nodelay(true));
    match tls {
        None => serve(tcp, world).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(tcp).await {
                serve(stream, world).await;
            }
        }
    }
}

/// Serves HTTP on a connection, up to its end or its disruption.
async fn serve(stream: impl DisruptibleStream, world: Arc<SandboxWorld>) {
    let service = service_fn(|request| {
        let world = Arc::clone(&world);
        Box::pin(async move {
            let answer = exchange(&world, request).await?;
            Ok::<_, ConnectionDisruption>(response(answer, world.now()))
        })
    });
    // The sandbox sets `Date` itself. No timer is set, so there is no timeout for reading a request's head.
    let mut connection = http1::Builder::new()
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    let end = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let mut stream = connection.into_parts().io.into_inner();
    let end = match end.as_ref().err().and_then(ConnectionDisruption::behind) {
        Some(disruption) => disruption.perform(stream).await,
        None => stream.shutdown().await,
    };
    // The error is ignored: the caller has already disconnected.
    drop(end);
}

/// Converts an answer to hyper's type, with a `Date` from the sandbox's clock, which may differ from the system's.
fn response(answer: SandboxAnswer, now: u64) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.media));
    headers.extend(date(now).map(|date| (DATE, date)));
    response
}

/// The value of `Date`; `None` for a test's time beyond the year 9999.
fn date(now: u64) -> Option<HeaderValue> {
    let time = Timestamp::from_millisecond(now.try_into().ok()?).ok()?;
    let text = DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .ok()?;
    HeaderValue::from_str(&text).ok()
}
