//! Judge: may this caller make this call with this body, apart from limits?

mod ledger_intents;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use gatepay_core::amount::BodyAmounts;
use gatepay_core::body::BodyReading;
use gatepay_core::callback_url::{self, CallbackField, UnclearCallback};
use gatepay_core::check::{self, Strictness};
use gatepay_core::destination::DestinationUrl;
use gatepay_core::guard::{CallerIdentity, SteeringAttempt, guard};
use gatepay_core::money::{DemandFault, MoneyCall, MoneyDemand};
use gatepay_core::operation::AccountHeader;
use gatepay_core::own_operation::OwnOperation;
use gatepay_core::{Catalogue, Kind, Operation};
use gatepay_store::admission::LedgerIntent;
use gatepay_tenancy::notifications::EndpointBounds;
use gatepay_tenancy::settings::{FixedAddressCallback, Institution, Settings};
use gatepay_tenancy::{PartyRef, Registry, Standing};

use crate::caps::Caps;
use crate::caps::destinations::{ConfiguredLists, StatedTargets, StoredDestinations, is_boundable};
use crate::generation::tenant_limits::TenantLimits;
use crate::headers::{AtMostOnce, KnownHeaders};
use crate::journey::authenticate::{self, Caller};
use crate::journey::verify::Verified;
use crate::process::yielding::{OffloadThreads, PartyOffload, YIELD_AFTER};
use crate::record::RequestRecord;
use crate::refusal::Refusal;

/// A verified request that its caller may make. [`judge`] alone makes one.
pub struct Judged<'g> {
    verified: Verified<'g>,
    acting: Acting<'g>,
    amounts: BodyAmounts,
    intents: Option<Vec<LedgerIntent>>,
    /// What the call asks for, if caps count it. Boxed as `callback` is.
    demand: Option<Box<MoneyDemand>>,
    /// The key under which GatePay documents that the call's repetition is one transaction, if its money is counted.
    money_key: Option<Box<str>>,
    /// Where the money goes, if the sub-account's money may go to listed destinations only.
    targets: Option<Box<StatedTargets>>,
    /// Whether halts count the call as a payout, though its operation is none.
    is_disguised_payout: bool,
    /// Boxed, since few calls have one and every call carries its state through the journey.
    callback: Option<Box<OwnCallback>>,
}

/// A `callbackUrl` of a tenant's call that is the tenant's own.
pub struct OwnCallback {
    /// The field in the body.
    pub field: Box<CallbackField>,
    /// The URL.
    pub url: DestinationUrl,
    /// The tenant that makes the call.
    pub tenant: String,
    /// Its sub-account, for which the call is made.
    pub account: String,
}

impl<'g> Judged<'g> {
    /// The verified request.
    pub fn verified(&self) -> &Verified<'g> {
        &self.verified
    }

    /// The account that the call is for.
    pub fn acting(&self) -> Acting<'g> {
        self.acting
    }

    /// Moves the body out, for the request to GatePay.
    pub(super) fn take_body(&mut self) -> Bytes {
        self.verified.take_body()
    }

    /// What admission takes over of the call.
    pub(super) fn into_parts(self) -> JudgedParts {
        JudgedParts {
            amounts: self.amounts,
            intents: self.intents,
            demand: self.demand,
            money_key: self.money_key,
            targets: self.targets,
            is_disguised_payout: self.is_disguised_payout,
            callback: self.callback,
        }
    }
}

/// What admission takes over of a judged call.
pub(super) struct JudgedParts {
    /// The amounts in the body, for the journal.
    pub(super) amounts: BodyAmounts,
    /// The numbers for the ledger.
    pub(super) intents: Option<Vec<LedgerIntent>>,
    /// What the call asks for, if caps count it.
    pub(super) demand: Option<Box<MoneyDemand>>,
    /// The key under which GatePay documents that the call's repetition is one transaction, if its money is counted.
    pub(super) money_key: Option<Box<str>>,
    /// Where the money goes, if the sub-account's money may go to listed destinations only.
    pub(super) targets: Option<Box<StatedTargets>>,
    /// Whether halts count the call as a payout, though its operation is none.
    pub(super) is_disguised_payout: bool,
    /// The callback URL that is exchanged for one of the proxy's own.
    pub(super) callback: Option<Box<OwnCallback>>,
}

