//! One configuration, as far as it is compared with another.

use gatepay_core::Catalogue;

use crate::model::configuration::Configuration;
use crate::model::facts::Facts;
use crate::model::registry::Registry;
use crate::model::settings::Institution;

/// One of the two that are compared. Written as JSON it is a [`ConfigOutline`](crate::Outline).
#[derive(Clone, Copy)]
pub struct ConfigSnapshot<'a> {
    /// What `proxy.toml` says of the process: [`Settings::written`](crate::Settings::written).
    pub written: &'a Facts,
    /// Who we are to GatePay.
    pub institution: &'a Institution,
    /// What may be called.
    pub catalogue: &'a Catalogue,
    /// Who may call.
    pub registry: &'a Registry,
}

impl<'a> ConfigSnapshot<'a> {
    /// What was loaded.
    pub fn of(configuration: &'a Configuration) -> Self {
        Self {
            written: &configuration.settings.written,
            institution: &configuration.settings.institution,
            catalogue: &configuration.catalogue,
            registry: &configuration.registry,
        }
    }
}
