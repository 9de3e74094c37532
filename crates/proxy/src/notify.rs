//! Notifications: GatePay's calls to the institution, from their arrival to the tenant that owns them.
//!
//! `receive` verifies and stores them, `owner` decides their owner, `asking` asks GatePay for it, `ledger` and `callback` make that they can be led
//! back: by the ids in GatePay's answers, and by URLs of the proxy's own. `settling` has them settle calls without a known
//! outcome. `operator_news` tells the institution's operator what needs a look. `deliver` sends them on, with the client of `endpoint`,
//! signed with the credential that `last_credentials` knows.

pub mod asking;
pub mod callback;
pub mod deliver;
pub mod endpoint;
pub mod last_credentials;
pub mod ledger;
pub mod operator_news;
pub mod owner;
pub mod pull;
pub mod receive;
pub mod settling;
pub mod thread;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gatepay_tenancy::notifications::NotificationSettings;
use parking_lot::Mutex;
use prometheus::IntGauge;

use crate::cluster::store_calls::StoreCalls;
use crate::journal::Journal;
use crate::notify::asking::inquiries::{self, Inquiries, InquiryInbox};
use crate::notify::asking::{Asking, SubjectSource};
use crate::notify::callback::CallbackTokens;
use crate::notify::deliver::delivery_wake::DeliveryWake;
use crate::notify::last_credentials::LastCredentials;
use crate::notify::ledger::{LedgerQueue, LedgerWriter};
use crate::notify::operator_news::{OperatorNewsQueue, OperatorNewsWriter};
use crate::notify::owner::registered_tenants::RegisteredTenants;
use crate::notify::receive::meters::ReceptionMeters;
use crate::notify::settling::Settling;
use crate::process::clock::Clock;
use crate::tls::certificate::{CertificateRenewal, ListenerIdentity};

/// The state that calls and the thread `notify` share.
pub struct Notifications {
    /// The way of ids in GatePay's answers to the ledger.
    pub ledger: LedgerQueue,
    /// The tokens of tenants' callback URLs.
    pub callbacks: CallbackTokens,
    /// Wakes the thread `deliver` when a notification is stored.
    pub wake: DeliveryWake,
    /// The way of news to the operator that gets notifications.
    pub operators: OperatorNewsQueue,
    /// The credential that each party has used last.
    pub last_credentials: LastCredentials,
    settings: Arc<NotificationSettings>,
    /// The tenants, once the store has registered them.
    tenants: Arc<ArcSwapOption<RegisteredTenants>>,
    identity: Option<Arc<ListenerIdentity>>,
    calls: StoreCalls,
    meters: ReceptionMeters,
    /// The ledger's other end; `None` once the thread has it.
    writer: Mutex<Option<LedgerWriter>>,
    /// The other end of `operators`; `None` once the thread has it.
    news_writer: Mutex<Option<OperatorNewsWriter>>,
    inquiries: Inquiries,
    /// The other end of the inquiries; `None` once a worker has it.
    inbox: Mutex<Option<InquiryInbox>>,
}

impl Notifications {
    /// Reads the listener's certificate and key. The store is not asked yet.
    pub fn open(
        settings: &NotificationSettings,
        calls: &StoreCalls,
        meters: &ReceptionMeters,
    ) -> Result<Self, String> {
        let settings = Arc::new(settings.clone());
        let tenants = Arc::new(ArcSwapOption::empty());
        let identity = settings.tls.as_ref().map(ListenerIdentity::read_http1);
        let (ledger, writer) = ledger::queue(&meters.lost_notes);
        let wake = DeliveryWake::default();
        let (operators, news_writer) = operator_news::queue(&tenants, &wake);
        let (inquiries, inbox) = inquiries::inquiries(meters);
        let shared = (Arc::clone(&settings), Arc::clone(&tenants));
        Ok(Self {
            ledger,
            callbacks: CallbackTokens::new(shared.0, shared.1, calls.clone()),
            wake,
            operators,
            last_credentials: LastCredentials::new(calls.clone()),
            settings,
            tenants,
            identity: identity.transpose()?.map(Arc::new),
            calls: calls.clone(),
            meters: meters.clone(),
            writer: Mutex::new(Some(writer)),
            news_writer: Mutex::new(Some(news_writer)),
            inquiries,
            inbox: Mutex::new(Some(inbox)),
        })
    }

    /// The way of proved outcomes to the store and to this journal.
    pub fn settling(&self, journal: Option<&Journal>) -> Settling {
        let journal = journal.map(Journal::settlements);
        Settling::new(&self.calls, journal, &self.meters)
    }

    /// The way to GatePay's answers about owners.
    pub fn asking(&self, subject: SubjectSource) -> Asking {
        Asking {
            is_set: self.settings.ask,
            subject,
            inquiries: self.inquiries.clone(),
            calls: self.calls.clone(),
            meters: self.meters.clone(),
        }
    }

    /// The inquiries that are to be sent to GatePay, for the first worker that takes them.
    pub fn inquiry_inbox(&self) -> Option<InquiryInbox> {
        self.inbox.lock().take()
    }

    /// The settings.
    pub fn settings(&self) -> &NotificationSettings {
        &self.settings
    }

    /// The way to the store.
    pub fn calls(&self) -> &StoreCalls {
        &self.calls
    }

    /// The tenants, once the store has registered them.
    pub fn registered_tenants(&self) -> Option<Arc<RegisteredTenants>> {
        self.tenants.load_full()
    }

    /// Shows in seconds since 1970 when the listener's certificate expires, and warns if it has.
    pub fn show_expiry(&self, gauge: &IntGauge, clock: &Clock) {
        let Some(expires) = self.identity.as_ref().map(|identity| identity.expires()) else {
            return;
        };
        gauge.set(i64::try_from(expires).unwrap_or(i64::MAX));
        if expires <= clock.unix_ms() / 1_000 {
            tracing::warn!(
                expires,
                "the certificate of the listener for notifications has expired: replace the files of notifications.tls"
            );
        }
    }

    /// Reads the listener's certificate and key again. If either is invalid, nothing changes.
    pub fn renew_certificate(&self) -> Result<CertificateRenewal, String> {
        let identity = self.identity.as_ref();
        identity.map_or(Ok(CertificateRenewal::Unchanged), |identity| {
            identity.reload()
        })
    }
}
