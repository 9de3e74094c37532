//! Process usage: the kernel's figures about this process, under the names that Prometheus' own clients use.

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
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(ProcStat::parse) {
            self.cpu.inc_by((stat.cpu - self.cpu.get()).max(0.0));
            self.threads.set(stat.threads);
            self.mapped.set(stat.mapped);
            self.resident.set(stat.resident);
            let booted = read("/proc/stat").as_deref().and_then(booted);
            if let Some(booted) = booted {
                self.started.set(booted + stat.started);
            }
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // One of them belongs to this reading itself.
            let open = files.count().saturating_sub(1);
            self.open_files.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
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

/// The used fields of `/proc/self/stat`, in seconds and bytes.
struct ProcStat {
    cpu: f64,
    threads: i64,
    /// The start of the process, in seconds since the machine booted.
    started: f64,
    mapped: i64,
    resident: i64,
}

impl ProcStat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name, in parentheses, and may contain any text; the third follows.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
        let large = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        let ticks = f64::from(u32::try_from(clock_ticks_per_second()).ok()?);
        let page = i64::try_from(page_size()).ok()?;
        Some(Self {
            cpu: (f64::from(field(14)?) + f64::from(field(15)?)) / ticks,
            threads: large(20)?,
            started: f64::from(field(22)?) / ticks,
            mapped: large(23)?,
            resident: large(24)?.saturating_mul(page),
        })
    }
}

/// When the machine booted, in seconds since 1970.
fn booted(stat: &str) -> Option<f64> {
    let mut lines = stat.lines().filter_map(|line| line.strip_prefix("btime "));
    lines.next()?.trim().parse().ok()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_name_that_looks_like_more_fields_is_skipped() {
        let numbers: Vec<String> = (4..=24).map(|number| number.to_string()).collect();
        let text = format!("1 (a) b 9 9) S {}", numbers.join(" "));
        let stat = ProcStat::parse(&text).unwrap();
        assert_eq!((stat.threads, stat.mapped), (20, 23));
        assert!(ProcStat::parse("1 (x) S 1 2").is_none());
    }
}
