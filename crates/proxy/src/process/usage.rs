//! Process usage: the kernel's figures about this process, under the names that Prometheus' own clients use.
//!
//! `prometheus` has a collector of its own for them. It counts CPU time in whole seconds, which shows nothing of the
//! seconds that the status page compares, and of a proxy that needs a hundredth of a processor.

use std::sync::Arc;

use parking_lot::Mutex;
use procfs::process::{LimitValue, Process, Stat};
use procfs::{ProcResult, boot_time_secs, page_size, ticks_per_second};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge};

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
        let Ok(process) = Process::myself() else {
            return;
        };
        if let Ok(stat) = process.stat() {
            self.cpu.inc_by((cpu(&stat) - self.cpu.get()).max(0.0));
            self.threads.set(stat.num_threads);
            self.mapped.set(whole(stat.vsize));
            self.resident
                .set(whole(stat.rss.saturating_mul(page_size())));
            if let Ok(started) = started(&stat) {
                self.started.set(started);
            }
        }
        if let Ok(open) = process.fd_count() {
            // One of them belongs to this reading itself.
            let open = open.saturating_sub(1);
            self.open_files.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
        if let Ok(limits) = process.limits() {
            self.most_files.set(match limits.max_open_files.soft_limit {
                LimitValue::Value(most) => whole(most),
                LimitValue::Unlimited => i64::MAX,
            });
        }
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

/// CPU time spent, in seconds.
fn cpu(stat: &Stat) -> f64 {
    seconds(stat.utime + stat.stime)
}

/// When the process started, in seconds since 1970.
fn started(stat: &Stat) -> ProcResult<f64> {
    #[expect(clippy::cast_precision_loss, reason = "exact for 200 million years")]
    let booted = boot_time_secs()? as f64;
    Ok(booted + seconds(stat.starttime))
}

/// The kernel's ticks in seconds.
#[expect(clippy::cast_precision_loss, reason = "exact for a million years")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / ticks_per_second() as f64
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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
}
