//! `version`: of which source this program was built, and with which compiler.

use clap::Args;
use serde_json::json;

use super::{ExitStatus, say, say_json};

/// Print the version, the commit it was built of, the commit's date and the compiler's version.
#[derive(Args)]
pub(crate) struct VersionCommand {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

const NUMBER: &str = env!("CARGO_PKG_VERSION");
/// Empty in a development build, and in a build of a tarball without `GATEPAY_PROXY_COMMIT`.
const COMMIT: &str = env!("GATEPAY_PROXY_BUILD_COMMIT");
const DATE: &str = env!("GATEPAY_PROXY_BUILD_DATE");
const RUSTC: &str = env!("GATEPAY_PROXY_BUILD_RUSTC");

/// The version in one line: `0.1.0 (4d1fc6dd2b7a, 2026-11-30, rustc 1.95.0)`, with `quick build` at its end unless it is built as packages are.
pub(crate) const LINE: &str = env!("GATEPAY_PROXY_BUILD_LINE");

impl VersionCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let known = |text: &'static str| (!text.is_empty()).then_some(text);
        if self.json {
            say_json(&json!({
                "version": NUMBER,
                "commit": known(COMMIT),
                "date": known(DATE),
                "rustc": known(RUSTC),
            }));
        } else {
            say(format_args!("gatepay-proxy {LINE}"));
        }
        ExitStatus::Fine
    }
}
