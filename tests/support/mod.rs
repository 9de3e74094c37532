//! Support for these tests: a GatePay, a proxy before it, and shops that sign.
//!
//! ```text
//! let gatepay = GatePay::start();
//! let proxy = Proxy::before(&gatepay).tenant(acme().rate(1, 1)).start();
//! assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
//! ```
//!
//! All of them share one clock, which stands still until a test moves it. The system chooses the ports.

pub(crate) mod abuse;
mod answer;
pub(crate) mod background;
mod call;
mod catalogue;
mod connection;
mod counting;
mod dice;
pub(crate) mod gate;
mod gatepay;
pub(crate) mod imports;
mod load;
mod log;
#[expect(
    dead_code,
    clippy::print_stderr,
    reason = "the store's own tests use more of it; without PostgreSQL it prints that a test is skipped"
)]
pub(crate) mod postgres;
pub(crate) mod postgres_relay;
pub(crate) mod program;
mod property;
mod proxy;
mod raw;
mod relay;
pub(crate) mod scripted;
mod shop;
pub(crate) mod streams;
pub(crate) mod tenant_endpoint;
pub(crate) mod tls;
pub(crate) mod traffic;
mod wedge;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

pub(crate) use answer::Answer;
pub(crate) use call::{Call, http2_fields};
pub(crate) use catalogue::{changed, configured, everything_on, tables_of_everything};
pub(crate) use connection::{Connection, Http2, send_to_instance};
pub(crate) use counting::Counting;
pub(crate) use dice::Dice;
pub(crate) use gatepay::{
    CERTIFICATE, GatePay, INSTITUTION_ACCOUNT, INSTITUTION_ID, INSTITUTION_SECRET, institution,
};
pub(crate) use load::Load;
pub(crate) use property::holds;
pub(crate) use proxy::{Plan, Proxy, is_free};
pub(crate) use raw::Raw;
pub(crate) use relay::{Break, EVERY_HOW, Relay, Way};
pub(crate) use shop::{Shop, acme, credential, globex, office, rate, secret, target};
pub(crate) use wedge::Wedge;

/// The time at which these tests begin: the first millisecond of 2026.
pub(crate) const T0: u64 = 1_767_225_600_000;

pub(crate) const CREATE: &str = "/v1/pay/order";
pub(crate) const QUERY: &str = "/v1/pay/order/query";
pub(crate) const CLOSE: &str = "/v1/pay/order/close";
pub(crate) const REFUND: &str = "/v1/pay/order/refund";
/// A read with the method GET.
pub(crate) const DETAILS: &str = "/v2/pay/refund/details";
/// GatePay's prefix of those paths.
pub(crate) const PREFIX: &str = "/payment/open/institution";

/// The body of an order query.
pub(crate) const BY_NUMBER: &str = r#"{"merchantTradeNo":"A-0001"}"#;
/// The body of a refund that GatePay does not know.
pub(crate) const A_REFUND: &str =
    r#"{"refundRequestId":"R-0001","prepayId":"1","refundAmount":"1"}"#;

/// An upstream for proxies that never call it.
pub(crate) const UNUSED: &str = "http://127.0.0.1:1";

/// How long a test waits for another thread's or program's work before it fails: far longer than a machine takes that is
/// eight times slower or stalls for seconds.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The body that creates an order with this number.
pub(crate) fn order(number: &str) -> String {
    format!(
        r#"{{"merchantTradeNo":"{number}","env":{{"terminalType":"APP"}},"currency":"USDT","orderAmount":"1.21","goods":{{"goodsName":"NF2T"}}}}"#
    )
}

/// The value of an `Arc` that is not shared yet.
pub(crate) fn whole<T>(shared: &mut Arc<T>) -> &mut T {
    Arc::get_mut(shared).expect("the proxy has not started")
}

/// Prints the test's finding, or the reason for the lack of one, even if the test passes.
pub(crate) fn say(what: impl std::fmt::Display) {
    use std::io::Write as _;
    // The test harness captures `println!`, but not this output.
    let _ = writeln!(std::io::stderr(), "{what}");
}

pub(crate) fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// An upstream address without a listener. The value keeps the port reserved while it lives.
pub(crate) struct Nowhere(Socket);

impl Nowhere {
    pub(crate) fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&any_port().into()).expect("a port is free");
        Self(socket)
    }

    pub(crate) fn url(&self) -> String {
        let address = self.0.local_addr().expect("it is bound");
        let address = address.as_socket().expect("it is an internet address");
        format!("http://{address}")
    }
}

/// Waits until another thread has done its work unprompted.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    until_so(what, async || done()).await;
}

/// Like [`until`], with a condition that has to be asked for.
pub(crate) async fn until_so(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("this never happened: {what}"));
}

/// Looks until a look finds what a test waits for, and returns that. A look that does not find it returns what it saw.
pub(crate) async fn until_seen<T>(mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(began.elapsed() < PATIENCE, "{seen}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How often a test looks for what only an undisturbed stretch of a machine's time can show: a machine that stalls for two
/// seconds ends the store's loans, and lets deadlines pass.
pub(crate) const LOOKS: u32 = 5;

/// Looks until a look shows what a test is about; a look that does not returns its figures. Each look asserts the promises
/// that hold however slow a machine is.
pub(crate) async fn in_one_of_some_looks(mut look: impl AsyncFnMut() -> Result<(), String>) {
    let mut seen = Vec::new();
    for _ in 0..LOOKS {
        match look().await {
            Ok(()) => return,
            Err(figures) => seen.push(figures),
        }
    }
    panic!("in none of {LOOKS} looks: {seen:#?}");
}

/// This condition, or the figures that do not meet it.
pub(crate) fn if_so(is_so: bool, figures: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(figures()) }
}
