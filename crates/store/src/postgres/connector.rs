//! How a connection is made: the first host that is writable and keeps its commits.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::either::Either;

use super::session::{PgSession, Socket, chain, failed};
use crate::error::StoreError;
use crate::settings::PostgresSettings;

/// Everything that is needed to connect.
pub(super) struct PgConnector {
    config: Config,
    tls: MakeRustlsConnect,
    encrypted: bool,
    plaintext: bool,
    hosts: Vec<(Host, u16)>,
    per_host: Duration,
    /// The operator vouches for the engine's durability.
    lossless: bool,
}

/// How long a connection is idle before the kernel asks whether the peer is there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long bytes stay unacknowledged before the kernel closes a connection, in milliseconds.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS: u32 = 10_000;

/// The settings of a server that decide whether it may admit.
const SETTINGS: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
    current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
    to_regproc('aurora_version') IS NOT NULL, current_setting('server_encoding')";
/// The encodings in which every text of a caller can be written. In any other one such a text would fail its whole batch.
const ENCODINGS: [&str; 2] = ["UTF8", "SQL_ASCII"];

/// The proofs depend on these settings, so a session does not take them from the server, the database or the user: the
/// server sends the warning after a canceled wait for a standby, each statement sees the commits that it waited for, and a
/// later change of the server's `synchronous_commit` does not reach the session.
///
/// The server too finds out within seconds that this program is gone, as after a partition: its sessions would use up the
/// user's connections, and one might hold a lock.
///
/// Functions of the schema close scans of whole tables off by their planned cost. For the server such a plan is expensive
/// enough to be compiled, which takes a hundred times as long as running it, and more than a call's time limit while the
/// server is busy.
const SESSION: &str = "SET client_min_messages TO warning;
    SET default_transaction_isolation TO 'read committed';
    SET tcp_keepalives_idle TO 10; SET tcp_keepalives_interval TO 5; SET tcp_keepalives_count TO 3;
    SET tcp_user_timeout TO 10000; SET jit TO off;
    SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), false)";

impl PgConnector {
    pub(super) fn new(settings: &PostgresSettings, lossless: bool) -> Result<Self, StoreError> {
        let unusable = |error: &dyn std::error::Error| StoreError::Settings(chain(error));
        let mut config = parse(&settings.conninfo)?;
        if config.get_password().is_some() {
            let text = "the connection string holds a password; use `password`";
            return Err(StoreError::Settings(text.to_owned()));
        }
        if let Some(password) = &settings.password {
            config.password(password.as_str());
        }
        if config.get_application_name().is_none() {
            config.application_name("gatepay-proxy");
        }
        let hosts = hosts(&config)?;
        let encrypted = !settings.trusted.is_empty();
        Ok(Self {
            tls: MakeRustlsConnect::new(tls(settings).map_err(|error| unusable(&error))?),
            encrypted,
            plaintext: settings.plaintext,
            per_host: config
                .get_connect_timeout()
                .copied()
                .unwrap_or(Duration::from_millis(300)),
            config,
            hosts,
            lossless,
        })
    }

    /// A connection to the first writable host.
    pub(super) async fn connect(&self) -> Result<PgSession, StoreError> {
        let (mut reasons, mut is_denied) = (Vec::new(), false);
        for (host, port) in &self.hosts {
            let name = host_name(host);
            // Boxed, since it is rare, and much larger than the future of a statement, which would hold it.
            let attempt = Box::pin(self.connect_to(host, *port));
            let attempt = tokio::time::timeout(self.per_host, attempt);
            match attempt.await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error @ (StoreError::Unsafe(_) | StoreError::Settings(_)))) => {
                    return Err(error);
                }
                Ok(Err(error)) => {
                    is_denied |= error.is_lasting();
                    reasons.push(format!("{name}:{port}: {error}"));
                }
                Err(_) => {
                    let limit = self.per_host.as_millis();
                    reasons.push(format!("{name}:{port}: no answer within {limit} ms"));
                }
            }
        }
        let reasons = reasons.join("; ");
        Err(if is_denied {
            StoreError::Denied(reasons)
        } else {
            StoreError::Unreachable(reasons)
        })
    }

    async fn connect_to(&self, host: &Host, port: u16) -> Result<PgSession, StoreError> {
        let (socket, name, local) = open(host, port).await?;
        let mut config = self.config.clone();
        if self.encrypted && !matches!(host, Host::Unix(_)) {
            config.ssl_mode(SslMode::Require);
        } else if local || self.plaintext {
            config.ssl_mode(SslMode::Disable);
        } else {
            let name = host_name(host);
            return Err(StoreError::Settings(format!(
                "{name} is not this machine: set `ca` to encrypt the connection, or `plaintext = true`"
            )));
        }
        let mut tls = self.tls.clone();
        let Ok(tls) = MakeTlsConnect::<Socket>::make_tls_connect(&mut tls, &name);
        let connected = config.connect_raw(socket, tls).await;
        let (client, connection) = connected.map_err(|error| failed(&error))?;
        let mut session = PgSession::new(client, connection);
        // Notices of a login do not concern an admission: PostgreSQL warns at each login to a database that has collations
        // of another version of the C library.
        session.execute_script(SESSION).await?;
        check_settings(&mut session, self.lossless).await?;
        Ok(session)
    }
}

