use std::os::unix::fs::symlink;
use std::process::Command;

use gatepay_tenancy::ConfigWatch;

use crate::support::{Folder, folder, tenant};

/// The only problem of a folder with one fault.
fn problem(folder: &Folder) -> String {
    let problems = folder.problems();
    let [problem] = &problems[..] else {
        panic!("{problems:?}")
    };
    problem
        .strip_prefix("tenants.d/acme.toml:3: credential[0].secret")
        .unwrap_or(problem)
        .to_owned()
}

fn acme() -> Folder {
    folder().tenant("acme", "")
}

fn secret_table(table: &str) -> Folder {
    let text = tenant("acme", "").replace("{ file = '../secrets/acme.key' }", table);
    acme().file("tenants.d/acme.toml", text)
}

#[test]
fn one_final_line_end_is_not_part_of_a_secret() {
    let same = |one: &str, other: &str| {
        let [one, other] =
            [one, other].map(|secret| acme().secret("acme", secret).loads().registry);
        let [one, other] =
            [&one, &other].map(|it| &it.tenants()[0].party.credentials[0].credential.key);
        one.same_secret(other)
    };
    assert!(same("made-up=", "made-up=\n"));
    assert!(same("made-up=", "made-up=\r\n"));
    assert!(!same("made-up=", "made-up"));
}

#[test]
fn a_secret_file_holds_a_secret_and_nothing_else() {
    for (content, text) in [
        (&b""[..], ".file: secret is empty"),
        (b"\n", ".file: secret is empty"),
        (
            b"made-up\n\n",
            ".file: secret has white space or a control character at byte 7",
        ),
        (
            b"made-up\r",
            ".file: secret has white space or a control character at byte 7",
        ),
        (
            b" made-up",
            ".file: secret has white space or a control character at byte 0",
        ),
        (
            b"made\0up",
            ".file: secret has white space or a control character at byte 4",
        ),
        (b"\xff", ".file: secret file is not UTF-8"),
        (
            &[b'a'; 4097],
            ".file: secret file is larger than 4096 bytes; it must contain the secret alone",
        ),
    ] {
        assert_eq!(
            problem(&acme().secret_with_mode("acme", content, 0o600)),
            text
        );
    }
    acme().secret_with_mode("acme", [b'a'; 4096], 0o600).loads();
}

#[test]
fn a_world_accessible_secret_file_is_refused() {
    for mode in [0o604, 0o602, 0o601, 0o644, 0o777] {
        let folder = acme().secret_with_mode("acme", "made-up", mode);
        assert_eq!(
            problem(&folder),
            ".file: secret file is world-accessible; run chmod o= FILE",
            "{mode:o}"
        );
    }
    for mode in [0o400, 0o440, 0o600, 0o640, 0o660] {
        acme().secret_with_mode("acme", "made-up", mode).loads();
    }
}

#[test]
fn a_secret_file_that_is_a_folder_or_device_is_refused() {
    for (path, text) in [
        ("../secrets", ".file: secret file is not a regular file"),
        ("/dev/null", ".file: secret file is not a regular file"),
        ("../nowhere", ".file: file not found"),
        ("", ".file: must not be empty"),
    ] {
        assert_eq!(
            problem(&secret_table(&format!("{{ file = '{path}' }}"))),
            text
        );
    }
}

/// A proxy that waited for the writer of a pipe would neither start nor reload.
#[test]
fn a_pipe_as_secret_file_is_refused_without_waiting_for_its_writer() {
    let pipe = |folder: &Folder, name: &str| {
        std::fs::remove_file(folder.path(name)).unwrap();
        let made = Command::new("mkfifo").arg(folder.path(name)).status();
        assert!(made.unwrap().success());
    };
    let folder = acme();
    pipe(&folder, "secrets/acme.key");
    let said = ".file: secret file is not a regular file";
    assert_eq!(problem(&folder), said);
    pipe(&folder, "tenants.d/acme.toml");
    assert_eq!(
        problem(&folder),
        "tenants.d/acme.toml: is not a regular file"
    );
}

#[test]
fn the_checked_mode_of_a_secret_file_is_that_of_the_links_target() {
    let folder = acme().secret_with_mode("real", "made-up", 0o440);
    std::fs::remove_file(folder.path("secrets/acme.key")).unwrap();
    symlink("real.key", folder.path("secrets/acme.key")).unwrap();
    folder.loads();
}

#[test]
fn a_secret_may_come_from_a_variable() {
    let folder = secret_table("{ env = 'ACME' }");
    assert_eq!(problem(&folder), ".env: environment variable is not set");
    let folder = folder.variable("ACME", "made up");
    assert_eq!(
        problem(&folder),
        ".env: secret has white space or a control character at byte 4"
    );
    folder.variable("ACME", "made-up").loads();
}

#[test]
fn one_final_line_end_of_a_variable_is_not_part_of_a_secret() {
    let key = |value: &str| {
        let folder = secret_table("{ env = 'ACME' }").variable("ACME", value);
        folder.loads().registry
    };
    let [plain, line, windows] = ["made-up", "made-up\n", "made-up\r\n"].map(key);
    for ended in [line, windows] {
        let [one, other] =
            [&plain, &ended].map(|it| &it.tenants()[0].party.credentials[0].credential.key);
        assert!(one.same_secret(other));
    }
    let folder = secret_table("{ env = 'ACME' }").variable("ACME", "made-up\n\n");
    assert_eq!(
        problem(&folder),
        ".env: secret has white space or a control character at byte 7"
    );
}

/// No editor shows such characters, and every signature would be wrong.
#[test]
fn a_secret_is_visible_ascii_unless_proxy_toml_says_otherwise() {
    for (content, found) in [
        ("\u{feff}made-up", "U+FEFF at byte 0"),
        ("made\u{200b}-up", "U+200B at byte 4"),
        ("made-up\u{a0}", "U+00A0 at byte 7"),
        ("made-üp\n", "U+00FC at byte 5"),
    ] {
        let said = format!(
            "secret has {found}, which is not visible ASCII; secret_text = \"any\" allows it"
        );
        let folder = acme().secret("acme", content);
        assert_eq!(problem(&folder), format!(".file: {said}"));
        let variable = secret_table("{ env = 'ACME' }").variable("ACME", content);
        assert_eq!(problem(&variable), format!(".env: {said}"));
        // U+00A0 is white space, which `secret_text = 'any'` refuses too.
        if !content.contains('\u{a0}') {
            let folder = folder.proxy("secret_text = 'any'");
            folder.loads();
            let served = ConfigWatch::open(&folder.path("proxy.toml"), &folder.env());
            assert!(served.is_ok(), "{content:?}");
        }
    }
}

#[test]
fn an_inline_secret_is_refused() {
    let named = "{ file = \"…\" } or { env = \"…\" }";
    for (table, text) in [
        (
            "'made-up'",
            format!(": inline secrets are not allowed; use {named}"),
        ),
        ("{}", format!(": must have exactly one source: {named}")),
        (
            "{ file = '../secrets/acme.key', env = 'ACME' }",
            format!(": must have exactly one source: {named}"),
        ),
        ("42", ": must be a table".to_owned()),
    ] {
        assert_eq!(
            problem(&secret_table(table).variable("ACME", "made-up")),
            text
        );
    }
}
