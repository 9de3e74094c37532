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
    /// What may be called: GatePay's documentation, as `proxy.toml` changes it.
    pub catalogue: Catalogue,
}
