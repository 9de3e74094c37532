use gatepay_tenancy::load::unread_files;

use crate::support::{folder, tenant};

#[test]
fn problems_late_in_a_long_file_have_their_places() {
    let table = |number: usize| {
        let account = number % 1_500;
        let more = if number == 1_400 {
            "colour = 'red'\n"
        } else {
            ""
        };
        format!(
            "[[tenant]]\nid = 't{number}'\nsub_account = 'a{account}'\n{more}[[tenant.credential]]\nclient_id = 'c{number}'\nsecret = {{ env = 'KEY_{number}' }}\n"
        )
    };
    let all: String = (0..1_501).map(table).collect();
    let folder = (0..1_501).fold(
        folder().file("tenants.d/all.toml", all),
        |folder, number| folder.variable(&format!("KEY_{number}"), &format!("made-up-{number}")),
    );
    assert_eq!(
        folder.problems(),
        [
            "tenants.d/all.toml:8404: tenant[1400]: unknown key \"colour\"",
            "tenants.d/all.toml:9004: tenant[1500].sub_account: is already used at tenants.d/all.toml:3; if intended, set shared_sub_account = true in both",
        ]
    );
}

#[test]
fn mistakes_of_all_files_are_reported_at_once_each_with_its_place() {
    let folder = folder()
        .proxy("poll_ms = 0\nrefusal_status = 'sometimes'\n[listen]\nadress = '127.0.0.1:80'")
        .tenant("acme", "[limits]\nrequests_per_second = 0")
        .tenant(
            "globex",
            "standing = 'retired'\n[operations]\nallow = ['balanse']",
        )
        .file(
            "tenants.d/initech.json",
            r#"{"id": "initech", "credential": [{"secret": {}}]}"#,
        )
        .file("tenants.d/umbrella.toml", "id = 'umbrella\n");
    assert_eq!(
        folder.problems(),
        [
            "proxy.toml:1: poll_ms: must be at least 1",
            "proxy.toml:2: refusal_status: must be \"http\" or \"gatepay\"",
            "proxy.toml:4: listen: unknown key \"adress\" (did you mean \"address\"?)",
            "tenants.d/acme.toml:5: limits.requests_per_second: must be at least 1",
            "tenants.d/globex.toml:4: standing: must be \"active\" or \"read_only\" or \"suspended\"",
            "tenants.d/globex.toml:6: operations.allow[0]: unknown module, kind or operation (did you mean \"balance\"?)",
            "tenants.d/initech.json: credential[0].client_id: is required",
            "tenants.d/initech.json: credential[0].secret: must have exactly one source: { file = \"…\" } or { env = \"…\" }",
            "tenants.d/initech.json: sub_account: is required",
            "tenants.d/umbrella.toml:1: invalid literal string, expected `'`",
        ]
    );
}

#[test]
fn a_ratio_is_between_zero_and_one() {
    for bad in ["1.01", "-0.1", "nan", "2"] {
        let folder = folder().proxy(&format!("log.sample_successes = {bad}"));
        let problem = "proxy.toml:1: log.sample_successes: must be a fraction from 0 to 1";
        assert_eq!(folder.problems(), [problem], "{bad}");
    }
    for good in ["0", "0.0", "0.25", "1", "1.0"] {
        folder()
            .proxy(&format!("log.sample_successes = {good}"))
            .loads();
    }
}

