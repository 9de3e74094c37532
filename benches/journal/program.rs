//! The real binary: configured, started, watched and ended.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::binary::{self, Running};
use super::callers::{TENANTS, client_id, secret};

/// Time limit of start-up and of shutdown.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `serve`.
pub(super) struct Program {
    pub(super) address: SocketAddr,
    pub(super) journaled: bool,
    admin: SocketAddr,
    running: Running,
}

/// The program's counters so far.
pub(super) struct Counts {
    pub(super) syncs: f64,
    pub(super) sync_seconds: f64,
    pub(super) cpu: f64,
}

impl Program {
    /// Starts the program and waits until it serves.
    pub(super) fn serve(folder: &Path, upstream: SocketAddr, journaled: bool) -> Self {
        configure(folder, upstream, journaled);
        let log = folder.join("log");
        let mut command = binary::command(folder, &["serve"]);
        let err = fs::File::create(&log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(err).spawn().unwrap();
        let running = Running(child);
        let begun = Instant::now();
        loop {
            let text = fs::read_to_string(&log).unwrap();
            if let Some(line) = binary::serving(&text) {
                let address = |name: &str| line[name].as_str().unwrap().parse().unwrap();
                return Self {
                    address: address("address"),
                    admin: address("admin"),
                    journaled,
                    running,
                };
            }
            assert!(begun.elapsed() < PATIENCE, "it does not serve: {text}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let value = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.unwrap().parse().unwrap()
        };
        Counts {
            syncs: value("gatepay_proxy_journal_sync_seconds_count"),
            sync_seconds: value("gatepay_proxy_journal_sync_seconds_sum"),
            cpu: value("process_cpu_seconds_total"),
        }
    }

    /// Ends the program in order.
    pub(super) fn end(self) {
        self.running.end();
    }
}

/// The result of `audit verify`.
pub(super) fn verify(folder: &Path) -> Result<String, String> {
    let output = binary::command(folder, &["audit", "verify"])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}

/// Configures limits that no caller reaches, because only the journal is measured.
fn configure(folder: &Path, upstream: SocketAddr, journaled: bool) {
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let audit = "audit = { dir = 'audit', key = { file = 'secrets/audit.key' } }";
    file(
        "proxy.toml",
        &format!(
            "state_dir = 'state'
{}
timestamp = {{ past_ms = 30_000 }}
drain = {{ grace_ms = 1 }}
listen = {{ address = '127.0.0.1:0' }}
admin = {{ address = '127.0.0.2:0' }}
[upstream]
url = 'http://{upstream}'
max_connections = 2_048
max_idle_connections = 2_048
quota = {{ requests_per_second = 200_000 }}
[[institution.credential]]
client_id = 'fake-institution'
secret = {{ file = 'secrets/institution.key' }}
",
            if journaled { audit } else { "" }
        ),
    );
    gatepay_proxy::process::state_dir::init(&folder.join("state"), true).unwrap();
    file("secrets/institution.key", "fake-institution-secret");
    file("secrets/audit.key", "fake-audit-key-0123456789abcdef");
    for tenant in 0..TENANTS {
        file(&format!("secrets/{tenant}.key"), &secret(tenant));
        file(
            &format!("tenants.d/{tenant}.toml"),
            &format!(
                "id = 't{tenant}'
sub_account = '212453834{tenant}'
credential = [{{ client_id = '{}', secret = {{ file = '../secrets/{tenant}.key' }} }}]
limits = {{ requests_per_second = 100_000, in_flight = 1_000 }}
",
                client_id(tenant)
            ),
        );
    }
}
