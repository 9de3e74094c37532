//! Ownership test: tenants make calls whose numbers collide, GatePay notifies about the objects, and no notification
//! reaches another tenant.
//!
//! The world is generated. It knows the true owner of each object, which the decision does not. Calls and answers are
//! real bodies that [`LedgerRow`] reads, and notifications are real bodies that [`Notification`] reads.

#![expect(
    clippy::unwrap_used,
    reason = "the world is a test's own: what is missing in it is a fault of the test"
)]

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::Catalogue;
use gatepay_core::body::BodyReading;
use gatepay_core::ledger_key::{HintStrength, LedgerKey, LedgerKeyKind};
use gatepay_core::ledger_rows::LedgerRow;
use gatepay_core::notification::{Notification, NotificationKind, OwnershipHint};
use gatepay_core::owner_look_up::{OwnerAnswer, OwnerInquiry};
use gatepay_core::ownership::{
    KeyHolder, OwnershipDecision, ResolvedHint, TenantIncarnation, TenantStanding, decide,
};
use serde_json::{Value, json};

#[test]
fn no_notification_reaches_another_tenant() {
    check(&run(1..=100, 40));
}

#[test]
#[ignore = "the long form takes up to a minute"]
fn no_notification_of_a_hundred_thousand_reaches_another_tenant() {
    let tally = run(1..=1_000, 100);
    eprintln!("{tally:?}");
    check(&tally);
}

/// The results of all notifications.
#[derive(Debug, Default)]
struct Tally {
    total: u32,
    delivered: u32,
    operators: u32,
    quarantined: u32,
    asked: u32,
    delivered_after_asking: u32,
    /// Notifications about which GatePay is asked on behalf of others alone: the owner's own call is not in the ledger.
    asked_of_others: u32,
    /// Notifications with a certain hint that leads to a configured tenant, and no hint that leads to others only.
    certain: u32,
    kinds: BTreeSet<NotificationKind>,
    /// Notifications with hints of different tenants.
    disagreeing: u32,
    /// Notifications with a certain hint that a number of another sub-account's tenant contradicts, and that are delivered.
    attacked: u32,
    /// Notifications about objects of removed tenants.
    of_removed: u32,
}

fn check(tally: &Tally) {
    let all = tally.total;
    assert_eq!(
        tally.delivered + tally.operators + tally.quarantined,
        all,
        "none is lost"
    );
    assert_eq!(tally.kinds.len(), NotificationKind::ALL.len(), "every kind");
    // The world is hostile enough to show a wrong decision, and not so hostile that nothing is decided.
    assert!(
        tally.certain > all / 3 && tally.delivered > tally.certain,
        "{tally:?}"
    );
    assert!(tally.disagreeing > all / 100, "hints disagree: {tally:?}");
    assert!(tally.attacked > all / 100, "news is denied: {tally:?}");
    assert!(
        tally.of_removed > all / 50,
        "tenants are removed: {tally:?}"
    );
    assert!(tally.asked > all / 50, "GatePay is asked: {tally:?}");
    assert!(tally.delivered_after_asking > all / 200, "{tally:?}");
    assert!(tally.asked_of_others > all / 500, "{tally:?}");
}

fn run(seeds: std::ops::RangeInclusive<u64>, notifications: u32) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.call();
            world.deny();
        }
        for _ in 0..notifications {
            let about = world.dice.below(world.objects.len() as u64);
            let about = world.objects[usize::try_from(about).unwrap()].clone();
            world.notify(&about, &mut tally);
        }
    }
    tally
}

/// `SplitMix64`: the same numbers in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn in_hundred(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len() as u64);
        &of[usize::try_from(at).unwrap()]
    }
}

/// An object that GatePay has made for a tenant's call.
#[derive(Clone)]
struct MadeObject {
    operation: &'static str,
    owner: KeyHolder,
    call: Value,
    answer: Value,
}

