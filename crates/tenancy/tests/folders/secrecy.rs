use std::fs;

use gatepay_tenancy::load;
use proptest::prelude::*;

use crate::support::{Folder, folder, tenant};

const CANARY: &str = "c4n4RyC4N4rYc4N4";

#[track_caller]
fn keeps_it_secret(folder: &Folder) {
    let problems = folder.load().err().expect("something is wrong");
    assert!(!problems.is_empty());
    for problem in problems {
        let shown = format!("{problem} {problem:?}");
        // Even four bytes of the canary must not be shown.
        for piece in CANARY.as_bytes().windows(4) {
            let piece = str::from_utf8(piece).unwrap();
            assert!(!shown.contains(piece), "{shown}");
        }
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_never_repeated() {
    let acme = tenant("acme", "");
    let named = "{ file = '../secrets/acme.key' }";
    for text in [
        acme.replace(named, &format!("'{CANARY}'")),
        acme.replace(named, CANARY),
        acme.replace(named, &format!("'{CANARY}")),
        acme.replace(named, &format!("['{CANARY}']")),
        acme.replace(named, &format!("{{ file = '{CANARY}' }}")),
        acme.replace(named, &format!("{{ env = '{CANARY}' }}")),
        acme.replace(named, &format!("{{ value = '{CANARY}' }}")),
        acme.replace(named, &format!("{{ {CANARY} }}")),
        acme.replace("'acme'", &format!("'{CANARY}'")),
        acme.replace("'client-acme'", &format!("'{CANARY} '")),
        format!("{acme}password = '{CANARY}'\n"),
        format!("{acme}{CANARY} = 1\n"),
        format!("{acme}{CANARY}\n"),
        format!("{acme}[{CANARY}]\n[{CANARY}]\n"),
        format!("{acme}[credential.{CANARY}]\n"),
        format!("{acme}standing = '{CANARY}'\n"),
        format!("{acme}weight = '{CANARY}'\n"),
        format!("{acme}addresses = ['{CANARY}']\n"),
        format!("{acme}operations.allow = ['{CANARY}']\n"),
        format!("{acme}limits = '{CANARY}'\n"),
        format!("\"{CANARY}\\q\" = 1\n{acme}"),
        format!("x = {{ {CANARY} = 1, {CANARY} = 2 }}\n{acme}"),
    ] {
        keeps_it_secret(
            &folder()
                .tenant("acme", "")
                .file("tenants.d/acme.toml", text),
        );
    }
}

#[test]
fn a_secret_in_the_wrong_place_of_a_json_file_is_never_repeated() {
    for text in [
        format!(r#"{{"id": "acme", "credential": [{{"secret": "{CANARY}"}}]}}"#),
        format!(r#"{{"id": "acme", "credential": [{{"secret": {CANARY}}}]}}"#),
        format!(r#"{{"id": "acme", "credential": "{CANARY}"}}"#),
        format!(r#"{{"{CANARY}": 1}}"#),
        format!(r#"{{"{CANARY}": 1, "{CANARY}": 2}}"#),
        format!(r#"{{"password": "{CANARY}"}}"#),
        format!(r#"{{"password": "{CANARY}"#),
        format!(r#"{{"password": "{CANARY}\q"}}"#),
        format!(r#""{CANARY}""#),
        CANARY.to_owned(),
    ] {
        keeps_it_secret(&folder().file("tenants.d/acme.json", text));
    }
}

#[test]
fn a_secret_in_the_wrong_place_of_proxy_toml_is_never_repeated() {
    for text in [
        format!("upstream.url = 'https://user:{CANARY}@example.org'"),
        format!("upstream.url = '{CANARY}'"),
        format!("upstream.proxy = 'http://user:{CANARY}@egress'"),
        format!("admin.token = '{CANARY}'"),
        format!("listen.address = '{CANARY}'"),
        format!("tenants = '{CANARY}'"),
        format!("institution.account_id = '{CANARY} {CANARY}'"),
        format!("balance.currencies = ['{CANARY}']"),
        format!("[[operation]]\nname = '{CANARY}'"),
        format!("[[operation]]\nname = 'create_order'\nenabled = '{CANARY}'"),
        format!("[[operation]]\nname = 'create_order'\n{CANARY} = 1"),
        format!("[[operation]]\nname = 'create_order'\ninstitution_path = '{CANARY}'"),
        format!("[[operation]]\nname = 'create_order'\ninstitution_path = '/{CANARY}'"),
        format!("[[operation]]\nname = 'create_order'\ninstitution_path = '/rate/{CANARY}'"),
        format!("[[operation]]\nname = 'added'\nmodule = '{CANARY}'\nkind = '{CANARY}'"),
        format!("[[operation]]\nname = 'added'\nkey = ['{CANARY}', '{CANARY}-']"),
    ] {
        keeps_it_secret(&folder().proxy(&text));
    }
}

#[test]
fn a_secret_in_the_wrong_place_of_an_operators_file_is_never_repeated() {
    for text in [
        format!("id = '{CANARY}'"),
        format!("secret = '{CANARY}'"),
        format!("{CANARY} = 1"),
        format!("operations.deny = ['{CANARY}']"),
        format!("[[credential]]\nclient_id = '{CANARY} '\nsecret = '{CANARY}'"),
    ] {
        let folder = folder().proxy("operators = 'operators.d'");
        keeps_it_secret(&folder.file("operators.d/desk.toml", text));
    }
}

#[test]
fn the_content_of_a_secret_file_or_variable_is_never_repeated() {
    let spaced = format!("{CANARY} {CANARY}");
    keeps_it_secret(&folder().tenant("acme", "").secret("acme", &spaced));
    let from_variable = tenant("acme", "").replace("file = '../secrets/acme.key'", "env = 'KEY'");
    let folder = folder().file("tenants.d/acme.toml", from_variable);
    keeps_it_secret(&folder.variable("KEY", &spaced));
}

proptest! {
    #[test]
    fn a_file_of_random_bytes_is_read_to_the_end_and_never_quoted(
        before in prop::collection::vec(any::<u8>(), 0..64),
        after in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let bytes = [&before[..], CANARY.as_bytes(), &after[..]].concat();
        judge(&bytes)?;
    }

    /// Random pieces of text that resemble a configuration file.
    #[test]
    fn a_file_of_random_text_is_read_to_the_end_and_never_quoted(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24),
    ) {
        judge(pieces.concat().as_bytes())?;
    }
}

const PIECES: &[&str] = &[
    CANARY,
    "id",
    "secret",
    "credential",
    "limits",
    "tenant",
    "=",
    "=",
    "\"",
    "'",
    "'''",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    ",",
    ":",
    ".",
    "\n",
    "\n",
    " ",
    "#",
    "1",
    "-",
    "0x",
    "2026-01-01",
    "true",
    "null",
    "\\",
    "\\u",
    "\u{0}",
    "é",
];

fn judge(bytes: &[u8]) -> Result<(), TestCaseError> {
    let folder = folder();
    for name in ["proxy.toml", "tenants.d/a.toml", "tenants.d/a.json"] {
        let before = fs::read(folder.path(name)).ok();
        fs::write(folder.path(name), bytes).unwrap();
        let loaded = load(&folder.path("proxy.toml"), &|_| None);
        let shown = format!("{:?}", loaded.err());
        prop_assert!(!shown.contains(CANARY), "{}", shown);
        match before {
            Some(before) => fs::write(folder.path(name), before).unwrap(),
            None => fs::remove_file(folder.path(name)).unwrap(),
        }
    }
    Ok(())
}