/// The parts of a head that the judgement reads.
#[derive(Clone, Copy)]
pub struct CallerClaims<'g> {
    /// The caller's address.
    address: IpAddr,
    /// The value of `X-GatePay-On-Behalf-Of`.
    on_behalf_of: AtMostOnce<'g>,
}

impl<'g> CallerClaims<'g> {
    /// The claims of a caller at this address.
    pub fn new(address: IpAddr, lines: &KnownHeaders<'g>) -> Self {
        Self {
            address,
            on_behalf_of: lines.on_behalf_of,
        }
    }
}

/// Checks that the caller may make this call with this body. The record takes the body's idempotency key: that of a
/// refused call too, if an earlier copy of the call may have been admitted.
pub async fn judge<'g>(
    verified: Verified<'g>,
    claims: CallerClaims<'g>,
    rules: BodyRules<'_>,
    offload: &OffloadThreads,
    record: &mut RequestRecord,
) -> Result<Judged<'g>, Refusal> {
    let generation = verified.routed().generation();
    let limits = generation.tenant_limits(verified.caller().position);
    let offload = offload.of_party::<TenantLimits>(limits);
    let judged = match verified.claim().usable(record.began_unix_ms()) {
        Ok(()) => judge_call(&verified, claims, rules, offload).await,
        Err(refusal) => Err(refusal),
    };
    match judged {
        Ok((acting, judged, callback)) => {
            let JudgedBody {
                key,
                amounts,
                intents,
                demand,
                money_key,
                targets,
                is_disguised_payout,
                callback: _,
            } = judged;
            record.key(key);
            Ok(Judged {
                verified,
                acting,
                amounts,
                intents,
                demand: demand.and_then(|demand| (*demand).ok()).map(Box::new),
                money_key,
                targets,
                is_disguised_payout,
                callback,
            })
        }
        Err(refusal) => {
            if record.is_in_doubt() {
                let routed = verified.routed();
                let row = (&routed.generation().catalogue, routed.position());
                let key = key_of_body(offload, row, routed.query(), verified.body());
                record.key(key.await);
            }
            Err(refusal)
        }
    }
}

/// The acting account and the facts of the body, if the call may be made.
async fn judge_call<'g>(
    verified: &Verified<'g>,
    claims: CallerClaims<'g>,
    rules: BodyRules<'_>,
    offload: PartyOffload<'_>,
) -> Result<(Acting<'g>, JudgedBody, Option<Box<OwnCallback>>), Refusal> {
    let (routed, caller) = (verified.routed(), verified.caller());
    let (generation, position) = (routed.generation(), routed.position());
    let (operation, owner) = (routed.operation(), caller.owner);
    let limits = generation.tenant_limits(caller.position);
    allowed(owner, limits, position, operation, claims.address)?;
    let (registry, institution) = (&generation.registry, &generation.institution);
    let acting = acting(owner, operation, claims.on_behalf_of, registry, institution)?;
    let own = match owner {
        PartyRef::Tenant(tenant) => Some(CallerIdentity {
            account: tenant.sub_account.as_str(),
            client_id: caller.client_id.as_str(),
        }),
        PartyRef::Operator(_) => None,
    };
    let row = (&generation.catalogue, position);
    let (query, body) = (routed.query(), verified.body());
    let reading = ReadingRules {
        targets: rules.reads_targets(
            (registry, acting.account().unwrap_or_default()),
            owner,
            operation,
        ),
        ..rules.reading
    };
    let mut judged = judge_body(offload, row, query, body, own, reading).await?;
    if let Some(Err(fault)) = judged.demand.as_deref()
        && rules.caps.is_some_and(|caps| {
            caps.covers(generation, acting.account().unwrap_or_default(), operation)
        })
    {
        let why = if fault.is_of_amount() {
            "caps count this call, so that its amount must be exact"
        } else {
            "caps count this call"
        };
        return Err(Refusal::InvalidBody(format!("{fault}; {why}")));
    }
    let callback = judged.callback.take();
    let callback = callback.map(|field| own_callback(field, owner, rules.endpoints));
    Ok((acting, judged, callback.transpose()?))
}

