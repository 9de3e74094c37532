//! The proxy's binary: which one it is, started, and where it says that it serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process, killed if it is not ended.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has mostly ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The one that was built with the benchmark, or the one that `GATEPAY_PROXY` names.
pub(crate) fn path() -> PathBuf {
    let named = std::env::var_os("GATEPAY_PROXY");
    // It is started in other folders.
    fs::canonicalize(named.unwrap_or(env!("CARGO_BIN_EXE_gatepay-proxy").into())).unwrap()
}

/// It, to be started in this folder.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

/// The line of its log by which it says that it serves, once it does.
pub(crate) fn serving(log: &str) -> Option<serde_json::Value> {
    let lines = log.lines();
    let mut lines = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.find(|line| line["message"] == "serving")
}
