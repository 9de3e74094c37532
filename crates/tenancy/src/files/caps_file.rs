//! `[caps]` of `proxy.toml` and `[[cap]]` of a tenant's file, as written.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use gatepay_core::Kind;
use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::{CurrencyCode, DemandKind, MONEY_ROWS, MoneyDirection, MoneyRow};
use gatepay_core::operation::ApiModule;
use gatepay_core::{Catalogue, Operation};

use crate::model::caps::{Cap, CapSettings, CapTimeZone, CappedCalls, CappedWord, UnreadCalls};
use crate::model::settings::ApprovalRule;
use crate::syntax::problem::closest;
use crate::syntax::table_reader::{TableReader, ValueFault};
use crate::syntax::value;

/// As many limits as a call can be compared with beside the rest of its admission.
const MOST_CAPS: usize = 64;
/// The largest number of calls of an hour that can be configured.
const MOST_CALLS: u64 = 1_000_000_000;
/// The longest `raise_after`: a longer one is a slip of the unit.
const LONGEST_RAISE: Duration = Duration::from_hours(24 * 90);

/// Reads the table `caps` of `proxy.toml`.
pub(crate) fn read(mut reader: TableReader<'_>) -> (ApprovalRule, CapSettings) {
    let default = CapSettings::default();
    let approvals = reader.or("approvals", ApprovalRule::One, |value| {
        Ok(match value::number(value, 1..=2)? {
            2 => ApprovalRule::Two,
            _ => ApprovalRule::One,
        })
    });
    let time_zone = value::text(CapTimeZone::parse);
    let settings = CapSettings {
        time_zone: reader.or("timezone", default.time_zone, time_zone),
        raise_after: reader.or("raise_after", default.raise_after, value::text(period)),
        all: caps(&mut reader, "all"),
    };
    reader.finish();
    (approvals, settings)
}

/// Reads the tables `cap` of a tenant's file. Without a store nothing would keep them.
pub(crate) fn of_tenant(reader: &mut TableReader<'_>, has_store: bool) -> Vec<Cap> {
    let caps = caps(reader, "cap");
    if reader.has("cap") && !has_store {
        reader.problem("cap", WITHOUT_STORE);
    }
    caps
}

/// The problem of caps without a store.
pub(crate) const WITHOUT_STORE: &str = "requires [store] in proxy.toml, which keeps the sums: set store.path (one process) or store.postgres (several)";

fn caps(reader: &mut TableReader<'_>, key: &'static str) -> Vec<Cap> {
    let tables = reader.tables(key).unwrap_or_default();
    if tables.len() > MOST_CAPS {
        reader.problem(key, format!("must be at most {MOST_CAPS} tables"));
    }
    tables.into_iter().filter_map(cap).collect()
}

fn cap(mut reader: TableReader<'_>) -> Option<Cap> {
    reader.need("calls", "is required");
    let words = reader.list("calls", value::text(word));
    if words.as_ref().is_some_and(Vec::is_empty) {
        let text = "names no call; \"money\" is every call that spends money";
        reader.problem("calls", text);
    }
    let currency = reader.required("currency", value::text(currency));
    let mut amount = |key| reader.optional(key, value::text(ExactAmount::parse));
    let [per_call, per_hour, per_24h, per_day, approve_above] = [
        "per_call",
        "per_hour",
        "per_24h",
        "per_day",
        "approve_above",
    ]
    .map(&mut amount);
    let count_per_hour = reader.optional("count_per_hour", |value| {
        let number = value::number(value, 1..=MOST_CALLS)?;
        Ok(u32::try_from(number).expect("the bounds are within the type's"))
    });
    let shadow = reader.or("shadow", false, value::flag);
    let limits = [
        "per_call",
        "per_hour",
        "per_24h",
        "per_day",
        "count_per_hour",
        "approve_above",
    ];
    if !limits.iter().any(|key| reader.has(key)) {
        let text = format!("sets no limit; set one of {}", limits.join(", "));
        reader.problem("currency", text);
    }
    reader.finish();
    let counted = words.as_ref()?.iter().flat_map(|(_, names)| names.clone());
    Some(Cap {
        calls: CappedCalls {
            counted: counted.collect(),
            words: words?.into_iter().map(|(word, _)| word).collect(),
        },
        currency: currency?,
        per_call,
        per_hour,
        per_24h,
        per_day,
        count_per_hour,
        approve_above,
        shadow,
    })
}

/// Rows that `proxy.toml` adds have no known body, so that no word of `calls` names one.
static STANDARD: LazyLock<Catalogue> = LazyLock::new(Catalogue::standard);

