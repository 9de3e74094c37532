//! A whole configuration.

use gatepay_core::Catalogue;

use crate::model::registry::Registry;
use crate::model::settings::Settings;

/// All that the files say.
pub struct Configuration {
    /// The process.
    pub settings: Settings,
    /// The tenants, and the institution's own operators.
    pub registry: Registry,
    /// GatePay's documented operations, as `proxy.toml` changes them.
    pub catalogue: Catalogue,
}
