//! Tenants whose endpoints hang, refuse and close hold up no other tenant's deliveries.

use std::collections::BTreeMap;

use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use super::*;
use crate::support::background::Background;
use crate::support::tenant_endpoint::TenantEndpoint;

/// The tenants whose endpoints fail.
const BAD: [&str; 3] = ["hangs", "refuses", "closes"];

/// One program with `good` tenants that share a healthy server, and the three of [`BAD`].
struct Neighborhood {
    receiver: Receiver,
    good: usize,
    healthy: TenantEndpoint,
    /// It takes requests and answers none.
    hanging: TenantEndpoint,
    _closing: Background,
    _folder: Folder,
}

/// The notifications that tenants get in a phase, each second.
#[derive(Clone, Copy)]
struct PhaseLoad {
    /// The time that notifications are sent.
    lasts: Duration,
    /// To each tenant with a healthy endpoint.
    good_per_second: u32,
    /// To each of [`BAD`].
    bad_per_second: u32,
}

/// The deliveries of a phase to the tenants with healthy endpoints.
struct PhaseFigures {
    /// From when GatePay begins to send a notification until its tenant has it, ascending.
    took: Vec<Duration>,
    /// The notifications for [`BAD`] that were acknowledged.
    bad: usize,
    /// The memory of the program, in KiB.
    resident: usize,
}

#[tokio::test]
async fn endpoints_that_hang_refuse_and_close_hold_up_no_other_tenant() {
    for engine in engines().await {
        let neighborhood = Neighborhood::start(&engine, 4).await;
        let load = PhaseLoad {
            lasts: Duration::from_millis(500),
            good_per_second: 10,
            bad_per_second: 40,
        };
        let figures = neighborhood.phase("bad", load).await;
        assert_eq!(figures.took.len(), 4 * 5);
        assert!(figures.bad > 0);
        neighborhood.receiver.program.stop().await;
    }
}

#[tokio::test]
#[ignore = "two minutes, and figures only on a quiet machine: the long form with the embedded store"]
async fn forty_seven_tenants_are_as_fast_beside_three_bad_ones_with_a_file() {
    beside_three_bad_ones(&Engine::File).await;
}

#[tokio::test]
#[ignore = "two minutes, and figures only on a quiet machine: the long form with PostgreSQL"]
async fn forty_seven_tenants_are_as_fast_beside_three_bad_ones_with_a_server() {
    if postgres::is_missing() {
        return;
    }
    let server = Box::new(PgServer::migrated().await);
    beside_three_bad_ones(&Engine::Server(server)).await;
}

#[expect(clippy::print_stderr, reason = "a proof shows its figures")]
async fn beside_three_bad_ones(engine: &Engine) {
    let neighborhood = Neighborhood::start(engine, 47).await;
    let alone = PhaseLoad {
        lasts: Duration::from_secs(30),
        good_per_second: 1,
        bad_per_second: 0,
    };
    let beside = PhaseLoad {
        lasts: Duration::from_mins(1),
        bad_per_second: 200,
        ..alone
    };
    // The first connection to each endpoint and the first plans of statements are no part of either.
    neighborhood
        .phase(
            "first",
            PhaseLoad {
                lasts: Duration::from_secs(3),
                ..alone
            },
        )
        .await;
    let alone = neighborhood.phase("alone", alone).await;
    let beside = neighborhood.phase("beside", beside).await;
    for (name, phase) in [("alone", &alone), ("beside", &beside)] {
        eprintln!(
            "{name}: {} deliveries to 47 tenants, p50 {:?}, p99 {:?}; {} notifications for three bad ones; {} KiB resident",
            phase.took.len(),
            phase.percentile(50),
            phase.percentile(99),
            phase.bad,
            phase.resident
        );
    }
    let ratio = beside.percentile(99).as_secs_f64() / alone.percentile(99).as_secs_f64();
    eprintln!("p99 beside three bad endpoints: {ratio:.2} times that alone (at most 1.2)");
    neighborhood.receiver.program.stop().await;
}

