use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gatepay_http1::content_coding;
use gatepay_proxy::metrics::Metrics;
use gatepay_proxy::metrics::size::ScrapeSize;
use gatepay_proxy::process::clock::Clock;
use gatepay_proxy::prom::registrar::MetricDescription;
use gatepay_sandbox::InjectedFault;
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::support::scripted::Scripted;
use crate::support::*;

pub(crate) fn config(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config")).join(name)
}

pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(config(name)).unwrap()
}

/// The tool, unless it is not installed: then the test prints that nothing was proved.
fn promtool() -> Option<Command> {
    let found = Command::new("promtool").arg("--version").output().is_ok();
    if !found {
        say("SKIPPED: there is no promtool here (Debian's package is `prometheus`)");
    }
    found.then(|| Command::new("promtool"))
}

fn run(mut command: Command, input: &[u8]) {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
}

/// Requests of all kinds and outcomes.
async fn traffic(proxy: &Proxy, gatepay: &GatePay) {
    for call in [
        acme().post(CREATE, order("A-0001")),
        acme().post(QUERY, BY_NUMBER),
        acme().post(QUERY, "{}"),
        acme().post(CREATE, order("A-0002")).secret("fake-other"),
        globex().post(REFUND, A_REFUND),
        acme().get("/none"),
    ] {
        proxy.send(call).await;
    }
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    proxy.send(globex().post(CREATE, order("A-0001"))).await;
    proxy.counts("in_flight 0").await;
}

#[tokio::test]
async fn prometheus_finds_nothing_to_complain_about() {
    let Some(mut promtool) = promtool() else {
        return;
    };
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    traffic(&proxy, &gatepay).await;
    promtool.args(["check", "metrics"]);
    run(promtool, proxy.metrics().await.as_bytes());
}

#[test]
fn rules_are_well_formed_and_every_alert_fires() {
    for arguments in [
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules.test.yml"],
        ["check", "config", "prometheus.yml"],
    ] {
        let Some(mut promtool) = promtool() else {
            return;
        };
        promtool.args(arguments).current_dir(config("prometheus"));
        run(promtool, b"");
    }
}

/// The names after this word in a file of rules.
fn names_after(word: &str) -> BTreeSet<String> {
    let rules = read("prometheus/rules.yml");
    let lines = rules.lines().filter_map(|line| {
        let line = line.trim().trim_start_matches("- ");
        line.strip_prefix(word)?.strip_prefix(": ")
    });
    lines.map(str::to_owned).collect()
}

#[test]
fn every_alert_is_tested_and_has_a_page_on_what_to_do() {
    let alerts = names_after("alert");
    assert!(alerts.len() > 15);
    let tests = read("prometheus/rules.test.yml");
    let mut headings = BTreeSet::new();
    let mut links = BTreeSet::new();
    for name in ["alerts.md", "alerts-money.md"] {
        let page = fs::read_to_string(config(&format!("../docs/how-to/{name}"))).unwrap();
        for alert in page.lines().filter_map(|line| line.strip_prefix("### ")) {
            let anchor = alert.to_lowercase();
            links.insert(format!("docs/how-to/{name}#{anchor}"));
            headings.insert(alert.to_owned());
        }
    }
    for alert in &alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert}");
    }
    assert_eq!(headings, alerts);
    assert_eq!(names_after("runbook"), links);
}

#[tokio::test]
async fn metrics_are_in_gzip_for_clients_that_accept_it() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    let scrape = async |accepted: Option<&str>| {
        let mut request = Request::builder()
            .uri("/metrics")
            .header("host", "localhost");
        if let Some(accepted) = accepted {
            request = request.header("accept-encoding", accepted);
        }
        let request = request.body(Full::default()).unwrap();
        let mut connection = Connection::open(proxy.admin_address()).await;
        connection.send(request).await
    };
    for (accepted, coding) in [
        (None, None),
        (Some("gzip;q=0, identity"), None),
        (Some("br"), None),
        // Prometheus, and a browser.
        (Some("gzip"), Some("gzip")),
        (Some("gzip, deflate, br"), Some("gzip")),
    ] {
        let answer = scrape(accepted).await;
        let line = |name: &str| answer.headers.get(name).map(|it| it.to_str().unwrap());
        assert_eq!(line("content-encoding"), coding, "{accepted:?}");
        assert_eq!(line("vary"), Some("accept-encoding"));
        let text = match coding {
            None => answer.body.to_vec(),
            Some(_) => content_coding::decoded(&answer.body, 1 << 20).unwrap(),
        };
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\ngatepay_proxy_ready 1\n"), "{accepted:?}");
        let is_smaller = answer.body.len() * 5 < text.len();
        assert_eq!(is_smaller, coding.is_some(), "{}", answer.body.len());
    }
}

