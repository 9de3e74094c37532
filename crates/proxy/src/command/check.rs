//! `check`: everything `serve` does before it binds.

mod accounts;
mod caps;
mod notifications;
mod report_json;
mod running;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use gatepay_core::visible::visible_json;
use gatepay_proxy::callers::body_memory::UNPROVED;
use gatepay_proxy::cluster::connection::place;
use gatepay_proxy::memory_bound::{self, MemoryBound};
use gatepay_proxy::metrics::size::ScrapeSize;
use gatepay_proxy::process::state_dir;
use gatepay_proxy::start_error::start_faults;
use gatepay_tenancy::load::{WhatIf, load_what_if, unread_files};
use gatepay_tenancy::settings::{Settings, StoreFailover};
use gatepay_tenancy::{
    ConfigHash, ConfigSnapshot, Configuration, PartyRef, Plan, Problem, Registry,
};

use super::admin_client::AdminClient;
use super::config_file::ConfigFile;
use super::start_fault::StartPlaces;
use super::suspended::SuspendedByHand;
use super::{ExitStatus, UNREAD, complain, environment, fail, say, say_json};

/// Check a configuration as `serve` would, without binding; print tenants, limits and the memory bound.
///
/// All problems are printed at once, each with file, line and key. Exits with 0 if there are none, 64 otherwise; with
/// --against with 0 if nothing changes, 3 if something changes.
#[derive(Args)]
pub(crate) struct CheckCommand {
    #[command(flatten)]
    config: ConfigFile,
    /// Print the changes that this configuration would make to another one: of a folder, of a proxy.toml file, or of the
    /// `running` process, which is asked on its admin listener.
    #[arg(long, value_name = "FOLDER|FILE|running")]
    against: Option<PathBuf>,
    /// The address of the running process's admin listener [default: admin.address of this configuration]
    #[arg(long, value_name = "ADDRESS", requires = "against")]
    admin: Option<SocketAddr>,
    /// A file that holds the running process's admin token.
    #[arg(long, value_name = "FILE", requires = "against")]
    admin_token_file: Option<PathBuf>,
    /// Print the report, or the changes, as one JSON object.
    #[arg(long)]
    json: bool,
    /// Accept missing secret files and do not open certificates: for a checkout of the configuration without secrets.
    #[arg(long)]
    without_secrets: bool,
}

impl CheckCommand {
    pub(crate) fn run(self) -> ExitStatus {
        self.checked().unwrap_or_else(|exit| exit)
    }

    fn checked(&self) -> Result<ExitStatus, ExitStatus> {
        let configuration = self.load(self.config.path())?;
        let notes = notes(&configuration);
        if !self.json {
            for note in &notes {
                say(format_args!("note: {note}"));
            }
        }
        let faults = if self.without_secrets {
            Vec::new()
        } else {
            start_faults(&configuration.settings)
        };
        if !faults.is_empty() {
            let places = StartPlaces::of(self.config.path(), &configuration.settings);
            let faults = faults.iter().map(|fault| places.problem(fault));
            self.complain_of(&faults.collect::<Vec<_>>());
            return Err(ExitStatus::Usage);
        }
        let Some(against) = &self.against else {
            let file = self.config.path().display().to_string();
            if self.json {
                say_json(&report_json::fine(&file, &configuration, &notes));
            } else {
                report(&file, &configuration);
            }
            return Ok(ExitStatus::Fine);
        };
        let after = ConfigSnapshot::of(&configuration);
        if against == Path::new("running") {
            if self.without_secrets {
                complain("--against running compares secrets: run it without --without-secrets");
                return Err(ExitStatus::Usage);
            }
            let admin = AdminClient {
                address: self.admin.unwrap_or(configuration.settings.admin.address),
                token: self.admin_token_file.as_deref(),
            };
            let before = running::outline(&admin).map_err(fail)?;
            return Ok(self.print_plan(&Plan::against(&before, after)));
        }
        let before = if against.is_dir() {
            self.load(&against.join("proxy.toml"))?
        } else {
            self.load(against)?
        };
        Ok(self.print_plan(&Plan::between(ConfigSnapshot::of(&before), after)))
    }

