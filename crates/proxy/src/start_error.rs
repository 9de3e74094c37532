//! Start error: why the program cannot start although its configuration is valid.

use gatepay_tenancy::settings::Settings;

use crate::cluster::connection::StoreConnection;
use crate::journal::folder;
use crate::journal::head::HeadFolder;
use crate::process::state_dir;
use crate::tls::certificate::ListenerIdentity;
use crate::tls::config;

/// Why the program cannot start although its configuration is valid.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The upstream's host or certificates.
    #[error("upstream: {0}")]
    Upstream(String),
    /// The listener's certificate or key.
    #[error("listen.tls: {0}")]
    Tls(String),
    /// The state folder.
    #[error("state_dir: {0}")]
    State(std::io::Error),
    /// The store that instances share.
    #[error("store: {0}")]
    Store(String),
    /// The certificate or key of the listener for notifications.
    #[error("notifications.tls: {0}")]
    Notifications(String),
    /// The audit journal.
    #[error("audit: {0}")]
    Journal(std::io::Error),
    /// A listener.
    #[error("cannot listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// The faults by which a start would fail, in the certificates, the keys, the folders of state and journal, and the store's
/// connection that the settings name. The store itself is not asked.
pub fn start_faults(settings: &Settings) -> Vec<StartError> {
    let upstream = settings
        .upstream
        .url
        .tls
        .then(|| config::client(settings.upstream.ca.as_deref()));
    let listener = settings.listen.tls.as_ref().map(ListenerIdentity::read);
    let notifications = settings.notifications.as_ref();
    let notifications = notifications.and_then(|settings| settings.tls.as_ref());
    let notifications = notifications.map(ListenerIdentity::read_http1);
    let upstream = upstream.and_then(Result::err).map(StartError::Upstream);
    let folder = settings.state_dir.as_deref().map(state_dir::inspect);
    let folder = folder.and_then(Result::err).map(StartError::State);
    let journal = settings.audit.as_ref().map(|audit| {
        folder::inspect(&audit.dir)?;
        HeadFolder::of(settings.state_dir.as_deref(), &audit.dir).inspect()
    });
    let journal = journal.and_then(Result::err).map(StartError::Journal);
    let store = settings.store.as_ref().zip(settings.state_dir.as_deref());
    let store = store.map(|(store, state_dir)| {
        StoreConnection::in_folder(store, settings.window, state_dir)?.inspect()
    });
    let store = store.and_then(Result::err).map(StartError::Store);
    upstream
        .into_iter()
        .chain(folder)
        .chain(journal)
        .chain(store)
        .chain(
            notifications
                .and_then(Result::err)
                .map(StartError::Notifications),
        )
        .chain(listener.and_then(Result::err).map(StartError::Tls))
        .collect()
}
