//! A way to block one thread of the real binary: a library in C, loaded before the C library (`LD_PRELOAD`). The binary
//! itself has no support for it.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::program::{Folder, Program};
use super::say;

/// One thread of a program, blocked from [`stick`](Self::stick) on.
pub(crate) struct Wedge(TempDir);

impl Wedge {
    /// Builds the library. Without a C compiler it returns `None`, and the test reports that it proved nothing.
    pub(crate) fn build() -> Option<Self> {
        let folder = TempDir::new().expect("a temporary folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/support/wedge.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([folder.path().join("wedge.so").as_os_str(), source.as_ref()])
            .arg("-ldl")
            .status();
        match built {
            Ok(status) => {
                assert!(status.success(), "the library compiles");
                Some(Self(folder))
            }
            Err(error) => {
                say(format_args!(
                    "SKIPPED: there is no C compiler here: {error}"
                ));
                None
            }
        }
    }

    /// Starts `serve` with the library: `thread` can be blocked.
    pub(crate) async fn serve(&self, folder: &Folder, thread: &str) -> Program {
        let path = |name: &str| self.0.path().join(name).display().to_string();
        let words = [
            "env".to_owned(),
            format!("LD_PRELOAD={}", path("wedge.so")),
            format!("WEDGE_FILE={}", path("stuck")),
            format!("WEDGE_THREAD={thread}"),
        ];
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        Program::serve_under(folder, &words).await
    }

    /// Blocks the thread in its next system call.
    pub(crate) fn stick(&self) {
        fs::write(self.0.path().join("stuck"), "").expect("a file");
    }

    /// Lets the thread continue.
    pub(crate) fn let_go(&self) {
        fs::remove_file(self.0.path().join("stuck")).expect("it was stuck");
    }
}