struct World {
    dice: Dice,
    catalogue: Catalogue,
    tenants: Vec<KeyHolder>,
    ledger: BTreeMap<LedgerKey, BTreeSet<KeyHolder>>,
    objects: Vec<MadeObject>,
    /// The last id that GatePay has made. Its ids are from one sequence, as callers' numbers may equal them.
    last_id: u64,
}

const OPERATIONS: [&str; 10] = [
    "create_order",
    "create_address_order",
    "refund_order",
    "save_fixed_address",
    "create_payout",
    "create_batch_transfer",
    "create_otc_order",
    "create_gift_card",
    "create_subscription",
    "deduct_subscription",
];

impl World {
    fn new(seed: u64) -> Self {
        let tenant = |id: &str, account: &str, incarnation, standing| KeyHolder {
            tenant: TenantIncarnation {
                tenant: id.to_owned(),
                account: account.to_owned(),
                incarnation,
            },
            standing,
        };
        Self {
            dice: Dice(seed),
            catalogue: Catalogue::standard(),
            tenants: vec![
                tenant("acme", "7000000001", 1, TenantStanding::Alone),
                tenant("bolt", "7000000002", 1, TenantStanding::Alone),
                tenant("core", "7000000003", 1, TenantStanding::Alone),
                tenant("dune", "7000000004", 1, TenantStanding::Shared),
                tenant("edge", "7000000004", 1, TenantStanding::Shared),
                tenant("flux", "7000000005", 1, TenantStanding::Removed),
                // Its id came again with another sub-account.
                tenant("flux", "7000000006", 2, TenantStanding::Alone),
                tenant("gone", "7000000007", 1, TenantStanding::Removed),
                // It has the sub-account of one that was removed: GatePay shows it the other's objects, too.
                tenant("heir", "7000000007", 1, TenantStanding::Shared),
            ],
            ledger: BTreeMap::new(),
            objects: Vec::new(),
            last_id: 1_000,
        }
    }

    /// A number that a tenant chooses: one of a few, or an id that GatePay has made for any tenant.
    fn number(&mut self) -> String {
        match self.dice.below(10) {
            0..4 => format!("n{}", self.dice.below(4)),
            4..8 => format!("n{}", self.dice.below(1_000_000)),
            _ => (1_000 + self.dice.below(self.last_id - 999)).to_string(),
        }
    }

    fn id(&mut self) -> String {
        self.last_id += 1;
        self.last_id.to_string()
    }

    /// A call of a random tenant, as the proxy and GatePay see it.
    fn call(&mut self) {
        let owner = self.dice.pick(&self.tenants).clone();
        let operation = *self.dice.pick(&OPERATIONS);
        let number = self.number();
        let call = json!({
            "merchantTradeNo": number, "refundRequestId": number, "batch_id": number, "merchant_batch_no": number,
            "clientOrderId": number, "merchantSubscriptionOrderNo": number, "merchantDeductNo": number,
            "channelId": number, "chain": "ETH", "prepayId": self.order_to_refund(&owner),
        });
        let is_renamed = self.dice.in_hundred(50);
        let answer = match operation {
            "create_payout" if !is_renamed => json!({"batch_id": number}),
            "create_payout" | "create_batch_transfer" => json!({"batch_id": self.id()}),
            "save_fixed_address" => {
                json!({"chain": "ETH", "address": format!("0x{:040x}", self.dice.next())})
            }
            "create_otc_order" => json!({"orderId": self.id()}),
            "create_gift_card" => json!({"batchId": self.id()}),
            "create_subscription" => json!({"subscriptionOrderNo": self.id()}),
            "deduct_subscription" => json!({"deductOrderNo": self.id()}),
            "refund_order" => json!({}),
            _ => json!({"prepayId": self.id()}),
        };
        let order = self.owner_of(&call["prepayId"]);
        let refunded = order.filter(|order| operation == "refund_order" && *order != owner);
        if let Some(order) = refunded.as_ref()
            && order.tenant.account != owner.tenant.account
        {
            // GatePay refuses to refund another account's order; the intent is in the ledger.
            self.intend(operation, &owner, &call);
            return;
        }
        self.record(operation, &owner, &call, &answer, refunded.is_some());
        self.objects.push(MadeObject {
            operation,
            owner,
            call,
            answer,
        });
    }

