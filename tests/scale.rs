//! Many tenants, in the real binary: how much memory each takes, and how soon it starts.
//!
//! The long form has 100,000 of them, and wants a release build and a machine that does nothing else:
//! `cargo test --release -p gatepay-proxy --test proxy scale:: -- --ignored --nocapture`.

use crate::support::program::{Folder, Program};
use crate::support::*;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

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
fn folder_of(tenants: usize, layout: Layout) -> Folder {
    let folder = Folder::before(UNUSED);
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
    let folders = [few, tenants].map(|count| folder_of(count, layout));
    let alone = Program::serve(&folders[0]).await;
    let begin = Instant::now();
    let program = Program::serve(&folders[1]).await;
    let took = begin.elapsed();
    let bytes = resident(&program).saturating_sub(resident(&alone));
    (bytes / (tenants - few), took)
}

/// Reduced: 5,000 tenants instead of 100,000. What the first thousand take is left out, since what a process takes at once
/// would weigh on each of so few; and they may take half as much again.
#[tokio::test]
async fn five_thousand_tenants_are_small() {
    let (bytes, _) = weigh(1_000, 5_000, Layout::Files).await;
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
