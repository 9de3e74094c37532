//! `tenant show`.

use clap::Args;
use gatepay_proxy::process::clock::Clock;
use gatepay_tenancy::{ConfigSnapshot, PartyId, PartyRef, edit, facts};
use serde_json::{Value, json};

use super::{TenantArguments, credential, not_edited, print_problems, refuse};
use crate::command::suspended::SuspendedByHand;
use crate::command::{ExitStatus, complain};

/// Show all settings of one tenant, defaults included, without secrets.
#[derive(Args)]
pub(crate) struct TenantShow {
    /// The tenant.
    #[arg(value_parser = PartyId::parse)]
    id: PartyId,
    #[command(flatten)]
    arguments: TenantArguments,
}

impl TenantShow {
    pub(super) fn run(self) -> ExitStatus {
        let file = match edit::file_of(&self.arguments.files(), &self.id) {
            Ok(file) => file,
            Err(error) => return not_edited(error),
        };
        let (configuration, problems) = self.arguments.load();
        let mut tenants = configuration.registry.tenants().iter();
        let Some(tenant) = tenants.find(|tenant| tenant.party.id == self.id) else {
            if !problems.is_empty() {
                return refuse(
                    &problems,
                    "this tenant cannot be read; the configuration has",
                );
            }
            return not_edited(edit::EditError::Changed(file));
        };
        let now_ms = Clock::system().unix_ms();
        let facts = facts::of_party(PartyRef::Tenant(tenant), ConfigSnapshot::of(&configuration));
        let facts = facts
            .iter()
            .filter(|(key, _)| !key.starts_with("credential."));
        let credentials = tenant.party.credentials.iter();
        let credentials: Vec<_> = credentials.map(|dated| credential(dated, now_ms)).collect();

        let suspended = SuspendedByHand::in_folder(configuration.settings.state_dir.as_deref());
        let mut lines = vec![
            line("tenant", self.id.as_str()),
            line("file", &file.display().to_string()),
        ];
        let facts_lines = facts.clone().map(|(key, value)| line(key, &shown(value)));
        lines.extend(facts_lines);
        lines.extend(credentials.iter().map(credential_line));
        let mut json: Value = facts
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        json["id"] = json!(self.id.as_str());
        json["file"] = json!(file);
        json["credentials"] = credentials.into();
        let standing = tenant.party.standing;
        json["standing"] = json!(suspended.standing(&self.id, standing).as_str());
        json["file_standing"] = json!(standing.as_str());
        json["suspended"] = json!(suspended.of(&self.id));
        suspended
            .notes(std::iter::once(&self.id))
            .iter()
            .for_each(complain);
        if !problems.is_empty() {
            print_problems(&problems, "the configuration has");
        }
        self.arguments.print(&json, &lines)
    }
}

fn line(key: &str, value: &str) -> String {
    format!("{key:<28} {value}")
}

fn credential_line(dated: &Value) -> String {
    let [id, state] = ["client_id", "state"].map(|key| shown(&dated[key]));
    let dates = ["not_before", "not_after"].map(|key| match &dated[key] {
        Value::Null => String::new(),
        time => format!(", {key} {}", shown(time)),
    });
    line("credential", &format!("{id}, {state}{}", dates.concat()))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
