//! Real PostgreSQL servers on loopback, each in a temporary folder, for tests of the store.
//!
//! Servers run as an unprivileged user if the tests run as root. They end with their [`PgServer`], also on a panic, and
//! with the thread that started them if the process is killed.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::{PostgresSettings, StoreTerms};
use tempfile::TempDir;

/// A running server, or one that was killed.
pub(crate) struct PgServer {
    folder: TempDir,
    pub(crate) port: u16,
    process: Option<Child>,
}

/// Whether a commit waits for the standby.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandbyMode {
    Asynchronous,
    Synchronous,
}

/// A small server that starts quickly. `fsync` is on: the store refuses to admit without it.
const SETTINGS: [&str; 12] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "shared_buffers=16MB",
    // Files in the data directory, which a killed server does not leave behind elsewhere.
    "dynamic_shared_memory_type=mmap",
    "max_connections=40",
    "max_wal_senders=4",
    "min_wal_size=2MB",
    "wal_keep_size=64MB",
    "log_destination=stderr",
    "logging_collector=off",
    "log_checkpoints=off",
    "wal_receiver_status_interval=1s",
];

/// True if PostgreSQL is not installed, after printing that the test is skipped.
pub(crate) fn is_missing() -> bool {
    let missing = tool("initdb").is_none();
    if missing {
        eprintln!("skipped: PostgreSQL is not installed (`initdb`)");
    }
    missing
}

impl PgServer {
    /// A fresh server with the superuser `postgres`, without a password.
    pub(crate) fn start() -> Self {
        let folder = folder();
        copy(template(), &folder.path().join("data"));
        Self::run(folder)
    }

    /// Like [`start`](Self::start), with a system id of its own.
    pub(crate) fn start_with_another_identity() -> Self {
        let folder = folder();
        initialize(&folder.path().join("data"));
        Self::run(folder)
    }

    /// A fresh server with the store's tables.
    pub(crate) async fn migrated() -> Self {
        let server = Self::start();
        let store = PostgresStore::new(&settings(&[server.port]), StoreTerms::default()).unwrap();
        store.migrate(None).await.unwrap();
        server
    }

    fn run(folder: TempDir) -> Self {
        let mut server = Self {
            folder,
            port: 0,
            process: None,
        };
        // Another program may take the free port before the server does.
        for _ in 0..5 {
            server.port = free_port();
            server.spawn();
            if server.is_up() {
                return server;
            }
            server.kill();
        }
        panic!("PostgreSQL does not start: {}", server.log());
    }

    /// A hot standby that streams from this server.
    pub(crate) fn standby(&self, mode: StandbyMode) -> Self {
        self.standby_by_way_of(self.port, mode)
    }

