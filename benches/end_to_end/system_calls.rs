//! System calls of a request, as `strace` counts them in all threads of the proxy.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::{Bench, Kind, Options};

/// Enough that the program's periodic work hardly counts.
const REQUESTS: usize = 20_000;

/// Prints the system calls of a hundred requests, the frequent ones first. Returns the number of wrong answers.
pub(crate) fn run(options: &Options) -> usize {
    let mut bench = Bench::start(Kind::Proxy, options, 1, false);
    bench.target.settle();
    let strace = Strace::attach(bench.target.id().unwrap());
    let good = bench.run(REQUESTS, None, Duration::from_mins(2)).good;
    // The access-line writer wakes every few milliseconds.
    thread::sleep(Duration::from_millis(500));
    let mut calls = strace.detach();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let for_a_hundred = |count: u64| count as f64 * 100.0 / good as f64;
    let all = calls.iter().map(|(_, count)| count).sum();
    println!("system calls per 100 requests: {:.0}", for_a_hundred(all));
    for (name, count) in calls {
        if for_a_hundred(count) >= 0.05 {
            println!("    {name}: {:.1}", for_a_hundred(count));
        }
    }
    bench.wrong
}

/// A running `strace`.
struct Strace {
    process: Child,
    counts: NamedTempFile,
}

impl Strace {
    fn attach(id: u32) -> Self {
        let (counts, said) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        let process = Command::new("strace")
            .args(["-f", "-c", "-U", "calls,name", "-p", &id.to_string(), "-o"])
            .arg(counts.path())
            .stdin(Stdio::null())
            .stderr(said.reopen().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("strace: {error}"));
        let mut strace = Self { process, counts };
        let begun = Instant::now();
        // Its first words are that every thread is attached.
        while !fs::read_to_string(said.path())
            .unwrap()
            .contains("attached")
        {
            let ended = strace.process.try_wait().unwrap().is_some();
            assert!(
                !ended && begun.elapsed() < Duration::from_mins(1),
                "strace does not attach: {}",
                fs::read_to_string(said.path()).unwrap()
            );
            thread::sleep(Duration::from_millis(20));
        }
        strace
    }

    /// How often each system call was made.
    fn detach(mut self) -> Vec<(String, u64)> {
        let interrupt = ["-INT", &self.process.id().to_string()];
        assert!(
            Command::new("kill")
                .args(interrupt)
                .status()
                .unwrap()
                .success()
        );
        self.process.wait().unwrap();
        let text = fs::read_to_string(self.counts.path()).unwrap();
        let lines = text.lines().filter_map(|line| {
            let (count, name) = line.trim().split_once(char::is_whitespace)?;
            Some((name.trim().to_owned(), count.parse().ok()?))
        });
        let calls: Vec<_> = lines.filter(|(name, _)| name != "total").collect();
        assert!(!calls.is_empty(), "strace counted nothing: {text}");
        calls
    }
}
