//! `ledger import`: fills the ledger from an audit journal, for calls that were made before the ledger existed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use gatepay_core::ledger_rows::{JOURNALED_LENGTH, LedgerRow};
use gatepay_core::money::CurrencyCode;
use gatepay_core::operation::IdempotencyKey;
use gatepay_core::{Catalogue, SigningKey};
use gatepay_proxy::cluster::connection::StoreConnection;
use gatepay_proxy::journal::folder::DiskFolder;
use gatepay_proxy::journal::head::HeadFolder;
use gatepay_proxy::journal::show::{CallFilter, FoundRecord, JournalRecord, ShownCall, show};
use gatepay_proxy::journal::verify::{ExpectedHeads, verify_against};
use gatepay_store::engine::Store;
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource, TenantAccount};
use gatepay_tenancy::Configuration;
use gatepay_tenancy::load::load;
use jiff::Timestamp;
use tokio::runtime::Builder;

use super::super::config_file::ConfigFile;
use super::super::from::SecretFrom;
use super::super::{ExitStatus, complain, environment, fail, say};

/// Fill the ledger from an audit journal, so that notifications about orders from before the ledger are led back.
/// Run it once for the journal of each instance; to run it again changes nothing. A journal that is not as it was written is
/// refused. A store in a SQLite file takes it only while no process serves.
/// Exits with 0 if the ledger has the journal's keys, 1 if the journal or the store cannot be read, 4 if the journal is not
/// as it was written, 64 for a wrong configuration.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LedgerImport {
    #[command(flatten)]
    config: ConfigFile,
    /// The journal's folder, or a copy of it [default: audit.dir of the configuration]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// The file that holds the journal's key [default: audit.key of the configuration]
    #[arg(long, value_name = "FILE", requires = "dir")]
    key_file: Option<PathBuf>,
    /// The first run that must be present; files of earlier runs were moved away.
    #[arg(long, value_name = "RUN", default_value_t = 1)]
    from_run: u32,
    /// Print the result, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Examples:
  gatepay-proxy ledger import --dry-run
  gatepay-proxy ledger import --dir /backup/audit-of-the-other-machine --key-file audit.key";

/// Rows in one call to the store.
const TOGETHER: usize = 500;
/// The field of an order's amount, which the journal shows beside its currency.
const ORDER_AMOUNT: &str = "orderAmount";

/// Why calls of the journal leave no key, with the number of calls.
type Skipped = BTreeMap<&'static str, u64>;

impl LedgerImport {
    pub(crate) fn run(self) -> ExitStatus {
        self.imported().unwrap_or_else(|exit| exit)
    }

    fn imported(&self) -> Result<ExitStatus, ExitStatus> {
        let configuration = load(self.config.path(), &environment).map_err(|problems| {
            problems.iter().for_each(complain);
            ExitStatus::Usage
        })?;
        let connection = self.connection(&configuration)?;
        let (folder, calls) = self.calls(
            configuration.settings.audit,
            configuration.settings.state_dir.as_deref(),
        )?;
        let mut skipped = Skipped::new();
        let catalogue = &configuration.catalogue;
        let found = calls.len();
        let notes = calls
            .iter()
            .flat_map(|call| notes(catalogue, call, &mut skipped));
        let notes: Vec<LedgerNote> = notes.collect();
        let store = connection.open();
        let store = store.map_err(|error| fail(format_args!("store: {error}")))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| fail(format_args!("store: {error}")))?;
        let (new, known) = runtime.block_on(self.write(&store, &notes))?;
        say(format_args!(
            "{}: {found} calls, verified",
            folder.display()
        ));
        let word = if self.dry_run {
            "would be added"
        } else {
            "were added"
        };
        say(format_args!(
            "{}: {new} keys {word}, {known} were there",
            connection.place()
        ));
        for (reason, calls) in &skipped {
            say(format_args!("skipped: {calls} calls: {reason}"));
        }
        Ok(ExitStatus::Fine)
    }

    fn connection(&self, configuration: &Configuration) -> Result<StoreConnection, ExitStatus> {
        let settings = &configuration.settings;
        let (Some(store), Some(state_dir)) = (&settings.store, &settings.state_dir) else {
            let file = self.config.path().display();
            return Err(usage(format_args!("{file}: there is no [store]")));
        };
        let connection = StoreConnection::in_folder(store, settings.window, state_dir)
            .map_err(|error| fail(format_args!("store: {error}")))?;
        match connection.file() {
            Some(path) if !path.exists() => Err(fail(format_args!(
                "store: {} is missing; run `gatepay-proxy store migrate`",
                path.display()
            ))),
            _ => Ok(connection),
        }
    }

    /// The journal's calls, if it is as it was written.
    fn calls(
        &self,
        audit: Option<gatepay_tenancy::settings::AuditSettings>,
        state_dir: Option<&Path>,
    ) -> Result<(PathBuf, Vec<ShownCall>), ExitStatus> {
        let configured = audit.map(|audit| (audit.dir, audit.key));
        let (own, own_key) = configured.unzip();
        let folder = self.dir.clone().or_else(|| own.clone());
        let key = match &self.key_file {
            Some(file) => Some(SigningKey::new(
                &SecretFrom::file(file).key().map_err(usage)?,
            )),
            None => own_key,
        };
        let (Some(folder), Some(key)) = (folder, key) else {
            return Err(usage(
                "there is no [audit]: name the journal with --dir and --key-file",
            ));
        };
        let unreadable =
            |error: std::io::Error| fail(format_args!("{}: {error}", folder.display()));
        // The heads in the state folder are those of the process's own journal.
        let heads = HeadFolder::of(state_dir.filter(|_| own.as_ref() == Some(&folder)), &folder);
        let kept = heads.read(&key).map_err(unreadable)?;
        let known = ExpectedHeads {
            from: self.from_run,
            heads: &[],
            kept: (!kept.is_empty()).then_some(&kept),
        };
        let disk = DiskFolder::at(&folder);
        let report = verify_against(&disk, &key, &known).map_err(unreadable)?;
        if !report.findings.is_empty() {
            report.findings.iter().for_each(complain);
            complain("the journal is not as it was written: nothing was imported");
            return Err(ExitStatus::Altered);
        }
        let shown = show(&disk, Some(&key), &CallFilter::default()).map_err(unreadable)?;
        let calls = shown.found.into_iter().filter_map(|found| match found {
            FoundRecord::Call(call) if call.verified == Some(true) => Some(call),
            FoundRecord::Call(_) | FoundRecord::Event(_) => None,
        });
        let calls = calls.collect();
        Ok((folder, calls))
    }

    /// Adds the rows that the ledger has not. Returns their number, and that of those that were there.
    async fn write(
        &self,
        store: &Store,
        notes: &[LedgerNote],
    ) -> Result<(usize, usize), ExitStatus> {
        let away = |error: &dyn fmt::Display| fail(format_args!("store: {error}"));
        let (mut new, mut known): (usize, usize) = (0, 0);
        for some in notes.chunks(TOGETHER) {
            let keys: Vec<_> = some.iter().map(|note| note.key.clone()).collect();
            let holders = store.owners(&keys).await.map_err(|error| away(&error))?;
            let mut wanted = Vec::new();
            for (note, holders) in some.iter().zip(holders) {
                let is_it = |tenant: &str, account: &str| {
                    note.holder.tenant == tenant && note.holder.account == account
                };
                let is_known = holders
                    .iter()
                    .any(|it| is_it(&it.tenant.tenant, &it.tenant.account));
                known += usize::from(is_known);
                new += usize::from(!is_known);
                // A row that is there may lack its order's currency.
                if !is_known || note.currency.is_some() {
                    wanted.push(note.clone());
                }
            }
            if !self.dry_run && !wanted.is_empty() {
                let noted = store.note_owners(&wanted, LedgerSource::Journal).await;
                noted.map_err(|error| away(&error))?;
            }
            let done = new + known;
            if done % (TOGETHER * 20) == 0 {
                complain(format_args!("{done} of {} keys", notes.len()));
            }
        }
        Ok((new, known))
    }
}