    /// A hot standby that streams from this server by way of a relay's port.
    pub(crate) fn standby_by_way_of(&self, port: u16, mode: StandbyMode) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        let port = port.to_string();
        let (host, wal) = (["-h", "127.0.0.1", "-p", &port], ["-X", "stream"]);
        // A relay reads messages, so no request for encryption goes first; `-R` writes these settings down.
        run(as_server("pg_basebackup")
            .envs([("PGSSLMODE", "disable"), ("PGGSSENCMODE", "disable")])
            .args(host)
            .args(["-U", "postgres", "-R", "-c", "fast", "--no-sync", "-D"])
            .arg(&data)
            .args(wal));
        let standby = Self::run(folder);
        if mode == StandbyMode::Synchronous {
            self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
            self.sql("SELECT pg_reload_conf()");
        }
        let wanted = match mode {
            StandbyMode::Asynchronous => "async",
            StandbyMode::Synchronous => "sync",
        };
        until("the standby streams", || {
            self.sql("SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'")
                == wanted
        });
        standby
    }

    fn spawn(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let mut command = as_server("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .arg("-p")
            .arg(self.port.to_string());
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        self.process = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn is_up(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < Duration::from_mins(1) {
            let process = self.process.as_mut().unwrap();
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            if self.says_ready() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Whether the server has written beside its process id that it takes connections, as `pg_ctl` looks for it.
    fn says_ready(&self) -> bool {
        let state = fs::read_to_string(self.state_file()).unwrap_or_default();
        let mut lines = state.lines();
        let own = self.process.as_ref().map(|it| it.id().to_string());
        let is_own = lines.next() == own.as_deref();
        is_own && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    /// Starts a server again that was killed or stopped, on the same port.
    pub(crate) fn start_again(&mut self) {
        let began = Instant::now();
        // The shared memory of a killed server is free only after its last process has gone.
        while began.elapsed() < Duration::from_mins(1) {
            let _ = fs::remove_file(self.state_file());
            self.spawn();
            if self.is_up() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("PostgreSQL does not start again: {}", self.log());
    }

    /// `kill -9` of every process of the server.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            Self::signal_all(process.id(), "KILL");
            let _ = process.wait();
            self.free_shared_memory();
        }
    }

    /// Removes the System V segment that a killed server left behind.
    fn free_shared_memory(&self) {
        let state = fs::read_to_string(self.state_file()).unwrap_or_default();
        let segment = state
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1));
        if let Some(segment) = segment {
            let mut remove = Command::new("ipcrm");
            let _ = remove.args(["-m", segment]).stderr(Stdio::null()).status();
        }
    }

    /// An orderly end, with a checkpoint.
    pub(crate) fn stop(&mut self) {
        run(as_server("pg_ctl")
            .args(["stop", "-m", "fast", "-w", "-D"])
            .arg(self.data()));
        if let Some(mut process) = self.process.take() {
            process.wait().unwrap();
        }
    }

    /// Freezes every process of the server.
    pub(crate) fn pause(&self) {
        Self::signal_all(self.process.as_ref().unwrap().id(), "STOP");
    }

    /// Ends a [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        Self::signal_all(self.process.as_ref().unwrap().id(), "CONT");
    }

    /// The postmaster first, so that it starts no others.
    fn signal_all(postmaster: u32, signal: &str) {
        if signal == "KILL" {
            send("STOP", &[postmaster]);
        }
        let mut processes = children(postmaster);
        processes.push(postmaster);
        send(signal, &processes);
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        run(as_server("pg_ctl")
            .args(["promote", "-w", "-D"])
            .arg(self.data()));
    }

    /// The output of a statement, run by `psql` as the superuser.
    pub(crate) fn sql(&self, statement: &str) -> String {
        self.try_sql(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// Like [`sql`](Self::sql); the error is the text that `psql` wrote.
    pub(crate) fn try_sql(&self, statement: &str) -> Result<String, String> {
        let port = self.port.to_string();
        let output = Command::new(psql())
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-d",
                "postgres",
                "-p",
                &port,
            ])
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .env("PGCONNECT_TIMEOUT", "5")
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Copies all that this server holds into another one, by `pg_dump`.
    pub(crate) fn dump_into(&self, other: &Self) {
        let dump = self.folder.path().join("dump.sql");
        let connection = |port: u16| {
            ["-h", "127.0.0.1", "-U", "postgres", "-d", "postgres", "-p"]
                .map(str::to_owned)
                .into_iter()
                .chain([port.to_string()])
        };
        run(Command::new("pg_dump")
            .args(connection(self.port))
            .arg("-f")
            .arg(&dump));
        run(Command::new(psql())
            .args(connection(other.port))
            .args(["-Xq", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(&dump));
    }

    /// Lets every role but the superuser in with its password only.
    pub(crate) fn require_passwords(&self) {
        let rules = "host all,replication postgres 127.0.0.1/32 trust\n\
             host all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(self.data().join("pg_hba.conf"), rules).unwrap();
        self.sql("SELECT pg_reload_conf()");
        until("passwords are required", || {
            self.sql("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'scram-sha-256'")
                == "1"
        });
    }

    /// Answers TLS with this certificate and key, both in PEM, from the next connection on.
    pub(crate) fn encrypt(&self, certificate: &str, key: &str) {
        for (name, pem) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data().join(name);
            fs::write(&path, pem).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((user, group)) = unprivileged() {
                chown(&path, Some(user), Some(group)).unwrap();
            }
        }
        self.sql("ALTER SYSTEM SET ssl = on");
        self.sql("SELECT pg_reload_conf()");
        until("TLS is on", || self.sql("SHOW ssl") == "on");
    }

    /// The server's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where the server writes its process id, its shared memory and its status.
    fn state_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    /// Copies the data directory of a stopped server aside.
    pub(crate) fn save(&self, name: &str) {
        copy(&self.data(), &self.folder.path().join(name));
    }

    /// Puts a saved data directory back.
    pub(crate) fn restore(&self, name: &str) {
        fs::remove_dir_all(self.data()).unwrap();
        copy(&self.folder.path().join(name), &self.data());
    }

    /// The server's log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PgServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The connection string of servers on these ports, which are tried in this order.
pub(crate) fn conninfo(ports: &[u16]) -> String {
    let hosts = vec!["127.0.0.1"; ports.len()].join(",");
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!(
        "host={hosts} port={} dbname=postgres user=postgres",
        ports.join(",")
    )
}

/// Settings for servers on these ports, which are tried in this order.
pub(crate) fn settings(ports: &[u16]) -> PostgresSettings {
    PostgresSettings {
        conninfo: conninfo(ports) + " connect_timeout=2",
        password: None,
        trusted: Vec::new(),
        client: None,
        plaintext: false,
        contact_file: None,
    }
}

/// Waits for a condition, for a minute at most.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_mins(1), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A data directory that each server gets a copy of, since `initdb` takes a second. It is kept with the build's files.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let built = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let kept = built.join("postgres-template-1");
        if !kept.is_dir() {
            let folder = folder();
            initialize(&folder.path().join("data"));
            let next = built.join(format!("postgres-template-{}", std::process::id()));
            copy(&folder.path().join("data"), &next);
            // Another test program may have been quicker.
            if fs::rename(&next, &kept).is_err() {
                let _ = fs::remove_dir_all(&next);
            }
        }
        kept
    })
}

