//! Isolation probe: finds out whether GatePay shows an account the objects of another.
//!
//! For each look-up it needs an object of each of two tenants or more, which an answer of GatePay's gave to them. Every
//! account must find its own object, before and after, and none the object of another. That an account finds its own is the
//! control: without it "not found" may only mean that the account, or the look-up, does not work.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::owner_look_up::{IsolationVerdict, OwnerAnswer, OwnerInquiry, OwnerLookUp};
use gatepay_core::ownership::TenantIncarnation;
use serde::Serialize;

/// The most accounts that take part: the number of look-ups grows with its square.
pub const MOST_ACCOUNTS: usize = 3;

/// An object that a tenant surely has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbedObject {
    /// GatePay's id.
    pub id: LedgerKey,
    /// The tenant.
    pub owner: TenantIncarnation,
    /// The operation that made it.
    pub made_by: String,
}

/// What the probe of one look-up has found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LookUpReport {
    /// The operation that looks up.
    pub operation: &'static str,
    /// The result: `apart`, `shared` or `inconclusive`.
    pub verdict: &'static str,
    /// The accounts that took part.
    pub accounts: Vec<String>,
    /// The look-ups that were sent.
    pub look_ups: u32,
    /// What the verdict rests on, or what is missing.
    pub detail: String,
}

/// Probes one look-up with those of the objects that it shows. `ask` sends a look-up on behalf of a tenant.
pub async fn probe<F: Future<Output = OwnerAnswer>>(
    look_up: &'static OwnerLookUp,
    objects: &[ProbedObject],
    ask: impl Fn(OwnerInquiry, TenantIncarnation) -> F,
) -> (IsolationVerdict, LookUpReport) {
    let mut known: Vec<(&TenantIncarnation, OwnerInquiry)> = Vec::new();
    for object in objects.iter().filter(|it| look_up.shows(&it.made_by)) {
        let is_new = known.iter().all(|(owner, _)| **owner != object.owner);
        if let Some(inquiry) = OwnerInquiry::by(look_up, object.id.clone())
            && is_new
            && known.len() < MOST_ACCOUNTS
        {
            known.push((&object.owner, inquiry));
        }
    }
    let mut look_ups = 0;
    let (verdict, detail) = if known.len() < 2 {
        let detail = format!(
            "needs an object of each of two tenants, made by {}: name them with --object",
            look_up.made_by.join(" or ")
        );
        (IsolationVerdict::Inconclusive, detail)
    } else {
        judged(&known, ask, &mut look_ups).await
    };
    let report = LookUpReport {
        operation: look_up.operation,
        verdict: verdict.as_str(),
        accounts: known.iter().map(|(it, _)| it.account.clone()).collect(),
        look_ups,
        detail,
    };
    (verdict, report)
}

