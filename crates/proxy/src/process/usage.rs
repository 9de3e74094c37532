//! Process usage: the kernel's figures about this process, under the names that Prometheus' own clients use.
//!
//! `prometheus` has a collector of its own for them. It counts CPU time in whole seconds, which shows nothing of the
//! seconds that the status page compares, and of a proxy that needs a hundredth of a processor.

use std::fs;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// The process metrics, read anew for every scrape.
#[derive(Clone)]
pub struct ProcessUsage {
    cpu: Counter,
    resident: IntGauge,
    mapped: IntGauge,
    threads: IntGauge,
    open_files: IntGauge,
    most_files: IntGauge,
    started: Gauge,
    /// Guards the update of `cpu`: two simultaneous reads must not add the same time twice.
    looking: Arc<Mutex<()>>,
}

/// A sample of the process metrics.
#[derive(Debug, Clone, Copy)]
pub struct UsageSample {
    /// CPU time spent, in seconds.
    pub cpu: f64,
    /// Bytes in RAM.
    pub resident: i64,
    /// Open file descriptors.
    pub open_files: i64,
    /// The limit of open file descriptors.
    pub most_files: i64,
}

impl ProcessUsage {
    /// Creates the metrics, without a first reading.
    ///
    /// # Errors
    /// Never: the names are distinct and well formed, as a test shows.
    pub fn new() -> prometheus::Result<Self> {
        let gauge = IntGauge::new::<&str, &str>;
        Ok(Self {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "CPU time spent, user and system.",
            )?,
            resident: gauge("process_resident_memory_bytes", "Memory that is in RAM.")?,
            mapped: gauge("process_virtual_memory_bytes", "Memory that is mapped.")?,
            threads: gauge("process_threads", "Threads.")?,
            open_files: gauge("process_open_fds", "Open file descriptors.")?,
            most_files: gauge("process_max_fds", "How many file descriptors may be open.")?,
            started: Gauge::new(
                "process_start_time_seconds",
                "When the process started, in seconds since 1970.",
            )?,
            looking: Arc::default(),
        })
    }

    /// Reads the present values. A value that cannot be read stays unchanged: a scrape must not fail.
    pub fn look(&self) -> UsageSample {
        self.read();
        UsageSample {
            cpu: self.cpu.get(),
            resident: self.resident.get(),
            open_files: self.open_files.get(),
            most_files: self.most_files.get(),
        }
    }

    fn read(&self) {
        let _looking = self.looking.lock();
        let stat = fs::read_to_string("/proc/self/stat").ok();
        if let Some(stat) = stat.as_deref().and_then(ProcessStat::parse) {
            self.cpu.inc_by((stat.cpu - self.cpu.get()).max(0.0));
            self.threads.set(stat.threads);
            self.mapped.set(stat.mapped);
            self.resident.set(stat.resident);
            if let Some(booted) = booted() {
                self.started.set(booted + stat.started_after);
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them belongs to this reading itself.
            let open = open.count().saturating_sub(1);
            self.open_files.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
        // None is no limit.
        let most = getrlimit(Resource::Nofile).current;
        let most = most.and_then(|most| i64::try_from(most).ok());
        self.most_files.set(most.unwrap_or(i64::MAX));
    }

    fn parts(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu,
            &self.resident,
            &self.mapped,
            &self.threads,
            &self.open_files,
            &self.most_files,
            &self.started,
        ]
    }
}

impl Collector for ProcessUsage {
    fn desc(&self) -> Vec<&Desc> {
        let parts: [&dyn Collector; 7] = self.parts();
        parts.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        let parts = self.parts().into_iter();
        parts.flat_map(Collector::collect).collect()
    }
}

/// The figures in `/proc/self/stat` that are metrics, in base units.
#[derive(Debug, PartialEq)]
struct ProcessStat {
    /// CPU time spent, user and system.
    cpu: f64,
    threads: i64,
    /// The start, in seconds after the machine's.
    started_after: f64,
    mapped: i64,
    resident: i64,
}

impl ProcessStat {
    /// Reads the line (`man proc_pid_stat`). The program's name, in parentheses, may have any bytes, so fields count after it.
    fn parse(line: &str) -> Option<Self> {
        let (_, fields) = line.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The first one here is the third of the line.
        let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        Some(Self {
            cpu: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            started_after: seconds(field(22)?),
            mapped: field(23)?,
            resident: field(24)?.saturating_mul(i64::try_from(page_size()).ok()?),
        })
    }
}

/// When the machine started, in seconds since 1970.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// The kernel's ticks in seconds.
#[expect(clippy::cast_precision_loss, reason = "exact for a million years")]
fn seconds(ticks: i64) -> f64 {
    ticks as f64 / clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_moves_no_field() {
        let line = "7 (a) R 1) S 1 7 7 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 9 0 12300 81920000 250 18446744073709551615 1 1";
        let stat = ProcessStat {
            cpu: seconds(300),
            threads: 9,
            started_after: seconds(12_300),
            mapped: 81_920_000,
            resident: 250 * i64::try_from(page_size()).unwrap(),
        };
        assert_eq!(ProcessStat::parse(line), Some(stat));
        assert_eq!(ProcessStat::parse("7 (a) S 1 7"), None);
        assert_eq!(ProcessStat::parse(""), None);
    }

    #[test]
    fn this_very_process_is_seen() {
        let process = ProcessUsage::new().unwrap();
        let families = process.collect();
        assert_eq!(families.len(), process.desc().len());
        assert!(process.resident.get() > 100_000 && process.mapped.get() >= process.resident.get());
        assert!(process.threads.get() >= 1 && process.open_files.get() >= 3);
        assert!(process.most_files.get() >= process.open_files.get());
        // After 2020, and before the year 3000.
        assert!((1.577e9..3.25e10).contains(&process.started.get()));
        let before = process.cpu.get();
        let mut work = 0_u64;
        while process.cpu.get() <= before {
            work = (0..1_000_000).fold(work, |sum, n| std::hint::black_box(sum ^ n));
            process.read();
        }
    }
}