#[test]
fn each_value_of_the_proxy_is_judged() {
    for (text, problem) in [
        (
            "tenants = 'elsewhere'",
            "1: tenants: folder or file not found; create it, or change the path",
        ),
        ("poll_ms = '2s'", "1: poll_ms: must be an integer"),
        (
            "upstream.deadline_ms = 100_000_000",
            "1: upstream.deadline_ms: must be at most 86400000",
        ),
        (
            "checks = 'most'",
            "1: checks: must be \"certain\" or \"strict\" or \"off\"",
        ),
        ("listen = 8080", "1: listen: must be a table"),
        (
            "listen.address = 'localhost'",
            "1: listen.address: must be an address and a port, like \"127.0.0.1:8080\"",
        ),
        (
            "listen.threads = 0",
            "1: listen.threads: must be at least 1",
        ),
        (
            "listen.tls = { certificate = 'cert.pem' }",
            "1: listen.tls.key: is required",
        ),
        (
            "listen.body_limit_bytes = 67_108_865",
            "1: listen.body_limit_bytes: must be at most 67108864",
        ),
        (
            "listen.idle_timeout_ms = 0",
            "1: listen.idle_timeout_ms: must be at least 1",
        ),
        (
            "listen.max_connections = 0",
            "1: listen.max_connections: must be at least 1",
        ),
        (
            "admin.address = '127.0.0.1:8080'",
            "1: admin.address: must differ from listen.address",
        ),
        (
            "admin.address = '0.0.0.0:8080'",
            "1: admin.address: must differ from listen.address",
        ),
        (
            "upstream.url = 'https://example.org/v1'",
            "1: upstream.url: must end after the host and port; paths come from the catalogue",
        ),
        (
            "upstream.url = 'http://example.org'",
            "1: upstream.url: plain HTTP to another machine is not allowed; if intended, set plaintext = true",
        ),
        (
            "upstream.quota.requests_per_second = 0",
            "1: upstream.quota.requests_per_second: must be at least 1",
        ),
        (
            "timestamp.past_ms = 3_600_001",
            "1: timestamp.past_ms: must be at most 3600000",
        ),
        (
            "timestamp.future_ms = 300_001",
            "1: timestamp.future_ms: must be at most 300000",
        ),
        (
            "drain = { grace_ms = 10, deadline_ms = 9 }",
            "1: drain.deadline_ms: must be at least grace_ms, which it includes",
        ),
        (
            "balance.currencies = []",
            "1: balance.currencies: must have at least one currency; omit it for the default",
        ),
        (
            "balance.currencies = ['USDT', 'usd']",
            "1: balance.currencies[1]: must be a currency: 1 to 16 of A-Z and 0-9, like \"USDT\"",
        ),
        (
            "log.format = 'xml'",
            "1: log.format: must be \"json\" or \"human\"",
        ),
    ] {
        let folder = folder().proxy(text);
        assert_eq!(
            folder.problems(),
            [format!("proxy.toml:{problem}")],
            "{text}"
        );
    }
    for text in [
        "upstream.url = 'http://127.0.0.1:81'",
        "upstream = { url = 'http://example.org', plaintext = true }",
        "listen.address = '127.0.0.1:0'\nadmin.address = '127.0.0.1:0'",
    ] {
        folder().proxy(text).loads();
    }
}

#[test]
fn each_value_of_the_quota_is_judged() {
    for (text, problem) in [
        (
            "upstream.quota.reserve = 0.6",
            "1: upstream.quota.reserve: must be a fraction from 0.0 to 0.5",
        ),
        (
            "upstream.quota.floor = 501",
            "1: upstream.quota.floor: may be at most requests_per_second, 500",
        ),
        (
            "upstream.quota.pushback_codes = ['400603', '000000']",
            "1: upstream.quota.pushback_codes[1]: means success",
        ),
        (
            "upstream.quota.shadow = ['rate']",
            "1: upstream.quota.shadow[0]: must be \"shares\" or \"in_flight\" or \"rate_at_own_risk\"",
        ),
    ] {
        let problems = folder().proxy(text).problems();
        assert_eq!(problems, [format!("proxy.toml:{problem}")], "{text}");
    }
}

#[test]
fn each_value_of_a_tenant_is_judged() {
    for (text, problem) in [
        ("weight = 0", "4: weight: must be at least 1"),
        (
            "limits.shadow = ['money']",
            "4: limits.shadow: names a limit that is not configured",
        ),
        (
            "addresses = []",
            "4: addresses: allows no address; omit it to allow all",
        ),
        (
            "addresses = ['10.0.0.1/8']",
            "4: addresses[0]: has bits set beyond the length of its prefix",
        ),
        (
            "limits.in_flight = 0",
            "4: limits.in_flight: must be at least 1",
        ),
        (
            "limits.money = { burst = 1 }",
            "4: limits.money.requests_per_second: is required",
        ),
        (
            "limits.monye = { burst = 1 }",
            "4: limits: unknown key \"monye\" (did you mean \"money\"?)",
        ),
        (
            "timestamp.past_ms = 300_001",
            "4: timestamp.past_ms: may be at most the proxy's own, 300000",
        ),
        (
            "timestamp.future_ms = 10_001",
            "4: timestamp.future_ms: may be at most the proxy's own, 10000",
        ),
        (
            "shared_sub_account = 'yes'",
            "4: shared_sub_account: must be true or false",
        ),
        (
            "operations.allow = 'payment'",
            "4: operations.allow: must be a list",
        ),
        (
            "operations = { allow = ['read'], deny = ['read'] }",
            "4: operations: allows no operation; to stop every call, set standing = \"suspended\"",
        ),
    ] {
        let folder = folder().tenant("acme", text);
        assert_eq!(
            folder.problems(),
            [format!("tenants.d/acme.toml:{problem}")],
            "{text}"
        );
    }
}