    fn load(&self, path: &Path) -> Result<Configuration, ExitStatus> {
        let what_if = WhatIf {
            file: None,
            secrets_elsewhere: self.without_secrets,
        };
        load_what_if(path, &environment, what_if).map_err(|problems| {
            self.complain_of(&problems);
            if !self.json {
                complain(match problems.len() {
                    1 => "1 problem".to_owned(),
                    many => format!("{many} problems"),
                });
            }
            ExitStatus::Usage
        })
    }

    fn complain_of(&self, problems: &[Problem]) {
        if self.json {
            let file = self.config.path().display().to_string();
            say_json(&report_json::faulty(&file, problems));
        } else {
            problems.iter().for_each(complain);
        }
    }

    fn print_plan(&self, plan: &Plan) -> ExitStatus {
        if self.json {
            say(visible_json(
                &serde_json::to_string(plan).unwrap_or_default(),
            ));
        } else {
            say(format_args!("{plan}{}", plan.summary));
            for reason in &plan.guard {
                say(format_args!(
                    "a reload of this change has to be confirmed: it {reason}"
                ));
            }
            if plan.changes {
                say(format_args!("hash {}", plan.hash));
            }
        }
        if plan.changes {
            ExitStatus::Changes
        } else {
            ExitStatus::Fine
        }
    }
}

/// Effects of the configuration that are probably not intended.
fn notes(configuration: &Configuration) -> Vec<String> {
    let Configuration {
        settings, registry, ..
    } = configuration;
    let unread = unread_files(settings).into_iter();
    let mut notes: Vec<_> = unread
        .map(|file| format!("{}: {UNREAD}", file.display()))
        .collect();
    if registry.tenants().is_empty() {
        notes.push(format!(
            "{}: no tenant is configured: every request will be refused; make one with `gatepay-proxy tenant add`",
            settings.tenants.display()
        ));
    }
    notes
}

/// Prints what `serve` would do with this configuration.
fn report(name: &str, configuration: &Configuration) {
    let Configuration {
        settings, registry, ..
    } = configuration;
    say(format_args!("{name}: fine"));
    addresses(settings, registry);
    say("");
    caps::report(configuration);
    accounts::report(registry);
    parties(configuration);
    memory(settings, registry);
    say(format_args!(
        "configuration: {}",
        ConfigHash::of(ConfigSnapshot::of(configuration))
    ));
    metrics(configuration);
    startup_wait(settings);
}

/// Prints the addresses, the institution's quota, the store and the notifications.
fn addresses(settings: &Settings, registry: &Registry) {
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
    store(settings);
    notifications::report(settings, registry);
}

/// Prints the store and the settings that depend on it.
fn store(settings: &Settings) {
    let Some(store) = &settings.store else {
        say(
            "store: none; a second process with its own state_dir would admit the same requests again",
        );
        return;
    };
    let failover = match store.failover {
        StoreFailover::Guarded => "guarded",
        StoreFailover::Lossless => "lossless",
    };
    say(format_args!(
        "store: {}; failover {failover}, {} ms a call, clocks at most {} ms apart; `gatepay-proxy store check` asks it",
        place(store),
        store.timeout.as_millis(),
        store.max_skew_ms
    ));
    if store.reads_without_store {
        say(
            "note: while the store is away, reads without a body go on, and writes without a body are always refused (store.reads_without_store)",
        );
    }
}

