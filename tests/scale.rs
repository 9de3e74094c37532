//! Many tenants, in the real binary: how much memory each takes, how soon it starts, how long a change of one takes, and what
//! other callers feel of that.
//!
//! The long form has 100,000 of them, and wants a release build and a machine that does nothing else:
//! `cargo test --release -p gatepay-proxy --test proxy scale:: -- --ignored --nocapture`.

use crate::support::program::{Folder, Program};
use crate::support::*;
use gatepay_proxy::clock::Clock;
use http::Request;
use http_body_util::Full;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// What one idle tenant may take, its series in metrics counted apart.
const BYTES_PER_TENANT: usize = 1_536;

#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// A file for each tenant.
    Files,
    /// One file with all.
    OneFile,
}

/// A folder with this many tenants besides acme and globex, none of which has series of its own.
fn folder_of(tenants: usize, layout: Layout, url: &str) -> Folder {
    let folder = Folder::before(url);
    let proxy = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    folder.file(
        "proxy.toml",
        &format!("metrics = {{ max_tenants = 0 }}\n{proxy}"),
    );
    let mut all = String::new();
    for number in 0..tenants {
        let id = format!("shop-{number:06}");
        folder.secret(&id, &format!("fake-secret-of-{id}"));
        // A client id as long as the UUIDs that `tenant add` draws.
        let table = format!(
            "id = '{id}'\nsub_account = '3{number:09}'\n[[tenant.credential]]\n\
             client_id = '00000000-0000-4000-8000-{number:012}'\nsecret = {{ file = '../secrets/{id}.key' }}\n",
        );
        match layout {
            Layout::Files => {
                let table = table.replace("[[tenant.", "[[");
                folder.file(&format!("tenants.d/{id}.toml"), &table);
            }
            Layout::OneFile => write!(all, "[[tenant]]\n{table}").unwrap(),
        }
    }
    if !all.is_empty() {
        folder.file("tenants.d/all.toml", &all);
    }
    folder
}

/// Bytes in memory.
fn resident(program: &Program) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let mut lines = status.lines();
    let kib = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: usize = kib.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

/// Bytes for each tenant beyond the first `few`, and how long the start with all of them took.
async fn weigh(few: usize, tenants: usize, layout: Layout) -> (usize, Duration) {
    let folders = [few, tenants].map(|count| folder_of(count, layout, UNUSED));
    let alone = Program::serve(&folders[0]).await;
    let begin = Instant::now();
    let program = Program::serve(&folders[1]).await;
    let took = begin.elapsed();
    let bytes = resident(&program).saturating_sub(resident(&alone));
    (bytes / (tenants - few), took)
}

/// Changes one tenant, and waits until a reload has taken it up.
async fn change(folder: &Folder, program: &Program, number: usize, burst: u32) -> Duration {
    let name = format!("tenants.d/shop-{number:06}.toml");
    let text = fs::read_to_string(folder.path(&name)).unwrap();
    let (table, _) = text.split_once("[limits]").unwrap_or((&text, ""));
    folder.file(".new", &format!("{table}[limits]\nburst = {burst}\n"));
    fs::rename(folder.path(".new"), folder.path(&name)).unwrap();
    let begin = Instant::now();
    let request = Request::post("/-/reload")
        .header("host", "admin")
        .body(Full::default());
    let answer = Connection::open(program.admin)
        .await
        .send(request.unwrap())
        .await;
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert_eq!(answer.json()["result"], "applied", "{}", answer.json());
    begin.elapsed()
}

/// Reads by acme, this many a second, evenly: how long each took from when it was due.
async fn steady(program: &Program, per_second: u32, lasting: Duration) -> Vec<Duration> {
    const CALLERS: u32 = 4;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let address = program.address;
        callers.spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut due = interval(Duration::from_secs(1) * CALLERS / per_second);
            due.set_missed_tick_behavior(MissedTickBehavior::Burst);
            sleep(Duration::from_millis(2) * caller).await;
            let (begin, mut took) = (Instant::now(), Vec::new());
            while begin.elapsed() < lasting {
                let due = due.tick().await;
                let request = acme().post(QUERY, BY_NUMBER).request(&Clock::system());
                let answer = connection.send(request).await;
                assert_eq!(answer.refused(), (200, "not refused"));
                took.push(due.elapsed());
            }
            took
        });
    }
    let mut all: Vec<_> = callers.join_all().await.concat();
    all.sort();
    all
}

fn at(sorted: &[Duration], part: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index within the list"
    )]
    let index = (sorted.len() as f64 * part) as usize;
    sorted[index.min(sorted.len() - 1)]
}

/// Reduced: 15,000 tenants instead of 100,000. What the first 5,000 take is left out, since what a process takes at once
/// would weigh on each of so few; and they may take half as much again.
#[tokio::test]
async fn ten_thousand_more_tenants_are_small() {
    let (bytes, _) = weigh(5_000, 15_000, Layout::Files).await;
    assert!(bytes > 0, "it is measured");
    assert!(bytes <= BYTES_PER_TENANT * 3 / 2, "{bytes} bytes for each");
}

#[tokio::test]
#[ignore = "minutes, and a figure only in a release build on a quiet machine"]
async fn a_hundred_thousand_tenants_are_small_and_start_soon() {
    for (layout, name) in [
        (Layout::OneFile, "one file"),
        (Layout::Files, "100,000 files"),
    ] {
        let (bytes, took) = weigh(0, 100_000, layout).await;
        println!("{name}: started in {took:.2?}, {bytes} bytes for each tenant");
        assert!(took < Duration::from_secs(5));
        // What parsing one large file leaves behind is not given back whole.
        assert!(layout == Layout::OneFile || bytes <= BYTES_PER_TENANT);
    }
}

/// One tenant changes without the others being read again.
#[tokio::test]
async fn of_a_thousand_tenants_one_changes() {
    let folder = folder_of(1_000, Layout::Files, UNUSED);
    let program = Program::serve(&folder).await;
    for burst in 1..=3 {
        change(&folder, &program, 789, burst).await;
    }
}

#[tokio::test]
#[ignore = "minutes, and figures only in a release build on a quiet machine"]
async fn one_of_a_hundred_thousand_changes_and_nobody_feels_it() {
    let gatepay = GatePay::now();
    let folder = folder_of(100_000, Layout::Files, &gatepay.url());
    let program = Program::serve(&folder).await;
    for number in [7, 50_000, 99_999] {
        let took = change(&folder, &program, number, 1).await;
        println!("a reload that changes one of them: {took:.2?}");
        assert!(took < Duration::from_secs(1));
    }
    let lasting = Duration::from_secs(30);
    let quiet = steady(&program, 400, lasting).await;
    let (busy, reloads) = tokio::join!(steady(&program, 400, lasting), async {
        let begin = Instant::now();
        let mut burst = 1;
        while begin.elapsed() < lasting {
            burst += 1;
            change(&folder, &program, 70_000, burst).await;
        }
        burst - 1
    });
    for (name, all) in [("without", &quiet), ("with", &busy)] {
        let [half, most, tail] = [0.5, 0.99, 0.999].map(|part| at(all, part));
        println!(
            "{name} reloads: {} reads, p50 {half:.2?}, p99 {most:.2?}, p99.9 {tail:.2?}",
            all.len()
        );
    }
    println!("reloads meanwhile: {reloads}");
    assert!(at(&busy, 0.999) <= at(&quiet, 0.999) + Duration::from_millis(5));
    println!("{} MiB in the end", resident(&program) >> 20);
}
