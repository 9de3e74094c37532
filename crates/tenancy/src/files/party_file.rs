//! The common keys of a tenant's and an operator's table.

use std::num::NonZeroU32;

use gatepay_core::{Catalogue, StampWindow};

use crate::files::admin_operators::ApproverTerms;
use crate::files::secrets::SecretSources;
use crate::files::{credentials, permissions};
use crate::model::claims::{UniqueClaim, UniqueClaims};
use crate::model::notifications::EndpointBounds;
use crate::model::party::{LimitsShadow, Party, PartyId, PartyLimits, Rate, ReplayRule, Standing};
use crate::model::permissions::CallerClass;
use crate::syntax::document::ConfigValue;
use crate::syntax::table_reader::{SourceLocation, TableReader, ValueFault};
use crate::syntax::value;

/// The settings that limit all parties.
#[derive(Clone, Copy)]
pub(crate) struct PartyBounds<'a> {
    pub(crate) catalogue: &'a Catalogue,
    /// The proxy's own window, which no party's may exceed.
    pub(crate) window: StampWindow,
    /// The bounds of tenants' endpoints.
    pub(crate) endpoints: &'a EndpointBounds,
    /// Whether there is a store, which keeps what calls spend.
    pub(crate) has_store: bool,
    /// The approvers; `None` if their links are checked elsewhere.
    pub(crate) approvers: Option<ApproverTerms<'a>>,
}

/// Reads the keys that all parties have. `None` if there is no good name; that was reported.
pub(crate) fn read(
    reader: &mut TableReader<'_>,
    audience: CallerClass,
    terms: PartyBounds<'_>,
    sources: SecretSources<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> Option<Party> {
    let id = reader.required("id", value::text(PartyId::parse));
    if let Some(id) = &id
        && let Some(place) = claims.stake(|| UniqueClaim::Id(id.clone()), || reader.location("id"))
    {
        reader.problem("id", format!("is already used at {place}"));
    }
    let standing = reader.or("standing", Standing::Active, value::word(Standing::WORDS));
    let replay = reader.or("replay", ReplayRule::Pair, value::word(ReplayRule::WORDS));
    let addresses = reader.list("addresses", value::network);
    if addresses.as_ref().is_some_and(Vec::is_empty) {
        reader.problem("addresses", "allows no address; omit it to allow all");
    }
    let limits = limits(reader.section("limits"));
    let permissions = permissions::read(reader, terms.catalogue, audience);
    let window = window(reader.section("timestamp"), terms.window);
    let credentials = credentials::of_party(reader, sources, claims);
    Some(Party {
        id: id?,
        standing,
        addresses: addresses.unwrap_or_default().into(),
        replay,
        limits,
        permissions,
        window,
        credentials: credentials.into(),
    })
}

fn limits(mut reader: TableReader<'_>) -> PartyLimits {
    let per_second = reader.or(
        "requests_per_second",
        PartyLimits::REQUESTS_PER_SECOND,
        value::requests,
    );
    let burst = burst(&mut reader, per_second);
    let in_flight = reader.or("in_flight", PartyLimits::IN_FLIGHT, value::requests);
    let [read, write, money] = ["read", "write", "money"].map(|kind| rate(&mut reader, kind));
    let shadow = reader.list("shadow", value::word(SHADOWS));
    let shadow = shadow.unwrap_or_default();
    for (limit, rate) in [
        (ShadowedLimit::Read, read),
        (ShadowedLimit::Write, write),
        (ShadowedLimit::Money, money),
    ] {
        if rate.is_none() && shadow.contains(&limit) {
            reader.problem("shadow", "names a limit that is not configured");
        }
    }
    reader.finish();
    PartyLimits {
        all: Rate { per_second, burst },
        in_flight,
        read,
        write,
        money,
        shadow: LimitsShadow {
            all: shadow.contains(&ShadowedLimit::All),
            in_flight: shadow.contains(&ShadowedLimit::InFlight),
            read: shadow.contains(&ShadowedLimit::Read),
            write: shadow.contains(&ShadowedLimit::Write),
            money: shadow.contains(&ShadowedLimit::Money),
        },
    }
}

#[derive(Clone, Copy, PartialEq)]
enum ShadowedLimit {
    All,
    InFlight,
    Read,
    Write,
    Money,
}

const SHADOWS: &[(&str, ShadowedLimit)] = &[
    ("rate", ShadowedLimit::All),
    ("in_flight", ShadowedLimit::InFlight),
    ("read", ShadowedLimit::Read),
    ("write", ShadowedLimit::Write),
    ("money", ShadowedLimit::Money),
];

/// A further limit on one kind of calls.
fn rate(limits: &mut TableReader<'_>, kind: &'static str) -> Option<Rate> {
    let mut reader = limits.table(kind)?;
    let per_second = reader.required("requests_per_second", value::requests);
    let burst = burst(
        &mut reader,
        per_second.unwrap_or(PartyLimits::REQUESTS_PER_SECOND),
    );
    reader.finish();
    per_second.map(|per_second| Rate { per_second, burst })
}

fn burst(reader: &mut TableReader<'_>, per_second: NonZeroU32) -> NonZeroU32 {
    reader.or(
        "burst",
        per_second.saturating_mul(PartyLimits::BURST),
        value::requests,
    )
}

/// A party's window may be narrower than the proxy's: replay memory is laid out for the widest.
fn window(mut reader: TableReader<'_>, proxy: StampWindow) -> StampWindow {
    let window = StampWindow {
        past_ms: reader.or("past_ms", proxy.past_ms, narrower(1, proxy.past_ms)),
        future_ms: reader.or("future_ms", proxy.future_ms, narrower(0, proxy.future_ms)),
    };
    reader.finish();
    window
}

fn narrower(least: u64, proxy: u64) -> impl Fn(&ConfigValue) -> Result<u64, ValueFault> {
    move |value| match value::number(value, least..=u64::MAX)? {
        wider if wider > proxy => Err(format!("may be at most the proxy's own, {proxy}").into()),
        narrower => Ok(narrower),
    }
}
