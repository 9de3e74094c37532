//! A TCP relay between the proxy and GatePay that breaks connections, each at one byte.
//!
//! The relay knows bytes, not HTTP, so it works before TLS as well. A new connection takes the next waiting break, and
//! stays whole if none waits. A connection that ends before its break returns the break.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::background::Background;

/// The place and the manner of a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Break {
    pub(crate) way: Way,
    /// After this number of bytes in that direction, over all requests of the connection.
    pub(crate) at: usize,
    pub(crate) how: How,
}

/// The direction of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the proxy to GatePay.
    Asked,
    /// From GatePay to the proxy.
    Answered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Both sides get an orderly end of stream.
    Cut,
    /// Both sides get a reset.
    Reset,
    /// No more bytes pass in either direction, and neither side is told.
    Stall,
}

pub(crate) const EVERY_HOW: [How; 3] = [How::Cut, How::Reset, How::Stall];

/// The relay; it ends when this value is dropped.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    background: Background,
}

struct Shared {
    gatepay: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Break>,
    struck: usize,
    open: usize,
    /// The bytes that the proxy wrote, one entry for each finished connection.
    asked: Vec<Vec<u8>>,
    /// The length of GatePay's bytes, one entry for each finished connection.
    answered: Vec<usize>,
}

/// Why a direction ends before both sides end it.
enum End {
    Struck,
    Broken,
}

impl Relay {
    pub(crate) fn before(gatepay: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            gatepay,
            state: Mutex::default(),
        });
        let kept = Arc::clone(&shared);
        Self {
            shared,
            background: Background::serve(move |listener| accept(listener, kept)),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.background.address
    }

    /// Breaks the coming connections, one break each.
    pub(crate) fn plan(&self, breaks: impl IntoIterator<Item = Break>) {
        self.shared.state().waiting.extend(breaks);
    }

    /// How many connections were broken.
    pub(crate) fn struck(&self) -> usize {
        self.shared.state().struck
    }

    /// Whether all connections have ended.
    pub(crate) fn is_quiet(&self) -> bool {
        self.shared.state().open == 0
    }

    /// What the proxy wrote, one for each connection that is over.
    pub(crate) fn asked(&self) -> Vec<Vec<u8>> {
        self.shared.state().asked.clone()
    }

    /// How many bytes went either way on the connection that ended last.
    pub(crate) fn lengths(&self) -> Option<(usize, usize)> {
        let state = self.shared.state();
        Some((state.asked.last()?.len(), *state.answered.last()?))
    }

    /// How often the proxy wrote these bytes, on finished connections.
    pub(crate) fn occurrences(&self, bytes: &[u8]) -> usize {
        let state = self.shared.state();
        let in_one = |asked: &Vec<u8>| {
            let windows = asked.windows(bytes.len());
            windows.filter(|window| *window == bytes).count()
        };
        state.asked.iter().map(in_one).sum()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked")
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((proxy, _)) => drop(tokio::spawn(carry(proxy, Arc::clone(&shared)))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Relays one connection up to its break or its end.
async fn carry(mut proxy: TcpStream, shared: Arc<Shared>) {
    let planned = {
        let mut state = shared.state();
        state.open += 1;
        state.waiting.pop_front()
    };
    let (mut asked, mut answered) = (Vec::new(), 0);
    let struck = match TcpStream::connect(shared.gatepay).await {
        Ok(mut gatepay) => {
            let _ = (proxy.set_nodelay(true), gatepay.set_nodelay(true));
            let strike = || shared.state().struck += 1;
            Box::pin(between(
                &mut proxy,
                &mut gatepay,
                planned,
                &mut asked,
                &mut answered,
                strike,
            ))
            .await
        }
        Err(_) => false,
    };
    let mut state = shared.state();
    state.open -= 1;
    state.waiting.extend(planned.filter(|_| !struck));
    state.asked.push(asked);
    state.answered.push(answered);
}

/// Whether the break was reached.
async fn between(
    proxy: &mut TcpStream,
    gatepay: &mut TcpStream,
    planned: Option<Break>,
    asked: &mut Vec<u8>,
    answered: &mut usize,
    strike: impl FnOnce(),
) -> bool {
    let limit = |way| planned.filter(|planned| planned.way == way);
    let limit = |way| limit(way).map_or(usize::MAX, |planned| planned.at);
    let (mut from_proxy, mut to_proxy) = proxy.split();
    let (mut from_gatepay, mut to_gatepay) = gatepay.split();
    let ended = tokio::try_join!(
        pump(
            &mut from_proxy,
            &mut to_gatepay,
            limit(Way::Asked),
            |seen| {
                asked.extend_from_slice(seen);
            }
        ),
        pump(
            &mut from_gatepay,
            &mut to_proxy,
            limit(Way::Answered),
            |seen| {
                *answered += seen.len();
            }
        ),
    );
    let (Err(End::Struck), Some(planned)) = (ended, planned) else {
        return false;
    };
    strike();
    match planned.how {
        How::Cut => {
            let _ = (to_proxy.shutdown().await, to_gatepay.shutdown().await);
            let mut nowhere = tokio::io::sink();
            let _ = tokio::join!(
                from_proxy.read_to_end(asked),
                tokio::io::copy(&mut from_gatepay, &mut nowhere)
            );
        }
        How::Stall => {
            // The bytes read are not forwarded. GatePay's side closes once the proxy gives up.
            let _ = from_proxy.read_to_end(asked).await;
        }
        How::Reset => {
            let mut rest = [0; 16 * 1024];
            if let Ok(read) = proxy.try_read(&mut rest) {
                asked.extend_from_slice(&rest[..read]);
            }
            // Closing a socket that must not linger sends a reset instead of a FIN.
            for side in [&*proxy, &*gatepay] {
                let _ = SockRef::from(side).set_linger(Some(Duration::ZERO));
            }
        }
    }
    true
}

/// Passes bytes on until this number has passed or the source has ended.
async fn pump(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    limit: usize,
    mut see: impl FnMut(&[u8]),
) -> Result<(), End> {
    let broken = |_: io::Error| End::Broken;
    let mut buffer = [0; 16 * 1024];
    let mut left = limit;
    while left > 0 {
        let most = left.min(buffer.len());
        let read = from.read(&mut buffer[..most]).await.map_err(broken)?;
        if read == 0 {
            return to.shutdown().await.map_err(broken);
        }
        see(&buffer[..read]);
        to.write_all(&buffer[..read]).await.map_err(broken)?;
        left -= read;
    }
    Err(End::Struck)
}
