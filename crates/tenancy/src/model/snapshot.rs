//! One configuration, as far as it is compared with another.

use gatepay_core::Catalogue;

use crate::model::configuration::Configuration;
use crate::model::facts::ConfigFacts;
use crate::model::registry::Registry;
use crate::model::settings::Institution;

/// One of the two that are compared. Written as JSON it is a [`ConfigOutline`](crate::ConfigOutline).
#[derive(Clone, Copy)]
pub struct ConfigSnapshot<'a> {
    /// The process's keys in `proxy.toml`: [`Settings::written`](crate::Settings::written).
    pub written: &'a ConfigFacts,
    /// The institution's identity at GatePay.
    pub institution: &'a Institution,
    /// The operations that may be called.
    pub catalogue: &'a Catalogue,
    /// The parties that may call.
    pub registry: &'a Registry,
}

impl<'a> ConfigSnapshot<'a> {
    /// The snapshot of a loaded configuration.
    pub fn of(configuration: &'a Configuration) -> Self {
        Self {
            written: &configuration.settings.written,
            institution: &configuration.settings.institution,
            catalogue: &configuration.catalogue,
            registry: &configuration.registry,
        }
    }
}
