use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gatepay_sandbox::InjectedFault;
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::metrics::{config, dashboard, read};
use crate::support::program::{Folder, Program};
use crate::support::*;

/// A real Prometheus, killed when the test ends.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts Prometheus with the example configuration, for a running proxy and with a shorter scrape interval.
    fn scraping(admin: SocketAddr, folder: &Folder) -> Option<Self> {
        let rules = config("prometheus/rules.yml").canonicalize().unwrap();
        let example = read("prometheus/prometheus.yml");
        let hasty = example
            .replace("15s", "250ms")
            .replace("127.0.0.1:9090", &admin.to_string())
            .replace("rules.yml", rules.to_str().unwrap());
        assert!(hasty.contains(&admin.to_string()) && hasty.contains("250ms"));
        folder.file("prometheus.yml", &hasty);
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.name("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", folder.name("tsdb")))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            say("SKIPPED: there is no prometheus here (Debian's package of that name)");
            return None;
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = lines.by_ref().map(Result::unwrap);
        let line = said.find(|line| line.contains("Listening on"));
        let (_, address) = line
            .as_deref()
            .and_then(|line| line.rsplit_once('='))
            .unwrap();
        let address = address.parse().unwrap();
        // The rest of the output is read, so that a full pipe does not block Prometheus.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, address })
    }

    async fn get(&self, target: &str) -> Value {
        let request = Request::builder()
            .uri(target)
            .header("host", "prometheus")
            .body(Full::default())
            .unwrap();
        let answer = Connection::open(self.address).await.send(request).await;
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(value["status"], "success", "{target}: {value}");
        value["data"].clone()
    }

    /// The answer to a query: values, one for each series.
    async fn ask(&self, query: &str) -> Vec<f64> {
        let encode = |byte: u8| match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        let query: String = query.bytes().map(encode).collect();
        let data = self.get(&format!("/api/v1/query?query={query}")).await;
        let result = data["result"].as_array().unwrap();
        let value = |series: &Value| series["value"][1].as_str()?.parse().ok();
        result.iter().filter_map(value).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Prometheus has no data to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests of every kind, repeated, so that there are rates.
async fn load(program: &Program, gatepay: &GatePay, round: usize) {
    let clock = gatepay_proxy::process::clock::Clock::system();
    let create = |shop: Shop, n: usize| shop.post(CREATE, order(&format!("S-{round}-{n}")));
    let mut caller = Connection::open(program.address).await;
    for call in [
        create(acme(), 1),
        create(acme(), 1),
        acme().post(QUERY, BY_NUMBER),
        globex().post(REFUND, A_REFUND),
        globex().post(QUERY, "{}"),
    ] {
        caller.send(call.request(&clock)).await;
    }
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    for call in [
        create(globex(), 2),
        acme().get(DETAILS).secret("fake-other"),
    ] {
        let mut caller = Connection::open(program.address).await;
        caller.send(call.request(&clock)).await;
    }
}

/// A query of the dashboard, with Grafana's values for its variables.
fn filled_in(query: &str) -> String {
    query
        .replace("$__rate_interval", "5s")
        .replace("$instance", ".*")
        .replace("$tenant", ".*")
}

#[tokio::test]
async fn a_real_prometheus_has_an_answer_to_all_that_the_dashboard_and_the_rules_ask() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    folder.edit(
        "proxy.toml",
        "upstream = {",
        "upstream = { resolve_ms = 600,",
    );
    folder.keeps_a_journal();
    let program = Program::serve(&folder).await;
    let Some(prometheus) = Prometheus::scraping(program.admin, &folder) else {
        return;
    };
    let began = Instant::now();
    let mut queries: Vec<String> = dashboard();
    // A variable's list is a question about labels, and no query.
    queries.retain(|query| !query.starts_with("label_values(") && query != "prometheus");
    let asked = queries.len();
    // Annotations mark moments; an empty answer is right as well.
    queries.retain(|query| !query.starts_with("changes("));
    let mut round = 0;
    let mut open = queries.clone();
    while !open.is_empty() {
        assert!(began.elapsed() < 2 * PATIENCE, "no answer to {open:#?}");
        load(&program, &gatepay, round).await;
        round += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut without = Vec::new();
        for query in open {
            let values = prometheus.ask(&filled_in(&query)).await;
            if !values.iter().any(|value| value.is_finite()) {
                without.push(query);
            }
        }
        open = without;
    }
    say(format_args!(
        "{} of {asked} queries of the dashboard had data after {round} rounds",
        queries.len()
    ));

    // The counts agree with the requests.
    let refunds = r#"sum(gatepay_proxy_requests_total{tenant="globex",kind="money"})"#;
    let scraped = || async { prometheus.ask(refunds).await.first().copied() };
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    while scraped().await != Some(round as f64) {
        assert!(
            began.elapsed() < 3 * PATIENCE,
            "{round} refunds, not {:?}",
            scraped().await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rules = prometheus.get("/api/v1/rules").await;
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    let health: Vec<_> = rules.map(|rule| (&rule["name"], &rule["health"])).collect();
    assert!(health.len() > 20);
    assert!(
        health.iter().all(|(_, health)| *health == "ok"),
        "{health:?}"
    );
    program.terminate();
    assert_eq!(program.end().await.0, Some(0));
}
