//! Tenant target: the endpoints as the configuration in force and the parties' standing have them.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::Credential;
use gatepay_core::delivery_schedule::DeliveryOutcome;
use gatepay_core::destination::DestinationUrl;
use gatepay_core::notification::Notification;
use gatepay_http1::header_block::HeaderBlock;
use gatepay_store::notifications::delivery::{DueEvent, EndpointKey, UrlPrint};
use gatepay_tenancy::notifications::{DeliveredClientId, EndpointBounds, TenantNotifications};
use gatepay_tenancy::settings::MetricsSettings;
use gatepay_tenancy::{PartyRef, Standing};
use rustls::ClientConfig;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::generation::Generation;
use crate::notify::deliver::attempt::{AttemptResult, AttemptWord};
use crate::notify::deliver::signed_delivery::{self, DeliveryCredentials, DeliveryFacts};
use crate::notify::deliver::target::{
    AttemptFuture, DeliveryHold, DeliveryTarget, TargetDirectory,
};
use crate::notify::endpoint::client::{EndpointClient, EndpointNetwork, LOOKUPS};
use crate::notify::owner::registered_tenants::{INSTITUTION_ACCOUNT, whole_url};
use crate::process::clock::Clock;
use crate::tls::config;

/// How long the certificates of a tenant's files are used before they are read again.
const FILES_AGE: Duration = Duration::from_mins(5);

/// Gives the configuration in force.
pub type ConfigurationInForce = Box<dyn Fn() -> Arc<Generation> + Send>;
/// Whether a tenant is suspended by hand, in this process or for all instances.
pub type SuspendedByHand = Box<dyn Fn(&str) -> bool + Send>;

/// The endpoints of all tenants.
pub struct TenantDirectory {
    in_force: ConfigurationInForce,
    suspended: SuspendedByHand,
    clock: Clock,
    bounds: EndpointBounds,
    metrics: MetricsSettings,
    network: Arc<EndpointNetwork>,
    /// The trust in the system's authorities, for endpoints without certificates of their own.
    system_trust: Arc<ClientConfig>,
    clients: RefCell<HashMap<EndpointKey, KnownClient>>,
    /// The permits of each tenant to resolve names. They outlive its clients, as a look-up may.
    lookups: RefCell<HashMap<String, Arc<Semaphore>>>,
}

/// The client for an endpoint, with what it was made from.
struct KnownClient {
    url: DestinationUrl,
    settings: Arc<TenantNotifications>,
    made: Instant,
    client: Arc<EndpointClient>,
}

/// One endpoint, for one attempt.
pub(super) struct TenantTarget {
    pub(super) generation: Arc<Generation>,
    /// The party's position in the registry.
    position: usize,
    settings: Arc<TenantNotifications>,
    url: UrlPrint,
    clock: Clock,
    /// The reason if the tenant's certificate files are unusable.
    client: Result<Arc<EndpointClient>, String>,
}

impl TenantDirectory {
    /// The endpoints of the configuration that `in_force` gives.
    pub fn new(
        (in_force, suspended): (ConfigurationInForce, SuspendedByHand),
        clock: Clock,
        bounds: EndpointBounds,
        metrics: MetricsSettings,
        (network, system_trust): (EndpointNetwork, Arc<ClientConfig>),
    ) -> Self {
        Self {
            in_force,
            suspended,
            clock,
            bounds,
            metrics,
            network: Arc::new(network),
            system_trust,
            clients: RefCell::default(),
            lookups: RefCell::default(),
        }
    }

    /// The position of an endpoint's party, if the endpoint's incarnation is the one that is configured. The store keeps
    /// the endpoints of older incarnations off.
    fn party(&self, endpoint: &EndpointKey) -> Option<(Arc<Generation>, usize)> {
        let generation = (self.in_force)();
        let position = generation.registry.position(&endpoint.tenant.tenant)?;
        let account = match generation.registry.at(position) {
            PartyRef::Tenant(tenant) => tenant.sub_account.as_str(),
            PartyRef::Operator(_) => INSTITUTION_ACCOUNT,
        };
        let is_same = account == endpoint.tenant.account;
        is_same.then_some((generation, position))
    }

