//! Placement: resolves the hints of notifications to the tenants that have them, and decides about the owner of each.

use std::collections::{BTreeSet, HashMap};

use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_core::notification::Notification;
use gatepay_core::ownership::{
    KeyHolder, OwnershipDecision, QuarantineReason, ResolvedHint, TenantIncarnation,
    TenantStanding, decide,
};
use gatepay_store::notifications::event::{EventPlacement, PlacementBasis};
use gatepay_store::notifications::ledger::{CallbackUrl, LedgerHolder, MOST_KEYS};

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::owner::registered_tenants::RegisteredTenants;

/// A notification without an owner yet.
#[derive(Clone, Copy)]
pub struct OwnerQuestion<'q> {
    /// The notification.
    pub notification: &'q Notification,
    /// The token of the URL that GatePay called.
    pub token: Option<&'q str>,
    /// The tenant that has the object according to GatePay's answers.
    pub proved: Option<&'q TenantIncarnation>,
}

/// The decision about a notification.
pub struct PlacedNotification {
    /// The place for the store.
    pub placement: EventPlacement,
    /// The tenants on whose behalf GatePay may be asked. The notification is in quarantine until then.
    pub candidates: Vec<TenantIncarnation>,
}

/// Decides about notifications by all that the store and the configuration know of their hints.
pub async fn place(
    questions: &[OwnerQuestion<'_>],
    tenants: &RegisteredTenants,
    calls: &StoreCalls,
) -> Result<Vec<PlacedNotification>, StoreCallError> {
    let ledger = ledger(questions, calls).await?;
    let callbacks = callbacks(questions, calls).await?;
    let placed = questions.iter().map(|question| {
        let callback = question.token.and_then(|token| callbacks.get(token));
        placement(question, callback, &ledger, tenants)
    });
    Ok(placed.collect())
}

type LedgerHolders = HashMap<LedgerKey, Vec<LedgerHolder>>;

/// The tenants that have each key of these notifications, according to the ledger.
async fn ledger(
    questions: &[OwnerQuestion<'_>],
    calls: &StoreCalls,
) -> Result<LedgerHolders, StoreCallError> {
    let hints = questions.iter().flat_map(|it| &it.notification.hints);
    let keys: BTreeSet<&LedgerKey> = hints
        .map(|hint| &hint.key)
        .filter(|key| key.kind() != LedgerKeyKind::Account)
        .collect();
    let keys: Vec<LedgerKey> = keys.into_iter().cloned().collect();
    let mut ledger = HashMap::with_capacity(keys.len());
    for some in keys.chunks(MOST_KEYS) {
        let asked = some.to_vec();
        let holders = calls.call(move |store| async move { store.owners(&asked).await });
        ledger.extend(some.iter().cloned().zip(holders.await?));
    }
    Ok(ledger)
}

/// The URLs of the tokens that GatePay called.
async fn callbacks(
    questions: &[OwnerQuestion<'_>],
    calls: &StoreCalls,
) -> Result<HashMap<String, CallbackUrl>, StoreCallError> {
    let tokens: BTreeSet<&str> = questions.iter().filter_map(|it| it.token).collect();
    let tokens: Vec<String> = tokens.into_iter().map(str::to_owned).collect();
    let mut callbacks = HashMap::with_capacity(tokens.len());
    for some in tokens.chunks(MOST_KEYS) {
        let asked = some.to_vec();
        let urls = calls.call(move |store| async move {
            let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
            store.callback_urls(&asked).await
        });
        let known = some.iter().cloned().zip(urls.await?);
        callbacks.extend(known.filter_map(|(token, url)| Some((token, url?))));
    }
    Ok(callbacks)
}

fn placement(
    question: &OwnerQuestion<'_>,
    callback: Option<&CallbackUrl>,
    ledger: &LedgerHolders,
    tenants: &RegisteredTenants,
) -> PlacedNotification {
    let notification = question.notification;
    let hints = notification.hints.iter().map(|hint| {
        let key = &hint.key;
        let holders = match key.kind() {
            LedgerKeyKind::Account => tenants.of_account(key.text()).iter().cloned().collect(),
            _ => holders(ledger.get(key).map_or(&[], Vec::as_slice), tenants),
        };
        ResolvedHint::new(hint, holders)
    });
    let token = callback.map(|callback| {
        let holder = tenants.holder(callback.tenant.clone());
        ResolvedHint::certain(holder)
    });
    let proved = question.proved.cloned();
    let proved = proved.map(|tenant| ResolvedHint::certain(tenants.holder(tenant)));
    let hints: Vec<ResolvedHint> = hints.chain(token).chain(proved).collect();
    let mut candidates = Vec::new();
    let placement = match decide(notification.audience(), &hints) {
        OwnershipDecision::Operators => of_institution(tenants),
        OwnershipDecision::Owner { tenant, .. } if is_institution(&tenant) => {
            of_institution(tenants)
        }
        OwnershipDecision::Owner { tenant, by } => EventPlacement::Tenant {
            url: callback_url(callback, &tenant, tenants),
            by: match question.proved {
                Some(proved) if *proved == tenant => PlacementBasis::Asked,
                _ => PlacementBasis::Hints(by),
            },
            tenant,
        },
        OwnershipDecision::Ask(tenants) => {
            candidates = tenants;
            EventPlacement::Quarantine(QuarantineReason::Unproved)
        }
        OwnershipDecision::Quarantine(reason) => EventPlacement::Quarantine(reason),
    };
    PlacedNotification {
        placement,
        candidates,
    }
}

/// The holders of a key. A call of an operator's is about the tenants that have the account for which it was made, or
/// about the institution itself.
fn holders(rows: &[LedgerHolder], tenants: &RegisteredTenants) -> BTreeSet<KeyHolder> {
    let mut holders = BTreeSet::new();
    for row in rows {
        let tenant = &row.tenant;
        if tenant.incarnation > 0 || !tenants.is_operator(&tenant.tenant) {
            holders.insert(tenants.holder(tenant.clone()));
            continue;
        }
        match tenants.of_account(&tenant.account) {
            [] => holders.insert(KeyHolder {
                tenant: institution(&tenant.account),
                standing: TenantStanding::Alone,
            }),
            of_account => {
                holders.extend(of_account.iter().cloned());
                true
            }
        };
    }
    holders
}

/// What is about the institution itself goes to the operator that gets notifications, if there is one.
fn of_institution(tenants: &RegisteredTenants) -> EventPlacement {
    let Some(operator) = tenants.operator() else {
        return EventPlacement::Operators;
    };
    EventPlacement::Tenant {
        tenant: operator.clone(),
        url: None,
        by: PlacementBasis::Institution,
    }
}

/// The institution itself as the holder of a key: no tenant has an empty id.
fn institution(account: &str) -> TenantIncarnation {
    TenantIncarnation {
        tenant: String::new(),
        account: account.to_owned(),
        incarnation: 0,
    }
}

fn is_institution(tenant: &TenantIncarnation) -> bool {
    tenant.tenant.is_empty()
}

/// The URL that the tenant's call named, if the event is the tenant's and the URL is not the one in the tenant's file.
fn callback_url(
    callback: Option<&CallbackUrl>,
    owner: &TenantIncarnation,
    tenants: &RegisteredTenants,
) -> Option<String> {
    let callback = callback.filter(|callback| callback.tenant == *owner)?;
    let configured = tenants.configured_url(&owner.tenant);
    (configured.as_deref() != Some(&callback.url)).then(|| callback.url.clone())
}
