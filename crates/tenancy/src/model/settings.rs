//! `proxy.toml` as used: the process, in types that cannot be wrong, with every default and its reason.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::check::Strictness;
use gatepay_core::{Credential, SecretKey, SigningKey, StampWindow};
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::model::caps::CapSettings;
use crate::model::facts::ConfigFacts;
use crate::model::notifications::NotificationSettings;
use crate::model::party::{DEFAULT_WINDOW, DatedCredential, PartyId, Rate};
pub use crate::model::tls_files::{ListenTls, StoreClientFiles};
pub use crate::model::url::UpstreamUrl;

/// Everything `proxy.toml` says, with defaults in place and paths resolved against its folder.
pub struct Settings {
    /// The folder of tenant files, or the one file.
    pub tenants: PathBuf,
    /// The folder of operator files, or the one file; without it there are no operators.
    pub operators: Option<PathBuf>,
    /// Where replay memory is handed over, and the lock lies.
    pub state_dir: Option<PathBuf>,
    /// How often files are looked at for changes.
    pub poll: Duration,
    /// Whether a change that removes many tenants, or moves one to another sub-account, has to be confirmed.
    pub reload_guard: bool,
    /// Which statuses refusals have.
    pub refusal_status: RefusalStatus,
    /// Whether every answer has the rest of the caller's rate, not only a 429.
    pub ratelimit_headers: bool,
    /// How strictly bodies are checked.
    pub checks: Strictness,
    /// The treatment of a callback URL on a fixed address.
    pub fixed_address_callback: FixedAddressCallback,
    /// Which currencies a balance query asks for when the tenant names none; at least one.
    pub balance_currencies: Vec<String>,
    /// The clock that stamps upstream requests.
    pub clock: ClockSource,
    /// The tenants' side.
    pub listen: ListenSettings,
    /// The operators' side.
    pub admin: AdminSettings,
    /// GatePay's side.
    pub upstream: UpstreamSettings,
    /// A proxy on the way there, which tunnels.
    pub egress: Option<EgressSettings>,
    /// The institution's identity at GatePay. Shared: a reload replaces it.
    pub institution: Arc<Institution>,
    /// How far tenants' stamps may lie from our clock.
    pub window: StampWindow,
    /// How the process ends.
    pub drain: DrainSettings,
    /// Which characters a secret may have.
    pub secret_text: SecretText,
    /// The audit journal; without it nothing is written down.
    pub audit: Option<AuditSettings>,
    /// The store that instances share; without it this process is the only one.
    pub store: Option<StoreSettings>,
    /// GatePay's notifications; without it they do not come through.
    pub notifications: Option<NotificationSettings>,
    /// The orders that need more than one operator.
    pub approvals: ApprovalRule,
    /// Money caps: over all tenants, and the terms of each.
    pub caps: CapSettings,
    /// The metrics' settings.
    pub metrics: MetricsSettings,
    /// How the log looks.
    pub log: LogSettings,
    /// All of this as `proxy.toml` writes it, for comparing; empty if it comes from no file.
    pub written: ConfigFacts,
}

/// Which HTTP statuses refusals have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalStatus {
    /// HTTP's statuses.
    Http,
    /// GatePay's: 200, for clients that read only the envelope.
    Gatepay,
}

impl RefusalStatus {
    /// Its words in `proxy.toml`.
    pub(crate) const WORDS: &[(&str, Self)] = &[("http", Self::Http), ("gatepay", Self::Gatepay)];
}

/// Which content coding of an answer GatePay is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptEncoding {
    /// None.
    Identity,
    /// `gzip`, of an answer to a read whose caller accepts it.
    Gzip,
}

impl AcceptEncoding {
    /// Its words in `proxy.toml`.
    pub(crate) const WORDS: &[(&str, Self)] = &[("identity", Self::Identity), ("gzip", Self::Gzip)];
}

/// The treatment of a `callbackUrl` in a fixed-address call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FixedAddressCallback {
    /// The call is refused.
    Refuse,
    /// It is passed on as it is.
    Forward,
    /// The proxy's own URL is sent in its place, and the notifications that arrive there go to the tenant's endpoint.
    Relay,
}

