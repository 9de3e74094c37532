//! Limits that instances of the program share in one real PostgreSQL server, seen by an upstream that records arrivals.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stderr,
    reason = "counts of calls are small, and the figures of a run are worth a line"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gatepay_proxy::process::clock::Clock;
use http::Request;
use http_body_util::Full;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::postgres::{self, PgServer};
use crate::support::program::{Folder, Program};
use crate::support::scripted::{self, Scripted};
use crate::support::*;

/// An upstream that records when each request arrives and for which account, and answers after a delay.
struct Recorder {
    upstream: Scripted,
    record: Arc<ArrivalRecord>,
}

#[derive(Default)]
struct ArrivalRecord {
    arrivals: Mutex<Vec<Arrival>>,
    delay_ms: AtomicU64,
    /// Whether it answers 429.
    pushes_back: AtomicBool,
    /// By account: the calls in flight, and the most at once.
    in_flight: Mutex<HashMap<u64, (u32, u32)>>,
}

#[derive(Clone, Copy)]
struct Arrival {
    account: u64,
    /// The number of the call.
    number: u64,
    at: Instant,
}

/// A call that GatePay got: when its caller began to send it, and when it arrived.
#[derive(Clone, Copy)]
struct AdmittedCall {
    account: u64,
    began: Instant,
    arrived: Instant,
}

impl Recorder {
    fn start() -> Self {
        let record = Arc::new(ArrivalRecord::default());
        let kept = Arc::clone(&record);
        Self {
            upstream: Scripted::each(move |request| Some(kept.answer(request))),
            record,
        }
    }

    fn url(&self) -> String {
        self.upstream.url()
    }

    fn answers_after(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).unwrap();
        self.record.delay_ms.store(delay, Ordering::Relaxed);
    }

    /// The arrivals since the first of these calls, with the times at which their callers began.
    fn admitted(&self, sent: &[SentCall]) -> Vec<AdmittedCall> {
        let began: HashMap<u64, Instant> = sent.iter().map(|it| (it.number, it.began)).collect();
        let arrivals = self.record.arrivals.lock().unwrap();
        let known = arrivals.iter().filter_map(|arrival| {
            Some(AdmittedCall {
                account: arrival.account,
                began: *began.get(&arrival.number)?,
                arrived: arrival.at,
            })
        });
        known.collect()
    }

    /// The most calls of a shop that were in flight at once.
    fn most_in_flight(&self, shop: &Shop) -> u32 {
        let in_flight = self.record.in_flight.lock().unwrap();
        in_flight.get(&account(shop)).map_or(0, |it| it.1)
    }
}

impl ArrivalRecord {
    /// Records a request, and answers it after the delay.
    fn answer(&self, request: &str) -> Vec<u8> {
        let at = Instant::now();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        let account = head.lines().find_map(|line| {
            let account = line.strip_prefix("x-gatepay-on-behalf-of:")?;
            account.trim().parse().ok()
        });
        let account = account.unwrap_or(0);
        let digits: String = body.chars().filter(char::is_ascii_digit).collect();
        let arrival = Arrival {
            account,
            number: digits.parse().unwrap_or(0),
            at,
        };
        self.arrivals.lock().unwrap().push(arrival);
        {
            let mut in_flight = self.in_flight.lock().unwrap();
            let (now, most) = in_flight.entry(account).or_default();
            *now += 1;
            *most = (*most).max(*now);
        }
        let delay = self.delay_ms.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(delay));
        self.in_flight.lock().unwrap().entry(account).or_default().0 -= 1;
        let (status, code) = if self.pushes_back.load(Ordering::Relaxed) {
            ("429 Too Many Requests", "000429")
        } else {
            ("200 OK", "000000")
        };
        let body = format!(r#"{{"status":"SUCCESS","code":"{code}","data":{{}}}}"#);
        scripted::answer(
            status,
            "content-type: application/json\r\n",
            body.as_bytes(),
        )
    }
}

/// The folder of an instance with this store and this quota, and more keys for `[store]`.
fn folder(upstream: &Recorder, server: &PgServer, (rate, burst): (u32, u32), more: &str) -> Folder {
    let folder = Folder::before(&upstream.url());
    let keys = ", timeout_ms = 1_000, max_skew_ms = 500, instances_max = 4";
    folder.uses_a_store(&[server.port], &format!("{keys}{more}"));
    folder.edit(
        "proxy.toml",
        "upstream = { ",
        &format!("upstream = {{ quota = {{ requests_per_second = {rate}, burst = {burst}, reserve = 0.0 }}, "),
    );
    folder
}

