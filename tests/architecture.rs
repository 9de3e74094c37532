//! Prohibitions of ARCHITECTURE.md, checked in the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::imports::{Arrows, arrows, arrows_of, circles};

/// The steps of a request, in order; a step may name only earlier steps.
const STEPS: [&str; 11] = [
    "journey::ingress",
    "journey::route",
    "journey::authenticate",
    "journey::stamp",
    "journey::verify",
    "journey::judge",
    "journey::sign",
    "journey::intent",
    "journey::admit",
    "upstream::forward",
    "journey::relay",
];

/// The same of `crates/sandbox/src`.
const SANDBOX_FLOORS: [&[&str]; 9] = [
    &["config"],
    &["wire"],
    &["rules"],
    &["api", "notify"],
    &["ledger"],
    &["operations"],
    &["service"],
    &["examples", "desk"],
    &["conservation"],
];

/// Rooms of `crates/proxy/src`, from the ground up. A room names itself and rooms of lower floors.
const PROXY_FLOORS: [&[&str]; 14] = [
    &["headers", "callers", "process", "tls"],
    &["journal", "prom"],
    &["refusal", "cluster"],
    &["generation"],
    &["upstream"],
    &["record", "notify", "caps", "statements"],
    &["metrics", "start_error"],
    &["app"],
    &["worker"],
    &["journey", "admin", "reload"],
    &["listener"],
    &["server", "memory_bound"],
    &["command"],
    &["main"],
];

const CRATES: [&str; 7] = [
    "core",
    "http1",
    "tenancy",
    "admission",
    "store",
    "proxy",
    "sandbox",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Every source file of a crate, without its tests, by its name.
fn sources(name: &str) -> Vec<(String, String)> {
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let sources = sources_by_path(name).into_iter();
    sources.map(|(path, code)| (stem(path), code)).collect()
}

/// Asserts that none of a crate's sources contains any of these texts.
fn assert_none_contains(name: &str, sources: Vec<(String, String)>, never: &[&str]) {
    for (file, code) in sources {
        for text in never {
            assert!(!code.contains(text), "{name}/{file}: {text}");
        }
    }
}

/// Every source file of a crate, without its tests, by its path.
fn sources_by_path(name: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![folder(name).join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                let text = fs::read_to_string(&path).unwrap();
                let (code, _) = text
                    .split_once("#[cfg(test)]\nmod tests")
                    .unwrap_or((&text, ""));
                let code = without_comments(code);
                sources.push((path, code));
            }
        }
    }
    assert!(!sources.is_empty(), "{name}");
    sources
}