    /// An order to refund: mostly one of the tenant's own.
    fn order_to_refund(&mut self, owner: &KeyHolder) -> Value {
        let any = self.dice.in_hundred(40);
        let orders = self
            .objects
            .iter()
            .filter(|made| made.answer.get("prepayId").is_some() && (any || made.owner == *owner));
        let orders: Vec<Value> = orders.map(|made| made.answer["prepayId"].clone()).collect();
        if orders.is_empty() {
            return Value::Null;
        }
        self.dice.pick(&orders).clone()
    }

    fn owner_of(&self, order: &Value) -> Option<KeyHolder> {
        let has = |made: &&MadeObject| made.answer.get("prepayId") == Some(order);
        let made = self.objects.iter().find(has)?;
        Some(made.owner.clone())
    }

    /// A hostile tenant sends another tenant's call again, word for word, so that the ledger has the numbers as its own.
    /// GatePay refuses some of these calls, and makes other objects for the rest.
    fn deny(&mut self) {
        let hostile = self.dice.pick(&self.tenants).clone();
        let refunds_only = self.dice.in_hundred(50);
        let is_aim = |made: &&MadeObject| !refunds_only || made.operation == "refund_order";
        let aims: Vec<MadeObject> = self.objects.iter().filter(is_aim).cloned().collect();
        if aims.is_empty() {
            return;
        }
        let about = self.dice.pick(&aims);
        // Tenants of one account may refund each other's orders, and then it is their refund.
        if about.owner.tenant.account != hostile.tenant.account {
            self.intend(about.operation, &hostile, &about.call);
        }
    }

    fn intend(&mut self, operation: &str, tenant: &KeyHolder, call: &Value) {
        let row = self.catalogue.named(operation).unwrap();
        let call = call.to_string();
        let call = BodyReading::read(row, None, call.as_bytes());
        for key in LedgerRow::of(row).unwrap().intents(&call) {
            self.ledger.entry(key).or_default().insert(tenant.clone());
        }
    }

    /// Records intents and own ids. Some answers were lost. Some calls were made before the ledger existed, though none
    /// of those with a number that imitates GatePay's ids, and no refund of another tenant's order.
    fn record(
        &mut self,
        operation: &str,
        owner: &KeyHolder,
        call: &Value,
        answer: &Value,
        foreign: bool,
    ) {
        let row = self.catalogue.named(operation).unwrap();
        let keys = LedgerRow::of(row).unwrap();
        let call = call.to_string();
        let call = BodyReading::read(row, None, call.as_bytes());
        let answer = json!({"status": "SUCCESS", "code": "000000", "data": answer}).to_string();
        let intents = keys.intents(&call);
        let imitates = intents.iter().any(|key| key.text().parse::<u64>().is_ok());
        let is_old = self.dice.in_hundred(5) && !foreign && !imitates;
        let is_lost = self.dice.in_hundred(15);
        let intents = intents.into_iter().filter(|_| !is_old);
        let ids = keys.own_ids(row, &call, 200, answer.as_bytes()).into_iter();
        for key in intents.chain(ids.filter(|_| !is_lost && !is_old)) {
            self.ledger.entry(key).or_default().insert(owner.clone());
        }
    }