/// A query with a number of its own.
fn query(shop: &Shop, number: u64) -> Request<Full<Bytes>> {
    let body = format!(r#"{{"merchantTradeNo":"L{number}"}}"#);
    shop.post(QUERY, body).request(&Clock::system())
}

fn account(shop: &Shop) -> u64 {
    shop.sub_account.parse().unwrap()
}

/// A third tenant.
fn initech() -> Shop {
    Shop::new(
        "initech",
        "client-initech",
        "fake-initech-secret-0003",
        "2124538351",
    )
}

/// A request that was sent.
struct SentCall {
    number: u64,
    began: Instant,
    /// The refusal, if it was refused.
    slug: Option<String>,
}

/// Callers of one shop at one instance.
#[derive(Clone)]
struct Callers {
    address: SocketAddr,
    shop: Shop,
    count: usize,
    /// From the beginning of a call to that of the next one, at least.
    pause: Duration,
}

impl Callers {
    /// Sends requests until the time is over, each caller one after the other. A caller connects again if its instance has
    /// ended.
    async fn send(self, until: Instant) -> Vec<SentCall> {
        let mut sending = JoinSet::new();
        for _ in 0..self.count {
            sending.spawn(self.clone().send_one_by_one(until));
        }
        sending.join_all().await.into_iter().flatten().collect()
    }

    async fn send_one_by_one(self, until: Instant) -> Vec<SentCall> {
        let mut sent = Vec::new();
        while Instant::now() < until {
            let Ok(stream) = TcpStream::connect(self.address).await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let mut caller = Connection::over(stream).await;
            while Instant::now() < until {
                static NUMBER: AtomicU64 = AtomicU64::new(1);
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                let began = Instant::now();
                let answer = caller.try_send(query(&self.shop, number)).await;
                let slug = match &answer {
                    Ok(answer) => answer.refusal().map(str::to_owned),
                    Err(_) => Some("no answer".to_owned()),
                };
                sent.push(SentCall {
                    number,
                    began,
                    slug,
                });
                if answer.is_err() {
                    break;
                }
                sleep(self.pause.saturating_sub(began.elapsed())).await;
            }
        }
        sent
    }
}

/// Lets all these callers send at once, for this long.
async fn send(callers: &[Callers], lasts: Duration) -> Vec<SentCall> {
    let until = Instant::now() + lasts;
    let mut sending = JoinSet::new();
    for callers in callers {
        sending.spawn(callers.clone().send(until));
    }
    sending.join_all().await.into_iter().flatten().collect()
}

/// How many calls any period has beyond its inflow, at most. A call was admitted after its caller began and before it
/// arrived; a period that holds both times holds the admission. So this never says too much, however long a call took on
/// its way. Over all pairs of such times.
fn most_beyond(calls: &[AdmittedCall], per_second: f64) -> f64 {
    let Some(first) = calls.iter().map(|it| it.began).min() else {
        return 0.0;
    };
    let since = |at: Instant| (at - first).as_secs_f64();
    let mut calls: Vec<(f64, f64)> = calls
        .iter()
        .map(|it| (since(it.began), since(it.arrived)))
        .collect();
    let mut ends: Vec<f64> = calls.iter().map(|it| it.1).collect();
    ends.sort_by(f64::total_cmp);
    // From the last beginning to the first: the calls that began since, less the inflow until each end.
    calls.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut ahead: Vec<f64> = ends.iter().map(|end| -per_second * end).collect();
    let mut most = 0.0_f64;
    for (began, arrived) in calls {
        let from = ends.partition_point(|end| *end < arrived);
        for ahead in &mut ahead[from..] {
            *ahead += 1.0;
        }
        let highest = ahead[from..].iter().copied().fold(f64::MIN, f64::max);
        most = most.max(highest + per_second * began);
    }
    most
}

/// The same by the arrivals alone, which a delay on the way can bring closer together.
fn most_arrived_beyond(calls: &[AdmittedCall], per_second: f64) -> f64 {
    let at_once = |it: &AdmittedCall| AdmittedCall {
        began: it.arrived,
        ..*it
    };
    most_beyond(&calls.iter().map(at_once).collect::<Vec<_>>(), per_second)
}

fn of(calls: &[AdmittedCall], shop: &Shop) -> Vec<AdmittedCall> {
    let own = calls.iter().filter(|it| it.account == account(shop));
    own.copied().collect()
}

/// The calls of all instances to the store about limits: takes and exchanges.
async fn store_calls(programs: &[Program]) -> [f64; 2] {
    let mut calls = [0.0; 2];
    for program in programs {
        let answer = program.admin("GET", "/metrics").await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        for (count, call) in calls.iter_mut().zip(["take", "exchange"]) {
            let series = format!("gatepay_proxy_store_seconds_count{{call=\"{call}\"}} ");
            let mut values = text.lines().filter_map(|line| line.strip_prefix(&series));
            *count += values.next().map_or(0.0, |it| it.parse().unwrap());
        }
    }
    calls
}

/// Tenants' limits of a test.
fn limits(rate: u32, burst: u32, in_flight: u32) -> String {
    format!("limits = {{ requests_per_second = {rate}, burst = {burst}, in_flight = {in_flight} }}")
}

fn flood(program: &Program, shop: Shop, count: usize) -> Callers {
    Callers {
        address: program.address,
        shop,
        count,
        pause: Duration::from_millis(10),
    }
}

#[tokio::test]
async fn a_tenant_that_floods_two_instances_gets_its_rate_once_and_its_refusals_ask_the_store_rarely()
 {
    if postgres::is_missing() {
        return;
    }
    let (upstream, server) = (Recorder::start(), PgServer::migrated().await);
    let folders = [0, 1].map(|_| folder(&upstream, &server, (1_000, 1_000), ""));
    for folder in &folders {
        folder.tenant(&acme(), &limits(50, 40, 1_000));
    }
    let programs = Program::serve_all(&folders).await;
    let before = store_calls(&programs).await;
    let began = Instant::now();
    let callers = [0, 1].map(|n| flood(&programs[n], acme(), 4));
    let sent = send(&callers, Duration::from_secs(5)).await;
    let lasted = began.elapsed().as_secs_f64();
    let after = store_calls(&programs).await;
    let calls = upstream.admitted(&sent);
    let beyond = most_beyond(&calls, 50.0);
    let refused = sent.iter().filter(|it| it.slug.is_some()).count();
    let [takes, exchanges] = [0, 1].map(|n| (after[n] - before[n]) / lasted);
    eprintln!(
        "{} admitted, {refused} refused in {lasted:.1} s; at most {beyond:.1} beyond the rate, {:.1} by arrivals; {takes:.0} takes and {exchanges:.0} exchanges a second",
        calls.len(),
        most_arrived_beyond(&calls, 50.0),
    );
    assert!(beyond <= 40.0, "{beyond} beyond the rate");
    let expected = 40.0 + 50.0 * lasted;
    assert!(calls.len() as f64 > 0.85 * expected, "{}", calls.len());
    assert!(refused > 100, "{refused} refused: no flood");
    let limited = |it: &&SentCall| it.slug.as_deref() == Some("rate_limited");
    assert_eq!(sent.iter().filter(limited).count(), refused);
    assert!(takes <= 50.0, "{takes} takes");
}

/// How many takes and how many refusals a second two flooded instances have together, with these limits.
async fn flooded(quota: (u32, u32), tenant: &str, slug: &str) -> f64 {
    let (upstream, server) = (Recorder::start(), PgServer::migrated().await);
    upstream.answers_after(Duration::from_millis(200));
    let folders = [0, 1].map(|_| folder(&upstream, &server, quota, ""));
    for folder in &folders {
        folder.tenant(&acme(), tenant);
    }
    let programs = Program::serve_all(&folders).await;
    let callers = [0, 1].map(|n| flood(&programs[n], acme(), 6));
    send(&callers, Duration::from_secs(1)).await;
    let (before, began) = (store_calls(&programs).await, Instant::now());
    let sent = send(&callers, Duration::from_secs(3)).await;
    let (after, lasted) = (store_calls(&programs).await, began.elapsed().as_secs_f64());
    let refused = sent.iter().filter(|it| it.slug.as_deref() == Some(slug));
    let refused = refused.count() as f64 / lasted;
    let admitted = upstream.admitted(&sent).len() as f64 / lasted;
    let takes = (after[0] - before[0]) / lasted;
    eprintln!("{slug}: {refused:.0} refused, {admitted:.0} admitted and {takes:.0} takes a second");
    assert!(refused > 50.0, "{refused} refused: no flood");
    // An admitted call may ask for its own seat, and give it back.
    takes - 2.0 * admitted
}

#[tokio::test]
async fn refusals_of_a_flood_ask_the_store_rarely_whatever_limit_refuses() {
    if postgres::is_missing() {
        return;
    }
    let mut by_seats = f64::INFINITY;
    // A busy machine gives seats back and takes them in more turns.
    for _ in 0..3 {
        let limits = limits(1_000, 1_000, 4);
        by_seats = by_seats.min(flooded((1_000, 1_000), &limits, "too_many_in_flight").await);
        if by_seats <= 50.0 {
            break;
        }
    }
    let by_quota = flooded((20, 20), &limits(1_000, 1_000, 1_000), "institution_quota").await;
    assert!(
        by_seats <= 50.0 && by_quota <= 50.0,
        "{by_seats} {by_quota}"
    );
}

/// The law of limits while an instance is killed and the store restarts, again and again.
async fn limits_hold(rounds: u32, round: Duration) {
    const QUOTA: (u32, u32) = (100, 60);
    let (upstream, mut server) = (Recorder::start(), PgServer::migrated().await);
    upstream.answers_after(Duration::from_millis(30));
    let folders = [0, 1, 2, 3].map(|_| folder(&upstream, &server, QUOTA, ""));
    for folder in &folders {
        folder.tenant(&acme(), &limits(60, 40, 6));
        folder.tenant(&globex(), &limits(80, 50, 1_000));
    }
    let mut programs = Program::serve_all(&folders).await;
    let (mut sent, mut calls_per_second) = (Vec::new(), Vec::new());
    for number in 0..rounds {
        let mut callers = Vec::new();
        for program in &programs {
            callers.push(flood(program, acme(), 3));
            callers.push(flood(program, globex(), 1));
        }
        let (before, began) = (store_calls(&programs).await, Instant::now());
        // On a thread of its own: the server's processes end with the thread that started them, which is this one.
        let sending = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(send(&callers, round))
        });
        sleep(round / 3).await;
        let dies = usize::try_from(number).unwrap() % programs.len();
        programs[dies].signal("-KILL");
        sleep(round / 4).await;
        if number % 2 == 0 {
            if number % 4 == 0 {
                server.kill();
            } else {
                server.stop();
            }
            server.start_again();
        }
        sent.extend(sending.join().unwrap());
        programs.remove(dies);
        let after = store_calls(&programs).await;
        calls_per_second.push((after[0] - before[0]) / began.elapsed().as_secs_f64());
        programs.insert(dies, Program::serve(&folders[dies]).await);
        programs[dies].until_ready().await;
    }
    let calls = upstream.admitted(&sent);
    let (own, others) = (of(&calls, &acme()), of(&calls, &globex()));
    let of_all = (f64::from(QUOTA.0), f64::from(QUOTA.1));
    let beyond = [
        (&own, 60.0, 40.0),
        (&others, 80.0, 50.0),
        (&calls, of_all.0, of_all.1),
    ];
    let beyond = beyond.map(|(calls, rate, burst)| {
        let by_arrivals = most_arrived_beyond(calls, rate);
        (calls.len(), most_beyond(calls, rate), by_arrivals, burst)
    });
    eprintln!(
        "{} sent; (admitted, most beyond the rate, by arrivals, burst): {beyond:.1?}; {} of acme's at once; most takes a second {:.0?}",
        sent.len(),
        upstream.most_in_flight(&acme()),
        calls_per_second.iter().copied().fold(0.0, f64::max),
    );
    for (_, beyond, _, burst) in beyond {
        assert!(beyond <= burst, "{beyond} beyond the rate");
    }
    assert!(upstream.most_in_flight(&acme()) <= 6);
    let least = f64::from(rounds) * round.as_secs_f64() * of_all.0 * 0.2;
    assert!(calls.len() as f64 > least, "{} admitted", calls.len());
}

