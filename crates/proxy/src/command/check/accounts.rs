//! The lines of `check` about sub-accounts that several tenants have, or may have without meaning to.

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::money::CurrencyCode;
use gatepay_tenancy::Registry;
use gatepay_tenancy::caps::Cap;

use super::super::say;

/// Prints the currencies that the caps of one tenant close for another tenant of its sub-account, and the sub-accounts that GatePay
/// may take for one.
pub(super) fn report(registry: &Registry) {
    let mut accounts: BTreeMap<&str, Vec<(&str, &[Cap])>> = BTreeMap::new();
    for tenant in registry.tenants() {
        let of_account = accounts.entry(tenant.sub_account.as_str()).or_default();
        of_account.push((tenant.party.id.as_str(), tenant.caps()));
    }
    for (account, tenants) in &accounts {
        for closed in closed(tenants) {
            say(format_args!("note: sub-account {account}: {closed}"));
        }
    }
    for alike in alike(accounts.keys().copied()) {
        say(format_args!(
            "warning: sub-accounts {} differ in letter case or leading zeros alone; if GatePay takes them for one, caps and destinations of one do not bind the other: make sure that each is written as GatePay gave it",
            alike.join(" and ")
        ));
    }
}

/// The currencies that each tenant's file refuses and another tenant's file allows. Both files bind all calls of their sub-account.
fn closed(tenants: &[(&str, &[Cap])]) -> Vec<String> {
    let capped = tenants.iter().filter(|(_, caps)| !caps.is_empty());
    let capped: Vec<_> = capped.map(|(id, caps)| (*id, FileCaps::of(caps))).collect();
    let mut closed = Vec::new();
    for (refusing, own) in &capped {
        // By currency: the tenants that allow it, and the calls. `None` is every currency that the file does not name.
        let mut refused: BTreeMap<Option<&str>, (BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
        for (allowing, other) in capped.iter().filter(|(id, _)| id != refusing) {
            for (call, currency) in other.allowed() {
                if own.refuses(call, currency) {
                    let (who, calls) = refused.entry(currency).or_default();
                    who.insert(allowing);
                    calls.insert(call);
                }
            }
        }
        for (currency, (who, calls)) in refused {
            let join = |words: BTreeSet<&str>, between| {
                words.into_iter().collect::<Vec<_>>().join(between)
            };
            let allow = if who.len() == 1 { "allows" } else { "allow" };
            let (who, calls) = (join(who, " and "), join(calls, ", "));
            closed.push(match currency {
                Some(currency) => format!(
                    "{refusing} refuses {currency}, which {who} {allow}: the sub-account's calls in {currency} are refused ({calls})"
                ),
                None => format!(
                    "{refusing} refuses each currency without a cap of its own, which {who} {allow}: the sub-account's calls in such a currency are refused ({calls})"
                ),
            });
        }
    }
    closed
}

/// The currencies with caps of one file that are enforced, by call; `None` is `"*"`.
struct FileCaps<'a>(BTreeMap<&'a str, BTreeSet<Option<&'a str>>>);

impl<'a> FileCaps<'a> {
    fn of(caps: &'a [Cap]) -> Self {
        let mut currencies: BTreeMap<&str, BTreeSet<Option<&str>>> = BTreeMap::new();
        for cap in caps.iter().filter(|cap| !cap.shadow) {
            let currency = cap.currency.as_ref().map(CurrencyCode::as_str);
            for call in &cap.calls.counted {
                currencies.entry(call).or_default().insert(currency);
            }
        }
        Self(currencies)
    }

    fn allowed(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let calls = self.0.iter();
        calls.flat_map(|(call, currencies)| currencies.iter().map(|currency| (*call, *currency)))
    }

    /// Whether the file allows calls in some currencies, and not in this one.
    fn refuses(&self, call: &str, currency: Option<&str>) -> bool {
        let own = self.0.get(call);
        own.is_some_and(|own| !own.contains(&None) && !own.contains(&currency))
    }
}

/// The sub-accounts that are the same but for letter case and leading zeros.
fn alike<'a>(accounts: impl Iterator<Item = &'a str>) -> Vec<Vec<&'a str>> {
    let mut spellings: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for account in accounts {
        let plain = account.trim_start_matches('0').to_ascii_lowercase();
        spellings.entry(plain).or_default().push(account);
    }
    let groups = spellings.into_values();
    groups.filter(|group| group.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::exact_amount::ExactAmount;
    use gatepay_core::money::CurrencyCode;
    use gatepay_tenancy::caps::CappedCalls;

    fn cap(currency: &str, counted: &[&'static str]) -> Cap {
        Cap {
            calls: CappedCalls {
                words: Vec::new(),
                counted: counted.iter().copied().collect(),
            },
            currency: CurrencyCode::parse(currency).filter(|_| currency != "*"),
            per_call: None,
            per_hour: None,
            per_24h: None,
            per_day: ExactAmount::parse("1").ok(),
            count_per_hour: None,
            approve_above: None,
            shadow: false,
        }
    }

    #[test]
    fn a_currency_that_one_file_refuses_and_another_of_its_sub_account_allows_is_a_note() {
        let (payout, refund) = ("create_payout", "refund_order");
        let usdt = [cap("USDT", &[payout, refund])];
        let gt = [cap("GT", &[payout])];
        let every = [cap("*", &[payout, refund]), cap("GT", &[payout])];
        let shadow = [Cap {
            shadow: true,
            ..cap("BTC", &[payout])
        }];
        let told = |tenants: &[(&str, &[Cap])]| closed(tenants);
        assert_eq!(
            told(&[("a", &usdt), ("b", &gt), ("free", &[]), ("seen", &shadow)]),
            [
                "a refuses GT, which b allows: the sub-account's calls in GT are refused (create_payout)",
                "b refuses USDT, which a allows: the sub-account's calls in USDT are refused (create_payout)",
            ]
        );
        assert_eq!(
            told(&[("a", &usdt), ("b", &gt), ("c", &every)]),
            [
                "a refuses each currency without a cap of its own, which c allows: the sub-account's calls in such a currency are refused (create_payout, refund_order)",
                "a refuses GT, which b and c allow: the sub-account's calls in GT are refused (create_payout)",
                "b refuses each currency without a cap of its own, which c allows: the sub-account's calls in such a currency are refused (create_payout)",
                "b refuses USDT, which a allows: the sub-account's calls in USDT are refused (create_payout)",
            ]
        );
        assert_eq!(told(&[("a", &usdt), ("b", &usdt)]), [""; 0]);
        assert_eq!(told(&[("a", &every), ("b", &every)]), [""; 0]);
    }

    #[test]
    fn sub_accounts_that_gatepay_may_take_for_one_are_named_together() {
        let accounts = ["0100", "100", "1000", "Abc", "aBC", "abd"];
        assert_eq!(
            alike(accounts.into_iter()),
            [vec!["0100", "100"], vec!["Abc", "aBC"]]
        );
    }
}
