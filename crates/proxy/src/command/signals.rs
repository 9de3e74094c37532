//! Signals: those that end the program, those that reload, and those that must not kill the program.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use rustix::process::Signal as Number;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout_at};

/// Signals that end the program.
const ENDING: [(&str, Number); 3] = [
    ("SIGTERM", Number::TERM),
    ("SIGINT", Number::INT),
    ("SIGQUIT", Number::QUIT),
];
/// Signals that other programs use (to reopen the log, write a status, tick) and that would kill a program without a
/// handler. A file that has reached its size limit then fails the write instead.
const IGNORED: [(&str, Number); 5] = [
    ("SIGALRM", Number::ALARM),
    ("SIGVTALRM", Number::VTALARM),
    ("SIGIO", Number::IO),
    ("SIGPWR", Number::POWER),
    ("SIGXFSZ", Number::XFSZ),
];

/// Signals that change the level of the log, if the program serves; else they are ignored like those above.
const LEVEL: [(&str, Number); 2] = [("SIGUSR1", Number::USR1), ("SIGUSR2", Number::USR2)];

/// Waits for a signal that ends the program.
pub(crate) fn wait_for_signal() -> io::Result<&'static str> {
    Ok(SignalHandler::listen()?.wait())
}

/// The handler of every signal that concerns the program. From its creation on, a signal that arrives before the
/// program waits for it does not end the process by itself.
pub(crate) struct SignalHandler {
    runtime: Runtime,
    streams: SignalStreams,
}

struct SignalStreams {
    ending: Vec<(&'static str, Signal)>,
    ignored: Vec<(&'static str, Signal)>,
    /// SIGHUP, SIGUSR1 and SIGUSR2, if the program serves.
    serving: Vec<(SignalAction, Signal)>,
}

/// The action that a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalAction {
    /// End the program; holds the signal's name.
    End(&'static str),
    /// Reload the configuration.
    Reload,
    /// Write more lines to the log.
    MoreLog,
    /// Write fewer lines to the log.
    FewerLog,
}

impl SignalHandler {
    pub(crate) fn listen() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let streams = SignalStreams {
            ending: listen(&ENDING)?,
            ignored: listen(&[&IGNORED[..], &LEVEL[..]].concat())?,
            serving: Vec::new(),
        };
        drop(entered);
        Ok(Self { runtime, streams })
    }

    /// Like `listen`, with SIGHUP as a reload, and SIGUSR1 and SIGUSR2 for more and fewer lines in the log.
    pub(crate) fn listen_for_serving() -> io::Result<Self> {
        let mut signals = Self::listen()?;
        let entered = signals.runtime.enter();
        let ignored = &mut signals.streams.ignored;
        ignored.retain(|(name, _)| LEVEL.iter().all(|(level, _)| level != name));
        signals.streams.serving = vec![
            (SignalAction::Reload, signal(SignalKind::hangup())?),
            (SignalAction::MoreLog, signal(SignalKind::user_defined1())?),
            (SignalAction::FewerLog, signal(SignalKind::user_defined2())?),
        ];
        drop(entered);
        Ok(signals)
    }

    /// Waits for the next signal that asks for an action.
    pub(crate) fn next(&mut self) -> SignalAction {
        let streams = &mut self.streams;
        self.runtime.block_on(poll_fn(|cx| streams.poll(cx)))
    }

    /// Like `next`, but returns `None` if no such signal arrives until `end`.
    pub(crate) fn next_until(&mut self, end: Instant) -> Option<SignalAction> {
        let streams = &mut self.streams;
        let next = async { timeout_at(end, poll_fn(|cx| streams.poll(cx))).await };
        self.runtime.block_on(next).ok()
    }

    /// Waits for the next signal that ends the program.
    pub(crate) fn wait(&mut self) -> &'static str {
        loop {
            if let SignalAction::End(name) = self.next() {
                return name;
            }
        }
    }
}

fn listen(signals: &[(&'static str, Number)]) -> io::Result<Vec<(&'static str, Signal)>> {
    let listen = |(name, number): &(&'static str, Number)| {
        let kind = SignalKind::from_raw(number.as_raw());
        Ok((*name, signal(kind)?))
    };
    signals.iter().map(listen).collect()
}

impl SignalStreams {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SignalAction> {
        for (signal, stream) in &mut self.ignored {
            while stream.poll_recv(cx).is_ready() {
                tracing::warn!(
                    signal,
                    "ignored: SIGHUP reloads, SIGTERM ends; access lines go to standard output, so there is no file to reopen"
                );
            }
        }
        for (name, stream) in &mut self.ending {
            if stream.poll_recv(cx).is_ready() {
                return Poll::Ready(SignalAction::End(name));
            }
        }
        for (action, stream) in &mut self.serving {
            if stream.poll_recv(cx).is_ready() {
                return Poll::Ready(*action);
            }
        }
        Poll::Pending
    }
}