#[tokio::test]
async fn no_limit_is_exceeded_while_an_instance_dies_and_the_store_restarts() {
    if postgres::is_missing() {
        return;
    }
    limits_hold(1, Duration::from_secs(9)).await;
}

#[tokio::test]
#[ignore = "takes ten minutes"]
async fn no_limit_is_exceeded_in_ten_minutes_of_dying_instances() {
    if postgres::is_missing() {
        return;
    }
    limits_hold(20, Duration::from_secs(30)).await;
}

/// The least share of a tenant in any second, of what its weight is due; the first second is not counted.
async fn least_share(seconds: u32) -> f64 {
    const RATE: u32 = 200;
    let (upstream, server) = (Recorder::start(), PgServer::migrated().await);
    let folders = [0, 1, 2].map(|_| folder(&upstream, &server, (RATE, 100), ""));
    let weights = [(acme(), 1.0), (globex(), 1.0), (initech(), 3.0)];
    for folder in &folders {
        for (shop, weight) in &weights {
            let more = format!("weight = {weight}\n{}", limits(1_000, 1_000, 1_000));
            folder.tenant(shop, &more);
        }
    }
    let programs = Program::serve_all(&folders).await;
    let callers = [
        flood(&programs[0], acme(), 3),
        flood(&programs[0], globex(), 2),
        flood(&programs[1], globex(), 2),
        flood(&programs[1], initech(), 3),
        flood(&programs[2], initech(), 4),
    ];
    let began = Instant::now();
    let sent = send(&callers, Duration::from_secs((seconds + 2).into())).await;
    let calls = upstream.admitted(&sent);
    let mut least = f64::INFINITY;
    for second in 1..=seconds {
        let from = began + Duration::from_secs(second.into());
        let counts = weights.each_ref().map(|(shop, weight)| {
            let own = of(&calls, shop);
            let during = |it: &&AdmittedCall| {
                it.arrived >= from && it.arrived < from + Duration::from_secs(1)
            };
            let count = own.iter().filter(during).count();
            (count, count as f64 / (f64::from(RATE) * weight / 5.0))
        });
        eprintln!("{counts:.2?}");
        least = counts.iter().map(|it| it.1).fold(least, f64::min);
    }
    assert!(most_beyond(&calls, RATE.into()) <= 100.0);
    least
}

