//! Deliveries on a paused clock: no socket, no waiting.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::delivery_schedule::{DeliveryOutcome, TO_TENANTS};
use gatepay_store::notifications::delivery::{DueEvent, EndpointKey, EndpointOffReason, UrlPrint};
use gatepay_store::notifications::event::{EventId, EventState};
use gatepay_tenancy::notifications::NotificationSettings;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::attempt::{AttemptResult, AttemptWord};
use super::delivery_loop::{CLAIM_INTERVAL, DeliveryInputs, DeliveryLimits, DeliveryLoop};
use super::delivery_store::DeliveryStore as _;
use super::delivery_wake::DeliveryWake;
use super::meters::DeliveryMeters;
use super::target::{AttemptFuture, DeliveryHold, DeliveryTarget, TargetDirectory};
use crate::notify::operator_news;
use crate::prom::registrar::Registrar;
use fake_store::{FakeStore, START, after, key};

mod fake_store;
pub(crate) mod tenant_deliveries;

/// What an endpoint does with each attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndpointManner {
    /// It acknowledges after this time.
    Acknowledges(Duration),
    /// It never answers.
    Hangs,
    /// It answers with this status at once.
    Answers(u16),
    /// It answers 503, and asks for this delay.
    AsksFor(Duration),
    /// It resets the connection.
    Resets,
    /// The attempt panics.
    Panics,
    /// The tenant is on hold.
    Hold(DeliveryHold),
}

use EndpointManner::{Acknowledges, Answers, AsksFor, Hangs, Hold, Panics, Resets};

const QUICK: EndpointManner = Acknowledges(Duration::from_millis(20));

/// An attempt as the endpoint saw it.
#[derive(Debug, Clone)]
struct SeenAttempt {
    tenant: String,
    event: EventId,
    line: i64,
    began: Instant,
    ended: Option<Instant>,
    url: i64,
}

/// The endpoints of a test.
#[derive(Default)]
struct FakeDirectory {
    manners: RefCell<BTreeMap<String, EndpointManner>>,
    urls: RefCell<BTreeMap<String, i64>>,
    seen: Rc<RefCell<Vec<SeenAttempt>>>,
}

struct FakeTarget {
    tenant: String,
    manner: EndpointManner,
    url: i64,
    seen: Rc<RefCell<Vec<SeenAttempt>>>,
}

impl FakeDirectory {
    fn set(&self, tenant: &str, manner: EndpointManner) {
        self.manners.borrow_mut().insert(tenant.to_owned(), manner);
    }

    fn seen(&self, tenant: &str) -> Vec<SeenAttempt> {
        let seen = self.seen.borrow();
        let of = seen.iter().filter(|seen| seen.tenant == tenant);
        of.cloned().collect()
    }

    /// The largest number of attempts of a tenant at the same time.
    fn most_at_once(&self, tenant: Option<&str>) -> usize {
        let seen = self.seen.borrow();
        let of = |one: &&SeenAttempt| tenant.is_none_or(|tenant| one.tenant == tenant);
        let begins = seen.iter().filter(of).map(|one| (one.began, 1));
        let ends = seen
            .iter()
            .filter(of)
            .filter_map(|one| Some((one.ended?, -1)));
        let mut changes: Vec<(Instant, i32)> = begins.chain(ends).collect();
        changes.sort();
        let counts = changes.iter().scan(0, |count, change| {
            *count += change.1;
            Some(*count)
        });
        usize::try_from(counts.max().unwrap_or(0)).unwrap()
    }
}

impl TargetDirectory for FakeDirectory {
    fn target(&self, endpoint: &EndpointKey) -> Result<Rc<dyn DeliveryTarget>, DeliveryHold> {
        let tenant = &endpoint.tenant.tenant;
        let manner = self.manners.borrow().get(tenant).copied();
        match manner.unwrap_or(QUICK) {
            Hold(hold) => Err(hold),
            manner => Ok(Rc::new(FakeTarget {
                tenant: tenant.clone(),
                manner,
                url: self.urls.borrow().get(tenant).copied().unwrap_or(0),
                seen: Rc::clone(&self.seen),
            })),
        }
    }

