//! Notes the commit, its date and the compiler for `--version`.
//!
//! Nothing here may fail: a source tarball has no repository, and a build machine may have no git.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for variable in ["GATEPAY_PROXY_COMMIT", "SOURCE_DATE_EPOCH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let root = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = root.and_then(|folder| folder.parent()?.parent().map(Path::to_owned));
    // A development build does not follow the commits: each would build the program and its tests anew.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let own = root.filter(|root| is_release && is_repository(root));
    let commit = env::var("GATEPAY_PROXY_COMMIT").ok();
    let commit = commit.or_else(|| output(own.as_deref()?, &["rev-parse", "--short=12", "HEAD"]));
    let date = own.as_deref().and_then(|root| {
        follow(root);
        output(root, &["show", "-s", "--format=%cs", "HEAD"])
    });
    let rustc = env::var("RUSTC").ok().and_then(|rustc| {
        let version = Command::new(rustc).arg("--version").output().ok()?;
        let version = String::from_utf8(version.stdout).ok()?;
        // `rustc 1.95.0 (59807616e 2026-04-14)`
        version.split(' ').nth(1).map(str::to_owned)
    });
    let is_quick = env::var("OPT_LEVEL").is_ok_and(|level| level != "3");
    let known = [
        Some(
            commit
                .clone()
                .unwrap_or_else(|| "no commit noted".to_owned()),
        ),
        date.clone(),
        rustc.as_ref().map(|rustc| format!("rustc {rustc}")),
        // Nobody should take a quick build for the one that packages have.
        is_quick.then(|| "quick build".to_owned()),
    ];
    let known: Vec<_> = known.into_iter().flatten().collect();
    let number = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let line = format!("{number} ({})", known.join(", "));
    for (name, value) in [
        ("COMMIT", commit.unwrap_or_default()),
        ("DATE", date.unwrap_or_default()),
        ("RUSTC", rustc.unwrap_or_default()),
        ("LINE", line),
    ] {
        println!("cargo:rustc-env=GATEPAY_PROXY_BUILD_{name}={value}");
    }
}

/// Whether the repository is that of this source: a tarball may be unpacked in the repository of another.
fn is_repository(root: &Path) -> bool {
    let top = output(root, &["rev-parse", "--show-toplevel"]).map(PathBuf::from);
    top.and_then(|top| top.canonicalize().ok()) == root.canonicalize().ok()
}

/// Runs this script again once there is another commit.
fn follow(root: &Path) {
    for name in ["HEAD", "logs/HEAD"] {
        let path = output(root, &["rev-parse", "--git-path", name]);
        if let Some(path) = path
            .map(|path| root.join(path))
            .filter(|path| path.exists())
        {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
}

fn output(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