impl Neighborhood {
    async fn start(engine: &Engine, good: usize) -> Self {
        let healthy = TenantEndpoint::start();
        let hanging = TenantEndpoint::start();
        hanging.falls_silent(true);
        let closing = Background::serve(|listener| async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                // It reads the beginning, so that the connection is made and then lost.
                let _ = tcp.read(&mut [0; 64]).await;
            }
        });
        let refusing: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let folder = folder("http://127.0.0.1:9", engine);
        let bad = [hanging.address(), refusing, closing.address];
        let ports = [healthy.address(), bad[0], bad[1], bad[2]].map(|it| it.port());
        folder.edit(
            "proxy.toml",
            "public_url = ",
            &format!("ports = {ports:?}, allow_networks = ['127.0.0.0/8'], public_url = "),
        );
        for (endpoint, name) in [(&healthy, "healthy-ca.pem"), (&hanging, "hanging-ca.pem")] {
            endpoint.write_certificate(&folder.path(name));
        }
        folder.tenant(&acme(), "");
        let tenant = |id: &str, url: &str, ca: &str| {
            let ca = folder.name(ca);
            let text = format!(
                "id = '{id}'\nsub_account = 'account-{id}'\n\
                credential = [{{ client_id = 'client-{id}', secret = {{ file = '../secrets/{id}.key' }} }}]\n\
                notifications = {{ url = '{url}', ca = '{ca}' }}\n"
            );
            folder.file(&format!("tenants.d/{id}.toml"), &text);
            folder.secret(id, &format!("fake-{id}-secret"));
        };
        for number in 0..good {
            let url = healthy.url(&format!("/{number}"));
            tenant(&format!("good-{number}"), &url, "healthy-ca.pem");
        }
        for (id, address) in BAD.iter().zip(bad) {
            tenant(id, &format!("https://{address}/hook"), "hanging-ca.pem");
        }
        let receiver = Receiver::start(&folder).await;
        receiver.acknowledges(&payout_of("good-0", "first")).await;
        until("the first is delivered", || healthy.count() == 1).await;
        let _first = healthy.take();
        Self {
            receiver,
            good,
            healthy,
            hanging,
            _closing: closing,
            _folder: folder,
        }
    }

    /// Sends notifications at a steady rate, and waits until each of those for a healthy endpoint is there.
    async fn phase(&self, name: &str, load: PhaseLoad) -> PhaseFigures {
        let mut senders = JoinSet::new();
        for number in 0..self.good {
            let (address, id) = (self.receiver.address, format!("good-{number}"));
            let prefix = format!("{name}-{number}");
            senders.spawn(send_steadily(
                address,
                (id, prefix),
                load.good_per_second,
                (load.lasts, PATIENCE),
            ));
        }
        let mut bad = JoinSet::new();
        for id in BAD {
            let address = self.receiver.address;
            // Each of several connections sends a part, since an acknowledgment waits for a commit.
            for part in 0..4 {
                let of = (id.to_owned(), format!("{name}-{id}-{part}"));
                bad.spawn(send_steadily(
                    address,
                    of,
                    load.bad_per_second / 4,
                    (load.lasts, load.lasts * 2),
                ));
            }
        }
        let sent: BTreeMap<String, Instant> =
            senders.join_all().await.into_iter().flatten().collect();
        let bad = bad.join_all().await.into_iter().map(|sent| sent.len());
        let bad = bad.sum();
        let began = Instant::now();
        while self.healthy.count() < sent.len() {
            assert!(
                began.elapsed() < 2 * PATIENCE,
                "{} of {}",
                self.healthy.count(),
                sent.len()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let deliveries = self.healthy.take();
        let mut took: Vec<Duration> = deliveries
            .iter()
            .map(|delivery| {
                let body: Value = serde_json::from_slice(&delivery.body).unwrap();
                let number = body["main_order"]["batch_id"].as_str().unwrap();
                delivery.at.saturating_duration_since(sent[number])
            })
            .collect();
        took.sort_unstable();
        let _unanswered = self.hanging.take();
        PhaseFigures {
            took,
            bad,
            resident: resident(&self.receiver.program),
        }
    }
}

impl PhaseFigures {
    fn percentile(&self, percent: usize) -> Duration {
        self.took[(self.took.len() - 1) * percent / 100]
    }
}

/// Sends payouts' news of one tenant at a steady rate, as many as belong to the first time; a slow machine gets until the second
/// one. Returns when each began to be sent.
async fn send_steadily(
    address: SocketAddr,
    (id, prefix): (String, String),
    per_second: u32,
    (lasts, at_most): (Duration, Duration),
) -> Vec<(String, Instant)> {
    if per_second == 0 {
        return Vec::new();
    }
    let mut connection = Connection::open(address).await;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let count = lasts.as_millis() * u128::from(per_second) / 1_000;
    let (began, mut sent) = (Instant::now(), Vec::new());
    for number in 0..count {
        ticks.tick().await;
        if began.elapsed() > at_most {
            break;
        }
        let number = format!("{prefix}-{number}");
        let body = payout_of(&id, &number);
        let begins = Instant::now();
        loop {
            let request = notification(PATH, &body, INSTITUTION_SECRET);
            let answer = connection.send(request).await;
            // A busy machine may be late with a commit: GatePay sends again what is not acknowledged.
            if answer.status == 200 {
                break;
            }
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert!(begins.elapsed() < PATIENCE, "{}", answer.text());
        }
        sent.push((number, begins));
    }
    sent
}

/// The news of a payout, which the sub-account leads to its tenant.
fn payout_of(id: &str, number: &str) -> Value {
    json!({ "main_order": { "batch_id": number, "merchant_id": format!("account-{id}"), "status": "DONE",
        "client_id": INSTITUTION_ID }, "sub_orders": [] })
}

/// The memory of a program that is in RAM, in KiB.
fn resident(program: &Program) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.unwrap().parse().unwrap()
}