    fn own_series(&self) -> BTreeSet<String> {
        self.manners.borrow().keys().cloned().collect()
    }

    fn tidy(&self) {}
}

impl DeliveryTarget for FakeTarget {
    fn url_print(&self) -> UrlPrint {
        UrlPrint(self.url)
    }

    fn at_once(&self) -> usize {
        4
    }

    fn attempt<'a>(&'a self, event: &'a DueEvent, deadline: Instant) -> AttemptFuture<'a> {
        let index = self.seen.borrow().len();
        self.seen.borrow_mut().push(SeenAttempt {
            tenant: self.tenant.clone(),
            event: event.id,
            line: event.line,
            began: Instant::now(),
            ended: None,
            url: self.url,
        });
        Box::pin(async move {
            let failed = DeliveryOutcome::NO_ANSWER;
            let (outcome, word) = match self.manner {
                Acknowledges(time) => {
                    sleep(time).await;
                    (DeliveryOutcome::Acknowledged, AttemptWord::Acknowledged)
                }
                Hangs => {
                    sleep_until(deadline).await;
                    (failed, AttemptWord::Late)
                }
                Panics => panic!("a test's own"),
                Answers(410) => (DeliveryOutcome::Gone, AttemptWord::Gone),
                AsksFor(delay) => {
                    let retry_after = Some(delay);
                    (
                        DeliveryOutcome::Failed { retry_after },
                        AttemptWord::RefusedStatus,
                    )
                }
                Answers(_) => (failed, AttemptWord::RefusedStatus),
                Resets | Hold(_) => (failed, AttemptWord::NoAnswer),
            };
            self.seen.borrow_mut()[index].ended = Some(Instant::now());
            AttemptResult {
                outcome,
                word,
                status: None,
                said: Vec::new(),
                error: None,
            }
        })
    }
}

/// One instance that delivers.
struct Instance {
    task: JoinHandle<()>,
    stop: watch::Sender<Option<Instant>>,
    wake: DeliveryWake,
    registry: Registry,
    meters: DeliveryMeters,
}

const LIMITS: DeliveryLimits = DeliveryLimits {
    attempts_at_once: 256,
    deadline: Duration::from_secs(15),
    claim_interval: CLAIM_INTERVAL,
};
const FEW: DeliveryLimits = DeliveryLimits {
    attempts_at_once: 20,
    ..LIMITS
};

fn start(store: &FakeStore, directory: &Rc<FakeDirectory>, limits: DeliveryLimits) -> Instance {
    let (stop, stopped) = watch::channel(None);
    let (wake, registry) = (DeliveryWake::default(), Registry::new());
    let meters = DeliveryMeters::new(&Registrar::new(&registry));
    let inputs = DeliveryInputs {
        store: Rc::new(store.clone()),
        directory: Rc::clone(directory) as Rc<dyn TargetDirectory>,
        limits,
        meters: meters.clone(),
        wake: wake.clone(),
        operators: operator_news::queue(&Arc::default(), &wake).0,
        stop: stopped,
    };
    Instance {
        task: spawn_local(DeliveryLoop::new(inputs).run()),
        stop,
        wake,
        registry,
        meters,
    }
}

async fn in_world<T>(test: impl AsyncFnOnce(FakeStore, Rc<FakeDirectory>) -> T) -> T {
    let (store, directory) = (FakeStore::new(), Rc::<FakeDirectory>::default());
    LocalSet::new().run_until(test(store, directory)).await
}