#[tokio::test]
async fn tenants_on_unequal_instances_get_their_shares() {
    if postgres::is_missing() {
        return;
    }
    let least = least_share(5).await;
    assert!(least >= 0.9, "{least}");
}

#[tokio::test]
#[ignore = "takes a minute and a quiet machine"]
async fn tenants_on_unequal_instances_get_their_shares_in_every_second() {
    if postgres::is_missing() {
        return;
    }
    let least = least_share(60).await;
    assert!(least >= 0.95, "{least}");
}

#[tokio::test]
async fn a_push_back_at_one_instance_slows_all() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, server) = (Recorder::start(), PgServer::migrated().await);
    let folders = [0, 1].map(|_| folder(&upstream, &server, (100, 60), ""));
    let programs = Program::serve_all(&folders).await;
    let [one, other] = [0, 1].map(|n| &programs[n]);
    let in_force = "quota_requests_per_second{rate=\"in_force\"}";
    assert_eq!(other.metric(in_force).await, "100");
    upstream.record.pushes_back.store(true, Ordering::Relaxed);
    let callers = [acme(), globex()].map(|shop| flood(one, shop, 2));
    send(&callers, Duration::from_millis(1_500)).await;
    upstream.record.pushes_back.store(false, Ordering::Relaxed);
    sleep(Duration::from_millis(500)).await;
    let lowered: f64 = other.metric(in_force).await.parse().unwrap();
    assert!(lowered <= 70.0, "{lowered}");
    // It grows again after five seconds.
    let callers = [acme(), globex()].map(|shop| flood(other, shop, 2));
    let sent = send(&callers, Duration::from_millis(2_500)).await;
    let calls = upstream.admitted(&sent);
    let beyond = most_beyond(&calls, lowered);
    assert!(beyond <= 60.0 * lowered / 100.0 + 1.0, "{beyond}");
    assert!(calls.len() > 60, "{}", calls.len());
}