/// The callback URL of a call, if it is the caller's endpoint or has one of the caller's origins.
fn own_callback(
    field: Box<CallbackField>,
    owner: PartyRef<'_>,
    endpoints: Option<&EndpointBounds>,
) -> Result<Box<OwnCallback>, Refusal> {
    let PartyRef::Tenant(tenant) = owner else {
        return Err(foreign_callback());
    };
    let url = endpoints.and_then(|bounds| {
        let parsed = bounds.with_rules(|rules| DestinationUrl::parse(&field.url, rules));
        parsed.ok()
    });
    match (tenant.notifications(), url) {
        (Some(own), Some(url)) if own.owns(&url) => Ok(Box::new(OwnCallback {
            field,
            url,
            tenant: tenant.party.id.as_str().to_owned(),
            account: tenant.sub_account.as_str().to_owned(),
        })),
        _ => Err(foreign_callback()),
    }
}

fn foreign_callback() -> Refusal {
    Refusal::OperationNotAllowed(SteeringAttempt::Callback.to_string().into())
}

/// Whether this party may make this call from this address at all, apart from rates and stamps.
pub fn allowed(
    who: PartyRef<'_>,
    limits: &TenantLimits,
    position: usize,
    operation: &Operation,
    peer: IpAddr,
) -> Result<(), Refusal> {
    let party = who.party();
    let refuse = |why: Cow<'static, str>| Err(Refusal::OperationNotAllowed(why));
    if party.standing == Standing::Suspended || limits.is_suspended() {
        return Err(Refusal::TenantSuspended);
    }
    if !party.allows_address(peer) {
        return Err(Refusal::AddressNotAllowed);
    }
    if let Some(why) = operation.off() {
        let name = &operation.name;
        return match who {
            // Only the institution is told how to turn the operation on.
            PartyRef::Tenant(_) => Err(Refusal::OperationOff {
                operation: name.clone().into_owned(),
                why,
            }),
            PartyRef::Operator(_) => refuse(format!("{name} is off: {why}").into()),
        };
    }
    if !party.permissions.allows(position) {
        return refuse(format!("you may not call {}", operation.name).into());
    }
    if party.standing == Standing::ReadOnly && operation.kind != Kind::Read {
        return Err(reads_only());
    }
    Ok(())
}

/// Whether a verified caller may still call, by the registry in force now. Reading the body takes time: meanwhile the
/// party may have been suspended, and its credential ended.
pub fn still_allowed(
    caller: &Caller<'_>,
    registry: &Registry,
    kind: Kind,
    now_ms: u64,
) -> Result<(), Refusal> {
    let party = caller.party_in(registry, now_ms);
    match party.ok_or_else(authenticate::not_in_force)?.standing {
        Standing::Active => Ok(()),
        Standing::ReadOnly if kind == Kind::Read => Ok(()),
        Standing::ReadOnly => Err(reads_only()),
        Standing::Suspended => Err(Refusal::TenantSuspended),
    }
}

/// The refusal of a write or money call of a party that may only read.
fn reads_only() -> Refusal {
    Refusal::OperationNotAllowed("this tenant may only read at present".into())
}

/// The account that GatePay is told a call is for. These headers are unsigned, so a tenant cannot choose them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acting<'a> {
    /// The account goes into `X-GatePay-On-Behalf-Of`.
    OnBehalfOf(&'a str),
    /// The account goes into `X-GatePay-MerchantId`: for fee settings.
    Merchant(&'a str),
    /// Neither: creating, querying and listing sub-accounts names no account.
    Nobody,
}

impl<'a> Acting<'a> {
    /// The account, in whichever header it is sent.
    pub fn account(&self) -> Option<&'a str> {
        match self {
            Self::OnBehalfOf(account) | Self::Merchant(account) => Some(account),
            Self::Nobody => None,
        }
    }
}

