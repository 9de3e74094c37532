//! The promises of the quota, shown in simulated time: deterministic, each figure printed (`--nocapture`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use gatepay_tenancy::settings::QuotaShadow;
use proptest::prelude::*;

use super::bands::TokenBands;
use super::core::{Entitlement, FairShare, OwnCallPurpose, QuotaTerms, TokenShortage};

const SECOND: u64 = 1_000_000_000;

fn terms(per_second: u32, burst: u32) -> QuotaTerms {
    QuotaTerms {
        per_second,
        burst,
        reserve: 100_000,
        floor: per_second.div_ceil(10),
        in_flight: None,
        shadow: QuotaShadow::default(),
    }
}

/// A random number generator that is small, fast and the same on every platform (splitmix64).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Between 0 and 1, never 0.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
    fn part(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// A party that asks for tokens.
#[derive(Clone, Copy)]
struct SimulatedParty {
    weight: u32,
    per_second: f64,
    arrivals: ArrivalPattern,
    acts: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum ArrivalPattern {
    Poisson,
    Even,
}

fn poisson(per_second: f64) -> SimulatedParty {
    SimulatedParty {
        weight: 1,
        per_second,
        arrivals: ArrivalPattern::Poisson,
        acts: false,
    }
}

fn even(per_second: f64) -> SimulatedParty {
    SimulatedParty {
        arrivals: ArrivalPattern::Even,
        ..poisson(per_second)
    }
}

/// The result of a simulation for one party.
#[derive(Default, Clone, Copy, Debug)]
struct SimulationResult {
    asked: u32,
    admitted: u32,
    borrowed: u32,
}

impl SimulationResult {
    fn part(&self) -> f64 {
        f64::from(self.admitted) / f64::from(self.asked)
    }
}

/// Lets the parties ask for `seconds`; the first `warm_up` of these are not counted.
fn run(
    core: &mut FairShare,
    askers: &[SimulatedParty],
    warm_up: u64,
    seconds: u64,
    seed: u64,
) -> Vec<SimulationResult> {
    let mut dice = SplitMix(seed);
    let members: Vec<u32> = askers.iter().map(|asker| core.join(asker.weight)).collect();
    let mut pause = |asker: &SimulatedParty| {
        let mean = 1e9 / asker.per_second;
        let time = match asker.arrivals {
            ArrivalPattern::Poisson => -dice.part().ln() * mean,
            ArrivalPattern::Even => mean,
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "nanoseconds of a few seconds"
        )]
        let time = time as u64;
        time.max(1)
    };
    let mut next: BinaryHeap<_> = askers
        .iter()
        .enumerate()
        .map(|(who, asker)| Reverse((SECOND + pause(asker), who)))
        .collect();
    let mut all = vec![SimulationResult::default(); askers.len()];
    while let Some(Reverse((now, who))) = next.pop() {
        if now >= (1 + warm_up + seconds) * SECOND {
            break;
        }
        next.push(Reverse((now + pause(&askers[who]), who)));
        let taken = core.take(members[who], askers[who].acts, now);
        if now >= (1 + warm_up) * SECOND {
            let got = &mut all[who];
            got.asked += 1;
            if let Ok(taken) = taken {
                got.admitted += 1;
                got.borrowed += u32::from(taken.ground == Entitlement::Borrowed);
            }
        }
    }
    all
}

fn sum(all: &[SimulationResult]) -> f64 {
    all.iter().map(|got| f64::from(got.admitted)).sum()
}

#[test]
fn a_flood_takes_only_the_quota_that_other_parties_leave() {
    let mut askers = vec![poisson(0.9 * 5.0); 99];
    askers.push(even(100.0 * 5.0));
    for seed in 1..=5 {
        let mut core = FairShare::new(terms(500, 500), 0);
        let got = run(&mut core, &askers, 0, 120, seed);
        let quota = 500.0 * 120.0;
        let least = got[..99]
            .iter()
            .map(SimulationResult::part)
            .fold(1.0, f64::min);
        let others: f64 = sum(&got[..99]);
        let flooder = f64::from(got[99].admitted);
        let use_ = sum(&got) / quota;
        println!(
            "flood, seed {seed}: the worst of 99 got {:.1} % of what it asked, all 99 {:.2} %; the flooder {:.2} % of the \
             quota, {:.2} % were left; borrowed {:.1} %; in use {:.2} %",
            least * 100.0,
            others
                / got[..99]
                    .iter()
                    .map(|got| f64::from(got.asked))
                    .sum::<f64>()
                * 100.0,
            flooder / quota * 100.0,
            (1.0 - others / quota) * 100.0,
            f64::from(got[99].borrowed) / flooder * 100.0,
            use_ * 100.0,
        );
        assert!(least >= 0.95, "{least}");
        assert!((flooder / quota - (1.0 - others / quota)).abs() <= 0.05);
        assert!(use_ >= 0.98);
    }
}

#[test]
fn under_saturation_shares_are_as_weights() {
    for (reserve, rates) in [
        (100_000, [2_000.0, 2_000.0, 2_000.0]),
        (100_000, [8_000.0, 2_000.0, 1_000.0]),
        (0, [1_000.0, 1_000.0, 10_000.0]),
    ] {
        let weights = [1, 2, 5];
        let askers: Vec<_> = weights
            .iter()
            .zip(rates)
            .map(|(weight, per_second)| SimulatedParty {
                weight: *weight,
                ..poisson(per_second)
            })
            .collect();
        let mut core = FairShare::new(
            QuotaTerms {
                reserve,
                ..terms(500, 500)
            },
            0,
        );
        let got = run(&mut core, &askers, 5, 60, 7);
        let all = sum(&got);
        let parts: Vec<f64> = got
            .iter()
            .map(|got| f64::from(got.admitted) / all)
            .collect();
        println!("weights 1:2:5, asking {rates:?}: parts {parts:.4?} of {all}");
        for (part, weight) in parts.iter().zip(weights) {
            let fair = f64::from(weight) / 8.0;
            assert!((part / fair - 1.0).abs() <= 0.03, "{part} {fair}");
        }
        assert!(all >= 0.98 * 500.0 * 60.0);
    }
}

#[test]
fn a_flood_that_was_alone_makes_room_at_once() {
    let mut core = FairShare::new(terms(500, 500), 0);
    let flooder = core.join(1);
    let flood = |core: &mut FairShare, from: u64, until: u64| {
        // A hundred times the whole quota.
        let times = (from..until).step_by(20_000);
        times
            .filter(|now| core.take(flooder, false, *now).is_ok())
            .count()
    };
    flood(&mut core, SECOND, 31 * SECOND);
    // Now ninety-nine newcomers ask at once, and then again each second.
    let newcomers: Vec<u32> = (0..99).map(|_| core.join(1)).collect();
    let mut refused = 0;
    for second in 31..51_u64 {
        let now = second * SECOND;
        for newcomer in &newcomers {
            refused += u32::from(core.take(*newcomer, false, now).is_err());
        }
        flood(&mut core, now, now + SECOND);
    }
    println!("newcomers to a flood: {refused} of 1980 refused");
    assert!(refused <= 20, "{refused}");
}

#[test]
fn also_with_more_tenants_than_half_the_burst_shares_are_fair_on_average() {
    for (tenants, quota) in [(250, 500), (1_000, 500), (10_000, 5_000)] {
        let share = f64::from(quota) / f64::from(tenants);
        let count = usize::try_from(tenants).unwrap() - 1;
        let mut askers = vec![poisson(0.9 * share); count];
        askers.push(even(100.0 * share));
        let mut core = FairShare::new(terms(quota, quota), 0);
        let got = run(&mut core, &askers, 20, 60, 3);
        let asked: f64 = got[..count].iter().map(|got| f64::from(got.asked)).sum();
        let part = sum(&got[..count]) / asked;
        println!(
            "{tenants} tenants, burst {quota}, one floods: the others got {:.2} % of what they asked; in use {:.2} %",
            part * 100.0,
            sum(&got) / (f64::from(quota) * 60.0) * 100.0
        );
        assert!(part >= 0.95, "{part}");
    }
}

#[test]
fn polling_never_crowds_out_payments() {
    // Fifty tenants poll at fifty times the quota, and pay within the reserve: first each a little, then one tenant
    // all.
    let mut readers = vec![poisson(500.0); 50];
    let pay = |per_second| SimulatedParty {
        acts: true,
        ..poisson(per_second)
    };
    for payers in [vec![pay(0.8); 50], vec![pay(40.0)]] {
        readers.truncate(50);
        readers.extend(&payers);
        let mut core = FairShare::new(terms(500, 500), 0);
        let got = run(&mut core, &readers, 2, 30, 11);
        let paid = sum(&got[50..]);
        let asked: f64 = got[50..].iter().map(|got| f64::from(got.asked)).sum();
        println!(
            "reads at 50 times the quota, {} payers: {paid} of {asked} payments admitted, reads got {:.1} a second",
            payers.len(),
            sum(&got[..50]) / 30.0
        );
        assert!((paid - asked).abs() < 0.5, "{paid} of {asked}");
    }
}

#[test]
fn a_tenants_own_polling_does_not_crowd_out_its_payments() {
    // Another tenant uses up the reserve; this tenant's payments get its share before its reads.
    let mut core = FairShare::new(terms(500, 500), 0);
    let pays_a_lot = SimulatedParty {
        acts: true,
        ..even(5_000.0)
    };
    let askers = [pays_a_lot, even(5_000.0)];
    let own = core.join(1);
    let polling = core.clone();
    drop(polling);
    let members: Vec<u32> = askers.iter().map(|asker| core.join(asker.weight)).collect();
    let (mut paid, mut asked) = (0, 0);
    for step in 0..200_000_u64 {
        let now = SECOND + step * 100_000;
        let _ = core.take(members[0], true, now);
        let _ = core.take(members[1], false, now);
        let _ = core.take(own, false, now);
        // A hundred payments a second, of a share of a hundred and fifty.
        if step % 100 == 0 && step >= 50_000 {
            asked += 1;
            paid += u32::from(core.take(own, true, now).is_ok());
        }
    }
    println!("own polling and another's payments: {paid} of {asked} payments admitted");
    assert_eq!(paid, asked);
}

#[test]
fn a_retry_after_the_told_time_is_admitted_if_no_other_party_came() {
    // A single party waits as it is told, in whole seconds and rounded up.
    for (per_second, burst) in [(1, 1), (1, 5), (3, 2), (7, 40), (500, 500)] {
        for acts in [false, true] {
            let mut core = FairShare::new(terms(per_second, burst), 0);
            let member = core.join(1);
            let (mut now, mut refused_last, mut admitted) = (SECOND, false, 0);
            for _ in 0..3_000 {
                match core.take(member, acts, now) {
                    Ok(_) => (refused_last, admitted) = (false, admitted + 1),
                    Err(TokenShortage::Rate(wait)) => {
                        assert!(
                            !refused_last,
                            "{per_second}/s, burst {burst}: refused twice"
                        );
                        refused_last = true;
                        now += wait.div_ceil(SECOND).max(1) * SECOND;
                    }
                    Err(TokenShortage::Places) => panic!("there is no limit on places"),
                }
            }
            assert!(admitted >= 1_500);
        }
    }
}

#[test]
fn a_rate_that_was_pushed_down_stays_above_its_floor_and_grows_back_slowly() {
    let mut core = FairShare::new(terms(500, 500), 0);
    let mut rates = Vec::new();
    for ms in (0..3_000_u64).step_by(10) {
        // Many push-backs within a second count as one.
        core.pushed_back(None, SECOND + ms * 1_000_000);
        rates.push(core.rate().per_second.get());
    }
    rates.dedup();
    assert_eq!(rates, [350, 245, 171]);
    for second in 0..20 {
        core.pushed_back(None, (5 + second) * SECOND);
    }
    assert_eq!(core.rate().per_second.get(), 50);
    let mut at = |second: u64| core.view(second * SECOND).in_force;
    // Five seconds without a push-back, then a hundredth of the full rate each second.
    let grown: Vec<u32> = [24, 28, 29, 30, 39, 119, 500].map(&mut at).into();
    println!("after the last push back at 24 s: {grown:?} at 24, 28, 29, 30, 39, 119 and 500 s");
    assert_eq!(grown, [50, 50, 55, 60, 105, 500, 500]);
}

#[test]
fn a_push_back_on_a_party_lowers_its_rate_and_one_on_the_proxys_own_call_lowers_all_rates() {
    let mut core = FairShare::new(terms(500, 500), 0);
    let (one, other) = (core.join(1), core.join(1));
    for second in 1..100 {
        core.hear(Some(one), Some(SECOND), second * SECOND);
    }
    assert_eq!(core.rate().per_second.get(), 500);
    core.hear(Some(other), None, 105 * SECOND);
    assert_eq!(core.rate().per_second.get(), 350);
    let mut core = FairShare::new(terms(500, 500), 0);
    core.hear(None, None, SECOND);
    assert_eq!(core.rate().per_second.get(), 350);
}

#[test]
fn a_push_back_lasts_for_the_retry_after_that_gatepay_states() {
    let mut core = FairShare::new(terms(500, 500), 0);
    core.pushed_back(Some(20 * SECOND), SECOND);
    assert_eq!(core.view(2 * SECOND).in_force, 50);
    assert_eq!(core.view(20 * SECOND).in_force, 50);
    assert_eq!(core.view(22 * SECOND).in_force, 60);
    // An excessive `Retry-After` of GatePay's does not stop payments for a day.
    core.pushed_back(Some(86_400 * SECOND), 30 * SECOND);
    assert_eq!(core.view(89 * SECOND).in_force, 50);
    assert!(core.view(95 * SECOND).in_force > 50);
}

#[test]
fn look_ups_have_the_last_tokens() {
    let mut core = FairShare::new(terms(100, 100), 0);
    let members: Vec<u32> = (0..20).map(|_| core.join(1)).collect();
    let now = SECOND;
    let take = |core: &mut FairShare, acts| {
        let all = (0..2_000).map(|number| members[number % members.len()]);
        all.filter(|member| core.take(*member, acts, now).is_ok())
            .count()
    };
    let reads = take(&mut core, false);
    assert!(core.take_for(OwnCallPurpose::Repeat, now).is_err());
    let payments = take(&mut core, true);
    assert!(core.take_for(OwnCallPurpose::Probe, now).is_err());
    let look_ups = (0..500)
        .filter(|_| core.take_for(OwnCallPurpose::LookUp, now).is_ok())
        .count();
    println!(
        "of a burst of 100, at once: {reads} reads, then {payments} payments, then {look_ups} look-ups"
    );
    assert_eq!((reads, payments, look_ups), (82, 15, 3));
    assert_eq!(core.view(now).left, 0);
}

#[test]
fn places_in_flight_are_shared_too() {
    let in_flight = QuotaTerms {
        in_flight: Some(100),
        ..terms(100_000, 100_000)
    };
    let mut core = FairShare::new(in_flight, 0);
    let (greedy, modest) = (core.join(1), core.join(1));
    let fill = |core: &mut FairShare, member, acts| {
        let mut taken = Vec::new();
        while let Ok(it) = core.take(member, acts, SECOND) {
            taken.push(it);
        }
        taken
    };
    // Alone, a party may take all slots but the reserve.
    let mut held = fill(&mut core, greedy, false);
    assert_eq!(held.len(), 90);
    // Payments still find slots.
    let paying = fill(&mut core, modest, true);
    assert_eq!(paying.len(), 10);
    for taken in paying {
        core.vacate(modest, taken.seated);
    }
    // Freed slots go to the party below its share.
    let mut got = 0;
    for _ in 0..40 {
        core.vacate(greedy, held.pop().unwrap().seated);
        got += u32::from(core.take(modest, false, SECOND).is_ok());
        assert_eq!(
            core.take(greedy, false, SECOND).err(),
            Some(TokenShortage::Places)
        );
    }
    println!("places: of 40 of 90 that one held and that became free, the other got {got}");
    assert_eq!(got, 40);
    for taken in held {
        core.vacate(greedy, taken.seated);
    }
    assert_eq!(core.view(SECOND).in_flight, got);
}

#[test]
fn shadow_limits_of_the_quota_admit_all_requests_but_the_rate_is_enforced() {
    let shadow = QuotaShadow {
        shares: true,
        in_flight: true,
        rate: false,
    };
    let unshared = QuotaTerms {
        shadow,
        in_flight: Some(3),
        ..terms(1, 10)
    };
    let mut core = FairShare::new(unshared, 0);
    let member = core.join(1);
    let taken: Vec<_> = (0..12).map(|_| core.take(member, false, SECOND)).collect();
    let admitted: Vec<_> = taken.iter().flatten().collect();
    assert_eq!(admitted.len(), 10);
    assert!(
        admitted
            .iter()
            .any(|taken| taken.ground == Entitlement::Shadow)
    );
    assert!(admitted[9].crowded && !admitted[0].crowded);
    assert_eq!(taken[11].err(), Some(TokenShortage::Rate(SECOND)));

    let at_own_risk = QuotaShadow {
        rate: true,
        ..shadow
    };
    core.adjust(
        QuotaTerms {
            shadow: at_own_risk,
            ..unshared
        },
        SECOND,
    );
    assert!((0..100).all(|_| core.take(member, false, SECOND).is_ok()));
}

/// An event in the life of the quota.
#[derive(Debug, Clone)]
enum QuotaEvent {
    Pause(u64),
    Take {
        who: usize,
        acts: bool,
    },
    /// A token that is given back after as many further events.
    TakeFor {
        who: usize,
        events: usize,
    },
    Own(OwnCallPurpose),
    PushBack(Option<u64>),
    /// A reload, to one of three sets of terms.
    Adjust(usize),
    Reweigh {
        who: usize,
        weight: u32,
    },
    /// A member that goes, and another that comes.
    Replace(usize),
}

fn event() -> impl Strategy<Value = QuotaEvent> {
    let purpose = prop::sample::select(OwnCallPurpose::ALL.as_slice());
    prop_oneof![
        6 => (0..400_000_000_u64).prop_map(QuotaEvent::Pause),
        1 => (0..30 * SECOND).prop_map(QuotaEvent::Pause),
        20 => (0..6_usize, any::<bool>()).prop_map(|(who, acts)| QuotaEvent::Take { who, acts }),
        4 => (0..6_usize, 0..8_usize).prop_map(|(who, events)| QuotaEvent::TakeFor { who, events }),
        2 => purpose.prop_map(QuotaEvent::Own),
        1 => prop::option::of(0..100 * SECOND).prop_map(QuotaEvent::PushBack),
        1 => (0..3_usize).prop_map(QuotaEvent::Adjust),
        1 => (0..6_usize, 1..100_u32).prop_map(|(who, weight)| QuotaEvent::Reweigh { who, weight }),
        1 => (0..6_usize).prop_map(QuotaEvent::Replace),
    ]
}

proptest! {
    /// The law of the quota, for any calls, reloads, tokens given back and push-backs: in every window, at most the
    /// inflow at the configured rates of that time and the largest burst are sent. And a party that is told to wait is
    /// admitted after that wait, if nothing else happens.
    #[test]
    fn never_more_than_rate_times_time_and_burst(
        all in prop::array::uniform3((1..300_u32, 1..80_u32, 0..=500_000_u32)),
        events in prop::collection::vec(event(), 1..400),
    ) {
        let all = all.map(|(per_second, burst, reserve)| QuotaTerms { reserve, ..terms(per_second, burst) });
        let mut current = all[0];
        let mut core = FairShare::new(current, 0);
        let mut members: Vec<u32> = (1..7).map(|weight| core.join(weight)).collect();
        let mut now = SECOND;
        let mut held = Vec::new();
        let mut flowed = 0.0;
        let mut sent: Vec<f64> = Vec::new();
        for (number, event) in events.into_iter().enumerate() {
            match event {
                QuotaEvent::Pause(time) => {
                    now += time;
                    flowed += std::time::Duration::from_nanos(time).as_secs_f64() * f64::from(current.per_second);
                }
                QuotaEvent::Take { who, acts } => match core.take(members[who], acts, now) {
                    Ok(_) => sent.push(flowed),
                    Err(TokenShortage::Rate(wait)) => {
                        let mut later = core.clone();
                        prop_assert!(later.take(members[who], acts, now + wait).is_ok(), "after {wait} ns");
                        let mut later = core.clone();
                        let seconds = wait.div_ceil(SECOND).max(1) * SECOND;
                        prop_assert!(later.take(members[who], acts, now + seconds).is_ok(), "after {wait} ns");
                    }
                    Err(TokenShortage::Places) => unreachable!("there is no limit on places"),
                },
                QuotaEvent::TakeFor { who, events } => if let Ok(taken) = core.take(members[who], false, now) {
                    held.push((number + events, members[who], taken));
                },
                QuotaEvent::Own(purpose) => if core.take_for(purpose, now).is_ok() {
                    sent.push(flowed);
                },
                QuotaEvent::PushBack(after) => core.pushed_back(after, now),
                QuotaEvent::Adjust(to) => {
                    current = all[to];
                    core.adjust(current, now);
                }
                QuotaEvent::Reweigh { who, weight } => core.reweigh(members[who], weight),
                QuotaEvent::Replace(who) => if held.iter().all(|(_, member, _)| *member != members[who]) {
                    core.leave(members[who]);
                    members[who] = core.join(1);
                },
            }
            held.retain(|(until, member, taken)| {
                if *until <= number {
                    core.give_back(*member, *taken, now);
                }
                *until > number
            });
        }
        let burst = all.iter().map(|terms| terms.burst).max().unwrap();
        for (first, from) in sent.iter().enumerate() {
            for (count, to) in (1_u32..).zip(&sent[first..]) {
                prop_assert!(f64::from(count) <= to - from + f64::from(burst) + 1e-6);
            }
        }
    }

    /// The hard promise: a party that asks no more than the inflow of its share, and at once half its part of the band
    /// kept for that, is never refused. This holds under any load of others, while the set of active parties is the
    /// same. Others flood, pay and pause.
    #[test]
    fn a_party_within_its_share_is_never_refused(
        weights in prop::collection::vec(1..8_u32, 1..8),
        weight in 1..8_u32,
        reserve in 0..=300_000_u32,
        (per_second, burst) in (10..2_000_u32, 500..2_000_u32),
        others in prop::collection::vec((0..8_usize, any::<bool>(), 1..200_usize, 0..20_000_000_u64), 1..400),
    ) {
        let terms = QuotaTerms { reserve, ..terms(per_second, burst) };
        let mut core = FairShare::new(terms, 0);
        let members: Vec<u32> = weights.iter().map(|weight| core.join(*weight)).collect();
        let own = core.join(weight);
        let part = f64::from(weight) / f64::from(weight + weights.iter().sum::<u32>());
        let flow = part * f64::from(per_second) * (1.0 - f64::from(reserve) / 1e6);
        let depth = (f64::from(TokenBands::of(burst, reserve).smooth()) / 2.0 * part * 7.0 / 8.0).max(1.0);
        let (mut now, mut left, mut asked) = (SECOND, depth, 0_u32);
        for member in members.iter().chain([&own]) {
            prop_assert!(core.take(*member, false, now).is_ok());
        }
        for (who, acts, times, pause) in others {
            for _ in 0..times {
                let _ = core.take(members[who % members.len()], acts, now);
            }
            // The party's own calls, up to its limit.
            while left >= 1.0 {
                left -= 1.0;
                asked += 1;
                prop_assert!(core.take(own, false, now).is_ok(), "its number {asked}");
            }
            now += pause;
            left = (left + flow * std::time::Duration::from_nanos(pause).as_secs_f64() - 1e-9).min(depth);
        }
    }

    /// A time that is read before another call takes the lock, and used after it, counts as that call's time.
    #[test]
    fn a_time_that_lies_before_the_last_one_counts_as_the_last_one(
        events in prop::collection::vec(
            (0..3_usize, 0..6_u8, 0..3_000_000_000_u64, 0..15_000_000_000_u64), 1..100,
        ),
    ) {
        let mut core = FairShare::new(terms(20, 10), 0);
        let members = [1, 2, 3].map(|weight| core.join(weight));
        let mut exact = core.clone();
        let mut now = 0;
        for (who, what, pause, back) in events {
            now += pause;
            prop_assert_eq!(core.view(now), exact.view(now));
            let late = now.saturating_sub(back);
            let member = members[who];
            match what {
                0 => {
                    core.hear(Some(member), None, late);
                    exact.hear(Some(member), None, now);
                }
                1 => prop_assert_eq!(
                    core.take_for(OwnCallPurpose::Probe, late), exact.take_for(OwnCallPurpose::Probe, now)
                ),
                2 => prop_assert_eq!(core.wait(member, true, late), exact.wait(member, true, now)),
                _ => prop_assert_eq!(
                    core.take(member, false, late).err(), exact.take(member, false, now).err()
                ),
            }
            prop_assert_eq!(core.view_of(member, late), exact.view_of(member, now));
            prop_assert_eq!(core.view(late), exact.view(now));
        }
    }

    /// Write and money calls within the reserve are all admitted, under any load of reads and of other parties.
    #[test]
    fn payments_within_the_reserve_are_all_admitted(
        (per_second, burst) in (10..2_000_u32, 50..2_000_u32),
        reserve in 50_000..=500_000_u32,
        events in prop::collection::vec((0..6_usize, 1..300_usize, 0..50_000_000_u64), 1..300),
    ) {
        let mut core = FairShare::new(QuotaTerms { reserve, ..terms(per_second, burst) }, 0);
        let members: Vec<u32> = (0..6).map(|_| core.join(1)).collect();
        let flow = f64::from(per_second) * f64::from(reserve) / 1e6;
        let depth = f64::from(TokenBands::of(burst, reserve).reserve());
        let (mut now, mut left) = (SECOND, depth);
        for (who, times, pause) in events {
            for _ in 0..times {
                let _ = core.take(members[who], false, now);
            }
            while left >= 1.0 {
                left -= 1.0;
                prop_assert!(core.take(members[0], true, now).is_ok());
            }
            now += pause;
            // The rounding loss of the inflow is less than this.
            left = (left + flow * std::time::Duration::from_nanos(pause).as_secs_f64() - 1e-6).min(depth);
        }
    }
}
