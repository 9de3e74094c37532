//! The cost of admitting a request, in instructions: tokens, share, seat and nonce, with a given number of active
//! tenants.
//!
//! The program does the same work each time and prints nothing that varies. `benches/admission.sh` counts its
//! instructions and checks them against the promised limits.
//!
//! `cargo bench -p gatepay-proxy --bench admission -- threads` measures how threads that share everything slow each other: one to
//! sixteen threads do nothing but admit. It prints the processor time of an admission, and how many of a million had to sleep
//! until another thread gave a lock back.

#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "it says what it did"
)]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::{Arc, Barrier};
use std::{env, fs, thread};

use gatepay_admission::replay::{Replay, StampFingerprint};
use gatepay_core::{Catalogue, ClientId, Credential, Kind, SecretKey, Stamp};
use gatepay_proxy::generation::institution_quota::InstitutionQuota;
use gatepay_proxy::generation::tenant_limits::{TenantLimits, TenantLimitsMap};
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
    if arguments.iter().any(|argument| argument == "threads") {
        return threads();
    }
    match (number(0), number(1), number(2)) {
        (Some(tenants), Some(requests), Some(per_second)) => {
            run(tenants, requests, per_second, dry);
        }
        // One small run, as a smoke test.
        _ => run(10, 100, 50, false),
    }
}

/// The state that requests share: `tenants`, each of them active, under a quota of `per_second` with a burst of the same number.
struct Shared {
    clock: Clock,
    limits: Vec<Arc<TenantLimits>>,
    replay: Replay,
}

impl Shared {
    fn new(tenants: u32, per_second: u32) -> Self {
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
        let parties = registry.parties().zip(own);
        let tenant_limits = tenant_limits.arrange(parties, 0, &metrics.tenants);
        let replay = Replay::new(DEFAULT_WINDOW, 10_000_000, [7; 16], 0);
        // Every tenant is active first.
        for limits in &tenant_limits {
            black_box(limits.share.wait(Kind::Read, clock.elapsed()));
        }
        Self {
            clock,
            limits: tenant_limits,
            replay,
        }
    }

    fn print(&self, number: u32) -> StampFingerprint {
        let (timestamp, nonce) = (NOW.to_string(), format!("{number:032}"));
        let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).expect("a stamp");
        self.replay.fingerprint("client", &stamp, ReplayRule::Pair)
    }

    /// Whether a request of this tenant, of all by turns, is admitted.
    fn admits(&self, tenant: usize, print: StampFingerprint) -> bool {
        let limits = &self.limits[tenant % self.limits.len()];
        let permit = admit::enter(limits, &self.replay, &self.clock, Kind::Read, print, NOW);
        black_box(permit).is_ok_and(|mut permit| {
            permit.commit();
            true
        })
    }
}

/// `requests` from `tenants` in turn. With `dry` everything runs but the counted work.
fn run(tenants: u32, requests: u32, per_second: u32, dry: bool) {
    let shared = Shared::new(tenants, per_second);
    let mut admitted = 0_u32;
    for (tenant, number) in (0..requests).enumerate() {
        let print = shared.print(number);
        if dry {
            black_box(print);
            continue;
        }
        admitted += u32::from(shared.admits(tenant, print));
    }
    println!("{tenants} tenants, {requests} requests, {admitted} admitted");
}

/// One to sixteen threads that do nothing but admit.
fn threads() {
    const REQUESTS: u32 = 480_000;
    let shared = Shared::new(1_000, 100_000_000);
    println!("| threads | CPU ns | slept in a million |");
    println!("| ---: | ---: | ---: |");
    for (round, threads) in (0_u32..).zip([1_u32, 2, 4, 8, 16]) {
        let begin = Barrier::new(threads as usize);
        let each = REQUESTS / threads;
        let admit = |thread: u32| {
            let first = round * REQUESTS + thread * each;
            let prints: Vec<_> = (first..first + each).map(|it| shared.print(it)).collect();
            let offset = shared.limits.len() / threads as usize * thread as usize;
            begin.wait();
            let before = used_and_slept();
            for (number, print) in prints.into_iter().enumerate() {
                assert!(shared.admits(offset + number, print), "its limits are wide");
            }
            let after = used_and_slept();
            (after.0 - before.0, after.1 - before.1)
        };
        let (used, slept) = thread::scope(|scope| {
            let admit = &admit;
            let running: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(move || admit(thread)))
                .collect();
            let ended = running.into_iter().map(|it| it.join().expect("it admits"));
            ended.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
        });
        println!(
            "| {threads} | {:.0} | {:.0} |",
            used as f64 / f64::from(REQUESTS),
            slept as f64 * 1e6 / f64::from(REQUESTS)
        );
    }
}

/// This thread's processor time in nanoseconds, and how often it gave the processor away of its own accord.
fn used_and_slept() -> (u64, u64) {
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/{file}"));
    let (used, status) = (read("schedstat"), read("status"));
    let used = used.expect("Linux").split(' ').next().map(str::parse);
    let status = status.expect("Linux");
    let slept = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .map(|count| count.trim().parse());
    (
        used.expect("nanoseconds").expect("a number"),
        slept.expect("a count").expect("a number"),
    )
}