impl FixedAddressCallback {
    /// Its words in `proxy.toml`.
    pub(crate) const WORDS: &[(&str, Self)] = &[
        ("refuse", Self::Refuse),
        ("forward", Self::Forward),
        ("relay", Self::Relay),
    ];
}

/// The clock that stamps upstream requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSource {
    /// The machine's.
    Local,
    /// The machine's, corrected by GatePay's `Date`.
    Follow,
}

impl ClockSource {
    /// Its words in `proxy.toml`.
    pub(crate) const WORDS: &[(&str, Self)] = &[("local", Self::Local), ("follow", Self::Follow)];
}

/// The tenants' side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    /// Where tenants connect.
    pub address: SocketAddr,
    /// Worker threads; `None` means one per core.
    pub threads: Option<NonZeroUsize>,
    /// TLS, or plain HTTP.
    pub tls: Option<ListenTls>,
    /// The proxies whose `X-Forwarded-For` and PROXY header are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections of trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// How long a head may take.
    pub head_timeout: Duration,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How much of it has to arrive in a second, once half of that time is over.
    pub body_bytes_per_second: NonZeroU32,
    /// How long a caller may take nothing of its answer.
    pub answer_timeout: Duration,
    /// How long a connection may idle.
    pub idle_timeout: Duration,
    /// How long a connection may be open; after that it ends as soon as no request is under way.
    pub connection_age: Duration,
    /// The largest body, in bytes.
    pub body_limit: u64,
    /// Connections at the same time.
    pub max_connections: NonZeroUsize,
    /// Connections from one address at the same time.
    pub max_connections_per_address: NonZeroUsize,
    /// Requests being answered at the same time.
    pub max_requests: NonZeroUsize,
}

/// The operators' side.
pub struct AdminSettings {
    /// Where operators and Prometheus connect.
    pub address: SocketAddr,
    /// The bearer token on an address other than loopback; compare with [`SigningKey::same_secret`].
    pub token: Option<SigningKey>,
    /// People and programs with a token of their own, by whose name their actions are recorded.
    pub operators: Vec<AdminOperator>,
}

/// A person or program that acts on the admin address under a name.
pub struct AdminOperator {
    /// The name in the audit journal, the log and answers. It is one that is safe there.
    pub name: PartyId,
    /// What is presented; compare with [`SigningKey::same_secret`].
    pub token: SigningKey,
    /// Whether it may approve calls of tenants.
    pub approves: bool,
}

impl AdminSettings {
    /// The name under which actions with `admin.token` are recorded.
    pub const SHARED_TOKEN: &str = "admin.token";
    /// The name under which actions without a token are recorded, where none is configured.
    pub const LOOPBACK: &str = "loopback";
}

/// GatePay's side.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamSettings {
    /// Where GatePay is.
    pub url: UpstreamUrl,
    /// Certificates to trust instead of the system's, PEM.
    pub ca: Option<PathBuf>,
    /// Connections at the same time, of all workers together.
    pub max_connections: NonZeroUsize,
    /// Of those, how many are kept without a request.
    pub max_idle_connections: usize,
    /// How long one of them is kept, unless GatePay's side says less.
    pub idle_timeout: Duration,
    /// How long connecting may take: name, egress proxy and TLS together.
    pub connect_timeout: Duration,
    /// Whether plain HTTP to another machine is meant.
    pub plaintext: bool,
    /// Which coding of an answer is allowed.
    pub accept_encoding: AcceptEncoding,
    /// How long one call may take, all attempts together.
    pub deadline: Duration,
    /// How long the outcome of a write or money call with an unknown outcome is looked up; zero disables it.
    pub resolve: Duration,
    /// How many attempts may be repeats, as a part of the traffic, 0 to 1.
    pub repeat_budget: f64,
    /// When GatePay is taken for down.
    pub breaker: BreakerSettings,
    /// The institution's quota at GatePay, over all tenants.
    pub quota: QuotaSettings,
}

