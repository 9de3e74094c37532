//! The common keys of a tenant's and an operator's table.

use std::num::NonZeroU32;

use gatepay_core::{Catalogue, StampWindow};

use crate::files::secrets::Sources;
use crate::files::{credentials, permissions};
use crate::model::claims::{Claim, Claims};
use crate::model::party::{Limits, LimitsShadow, Party, PartyId, Rate, ReplayRule, Standing};
use crate::model::permissions::Audience;
use crate::syntax::document::Value;
use crate::syntax::table_reader::{Fault, Place, Reader};
use crate::syntax::value;

/// The settings that limit all parties.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) catalogue: &'a Catalogue,
    /// The proxy's own window, which no party's may exceed.
    pub(crate) window: StampWindow,
}

/// Reads the keys that all parties have. `None` if there is no good name; that was reported.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    audience: Audience,
    terms: Terms<'_>,
    sources: Sources<'_>,
    claims: &mut Claims<Place>,
) -> Option<Party> {
    let id = reader.required("id", value::text(PartyId::parse));
    if let Some(id) = &id
        && let Some(place) = claims.stake(Claim::Id(id.clone()), reader.place("id"))
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

fn limits(mut reader: Reader<'_>) -> Limits {
    let per_second = reader.or(
        "requests_per_second",
        Limits::REQUESTS_PER_SECOND,
        value::requests,
    );
    let burst = burst(&mut reader, per_second);
    let in_flight = reader.or("in_flight", Limits::IN_FLIGHT, value::requests);
    let [read, write, money] = ["read", "write", "money"].map(|kind| rate(&mut reader, kind));
    let shadow = reader.list("shadow", value::word(SHADOWS));
    let shadow = shadow.unwrap_or_default();
    for (limit, rate) in [
        (Limit::Read, read),
        (Limit::Write, write),
        (Limit::Money, money),
    ] {
        if rate.is_none() && shadow.contains(&limit) {
            reader.problem("shadow", "names a limit that is not configured");
        }
    }
    reader.finish();
    Limits {
        all: Rate { per_second, burst },
        in_flight,
        read,
        write,
        money,
        shadow: LimitsShadow {
            all: shadow.contains(&Limit::All),
            in_flight: shadow.contains(&Limit::InFlight),
            read: shadow.contains(&Limit::Read),
            write: shadow.contains(&Limit::Write),
            money: shadow.contains(&Limit::Money),
        },
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Limit {
    All,
    InFlight,
    Read,
    Write,
    Money,
}

const SHADOWS: &[(&str, Limit)] = &[
    ("rate", Limit::All),
    ("in_flight", Limit::InFlight),
    ("read", Limit::Read),
    ("write", Limit::Write),
    ("money", Limit::Money),
];

/// A further limit on one kind of calls.
fn rate(limits: &mut Reader<'_>, kind: &'static str) -> Option<Rate> {
    let mut reader = limits.table(kind)?;
    let per_second = reader.required("requests_per_second", value::requests);
    let burst = burst(
        &mut reader,
        per_second.unwrap_or(Limits::REQUESTS_PER_SECOND),
    );
    reader.finish();
    per_second.map(|per_second| Rate { per_second, burst })
}

fn burst(reader: &mut Reader<'_>, per_second: NonZeroU32) -> NonZeroU32 {
    reader.or(
        "burst",
        per_second.saturating_mul(Limits::BURST),
        value::requests,
    )
}

/// A party's window may be narrower than the proxy's: replay memory is laid out for the widest.
fn window(mut reader: Reader<'_>, proxy: StampWindow) -> StampWindow {
    let window = StampWindow {
        past_ms: reader.or("past_ms", proxy.past_ms, narrower(1, proxy.past_ms)),
        future_ms: reader.or("future_ms", proxy.future_ms, narrower(0, proxy.future_ms)),
    };
    reader.finish();
    window
}

fn narrower(least: u64, proxy: u64) -> impl Fn(&Value) -> Result<u64, Fault> {
    move |value| match value::number(value, least..=u64::MAX)? {
        wider if wider > proxy => Err(format!("may be at most the proxy's own, {proxy}").into()),
        narrower => Ok(narrower),
    }
}