    /// A notification about an object: some fields missing, some pointing to another tenant.
    fn notify(&mut self, about: &MadeObject, tally: &mut Tally) {
        let (envelope, data) = self.body(about);
        let mut contradicting = data.clone();
        if self.dice.in_hundred(10) {
            let other = self.dice.pick(&self.tenants).tenant.account.clone();
            contradicting["accountId"] = other.into();
        }
        let (mut read, mut hints) = self.read(&envelope, &contradicting);
        // GatePay contradicts itself only beside a hint that leads to the owner: alone, its word is all there is.
        let is_known = |hint: &ResolvedHint| {
            hint.strength == HintStrength::Certain && !hint.holders.is_empty()
        };
        if !hints.iter().any(is_known) {
            (read, hints) = self.read(&envelope, &data);
        }
        // GatePay calls the URL that the proxy gave it for this tenant.
        let takes_url = ["save_fixed_address", "create_subscription"].contains(&about.operation);
        if takes_url && self.dice.in_hundred(30) {
            hints.push(ResolvedHint::certain(about.owner.clone()));
        }
        tally.kinds.insert(read.kind);
        tally.total += 1;
        judge(self, about, &read, hints, tally);
    }

    /// A notification in either shape of `data`, with its hints as the ledger resolves them.
    fn read(&mut self, envelope: &Value, data: &Value) -> (Notification, Vec<ResolvedHint>) {
        let mut body = envelope.clone();
        if envelope.get("main_order").is_none() {
            body["data"] = if self.dice.in_hundred(50) {
                data.to_string().into()
            } else {
                data.clone()
            };
        }
        let body = body.to_string();
        let read = Notification::read(body.as_bytes());
        assert_eq!(read.fault, None, "{body}");
        let hints = read.hints.iter().map(|hint| self.resolve(hint)).collect();
        (read, hints)
    }

    /// The owner by GatePay's answers on behalf of the candidates, if exactly one has the object. GatePay keeps accounts
    /// apart. It knows objects by its own ids, and nothing of the notification.
    fn asked(&self, read: &Notification, candidates: &[TenantIncarnation]) -> Option<ResolvedHint> {
        let inquiry = OwnerInquiry::about(read)?;
        let answer = |candidate: &TenantIncarnation| {
            let answer = self.answer(&inquiry, &candidate.account).to_string();
            inquiry.observe(200, answer.as_bytes())
        };
        let answers: Vec<OwnerAnswer> = candidates.iter().map(answer).collect();
        let has = |answer: &OwnerAnswer| *answer == OwnerAnswer::Has;
        if answers.iter().filter(|answer| has(answer)).count() != 1 {
            return None;
        }
        let found = &candidates[answers.iter().position(has)?];
        let holder = self.tenants.iter().find(|holder| holder.tenant == *found)?;
        Some(ResolvedHint::certain(holder.clone()))
    }

    /// GatePay's answer to a look-up on behalf of an account.
    fn answer(&self, inquiry: &OwnerInquiry, account: &str) -> Value {
        let is_asked = |made: &&MadeObject| {
            let id = inquiry.look_up.id.fields[0];
            made.answer.get(id).and_then(Value::as_str) == Some(inquiry.id.text())
        };
        let made = self.objects.iter().find(is_asked);
        match made.filter(|made| made.owner.tenant.account == account) {
            Some(made) => {
                let mut data = made.answer.clone();
                let number = inquiry.look_up.number.fields[0];
                data[number] = made.call[number].clone();
                json!({"status": "SUCCESS", "code": "000000", "data": data})
            }
            None => json!({"status": "FAIL", "code": "400202"}),
        }
    }

    fn resolve(&self, hint: &OwnershipHint) -> ResolvedHint {
        let holders = match hint.key.kind() {
            LedgerKeyKind::Account => {
                let configured = self.tenants.iter().filter(|holder| {
                    holder.standing != TenantStanding::Removed
                        && holder.tenant.account == hint.key.text()
                });
                configured.cloned().collect()
            }
            _ => self.ledger.get(&hint.key).cloned().unwrap_or_default(),
        };
        ResolvedHint::new(hint, holders)
    }

