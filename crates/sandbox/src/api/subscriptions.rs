//! Subscriptions to plans, and their deductions.
//!
//! A subscription is active from its creation on: the sandbox takes the subscriber's consent, which GatePay asks for by
//! the subscription's link, as given.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::api::balances::{Balances, MoneyMovement, MovementReason};
use crate::api::plans::PlanBook;
use crate::config::NumbersUniquePer;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::news::{BusinessNews, NewsBook};
use crate::rules::numbers::OncePerNumber;
use crate::rules::page::ListPage;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The first of GatePay's own ids, for subscriptions and for deductions.
const FIRST_ID: u64 = 95_000_000_001;
const FIRST_DEDUCTION_ID: u64 = 96_000_000_001;
const FIRST_PAYMENT_ID: u64 = 97_000_000_001;

/// Subscriptions and deductions, in the form of answers.
pub(crate) struct SubscriptionBook {
    /// Subscriptions by merchantSubscriptionOrderNo.
    subscriptions: OncePerNumber<Value>,
    /// Deductions by merchantDeductNo.
    deductions: OncePerNumber<Value>,
    /// The callback URLs of subscriptions that have one, by subscriptionOrderNo.
    callback_urls: HashMap<String, String>,
    /// The number of payments on chains.
    payments: u64,
}

/// `POST …/order/create`.
pub(crate) fn create(
    subscriptions: &mut SubscriptionBook,
    plans: &PlanBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let callback_urls = &mut subscriptions.callback_urls;
    let subscriptions = &mut subscriptions.subscriptions;
    let earlier = subscriptions.before(call, "merchantSubscriptionOrderNo", asked)?;
    if let Some(earlier) = earlier {
        return Ok(describe_new(earlier));
    }
    let number = asked.text("merchantSubscriptionOrderNo")?;
    let plan = asked.text("planNo")?;
    if !plans.of(call.account).any(|known| known["planNo"] == plan) {
        return Err(ApiFailure::NotFound("planNo"));
    }
    let callback_url = asked.optional_text("callbackUrl")?;
    let id = subscriptions.next_id(FIRST_ID);
    callback_urls.extend(callback_url.map(|url| (id.clone(), url.to_owned())));
    let subscription = json!({
        "subscriptionOrderNo": id,
        "merchantSubscriptionOrderNo": number,
        "subscriptionLink": format!("https://sandbox.invalid/subscribe/{id}"),
        "planNo": plan,
        "status": "ACTIVE",
        "createTime": call.now,
    });
    let answer = describe_new(&subscription);
    subscriptions.keep(call, number, asked, subscription);
    Ok(answer)
}

/// `GET …/order/list`, newest first.
pub(crate) fn list(
    subscriptions: &SubscriptionBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let page = ListPage::asked(asked, "page", "pageSize")?;
    let all = subscriptions.subscriptions.of(call.account).rev();
    let all: Vec<_> = all.collect();
    Ok(json!({"total": all.len(), "list": page.of(&all)}))
}

/// `GET …/order/detail`.
pub(crate) fn detail(
    subscriptions: &mut SubscriptionBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    subscriptions.named(call, asked).cloned()
}

/// `POST …/order/complete`. Canceling is the only known operation. A canceled subscription can be canceled again.
pub(crate) fn complete(
    subscriptions: &mut SubscriptionBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    if asked.text("operationType")? != "CANCEL" {
        return Err(ApiFailure::Malformed("operationType"));
    }
    let subscription = subscriptions.named(call, asked)?;
    subscription["status"] = json!("CANCELED");
    Ok(subscription.clone())
}