/// A word of `calls`, with the names under which its calls are counted.
fn word(text: &str) -> Result<(CappedWord, BTreeSet<&'static str>), ValueFault> {
    let told = |unread| CappedWord {
        text: text.to_owned(),
        unread,
    };
    let rows = |covers: &dyn Fn(&MoneyRow) -> bool| {
        let rows = MONEY_ROWS.iter().filter(|row| covers(row));
        rows.flat_map(MoneyRow::counted_names).collect()
    };
    if text == Kind::Money.as_str() {
        // What comes in is capped only by its own name.
        let names = rows(&|row| row.direction == MoneyDirection::Out);
        return Ok((told(UnreadCalls::All), names));
    }
    let catalogue = &*STANDARD;
    if let Some(module) = ApiModule::parse(text) {
        let is_of = |row: &Operation| row.module == module && row.kind == Kind::Money;
        if !catalogue.rows().iter().any(is_of) {
            return Err("is a module without calls that move money".into());
        }
        let names = rows(&|row| catalogue.named(row.operation).is_some_and(is_of));
        return Ok((told(UnreadCalls::Module(module)), names));
    }
    let names: BTreeSet<_> = MoneyRow::selected_by(text).into_iter().collect();
    if !names.is_empty() {
        return Ok((told(UnreadCalls::None), names));
    }
    Err(match catalogue.named(text) {
        Some(row) if row.kind == Kind::Money => {
            "is a call of which no page says where its amount stands, so that no cap counts it; deny it in [operations] instead".into()
        }
        Some(_) => "is a call that moves no money".into(),
        None => unknown_word(text),
    })
}

fn unknown_word(word: &str) -> ValueFault {
    let modules = ApiModule::ALL.iter().map(|module| module.as_str());
    let kinds = DemandKind::ALL.iter().map(|kind| kind.as_str());
    let operations = MONEY_ROWS.iter().map(|row| row.operation);
    let all = modules.chain(kinds).chain(operations);
    match closest(word, all.chain([Kind::Money.as_str()])) {
        Some(meant) => {
            format!("unknown module, kind or operation (did you mean \"{meant}\"?)").into()
        }
        None => format!(
            "unknown module, kind or operation; kinds are \"money\" and {}",
            DemandKind::ALL
                .iter()
                .map(|kind| format!("\"{kind}\""))
                .collect::<Vec<_>>()
                .join(", ")
        )
        .into(),
    }
}

fn currency(text: &str) -> Result<Option<CurrencyCode>, &'static str> {
    match text {
        "*" => Ok(None),
        text => CurrencyCode::parse(text).map(Some).ok_or(
            "must be a currency like \"USDT\", or \"*\" for each one without a cap of its own",
        ),
    }
}

/// A time like `24h`: a whole number with `s`, `m`, `h` or `d`; or `0`.
pub(crate) fn period(text: &str) -> Result<Duration, &'static str> {
    let fault = "must be a time like \"24h\", with s, m, h or d, of at most 90 days; \"0\" is none";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let seconds = match text.bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(fault),
    };
    let number = &text[..text.len() - 1];
    let is_number = (1..=7).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|_| is_number);
    let period = number.map(|number| Duration::from_secs(number * seconds));
    period
        .filter(|period| *period <= LONGEST_RAISE)
        .ok_or(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> Vec<&'static str> {
        word(text).unwrap().1.into_iter().collect()
    }

    #[test]
    fn a_word_of_calls_covers_a_kind_a_module_or_an_operation() {
        assert_eq!(
            counted("payouts"),
            [
                "create_payout",
                "refund_address_order/payout",
                "refund_checkout_order/payout",
                "refund_converted_address_order/payout",
                "refund_order_v2/payout",
                "refund_order_v3/payout"
            ]
        );
        assert_eq!(counted("create_payout"), ["create_payout"]);
        assert_eq!(
            counted("payout"),
            ["create_batch_transfer", "create_payout"]
        );
        assert!(counted("payment").contains(&"refund_order_v2/payout"));
        let money = counted("money");
        assert!(money.contains(&"create_gift_card") && money.contains(&"refund_order"));
        assert!(!money.contains(&"deduct_subscription"), "it comes in");
        assert_eq!(counted("deductions"), ["deduct_subscription"]);
    }

    #[test]
    fn a_word_that_covers_no_money_call_is_a_problem() {
        let fault = |text| word(text).unwrap_err().into_owned();
        assert_eq!(
            fault("balance"),
            "is a module without calls that move money"
        );
        assert_eq!(fault("query_order"), "is a call that moves no money");
        assert!(fault("mcp_call").contains("deny it in [operations]"));
        assert!(
            fault("payout_").contains("did you mean \"payout\"?"),
            "{}",
            fault("payout_")
        );
        assert!(fault("everything").contains("kinds are \"money\" and \"payouts\""));
    }

    #[test]
    fn a_period_has_a_unit() {
        assert_eq!(period("24h"), Ok(Duration::from_hours(24)));
        assert_eq!(period("0"), Ok(Duration::ZERO));
        assert_eq!(period("90d"), Ok(Duration::from_hours(2160)));
        for bad in [
            "",
            "h",
            "24",
            "1.5h",
            "91d",
            "-1h",
            "99999999999999999999d",
            "1w",
            "1\u{e9}",
        ] {
            assert!(period(bad).is_err(), "{bad}");
        }
    }
}
