//! The memory limit that a pod or unit gives to the proxy: a control group, as the kernel's own, of version 2 or 1. The kernel
//! counts the process's memory to it, its socket buffers and its page tables, and ends a process that needs more.

use std::fs;
use std::path::{Path, PathBuf};

/// A control group with a memory limit, removed when dropped. The proxy has to have ended by then.
pub(crate) struct MemoryLimit {
    folder: PathBuf,
    /// The name of the file with the most memory that was charged.
    peak: &'static str,
    mebibytes: u64,
}

impl MemoryLimit {
    /// A group with this limit. An error names what this machine does not allow.
    pub(crate) fn of(mebibytes: u64) -> Result<Self, String> {
        let name = format!("gatepay-proxy-exhaustion-{}", std::process::id());
        let unified = Path::new("/sys/fs/cgroup");
        let (parent, limit, peak) = if unified.join("cgroup.controllers").exists() {
            write(&unified.join("cgroup.subtree_control"), "+memory")?;
            (unified.to_owned(), "memory.max", "memory.peak")
        } else {
            let limit = "memory.limit_in_bytes";
            (unified.join("memory"), limit, "memory.max_usage_in_bytes")
        };
        let folder = parent.join(name);
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let made = Self {
            folder,
            peak,
            mebibytes,
        };
        write(&made.folder.join(limit), &(mebibytes << 20).to_string())?;
        Ok(made)
    }

    /// The file that takes the ids of processes.
    pub(crate) fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// What the kernel saw, in words.
    pub(crate) fn report(&self) -> String {
        let peak = fs::read_to_string(self.folder.join(self.peak)).unwrap_or_default();
        let peak: u64 = peak.trim().parse().unwrap_or_default();
        format!(
            "the kernel held the proxy to {} MiB, and counted at most {} MiB",
            self.mebibytes,
            peak >> 20
        )
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // A group with a member stays, and is empty once that has ended.
        let _ = fs::remove_dir(&self.folder);
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
