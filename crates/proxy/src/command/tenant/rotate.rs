//! `tenant rotate`.

use std::time::Duration;

use clap::Args;
use gatepay_proxy::process::clock::Clock;
use gatepay_tenancy::{PartyId, edit};
use serde_json::json;

use super::{
    TenantArguments, changed_copies, credential_lines, not_edited, not_restricted,
    print_unchanged_copies, random,
};
use crate::command::ExitStatus;

/// Give a tenant a new credential, and let the old ones end after an overlap.
/// Both are valid during the overlap. The new one has its own client id and secret; the secret is printed once. The old
/// ones stay in the file with a `not_after`; remove them when metrics and `GET /tenants` show that they are unused.
#[derive(Args)]
pub(crate) struct TenantRotate {
    /// The tenant.
    #[arg(value_parser = PartyId::parse)]
    id: PartyId,
    /// The time for which the old credentials stay valid: 90s, 45m, 12h or 7d. With 0s all of them end now, also those that
    /// are not valid yet.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = overlap)]
    overlap: Duration,
    #[command(flatten)]
    arguments: TenantArguments,
}

impl TenantRotate {
    pub(super) fn run(self) -> ExitStatus {
        let now_ms = Clock::system().unix_ms();
        let files = self.arguments.files();
        let rotated = match edit::rotate(&files, &self.id, now_ms, self.overlap, &random()) {
            Ok(rotated) => rotated,
            Err(error) if self.overlap.is_zero() => return not_restricted(error, &self.id),
            Err(error) => return not_edited(error),
        };
        self.arguments.print_other_problems(
            &rotated.problems,
            &self.id,
            "the file is changed; a running proxy ends the old credentials by it, but accepts the new one only once the \
             configuration is corrected, which has",
        );
        let arguments = json!({
            "id": self.id.as_str(),
            "client_id": rotated.client_id.as_str(),
            "secret": rotated.secret.as_str(),
            "tenant_file": rotated.tenant_file,
            "also_changed": rotated.copies.edited,
            "secret_file": rotated.secret_file,
            "ending": rotated.ending,
            "ends": rotated.ends,
        });
        let mut wrote = vec![format!("changed {}", rotated.tenant_file.display())];
        wrote.extend(changed_copies(&rotated.copies, &self.id));
        wrote.push(format!("wrote {}", rotated.secret_file.display()));
        let ending = rotated.ending.iter();
        let ending: Vec<_> = ending
            .map(|old| format!("{old} ends {}", rotated.ends))
            .collect();
        let credential = credential_lines(&self.id, &rotated.client_id, &rotated.secret);
        let exit = self
            .arguments
            .print(&arguments, &[&wrote[..], &ending, &credential].concat());
        print_unchanged_copies(rotated.copies, &self.id, exit)
    }
}

fn overlap(text: &str) -> Result<Duration, &'static str> {
    const MEANT: &str = "must be a number and s, m, h or d, like 7d";
    let unit = text.chars().last().ok_or(MEANT)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(MEANT),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| MEANT)?;
    // A longer overlap is a typing error, and in effect no end at all.
    let most = 366 * 86_400;
    let seconds = number
        .checked_mul(seconds)
        .filter(|seconds| *seconds <= most);
    seconds
        .map(Duration::from_secs)
        .ok_or("must be at most 366d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_a_number_and_a_unit() {
        let seconds = |text| overlap(text).map(|overlap| overlap.as_secs());
        assert_eq!(
            ["90s", "45m", "12h", "7d", "0s"].map(seconds),
            [90, 2_700, 43_200, 604_800, 0].map(Ok)
        );
        for wrong in [
            "",
            "d",
            "7",
            "7w",
            "-1d",
            "7 d",
            "367d",
            "99999999999999999999d",
            "7é",
        ] {
            assert!(overlap(wrong).is_err(), "{wrong}");
        }
    }
}