#[tokio::test]
async fn of_two_configurations_the_smaller_limit_holds_until_both_are_changed() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, server) = (Recorder::start(), PgServer::migrated().await);
    let folders = [0, 1].map(|_| folder(&upstream, &server, (1_000, 1_000), ""));
    for folder in &folders {
        folder.tenant(&acme(), &limits(20, 20, 1_000));
    }
    let programs = Program::serve_all(&folders).await;
    let both = [0, 1].map(|n| flood(&programs[n], acme(), 3));
    let second = Duration::from_millis(1_500);
    let admitted = async |callers: &[Callers]| {
        let sent = send(callers, second).await;
        upstream.admitted(&sent).len()
    };
    admitted(&both).await;
    assert!(admitted(&both).await <= 45);
    // One instance has the new figures: the old ones hold, also where the new ones are known.
    folders[0].edit(
        "tenants.d/acme.toml",
        "requests_per_second = 20, burst = 20",
        "requests_per_second = 200, burst = 200",
    );
    assert_eq!(programs[0].reload("").await.0, 200);
    assert!(admitted(&both[..1]).await <= 50);
    // The other one is not asked for anything, and tells its new figures all the same.
    folders[1].edit(
        "tenants.d/acme.toml",
        "requests_per_second = 20, burst = 20",
        "requests_per_second = 200, burst = 200",
    );
    assert_eq!(programs[1].reload("").await.0, 200);
    sleep(Duration::from_millis(500)).await;
    let more = admitted(&both[..1]).await;
    assert!(more > 100, "{more}");
}