    /// The URL of an endpoint, if the tenant's file allows it now.
    fn url(
        &self,
        endpoint: &EndpointKey,
        settings: &TenantNotifications,
    ) -> Option<DestinationUrl> {
        let Some(text) = &endpoint.url else {
            return settings.url.clone();
        };
        let parsed = self
            .bounds
            .with_rules(|rules| DestinationUrl::parse(text, rules));
        parsed.ok().filter(|url| settings.owns(url))
    }

    /// The client for an endpoint, made anew if its URL, its settings or possibly its files have changed.
    fn client(
        &self,
        endpoint: &EndpointKey,
        url: DestinationUrl,
        settings: &Arc<TenantNotifications>,
    ) -> Result<Arc<EndpointClient>, String> {
        let mut clients = self.clients.borrow_mut();
        let known = clients.get(endpoint).filter(|known| known.url == url);
        let has_files = settings.ca.is_some() || settings.client_certificate.is_some();
        let is_current = |known: &&KnownClient| {
            known.settings == *settings && (!has_files || known.made.elapsed() < FILES_AGE)
        };
        if let Some(known) = known.filter(is_current) {
            return Ok(Arc::clone(&known.client));
        }
        let tls = self.tls(settings)?;
        let network = (
            Arc::clone(&self.network),
            self.lookups(&endpoint.tenant.tenant),
        );
        let client = EndpointClient::new(url.clone(), self.bounds.clone(), tls, network);
        let client = Arc::new(client.map_err(|error| error.to_string())?);
        let made = KnownClient {
            url,
            settings: Arc::clone(settings),
            made: Instant::now(),
            client: Arc::clone(&client),
        };
        clients.insert(endpoint.clone(), made);
        Ok(client)
    }

    /// An endpoint, for one attempt.
    pub(super) fn tenant_target(
        &self,
        endpoint: &EndpointKey,
    ) -> Result<TenantTarget, DeliveryHold> {
        let found = self.party(endpoint);
        let (generation, position) = found.ok_or(DeliveryHold::NoEndpoint)?;
        let party = generation.registry.at(position);
        let settings = party.notifications().map(Arc::clone);
        let settings = settings.ok_or(DeliveryHold::NoEndpoint)?;
        let url = self.url(endpoint, &settings);
        let url = url.ok_or(DeliveryHold::NoEndpoint)?;
        let is_suspended_by_hand = (self.suspended)(&endpoint.tenant.tenant);
        if is_suspended_by_hand || party.party().standing == Standing::Suspended {
            return Err(DeliveryHold::Suspended);
        }
        let target = TenantTarget {
            url: url_print(&url),
            client: self.client(endpoint, url, &settings),
            generation,
            position,
            settings,
            clock: self.clock.clone(),
        };
        target.credentials().ok_or(DeliveryHold::NoCredential)?;
        Ok(target)
    }

    fn lookups(&self, tenant: &str) -> Arc<Semaphore> {
        let mut lookups = self.lookups.borrow_mut();
        let of_tenant = lookups.entry(tenant.to_owned());
        Arc::clone(of_tenant.or_insert_with(|| Arc::new(Semaphore::new(LOOKUPS))))
    }

    fn tls(&self, settings: &TenantNotifications) -> Result<Arc<ClientConfig>, String> {
        let own = settings.client_certificate.as_ref();
        let own = own.map(|own| (own.certificate.as_path(), own.key.as_path()));
        match (settings.ca.as_deref(), own) {
            (None, None) => Ok(Arc::clone(&self.system_trust)),
            (ca, own) => config::client_with(ca, own),
        }
    }
}