fn without_comments(code: &str) -> String {
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The packages a crate names under `[dependencies]`.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(folder(name).join("Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("[dependencies]\n").unwrap();
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split(['.', ' ', '=', '#']).next());
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn arrows_between_crates_point_one_way() {
    for (name, may) in [
        ("core", &[][..]),
        ("http1", &[]),
        ("tenancy", &["gatepay-core"]),
        ("admission", &["gatepay-core", "gatepay-tenancy"]),
        ("store", &["gatepay-core"]),
        ("sandbox", &["gatepay-core"]),
        (
            "proxy",
            &[
                "gatepay-admission",
                "gatepay-core",
                "gatepay-http1",
                "gatepay-tenancy",
                "gatepay-sandbox",
                "gatepay-store",
            ],
        ),
    ] {
        let all = dependencies(name);
        let ours: BTreeSet<&str> = all
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with("gatepay-"))
            .collect();
        assert_eq!(ours, may.iter().copied().collect(), "{name}");
    }
}

#[test]
fn no_crate_has_a_circle_of_files() {
    for name in CRATES {
        let arrows = arrows(&folder(name), &format!("gatepay_{name}"));
        let count: usize = arrows.values().map(BTreeSet::len).sum();
        assert!(3 * count > arrows.len(), "{name}: the imports are read");
        assert_eq!(circles(arrows), BTreeSet::new(), "{name}");
    }
}

/// Rooms of `crates/tenancy/src`, from the ground up. A room may name itself and rooms of lower floors.
const TENANCY_FLOORS: [&[&str]; 5] = [
    &["model", "disk", "threads"],
    &["syntax"],
    &["files"],
    &["load", "schema", "plan"],
    &["watch", "edit"],
];

#[test]
fn rooms_name_only_rooms_below_them() {
    for (name, floors) in [
        ("tenancy", &TENANCY_FLOORS[..]),
        ("sandbox", &SANDBOX_FLOORS[..]),
        ("proxy", &PROXY_FLOORS[..]),
    ] {
        let room = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
        let floor = |room: &str| {
            let found = floors.iter().position(|rooms| rooms.contains(&room));
            found.unwrap_or_else(|| panic!("{name}: the room {room} is on no floor"))
        };
        for (from, named) in arrows(&folder(name), &format!("gatepay_{name}")) {
            for to in named.iter().filter(|_| from != "lib") {
                let (from_room, to_room) = (room(&from), room(to));
                assert!(
                    from_room == to_room || floor(&to_room) < floor(&from_room),
                    "{name}: {from} names {to}, which is not on a lower floor"
                );
            }
        }
    }
}

/// The arrows of invented sources.
fn of(sources: &[(&str, &str)]) -> Arrows {
    let owned = |(module, source): &(&str, &str)| ((*module).to_owned(), (*source).to_owned());
    arrows_of(&sources.iter().map(owned).collect(), "made_up")
}

fn modules(names: &[&str]) -> BTreeSet<String> {
    names.iter().copied().map(str::to_owned).collect()
}

#[test]
fn an_import_is_found_however_it_is_written() {
    for source in [
        "use crate::b::c::Thing;",
        "use crate::{b::{d::Other, c::Thing}, Root};",
        "use crate::{\n    b::{\n        c::{self, Thing as T},\n    },\n};",
        "use super::b::c;",
        "use super::{b::c::*};",
        "fn f() -> crate::b::c::Thing { x }",
        "fn f<'a>(x: &'a str, y: char) { g('\"', '\\'', \"\\\"\", super::b::c::X) }",
        "use made_up::b::c::Thing;",
        "fn f() { g(r#\"a \" b\"#, b\"{\") } use crate::b::c::T;",
    ] {
        let sources = [
            ("a", source),
            ("b", ""),
            ("b::c", ""),
            ("b::d", ""),
            ("lib", ""),
        ];
        let found = &of(&sources)["a"];
        assert!(
            found.contains("b::c") && !found.contains("b"),
            "{source}: {found:?}"
        );
    }
}

#[test]
fn a_path_of_a_child_begins_at_the_childs_place() {
    let sources = [
        ("a", ""),
        ("a::b", "use super::{super::e, c::X}; use super::Y;"),
        ("a::c", ""),
        ("e", ""),
    ];
    assert_eq!(of(&sources)["a::b"], modules(&["a", "a::c", "e"]));
}

#[test]
fn comments_texts_and_tests_import_nothing() {
    for source in [
        "// use crate::b::X;\n/// See [`X`](crate::b::X).\n/* crate::b::X */",
        "const TEXT: &str = \"crate::b::X\"; const RAW: &str = r\"crate::b::X\";",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n    use crate::b::X;\n    fn f() { g(\"}\") }\n}",
        "#[cfg(test)]\nuse crate::b::X;",
        "pub(crate) fn f(x: x::crate_b) {} mod b;",
    ] {
        assert_eq!(
            of(&[("a", source), ("b", "")])["a"],
            BTreeSet::new(),
            "{source}"
        );
    }
    let in_a_file = [
        ("a", "#[cfg(test)]\nmod tests;"),
        ("a::tests", "use crate::b::X;"),
        ("b", ""),
    ];
    assert!(!of(&in_a_file).contains_key("a::tests"));
}

#[test]
fn an_import_circle_of_any_length_is_found_without_its_neighbors() {
    let circle = [
        ("a", "use crate::b::X;"),
        ("b", "use crate::c::d::X;"),
        ("c", ""),
        ("c::d", "use super::super::e::X; use crate::below::X;"),
        ("e", "fn f() { crate::b::g() }"),
        ("below", ""),
    ];
    assert_eq!(circles(of(&circle)), modules(&["b", "c::d", "e"]));
    let mut line = circle;
    line[4].1 = "fn f() { crate::below::g() }";
    assert_eq!(circles(of(&line)), BTreeSet::new());
}

#[test]
fn imports_through_re_exports_of_the_root_are_found() {
    let sources = [
        ("lib", "pub mod a; pub mod b; pub use b::X;"),
        ("a", ""),
        ("b", "use crate::Y;"),
    ];
    assert_eq!(circles(of(&sources)), modules(&["b", "lib"]));
}

#[test]
fn core_and_tenancy_name_no_package_that_does_what_they_never_do() {
    let transport = [
        "hyper",
        "hyper-util",
        "http",
        "http-body",
        "http-body-util",
        "tokio",
        "tokio-rustls",
        "rustls",
    ];
    let effects = [
        "getrandom",
        "rand",
        "tracing",
        "log",
        "jiff",
        "governor",
        "arc-swap",
    ];
    let core: BTreeSet<_> = transport
        .iter()
        .chain(&effects)
        .map(ToString::to_string)
        .collect();
    let tenancy: BTreeSet<_> = transport.iter().map(ToString::to_string).collect();
    assert!(dependencies("core").is_disjoint(&core));
    assert!(dependencies("tenancy").is_disjoint(&tenancy));
    assert!(
        dependencies("proxy").is_superset(&["hyper", "tokio"].map(str::to_owned).into()),
        "they are read right"
    );
}

/// The words of code that waits or calls the system.
const IMPURE: [&str; 8] = [
    "async ",
    ".await",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::thread",
    "println!",
];

#[test]
fn core_awaits_nothing_calls_no_system_and_logs_nothing() {
    let never = [&IMPURE[..], &["std::time", "print!", "tracing::"]].concat();
    assert_none_contains("core", sources("core"), &never);
}

#[test]
fn http1_names_no_runtime_and_no_other_implementation_of_http() {
    let never = [
        "h2",
        "hyper",
        "hyper-util",
        "http-body",
        "http-body-util",
        "tokio",
        "tokio-rustls",
        "rustls",
        "socket2",
        "futures-util",
        "prometheus",
        "tracing",
        "getrandom",
        "jiff",
    ];
    let named = dependencies("http1");
    assert!(named.is_disjoint(&never.map(str::to_owned).into()));
    assert!(named.contains("httparse"), "they are read right");
}

#[test]
fn http1_has_no_io_and_no_clock() {
    let never = [
        "async ",
        ".await",
        "std::fs",
        "std::net",
        "std::env",
        "std::thread",
        "Instant",
        "println!",
        "AsyncRead",
        "AsyncWrite",
    ];
    assert_none_contains("http1", sources("http1"), &never);
}

#[test]
fn admission_names_no_runtime_no_http_no_metrics_and_no_log() {
    let never = [
        "tokio",
        "hyper",
        "h2",
        "http",
        "prometheus",
        "tracing",
        "getrandom",
        "gatepay-http1",
        "gatepay-proxy",
    ];
    let named = dependencies("admission");
    assert!(named.is_disjoint(&never.map(str::to_owned).into()));
    assert!(named.contains("governor"), "they are read right");
}

#[test]
fn the_store_names_no_http_no_metrics_and_no_log() {
    let never = ["hyper", "h2", "http", "prometheus", "tracing", "log"];
    let named = dependencies("store");
    assert!(named.is_disjoint(&never.map(str::to_owned).into()));
    assert!(named.contains("tokio-postgres"), "they are read right");
}

#[test]
fn admission_reads_no_clock_and_has_no_io() {
    // The crate's tests in files of their own run threads and print figures.
    let tests = ["tests", "simulation"];
    let mut sources = sources("admission");
    sources.retain(|(file, _)| !tests.contains(&file.as_str()));
    let never = [&IMPURE[..], &["SystemTime", "Instant::"]].concat();
    assert_none_contains("admission", sources, &never);
}

#[test]
fn a_step_names_neither_the_application_nor_a_later_step() {
    let arrows = arrows(&folder("proxy"), "gatepay_proxy");
    for (at, step) in STEPS.iter().enumerate() {
        let later = STEPS[at + 1..].iter();
        for never in later.chain(&["app", "journey", "process::drain", "record::access_log"]) {
            assert!(!arrows[*step].contains(*never), "{step} names {never}");
        }
    }
    assert!(
        arrows["journey"].contains("upstream::forward"),
        "the imports are read right"
    );
}

#[test]
fn no_file_of_the_journey_names_the_application() {
    let arrows = arrows(&folder("proxy"), "gatepay_proxy");
    let steps = arrows
        .iter()
        .filter(|(from, _)| from.starts_with("journey::"));
    let mut count = 0;
    for (step, named) in steps {
        count += 1;
        for to in named {
            let room = to.split("::").next().unwrap_or_default();
            let names = ["app", "worker"].contains(&room) || to == "journey";
            assert!(!names, "{step} names {to}");
        }
    }
    assert!(count >= 10, "the steps are found");
}

/// The most lines of code in `journey.rs`, which holds only the order of the steps.
const JOURNEY_LINES: usize = 214;

#[test]
fn the_journey_fits_on_a_page() {
    let text = fs::read_to_string(folder("proxy").join("src/journey.rs")).unwrap();
    let (code, _) = text.split_once("#[cfg(test)]").unwrap();
    let code = without_comments(code);
    let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= JOURNEY_LINES, "{lines} lines of code");
}

/// The most lines of a function, from the line of its opening brace to that of its closing brace.
const FUNCTION_LINES: usize = 60;

/// Functions that are longer, each with the reason.
const LONG_FUNCTIONS: [(&str, &str); 3] = [
    (
        "core/catalogue_rows.rs: rows",
        "a table: one row per operation",
    ),
    ("proxy/refusal.rs: fmt", "a table: one sentence per refusal"),
    ("proxy/metrics.rs: made", "a table: one entry per meter"),
];

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut long = BTreeSet::new();
    let mut count = 0;
    for name in CRATES {
        let root = folder(name).join("src");
        for (path, code) in sources_by_path(name) {
            let file = path.strip_prefix(&root).unwrap().display().to_string();
            if ["tests.rs", "simulation.rs"]
                .iter()
                .any(|tests| file.ends_with(tests))
            {
                continue;
            }
            for (function, lines) in functions(&code) {
                count += 1;
                if lines > FUNCTION_LINES {
                    long.insert(format!("{name}/{file}: {function}"));
                }
            }
        }
    }
    assert!(count > 2_000, "the functions are found: {count}");
    let known = LONG_FUNCTIONS
        .iter()
        .map(|(function, _)| (*function).to_owned());
    assert_eq!(long, known.collect());
}

/// The name of every function, and its lines between its braces.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = code.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some((before, rest)) = line.split_once("fn ") else {
            continue;
        };
        let is_definition = before.split_whitespace().all(|word| {
            word.starts_with("pub") || ["async", "const", "in", "crate)"].contains(&word)
        });
        let name = rest
            .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .next();
        let Some(name) = name.filter(|name| is_definition && !name.is_empty()) else {
            continue;
        };
        // rustfmt puts the closing brace below the first letter of the definition.
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let ends = |line: &&str| line.ends_with(['{', ';']);
        let Some(opens) = lines[at..].iter().position(ends) else {
            continue;
        };
        let body = &lines[at + opens + 1..];
        let closes = body.iter().position(|line| *line == closing);
        if let Some(closes) = closes.filter(|_| lines[at + opens].ends_with('{')) {
            found.push((name.to_owned(), closes));
        }
    }
    found
}