/// `POST …/order/deduct`. The money comes from the subscriber.
pub(crate) fn deduct(
    subscriptions: &mut SubscriptionBook,
    balances: &mut Balances,
    news: &mut NewsBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let earlier = &subscriptions.deductions;
    if let Some(earlier) = earlier.before(call, "merchantDeductNo", asked)? {
        return Ok(earlier.clone());
    }
    let number = asked.text("merchantDeductNo")?;
    let amount = asked.number_amount("amount")?;
    let currency = asked.text("currency")?;
    let subscription = subscriptions.named(call, asked)?;
    if subscription["status"] != "ACTIVE" {
        return Err(ApiFailure::OrderStatus);
    }
    let subscription_id = subscription["subscriptionOrderNo"].clone();
    let deductions = &mut subscriptions.deductions;
    let id = deductions.next_id(FIRST_DEDUCTION_ID);
    let reason = MovementReason {
        kind: "DEDUCTION",
        id: &id,
        number,
    };
    let movement = MoneyMovement::deposit(call.account, currency, amount);
    balances.post(call.now, reason, &[movement])?;
    let deduction = json!({
        "deductOrderNo": id,
        "merchantDeductNo": number,
        "subscriptionOrderNo": subscription_id,
        "amount": asked.echo("amount"),
        "currency": currency,
        "status": "DEDUCT_SUCCESS",
        "createTime": call.now,
    });
    deductions.keep(call, number, asked, deduction.clone());
    let callback_url = subscriptions.callback_url(&deduction["subscriptionOrderNo"]);
    news.tell(|| {
        let statuses = ["DEDUCT_SUCCESS"];
        BusinessNews::enveloped("ACCOUNT_AUTH_DEDUCTION", &id, &statuses, deduction.clone())
            .to(callback_url)
    });
    Ok(deduction)
}

/// A payment on a chain, as a plan schedules them. No call of the API does this.
pub(crate) fn collect(
    subscriptions: &mut SubscriptionBook,
    balances: &mut Balances,
    news: &mut NewsBook,
    now: u64,
    subscription_id: &str,
    currency: &str,
    amount: Amount,
) -> Result<(), ApiFailure> {
    let mut known = subscriptions.subscriptions.all();
    let (account, subscription) = known
        .find(|(_, one)| one["subscriptionOrderNo"] == subscription_id)
        .ok_or(ApiFailure::NotFound("subscriptionOrderNo"))?;
    if subscription["status"] != "ACTIVE" {
        return Err(ApiFailure::OrderStatus);
    }
    let id = (FIRST_PAYMENT_ID + subscriptions.payments).to_string();
    let reason = MovementReason {
        kind: "SUBSCRIPTION",
        id: &id,
        number: "",
    };
    let movement = MoneyMovement::deposit(account, currency, amount);
    balances.post(now, reason, &[movement])?;
    let payment = json!({
        "paymentOrderNo": id,
        "subscriptionOrderNo": subscription_id,
        "merchantSubscriptionOrderNo": subscription["merchantSubscriptionOrderNo"],
        "planNo": subscription["planNo"],
        "amount": amount.to_string(),
        "currency": currency,
        "payTime": now,
    });
    let callback_url = subscriptions.callback_url(&subscription["subscriptionOrderNo"]);
    news.tell(|| {
        BusinessNews::enveloped("SUBSCRIPTION_PAYMENT", &id, &["SUCCESS"], payment).to(callback_url)
    });
    subscriptions.payments += 1;
    Ok(())
}

/// `GET …/deduction/order/detail`.
pub(crate) fn deduction(
    subscriptions: &SubscriptionBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let deductions = &subscriptions.deductions;
    let deduction = match asked.optional_text("deductOrderNo")? {
        Some(id) => deductions
            .of(call.account)
            .find(|one| one["deductOrderNo"] == id),
        None => deductions.find(call.account, asked.text("merchantDeductNo")?),
    };
    deduction
        .cloned()
        .ok_or(ApiFailure::NotFound("merchantDeductNo"))
}

impl SubscriptionBook {
    pub(crate) fn new(numbers: NumbersUniquePer) -> Self {
        Self {
            subscriptions: OncePerNumber::new(numbers),
            deductions: OncePerNumber::new(numbers),
            callback_urls: HashMap::new(),
            payments: 0,
        }
    }

    /// The callback URL of a subscription, by its subscriptionOrderNo; empty if it has none.
    fn callback_url(&self, id: &Value) -> &str {
        let url = id.as_str().and_then(|id| self.callback_urls.get(id));
        url.map_or("", String::as_str)
    }