/// An egress proxy that makes tunnels (HTTP `CONNECT`); it cannot read their traffic.
pub struct EgressSettings {
    /// Where it is; plain HTTP.
    pub url: UpstreamUrl,
    /// Its `Proxy-Authorization`, if it needs one.
    pub authorization: Option<EgressCredentials>,
}

/// The value of `Proxy-Authorization`. It cannot be printed.
pub struct EgressCredentials(Zeroizing<String>);

impl EgressCredentials {
    /// Of a user and a password with a colon between them.
    pub fn basic(credentials: &SecretKey) -> Option<Self> {
        credentials.to_basic().map(Self)
    }

    /// The header's value.
    pub fn header(&self) -> &str {
        &self.0
    }
}

/// When GatePay is taken for down, so that nothing is sent to it but a read of the proxy's own now and then; and when it fails
/// one party alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerSettings {
    /// The number of failures in a row; 0 for never.
    pub failures: u32,
    /// The part of the attempts that fail, 0 to 1, once there are enough of them; 0 for never.
    pub ratio: f64,
}

/// The institution's quota at GatePay, over all tenants.
#[derive(Debug, Clone, PartialEq)]
pub struct QuotaSettings {
    /// Over everything that is sent.
    pub rate: Rate,
    /// The part kept for write and money calls, 0 to 0.5.
    pub reserve: f64,
    /// Below this, in requests per second, the rate does not fall when GatePay pushes back. Default: a tenth of the rate.
    pub floor: Option<NonZeroU32>,
    /// Calls at GatePay at the same time.
    pub in_flight: Option<NonZeroU32>,
    /// Codes of GatePay's by which it pushes back, besides HTTP 429.
    pub pushback_codes: Vec<String>,
    /// The limits that are evaluated and counted, but not enforced.
    pub shadow: QuotaShadow,
}

/// Parts of the institution's quota that are evaluated and counted, but not enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaShadow {
    /// Fair shares, lending and the reserve: calls are served first come, first served.
    pub shares: bool,
    /// Calls at the same time.
    pub in_flight: bool,
    /// The rate itself: GatePay refuses the excess.
    pub rate: bool,
}

/// The institution's identity at GatePay.
pub struct Institution {
    /// Its own account, for operators' calls.
    pub account_id: Option<String>,
    /// Its merchant id, for fee settings.
    pub merchant_id: Option<String>,
    /// Its credentials; at least one.
    pub credentials: Vec<DatedCredential>,
}

impl Institution {
    /// The credential to sign with: of the credentials that have begun, the one that began last, so that a new key takes over by
    /// itself. `None` while none has begun.
    pub fn credential_at(&self, now_ms: u64) -> Option<&Credential> {
        let begun = self
            .credentials
            .iter()
            .filter(|dated| dated.valid_at(now_ms));
        let latest = begun.max_by_key(|dated| dated.not_before);
        latest.map(|dated| &dated.credential)
    }
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// How long it still answers, asking callers to go elsewhere.
    pub grace: Duration,
    /// How long in all until the process has ended, finished or not.
    pub deadline: Duration,
}

/// Which characters a secret may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecretText {
    /// Visible ASCII: others were put there by an editor or a paste.
    #[default]
    Visible,
    /// All but white space and control characters.
    Any,
}

impl SecretText {
    /// Its words in `proxy.toml`.
    pub(crate) const WORDS: &[(&str, Self)] = &[("visible", Self::Visible), ("any", Self::Any)];
}

/// The audit journal.
pub struct AuditSettings {
    /// Its folder.
    pub dir: PathBuf,
    /// The key that its records are chained with.
    pub key: SigningKey,
    /// Before a file would be larger than this, in bytes, another is begun.
    pub file_bytes: u64,
    /// When a file is older than this another is begun.
    pub file_age: Duration,
}

impl AuditSettings {
    /// Some 60,000 calls: small enough to open, large enough not to count in thousands.
    pub const FILE_BYTES: u64 = 64 * 1024 * 1024;
    /// A day's calls stand in a day's files.
    pub const FILE_AGE: Duration = Duration::from_hours(24);
}