#[test]
fn a_tenant_or_institution_without_a_credential_is_a_problem() {
    let folder = folder()
        .file("proxy.toml", "")
        .file("tenants.d/acme.toml", "id = 'acme'\nsub_account = '1'\n");
    assert_eq!(
        folder.problems(),
        [
            "proxy.toml: institution.credential: is required: at least one credential",
            "tenants.d/acme.toml: credential: is required: at least one credential",
        ]
    );
}

#[test]
fn a_credential_that_ends_before_it_begins_is_a_problem() {
    let dates = "not_before = 2026-02-01T00:00:00Z, not_after = '2026-01-01T00:00:00Z'";
    let text = tenant("acme", "").replace("client_id", &format!("{dates}, client_id"));
    let folder = folder()
        .tenant("acme", "")
        .file("tenants.d/acme.toml", text);
    assert_eq!(
        folder.problems(),
        ["tenants.d/acme.toml:3: credential[0].not_after: must be later than not_before"]
    );
}

#[test]
fn a_duplicate_id_account_client_id_or_secret_is_found_across_files() {
    let same = "id = 'acme'
sub_account = 'account-acme'
[[credential]]
client_id = 'client-acme'
secret = { file = '../secrets/acme.key' }
[[credential]]
client_id = 'institution'
secret = { file = '../secrets/institution.key' }
";
    let folder = folder()
        .tenant("acme", "")
        .file("tenants.d/globex.toml", same);
    assert_eq!(
        folder.problems(),
        [
            "tenants.d/globex.toml:1: id: is already used at tenants.d/acme.toml:1",
            "tenants.d/globex.toml:2: sub_account: is already used at tenants.d/acme.toml:2; if intended, set shared_sub_account = true in both",
            "tenants.d/globex.toml:4: credential[0].client_id: is already used at tenants.d/acme.toml:3",
            "tenants.d/globex.toml:5: credential[0].secret: same secret as at tenants.d/acme.toml:3; every credential needs its own",
            "tenants.d/globex.toml:7: credential[1].client_id: is already used at proxy.toml:2",
            "tenants.d/globex.toml:8: credential[1].secret: same secret as at proxy.toml:3; every credential needs its own",
        ]
    );
}

#[test]
fn a_problem_elsewhere_in_a_file_does_not_hide_a_duplicate_value() {
    let folder = folder()
        .tenant("acme", "weight = 0")
        .tenant("globex", "")
        .file(
            "tenants.d/globex.toml",
            tenant("globex", "").replace("account-globex", "account-acme"),
        );
    assert_eq!(folder.problems().len(), 2, "{:?}", folder.problems());
}

#[test]
fn two_tenants_share_a_sub_account_only_if_both_say_so() {
    let shared = |id: &str| {
        let more = "shared_sub_account = true";
        tenant(id, more).replace(&format!("account-{id}"), "account")
    };
    let alone = shared("globex").replace("true", "false");
    let folder = folder()
        .tenant("acme", "")
        .tenant("globex", "")
        .file("tenants.d/acme.toml", shared("acme"))
        .file("tenants.d/globex.toml", shared("globex"));
    folder.loads();
    assert_eq!(
        folder.file("tenants.d/globex.toml", alone).problems().len(),
        1
    );
}

#[test]
fn proxy_protocol_requires_trusted_proxies() {
    let text = "listen.proxy_protocol = true";
    assert_eq!(
        folder().proxy(text).problems(),
        [
            "proxy.toml:1: listen.proxy_protocol: requires trusted_proxies: the addresses that send the header"
        ]
    );
    let named = format!("{text}\nlisten.trusted_proxies = ['10.0.0.0/8', '2001:db8::7']");
    folder().proxy(&named).loads();
}

#[test]
fn max_connections_per_address_defaults_to_a_tenth_of_max_connections() {
    for (text, share) in [
        ("", 1_000),
        ("listen.max_connections = 50_000", 5_000),
        ("listen.max_connections = 20", 100),
        ("listen.max_connections_per_address = 7", 7),
    ] {
        let loaded = folder().proxy(text).loads();
        let most = loaded.settings.listen.max_connections_per_address;
        assert_eq!(most.get(), share, "{text}");
    }
}

#[test]
fn max_requests_defaults_to_max_connections() {
    for (text, most) in [
        ("", 10_000),
        ("listen.max_connections = 50_000", 50_000),
        ("listen.max_connections = 20", 1_000),
        ("listen.max_requests = 7", 7),
    ] {
        let loaded = folder().proxy(text).loads();
        assert_eq!(loaded.settings.listen.max_requests.get(), most, "{text}");
    }
}

