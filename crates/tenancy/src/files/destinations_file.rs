//! `[destinations]` and `[[destination]]` of a tenant's file, as written.

use std::collections::BTreeSet;

use gatepay_core::money::{AddressPart, MoneyTarget};

use crate::files::caps_file::period;
use crate::model::destinations::{DestinationMode, TenantDestinations};
use crate::syntax::table_reader::TableReader;
use crate::syntax::value;

/// The most destinations of a list: people do not check a longer one.
const MOST: usize = 2_000;

/// The problem of a list without a store.
const WITHOUT_STORE: &str = "requires [store] in proxy.toml, which counts the hold of new destinations: set store.path (one process) or store.postgres (several)";
/// The problem of an entry without the table that says whether it bounds anything.
const WITHOUT_MODE: &str = "requires [destinations] with mode = \"listed\", or mode = \"any\" to count the hold before that";
/// The problem of an entry that names none, or several.
const KIND: &str = "names one destination: chain and address (and memo), gate_uid, or bank_account";

/// Reads the tables `destinations` and `destination` of a tenant's file.
pub(crate) fn of_tenant(
    reader: &mut TableReader<'_>,
    has_store: bool,
) -> Option<TenantDestinations> {
    let table = reader.table("destinations");
    let entries = reader.tables("destination").unwrap_or_default();
    if entries.len() > MOST {
        reader.problem("destination", format!("must be at most {MOST} tables"));
    }
    let mut listed = BTreeSet::new();
    for entry in entries {
        let repeated = entry.location("address");
        if let Some(target) = destination(entry)
            && !listed.insert(target)
        {
            let text = format!("names a destination twice (the second at {repeated})");
            reader.problem("destination", text);
        }
    }
    let Some(mut table) = table else {
        if reader.has("destination") {
            reader.problem("destination", WITHOUT_MODE);
        }
        return None;
    };
    let modes = [DestinationMode::Listed, DestinationMode::Any].map(|mode| (mode.as_str(), mode));
    let mode = table.required("mode", value::word(&modes));
    let hold = table.or("hold", TenantDestinations::HOLD, value::text(period));
    if mode == Some(DestinationMode::Listed) && !has_store {
        table.problem("mode", WITHOUT_STORE);
    }
    table.finish();
    Some(TenantDestinations {
        mode: mode?,
        hold,
        listed,
    })
}

fn destination(mut reader: TableReader<'_>) -> Option<MoneyTarget> {
    let mut text = |key| reader.optional(key, value::text(|it: &str| Ok::<_, &str>(it.to_owned())));
    let [chain, address, memo, user, bank] =
        ["chain", "address", "memo", "gate_uid", "bank_account"].map(&mut text);
    let has_address = reader.has("chain") || reader.has("address") || reader.has("memo");
    let kinds = [
        has_address,
        reader.has("gate_uid"),
        reader.has("bank_account"),
    ];
    let misshapen = |key: &str, text: &str| {
        reader.problem(key, text);
        None
    };
    let target = if kinds.iter().filter(|is_named| **is_named).count() != 1 {
        misshapen("address", KIND)
    } else if let Some(user) = user {
        let user = MoneyTarget::user(&user);
        user.or_else(|| misshapen("gate_uid", "must be 1 to 64 visible ASCII characters"))
    } else if let Some(bank) = bank {
        let bank = MoneyTarget::bank(&bank);
        bank.or_else(|| misshapen("bank_account", "must be 1 to 64 visible ASCII characters"))
    } else {
        reader.need("chain", "is required beside address");
        reader.need("address", "is required beside chain");
        let memo = memo.unwrap_or_default();
        let stated = chain.zip(address);
        stated.and_then(|(chain, address)| {
            let target = MoneyTarget::address(&chain, &address, &memo);
            let why = |part: AddressPart| match part {
                AddressPart::Chain => misshapen("chain", "must be 1 to 32 letters, digits, _ - and ."),
                AddressPart::Address => {
                    misshapen("address", "must be 1 to 120 visible ASCII characters")
                }
                AddressPart::Memo => misshapen(
                    "memo",
                    "must be at most 80 bytes, without control characters and without spaces around it",
                ),
            };
            target.map_or_else(why, Some)
        })
    };
    reader.finish();
    target
}