#[tokio::test]
async fn histograms_of_durations_count_operations_together_if_the_settings_say_so() {
    let gatepay = GatePay::start();
    let plan = Proxy::before(&gatepay);
    let plan = plan.with(|settings| settings.metrics.operation_histograms = false);
    let proxy = plan.start();
    traffic(&proxy, &gatepay).await;
    let text = proxy.metrics().await;
    for part in ["request", "upstream", "own"] {
        let count = format!("gatepay_proxy_{part}_duration_seconds_count");
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with(&count))
            .collect();
        let [line] = lines[..] else {
            panic!("{lines:?}");
        };
        let (series, number) = line.rsplit_once(' ').unwrap();
        assert_eq!(series, format!("{count}{{operation=\"all\"}}"));
        assert!(number.parse::<u32>().unwrap() > 2, "{line}");
    }
}

/// The names of all series of this program.
fn names() -> BTreeSet<String> {
    let parts = |kind: &str| -> &[&str] {
        if kind == "histogram" {
            &["_bucket", "_sum", "_count"]
        } else {
            &[""]
        }
    };
    let described = Metrics::described().into_iter();
    let names = described.flat_map(|MetricDescription { name, kind, .. }| {
        let parts = parts(kind).iter();
        parts.map(move |part| format!("{name}{part}"))
    });
    names.collect()
}

/// The names in a query: words that look like a metric of the proxy, of the process, or of a rule.
fn named(query: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = query.split(|c| !word(c));
    let ours = ["gatepay_proxy_", "gatepay_proxy:", "process_"];
    words
        .filter(|word| ours.iter().any(|begin| word.starts_with(begin)))
        .map(str::to_owned)
        .collect()
}