    /// The caller's own subscription, by either number.
    fn named(
        &mut self,
        call: LedgerCall<'_>,
        asked: &RequestParameters,
    ) -> Result<&mut Value, ApiFailure> {
        let mut wanted = Vec::new();
        for name in ["subscriptionOrderNo", "merchantSubscriptionOrderNo"] {
            wanted.extend(asked.optional_text(name)?.map(|value| (name, value)));
        }
        if wanted.is_empty() {
            return Err(ApiFailure::Malformed("subscriptionOrderNo"));
        }
        self.subscriptions
            .of_mut(call.account)
            .find(|one| wanted.iter().all(|(name, value)| one[name] == *value))
            .ok_or(ApiFailure::NotFound("subscriptionOrderNo"))
    }
}

fn describe_new(subscription: &Value) -> Value {
    json!({
        "subscriptionOrderNo": subscription["subscriptionOrderNo"],
        "subscriptionLink": subscription["subscriptionLink"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, OTHER, TestDesk};

    fn subscribed(desk: &mut TestDesk) -> Value {
        let plan = json!({"merchantPlanNo": "p", "planName": "P", "priceNo": "1"});
        let plan = desk.get("save_plan", &plan)["planNo"].take();
        let subscription = json!({"merchantSubscriptionOrderNo": "s", "planNo": plan});
        let created = desk.get("create_subscription", &subscription);
        assert_eq!(desk.get("create_subscription", &subscription), created);
        created
    }

    fn deduction(number: &str, amount: f64) -> Value {
        json!({
            "merchantDeductNo": number, "amount": amount, "currency": "USDT",
            "merchantSubscriptionOrderNo": "s",
        })
    }

    #[test]
    fn money_is_deducted_once_for_each_number_until_it_is_canceled() {
        let mut desk = TestDesk::new();
        let id = subscribed(&mut desk)["subscriptionOrderNo"].take();
        let done = desk.get("deduct_subscription", &deduction("1", 1.5));
        assert_eq!(done["subscriptionOrderNo"], id);
        assert_eq!(desk.get("deduct_subscription", &deduction("1", 1.5)), done);
        assert_eq!(
            desk.refusal("deduct_subscription", &deduction("1", 2.0)),
            "400001"
        );
        assert_eq!(desk.balance(ACME, "USDT"), "1.5");
        for by in [
            json!({"merchantDeductNo": "1"}),
            json!({"deductOrderNo": done["deductOrderNo"]}),
        ] {
            assert_eq!(desk.get("deduction_detail", &by), done);
        }

        let cancel = json!({"subscriptionOrderNo": id, "operationType": "CANCEL"});
        assert_eq!(
            desk.get("complete_subscription", &cancel)["status"],
            "CANCELED"
        );
        assert_eq!(
            desk.refusal("deduct_subscription", &deduction("2", 1.0)),
            "400204"
        );
        let all = desk.get("list_subscriptions", &json!({}));
        assert_eq!(all["list"][0]["status"], "CANCELED");
    }

    #[test]
    fn a_subscription_is_its_accounts_own_and_of_a_plan() {
        let mut desk = TestDesk::new();
        let id = subscribed(&mut desk)["subscriptionOrderNo"].take();
        let by_id = json!({"subscriptionOrderNo": id});
        assert_eq!(desk.get("subscription_detail", &by_id)["status"], "ACTIVE");
        let strange = desk.ask(OTHER, "subscription_detail", &by_id);
        assert_eq!(strange, Err("400202".to_owned()));
        let strange = desk.ask(OTHER, "deduct_subscription", &deduction("1", 1.0));
        assert_eq!(strange, Err("400202".to_owned()));
        let planless = json!({"merchantSubscriptionOrderNo": "t", "planNo": "PL17"});
        assert_eq!(desk.refusal("create_subscription", &planless), "400202");
        assert_eq!(desk.refusal("subscription_detail", &json!({})), "400001");
        let mut text = deduction("1", 1.0);
        text["amount"] = json!("1.0");
        assert_eq!(desk.refusal("deduct_subscription", &text), "400001");
    }
}
