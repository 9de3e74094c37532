//! Tenants are onboarded in bulk, whole or not at all, and changed key by key.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use gatepay_core::header;
use serde_json::Value;

use crate::support::program::{Folder, Program, printed, run};
use crate::support::*;

/// A list of tenants, each with a sub-account, a rate and a contact of its own.
fn list(tenants: std::ops::Range<u32>) -> String {
    let mut text =
        "id,sub_account,limits.requests_per_second,operations.allow,contact\n".to_owned();
    for number in tenants {
        writeln!(
            text,
            "shop{number:04},77{number:06},{},payment balance,\"Shop {number}, +49 555\"",
            number + 40
        )
        .unwrap();
    }
    text
}

fn add(folder: &Folder, more: &[&str]) -> (String, Option<i32>) {
    let (list, config) = (folder.name("tenants.csv"), folder.name("proxy.toml"));
    let words = ["tenant", "add", "--from", &list, "--config", &config];
    printed(&run(&[&words, more].concat()))
}

/// The names in the folders of tenants and secrets, the hidden ones too.
fn names(folder: &Folder) -> BTreeSet<String> {
    let entries = |name| fs::read_dir(folder.path(name)).unwrap();
    let all = entries("tenants.d").chain(entries("secrets"));
    all.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn twenty_tenants_of_a_list_are_served_by_a_running_process_after_one_command() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    folder.file("tenants.csv", &list(0..20));
    let program = Program::serve(&folder).await;
    let (said, code) = add(&folder, &["--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("would add 20 tenants"), "{said}");
    assert!(!folder.path("tenants.d/tenants.toml").exists());

    let (said, code) = add(&folder, &["--json"]);
    assert_eq!(code, Some(0), "{said}");
    let added: Value = serde_json::from_str(&said).unwrap();
    let added = added["tenants"].as_array().unwrap();
    assert_eq!(added.len(), 20);
    let (_, answer) = program.reload("").await;
    assert!(!answer.to_string().contains("problem"), "{answer}");
    for (number, tenant) in added.iter().enumerate() {
        let id = tenant["id"].as_str().unwrap();
        let shown = program.admin("GET", &format!("/tenants/{id}")).await;
        assert_eq!(shown.status, 200, "{id} of {number}");
        let config = folder.name("proxy.toml");
        let (said, code) = printed(&run(&["tenant", "show", id, "--json", "--config", &config]));
        assert_eq!(code, Some(0), "{said}");
        let shown: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(shown["limits.requests_per_second"], 40 + number);
        assert_eq!(shown["contact"], format!("Shop {number}, +49 555"));
    }
    let secret = fs::read_to_string(added[7]["secret_file"].as_str().unwrap()).unwrap();
    assert_eq!(secret.trim_end(), added[7]["secret"].as_str().unwrap());
    let url = format!("http://{}", program.address);
    let called = run(&[
        "call",
        "--url",
        &url,
        "--client-id",
        added[7]["client_id"].as_str().unwrap(),
        "--secret-file",
        added[7]["secret_file"].as_str().unwrap(),
        "POST",
        "/v1/pay/order/query",
        "--data",
        BY_NUMBER,
    ]);
    let (said, _) = printed(&called);
    assert_eq!(gatepay.count(), 1, "{said}");
    assert_eq!(
        gatepay.last().header(header::ON_BEHALF_OF),
        Some("77000007"),
        "{said}"
    );
}

#[test]
fn a_command_that_is_killed_while_it_adds_a_list_leaves_all_tenants_or_none() {
    let mut ends = BTreeSet::new();
    for seen in [1, 40, 120, 200] {
        let folder = Folder::before(UNUSED);
        let before = names(&folder);
        folder.file("tenants.csv", &list(0..200));
        let words = ["tenant", "add", "--from", &folder.name("tenants.csv")];
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatepay-proxy"))
            .args(words)
            .args(["--config", &folder.name("proxy.toml")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while names(&folder).len() < before.len() + seen && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let is_all = folder.path("tenants.d/tenants.toml").exists();
        ends.insert(is_all);

        // The next command, of another list, ends what the killed one has left.
        folder.file("tenants.csv", &list(900..901));
        let (said, code) = add(&folder, &[]);
        assert_eq!(code, Some(0), "{said}");
        let after = names(&folder);
        let secrets = (0..200).filter(|it| after.contains(&format!("shop{it:04}.key")));
        assert_eq!(secrets.count(), if is_all { 200 } else { 0 });
        assert!(!after.iter().any(|name| name.starts_with('.')), "{after:?}");
        let (said, code) = printed(&folder.run("check"));
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said.contains("shop0199"), is_all, "{said}");
    }
    assert!(ends.contains(&false), "one was killed in the middle");
}

#[test]
fn a_wrong_list_adds_nothing_and_every_problem_names_its_line_and_column() {
    let folder = Folder::before(UNUSED);
    let before = names(&folder);
    folder.file(
        "tenants.csv",
        &format!(
            "id,sub_account,limits.burst,note\nhooli,71,0,\n{},72,9,\ninitech,73,9,\"two\nlines\"\n",
            acme().id
        ),
    );
    let (said, code) = add(&folder, &["--json"]);
    assert_eq!(code, Some(64), "{said}");
    for problem in [
        "tenants.csv:2: column 3 (limits.burst): must be at least 1",
        "tenants.csv:3: column 1 (id): is already used at tenants.d/acme.toml:1",
        "tenants.csv:4: column 4 (note): must be one line",
        "no tenant was added: the list has 3 problems",
    ] {
        assert!(said.contains(problem), "{problem}\n{said}");
    }
    assert_eq!(names(&folder), before);
}

#[test]
fn a_tenants_keys_are_set_with_comments_kept_and_the_difference_printed() {
    let folder = Folder::before(UNUSED);
    let config = folder.name("proxy.toml");
    let set = |more: &[&str]| {
        let words = ["tenant", "set", "acme", "--config", &config];
        printed(&run(&[&words[..], more].concat()))
    };
    folder.edit("tenants.d/acme.toml", "id = ", "# ours\nid = ");
    let text = || fs::read_to_string(folder.path("tenants.d/acme.toml")).unwrap();
    let before = text();
    let (said, code) = set(&["limits.requests_per_second=80", "--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("requests_per_second = 80"), "{said}");
    assert_eq!(text(), before);

    let (said, code) = set(&["limits.requests_per_second=80", "contact=Ada, +49 555"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("contact = \"Ada, +49 555\""), "{said}");
    assert!(text().starts_with("# ours\n"), "{}", text());
    assert!(text().contains("requests_per_second = 80"), "{}", text());
    let after = text();

    for (assignment, says) in [
        ("limits.brust=3", "did you mean \"limits.burst\"?"),
        ("limits.burst=0", "must be at least 1"),
        ("limits.burst=many", "must be a whole number"),
        ("standing=active", "tenant resume"),
        ("id=other", "keeps its id"),
        ("limits", "KEY=VALUE"),
    ] {
        let (said, code) = set(&["note=never", assignment]);
        assert_eq!(code, Some(64), "{assignment}: {said}");
        assert!(said.contains(says), "{assignment}: {said}");
        assert_eq!(text(), after, "all are set, or none");
    }
    let (said, _) = set(&["contact="]);
    assert!(said.contains("contact"), "{said}");
    assert!(!text().contains("contact"));
    let (said, _) = set(&["contact="]);
    assert!(said.contains("has these values already"), "{said}");
}