    /// Envelope and data of a notification about an object.
    fn body(&mut self, about: &MadeObject) -> (Value, Value) {
        let (kind, mut envelope, mut data) = self.fields(about);
        if about.operation == "create_payout" {
            return (envelope, data);
        }
        envelope["bizType"] = kind.into();
        if self.dice.in_hundred(60) {
            envelope["client_id"] = "institution".into();
        }
        // GatePay names the payer, the receiver and other tenants' numbers in fields that prove nothing.
        let other = self.dice.pick(&self.tenants).tenant.account.clone();
        data["payerId"] = other.clone().into();
        data["fromAddress"] = "0x0000000000000000000000000000000000000001".into();
        if self.dice.in_hundred(20) {
            let names: Vec<String> = data.as_object().unwrap().keys().cloned().collect();
            let missing = self.dice.pick(&names);
            data.as_object_mut().unwrap().remove(missing);
        }
        if self.dice.in_hundred(10) {
            envelope.as_object_mut().unwrap().remove("bizId");
        }
        (envelope, data)
    }

    fn fields(&mut self, about: &MadeObject) -> (&'static str, Value, Value) {
        let MadeObject {
            owner,
            call,
            answer,
            ..
        } = about;
        let account = &owner.tenant.account;
        match about.operation {
            "create_order" => {
                let kind = *self.dice.pick(&["PAY", "PAY", "NEW_KIND", "INSTITUTION"]);
                let data = match kind {
                    "NEW_KIND" if self.dice.in_hundred(50) => json!({}),
                    "NEW_KIND" => json!({"prepayId": answer["prepayId"]}),
                    _ => json!({"merchantTradeNo": call["merchantTradeNo"]}),
                };
                (kind, json!({"bizId": answer["prepayId"]}), data)
            }
            "create_address_order" => {
                let kind = *self.dice.pick(&["PAY_ADDRESS", "TRANSFER_ADDRESS"]);
                let data = json!({"merchantTradeNo": call["merchantTradeNo"], "address": "0x1", "chain": "ETH"});
                (kind, json!({"bizId": answer["prepayId"]}), data)
            }
            "refund_order" => {
                let info = json!({"refundRequestId": call["refundRequestId"], "prepayId": call["prepayId"]});
                let id = self.dice.pick(&["refundRequestId", "prepayId"]);
                (
                    "PAY_REFUND",
                    json!({"bizId": call[*id]}),
                    json!({"refundInfo": info}),
                )
            }
            "save_fixed_address" => {
                let kind = *self.dice.pick(&["PAY_FIXED_ADDRESS", "FIXED_ADDRESS_RISK"]);
                let mut data = json!({"chain": "eth", "address": answer["address"], "channelId": call["channelId"]});
                if self.dice.in_hundred(50) {
                    data["accountId"] = account.clone().into();
                }
                (kind, json!({"bizId": self.id()}), data)
            }
            "create_payout" => {
                let destination = self
                    .objects
                    .iter()
                    .find_map(|made| made.answer.get("address"));
                let order = json!({"merchant_withdraw_id": "1", "merchant_id": "10002", "address": destination,
                    "chain": "ETH", "status": "DONE"});
                let mut main = json!({"batch_id": answer["batch_id"], "status": "SUCCESS", "client_id": "institution"});
                if self.dice.in_hundred(70) {
                    main["merchant_id"] = account.clone().into();
                }
                (
                    "",
                    json!({"main_order": main, "suborders": [order]}),
                    json!({}),
                )
            }
            "create_batch_transfer" => {
                let kind = *self.dice.pick(&["PAY_BATCH", "PAY_GIFT_BATCH"]);
                let id = if self.dice.in_hundred(50) {
                    &answer["batch_id"]
                } else {
                    &call["merchant_batch_no"]
                };
                let mut data = json!({"merchant_batch_no": call["merchant_batch_no"]});
                if self.dice.in_hundred(50) {
                    data["batch_id"] = answer["batch_id"].clone();
                }
                (kind, json!({"bizId": id}), data)
            }
            "create_gift_card" => (
                "PAY_GIFT_BATCH",
                json!({"bizId": answer["batchId"]}),
                json!({}),
            ),
            "create_otc_order" => {
                let data = json!({"orderId": answer["orderId"], "clientOrderId": call["clientOrderId"], "status": "DONE"});
                ("FIAT", json!({"bizStatus": "DONE"}), data)
            }
            "create_subscription" => {
                let data = json!({"paymentOrderNo": self.id(), "subscriptionOrderNo": answer["subscriptionOrderNo"],
                    "merchantSubscriptionOrderNo": call["merchantSubscriptionOrderNo"]});
                ("SUBSCRIPTION_PAYMENT", json!({"bizId": self.id()}), data)
            }
            _ => {
                // The account that is debited may be any tenant's.
                let debited = self.dice.pick(&self.tenants).tenant.account.clone();
                let data = json!({"deductOrderNo": answer["deductOrderNo"], "merchantDeductNo": call["merchantDeductNo"],
                    "accountId": debited});
                ("ACCOUNT_AUTH_DEDUCTION", json!({"bizId": self.id()}), data)
            }
        }
    }
}