/// Sends reads without a body by many callers for a time. Returns how many arrived, and for how long they were sent.
async fn read_alone(program: &Program, upstream: &Recorder, lasts: Duration) -> (usize, Duration) {
    let arrived = || upstream.record.arrivals.lock().unwrap().len();
    let (before, began) = (arrived(), Instant::now());
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let address = program.address;
        callers.spawn(async move {
            let mut caller = Connection::open(address).await;
            while began.elapsed() < lasts {
                let path = format!("{DETAILS}?refundRequestId=R-0001");
                let read = acme().get(&path).request(&Clock::system());
                let _answer = caller.send(read).await;
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    callers.join_all().await;
    (arrived() - before, began.elapsed())
}

/// Without the store an instance starts from empty buckets, since all instances may just have used a whole burst.
#[tokio::test]
async fn reads_without_the_store_have_this_instances_part_of_the_rate_and_of_the_places() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut server) = (Recorder::start(), PgServer::migrated().await);
    let folder = folder(
        &upstream,
        &server,
        (400, 400),
        ", reads_without_store = true",
    );
    // A fourth of it: five reads a second, and two at once.
    folder.tenant(&acme(), &limits(20, 400, 8));
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    server.kill();
    upstream.answers_after(Duration::from_millis(100));
    let (arrived, lasted) = read_alone(&program, &upstream, Duration::from_secs(3)).await;
    let most = 5.0 * lasted.as_secs_f64() + 1.0;
    assert!(
        arrived >= 3 && arrived as f64 <= most,
        "{arrived} of {most}"
    );
    upstream.answers_after(Duration::from_millis(900));
    let (arrived, _) = read_alone(&program, &upstream, Duration::from_secs(2)).await;
    assert!(arrived >= 2, "{arrived}");
    assert_eq!(upstream.most_in_flight(&acme()), 2);
}

/// A crash of the store forgets who has which place, and calls last longer than the time after which it lends places again.
#[tokio::test]
async fn calls_in_flight_keep_their_places_over_a_crash_of_the_store() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut server) = (Recorder::start(), PgServer::migrated().await);
    upstream.answers_after(Duration::from_secs(13));
    let folders = [0, 1].map(|_| folder(&upstream, &server, (400, 400), ""));
    for folder in &folders {
        folder.tenant(&acme(), &limits(100, 100, 4));
    }
    let programs = Program::serve_all(&folders).await;
    let began = Instant::now();
    let long = flood(&programs[0], acme(), 4).send(began + Duration::from_millis(1));
    let long = tokio::spawn(long);
    sleep(Duration::from_millis(700)).await;
    assert_eq!(upstream.most_in_flight(&acme()), 4);
    // On this thread: the server's processes end with the thread that started them.
    server.kill();
    server.start_again();
    let others = flood(&programs[1], acme(), 2).send(began + Duration::from_secs(11));
    let others = others.await;
    let is_full = |it: &SentCall| it.slug.as_deref() == Some("too_many_in_flight");
    assert!(others.last().is_some_and(is_full), "places are lent again");
    assert_eq!(upstream.most_in_flight(&acme()), 4);
    assert_eq!(long.await.unwrap().len(), 4);
}
