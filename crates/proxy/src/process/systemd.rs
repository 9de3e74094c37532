//! Activation: sockets that outlive the process, and what the service manager is told. Both by systemd's protocol, which
//! any launcher can speak: `sd_listen_fds(3)`, `sd_notify(3)`.

use std::env;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use listenfd::ListenFd;
use tokio::runtime::Handle;
use tokio::time::interval;

/// Sockets that were bound before this process and stay when it ends. Callers wait in their queues between two processes.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// For tenants, named `listen`, or the first of those without a name.
    pub listen: Option<TcpListener>,
    /// For operators, named `admin`, or the second.
    pub admin: Option<TcpListener>,
}

/// The sockets this process was started with; none without a launcher that passes any.
pub fn inherited() -> io::Result<InheritedSockets> {
    // Read before the library takes the other variables away.
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut passed = ListenFd::from_env();
    let mut sockets = InheritedSockets::default();
    for (position, name) in roles(&names, passed.len())?.into_iter().enumerate() {
        let socket = passed.take_tcp_listener(position)?;
        match name {
            SocketRole::Listen => sockets.listen = socket,
            SocketRole::Admin => sockets.admin = socket,
        }
    }
    Ok(sockets)
}

/// Whom a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SocketRole {
    Listen,
    Admin,
}

/// What each of `passed` sockets is for, by `names` with colons between.
fn roles(names: &str, passed: usize) -> io::Result<Vec<SocketRole>> {
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let mut roles = Vec::new();
    for position in 0..passed {
        let name = names.split(':').nth(position).unwrap_or_default();
        let role = match (name, position) {
            ("listen", _) | ("" | "unknown", 0) => SocketRole::Listen,
            ("admin", _) | ("" | "unknown", 1) => SocketRole::Admin,
            (name, _) => {
                return refuse(format!(
                    "socket {} is named {name:?}: listen or admin (FileDescriptorName=) is what is served",
                    position + 1
                ));
            }
        };
        if roles.contains(&role) {
            return refuse(format!("two sockets are for {}", role.name()));
        }
        roles.push(role);
    }
    Ok(roles)
}

impl SocketRole {
    fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Admin => "admin",
        }
    }
}

/// How far along the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceStage {
    /// It serves, or is through with a reload.
    Ready,
    /// It was asked to reload.
    Reloading,
    /// It ends.
    Stopping,
    /// All of it still turns.
    Alive,
}

/// Tells the service manager, if there is one. It never waits for it: one that does not listen must not stop anything.
pub fn tell(stage: ServiceStage) {
    let Ok(address) = env::var("NOTIFY_SOCKET") else {
        return;
    };
    let text = match stage {
        ServiceStage::Ready => "READY=1",
        ServiceStage::Reloading => "RELOADING=1",
        ServiceStage::Stopping => "STOPPING=1",
        ServiceStage::Alive => "WATCHDOG=1",
    };
    if let Err(error) = send(&address, text) {
        tracing::warn!(%error, text, "the service manager was not told");
    }
}

fn send(address: &str, text: &str) -> io::Result<()> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

/// Within which time the service manager wants to hear from this process.
fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let meant = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
    number("WATCHDOG_USEC")
        .filter(|micros| meant && *micros > 0)
        .map(Duration::from_micros)
}

/// Tells the service manager again and again that every worker still turns, if it wants to know.
pub async fn keep_telling(workers: Vec<Handle>) {
    let Some(within) = watchdog() else {
        return;
    };
    let mut tick = interval(within / 3);
    loop {
        tick.tick().await;
        for worker in &workers {
            // Nothing, but the worker has to come by to do it. One that has ended is on purpose.
            let _turned = worker.spawn(async {}).await;
        }
        tell(ServiceStage::Alive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_apart_by_name_or_else_by_position() {
        use SocketRole::{Admin, Listen};
        assert_eq!(roles("admin:listen", 2).unwrap(), [Admin, Listen]);
        assert_eq!(roles("", 2).unwrap(), [Listen, Admin]);
        assert_eq!(roles("unknown:unknown", 2).unwrap(), [Listen, Admin]);
        assert_eq!(roles("listen", 1).unwrap(), [Listen]);
        assert_eq!(roles("admin", 1).unwrap(), [Admin]);
        assert_eq!(roles("", 0).unwrap(), []);
    }

    #[test]
    fn a_socket_nobody_serves_is_an_error() {
        for (names, passed) in [("listen:listen", 2), ("metrics", 1), ("", 3), ("admin:", 2)] {
            assert!(roles(names, passed).is_err(), "{names}");
        }
    }
}