/// The account a call is for: a tenant's own sub-account, or for an operator a known account. `named` is the value of
/// the head's `X-GatePay-On-Behalf-Of`.
pub fn acting<'a>(
    who: PartyRef<'a>,
    operation: &Operation,
    named: AtMostOnce<'a>,
    registry: &Registry,
    institution: &'a Institution,
) -> Result<Acting<'a>, Refusal> {
    let mismatch = |what: &str| Err(Refusal::OnBehalfOfMismatch(what.to_owned()));
    let Ok(named) = named else {
        return mismatch("X-GatePay-On-Behalf-Of stands more than once");
    };
    match (who, operation.account) {
        (PartyRef::Tenant(tenant), _) => {
            let own = tenant.sub_account.as_str();
            match named {
                Some(named) if named != own.as_bytes() => {
                    mismatch("leave X-GatePay-On-Behalf-Of out, or name your own sub-account")
                }
                _ => Ok(Acting::OnBehalfOf(own)),
            }
        }
        // An operator asks the proxy itself for its own notifications.
        (PartyRef::Operator(_), _) if named.is_none() && OwnOperation::of(operation).is_some() => {
            Ok(Acting::Nobody)
        }
        (PartyRef::Operator(_), AccountHeader::OnBehalfOf) => {
            let known = |account: &&str| {
                registry.knows_account(account)
                    || institution.account_id.as_deref() == Some(account)
            };
            let account = named
                .and_then(|named| str::from_utf8(named).ok())
                .filter(known);
            account.map_or_else(
                || mismatch("X-GatePay-On-Behalf-Of must name a tenant's sub-account or institution.account_id"),
                |account| Ok(Acting::OnBehalfOf(account)),
            )
        }
        (PartyRef::Operator(_), _) if named.is_some() => {
            mismatch("this call is made for no account: leave X-GatePay-On-Behalf-Of out")
        }
        (PartyRef::Operator(_), AccountHeader::MerchantId) => institution
            .merchant_id
            .as_deref()
            .map(Acting::Merchant)
            .ok_or_else(|| {
                Refusal::OperationNotAllowed(
                    "fee settings need institution.merchant_id in proxy.toml".into(),
                )
            }),
        (PartyRef::Operator(_), AccountHeader::None) => Ok(Acting::Nobody),
    }
}

/// The facts read from a body that may be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct JudgedBody {
    /// The idempotency key in the body.
    pub key: Option<String>,
    /// The amounts in the body, if the journal records them.
    pub amounts: BodyAmounts,
    /// The numbers in the body that lead a notification back to the call, if the ledger records the call.
    pub intents: Option<Vec<LedgerIntent>>,
    /// What the call asks for, if it moves money and there is a store.
    pub demand: Option<Box<Result<MoneyDemand, DemandFault>>>,
    /// The key under which GatePay documents that the call's repetition is one transaction, likewise. It can be read although
    /// an amount cannot.
    pub money_key: Option<Box<str>>,
    /// Where the money goes, if the sub-account's money may go to listed destinations only.
    pub targets: Option<Box<StatedTargets>>,
    /// Whether halts count the call as a payout, though its operation is none.
    pub is_disguised_payout: bool,
    /// The callback URL, if it is exchanged for one of the proxy's own.
    pub callback: Option<Box<CallbackField>>,
}

