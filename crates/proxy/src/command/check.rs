//! `check`: everything `serve` does before it binds.

use std::path::PathBuf;

use clap::Args;
use gatepay_proxy::app::{certificate_faults, replay_capacity};
use gatepay_proxy::ingress::BODIES;
use gatepay_proxy::replay::BYTES_PER_STAMP;
use gatepay_tenancy::{Configuration, Who};

use super::{Exit, complain, environment, say};

/// Check a configuration as `serve` would, without binding; print tenants, limits and the memory bound.
///
/// All problems are printed at once, each with file, line and key. Exits with 0 if it is fine, 64 if not.
#[derive(Args)]
pub(crate) struct Check {
    /// The process's configuration; it names the tenants' folder.
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

impl Check {
    pub(crate) fn run(self) -> Exit {
        match gatepay_tenancy::load(&self.config, &environment) {
            Ok(configuration) => {
                let faults = certificate_faults(&configuration.settings);
                if !faults.is_empty() {
                    faults.iter().for_each(complain);
                    return Exit::Usage;
                }
                report(&self.config.display().to_string(), &configuration);
                Exit::Fine
            }
            Err(problems) => {
                problems.iter().for_each(complain);
                complain(match problems.len() {
                    1 => "1 problem".to_owned(),
                    many => format!("{many} problems"),
                });
                Exit::Usage
            }
        }
    }
}

fn report(name: &str, configuration: &Configuration) {
    let Configuration {
        settings,
        registry,
        catalogue,
    } = configuration;
    say(format_args!("{name}: fine"));
    say(format_args!(
        "tenants on {}, admin on {}, GatePay at {}",
        settings.listen.address,
        settings.admin.address,
        settings.upstream.url.authority()
    ));
    let quota = settings.upstream.quota.rate;
    say(format_args!(
        "institution: {} requests/s, burst {}",
        quota.per_second, quota.burst
    ));
    say("");
    say(format_args!(
        "{:<24} {:<20} {:<10} {:>8} {:>8} {:>9} {:>10} {:>11}",
        "tenant",
        "sub-account",
        "standing",
        "req/s",
        "burst",
        "in flight",
        "operations",
        "credentials"
    ));
    for who in registry.parties() {
        let party = who.party();
        let standing = party.standing.as_str();
        let account = match who {
            Who::Tenant(tenant) => tenant.sub_account.as_str(),
            Who::Operator(_) => "(operator)",
        };
        let rows = catalogue.rows().iter().enumerate();
        let operations = rows
            .filter(|(position, row)| party.permissions.allows(*position) && row.off().is_none());
        say(format_args!(
            "{:<24} {account:<20} {standing:<10} {:>8} {:>8} {:>9} {:>10} {:>11}",
            party.id,
            party.limits.all.per_second,
            party.limits.all.burst,
            party.limits.in_flight,
            operations.count(),
            party.credentials.len()
        ));
    }
    let stamps = replay_capacity(settings, registry);
    say("");
    say(format_args!(
        "replay memory: at most {stamps} stamps, {:.1} MiB",
        mebibytes(stamps.saturating_mul(BYTES_PER_STAMP))
    ));
    say(format_args!(
        "request bodies: at most {:.0} MiB in all",
        mebibytes(BODIES)
    ));
    if settings.state_dir.is_none() {
        say(format_args!(
            "note: without state_dir every start waits {} ms before it admits requests",
            settings.window.future_ms
        ));
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed with one decimal")]
fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
