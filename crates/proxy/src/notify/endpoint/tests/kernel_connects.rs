//! The tests of forbidden destinations once more, with every connection as the kernel sees it: under `strace`.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

/// Each test with the addresses that it connects to, and how often. The connections to 127.0.0.1 are those that count
/// what reached a listener, and those to the tests' own servers, which are allowed there.
const TESTS: [(&str, &[(&str, usize)]); 6] = [
    (
        "no_spelling_of_a_forbidden_host_is_connected_to",
        &[("127.0.0.1", 1)],
    ),
    (
        "a_name_with_a_forbidden_address_is_not_connected_to_at_any_of_its_addresses",
        &[("127.0.0.1", 2), ("127.0.0.9", 1)],
    ),
    (
        "a_zone_makes_no_link_local_address_allowed",
        &[("127.0.0.1", 1)],
    ),
    (
        "a_name_that_rebinds_between_look_ups_is_refused_at_the_next_connection",
        &[("127.0.0.1", 2)],
    ),
    (
        "a_kept_connection_stays_at_the_address_that_was_checked",
        &[("127.0.0.1", 1)],
    ),
    ("no_redirect_is_followed", &[("127.0.0.1", 33)]),
];

#[test]
fn the_kernel_sees_no_connection_to_a_forbidden_address() {
    let traces = Command::new("strace")
        .args(["-qq", "-e", "trace=none", "true"])
        .stderr(Stdio::null())
        .status();
    if !traces.is_ok_and(|status| status.success()) {
        eprintln!("skipped: strace is missing, or may not trace a process here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (test, expected) in TESTS {
        let trace = folder.path().join(test);
        let room = module_path!().split_once("::").unwrap().1;
        let room = room.strip_suffix("kernel_connects").unwrap();
        let output = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-e",
                "trace=connect,sendto,sendmsg,sendmmsg",
                "-o",
            ])
            .arg(&trace)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{room}forbidden_destinations::{test}")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{test}: {said}"
        );
        let trace = fs::read_to_string(&trace).unwrap();
        let expected = expected
            .iter()
            .map(|(address, count)| ((*address).to_owned(), *count));
        assert_eq!(addressed(&trace), expected.collect(), "{test}:\n{trace}");
    }
}

/// The Internet addresses to which the traced calls connect or send, with their numbers.
fn addressed(trace: &str) -> BTreeMap<String, usize> {
    let mut addresses = BTreeMap::new();
    for line in trace
        .lines()
        .filter(|line| line.contains("sa_family=AF_INET"))
    {
        let address = line
            .split_once("inet_addr(\"")
            .or_else(|| line.split_once("inet_pton(AF_INET6, \""))
            .and_then(|(_, rest)| rest.split_once('"'));
        let (address, _) = address.unwrap_or_else(|| panic!("an address in {line}"));
        *addresses.entry(address.to_owned()).or_default() += 1;
    }
    addresses
}

#[test]
fn addresses_of_both_families_are_read_from_a_trace() {
    let trace = r#"7 connect(3, {sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr("127.0.0.1")}, 16) = -1 ECONNREFUSED
7 connect(4, {sa_family=AF_INET6, sin6_port=htons(1), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "fe80::1", &sin6_addr), sin6_scope_id=1}, 28 <unfinished ...>
8 connect(5, {sa_family=AF_UNIX, sun_path="/run/x"}, 110) = 0
8 connect(5, {sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr("127.0.0.1")}, 16) = 0"#;
    let expected = [("127.0.0.1".to_owned(), 2), ("fe80::1".to_owned(), 1)];
    assert_eq!(addressed(trace), expected.into());
}
