//! The small language of these tests: a GatePay, a proxy before it, and shops that sign.
//!
//! ```text
//! let gatepay = GatePay::start();
//! let proxy = Proxy::before(&gatepay).tenant(acme().rate(1, 1)).start();
//! assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
//! ```
//!
//! All of them share one clock, which stands still until a test moves it; ports are chosen by the system.

pub(crate) mod abuse;
mod answer;
mod background;
mod call;
mod catalogue;
mod connection;
mod counting;
mod dice;
mod gatepay;
pub(crate) mod imports;
mod load;
mod log;
pub(crate) mod program;
mod property;
mod proxy;
mod raw;
mod relay;
pub(crate) mod scripted;
mod shop;
pub(crate) mod streams;
pub(crate) mod tls;
pub(crate) mod traffic;
mod wedge;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub(crate) use answer::Answer;
pub(crate) use call::Call;
pub(crate) use catalogue::{changed, configured, everything_on};
pub(crate) use connection::{Connection, Http2};
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

/// When these tests take place: the first moment of 2026.
pub(crate) const T0: u64 = 1_767_225_600_000;

pub(crate) const CREATE: &str = "/v1/pay/order";
pub(crate) const QUERY: &str = "/v1/pay/order/query";
pub(crate) const CLOSE: &str = "/v1/pay/order/close";
pub(crate) const REFUND: &str = "/v1/pay/order/refund";
/// A read whose method is GET.
pub(crate) const DETAILS: &str = "/v2/pay/refund/details";
/// Where those paths lead.
pub(crate) const PREFIX: &str = "/payment/open/institution";

/// Asks for an order.
pub(crate) const BY_NUMBER: &str = r#"{"merchantTradeNo":"A-0001"}"#;
/// A refund GatePay knows nothing about.
pub(crate) const A_REFUND: &str =
    r#"{"refundRequestId":"R-0001","prepayId":"1","refundAmount":"1"}"#;

/// An upstream for proxies that never call it.
pub(crate) const UNUSED: &str = "http://127.0.0.1:1";

/// How long a test waits for what another thread does at once, before it gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The body that creates an order of that number.
pub(crate) fn order(number: &str) -> String {
    format!(
        r#"{{"merchantTradeNo":"{number}","env":{{"terminalType":"APP"}},"currency":"USDT","orderAmount":"1.21","goods":{{"goodsName":"NF2T"}}}}"#
    )
}

/// What nobody shares yet.
pub(crate) fn whole<T>(shared: &mut Arc<T>) -> &mut T {
    Arc::get_mut(shared).expect("the proxy has not started")
}

/// Says what a test proved, or why it did not, even if it passes.
pub(crate) fn say(what: impl std::fmt::Display) {
    use std::io::Write as _;
    // Unlike what is printed, this is not kept back.
    let _ = writeln!(std::io::stderr(), "{what}");
}

pub(crate) fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// An upstream where nothing listens, for as long as this lives: its port is taken.
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

/// Waits until another thread has done something it does without being asked again.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("this never happened: {what}"));
}
