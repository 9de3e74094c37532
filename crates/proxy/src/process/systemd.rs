//! Activation: sockets that outlive the process, and notifications to the service manager. Both use systemd's protocol,
//! which any launcher can speak: `sd_listen_fds(3)`, `sd_notify(3)`.

use std::env;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use listenfd::ListenFd;
use tokio::runtime::Handle;
use tokio::time::interval;

/// Sockets that were bound before this process and stay when it ends. Between two processes callers wait in the queues
/// of these sockets.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// The socket for tenants: the one named `listen`, or the first socket if it has no name.
    pub listen: Option<TcpListener>,
    /// The socket for operators: the one named `admin`, or the second socket if it has no name.
    pub admin: Option<TcpListener>,
    /// The socket for GatePay's notifications: the one named `notifications`.
    pub notifications: Option<TcpListener>,
}

/// The sockets that the launcher passed to this process; none if it passed none.
pub fn inherited() -> io::Result<InheritedSockets> {
    // Read first, because the library removes the other variables.
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut passed = ListenFd::from_env();
    let mut sockets = InheritedSockets::default();
    for (position, name) in roles(&names, passed.len())?.into_iter().enumerate() {
        let socket = passed.take_tcp_listener(position)?;
        match name {
            SocketRole::Listen => sockets.listen = socket,
            SocketRole::Admin => sockets.admin = socket,
            SocketRole::Notifications => sockets.notifications = socket,
        }
    }
    Ok(sockets)
}

/// The listener that a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SocketRole {
    Listen,
    Admin,
    Notifications,
}

/// The role of each of `passed` sockets, by `names`, which colons separate.
fn roles(names: &str, passed: usize) -> io::Result<Vec<SocketRole>> {
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let mut roles = Vec::new();
    for position in 0..passed {
        let name = names.split(':').nth(position).unwrap_or_default();
        let role = match (name, position) {
            ("listen", _) | ("" | "unknown", 0) => SocketRole::Listen,
            ("admin", _) | ("" | "unknown", 1) => SocketRole::Admin,
            ("notifications", _) => SocketRole::Notifications,
            (name, _) => {
                return refuse(format!(
                    "socket {} is named {name:?}: FileDescriptorName= must be listen, admin or notifications",
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
            Self::Notifications => "notifications",
        }
    }
}

/// The stages that the service manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceStage {
    /// The process serves, or has finished a reload.
    Ready,
    /// A reload was requested.
    Reloading,
    /// The process is stopping.
    Stopping,
    /// All workers still run their tasks.
    Alive,
}

/// Notifies the service manager, if there is one. The call never blocks: an unresponsive service manager must not stop
/// the process.
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
        tracing::warn!(%error, text, "the service manager (systemd) could not be notified");
    }
}

/// Sends one datagram. The crate `sd-notify` 0.5 waits while the service manager's queue is full, and takes a name in the
/// abstract namespace, as container runtimes give it, for a path.
fn send(address: &str, text: &str) -> io::Result<()> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

/// The watchdog timeout that the service manager set for this process, if any.
fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let meant = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
    number("WATCHDOG_USEC")
        .filter(|micros| meant && *micros > 0)
        .map(Duration::from_micros)
}

/// Notifies the service manager regularly that every worker still runs its tasks, if a watchdog timeout is set.
pub async fn keep_telling(workers: Vec<Handle>) {
    let Some(within) = watchdog() else {
        return;
    };
    let mut tick = interval(within / 3);
    loop {
        tick.tick().await;
        for worker in &workers {
            // The task is empty, but completes only if the worker runs its tasks. A worker that has ended did so on
            // purpose, and counts as running.
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
    fn a_service_manager_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").display().to_string();
        let name = format!("gatepay-proxy-{path}");
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, address) in [
            (UnixDatagram::bind(&path).unwrap(), path),
            (
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
                format!("@{name}"),
            ),
        ] {
            send(&address, "READY=1").unwrap();
            let mut text = [0; 32];
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1", "{address}");
        }
    }

    #[test]
    fn a_service_manager_that_reads_nothing_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _unread = UnixDatagram::bind(&path).unwrap();
        let address = path.to_str().unwrap();
        // The kernel's queue has a bound.
        let full = (0..1_000_000).find_map(|_| send(address, "WATCHDOG=1").err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn an_inherited_socket_with_an_unknown_name_is_an_error() {
        for (names, passed) in [("listen:listen", 2), ("metrics", 1), ("", 3), ("admin:", 2)] {
            assert!(roles(names, passed).is_err(), "{names}");
        }
    }
}
