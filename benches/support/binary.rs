//! The proxy's binary: its path, its start, and the address it reports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process, killed when dropped if it has not ended.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The process has mostly ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The path of the binary built with the benchmark, or of the binary named by `GATEPAY_PROXY`.
pub(crate) fn path() -> PathBuf {
    let named = std::env::var_os("GATEPAY_PROXY");
    // An absolute path, because the binary is started in other folders.
    fs::canonicalize(named.unwrap_or(env!("CARGO_BIN_EXE_gatepay-proxy").into())).unwrap()
}

/// A command that starts the binary in this folder.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

/// The log line that reports serving, once there is one.
pub(crate) fn serving(log: &str) -> Option<serde_json::Value> {
    let lines = log.lines();
    let mut lines = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.find(|line| line["message"] == "serving")
}
