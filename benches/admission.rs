//! The cost of admitting a request, in instructions: tokens, share, seat and nonce, with a given number of active
//! tenants.
//!
//! The program does the same work each time and prints nothing that varies. `benches/admission.sh` counts its
//! instructions and checks them against the promised limits.

#![expect(clippy::print_stdout, reason = "it says what it did")]

use std::env;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use gatepay_admission::replay::Replay;
use gatepay_core::{Catalogue, ClientId, Credential, Kind, SecretKey, Stamp};
use gatepay_proxy::generation::institution_quota::InstitutionQuota;
use gatepay_proxy::generation::tenant_limits::TenantLimitsMap;
use gatepay_proxy::journey::admit;
use gatepay_proxy::metrics::Metrics;
use gatepay_proxy::process::clock::Clock;
use gatepay_tenancy::party::DEFAULT_WINDOW;
use gatepay_tenancy::settings::MetricsSettings;
use gatepay_tenancy::{
    DatedCredential, PartyId, Rate, Registry, ReplayRule, SubAccount, Tenant, settings,
};
use zeroize::Zeroizing;

const NOW: u64 = 1_767_225_600_000;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse().ok());
    let dry = arguments.iter().any(|argument| argument == "dry");
    match (number(0), number(1), number(2)) {
        (Some(tenants), Some(requests), Some(per_second)) => {
            run(tenants, requests, per_second, dry);
        }
        // One small run, as a smoke test.
        _ => run(10, 100, 50, false),
    }
}

/// `requests` from `tenants` in turn, under a quota of `per_second` with a burst of the same number. With `dry`
/// everything runs but the counted work.
fn run(tenants: u32, requests: u32, per_second: u32, dry: bool) {
    let catalogue = Catalogue::standard();
    let clock = Clock::manual(NOW);
    let metrics = Metrics::new(&catalogue, &MetricsSettings::default());
    let rate = |number| {
        let number = NonZeroU32::new(number).expect("not zero");
        Rate {
            per_second: number,
            burst: number,
        }
    };
    let quota = settings::QuotaSettings {
        rate: rate(per_second),
        in_flight: NonZeroU32::new(1_000),
        ..settings::QuotaSettings::default()
    };
    let meters = metrics.tenants.limits.quota.clone();
    let quota = InstitutionQuota::new(&quota, meters, &clock);
    let all = (0..tenants).map(|number| {
        let text = |what: &str| format!("{what}-{number}");
        let secret = SecretKey::new(Zeroizing::new(text("made-up-secret"))).expect("a secret");
        let id = ClientId::parse(&text("client")).expect("a client id");
        let credential = DatedCredential::undated(Credential::new(id, &secret));
        let (id, account) = (PartyId::parse(&text("t")), SubAccount::parse(&text("a")));
        let (id, account) = (id.expect("a name"), account.expect("an account"));
        let mut tenant = Tenant::new(id, account, &catalogue, vec![credential]);
        tenant.party.limits.all = rate(1_000_000);
        tenant.party.limits.read = Some(rate(1_000_000));
        tenant
    });
    let registry = Registry::new(all.collect(), Vec::new(), &[]);
    let registry = registry.expect("tenants that differ");
    let tenant_limits = TenantLimitsMap::new(Arc::new(quota));
    let own = registry.own_series(&MetricsSettings::default());
    let tenant_limits = tenant_limits.arrange(&registry, &own, &metrics.tenants);
    let replay = Replay::new(DEFAULT_WINDOW, 10_000_000, [7; 16], 0);
    // Every tenant is active first.
    for limits in &tenant_limits {
        black_box(limits.share.wait(Kind::Read, clock.elapsed()));
    }
    let timestamp = NOW.to_string();
    let mut admitted = 0_u32;
    for (number, limits) in (0..requests).zip(tenant_limits.iter().cycle()) {
        let nonce = format!("{number:032}");
        let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).expect("a stamp");
        let print = replay.fingerprint("client", &stamp, ReplayRule::Pair);
        if dry {
            black_box(print);
            continue;
        }
        let permit = admit::enter(limits, &replay, &clock, Kind::Read, print, NOW);
        if let Ok(mut permit) = black_box(permit) {
            permit.commit();
            admitted += 1;
        }
    }
    println!("{tenants} tenants, {requests} requests, {admitted} admitted");
}