async fn judged<F: Future<Output = OwnerAnswer>>(
    known: &[(&TenantIncarnation, OwnerInquiry)],
    ask: impl Fn(OwnerInquiry, TenantIncarnation) -> F,
    look_ups: &mut u32,
) -> (IsolationVerdict, String) {
    let all = 0..known.len();
    let own = || all.clone().map(|one| (one, one));
    let pairs = all
        .clone()
        .flat_map(|asker| all.clone().map(move |owner| (asker, owner)));
    let foreign = pairs.filter(|(asker, owner)| asker != owner);
    let order: Vec<(usize, usize)> = own().chain(foreign).chain(own()).collect();
    for (asker, owner) in order {
        let (asker, (owner, inquiry)) = (known[asker].0, &known[owner]);
        let is_own = asker == *owner;
        *look_ups += 1;
        let answer = ask(inquiry.clone(), asker.clone()).await;
        let (asker, owner, id) = (&asker.account, &owner.account, inquiry.id.text());
        let wanting = match (answer, is_own) {
            (OwnerAnswer::Has, true) | (OwnerAnswer::HasNot, false) => continue,
            (OwnerAnswer::Has, false) => {
                let detail = format!("account {asker} finds {id} of account {owner}");
                return (IsolationVerdict::Shared, detail);
            }
            (OwnerAnswer::HasNot, true) => format!("account {asker} does not find its own {id}"),
            (OwnerAnswer::Unclear, true) => {
                format!("no clear answer to account {asker} about its own {id}")
            }
            (OwnerAnswer::Unclear, false) => {
                format!("no clear answer to account {asker} about {id} of account {owner}")
            }
        };
        return (IsolationVerdict::Inconclusive, wanting);
    }
    let detail = format!(
        "each of {} accounts finds its own object and not those of the others",
        known.len()
    );
    (IsolationVerdict::Apart, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn tenant(account: &str) -> TenantIncarnation {
        TenantIncarnation {
            tenant: format!("tenant {account}"),
            account: account.to_owned(),
            incarnation: 1,
        }
    }

    fn objects(of: &[&str]) -> Vec<ProbedObject> {
        let look_up = &OwnerLookUp::ALL[0];
        let object = |account: &&str| ProbedObject {
            id: LedgerKey::new(look_up.id.kind, format!("id of {account}")).unwrap(),
            owner: tenant(account),
            made_by: "create_order".to_owned(),
        };
        of.iter().map(object).collect()
    }

    /// Probes with a GatePay that gives this answer to the look-up with this number, and else keeps accounts apart.
    async fn probed(of: &[&str], odd: Option<(usize, OwnerAnswer)>) -> LookUpReport {
        let asked = Mutex::new(0);
        let ask = |inquiry: OwnerInquiry, asker: TenantIncarnation| {
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            let has = inquiry.id.text() == format!("id of {}", asker.account);
            let answer = match odd {
                Some((at, answer)) if at == *asked => answer,
                _ if has => OwnerAnswer::Has,
                _ => OwnerAnswer::HasNot,
            };
            async move { answer }
        };
        let (verdict, report) = probe(&OwnerLookUp::ALL[0], &objects(of), ask).await;
        assert_eq!(verdict.as_str(), report.verdict);
        report
    }

    #[tokio::test]
    async fn accounts_are_apart_if_each_finds_its_own_object_and_none_finds_another() {
        let report = probed(&["a", "b"], None).await;
        assert_eq!((report.verdict, report.look_ups), ("apart", 6));
        // No more than three accounts, and one object of each.
        let report = probed(&["a", "b", "a", "c", "d"], None).await;
        assert_eq!((report.verdict, report.look_ups), ("apart", 12));
        assert_eq!(report.accounts, ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn one_foreign_object_that_is_found_shows_that_accounts_are_not_apart() {
        for at in 4..=9 {
            let report = probed(&["a", "b", "c"], Some((at, OwnerAnswer::Has))).await;
            assert_eq!((report.verdict, report.look_ups as usize), ("shared", at));
        }
    }

    #[tokio::test]
    async fn a_control_that_fails_and_an_unclear_answer_prove_nothing() {
        for at in [1, 2, 5, 6] {
            let report = probed(&["a", "b"], Some((at, OwnerAnswer::HasNot))).await;
            assert_eq!(report.verdict, "inconclusive", "{at}: {}", report.detail);
        }
        for at in 1..=6 {
            let report = probed(&["a", "b"], Some((at, OwnerAnswer::Unclear))).await;
            assert_eq!(report.verdict, "inconclusive", "{at}: {}", report.detail);
        }
    }

    #[tokio::test]
    async fn objects_of_one_tenant_prove_nothing_and_cost_no_look_up() {
        for of in [&[][..], &["a"], &["a", "a"]] {
            let report = probed(of, None).await;
            assert_eq!((report.verdict, report.look_ups), ("inconclusive", 0));
        }
        let mut others = objects(&["a", "b"]);
        others[1].made_by = "create_address_order".to_owned();
        let (verdict, _) = probe(&OwnerLookUp::ALL[0], &others, |_, _| async {
            OwnerAnswer::Has
        })
        .await;
        assert_eq!(verdict, IsolationVerdict::Inconclusive);
    }
}
