//! `tenant list`.

use clap::Args;
use gatepay_proxy::process::clock::Clock;
use gatepay_tenancy::Tenant;
use serde_json::{Value, json};

use super::{TenantArguments, credential, refuse, time};
use crate::command::suspended::SuspendedByHand;
use crate::command::{ExitStatus, complain};

/// List the tenants, one line each, without secrets.
#[derive(Args)]
pub(crate) struct TenantList {
    #[command(flatten)]
    arguments: TenantArguments,
}

impl TenantList {
    pub(super) fn run(self) -> ExitStatus {
        let (configuration, problems) = self.arguments.load();
        let now_ms = Clock::system().unix_ms();
        let tenants = configuration.registry.tenants();
        let head = [
            "tenant",
            "sub-account",
            "standing",
            "req/s",
            "burst",
            "in flight",
            "credentials",
            "next end",
        ];
        let suspended = SuspendedByHand::in_folder(configuration.settings.state_dir.as_deref());
        let notes = suspended.notes(tenants.iter().map(|tenant| &tenant.party.id));
        let mut lines = vec![line(head.map(str::to_owned))];
        lines.extend(
            tenants
                .iter()
                .map(|tenant| line(cells(tenant, &suspended, now_ms))),
        );
        let json = tenants
            .iter()
            .map(|tenant| object(tenant, &suspended, now_ms))
            .collect();
        notes.iter().for_each(complain);
        let exit = self.arguments.print(&json, &lines);
        if problems.is_empty() {
            exit
        } else {
            refuse(
                &problems,
                "the tenants that could be read are listed; the other files have",
            )
        }
    }
}

fn line(cells: [String; 8]) -> String {
    let [id, account, standing, rate, burst, seats, credentials, end] = cells;
    let line = format!(
        "{id:<24} {account:<20} {standing:<10} {rate:>8} {burst:>8} {seats:>9} {credentials:>11}  {end}"
    );
    line.trim_end().to_owned()
}

fn cells(tenant: &Tenant, suspended: &SuspendedByHand, now_ms: u64) -> [String; 8] {
    let party = &tenant.party;
    let valid = party
        .credentials
        .iter()
        .filter(|dated| dated.valid_at(now_ms));
    let end = valid.clone().filter_map(|dated| dated.not_after).min();
    [
        party.id.to_string(),
        tenant.sub_account.to_string(),
        suspended
            .standing(&party.id, party.standing)
            .as_str()
            .to_owned(),
        party.limits.all.per_second.to_string(),
        party.limits.all.burst.to_string(),
        party.limits.in_flight.to_string(),
        // The valid credentials out of all credentials.
        format!("{} of {}", valid.count(), party.credentials.len()),
        end.map(time).unwrap_or_default(),
    ]
}

fn object(tenant: &Tenant, suspended: &SuspendedByHand, now_ms: u64) -> Value {
    let party = &tenant.party;
    let credentials = party.credentials.iter();
    json!({
        "id": party.id.as_str(),
        "sub_account": tenant.sub_account.as_str(),
        "standing": suspended.standing(&party.id, party.standing).as_str(),
        "file_standing": party.standing.as_str(),
        "suspended": suspended.of(&party.id),
        "requests_per_second": party.limits.all.per_second,
        "burst": party.limits.all.burst,
        "in_flight": party.limits.in_flight,
        "credentials": credentials.map(|dated| credential(dated, now_ms)).collect::<Vec<_>>(),
    })
}