/// The print of a URL. It is the same in every process.
fn url_print(url: &DestinationUrl) -> UrlPrint {
    let digest: [u8; 32] = Sha256::digest(whole_url(url)).into();
    let (first, _) = digest.split_first_chunk().expect("32 bytes have 8");
    UrlPrint(i64::from_be_bytes(*first))
}

impl TargetDirectory for TenantDirectory {
    fn target(&self, endpoint: &EndpointKey) -> Result<Rc<dyn DeliveryTarget>, DeliveryHold> {
        Ok(Rc::new(self.tenant_target(endpoint)?))
    }

    fn own_series(&self) -> BTreeSet<String> {
        let generation = (self.in_force)();
        let registry = &generation.registry;
        let own = registry.own_series(&self.metrics);
        let own = registry.parties().zip(own);
        let own = own.filter(|(party, own)| *own && party.notifications().is_some());
        own.map(|(party, _)| party.party().id.as_str().to_owned())
            .collect()
    }

    fn tidy(&self) {
        let mut clients = self.clients.borrow_mut();
        clients.retain(|endpoint, known| {
            known.client.close_idle();
            self.party(endpoint).is_some()
        });
        // Without a client and a look-up the permits have no other holder.
        let mut lookups = self.lookups.borrow_mut();
        lookups.retain(|_, of_tenant| Arc::strong_count(of_tenant) > 1);
    }
}

impl TenantTarget {
    pub(super) fn credentials(&self) -> Option<DeliveryCredentials<'_>> {
        let party = self.generation.registry.at(self.position).party();
        let credentials = party.credentials.iter().enumerate();
        let used = credentials.map(|(index, dated)| {
            let usage = self.generation.used(self.position, index);
            (dated, usage.last_anywhere_ms())
        });
        let configured = self.settings.credential.as_ref();
        DeliveryCredentials::choose(used, configured, self.clock.unix_ms())
    }

    /// The body as the tenant gets it.
    pub(super) fn body(&self, event: &DueEvent, signing: &Credential) -> Bytes {
        match self.settings.client_id {
            DeliveredClientId::AsSent => Bytes::copy_from_slice(&event.body),
            DeliveredClientId::Tenant => {
                let read = Notification::read(&event.body);
                let body = read.for_tenant(&event.body, &signing.client_id);
                Bytes::from(body.into_owned())
            }
        }
    }

    pub(super) async fn send(&self, event: &DueEvent, deadline: Instant) -> AttemptResult {
        let client = match &self.client {
            Ok(client) => client,
            Err(error) => return not_sent(error.clone()),
        };
        // The choice may have changed since the target was found.
        let Some(credentials) = self.credentials() else {
            return not_sent("no credential of the tenant is in force".to_owned());
        };
        let body = self.body(event, credentials.signing);
        let id = event.id.to_string();
        let facts = DeliveryFacts {
            event: &id,
            attempt: event.attempts.saturating_add(1),
            received_ms: event.received_ms,
            is_conflict: event.has_conflict,
        };
        let sign = |lines: &mut HeaderBlock| {
            let stamp = self.clock.stamp();
            signed_delivery::write_headers(lines, &credentials, &stamp, &body, facts);
        };
        let answered = client.post(&body, sign, deadline).await;
        AttemptResult::of(self.settings.ack, answered, self.clock.unix_ms())
    }
}

fn not_sent(error: String) -> AttemptResult {
    AttemptResult {
        outcome: DeliveryOutcome::NO_ANSWER,
        word: AttemptWord::TlsFailed,
        status: None,
        said: Vec::new(),
        error: Some(error),
    }
}

impl DeliveryTarget for TenantTarget {
    fn url_print(&self) -> UrlPrint {
        self.url
    }

    fn at_once(&self) -> usize {
        usize::try_from(self.settings.at_once.get()).unwrap_or(usize::MAX)
    }

    fn attempt<'a>(&'a self, event: &'a DueEvent, deadline: Instant) -> AttemptFuture<'a> {
        Box::pin(self.send(event, deadline))
    }
}