fn initialize(data: &Path) {
    run(as_server("initdb")
        .args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ])
        .args(["--wal-segsize=1", "-D"])
        .arg(data));
}

/// An empty folder that the server's user owns; in memory if possible, where `fsync` costs nothing.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let folder = tempfile::Builder::new()
        .prefix("gatepay-postgres-")
        .tempdir_in(parent)
        .unwrap();
    if let Some((user, group)) = unprivileged() {
        chown(folder.path(), Some(user), Some(group)).unwrap();
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// A program of the server, as an unprivileged user, that ends with the thread that started it.
fn as_server(program: &str) -> Command {
    let path = tool(program).unwrap_or_else(|| panic!("{program} is not installed"));
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some((user, group)) = unprivileged() {
        command
            .arg(format!("--reuid={user}"))
            .arg(format!("--regid={group}"))
            .arg("--clear-groups");
    }
    command.arg(path).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// The user `postgres`, or else `nobody`, if this process is root's.
fn unprivileged() -> Option<(u32, u32)> {
    let root = fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |wanted: &str| {
        let line = users
            .lines()
            .find(|line| line.split(':').next() == Some(wanted))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    root.then(|| find("postgres").or_else(|| find("nobody")))?
}

/// A program in `PATH`, or where Debian keeps the server's.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    let mut candidates = std::env::split_paths(&path)
        .chain(debian)
        .map(|folder| folder.join(name));
    candidates.find(|path| path.is_file())
}

/// The client beside the server. The one in Debian's `PATH` is a script around it, and takes ten times as long.
fn psql() -> PathBuf {
    let beside = tool("initdb").map(|initdb| initdb.with_file_name("psql"));
    beside
        .filter(|path| path.is_file())
        .unwrap_or("psql".into())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&said)
    );
}

fn send(signal: &str, processes: &[u32]) {
    let processes = processes.iter().map(ToString::to_string);
    let _: io::Result<_> = Command::new("kill")
        .arg(format!("-{signal}"))
        .args(processes)
        .stderr(Stdio::null())
        .status();
}

/// The processes that this one started.
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_parent = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name in parentheses may hold spaces.
        let rest = stat.rsplit_once(") ").map_or("", |it| it.1);
        rest.split(' ').nth(1) == Some(&parent.to_string())
    };
    numbers.filter(of_parent).collect()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
