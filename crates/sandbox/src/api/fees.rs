//! Fee settings: versioned rules for a sub-account's extra fees. The sandbox stores the rules and charges no fees.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::api::accounts::AccountBook;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::page::ListPage;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The format of dates. The time zone is undocumented; the sandbox assumes UTC.
const DATE: &str = "%Y-%m-%d %H:%M:%S";

/// All versions of all rules, oldest first.
#[derive(Default)]
pub(crate) struct FeeRules(Vec<FeeRule>);

struct FeeRule {
    sub_account: String,
    version: usize,
    r_markup: Value,
    f_markup: Value,
    effective_date: String,
    effective_ms: u64,
    due_date: Value,
    created_ms: u64,
}

/// `POST /rate/commission_rule`: creates the first version of a rule.
pub(crate) fn create(
    accounts: &AccountBook,
    fee_rules: &mut FeeRules,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    match fee_rules.newest(asked.text("sub_merchant_id")?) {
        Some(_) => Err(ApiFailure::Reused("sub_merchant_id")),
        None => add(accounts, fee_rules, call, asked, 1),
    }
}

/// `POST /rate/commission_rule/upgrade`: adds a version of a rule.
pub(crate) fn upgrade(
    accounts: &AccountBook,
    fee_rules: &mut FeeRules,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let newest = fee_rules.newest(asked.text("sub_merchant_id")?);
    let version = newest
        .ok_or(ApiFailure::NotFound("sub_merchant_id"))?
        .version;
    add(accounts, fee_rules, call, asked, version + 1)
}

/// `GET /rate/commission_rule`: the newest version.
pub(crate) fn query(
    fee_rules: &FeeRules,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let newest = fee_rules.newest(asked.text("sub_merchant_id")?);
    let newest = newest.ok_or(ApiFailure::NotFound("sub_merchant_id"))?;
    Ok(newest.describe(call.now))
}

/// `POST /rate/commission_rule/list`: all versions, newest first.
pub(crate) fn list(
    fee_rules: &FeeRules,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let only = asked.optional_text("sub_merchant_id")?;
    let page = ListPage::asked(asked, "page", "page_size")?;
    let FeeRules(rules) = fee_rules;
    let found: Vec<_> = rules
        .iter()
        .rev()
        .filter(|rule| only.is_none_or(|only| only == rule.sub_account))
        .map(|rule| rule.describe(call.now))
        .collect();
    Ok(json!({"total": found.len(), "list": page.of(&found)}))
}

fn add(
    accounts: &AccountBook,
    fee_rules: &mut FeeRules,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
    version: usize,
) -> Outcome {
    let sub_account = asked.text("sub_merchant_id")?;
    if !accounts.is_active(sub_account, call.now) {
        return Err(ApiFailure::UnknownAccount);
    }
    let effective_date = asked.text("effective_date")?;
    if asked.optional_text("due_date")?.is_some() {
        date(asked, "due_date")?;
    }
    let rule = FeeRule {
        sub_account: sub_account.to_owned(),
        version,
        r_markup: number(asked, "r_markup")?.ok_or(ApiFailure::Malformed("r_markup"))?,
        f_markup: number(asked, "f_markup")?.unwrap_or_default(),
        effective_date: effective_date.to_owned(),
        effective_ms: date(asked, "effective_date")?,
        due_date: asked.echo("due_date"),
        created_ms: call.now,
    };
    let answer = rule.describe(call.now);
    fee_rules.0.push(rule);
    Ok(answer)
}

impl FeeRules {
    fn newest(&self, sub_account: &str) -> Option<&FeeRule> {
        let mut rules = self.0.iter().rev();
        rules.find(|rule| rule.sub_account == sub_account)
    }
}

impl FeeRule {
    fn describe(&self, now: u64) -> Value {
        let status = if now >= self.effective_ms {
            "EFFECTIVE"
        } else {
            "PENDING_EFFECTIVE"
        };
        json!({
            "sub_merchant_id": self.sub_account,
            "version": self.version,
            "r_markup": self.r_markup,
            "f_markup": self.f_markup,
            "effective_date": self.effective_date,
            "due_date": self.due_date,
            "status": status,
            "create_time": self.created_ms,
        })
    }
}

/// A number of at least zero; `None` if the number is null or absent.
fn number(asked: &RequestParameters, name: &'static str) -> Result<Option<Value>, ApiFailure> {
    match asked.echo(name) {
        Value::Null => Ok(None),
        Value::Number(number) if number.as_f64().is_some_and(|number| number >= 0.0) => {
            Ok(Some(number.into()))
        }
        _ => Err(ApiFailure::Malformed(name)),
    }
}

/// A date as milliseconds since 1970.
fn date(asked: &RequestParameters, name: &'static str) -> Result<u64, ApiFailure> {
    DateTime::strptime(DATE, asked.text(name)?)
        .and_then(|date| date.to_zoned(TimeZone::UTC))
        .ok()
        .and_then(|date| u64::try_from(date.timestamp().as_millisecond()).ok())
        .ok_or(ApiFailure::Malformed(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, OTHER, TestDesk};

    fn rule(account: &str, r_markup: &Value, effective_date: &str) -> Value {
        json!({
            "sub_merchant_id": account, "r_markup": r_markup, "effective_date": effective_date,
        })
    }

    #[test]
    fn an_upgrade_makes_another_version() {
        let mut desk = TestDesk::new();
        // The clock says 2026-01-01 00:00:00.
        let now = "2026-01-01 00:00:00";
        let first = desk.get("create_fee_rule", &rule(ACME, &json!(0), now));
        assert_eq!(
            (&first["version"], &first["status"]),
            (&json!(1), &json!("EFFECTIVE"))
        );
        let next = rule(ACME, &json!(0.2), "2026-01-01 00:00:01");
        assert_eq!(desk.refusal("create_fee_rule", &next), "400001");
        let second = desk.get("upgrade_fee_rule", &next);
        assert_eq!(second["status"], "PENDING_EFFECTIVE");
        desk.now += 1000;
        let found = desk.get("query_fee_rule", &json!({"sub_merchant_id": ACME}));
        assert_eq!(
            (&found["version"], &found["status"]),
            (&json!(2), &json!("EFFECTIVE"))
        );
        let all = desk.get("list_fee_rules", &json!({"page_size": 1}));
        assert_eq!((&all["total"], &all["list"]), (&json!(2), &json!([found])));
    }

    #[test]
    fn a_rule_needs_an_account_a_markup_and_a_date() {
        let mut desk = TestDesk::new();
        let date = "2026-01-01 00:00:00";
        for (rule, code) in [
            (rule("17", &json!(1), date), "400203"),
            (rule(ACME, &json!(null), date), "400001"),
            (rule(ACME, &json!("1"), date), "400001"),
            (rule(ACME, &json!(-1), date), "400001"),
            (rule(ACME, &json!(1), "2026-01-01"), "400001"),
        ] {
            assert_eq!(desk.refusal("create_fee_rule", &rule), code, "{rule}");
        }
        let other = rule(OTHER, &json!(1), date);
        assert_eq!(desk.refusal("upgrade_fee_rule", &other), "400202");
    }
}
