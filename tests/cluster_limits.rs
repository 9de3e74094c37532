//! Limits that instances of the program share in one real PostgreSQL server, seen by an upstream that records arrivals.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stderr,
    reason = "counts of calls are small, and the figures of a run are worth a line"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gatepay_proxy::process::clock::Clock;
use http::Request;
use http_body_util::Full;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::gate::Gate;
use crate::support::postgres::{self, PgServer};
use crate::support::program::{Folder, Program};
use crate::support::scripted::{self, Scripted};
use crate::support::*;

/// An upstream that records when each request arrives and for which account, and answers after a delay.
struct Recorder {
    upstream: Scripted,
    record: Arc<ArrivalRecord>,
}

struct ArrivalRecord {
    arrivals: Mutex<Vec<Arrival>>,
    delay_ms: AtomicU64,
    /// The gate at which answers wait after their delay.
    answers: Gate,
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
        let record = Arc::new(ArrivalRecord {
            arrivals: Mutex::default(),
            delay_ms: AtomicU64::new(0),
            answers: Gate::open(),
            pushes_back: AtomicBool::new(false),
            in_flight: Mutex::default(),
        });
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

    /// How many calls arrived, of all shops.
    fn count(&self) -> usize {
        self.record.arrivals.lock().unwrap().len()
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
        self.answers.pass();
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
    let keys = ", timeout_ms = 10_000, max_skew_ms = 500, instances_max = 4";
    folder.uses_a_store(&[server.port], &format!("{keys}{more}"));
    folder.edit(
        "proxy.toml",
        "upstream = { ",
        // Answers may be held for longer than the deadline is otherwise.
        &format!("upstream = {{ deadline_ms = 300_000, quota = {{ requests_per_second = {rate}, burst = {burst}, reserve = 0.0 }}, "),
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
    account: u64,
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
    /// The least time from the beginning of a call to the beginning of the next one.
    pause: Duration,
}

impl Callers {
    /// Sends requests while `goes_on`, each caller one at a time. A caller connects again if its instance has ended.
    async fn send(self, goes_on: impl Fn() -> bool + Clone + Send + 'static) -> Vec<SentCall> {
        let mut sending = JoinSet::new();
        for _ in 0..self.count {
            sending.spawn(self.clone().send_one_by_one(goes_on.clone()));
        }
        sending.join_all().await.into_iter().flatten().collect()
    }

    async fn send_one_by_one(self, goes_on: impl Fn() -> bool) -> Vec<SentCall> {
        let mut sent = Vec::new();
        while goes_on() {
            let Ok(stream) = TcpStream::connect(self.address).await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let mut caller = Connection::over(stream).await;
            while goes_on() {
                static NUMBER: AtomicU64 = AtomicU64::new(1);
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                let began = Instant::now();
                let answer = caller.try_send(query(&self.shop, number)).await;
                let slug = match &answer {
                    Ok(answer) => answer.refusal().map(str::to_owned),
                    Err(_) => Some("no answer".to_owned()),
                };
                sent.push(SentCall {
                    account: account(&self.shop),
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
    send_while(callers, move || Instant::now() < until).await
}

/// Lets all these callers send beside one another while `goes_on`.
async fn send_while(
    callers: &[Callers],
    goes_on: impl Fn() -> bool + Clone + Send + 'static,
) -> Vec<SentCall> {
    let mut sending = JoinSet::new();
    for callers in callers {
        sending.spawn(callers.clone().send(goes_on.clone()));
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
    let callers = [0, 1].map(|n| flood(&programs[n], acme(), 4));
    let mut all = Vec::new();
    in_one_of_some_looks(async || {
        let before = store_calls(&programs).await;
        let began = Instant::now();
        let sent = send(&callers, Duration::from_secs(5)).await;
        let lasted = began.elapsed().as_secs_f64();
        let after = store_calls(&programs).await;
        let calls = upstream.admitted(&sent).len();
        let refused = sent.iter().filter(|it| it.slug.is_some()).count();
        let limited = |it: &&SentCall| it.slug.as_deref() == Some("rate_limited");
        let limited = sent.iter().filter(limited).count();
        // The bucket is full before the first look only.
        let burst = if all.is_empty() { 40.0 } else { 0.0 };
        let least = 0.85 * (burst + 50.0 * lasted);
        all.extend(sent);
        let admitted = upstream.admitted(&all);
        let beyond = most_beyond(&admitted, 50.0);
        let [takes, exchanges] = [0, 1].map(|n| (after[n] - before[n]) / lasted);
        let figures = format!(
            "{calls} admitted (at least {least:.0} are wanted), {refused} refused ({limited} for the rate) in {lasted:.1} s; at most {beyond:.1} beyond the rate, {:.1} by arrivals; {takes:.0} takes and {exchanges:.0} exchanges a second",
            most_arrived_beyond(&admitted, 50.0),
        );
        eprintln!("{figures}");
        assert!(beyond <= 40.0, "{figures}");
        let is_flood = refused > 100 && limited == refused;
        if_so(is_flood && calls as f64 > least && takes <= 50.0, || figures)
    })
    .await;
}

/// Floods two instances with these limits until a look shows that refusals cost few calls to the store: more than fifty calls a
/// second are refused for this reason, and beside those for admitted calls there are fifty takes a second at most, or on a slow
/// machine one for four refusals.
async fn flooded(quota: (u32, u32), tenant: &str, slug: &str) {
    let (upstream, server) = (Recorder::start(), PgServer::migrated().await);
    upstream.answers_after(Duration::from_millis(200));
    let folders = [0, 1].map(|_| folder(&upstream, &server, quota, ""));
    for folder in &folders {
        folder.tenant(&acme(), tenant);
    }
    let programs = Program::serve_all(&folders).await;
    let callers = [0, 1].map(|n| flood(&programs[n], acme(), 6));
    send(&callers, Duration::from_secs(1)).await;
    // A busy machine gives seats back and takes them in more turns.
    in_one_of_some_looks(async || {
        let (before, began) = (store_calls(&programs).await, Instant::now());
        let sent = send(&callers, Duration::from_secs(3)).await;
        let (after, lasted) = (store_calls(&programs).await, began.elapsed().as_secs_f64());
        let refused = sent.iter().filter(|it| it.slug.as_deref() == Some(slug));
        let refused = refused.count() as f64 / lasted;
        let admitted = upstream.admitted(&sent).len() as f64 / lasted;
        let takes = (after[0] - before[0]) / lasted;
        let figures = format!(
            "{slug}: {refused:.0} refused, {admitted:.0} admitted and {takes:.0} takes a second"
        );
        eprintln!("{figures}");
        // An admitted call may ask for its own seat, and give it back.
        let of_refusals = takes - 2.0 * admitted;
        let few = of_refusals <= f64::max(50.0, refused / 4.0);
        if_so(refused > 50.0 && few, || figures)
    })
    .await;
}

#[tokio::test]
async fn refusals_of_a_flood_ask_the_store_rarely_whatever_limit_refuses() {
    if postgres::is_missing() {
        return;
    }
    let seats = limits(1_000, 1_000, 4);
    flooded((1_000, 1_000), &seats, "too_many_in_flight").await;
    let wide = limits(1_000, 1_000, 1_000);
    flooded((20, 20), &wide, "institution_quota").await;
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
    // So many calls a second are admitted in spite of it.
    let least = round.as_secs_f64() * f64::from(QUOTA.0) * 0.2;
    for number in 0..rounds {
        let mut callers = Vec::new();
        for program in &programs {
            callers.push(flood(program, acme(), 3));
            callers.push(flood(program, globex(), 1));
        }
        let (before, began) = (store_calls(&programs).await, Instant::now());
        let (record, arrived) = (Arc::clone(&upstream.record), upstream.count());
        let (until, at_last) = (began + round, began + round + PATIENCE);
        let goes_on = move || {
            let (now, all) = (Instant::now(), record.arrivals.lock().unwrap().len());
            // A slow machine gets longer.
            now < until || ((all - arrived) as f64) <= least && now < at_last
        };
        // On a thread of its own: the server's processes end with the thread that started them, which is this one.
        let sending = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(send_while(&callers, goes_on))
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
    let at_once = upstream.most_in_flight(&acme());
    assert!(at_once <= 6, "{at_once} of acme's calls at once");
    let least = f64::from(rounds) * least;
    assert!(
        calls.len() as f64 > least,
        "{} admitted, of at least {least}",
        calls.len()
    );
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

/// The rate of the institution that tenants share by their weights.
const RATE: u32 = 200;

/// The smallest share of any tenant, in one second of a look and in the whole look, without its first second. A share is the part
/// of what the tenant's weight is due, or of what it asked for if that is less.
struct LeastShare {
    of_a_second: f64,
    of_all: f64,
}

/// Looks until the least shares of a look are enough.
async fn least_shares(seconds: u32, looks: u32, is_enough: impl Fn(&LeastShare) -> bool) {
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
    let mut seen = Vec::new();
    for _ in 0..looks {
        let least = shares_of_a_look(&upstream, &callers, &weights, seconds).await;
        if is_enough(&least) {
            return;
        }
        seen.push(format!(
            "{:.2} in a second, {:.2} in all",
            least.of_a_second, least.of_all
        ));
    }
    panic!("the least shares are {seen:?}");
}

/// The least shares of one look. Asserts that all tenants together keep to the rate.
async fn shares_of_a_look(
    upstream: &Recorder,
    callers: &[Callers],
    weights: &[(Shop, f64); 3],
    seconds: u32,
) -> LeastShare {
    let began = Instant::now();
    let sent = send(callers, Duration::from_secs((seconds + 2).into())).await;
    let calls = upstream.admitted(&sent);
    let second = Duration::from_secs(1);
    let share = |from: u32, to: u32| {
        let counts = weights.each_ref().map(|(shop, weight)| {
            let is_during = |at: Instant| at >= began + second * from && at < began + second * to;
            let own = of(&calls, shop);
            let count = own.iter().filter(|it| is_during(it.arrived)).count();
            let asked = sent.iter().filter(|it| it.account == account(shop));
            let asked = asked.filter(|it| is_during(it.began)).count();
            let due = f64::from(RATE) * weight / 5.0 * f64::from(to - from);
            // A slow machine may ask for less than the share.
            (count, count as f64 / due.min(asked as f64))
        });
        eprintln!("{from} to {to} s: {counts:.2?}");
        counts.iter().map(|it| it.1).fold(f64::INFINITY, f64::min)
    };
    let of_seconds = (1..=seconds).map(|from| share(from, from + 1));
    let least = LeastShare {
        of_a_second: of_seconds.fold(f64::INFINITY, f64::min),
        of_all: share(1, seconds + 1),
    };
    let beyond = most_beyond(&calls, RATE.into());
    assert!(beyond <= 100.0, "{beyond} beyond the rate");
    least
}

#[tokio::test]
async fn tenants_on_unequal_instances_get_their_shares() {
    if postgres::is_missing() {
        return;
    }
    // On a busy machine callers may be late by a part of a second.
    least_shares(5, LOOKS, |least| least.of_all >= 0.9).await;
}

#[tokio::test]
#[ignore = "takes a minute and a quiet machine"]
async fn tenants_on_unequal_instances_get_their_shares_in_every_second() {
    if postgres::is_missing() {
        return;
    }
    least_shares(60, 1, |least| least.of_a_second >= 0.95).await;
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
    in_one_of_some_looks(async || {
        upstream.record.pushes_back.store(true, Ordering::Relaxed);
        let callers = [acme(), globex()].map(|shop| flood(one, shop, 2));
        send(&callers, Duration::from_millis(1_500)).await;
        upstream.record.pushes_back.store(false, Ordering::Relaxed);
        // Five seconds later the rate grows again.
        let pushed_back = Instant::now();
        let grows = pushed_back + Duration::from_millis(4_500);
        let rate = async |program: &Program| -> f64 {
            let rate = program.metric(in_force).await;
            rate.parse().unwrap()
        };
        let mut lowered = rate(other).await;
        while lowered > 70.0 || lowered > rate(one).await {
            if Instant::now() > grows {
                return Err(format!("the other one has a rate of {lowered}"));
            }
            sleep(Duration::from_millis(20)).await;
            lowered = rate(other).await;
        }
        let callers = [acme(), globex()].map(|shop| flood(other, shop, 2));
        let sent = send(&callers, Duration::from_millis(2_500)).await;
        let mut calls = upstream.admitted(&sent);
        calls.retain(|it| it.arrived < grows);
        let (beyond, count) = (most_beyond(&calls, lowered), calls.len());
        let figures =
            format!("lowered to {lowered}: {count} admitted, {beyond:.1} beyond that rate");
        eprintln!("{figures}");
        assert!(beyond <= 60.0 * lowered / 100.0 + 1.0, "{figures}");
        if_so(count > 60, || figures)
    })
    .await;
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
    let mut all = Vec::new();
    let mut beyond = async |callers: &[Callers]| {
        all.extend(send(callers, second).await);
        most_beyond(&upstream.admitted(&all), 20.0)
    };
    beyond(&both).await;
    let most = beyond(&both).await;
    assert!(most <= 20.0, "{most} beyond the rate");
    // One instance has the new figures: the old ones hold, also where the new ones are known.
    folders[0].edit(
        "tenants.d/acme.toml",
        "requests_per_second = 20, burst = 20",
        "requests_per_second = 200, burst = 200",
    );
    assert_eq!(programs[0].reload("").await.0, 200);
    let most = beyond(&both[..1]).await;
    assert!(most <= 20.0, "{most} beyond the rate of the other one");
    // The other one is not asked for anything, and tells its new figures all the same.
    folders[1].edit(
        "tenants.d/acme.toml",
        "requests_per_second = 20, burst = 20",
        "requests_per_second = 200, burst = 200",
    );
    assert_eq!(programs[1].reload("").await.0, 200);
    let reloaded = Instant::now();
    loop {
        let most = beyond(&both[..1]).await;
        if most > 60.0 {
            break;
        }
        let waited = reloaded.elapsed();
        assert!(waited < PATIENCE, "{most} beyond the old rate, {waited:?}");
    }
}

/// Sends reads without a body by many callers until `is_enough`, which is told for how long and why the last read was refused.
/// Returns that reason.
async fn read_alone(
    program: &Program,
    is_enough: impl Fn(Duration, Option<&str>) -> bool + Clone + Send + 'static,
) -> Option<String> {
    let began = Instant::now();
    let last = Arc::new(OnceLock::new());
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (address, last) = (program.address, Arc::clone(&last));
        let is_enough = is_enough.clone();
        callers.spawn(async move {
            let mut caller = Connection::open(address).await;
            loop {
                let path = format!("{DETAILS}?refundRequestId=R-0001");
                let read = acme().get(&path).request(&Clock::system());
                let answer = caller.send(read).await;
                if is_enough(began.elapsed(), answer.refusal()) {
                    // The first caller that finds it enough sets the reason.
                    let _set = last.set(answer.refusal().map(str::to_owned));
                }
                if last.get().is_some() {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    callers.join_next().await.unwrap().unwrap();
    // Other callers may wait for an answer that is held.
    callers.detach_all();
    last.get().cloned().flatten()
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
    let (record, before) = (Arc::clone(&upstream.record), upstream.count());
    let arrived = move || record.arrivals.lock().unwrap().len() - before;
    let began = Instant::now();
    server.kill();
    upstream.answers_after(Duration::from_millis(100));
    read_alone(&program, {
        let arrived = arrived.clone();
        move |lasted, _| {
            let is_over = lasted > Duration::from_secs(3) && arrived() >= 3;
            is_over || lasted > PATIENCE
        }
    })
    .await;
    let (arrived, lasted) = (arrived(), began.elapsed().as_secs_f64());
    // The buckets fill since the store's last answer, a moment before its end.
    let most = 5.0 * (lasted + 1.0) + 1.0;
    assert!(
        arrived >= 3 && arrived as f64 <= most,
        "{arrived} of {most} in {lasted} s"
    );
    // Two at once, for as long as neither is answered.
    upstream.record.answers.hold();
    let refused = read_alone(&program, |lasted, refusal| {
        refusal == Some("too_many_in_flight") || lasted > PATIENCE
    });
    assert_eq!(refused.await.as_deref(), Some("too_many_in_flight"));
    until("two are at GatePay", || {
        upstream.most_in_flight(&acme()) >= 2
    })
    .await;
    assert_eq!(upstream.most_in_flight(&acme()), 2);
    upstream.record.answers.let_through();
}

/// How long after a crash, in milliseconds of its clock of limits, the store waits for the seats of instances that are silent.
const SEATS_END_MS: u32 = 5_000;

/// A crash of the store forgets who has which place, and calls last longer than the time after which it lends places again.
#[tokio::test]
async fn calls_in_flight_keep_their_places_over_a_crash_of_the_store() {
    if postgres::is_missing() {
        return;
    }
    let (upstream, mut server) = (Recorder::start(), PgServer::migrated().await);
    upstream.record.answers.hold();
    let folders = [0, 1].map(|_| folder(&upstream, &server, (400, 400), ""));
    for folder in &folders {
        folder.tenant(&acme(), &limits(100, 100, 4));
    }
    let programs = Program::serve_all(&folders).await;
    let (of_acme, upstream) = (acme(), Arc::new(upstream));
    let most_at_once = {
        let (upstream, shop) = (Arc::clone(&upstream), of_acme.clone());
        move || upstream.most_in_flight(&shop)
    };
    // Each caller sends calls until one is held, and is done once it is answered.
    let are_too_few = {
        let most_at_once = most_at_once.clone();
        move || most_at_once() < 4
    };
    let long = tokio::spawn(flood(&programs[0], acme(), 4).send(are_too_few));
    until("four calls are in flight", || most_at_once() == 4).await;
    // On this thread: the server's processes end with the thread that started them.
    server.kill();
    server.start_again();
    let restarted = Instant::now();
    // Goes on for longer than the store waits for the seats of silent instances, and until a call is refused after that.
    let limit_clock = || -> u32 {
        let ticked = "SELECT coalesce(max(ticked), 0) FROM gatepay.limit_clock";
        server.sql(ticked).parse().unwrap()
    };
    let is_full = |it: &SentCall| it.slug.as_deref() == Some("too_many_in_flight");
    let (mut refusals, mut figures) = (HashMap::new(), String::new());
    let mut is_refused_still = false;
    while !is_refused_still {
        let (waited, one_more) = (restarted.elapsed(), Duration::from_millis(500));
        let clock_ms = limit_clock();
        assert!(waited < 2 * PATIENCE, "no place is refused: {figures}");
        let other = [flood(&programs[1], acme(), 2)];
        let sending = send(&other, one_more);
        // A call that got a place would wait at the gate, and the callers with it.
        let lent_again = async {
            while most_at_once() <= 4 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let sent = tokio::select! {
            sent = sending => sent,
            () = lent_again => Vec::new(),
        };
        let at_once = most_at_once();
        figures = format!(
            "{at_once} calls at once, {waited:.1?} after the start and {clock_ms} ms of limits; {refusals:?}"
        );
        assert_eq!(at_once, 4, "places are lent again: {figures}");
        for it in &sent {
            let slug = it.slug.clone().unwrap_or("none".to_owned());
            *refusals.entry(slug).or_insert(0_u32) += 1;
        }
        is_refused_still = clock_ms > SEATS_END_MS && sent.last().is_some_and(is_full);
    }
    eprintln!("{figures}");
    upstream.record.answers.let_through();
    let answered = long.await.unwrap();
    let answered = answered.iter().filter(|it| it.slug.is_none()).count();
    assert_eq!(answered, 4, "calls that kept their places are answered");
    // Their places are free again: nothing but these calls was in the way.
    let before = upstream.count();
    let is_none_admitted = {
        let upstream = Arc::clone(&upstream);
        move || upstream.count() == before && restarted.elapsed() < 4 * PATIENCE
    };
    send_while(&[flood(&programs[1], acme(), 1)], is_none_admitted).await;
    assert!(upstream.count() > before, "no place comes free: {figures}");
}