#[test]
fn a_long_function_is_found_and_measured_between_its_braces() {
    let body = "        x();\n".repeat(61);
    let code = format!(
        "impl T {{\n    pub async fn long(\n        x: X,\n    ) -> Y {{\n{body}    }}\n\n    fn short() {{\n    }}\n}}\n"
    );
    assert_eq!(
        functions(&code),
        [("long".to_owned(), 61), ("short".to_owned(), 0)]
    );
}

#[test]
fn only_a_refusal_and_the_admin_page_choose_a_status() {
    for (file, code) in sources("proxy") {
        let may = [
            "refusal",
            "admin",
            "suspend",
            "halt",
            "cap_raise",
            "cap_view",
            "approvals",
            "approver_count",
            "cluster_view",
            "isolation",
            "notification_exchange",
            "notification_view",
            "find",
            "log",
            "statement_page",
            "notification_acts",
            "notification_endpoints",
            "notification_order",
            "test_notification",
            "query_fields",
            "own_answer",
            "admin_client",
        ];
        let chooses = code.contains("StatusCode::") && !may.contains(&&*file);
        assert!(!chooses, "{file} chooses a status");
    }
}

#[test]
fn only_the_clock_reads_time_of_day_and_draws_randomness() {
    for name in CRATES {
        for (file, code) in sources(name) {
            for only in [
                "SystemTime::now",
                "getrandom::",
                "Timestamp::now",
                "Zoned::now",
            ] {
                assert!(
                    !code.contains(only) || (name, &*file) == ("proxy", "clock"),
                    "{name}/{file}: {only}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_unsafe() {
    let manifest = fs::read_to_string(folder("../Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    for name in CRATES {
        let manifest = fs::read_to_string(folder(name).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name}");
        for (file, code) in sources(name) {
            assert!(
                !code.contains("unsafe {") && !code.contains("unsafe fn"),
                "{name}/{file}"
            );
        }
    }
}