fn arrive_many(store: &FakeStore, tenant: &str, count: usize) {
    for _ in 0..count {
        store.arrive(tenant);
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_notification_is_delivered_at_once_and_once() {
    in_world(async |store, directory| {
        let instance = start(&store, &directory, LIMITS);
        sleep(seconds(1)).await;
        store.arrive("acme");
        let stored = Instant::now();
        instance.wake.wake();
        sleep(seconds(60)).await;
        let seen = directory.seen("acme");
        assert_eq!(
            (seen.len(), store.count("acme", EventState::Delivered)),
            (1, 1)
        );
        assert!(seen[0].began - stored < Duration::from_millis(20));
        assert_eq!(store.claimed_by("acme"), None, "the claim is given up");
        store.arrive("acme");
        sleep(seconds(1)).await;
        assert_eq!(
            directory.seen("acme").len(),
            2,
            "it is found without being woken"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_notification_is_dead_after_three_days_and_is_delivered_once_it_is_replayed() {
    in_world(async |store, directory| {
        directory.set("acme", Answers(500));
        let slow = DeliveryLimits {
            claim_interval: seconds(5),
            ..LIMITS
        };
        let instance = start(&store, &directory, slow);
        store.arrive("acme");
        let began = Instant::now();
        sleep(Duration::from_hours(81)).await;
        let seen = directory.seen("acme");
        assert_eq!(
            seen.len(),
            usize::try_from(TO_TENANTS.repetitions()).unwrap() + 1
        );
        for (attempt, two) in (1..).zip(seen.windows(2)) {
            let delay = two[1].began - two[0].began;
            let planned = TO_TENANTS.delay(attempt).unwrap();
            // A pause of the breaker ends within 15 min, and a claim comes within 5 s.
            let latest = (planned * 11 / 10).max(seconds(900)) + seconds(6);
            assert!(
                delay >= planned * 9 / 10 && delay <= latest,
                "{attempt}: {delay:?}"
            );
        }
        let last = seen.last().unwrap().began - began;
        assert!(
            last > Duration::from_hours(64) && last < Duration::from_hours(80),
            "{last:?}"
        );
        assert_eq!(store.count("acme", EventState::Dead), 1);
        directory.set("acme", QUICK);
        store.replay("acme");
        sleep(seconds(1_000)).await;
        assert_eq!(store.count("acme", EventState::Delivered), 1);
        let ids: BTreeSet<_> = directory
            .seen("acme")
            .iter()
            .map(|seen| seen.event)
            .collect();
        assert_eq!(ids.len(), 1, "each attempt has the same id");
        let metrics = prometheus::TextEncoder::new();
        let metrics = metrics
            .encode_to_string(&instance.registry.gather())
            .unwrap();
        for line in [
            "gatepay_proxy_deliveries_total{result=\"failed\",tenant=\"acme\"} 19",
            "gatepay_proxy_deliveries_total{result=\"dead\",tenant=\"acme\"} 1",
            "gatepay_proxy_deliveries_total{result=\"delivered\",tenant=\"acme\"} 1",
            "gatepay_proxy_notifications_dead{tenant=\"acme\"} 0",
            "gatepay_proxy_delivery_breaker{tenant=\"acme\"} 0",
            "gatepay_proxy_delivery_lag_seconds{tenant=\"acme\"} 0",
        ] {
            assert!(metrics.contains(line), "{line}\n{metrics}");
        }
    })
    .await;
}

/// The times from arrival to acknowledgment of 300 notifications to each of five well tenants, beside others.
async fn delays_beside(others: &[(&str, EndpointManner)]) -> Vec<Vec<Duration>> {
    in_world(async |store, directory| {
        for (tenant, manner) in others {
            directory.set(tenant, *manner);
        }
        let instance = start(&store, &directory, LIMITS);
        let well = ["a", "b", "c", "d", "e"];
        let mut arrived = BTreeMap::new();
        for _ in 0..300 {
            for tenant in well {
                arrived.insert(store.arrive(tenant), Instant::now());
            }
            for (tenant, _) in others {
                // 200 a second.
                store.arrive(tenant);
                store.arrive(tenant);
            }
            instance.wake.wake();
            sleep(Duration::from_millis(10)).await;
        }
        sleep(seconds(5)).await;
        let delays = well.map(|tenant| {
            let seen = directory.seen(tenant);
            assert_eq!(seen.len(), 300, "{tenant}");
            let delay = |seen: &SeenAttempt| seen.ended.unwrap() - arrived[&seen.event];
            seen.iter().map(delay).collect()
        });
        for (tenant, _) in others {
            assert!(directory.most_at_once(Some(tenant)) <= 4, "{tenant}");
        }
        delays.to_vec()
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn tenants_that_hang_refuse_and_reset_delay_no_other_tenant() {
    let alone = delays_beside(&[]).await;
    let beside = [
        ("hanging", Hangs),
        ("refusing", Answers(500)),
        ("resetting", Resets),
    ];
    let beside = delays_beside(&beside).await;
    let worst = |delays: &[Vec<Duration>]| delays.iter().flatten().max().copied().unwrap();
    assert_eq!(worst(&beside), worst(&alone));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_gets_its_number_at_once_and_at_most_a_tenth_of_all() {
    in_world(async |store, directory| {
        for number in 0..30 {
            let tenant = format!("tenant-{number}");
            directory.set(&tenant, Hangs);
            arrive_many(&store, &tenant, 20);
        }
        let _instance = start(&store, &directory, FEW);
        sleep(seconds(100)).await;
        assert_eq!(directory.most_at_once(None), 20);
        for number in 0..30 {
            let tenant = format!("tenant-{number}");
            assert!(directory.most_at_once(Some(&tenant)) <= 2, "a tenth of 20");
            assert!(!directory.seen(&tenant).is_empty(), "{tenant} has its turn");
        }
    })
    .await;
}

/// A tenant has 20 events for each of 16 endpoints, which never answer.
fn sixteen_endpoints_hang(store: &FakeStore, directory: &FakeDirectory) {
    directory.set("hostile", Hangs);
    for endpoint in 0..16 {
        arrive_many(store, &format!("hostile#{endpoint}"), 20);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenants_many_endpoints_together_take_a_tenth_and_delay_no_other_tenant() {
    in_world(async |store, directory| {
        sixteen_endpoints_hang(&store, &directory);
        let _instance = start(&store, &directory, FEW);
        sleep(seconds(5)).await;
        for _ in 0..20 {
            let (id, arrived) = (store.arrive("well"), Instant::now());
            sleep(seconds(1)).await;
            let seen = directory.seen("well");
            let ended = seen.iter().find(|seen| seen.event == id);
            let ended = ended.and_then(|seen| seen.ended);
            assert!(ended.is_some_and(|ended| ended - arrived < seconds(1)));
        }
        assert_eq!(directory.most_at_once(Some("hostile")), 2, "a tenth of 20");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_tenant_whose_endpoints_hang_goes_to_one_object_after_another() {
    in_world(async |store, directory| {
        sixteen_endpoints_hang(&store, &directory);
        let _instance = start(&store, &directory, FEW);
        // Two attempts at a time, each of 15 s.
        sleep(seconds(16 * 15)).await;
        let lines: BTreeSet<i64> = directory.seen("hostile").iter().map(|it| it.line).collect();
        assert!(lines.len() >= 30, "{}", lines.len());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_panics_is_a_failed_one_and_its_line_goes_on() {
    in_world(async |store, directory| {
        directory.set("acme", Panics);
        let _instance = start(&store, &directory, LIMITS);
        store.arrive("acme");
        sleep(seconds(5)).await;
        assert_eq!(directory.seen("acme").len(), 1);
        assert_eq!(store.rows.records.borrow()[0].outcome, "own_fault");
        directory.set("acme", QUICK);
        sleep(seconds(20)).await;
        assert_eq!(store.count("acme", EventState::Delivered), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_bodies_of_attempts_under_way_are_bounded_by_their_bytes() {
    in_world(async |mut store, directory| {
        store.body = vec![b'x'; 1 << 20].leak();
        for number in 0..80 {
            let tenant = format!("tenant-{number}");
            directory.set(&tenant, Hangs);
            store.arrive(&tenant);
        }
        let _instance = start(&store, &directory, LIMITS);
        sleep(seconds(100)).await;
        assert_eq!(directory.most_at_once(None), 64);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn of_a_line_one_notification_is_under_way_at_a_time_in_its_order() {
    in_world(async |store, directory| {
        directory.set("acme", Acknowledges(seconds(2)));
        let instance = start(&store, &directory, LIMITS);
        let events: Vec<_> = (0..5).map(|_| store.arrive_in("acme", 7)).collect();
        instance.wake.wake();
        sleep(seconds(60)).await;
        let seen = directory.seen("acme");
        assert_eq!(
            seen.iter().map(|seen| seen.event).collect::<Vec<_>>(),
            events
        );
        assert!(seen.iter().all(|seen| seen.line == 7));
        assert_eq!(directory.most_at_once(Some("acme")), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_costs_a_probe_after_each_pause_and_gets_all_when_it_is_back() {
    in_world(async |store, directory| {
        directory.set("acme", Resets);
        arrive_many(&store, "acme", 200);
        let instance = start(&store, &directory, LIMITS);
        sleep(seconds(60)).await;
        let before = directory.seen("acme").len();
        sleep(Duration::from_hours(2)).await;
        let probes = directory.seen("acme").len() - before;
        assert!((9..=13).contains(&probes), "{probes}");
        let text = prometheus::TextEncoder::new();
        let text = text.encode_to_string(&instance.registry.gather()).unwrap();
        assert!(
            text.contains("gatepay_proxy_delivery_breaker{tenant=\"acme\"} 1"),
            "{text}"
        );
        directory.set("acme", QUICK);
        sleep(seconds(901)).await;
        assert_eq!(store.count("acme", EventState::Delivered), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_an_open_breaker_keeps_from_being_sent_is_dead_after_eighty_hours_until_it_is_replayed()
 {
    in_world(async |store, directory| {
        directory.set("acme", Answers(500));
        let _instance = start(&store, &directory, LIMITS);
        arrive_many(&store, "acme", 10);
        sleep(seconds(60)).await;
        // The breaker is open: a probe after each pause is all that it allows, and most are never tried.
        arrive_many(&store, "acme", 690);
        sleep(Duration::from_hours(10)).await;
        arrive_many(&store, "acme", 300);
        sleep(Duration::from_hours(69)).await;
        let tried = || {
            let seen = directory.seen("acme");
            seen.iter()
                .map(|it| it.event)
                .collect::<BTreeSet<_>>()
                .len()
        };
        assert!(tried() < 400, "{}", tried());
        // The longest pause of the breaker is 15 min.
        sleep(Duration::from_hours(1) + seconds(910)).await;
        let dead = store.count("acme", EventState::Dead);
        assert!(dead + tried() >= 700, "{dead} and {}", tried());
        // One that was tried counts from its next attempt.
        sleep(Duration::from_hours(80)).await;
        assert_eq!(store.count("acme", EventState::Dead), 1_000);
        assert!(directory.seen("acme").len() < 700, "no more than probes");
        directory.set("acme", QUICK);
        store.replay("acme");
        sleep(seconds(1_000)).await;
        assert_eq!(store.count("acme", EventState::Delivered), 1_000);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_while_everything_was_down_is_tried_before_any_is_dead() {
    in_world(async |store, directory| {
        directory.set("acme", Answers(500));
        let first = start(&store, &directory, LIMITS);
        arrive_many(&store, "acme", 100);
        sleep(Duration::from_hours(1)).await;
        first.stop.send_replace(Some(Instant::now() + seconds(5)));
        first.task.await.unwrap();
        sleep(Duration::from_hours(90)).await;
        directory.set("acme", QUICK);
        let _second = start(&store.of_instance(2), &directory, LIMITS);
        sleep(seconds(60)).await;
        assert_eq!(store.count("acme", EventState::Dead), 0);
        assert_eq!(store.count("acme", EventState::Delivered), 100);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_that_was_off_has_waited_before_counts_for_nothing() {
    in_world(async |store, directory| {
        directory.set("acme", Hold(DeliveryHold::Suspended));
        let _instance = start(&store, &directory, LIMITS);
        arrive_many(&store, "acme", 100);
        sleep(Duration::from_hours(96)).await;
        directory.set("acme", Answers(503));
        sleep(Duration::from_hours(2)).await;
        assert_eq!(store.count("acme", EventState::Dead), 0);
        directory.set("acme", QUICK);
        sleep(Duration::from_hours(2)).await;
        assert_eq!(store.count("acme", EventState::Delivered), 100);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_a_crash_and_not_recorded_is_sent_again_with_the_same_id() {
    in_world(async |store, directory| {
        store.rows.record_hangs.set(true);
        let first = start(&store, &directory, LIMITS);
        let event = store.arrive("acme");
        sleep(seconds(5)).await;
        assert_eq!(directory.seen("acme").len(), 1);
        // The process ends without a word.
        first.task.abort();
        store.rows.record_hangs.set(false);
        let crashed = Instant::now();
        let _second = start(&store.of_instance(2), &directory, LIMITS);
        sleep(seconds(60)).await;
        let seen = directory.seen("acme");
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|seen| seen.event == event));
        assert!(seen[1].began - crashed <= seconds(35));
        assert_eq!(store.count("acme", EventState::Delivered), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn two_instances_never_send_one_notification_at_the_same_time() {
    in_world(async |store, directory| {
        directory.set("acme", Hangs);
        let _both = [1, 2].map(|id| start(&store.of_instance(id), &directory, LIMITS));
        let line = store.arrive("acme");
        arrive_many(&store, "acme", 50);
        sleep(seconds(300)).await;
        let seen = directory.seen("acme");
        assert!(directory.most_at_once(Some("acme")) <= 4);
        let of_line: Vec<_> = seen.iter().filter(|seen| seen.event == line).collect();
        assert!(
            of_line
                .windows(2)
                .all(|two| two[0].ended.unwrap() <= two[1].began)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_news_of_a_tenant_on_hold_waits() {
    let holds = [
        (DeliveryHold::Suspended, EndpointOffReason::Suspended),
        (DeliveryHold::NoCredential, EndpointOffReason::NoCredential),
        (DeliveryHold::NoEndpoint, EndpointOffReason::Removed),
    ];
    for (hold, reason) in holds {
        in_world(async |store, directory| {
            directory.set("acme", Hold(hold));
            let slow = DeliveryLimits {
                claim_interval: seconds(10),
                ..LIMITS
            };
            let _instance = start(&store, &directory, slow);
            store.arrive("acme");
            sleep(Duration::from_hours(100)).await;
            assert_eq!(directory.seen("acme").len(), 0);
            assert_eq!(store.count("acme", EventState::Waiting), 1);
            assert_eq!(
                store.off("acme"),
                Some(reason),
                "it is not claimed again and again"
            );
            directory.set("acme", QUICK);
            sleep(seconds(31)).await;
            assert_eq!(store.count("acme", EventState::Delivered), 1);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_url_is_used_for_the_next_attempt() {
    in_world(async |store, directory| {
        directory.set("acme", Answers(500));
        let _instance = start(&store, &directory, LIMITS);
        store.arrive("acme");
        sleep(seconds(5)).await;
        directory.urls.borrow_mut().insert("acme".to_owned(), 2);
        directory.set("acme", QUICK);
        sleep(seconds(20)).await;
        let urls: Vec<_> = directory.seen("acme").iter().map(|seen| seen.url).collect();
        assert_eq!(urls, [0, 2]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_gone_is_off_until_its_url_changes() {
    in_world(async |store, directory| {
        directory.set("acme", Answers(410));
        let _instance = start(&store, &directory, LIMITS);
        sleep(seconds(30)).await;
        store.arrive("acme");
        sleep(Duration::from_hours(5)).await;
        assert_eq!(directory.seen("acme").len(), 1);
        assert_eq!(store.off("acme"), Some(EndpointOffReason::Gone));
        assert_eq!(store.count("acme", EventState::Waiting), 1);
        // A start of the process changes nothing.
        let _successor = start(&store.of_instance(2), &directory, LIMITS);
        sleep(seconds(60)).await;
        assert_eq!(directory.seen("acme").len(), 1);
        directory.urls.borrow_mut().insert("acme".to_owned(), 2);
        directory.set("acme", QUICK);
        sleep(seconds(11)).await;
        assert_eq!(store.count("acme", EventState::Delivered), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_within_seconds_that_an_endpoint_is_gone() {
    in_world(async |store, directory| {
        directory.set("acme", Answers(410));
        let instance = start(&store, &directory, LIMITS);
        // Endpoints are compared every 10 s.
        sleep(seconds(33)).await;
        store.arrive("acme");
        instance.wake.wake();
        sleep(seconds(2)).await;
        let backlog = instance.meters.backlog(1);
        assert_eq!(backlog.longest[0].endpoints_off, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tenants_retry_after_is_honored_up_to_an_hour() {
    for (asked, waited) in [
        (seconds(300), seconds(300)),
        (seconds(86_400), seconds(3_600)),
    ] {
        in_world(async |store, directory| {
            directory.set("acme", AsksFor(asked));
            let _instance = start(&store, &directory, LIMITS);
            store.arrive("acme");
            sleep(seconds(3_700)).await;
            let seen = directory.seen("acme");
            let delay = seen[1].began - seen[0].began;
            assert!(delay >= waited && delay < waited + seconds(1), "{delay:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_stops_ends_its_attempts_in_order_and_gives_up_its_claims() {
    in_world(async |store, directory| {
        directory.set("slow", Acknowledges(seconds(3)));
        directory.set("hanging", Hangs);
        let first = start(&store, &directory, LIMITS);
        arrive_many(&store, "slow", 8);
        store.arrive("hanging");
        sleep(seconds(1)).await;
        let stopped = Instant::now();
        first.stop.send_replace(Some(stopped + seconds(5)));
        let second = start(&store.of_instance(2), &directory, LIMITS);
        first.task.await.unwrap();
        assert!(stopped.elapsed() <= seconds(6));
        let slow = store.count("slow", EventState::Delivered);
        assert_eq!(
            slow, 4,
            "those under way are recorded, and no other is begun"
        );
        assert_eq!(directory.seen("hanging").len(), 1);
        assert_eq!(directory.seen("hanging")[0].ended, None, "it is abandoned");
        directory.set("hanging", QUICK);
        sleep(seconds(8)).await;
        assert_eq!(store.count("slow", EventState::Delivered), 8);
        let hanging = store.count("hanging", EventState::Delivered);
        assert_eq!(hanging, 1, "another instance goes on at once");
        drop(second);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_results_are_kept_and_recorded_later() {
    in_world(async |store, directory| {
        directory.set("acme", Acknowledges(seconds(2)));
        let _instance = start(&store, &directory, LIMITS);
        store.arrive("acme");
        sleep(seconds(1)).await;
        store.rows.is_away.set(true);
        sleep(seconds(10)).await;
        assert_eq!(store.count("acme", EventState::Waiting), 1);
        store.rows.is_away.set(false);
        sleep(seconds(5)).await;
        assert_eq!(store.count("acme", EventState::Delivered), 1);
        assert_eq!(directory.seen("acme").len(), 1, "it is not sent again");
        assert_eq!(store.rows.records.borrow().len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_takes_twenty_two_seconds_at_most_whatever_the_deadline() {
    in_world(async |store, directory| {
        directory.set("acme", Hangs);
        let limits = DeliveryLimits {
            deadline: seconds(60),
            ..LIMITS
        };
        let _instance = start(&store, &directory, limits);
        store.arrive("acme");
        sleep(seconds(30)).await;
        let seen = directory.seen("acme");
        let took = seen[0].ended.unwrap() - seen[0].began;
        assert_eq!(took.as_secs(), 22, "{took:?}");
        assert_eq!(NotificationSettings::LONGEST_DEADLINE, seconds(22));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_begins_only_if_it_ends_within_the_claim() {
    in_world(async |store, directory| {
        directory.set("acme", Hangs);
        let _instance = start(&store, &directory, LIMITS);
        arrive_many(&store, "acme", 40);
        sleep(seconds(10)).await;
        // From now on no claim is renewed.
        store.rows.is_away.set(true);
        sleep(seconds(100)).await;
        let last = directory
            .seen("acme")
            .iter()
            .filter_map(|seen| seen.ended)
            .max()
            .unwrap();
        let claim_ends = after(seconds(10) + seconds(30));
        let elapsed = u64::try_from(last.elapsed().as_millis()).unwrap();
        assert!(store.now_ms() - elapsed <= claim_ends);
        assert!(store.now_ms() > START && key("acme").url.is_none());
    })
    .await;
}
