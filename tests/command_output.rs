//! Output of commands for programs, and the places of the configuration.

use crate::support::program::{Folder, command, printed, run};
use crate::support::*;
use serde_json::Value;
use std::fs;
use std::process::Output;

/// The one JSON object that a command prints, and its exit code.
fn json(output: &Output) -> (Value, Option<i32>) {
    let value = serde_json::from_slice(&output.stdout);
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    (
        value.unwrap_or_else(|error| panic!("{error}: {}", said())),
        output.status.code(),
    )
}

#[test]
fn the_configuration_is_found_in_the_folder_one_works_in_or_by_the_variable() {
    let folder = Folder::before(UNUSED);
    let mut here = command();
    here.arg("check").current_dir(folder.name("."));
    let (said, code) = printed(&here.output().expect("it runs"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("proxy.toml: fine"), "{said}");

    let config = folder.name("proxy.toml");
    let elsewhere = tempfile::tempdir().expect("there is room for a folder");
    let mut named = command();
    named
        .arg("check")
        .current_dir(&elsewhere)
        .env("GATEPAY_PROXY_CONFIG", &config);
    let (said, code) = printed(&named.output().expect("it runs"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("{config}: fine")), "{said}");

    for arguments in [
        &["check"][..],
        &["serve"],
        &["tenant", "list"],
        &["audit", "verify"],
    ] {
        let mut lost = command();
        lost.args(arguments)
            .current_dir(&elsewhere)
            .env("GATEPAY_PROXY_CONFIG", "/no/file");
        let (said, code) = printed(&lost.output().expect("it runs"));
        assert_ne!(code, Some(0), "{arguments:?}: {said}");
        let told = "no configuration is at /no/file, which $GATEPAY_PROXY_CONFIG names; --config FILE goes before it";
        assert_eq!(said.matches(told).count(), 1, "{arguments:?}: {said}");
    }
}

#[test]
fn check_reports_to_programs_and_warns_of_missing_tenants_and_ignored_files() {
    let folder = Folder::before(UNUSED);
    let config = folder.name("proxy.toml");
    let check = || run(&["check", "--json", "--config", &config]);
    let (report, code) = json(&check());
    assert_eq!(
        (&report["fine"], code),
        (&Value::from(true), Some(0)),
        "{report}"
    );
    assert_eq!(
        (&report["tenants"], &report["operators"]),
        (&2.into(), &0.into())
    );
    assert!(
        report["memory_limit_bytes"].as_u64() > report["memory_bytes"].as_u64(),
        "{report}"
    );
    assert_eq!(report["notes"], Value::Array(Vec::new()));

    for name in ["acme.toml", "globex.toml"] {
        let file = folder.name(&format!("tenants.d/{name}"));
        fs::rename(&file, format!("{file}.disabled")).expect("the folder is ours");
    }
    fs::write(folder.name("tenants.d/initech.yaml"), "").expect("the folder is ours");
    let (report, code) = json(&check());
    assert_eq!(code, Some(0), "{report}");
    let notes = report["notes"].to_string();
    for note in ["no tenant is configured", "initech.yaml: is not read"] {
        assert!(notes.contains(note), "{notes}");
        let (said, _) = printed(&folder.run("check"));
        assert!(said.contains(note), "{said}");
    }

    folder.file("proxy.toml", "poll_ms = 0\n");
    let (report, code) = json(&check());
    assert_eq!((&report["fine"], code), (&Value::from(false), Some(64)));
    let problems = report["problems"].as_array().into_iter().flatten();
    let lines: Vec<_> = problems
        .filter(|problem| problem["key"] == "poll_ms")
        .map(|problem| &problem["line"])
        .collect();
    assert_eq!(lines, [&Value::from(1)], "{report}");
}

#[test]
fn a_folder_that_the_process_may_not_use_is_told_by_file_line_key_and_folder() {
    let folder = Folder::before(UNUSED);
    folder.file("no-folder", "");
    let audit = "[audit]\ndir = 'no-folder'\nkey = { file = 'secrets/institution.key' }\n";
    let config = folder.name("proxy.toml");
    let before = fs::read_to_string(&config).expect("it was written");
    fs::write(&config, format!("{before}\n{audit}")).expect("the folder is ours");
    let line = before.lines().count() + 3;
    for arguments in ["check", "serve"] {
        let (said, code) = printed(&folder.run(arguments));
        assert!(matches!(code, Some(1 | 64)), "{arguments}: {said}");
        let told = format!("proxy.toml:{line}: audit.dir: {}", folder.name("no-folder"));
        assert!(said.contains(&told), "{arguments}: {said}\nnot: {told}");
    }
}

#[test]
fn sign_explain_and_call_answer_programs_in_json() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, "acme-secret-0123456789").expect("the folder is ours");
    let secret = secret.to_str().expect("it is text");
    let sign = [
        "sign",
        "--json",
        "--secret-file",
        secret,
        "--client-id",
        "acme-1",
    ];
    let stamp = [
        "--timestamp",
        "1767225600000",
        "--nonce",
        "k64",
        "--data",
        "{}",
    ];
    let (signed, code) = json(&run(&[&sign[..], &stamp].concat()));
    assert_eq!(code, Some(0));
    assert_eq!(
        (&signed["body_bytes"], &signed["signed_bytes"]),
        (&2.into(), &21.into())
    );
    let signature = signed["headers"]["x-gatepay-signature"]
        .as_str()
        .expect("it is a header");
    assert_eq!(signed["signature"], signature);

    let explain = |signature: &str| {
        let explain = [
            "explain",
            "--json",
            "--secret-file",
            secret,
            "--signature",
            signature,
        ];
        let now = ["--now", "1767225600500"];
        json(&run(&[&explain[..], &stamp, &now].concat()))
    };
    let (right, code) = explain(signature);
    assert_eq!(
        (&right["ok"], code),
        (&Value::from(true), Some(0)),
        "{right}"
    );
    let (wrong, code) = explain(&"0".repeat(128));
    assert_eq!(
        (&wrong["ok"], code),
        (&Value::from(false), Some(1)),
        "{wrong}"
    );
    assert_eq!(wrong["refusal"], "signature_mismatch");
    let failed = wrong["checks"].as_array().into_iter().flatten();
    let failed: Vec<_> = failed.filter(|check| check["ok"] == false).collect();
    assert!(
        matches!(&failed[..], [check] if check["name"] == "signature"),
        "{wrong}"
    );

    let closed = Nowhere::reserve();
    let url = closed.url();
    let call = [
        "call",
        "--json",
        "--secret-file",
        secret,
        "--client-id",
        "acme-1",
        "--url",
        &url,
    ];
    let (unsent, code) = json(&run(
        &[&call[..], &["GET", "/v1/pay/balance/query"]].concat()
    ));
    assert_eq!(
        (&unsent["sent"], code),
        (&Value::from(false), Some(1)),
        "{unsent}"
    );
    assert!(
        unsent["error"].to_string().contains("nothing was sent"),
        "{unsent}"
    );
}

#[test]
fn the_manual_has_a_page_for_each_command_that_help_lists() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let name = folder.path().to_str().expect("it is text");
    let (said, code) = printed(&run(&["manual", name]));
    assert_eq!(code, Some(0), "{said}");
    let (help, _) = printed(&run(&["--help"]));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    // Descriptions go on in lines that begin further to the right.
    let commands: Vec<_> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() > 15, "{help}");
    for command in commands {
        let page = folder.path().join(format!("gatepay-proxy-{command}.1"));
        let page = fs::read_to_string(page).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(page.contains(".SH NAME"), "{command}");
    }
    assert!(folder.path().join("gatepay-proxy-tenant-add.1").exists());
}
