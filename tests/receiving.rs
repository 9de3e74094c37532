//! The page for tenants that receive notifications: its programs verify a delivery, and its schedule is the one in force.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gatepay_core::delivery_schedule::TO_TENANTS;
use gatepay_core::{Stamp, sign};
use tempfile::TempDir;

use crate::support::{credential, say};

const BODY: &str = "{\"bizType\":\"PAY\",\"bizStatus\":\"PAY_SUCCESS\",\"data\":\"{\\\"amount\\\":\\\"1.21\\\"}\"}\n";
const SECRET: &str = "fake-shop-secret-0001";

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/for-tenants/receiving.md");
    fs::read_to_string(path).unwrap()
}

/// The program of the page in this language.
fn snippet(language: &str) -> String {
    let page = page();
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The signature by this secret. The programs compute it without the project's signing.
fn signature(secret: &str, timestamp: &str, nonce: &str, body: &str) -> String {
    let key = credential("client-acme", secret).key;
    let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).unwrap();
    sign(&key, &stamp, body.as_bytes()).to_string()
}

/// Whether the program accepts this delivery, by its exit code and its answer.
fn accepts(program: &[&str], folder: &Path, headers: [&str; 3], body: &str) -> bool {
    let mut child = Command::new(program[0])
        .args(&program[1..])
        .args(headers)
        .current_dir(folder)
        .env("GATEPAY_SECRET", SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(body.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.contains("SUCCESS"), output.status.success(), "{said}");
    said.trim() == r#"{"returnCode":"SUCCESS","returnMessage":""}"#
}

/// Runs the page's program, if this command of its language is installed.
fn verifies(language: &str, file: &str, build: &[&str], run: &[&str]) {
    let is_installed = |command: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(command).is_file())
    };
    let command = build.first().unwrap_or(&run[0]);
    if !is_installed(command) {
        say(format_args!("skipped: {command} is not installed"));
        return;
    }
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(file), snippet(language)).unwrap();
    if let [command, arguments @ ..] = build {
        let built = Command::new(command)
            .args(arguments)
            .current_dir(folder.path())
            .env("GO111MODULE", "off")
            .env("GOCACHE", folder.path().join("cache"))
            .status()
            .unwrap();
        assert!(built.success());
    }
    let (timestamp, nonce) = ("1767225600000", "n-1");
    let right = signature(SECRET, timestamp, nonce, BODY);
    let accepts = |headers, body| accepts(run, folder.path(), headers, body);
    assert!(accepts([timestamp, nonce, &right], BODY));
    let another = signature("fake-other-secret", timestamp, nonce, BODY);
    assert!(!accepts([timestamp, nonce, &another], BODY));
    assert!(!accepts([timestamp, nonce, &right[..126]], BODY));
    assert!(!accepts([timestamp, "n-2", &right], BODY));
    assert!(!accepts(["1767225600001", nonce, &right], BODY));
    assert!(!accepts([timestamp, nonce, &right], BODY.trim_end()));
}

#[test]
fn the_python_program_of_the_page_verifies_a_delivery() {
    verifies("python", "verify.py", &[], &["python3", "verify.py"]);
}

#[test]
fn the_go_program_of_the_page_verifies_a_delivery() {
    let build = ["go", "build", "-o", "verify", "verify.go"];
    verifies("go", "verify.go", &build, &["./verify"]);
}

#[test]
fn the_java_program_of_the_page_verifies_a_delivery() {
    verifies(
        "java",
        "Verify.java",
        &["javac", "Verify.java"],
        &["java", "Verify"],
    );
}

#[test]
fn the_page_has_the_schedule_in_force() {
    let mut rows: Vec<(Duration, u32)> = Vec::new();
    for failed in 1..=TO_TENANTS.repetitions() {
        let delay = TO_TENANTS.delay(failed).unwrap();
        match rows.last_mut() {
            Some((last, times)) if *last == delay => *times += 1,
            _ => rows.push((delay, 1)),
        }
    }
    let text = |delay: Duration| match delay.as_secs() {
        seconds if seconds % 3_600 == 0 => format!("{} h", seconds / 3_600),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    };
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(delay, times)| format!("| {} | {times} |\n", text(delay)))
        .collect();
    let table = format!("| after | times |\n| --- | --- |\n{}", rows.concat());
    let page = page();
    let (_, rest) = page.split_once("<!-- schedule:begin -->\n").unwrap();
    let (written, _) = rest.split_once("<!-- schedule:end -->").unwrap();
    assert_eq!(written, table);
}
