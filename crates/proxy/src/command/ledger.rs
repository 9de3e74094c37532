//! `ledger`: the ids by which notifications lead back to tenants.

mod import;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::ExitStatus;
use super::admin_client::AdminArguments;

/// Show the tenants whose calls have used a number or an id of GatePay's, or fill the ledger from an audit journal.
#[derive(Subcommand)]
pub(crate) enum LedgerCommand {
    Show(LedgerShow),
    Import(import::LedgerImport),
}

/// Show every tenant that has a key, with the call that it comes from.
/// The running process is asked on its admin listener.
#[derive(Args)]
pub(crate) struct LedgerShow {
    /// The number or id; of a fixed address its chain, a space and the address.
    key: String,
    /// Only keys of this kind, such as prepayId or merchantTradeNo [default: of every kind]
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    #[command(flatten)]
    arguments: AdminArguments,
}

impl LedgerCommand {
    pub(crate) fn run(self) -> ExitStatus {
        match self {
            Self::Show(show) => show.run(),
            Self::Import(import) => import.run(),
        }
    }
}

impl LedgerShow {
    fn run(self) -> ExitStatus {
        let parameters = [
            ("kind", self.kind.as_deref()),
            ("key", Some(self.key.as_str())),
        ];
        let lines = |page: &Value| {
            let holders = page["holders"].as_array().into_iter().flatten();
            let lines: Vec<String> = holders.map(line).collect();
            if lines.is_empty() {
                vec!["no tenant has it".to_owned()]
            } else {
                lines
            }
        };
        self.arguments
            .run(&Method::GET, "/ledger", &parameters, lines)
    }
}

fn line(holder: &Value) -> String {
    let word = |name: &str| holder[name].as_str().unwrap_or("-");
    let outcome = &holder["outcome"];
    let proved = |name: &str| outcome[name].as_str().unwrap_or("-");
    let outcome = if outcome.is_object() {
        format!(
            ", {} at {}: {} by notification {}",
            proved("outcome"),
            proved("at"),
            proved("status"),
            proved("notification"),
        )
    } else {
        String::new()
    };
    format!(
        "{} {} (account {}, incarnation {}) by {} at {}, source {}{outcome}",
        word("kind"),
        word("tenant"),
        word("account"),
        holder["incarnation"],
        word("operation"),
        word("at"),
        word("source"),
    )
}
