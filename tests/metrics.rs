use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gatepay_core::Catalogue;
use gatepay_proxy::metrics::Metrics;
use gatepay_proxy::metrics::size::ScrapeSize;
use gatepay_sandbox::InjectedFault;
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

/// The names of all series of this program.
fn names() -> BTreeSet<String> {
    let metrics = Metrics::new(&Catalogue::standard());
    let _tenant = metrics.tenants.of(Some("acme"));
    metrics.reloads.at_work("0");
    let text = String::from_utf8(metrics.render()).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.flat_map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let parts: &[&str] = if kind == "histogram" {
            &["_bucket", "_sum", "_count"]
        } else {
            &[""]
        };
        parts.iter().map(move |part| format!("{name}{part}"))
    });
    // Made at each scrape, of the present credentials.
    let of_credentials = [
        "uses_total",
        "last_used_timestamp_seconds",
        "not_in_force_since_timestamp_seconds",
    ];
    let of_credentials = of_credentials.map(|name| format!("gatepay_proxy_credential_{name}"));
    names.chain(of_credentials).collect()
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

#[test]
fn the_pages_list_every_metric() {
    let page = |name: &str| fs::read_to_string(config(name)).unwrap();
    let pages = page("../docs/reference/metrics.md") + &page("../docs/explanation/limits.md");
    let parts = ["_bucket", "_sum", "_count"];
    for name in names() {
        let base = parts.iter().find_map(|part| name.strip_suffix(part));
        let base = base.unwrap_or(&name);
        let short = base.strip_prefix("gatepay_proxy_").unwrap_or(base);
        assert!(pages.contains(&format!("`{short}`")), "{short}");
    }
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