/// The store: the memory that instances share.
pub struct StoreSettings {
    /// The engine that holds it.
    pub engine: StoreEngine,
    /// Whether a failover of the engine may lose an acknowledged commit.
    pub failover: StoreFailover,
    /// How long a call to the store may take, connecting included.
    pub timeout: Duration,
    /// How far clocks may differ, in milliseconds: those of the engine's machines from each other, and an instance's
    /// from the engine's.
    pub max_skew_ms: u64,
    /// The largest number of instances: one that cannot reach the store divides every shared limit by it.
    pub instances_max: NonZeroU32,
    /// Whether reads without a body go on while the store is away. Writes without a body are then always refused.
    pub reads_without_store: bool,
}

/// The engine of a store.
pub enum StoreEngine {
    /// A PostgreSQL server that any number of instances share.
    Postgres(Box<PostgresServer>),
    /// A SQLite file of one process.
    File(PathBuf),
}

/// How to reach a PostgreSQL server.
pub struct PostgresServer {
    /// A libpq connection string of keys and values, without a password.
    pub conninfo: String,
    /// The password.
    pub password: Option<StorePassword>,
    /// The certificates that the server's is verified with, PEM. Without them only plain connections are possible.
    pub ca: Option<PathBuf>,
    /// The client certificate.
    pub client: Option<StoreClientFiles>,
    /// Whether connections without TLS to other machines are meant.
    pub plaintext: bool,
}

/// The password of a database. It cannot be printed.
pub struct StorePassword(Zeroizing<String>);

impl StorePassword {
    /// The password that a secret is.
    pub fn new(secret: &SecretKey) -> Self {
        Self(secret.to_password())
    }

    /// A copy for the connection.
    pub fn reveal(&self) -> Zeroizing<String> {
        self.0.clone()
    }
}

/// Whether a failover of the store's engine may lose an acknowledged commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFailover {
    /// A failover may lose commits: after it, stamps that may have been admitted before are refused.
    Guarded,
    /// A failover loses nothing, on the operator's word.
    Lossless,
}

impl StoreFailover {
    /// Its words in `proxy.toml`.
    pub(crate) const WORDS: &[(&str, Self)] =
        &[("guarded", Self::Guarded), ("lossless", Self::Lossless)];
}

impl StoreSettings {
    /// The longest `max_skew_ms`. Clocks that follow NTP differ by less; a guard is longer by as much.
    pub const LONGEST_SKEW_MS: u64 = 60_000;

    /// The most instances that share limits; `None` with an engine of one process.
    pub fn sharing(&self) -> Option<NonZeroU32> {
        matches!(self.engine, StoreEngine::Postgres(_)).then_some(self.instances_max)
    }

    /// A store in this engine, everything else at its default.
    pub fn new(engine: StoreEngine) -> Self {
        Self {
            engine,
            // An engine has to be known well before it may be trusted with this.
            failover: StoreFailover::Guarded,
            // A commit takes some milliseconds; callers should not wait longer for a database that is away.
            timeout: Duration::from_secs(1),
            // Machines that follow NTP differ by some milliseconds.
            max_skew_ms: 1_000,
            instances_max: NonZeroU32::new(8).expect("not zero"),
            // Without the store a read can be repeated at another instance.
            reads_without_store: false,
        }
    }
}

/// How many operators an order needs that may show one tenant another's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalRule {
    /// One: the order is carried out at once.
    One,
    /// Two different operators, each with a token of its own.
    Two,
}

impl ApprovalRule {
    /// The number of operators.
    pub const fn count(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// The metrics' settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// How many tenants have series of their own.
    pub max_tenants: usize,
    /// Tenant ids that always get series of their own.
    pub pinned: Vec<PartyId>,
    /// Whether the histograms of durations tell operations apart.
    pub operation_histograms: bool,
}

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogSettings {
    /// The form of a line.
    pub format: LogFormat,
    /// Which part of the successes has an access line; money calls always have one.
    pub sample_successes: f64,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// For a terminal.
    Human,
}

impl LogFormat {
    /// Its words in `proxy.toml`.
    pub(crate) const WORDS: &[(&str, Self)] = &[("json", Self::Json), ("human", Self::Human)];
}

impl Settings {
    /// The longest `timestamp.future_ms`: the limit of the payment pages. A start without a replay hand-over waits for as
    /// long.
    pub const LONGEST_FUTURE_MS: u64 = 300_000;