/// Checks that the body has one reading, acts for `own` alone and may be accepted by GatePay; returns its facts.
///
/// An operator's body (`own` is `None`) may act for any account.
pub fn body(
    operation: &Operation,
    query: Option<&str>,
    body: &[u8],
    own: Option<CallerIdentity<'_>>,
    rules: &ReadingRules,
) -> Result<JudgedBody, Refusal> {
    let reading = BodyReading::read(operation, query, body);
    let exchanges = rules.callbacks == FixedAddressCallback::Relay
        && own.is_some()
        && callback_url::is_exchanged(operation);
    let forwards = rules.callbacks == FixedAddressCallback::Forward;
    let callbacks = own.is_none() || forwards || exchanges;
    guard(operation, &reading, own, callbacks).map_err(|steering| match steering {
        SteeringAttempt::Account(_) => Refusal::OnBehalfOfMismatch(steering.to_string()),
        SteeringAttempt::Callback => Refusal::OperationNotAllowed(steering.to_string().into()),
        SteeringAttempt::NotOneText { .. }
        | SteeringAttempt::Repeated { .. }
        | SteeringAttempt::NotAscii { .. }
        | SteeringAttempt::TooDeep { .. }
        | SteeringAttempt::ReadDifferently { .. }
        | SteeringAttempt::ParameterNotAscii
        | SteeringAttempt::ParameterName
        | SteeringAttempt::RepeatedParameter
        | SteeringAttempt::Contradicted
        | SteeringAttempt::EncodedName
        | SteeringAttempt::PartName
        | SteeringAttempt::RepeatedPart
        | SteeringAttempt::TooManyParts => Refusal::InvalidBody(steering.to_string()),
    })?;
    let inspected = check::inspect(operation, &reading, rules.strictness)
        .map_err(|fault| Refusal::InvalidBody(fault.to_string()))?;
    let amounts = if rules.amounts && operation.kind != Kind::Read {
        BodyAmounts::read(operation, &reading)
    } else {
        BodyAmounts::default()
    };
    let callback = if exchanges {
        let field = CallbackField::read(&reading).map_err(|UnclearCallback| foreign_callback())?;
        field.map(Box::new)
    } else {
        None
    };
    let money = MoneyCall::new(operation, &reading);
    let demand = rules.spends.then(|| money.demand().map(Box::new)).flatten();
    let targets = rules.targets.then(|| money.bounded_targets());
    Ok(JudgedBody {
        key: inspected.key,
        amounts,
        intents: rules
            .ledger
            .then(|| ledger_intents::of(operation, &reading))
            .flatten(),
        money_key: money_key(&money, demand.as_deref()),
        demand,
        targets: targets.map(Box::new),
        is_disguised_payout: money.may_be_disguised_payout(),
        callback,
    })
}

fn money_key(
    money: &MoneyCall<'_, '_>,
    demand: Option<&Result<MoneyDemand, DemandFault>>,
) -> Option<Box<str>> {
    let key = match demand? {
        Ok(demand) => demand.key.clone(),
        Err(_) => money.documented_key(),
    };
    key.map(String::into_boxed_str)
}

/// Like `body`, for a body of any length: a long body is read on another thread.
pub async fn judge_body(
    offload: PartyOffload<'_>,
    (catalogue, position): (&Arc<Catalogue>, usize),
    query: Option<&str>,
    sent: &Bytes,
    own: Option<CallerIdentity<'_>>,
    rules: ReadingRules,
) -> Result<JudgedBody, Refusal> {
    if sent.len() <= YIELD_AFTER {
        return body(&catalogue.rows()[position], query, sent, own, &rules);
    }
    let (catalogue, sent) = (Arc::clone(catalogue), sent.clone());
    let query = query.map(str::to_owned);
    let own = own.map(|own| (own.account.to_owned(), own.client_id.to_owned()));
    let judged = offload.run(move || {
        let own = own
            .as_ref()
            .map(|(account, client_id)| CallerIdentity { account, client_id });
        body(
            &catalogue.rows()[position],
            query.as_deref(),
            &sent,
            own,
            &rules,
        )
    });
    Box::pin(judged).await
}

/// Like `key`, for a body of any length: a long body is read on another thread.
pub async fn key_of_body(
    offload: PartyOffload<'_>,
    (catalogue, position): (&Arc<Catalogue>, usize),
    query: Option<&str>,
    sent: &Bytes,
) -> Option<String> {
    if sent.len() <= YIELD_AFTER {
        return key(&catalogue.rows()[position], query, sent);
    }
    let (catalogue, sent) = (Arc::clone(catalogue), sent.clone());
    let query = query.map(str::to_owned);
    let read = offload.run(move || key(&catalogue.rows()[position], query.as_deref(), &sent));
    Box::pin(read).await
}

/// The rules by which bodies are judged, the same for all tenants.
#[derive(Clone, Copy)]
pub struct BodyRules<'a> {
    /// The rules for the reading of a body.
    pub reading: ReadingRules,
    /// The bounds of tenants' endpoints, if notifications are relayed.
    pub endpoints: Option<&'a EndpointBounds>,
    /// Where the money of sub-accounts may go, if there is a store.
    pub destinations: Option<&'a StoredDestinations>,
    /// The caps, if there is a store.
    pub caps: Option<&'a Caps>,
}