#[test]
fn a_key_that_stands_twice_in_json_is_a_problem() {
    let text = r#"{"id": "acme", "id": "acme", "sub_account": "1",
        "credential": [{"client_id": "c", "client_id": "d", "secret": {"env": "KEY"}}]}"#;
    let folder = folder()
        .file("tenants.d/acme.json", text)
        .variable("KEY", "made-up");
    assert_eq!(
        folder.problems(),
        [
            "tenants.d/acme.json: credential[0].client_id: duplicate key",
            "tenants.d/acme.json: id: duplicate key",
        ]
    );
}

#[test]
fn a_deeply_nested_file_is_a_problem_instead_of_a_crash() {
    for (name, piece) in [
        ("acme.toml", "a."),
        ("acme.toml", "a = ["),
        ("acme.toml", "a = {"),
        ("acme.toml", "["),
        ("acme.json", "["),
        ("acme.json", "{\"a\":"),
    ] {
        let folder = folder().file(&format!("tenants.d/{name}"), piece.repeat(100_000));
        assert!(!folder.problems().is_empty(), "{piece}");
    }
}

#[test]
fn a_byte_order_mark_before_a_file_is_passed_over() {
    let json = r#"{"id": "acme", "sub_account": "1", "credential": [{"client_id": "acme", "secret": {"file": "../secrets/acme.key"}}]}"#;
    let folder = folder()
        .file("tenants.d/acme.json", format!("\u{feff}{json}"))
        .secret("acme", "made-up-acme-secret")
        .file(
            "tenants.d/globex.toml",
            format!("\u{feff}{}", tenant("globex", "")),
        )
        .secret("globex", "made-up-globex-secret");
    assert_eq!(folder.loads().registry.tenants().len(), 2);
    let twice = folder.file("tenants.d/acme.json", format!("\u{feff}\u{feff}{json}"));
    assert_eq!(twice.problems().len(), 1);
}

#[test]
fn unread_files_in_the_tenants_folder_are_listed() {
    let folder = folder().tenant("acme", "").operator("desk", "");
    let folder = folder.proxy("operators = 'operators.d'");
    let beside = [
        "operators.d/DESK.Json",
        "tenants.d/T9.TOML",
        "tenants.d/a.yaml",
        "tenants.d/acme",
        "tenants.d/acme.toml.bak",
    ];
    let folder = beside
        .iter()
        .fold(folder, |folder, name| folder.file(name, ""));
    // Temporary files of editors and of Kubernetes are not reported.
    let folder = [".acme.toml.swp", "acme.toml~", "..data/acme.toml"]
        .iter()
        .fold(folder, |folder, name| {
            folder.file(&format!("tenants.d/{name}"), "")
        });
    let unread = unread_files(&folder.loads().settings);
    let names = unread
        .iter()
        .map(|file| file.strip_prefix(folder.path("")).unwrap());
    let names: Vec<_> = names.map(|name| name.to_str().unwrap()).collect();
    assert_eq!(names, beside);
}

#[test]
fn every_operator_of_the_admin_address_has_a_name_and_a_token_of_its_own() {
    let operator =
        |name, token| format!("{{ name = '{name}', token = {{ file = 'secrets/{token}.key' }} }}");
    let problems = |operators: &[String]| {
        let folder = folder()
            .secret("shared", "made-up-shared-token")
            .secret("alice", "made-up-alice-token")
            .secret("bob", "made-up-bob-token");
        let operators = operators.join(", ");
        let admin = format!(
            "admin = {{ token = {{ file = 'secrets/shared.key' }}, operator = [{operators}] }}"
        );
        folder.proxy(&admin).problems().join("\n")
    };
    assert_eq!(
        problems(&[operator("alice", "alice"), operator("bob", "bob")]),
        ""
    );
    for (first, second, key) in [
        (
            operator("alice", "alice"),
            operator("alice", "bob"),
            "operator[1].name",
        ),
        (
            operator("alice", "alice"),
            operator("bob", "alice"),
            "operator[1].token",
        ),
        (
            operator("alice", "alice"),
            operator("bob", "shared"),
            "operator[1].token",
        ),
        (
            operator("alice", "alice"),
            operator("admin.token", "bob"),
            "operator[1].name",
        ),
        (
            operator("loopback", "alice"),
            operator("bob", "bob"),
            "operator[0].name",
        ),
        (
            operator("Alice", "alice"),
            operator("bob", "bob"),
            "operator[0].name",
        ),
    ] {
        let said = problems(&[first, second]);
        assert!(
            said.contains(&format!("admin.{key}")) && said.lines().count() == 1,
            "{said}"
        );
        assert!(!said.contains("made-up"), "{said}");
    }
}
