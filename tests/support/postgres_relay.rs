//! A TCP relay before a PostgreSQL server that cuts connections at chosen messages, or stands still.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

/// A relay on a port of its own. Its threads end with their connections.
pub(crate) struct PgRelay {
    pub(crate) port: u16,
    state: Arc<RelayState>,
}

/// Where the relay cuts a connection, in the server's answer to a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutPoint {
    /// After the first `DataRow` was passed on.
    AfterDataRow,
    /// After `CommandComplete` was passed on.
    AfterCommandComplete,
    /// Before `ReadyForQuery` is passed on.
    BeforeReadyForQuery,
}

#[derive(Default)]
struct RelayState {
    /// The type of the message at which the next connection is cut; 0: none.
    cut_at: AtomicU8,
    /// Whether that message is still passed on.
    pass_it: AtomicBool,
    held: AtomicBool,
    ended: AtomicBool,
}

impl PgRelay {
    /// A relay to a port on loopback.
    pub(crate) fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(RelayState::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(Ordering::SeqCst) {
                    break;
                }
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    pass(client, server, &shared);
                }
            }
        });
        Self { port, state }
    }

    /// Cuts one connection that admits, the next that gets to the point.
    pub(crate) fn cut(&self, point: CutPoint) {
        let (message, pass_it) = match point {
            CutPoint::AfterDataRow => (b'D', true),
            CutPoint::AfterCommandComplete => (b'C', true),
            CutPoint::BeforeReadyForQuery => (b'Z', false),
        };
        self.state.pass_it.store(pass_it, Ordering::SeqCst);
        self.state.cut_at.store(message, Ordering::SeqCst);
    }

    /// Whether the cut has happened.
    pub(crate) fn has_cut(&self) -> bool {
        self.state.cut_at.load(Ordering::SeqCst) == 0
    }

    /// Passes nothing on, in either direction, or goes on.
    pub(crate) fn hold(&self, held: bool) {
        self.state.held.store(held, Ordering::SeqCst);
    }

    /// Closes every connection without passing on the bytes it holds.
    pub(crate) fn sever(&self) {
        self.state.ended.store(true, Ordering::SeqCst);
    }
}

impl Drop for PgRelay {
    fn drop(&mut self) {
        self.sever();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(client: TcpStream, server: TcpStream, state: &Arc<RelayState>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let admits = Arc::new(AtomicBool::new(false));
    let (shared, asks) = (Arc::clone(state), Arc::clone(&admits));
    thread::spawn(move || {
        let _ = requests(from_client, to_server, &shared, &asks);
    });
    let shared = Arc::clone(state);
    thread::spawn(move || {
        let _ = answers(&server, &client, &shared, &admits);
        let _ = (
            client.shutdown(Shutdown::Both),
            server.shutdown(Shutdown::Both),
        );
    });
}

/// The function whose statement is prepared on connections that admit.
const ADMIT: &[u8] = b"admit_v1";

fn requests(
    mut from: TcpStream,
    mut to: TcpStream,
    state: &RelayState,
    admits: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = [0; 16_384];
    loop {
        let read = from.read(&mut buffer)?;
        wait_while_held(state)?;
        if read == 0 {
            return to.shutdown(Shutdown::Write);
        }
        if buffer[..read].windows(ADMIT.len()).any(|it| it == ADMIT) {
            admits.store(true, Ordering::SeqCst);
        }
        to.write_all(&buffer[..read])?;
    }
}

/// A type that no message has.
const NEVER: u8 = u8::MAX;

/// Passes whole messages on, up to the cut.
fn answers(
    mut from: &TcpStream,
    mut to: &TcpStream,
    state: &RelayState,
    admits: &AtomicBool,
) -> io::Result<()> {
    loop {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut message = head.to_vec();
        message.resize(usize::try_from(length).unwrap() + 1, 0);
        from.read_exact(&mut message[5..])?;
        wait_while_held(state)?;
        let at = if admits.load(Ordering::SeqCst) {
            head[0]
        } else {
            NEVER
        };
        let cut = state
            .cut_at
            .compare_exchange(at, 0, Ordering::SeqCst, Ordering::SeqCst);
        if cut.is_err() || state.pass_it.load(Ordering::SeqCst) {
            to.write_all(&message)?;
        }
        if cut.is_ok() {
            return Ok(());
        }
    }
}

fn wait_while_held(state: &RelayState) -> io::Result<()> {
    while state.held.load(Ordering::SeqCst) && !state.ended.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(5));
    }
    if state.ended.load(Ordering::SeqCst) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(())
}