/// Checks the decision about a notification, and counts it.
fn judge(
    world: &World,
    about: &MadeObject,
    read: &Notification,
    mut hints: Vec<ResolvedHint>,
    tally: &mut Tally,
) {
    let MadeObject { owner, .. } = about;
    let is_removed = owner.standing == TenantStanding::Removed;
    let agrees = |hint: &ResolvedHint, holders: &BTreeSet<KeyHolder>| {
        let of_owner = holders.is_empty() || holders.contains(owner);
        of_owner && (!hint.is_of_one_tenant || holders.len() < 2)
    };
    let proves = |hint: &ResolvedHint| {
        hint.strength == HintStrength::Certain && hint.holders.iter().eq([owner])
    };
    // A number of another account's tenant says nothing about the object.
    let of_account = |hint: &ResolvedHint| -> BTreeSet<KeyHolder> {
        let account = &owner.tenant.account;
        let is_own = |holder: &&KeyHolder| holder.tenant.account == *account;
        if hint.is_chosen {
            hint.holders.iter().filter(is_own).cloned().collect()
        } else {
            hint.holders.clone()
        }
    };
    let all_agree = hints.iter().all(|hint| agrees(hint, &of_account(hint)));
    let is_attacked = hints.iter().any(|hint| !agrees(hint, &hint.holders));
    let mut decision = decide(read.audience(), &hints);
    let is_news_of_tenant = read.kind != NotificationKind::Institution && !is_removed;
    if is_news_of_tenant && all_agree && hints.iter().any(proves) {
        tally.certain += 1;
        tally.attacked += u32::from(is_attacked);
        let by = HintStrength::Certain;
        let tenant = owner.tenant.clone();
        let expected = OwnershipDecision::Owner { tenant, by };
        assert_eq!(decision, expected, "{read:?}");
    }
    if let OwnershipDecision::Ask(candidates) = &decision {
        tally.asked += 1;
        tally.asked_of_others += u32::from(!candidates.contains(&owner.tenant));
        if let Some(found) = world.asked(read, candidates) {
            hints.push(found);
            decision = decide(read.audience(), &hints);
            let is_owner = matches!(decision, OwnershipDecision::Owner { .. });
            tally.delivered_after_asking += u32::from(is_owner);
        }
    }
    tally.of_removed += u32::from(is_removed);
    tally.disagreeing += u32::from(!all_agree);
    match decision {
        OwnershipDecision::Owner { tenant, .. } => {
            assert_eq!(tenant, owner.tenant, "{read:?} {hints:?}");
            assert!(!is_removed, "{read:?}");
            tally.delivered += 1;
        }
        OwnershipDecision::Operators => {
            assert!(read.hints.is_empty(), "{read:?}");
            tally.operators += 1;
        }
        OwnershipDecision::Ask(_) | OwnershipDecision::Quarantine(_) => tally.quarantined += 1,
    }
}
