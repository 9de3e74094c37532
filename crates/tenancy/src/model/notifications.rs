//! GatePay's notifications: the settings of their listener, and of their delivery to a tenant.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use gatepay_core::ClientId;
use gatepay_core::delivery_schedule::AckRule;
use gatepay_core::destination::{DestinationRules, DestinationUrl};
use ipnet::IpNet;

use crate::model::tls_files::{ListenTls, StoreClientFiles};

/// `[notifications]` of `proxy.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationSettings {
    /// Where GatePay connects.
    pub address: SocketAddr,
    /// TLS, or plain HTTP behind a proxy that has TLS.
    pub tls: Option<ListenTls>,
    /// The path of GatePay's calls, without a final slash; empty for the root. Paths below it are accepted too.
    pub path: String,
    /// The URL under which GatePay reaches `path`, without a final slash.
    pub public_url: String,
    /// The networks that GatePay calls from; empty means any.
    pub addresses: Vec<IpNet>,
    /// The bounds of the tenants' endpoints.
    pub endpoints: EndpointBounds,
    /// Whether GatePay may be asked for the owner of an object.
    pub ask: bool,
    /// How long one delivery may take.
    pub deadline: Duration,
    /// Deliveries at the same time, to all tenants together.
    pub attempts_at_once: NonZeroU32,
    /// How long notifications are kept.
    pub keep_days: NonZeroU32,
}

impl NotificationSettings {
    /// A tenant that does not answer holds an attempt as long as GatePay holds a call of ours at most.
    pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
    /// An attempt ends within the claim of its endpoint, after which another instance may send the notification.
    pub const LONGEST_DEADLINE: Duration = Duration::from_secs(22);
    /// Each attempt is a connection and some memory; a tenth of them is one tenant's at most.
    pub(crate) const ATTEMPTS_AT_ONCE: NonZeroU32 =
        NonZeroU32::new(256).expect("a constant that is not zero");
    /// Longer than any dispute about a payment waits for its first question.
    pub(crate) const KEEP_DAYS: NonZeroU32 =
        NonZeroU32::new(90).expect("a constant that is not zero");
    /// The path in the examples.
    pub(crate) const PATH: &str = "/gatepay";

    /// Whether a notification may come from an address.
    pub fn allows_caller(&self, address: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|net| net.contains(&address))
    }

    /// The URL that is given to GatePay in place of a tenant's own.
    pub fn url_of_token(&self, token: &str) -> String {
        format!("{}{}{token}", self.public_url, Self::TOKENS)
    }

    /// Between [`path`](Self::path) and a token.
    pub const TOKENS: &str = "/n/";
}

/// The bounds within which tenants' endpoints lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointBounds {
    /// The ports that an endpoint may have.
    pub ports: Vec<u16>,
    /// Networks that are allowed although they are not on the public Internet.
    pub allow_networks: Vec<IpNet>,
}

impl EndpointBounds {
    /// Whether a special address is allowed.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow_networks.iter().any(|net| net.contains(&address))
    }

    /// The bounds as rules for URLs.
    pub fn with_rules<T>(&self, judge: impl FnOnce(&DestinationRules<'_>) -> T) -> T {
        judge(&DestinationRules {
            ports: &self.ports,
            allows: &|address| self.allows(address),
        })
    }
}

impl Default for EndpointBounds {
    fn default() -> Self {
        Self {
            // The ports of web servers: a port of something else is an attack or a mistake.
            ports: vec![443, 8_443],
            allow_networks: Vec::new(),
        }
    }
}

/// `[notifications]` of a tenant's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantNotifications {
    /// The endpoint; without it the tenant pulls.
    pub url: Option<DestinationUrl>,
    /// The origins that a `callbackUrl` of the tenant's calls may have, besides that of `url`.
    pub urls: Vec<DestinationUrl>,
    /// The client id of the tenant's credential that signs deliveries; by default the one that the tenant signs with.
    pub credential: Option<ClientId>,
    /// Certificates to trust instead of the system's, PEM.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to the endpoint, and its key.
    pub client_certificate: Option<StoreClientFiles>,
    /// Whose client id a delivered body has.
    pub client_id: DeliveredClientId,
    /// The answers that count as an acknowledgment.
    pub ack: AckRule,
    /// Deliveries to the endpoint at the same time.
    pub at_once: NonZeroU32,
}

impl TenantNotifications {
    /// The largest number of origins that a tenant's calls may name.
    pub(crate) const MOST_ORIGINS: usize = 16;
    /// One object's news waits for no other's, and a small shop's server still has room for its shoppers.
    pub(crate) const AT_ONCE: NonZeroU32 = NonZeroU32::new(4).expect("a constant that is not zero");

    /// Whether a `callbackUrl` is the tenant's own endpoint, or has one of its origins.
    pub fn owns(&self, callback: &DestinationUrl) -> bool {
        let is_own = self.url.iter().any(|url| url == callback);
        is_own || self.urls.iter().any(|url| url.has_origin_of(callback))
    }
}

/// Whose client id stands in the body of a delivery where GatePay wrote the institution's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveredClientId {
    /// The tenant's, in the place of the institution's.
    Tenant,
    /// The institution's, as GatePay sent it.
    AsSent,
}

impl DeliveredClientId {
    /// Its words in a tenant's file.
    pub(crate) const WORDS: &[(&str, Self)] =
        &[("tenant", Self::Tenant), ("as_sent", Self::AsSent)];

    /// Its word in a tenant's file.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::AsSent => "as_sent",
        }
    }
}