    /// Everything at its default, for a process that is told no more than this.
    pub fn new(url: UpstreamUrl, institution: Institution) -> Self {
        Self {
            tenants: "tenants.d".into(),
            operators: None,
            state_dir: None,
            // A change applies within seconds; a poll costs one listing of a folder.
            poll: Duration::from_secs(2),
            // An empty folder must not turn off the business.
            reload_guard: true,
            refusal_status: RefusalStatus::Http,
            // Two header lines on every answer, which few clients read.
            ratelimit_headers: false,
            checks: Strictness::Certain,
            // GatePay would call that URL past the proxy, signed with the institution's secret.
            fixed_address_callback: FixedAddressCallback::Refuse,
            // GatePay's answer to an empty list is not documented (protocol.md 2). Its samples are paid in these:
            // two dollars, the two largest coins, and Gate's own.
            balance_currencies: ["USDT", "USDC", "BTC", "ETH", "GT"]
                .map(String::from)
                .into(),
            clock: ClockSource::Local,
            listen: ListenSettings::default(),
            admin: AdminSettings::default(),
            upstream: UpstreamSettings::new(url),
            egress: None,
            institution: Arc::new(institution),
            window: DEFAULT_WINDOW,
            drain: DrainSettings::default(),
            secret_text: SecretText::default(),
            audit: None,
            store: None,
            notifications: None,
            approvals: ApprovalRule::One,
            caps: CapSettings::default(),
            metrics: MetricsSettings::default(),
            log: LogSettings::default(),
            written: ConfigFacts::new(),
        }
    }
}

impl ListenSettings {
    /// The default of `max_connections_per_address`: a tenth of all, so that one caller is no danger to the others, but at least
    /// as many as a busy shop's pool.
    pub fn share(max_connections: NonZeroUsize) -> NonZeroUsize {
        let pool = NonZeroUsize::new(100).expect("not zero");
        let tenth = NonZeroUsize::new(max_connections.get() / 10);
        tenth.map_or(pool, |tenth| tenth.max(pool))
    }

    /// The default limit on requests: one on each connection, as HTTP/1 has them; with few connections HTTP/2 has more.
    pub fn requests(max_connections: NonZeroUsize) -> NonZeroUsize {
        max_connections.max(NonZeroUsize::new(1_000).expect("not zero"))
    }
}

impl Default for ListenSettings {
    fn default() -> Self {
        // More than a machine of a few cores has callers for; `check` prints the memory they may hold.
        let max_connections = NonZeroUsize::new(10_000).expect("not zero");
        Self {
            // Loopback, unless configured.
            address: (Ipv4Addr::LOCALHOST, 8080).into(),
            threads: None,
            tls: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            // A head is one packet or a few; a slower caller only holds a connection.
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            // Slower than any line of today; a body that drips holds memory for nothing.
            body_bytes_per_second: NonZeroU32::new(1_024).expect("not zero"),
            // As long as common clients wait for an answer.
            answer_timeout: Duration::from_secs(30),
            // Above the 90 s of common clients, or their reused connections die under a payment.
            idle_timeout: Duration::from_mins(2),
            // As nginx has it (`keepalive_time`): callers look up the name again, and a load balancer spreads them anew.
            connection_age: Duration::from_hours(1),
            // Far above the largest JSON body of the documentation.
            body_limit: 1_048_576,
            max_connections,
            max_connections_per_address: Self::share(max_connections),
            max_requests: Self::requests(max_connections),
        }
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            // Loopback, never the tenants' address.
            address: (Ipv4Addr::LOCALHOST, 9090).into(),
            token: None,
            operators: Vec::new(),
        }
    }
}