/// The ledger's rows of one call; counts why it has none, or not all.
fn notes(catalogue: &Catalogue, call: &ShownCall, skipped: &mut Skipped) -> Vec<LedgerNote> {
    let text = |name: &str| text(&call.before, name);
    let mut skip = |reason| *skipped.entry(reason).or_default() += 1;
    let (Some(name), Some(party), Some(time)) = (text("operation"), text("party"), text("time"))
    else {
        skip("the record lacks its operation, party or time");
        return Vec::new();
    };
    let Some(operation) = catalogue.named(name) else {
        skip("the catalogue no longer has its operation");
        return Vec::new();
    };
    let row =
        LedgerRow::of(operation).filter(|row| !row.intents.is_empty() || !row.own_ids.is_empty());
    let Some(row) = row else {
        skip("GatePay sends no notification about it by a number of its own");
        return Vec::new();
    };
    let named = match &operation.key {
        IdempotencyKey::One(field) => field.as_ref(),
        IdempotencyKey::None | IdempotencyKey::Either(..) | IdempotencyKey::Both(..) => "",
    };
    let after = call.after.as_ref();
    let succeeded = after.filter(|after| self::text(after, "outcome") == Some("success"));
    let ids = succeeded.and_then(|after| after.get("ids")?.as_object());
    let id = |field: &str| ids.and_then(|ids| ids.get(field)?.as_str());
    let keys = row.journaled((named, text("key")), id);
    let is_long = |field| id(field).is_some_and(|id| id.chars().count() >= JOURNALED_LENGTH);
    if row.own_id_fields().any(is_long) {
        skip("an id of GatePay's may be cut in the journal; it is left out");
    } else if !row.own_ids.is_empty() && succeeded.is_none() {
        skip("no success is recorded, so no id of GatePay's; its own number is taken");
    } else if keys.is_empty() {
        skip("the journal has none of its numbers and ids");
    }
    let at_ms = time.parse::<Timestamp>().ok();
    let at_ms = at_ms.and_then(|at| u64::try_from(at.as_millisecond()).ok());
    let account = text("account").unwrap_or_default();
    let currency = order_currency(&call.before);
    let note = |key| LedgerNote {
        key,
        holder: TenantAccount {
            tenant: party.to_owned(),
            account: account.to_owned(),
        },
        at_ms,
        operation: name.to_owned(),
        currency: currency.clone(),
    };
    keys.into_iter().map(note).collect()
}

/// The currency of an order that a call makes, which the order's refunds have.
fn order_currency(record: &JournalRecord) -> Option<String> {
    let amounts = record.get("amounts")?.as_array()?;
    let order = amounts.iter().find(|it| it["field"] == ORDER_AMOUNT)?;
    let currency = CurrencyCode::parse(order["currency"].as_str()?)?;
    Some(currency.as_str().to_owned())
}

fn text<'r>(record: &'r JournalRecord, name: &str) -> Option<&'r str> {
    record.get(name)?.as_str()
}

fn usage(line: impl fmt::Display) -> ExitStatus {
    complain(line);
    ExitStatus::Usage
}