/// A connection string. The text of a parse error may quote the string, which may hold a password by mistake.
fn parse(conninfo: &str) -> Result<Config, StoreError> {
    let parsed = conninfo.parse();
    parsed.map_err(|_| StoreError::Settings("the connection string is not valid".to_owned()))
}

/// The hosts, the database and the user of a connection string, for people.
pub fn place(conninfo: &str) -> Result<String, StoreError> {
    let config = parse(conninfo)?;
    let hosts: Vec<_> = hosts(&config)?
        .iter()
        .map(|(host, port)| format!("{}:{port}", host_name(host)))
        .collect();
    let user = config.get_user().unwrap_or_default();
    // A server takes the user's name for a database that is not named.
    let database = config.get_dbname().unwrap_or(user);
    Ok(format!(
        "PostgreSQL at {}, database {database}, user {user}",
        hosts.join(", ")
    ))
}

async fn open(host: &Host, port: u16) -> Result<(Socket, String, bool), StoreError> {
    let lost = |error: std::io::Error| StoreError::Lost(error.to_string());
    match host {
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            let socket = UnixStream::connect(path).await.map_err(lost)?;
            Ok((Either::Right(socket), "localhost".to_owned(), true))
        }
        Host::Tcp(name) => {
            let socket = TcpStream::connect((name.as_str(), port)).await;
            let socket = socket.map_err(lost)?;
            socket.set_nodelay(true).map_err(lost)?;
            find_dead_peers(&socket).map_err(lost)?;
            let local = socket.peer_addr().is_ok_and(|peer| is_local(peer.ip()));
            Ok((Either::Left(socket), name.clone(), local))
        }
    }
}

/// Has the kernel close a connection whose peer is gone, also while nothing is sent on it.
fn find_dead_peers(socket: &TcpStream) -> std::io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE / 2)?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_MS)?;
    Ok(())
}

fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Refuses a server that cannot write, or that may lose an acknowledged commit by its settings.
///
/// Aurora has no files of its own: its storage keeps the log, and it shows `fsync` and `full_page_writes` as off. It needs
/// `failover = "lossless"`.
async fn check_settings(session: &mut PgSession, lossless: bool) -> Result<(), StoreError> {
    let rows = session.query(SETTINGS, &[]).await?;
    let row = rows.first().expect("a SELECT without FROM has one row");
    if row.get(0) {
        return Err(StoreError::ReadOnly);
    }
    let encoding: &str = row.get(5);
    if !ENCODINGS.contains(&encoding) {
        return Err(StoreError::Settings(format!(
            "the database has the encoding {encoding}: make it with `ENCODING 'UTF8' TEMPLATE template0`"
        )));
    }
    keeps_commits(row, 1, lossless)
}

/// Refuses settings by which an acknowledged commit may be lost: `fsync`, `full_page_writes`, `synchronous_commit` and whether
/// the engine is Aurora, in four columns from this one on.
pub(super) fn keeps_commits(row: &Row, first: usize, lossless: bool) -> Result<(), StoreError> {
    let setting = |column: usize| row.get::<_, &str>(first + column);
    let storage_keeps_log = lossless && row.get(first + 3);
    for (name, found, wanted) in [
        ("fsync", setting(0), &["on"][..]),
        ("full_page_writes", setting(1), &["on"]),
        ("synchronous_commit", setting(2), &["on", "remote_apply"]),
    ] {
        let is_storage = name != "synchronous_commit";
        if !(wanted.contains(&found) || is_storage && storage_keeps_log) {
            return Err(StoreError::Unsafe(format!(
                "{name} = {found}; set it to on for this server, database and user"
            )));
        }
    }
    Ok(())
}

fn hosts(config: &Config) -> Result<Vec<(Host, u16)>, StoreError> {
    let (hosts, ports) = (config.get_hosts(), config.get_ports());
    if hosts.is_empty() || ports.len() > 1 && ports.len() != hosts.len() {
        let text = "the connection string must name hosts, and one port or a port for each";
        return Err(StoreError::Settings(text.to_owned()));
    }
    let port = |index: usize| match ports {
        [] => 5432,
        [one] => *one,
        _ => ports[index],
    };
    let hosts = hosts.iter().enumerate();
    Ok(hosts
        .map(|(index, host)| (host.clone(), port(index)))
        .collect())
}

fn host_name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

fn tls(settings: &PostgresSettings) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in &settings.trusted {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match &settings.client {
        Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()),
        None => Ok(builder.with_no_client_auth()),
    }
}
