//! Subscription plans.

use serde_json::{Value, json};

use crate::config::NumbersUniquePer;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::numbers::RequestNumber;
use crate::rules::page::ListPage;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// All plans, oldest first.
pub(crate) struct PlanBook {
    numbers_unique_per: NumbersUniquePer,
    plans: Vec<SubscriptionPlan>,
}

struct SubscriptionPlan {
    account: String,
    key: RequestNumber,
    /// The plan in the form of answers.
    description: Value,
}

/// `POST …/plan/save`. A second save under the same merchantPlanNo changes the first.
pub(crate) fn save(
    plans: &mut PlanBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let number = asked.text("merchantPlanNo")?;
    at_most(asked.text("planName")?, "planName", 20)?;
    let description = asked.optional_text("planDesc")?;
    at_most(description.unwrap_or_default(), "planDesc", 100)?;
    asked.text("priceNo")?;
    let numbers = plans.numbers_unique_per;
    let plans = &mut plans.plans;
    let key = numbers.number(call.account, number);
    let known = plans.iter().position(|plan| plan.key == key);
    if known.is_some_and(|known| plans[known].account != call.account) {
        return Err(ApiFailure::Reused("merchantPlanNo"));
    }
    let position = known.unwrap_or(plans.len());
    let description = json!({
        "planNo": format!("PL{:09}", position + 1),
        "merchantPlanNo": number,
        "planName": asked.echo("planName"),
        "planDesc": asked.echo("planDesc"),
        "priceNo": asked.echo("priceNo"),
        "trialDays": asked.echo("trialDays"),
        "totalPayCount": asked.echo("totalPayCount"),
        "endTime": asked.echo("endTime"),
        "authorizedAmount": asked.echo("authorizedAmount"),
        "status": "ACTIVE",
    });
    let plan = SubscriptionPlan {
        account: call.account.to_owned(),
        key,
        description: description.clone(),
    };
    match known {
        Some(known) => plans[known] = plan,
        None => plans.push(plan),
    }
    Ok(description)
}

/// `GET …/plan/list`.
pub(crate) fn list(plans: &PlanBook, call: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let page = ListPage::asked(asked, "page", "pageSize")?;
    let plans: Vec<_> = plans.of(call.account).collect();
    Ok(json!({"total": plans.len(), "list": page.of(&plans)}))
}

/// `GET …/plan/detail`.
pub(crate) fn detail(plans: &PlanBook, call: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let (member, value) = match asked.optional_text("planNo")? {
        Some(number) => ("planNo", number),
        None => ("merchantPlanNo", asked.text("merchantPlanNo")?),
    };
    let mut plans = plans.of(call.account);
    plans
        .find(|plan| plan[member] == value)
        .cloned()
        .ok_or(ApiFailure::NotFound("planNo"))
}

impl PlanBook {
    pub(crate) fn new(numbers_unique_per: NumbersUniquePer) -> Self {
        Self {
            numbers_unique_per,
            plans: Vec::new(),
        }
    }

    /// An account's plans, in the form of answers.
    pub(crate) fn of(&self, account: &str) -> impl Iterator<Item = &Value> {
        self.plans
            .iter()
            .filter(move |plan| plan.account == account)
            .map(|plan| &plan.description)
    }
}

fn at_most(text: &str, name: &'static str, characters: usize) -> Result<(), ApiFailure> {
    if text.chars().count() > characters {
        return Err(ApiFailure::Malformed(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{OTHER, TestDesk};

    #[test]
    fn a_plan_saved_again_is_changed() {
        let mut desk = TestDesk::new();
        let mut plan = json!({"merchantPlanNo": "p", "planName": "Gold", "priceNo": "1"});
        let saved = desk.get("save_plan", &plan);
        plan["planName"] = json!("Silver");
        assert_eq!(desk.get("save_plan", &plan)["planNo"], saved["planNo"]);
        let found = desk.get("plan_detail", &json!({"planNo": saved["planNo"]}));
        assert_eq!(found["planName"], "Silver");
        assert_eq!(
            desk.get("plan_detail", &json!({"merchantPlanNo": "p"})),
            found
        );
        assert_eq!(desk.get("list_plans", &json!({}))["total"], 1);
        let strange = desk.ask(OTHER, "plan_detail", &json!({"merchantPlanNo": "p"}));
        assert_eq!(strange, Err("400202".to_owned()));
        plan["planName"] = json!("n".repeat(21));
        assert_eq!(desk.refusal("save_plan", &plan), "400001");
    }

    #[test]
    fn a_number_of_another_account_is_free_or_taken() {
        let plan = json!({"merchantPlanNo": "p", "planName": "Gold", "priceNo": "1"});
        for (numbers, refused) in [
            (NumbersUniquePer::SubAccount, false),
            (NumbersUniquePer::Institution, true),
        ] {
            let mut desk = TestDesk::with(numbers);
            desk.get("save_plan", &plan);
            assert_eq!(desk.ask(OTHER, "save_plan", &plan).is_err(), refused);
        }
    }
}