impl UpstreamSettings {
    /// GatePay at this address, everything else at its default.
    pub fn new(url: UpstreamUrl) -> Self {
        Self {
            url,
            ca: None,
            // Enough for 500 requests a second of one second each; and no more sockets than GatePay would stand from one
            // address.
            max_connections: NonZeroUsize::new(512).expect("not zero"),
            // A second's burst finds them open; each costs GatePay memory.
            max_idle_connections: 128,
            // Below the 60 s of common load balancers, which close without a word.
            idle_timeout: Duration::from_secs(50),
            // GatePay answers in less, or not at all.
            connect_timeout: Duration::from_secs(5),
            plaintext: false,
            // An answer that the proxy reads as it is costs it least.
            accept_encoding: AcceptEncoding::Identity,
            // Below the 30 s after which common clients give up, so that they get the call's outcome.
            deadline: Duration::from_secs(15),
            // On top of the deadline: a caller that waits 30 s still hears the outcome.
            resolve: Duration::from_secs(5),
            // Enough for occasional failures; in an outage it adds a tenth to the load, not double.
            repeat_budget: 0.1,
            breaker: BreakerSettings::default(),
            quota: QuotaSettings::default(),
        }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            // More than a deploy of GatePay's resets at once; a tenth of a second at a hundred requests a second.
            failures: 10,
            // Half of the answers are worth having: a call that fails says so truthfully.
            ratio: 0.5,
        }
    }
}

impl Default for QuotaSettings {
    fn default() -> Self {
        // GatePay publishes no limit (protocol.md 4.3). This is one to be told otherwise about, not to be found out by.
        let most = NonZeroU32::new(500).expect("not zero");
        Self {
            rate: Rate {
                per_second: most,
                burst: most,
            },
            // Payments are few beside the polling for their outcome; a tenth is far more than they need.
            reserve: 0.1,
            floor: None,
            in_flight: None,
            pushback_codes: Vec::new(),
            shadow: QuotaShadow::default(),
        }
    }
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            // Longer than a load balancer takes to notice.
            grace: Duration::from_secs(5),
            // Beyond the upstream deadline, and below the 30 s after which Kubernetes kills.
            deadline: Duration::from_secs(25),
        }
    }
}

impl Default for MetricsSettings {
    fn default() -> Self {
        // Each has some dozens of series; Prometheus carries tens of thousands with ease.
        Self {
            max_tenants: 1_000,
            pinned: Vec::new(),
            // Which call became slow is the first question about a slow minute.
            operation_histograms: true,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        // A log is read by programs first.
        Self {
            format: LogFormat::Json,
            // Questions about a request come within days, and disks are cheaper than the answer "unknown".
            sample_successes: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::{ClientId, SecretKey};
    use static_assertions::assert_not_impl_any;
    use std::fmt;

    assert_not_impl_any!(EgressCredentials: fmt::Debug, fmt::Display, serde::Serialize, Clone);
    assert_not_impl_any!(StorePassword: fmt::Debug, fmt::Display, serde::Serialize, Clone);
    assert_not_impl_any!(AdminOperator: fmt::Debug, fmt::Display, serde::Serialize, Clone);
    assert_not_impl_any!(Settings: fmt::Debug, fmt::Display, serde::Serialize, Clone);

    fn institution(begins: &[Option<u64>]) -> Institution {
        let credential = |(index, not_before): (usize, &Option<u64>)| {
            let name = format!("key-{index}");
            let secret = SecretKey::new(Zeroizing::new(name.clone())).unwrap();
            DatedCredential {
                credential: Credential::new(ClientId::parse(&name).unwrap(), &secret),
                not_before: *not_before,
                not_after: None,
            }
        };
        Institution {
            account_id: None,
            merchant_id: None,
            credentials: begins.iter().enumerate().map(credential).collect(),
        }
    }

    fn at(institution: &Institution, now_ms: u64) -> Option<&str> {
        let credential = institution.credential_at(now_ms)?;
        Some(credential.client_id.as_str())
    }

    #[test]
    fn a_new_institution_key_takes_over_at_its_not_before() {
        let institution = institution(&[Some(100), None, Some(200)]);
        let keys = [0, 99, 100, 199, 200].map(|now| at(&institution, now).unwrap());
        assert_eq!(keys, ["key-1", "key-1", "key-0", "key-0", "key-2"]);
    }

    #[test]
    fn before_the_first_not_before_no_institution_key_is_current() {
        assert_eq!(at(&institution(&[Some(100)]), 99), None);
    }
}
