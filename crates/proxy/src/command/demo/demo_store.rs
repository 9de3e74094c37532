//! What the demo needs for notifications: a store in a folder that goes with the process, and GatePay's way to it.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use gatepay_core::StampWindow;
use gatepay_proxy::cluster::connection::StoreConnection;
use gatepay_proxy::process::clock;
use gatepay_store::engine::Store;
use gatepay_tenancy::notifications::{EndpointBounds, NotificationSettings};
use gatepay_tenancy::settings::{StoreEngine, StoreFailover, StoreSettings};

use super::DemoError;

/// How far stamps may lie ahead, and clocks apart: a new store refuses requests for as long, and all clocks are one here.
pub(super) const AHEAD_MS: u64 = 100;

/// A folder of this process alone, removed with it.
pub(super) struct DemoFolder(PathBuf);

impl DemoFolder {
    pub(super) fn make() -> io::Result<Self> {
        let name = format!("gatepay-proxy-demo-{}", hex::encode(clock::random::<8>()));
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// The settings of a store in this folder, whose tables are made.
    pub(super) async fn store(&self, window: StampWindow) -> Result<StoreSettings, DemoError> {
        let settings = StoreSettings {
            engine: StoreEngine::File(self.0.join("gatepay.db")),
            failover: StoreFailover::Guarded,
            timeout: Duration::from_secs(5),
            max_skew_ms: AHEAD_MS,
            instances_max: NonZeroU32::MIN,
            reads_without_store: false,
        };
        let connection = StoreConnection::in_folder(&settings, window, &self.0)?;
        if let Store::Sqlite(file) = connection.open()? {
            file.migrate().await?;
        }
        Ok(settings)
    }
}

impl Drop for DemoFolder {
    fn drop(&mut self) {
        // What is left of it holds no secret that is used again.
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// Where GatePay's notifications come in: plain HTTP, since GatePay is this process too.
pub(super) fn notifications(address: SocketAddr) -> NotificationSettings {
    NotificationSettings {
        address,
        tls: None,
        path: String::new(),
        public_url: format!("http://{address}"),
        addresses: Vec::new(),
        endpoints: EndpointBounds::default(),
        ask: false,
        deadline: Duration::from_secs(1),
        attempts_at_once: NonZeroU32::MIN,
        keep_days: NonZeroU32::MIN,
    }
}