/// Prints a row per tenant and operator, then notes on those suspended by hand.
fn parties(configuration: &Configuration) {
    let Configuration {
        settings,
        registry,
        catalogue,
    } = configuration;
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
    let suspended = SuspendedByHand::in_folder(settings.state_dir.as_deref());
    for who in registry.parties() {
        let party = who.party();
        let standing = suspended.standing(&party.id, party.standing).as_str();
        let account = match who {
            PartyRef::Tenant(tenant) => tenant.sub_account.as_str(),
            PartyRef::Operator(_) => "(operator)",
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
    let notes = suspended.notes(registry.parties().map(|who| &who.party().id));
    notes.iter().for_each(say);
}

/// Prints the bound on the size of a scrape, and the memory that the process usually holds.
fn metrics(configuration: &Configuration) {
    let Configuration {
        settings,
        registry,
        catalogue,
    } = configuration;
    let size = ScrapeSize::bound(catalogue, registry, &settings.metrics);
    say(format_args!(
        "metrics: at most {} series, {:.1} MiB a scrape",
        size.series,
        mebibytes(size.bytes)
    ));
    say(format_args!(
        "usual memory: {:.1} MiB, {} KiB each of the series among it, and {} bytes for each stamp that is remembered",
        mebibytes(memory_bound::USUAL + size.series * memory_bound::SERIES),
        memory_bound::SERIES >> 10,
        memory_bound::STAMP
    ));
}

/// Prints whether a start waits before it admits requests.
fn startup_wait(settings: &Settings) {
    let guard = settings.window.future_ms;
    if settings.store.is_some() {
        // The store has the stamps.
        return;
    }
    match &settings.state_dir {
        None => say(format_args!(
            "note: without state_dir every start waits {guard} ms before it admits requests"
        )),
        Some(folder) => match state_dir::is_first_use(folder) {
            Ok(false) => {}
            Ok(true) => say(format_args!(
                "note: the first start with this state_dir waits {guard} ms before it admits requests, unless no process \
                 ever served these credentials: then run `gatepay-proxy state init --never-served` first"
            )),
            Err(error) => say(format_args!("note: state_dir cannot be read: {error}")),
        },
    }
}

/// Prints the most memory that the process holds, and its parts.
fn memory(settings: &Settings, registry: &Registry) {
    let bound = MemoryBound::of(settings, registry);
    let listen = &settings.listen;
    say("");
    say(format_args!(
        "connections: at most {}, {} of them of one address; {} KiB each if every buffer is full, {:.0} MiB",
        listen.max_connections,
        listen
            .max_connections_per_address
            .min(listen.max_connections),
        bound.connection >> 10,
        mebibytes(bound.connections)
    ));
    say(format_args!(
        "requests: at most {}, a quarter of them of one address, {:.0} MiB",
        listen.max_requests,
        mebibytes(bound.requests)
    ));
    say(format_args!(
        "requests that wait for their bodies: at most {:.0} MiB in all, {:.0} MiB of one address until they are verified",
        mebibytes(bound.bodies),
        mebibytes(UNPROVED)
    ));
    say(format_args!(
        "calls to GatePay: at most {} at once; their answers {:.0} MiB",
        bound.calls,
        mebibytes(bound.answers)
    ));
    say(format_args!(
        "replay memory: at most {} entries, {:.1} MiB",
        bound.stamps,
        mebibytes(bound.replay)
    ));
    if bound.notifications > 0 {
        say(format_args!(
            "notifications that are being received: at most {:.0} MiB",
            mebibytes(bound.notifications)
        ));
    }
    say(format_args!(
        "the program, its threads and log: {:.0} MiB; {} tenants and operators: {:.1} MiB",
        mebibytes(bound.base),
        registry.parties().count(),
        mebibytes(bound.parties)
    ));
    say(format_args!(
        "memory: at most {:.0} MiB, if all of these are full at once",
        mebibytes(bound.all)
    ));
    say(format_args!(
        "memory limit: {:.0} MiB for a pod or unit: the bound above and an eighth for kernel memory, such as socket buffers",
        mebibytes(bound.limit())
    ));
}

#[expect(clippy::cast_precision_loss, reason = "printed with one decimal")]
fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