/// Every query of the dashboard, in panels, annotations and variables.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value {
                    Value::String(text) if key == "expr" || key == "query" => {
                        found.push(text.clone());
                    }
                    value => queries(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

/// All queries of the dashboard.
pub(crate) fn dashboard() -> Vec<String> {
    let dashboard = serde_json::from_str(&read("grafana/dashboards/gatepay-proxy.json"));
    let mut found = Vec::new();
    queries(&dashboard.unwrap(), &mut found);
    assert!(found.len() > 40);
    found
}

#[test]
fn every_panel_of_the_dashboard_says_what_it_shows() {
    fn without(panel: &Value, found: &mut Vec<String>) {
        for below in panel["panels"].as_array().into_iter().flatten() {
            without(below, found);
        }
        let says = panel["description"]
            .as_str()
            .is_some_and(|it| !it.is_empty());
        if panel["type"].is_string() && panel["type"] != "row" && !says {
            found.push(panel["title"].to_string());
        }
    }
    let dashboard = serde_json::from_str(&read("grafana/dashboards/gatepay-proxy.json"));
    let mut found = Vec::new();
    without(&dashboard.unwrap(), &mut found);
    assert!(found.is_empty(), "without a description: {found:?}");
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_exist() {
    let rules = read("prometheus/rules.yml");
    let code = rules.lines().filter(|line| !line.trim().starts_with('#'));
    let code: Vec<&str> = code.collect();
    let known = &names() | &names_after("record");
    let mut all = named(&code.join("\n"));
    all.extend(dashboard().iter().flat_map(|query| named(query)));
    assert!(all.len() > 30, "they are read right: {all:?}");
    let unknown: Vec<_> = all.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// The words in backticks.
fn coded(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// A row of the page about metrics with the types and labels of the metrics that it names, which are taken from `left`.
fn row(line: &str, left: &mut BTreeMap<String, MetricDescription>) -> String {
    let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [names, _, _, meaning] = cells[..] else {
        panic!("a row has four cells: {line}");
    };
    let described = coded(names).into_iter().map(|name| {
        let described = left.remove(&format!("gatepay_proxy_{name}"));
        let described = described.or_else(|| left.remove(name));
        described.unwrap_or_else(|| panic!("{name} is no metric, or has two rows"))
    });
    let described: Vec<_> = described.collect();
    let labels: BTreeSet<_> = described.iter().map(|it| &it.labels).collect();
    assert_eq!(
        labels.len(),
        1,
        "of other labels, so in other rows: {names}"
    );
    let mut kinds: Vec<_> = described.iter().map(|it| it.kind).collect();
    kinds.dedup();
    if kinds.len() > 1 {
        // One for each name, in the order of the names.
        kinds = described.iter().map(|it| it.kind).collect();
    }
    let kind = kinds.join(", ");
    let labels = described[0].labels.iter().map(|label| format!("`{label}`"));
    let labels = labels.collect::<Vec<_>>().join(", ");
    let line = format!("| {names} | {kind} | {labels} | {meaning} |");
    line.replace("|  |", "| |")
}

/// `WRITE_PAGES=1 cargo test -p gatepay-proxy --test proxy metrics::the_page` writes types and labels anew.
#[test]
fn the_page_has_every_metric_with_its_type_and_labels_and_no_other() {
    let path = config("../docs/reference/metrics.md");
    let page = fs::read_to_string(&path).unwrap();
    let described = Metrics::described().into_iter();
    let mut left: BTreeMap<_, _> = described.map(|it| (it.name.clone(), it)).collect();
    assert!(left.len() > 100, "{}", left.len());
    assert!(left.values().all(|it| it.kind != "untyped"));
    let lines = page.lines().map(|line| {
        if line.starts_with("| `") {
            row(line, &mut left) + "\n"
        } else {
            format!("{line}\n")
        }
    });
    let expected: String = lines.collect();
    assert!(left.is_empty(), "without a row: {:?}", left.keys());
    if std::env::var_os("WRITE_PAGES").is_some() {
        fs::write(&path, &expected).unwrap();
    } else {
        assert!(
            page == expected,
            "types or labels are others: run this test with WRITE_PAGES=1"
        );
    }
}

#[tokio::test]
async fn series_have_the_types_and_labels_that_the_page_names() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    traffic(&proxy, &gatepay).await;
    let described = Metrics::described().into_iter();
    let described: BTreeMap<_, _> = described.map(|it| (it.name.clone(), it)).collect();
    let text = proxy.metrics().await;
    let mut seen = 0;
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            assert_eq!(described[name].kind, kind, "{name}");
            continue;
        }
        let Some((name, labels)) = line.split_once('{') else {
            continue;
        };
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| name.strip_suffix(part));
        let known = described.get(name);
        let known = known.or_else(|| described.get(base?));
        let known: BTreeSet<_> = known.unwrap().labels.iter().map(String::as_str).collect();
        let (labels, _) = labels.rsplit_once('}').unwrap();
        let labels = labels.split("\",").map(|it| it.split_once('=').unwrap().0);
        let labels: BTreeSet<_> = labels.filter(|label| *label != "le").collect();
        assert_eq!(labels, known, "{line}");
        seen += 1;
    }
    assert!(seen > 500, "{seen}");
}

/// This many tenants, none of which belongs to a shop.
fn crowd(many: usize) -> Vec<Shop> {
    let leak = |text: String| -> &'static str { text.leak() };
    let shop = |number: usize| {
        Shop::new(
            leak(format!("t{number:06}")),
            leak(format!("client-{number:06}")),
            leak(format!("fake-secret-{number:06}")),
            leak(format!("{number:010}")),
        )
    };
    (0..many).map(shop).collect()
}