/// The rules for the reading of a body.
#[derive(Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says whether one thing is read"
)]
pub struct ReadingRules {
    /// How many of GatePay's own checks the proxy applies.
    pub strictness: Strictness,
    /// The treatment of a callback URL in a tenant's body.
    pub callbacks: FixedAddressCallback,
    /// Whether amounts are read, which only a journal needs.
    pub amounts: bool,
    /// Whether the ledger's numbers are read, which only notifications need.
    pub ledger: bool,
    /// Whether the demands of money calls are read, which caps and statements need.
    pub spends: bool,
    /// Whether the targets of money calls are read, which only lists of destinations need.
    pub targets: bool,
}

impl<'a> BodyRules<'a> {
    /// The rules in the process's settings. `amounts` says whether a journal needs the amounts; `caps` is there if there is a
    /// store.
    pub fn of(settings: &'a Settings, amounts: bool, caps: Option<&'a Caps>) -> Self {
        let spends = caps.is_some();
        let notifications = settings.notifications.as_ref();
        Self {
            reading: ReadingRules {
                strictness: settings.checks,
                callbacks: settings.fixed_address_callback,
                amounts,
                ledger: notifications.is_some() || spends,
                spends,
                targets: false,
            },
            endpoints: notifications.map(|settings| &settings.endpoints),
            destinations: caps.map(|caps| &caps.destinations),
            caps,
        }
    }

    /// Whether the targets of this call have to be read. Lists bind every party that acts for a sub-account, but no call that
    /// only the institution can make.
    fn reads_targets(
        &self,
        (registry, account): (&Registry, &str),
        owner: PartyRef<'_>,
        operation: &Operation,
    ) -> bool {
        self.destinations
            .filter(|_| is_boundable(operation))
            .is_some_and(|lists| lists.may_bound(&ConfiguredLists::of(registry, account, owner)))
    }
}

/// The idempotency key in a body, even if the body has other faults.
pub fn key(operation: &Operation, query: Option<&str>, body: &[u8]) -> Option<String> {
    let reading = BodyReading::read(operation, query, body);
    check::inspect(operation, &reading, Strictness::Off)
        .ok()
        .and_then(|inspected| inspected.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[tokio::test]
    async fn a_long_body_is_read_on_another_thread_and_a_short_one_here() {
        let catalogue = Arc::new(Catalogue::standard());
        let rows = catalogue.rows();
        let position = rows.iter().position(|row| row.name == "query_order");
        let row = (&catalogue, position.unwrap());
        let rules = ReadingRules {
            strictness: Strictness::Off,
            callbacks: FixedAddressCallback::Forward,
            amounts: true,
            ledger: true,
            spends: true,
            targets: true,
        };
        let own = CallerIdentity {
            account: "1",
            client_id: "c",
        };
        let body = |filler: usize| {
            let filler = "x".repeat(filler);
            Bytes::from(format!(r#"{{"merchantTradeNo":"A-1","goods":"{filler}"}}"#))
        };
        let short = body(YIELD_AFTER - 100);
        let long = body(YIELD_AFTER);
        // With no offload thread, work that needs a thread never ends.
        let none = OffloadThreads::with(0);
        for (body, is_here) in [(&short, true), (&long, false)] {
            let judge = judge_body(none.own(), row, None, body, Some(own), rules);
            assert_eq!(is_ready_at_once(judge), is_here);
            let key = key_of_body(none.own(), row, None, body);
            assert_eq!(is_ready_at_once(key), is_here);
        }
        let offload = OffloadThreads::default();
        let judge = |sent| judge_body(offload.own(), row, None, sent, Some(own), rules);
        let key = |sent| key_of_body(offload.own(), row, None, sent);
        assert_eq!(judge(&long).await.ok(), judge(&short).await.ok());
        assert_eq!(key(&long).await, key(&short).await);
        let foreign =
            Bytes::from([&long[..long.len() - 1], br#","sub_merchant_id":"2"}"#].concat());
        assert_eq!(
            judge(&foreign).await.unwrap_err().slug(),
            "on_behalf_of_mismatch"
        );
    }

    fn is_ready_at_once(future: impl Future) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut cx).is_ready()
    }
}