/// For any requests by any number of callers: there are no more series than `check` says, and no caller names a series.
async fn is_bounded(tenants: usize, own: usize, hostile: usize) {
    let upstream = Scripted::codes();
    let shops = crowd(tenants);
    let plan = shops.iter().fold(
        Proxy::before_scripted(&upstream).with(move |settings| {
            settings.metrics.max_tenants = own;
        }),
        |plan, shop| plan.tenant(shop.clone()),
    );
    let proxy = plan.start();
    let mut caller = proxy.connect().await;
    for shop in &shops {
        let read = shop.get(DETAILS).request(&proxy.clock);
        assert_eq!(caller.send(read).await.status, 200, "{}", shop.id);
    }
    for number in 0..hostile {
        let evil = format!("evil{number}");
        for call in [
            shops[0]
                .get(DETAILS)
                .instead("x-gatepay-certificate-clientid", &evil),
            shops[0].get(&format!("/{evil}")),
            shops[0]
                .get(&format!("/{evil}?{evil}=1"))
                .method(evil.to_uppercase().parse().unwrap()),
            shops[0].get(DETAILS).header("traceparent", &evil),
        ] {
            // The connection may be closed, whether or not the request was read.
            proxy.send(call).await;
        }
    }
    proxy.counts("in_flight 0").await;
    let mut times = Vec::new();
    let mut text = String::new();
    for _ in 0..5 {
        let began = std::time::Instant::now();
        text = proxy.metrics().await;
        times.push(began.elapsed());
    }
    times.sort();
    let took = times[2];
    let size = ScrapeSize::of(text.as_bytes());
    let generation = proxy.app().generation.load();
    let settings = &proxy.app().settings.metrics;
    let bound = ScrapeSize::bound(&generation.catalogue, &generation.registry, settings);
    say(format_args!(
        "{tenants} tenants, {own} with series of their own: {} series of at most {}, {} bytes of at most {}, \
         scraped in {took:?} (median of 5)",
        size.series, bound.series, size.bytes, bound.bytes
    ));
    assert!(
        size.series <= bound.series && size.bytes <= bound.bytes,
        "{size:?}, not {bound:?}"
    );
    let used = "gatepay_proxy_credential_last_used_timestamp_seconds{";
    let used = text.lines().filter(|line| line.starts_with(used)).count();
    assert_eq!(used, own.min(tenants), "nor have all credentials series");
    assert!(
        !text.contains("evil") && !text.contains("EVIL"),
        "nothing a caller says is a label"
    );
    let others = tenants - own.min(tenants);
    let other =
        format!(r#"requests_total{{kind="read",outcome="failure",tenant="other"}} {others}"#);
    proxy.counts(&other).await;
    assert!(!text.contains(&format!("tenant=\"{}\"", shops[own].id)));
}

#[tokio::test]
async fn a_tenant_called_other_is_not_counted_with_tenants_that_have_no_series() {
    let upstream = Scripted::codes();
    let leak = |text: String| -> &'static str { text.leak() };
    let shop = |id: &'static str, number: u32| {
        Shop::new(
            id,
            leak(format!("client-{id}")),
            leak(format!("fake-secret-{id}")),
            leak(format!("{number:010}")),
        )
    };
    let (named, first, last) = (shop("other", 1), shop("abc", 2), shop("xyz", 3));
    let proxy = Proxy::before_scripted(&upstream)
        .tenant(named.clone())
        .tenant(first.clone())
        .tenant(last.clone())
        .with(|settings| settings.metrics.max_tenants = 2)
        .start();
    for (shop, times) in [(&named, 1), (&first, 2), (&last, 3)] {
        for _ in 0..times {
            assert_eq!(proxy.send(shop.get(DETAILS)).await.status, 200);
        }
    }
    for (label, times) in [("_other", 1), ("abc", 2), ("other", 3)] {
        let ended = format!(r#"requests_total{{kind="read",outcome="failure",tenant="{label}"}}"#);
        proxy.counts(&format!("{ended} {times}")).await;
    }
    let uses = r#"credential_uses_total{client_id="client-other",tenant="_other"}"#;
    proxy.counts(&format!("{uses} 1")).await;
}

#[tokio::test]
async fn no_request_makes_more_series_than_check_prints() {
    say("in small: 600 tenants of 100,000");
    is_bounded(600, 50, 40).await;
}

#[tokio::test]
#[ignore = "takes a minute: a hundred thousand tenants, each with traffic"]
async fn no_request_of_a_hundred_thousand_tenants_makes_more_series_than_check_prints() {
    is_bounded(100_000, 1_000, 2_000).await;
}
