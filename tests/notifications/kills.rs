//! `kill -9` of the proxy and of the database while the emulator sends: no acknowledged notification is lost.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread;

use gatepay_sandbox::{NotificationSending, SentNotification};

use super::*;

/// The most notifications of one round that wait for an acknowledgment at once.
const UNDER_WAY: usize = 40;
/// The runs of a long form, at the same time: a killed program or server takes a while to be there again.
const RUNS: u32 = 4;
/// The notifications whose acknowledgments a long form measures, and the commits.
const MEASURED: u32 = 2_000;

#[tokio::test]
async fn no_acknowledged_notification_is_lost_by_kills_while_gatepay_sends() {
    for engine in engines().await {
        kill_while_gatepay_sends(engine, 4, 0).await;
    }
}

#[tokio::test]
#[ignore = "a quarter of an hour: the long form with the embedded store"]
async fn no_acknowledged_notification_is_lost_by_a_thousand_kills_of_the_proxy() {
    kill_a_thousand_times(|| Engine::File);
    acknowledgments_and_commits(&Engine::File).await;
}

#[tokio::test]
#[ignore = "half an hour: the long form with PostgreSQL"]
async fn no_acknowledged_notification_is_lost_by_a_thousand_kills_of_the_proxy_and_the_database() {
    if postgres::is_missing() {
        return;
    }
    kill_a_thousand_times(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Engine::Server(Box::new(runtime.block_on(PgServer::migrated())))
    });
    let server = Box::new(PgServer::migrated().await);
    acknowledgments_and_commits(&Engine::Server(server)).await;
}

/// What a run of kills has seen.
#[derive(Default)]
struct KillFigures {
    of_proxy: u32,
    of_database: u32,
    acknowledged: usize,
}

/// A thousand kills, in runs of their own.
#[expect(clippy::print_stderr, reason = "a proof shows its figures")]
fn kill_a_thousand_times(engine: fn() -> Engine) {
    let runs = (0..RUNS).map(|run| {
        thread::spawn(move || {
            let engine = engine();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(kill_while_gatepay_sends(engine, 1_000 / RUNS, run))
        })
    });
    let runs: Vec<_> = runs.collect();
    let mut all = KillFigures::default();
    for run in runs {
        let of_run = run.join().unwrap();
        all.of_proxy += of_run.of_proxy;
        all.of_database += of_run.of_database;
        all.acknowledged += of_run.acknowledged;
    }
    eprintln!(
        "{} kills: {} of the proxy, {} of the database; acknowledged: {}, lost: 0",
        all.of_proxy + all.of_database,
        all.of_proxy,
        all.of_database,
        all.acknowledged
    );
}

/// Shows how long an acknowledgment takes, and how long the store's disk takes for a commit in the same run.
#[expect(clippy::print_stderr, reason = "a proof shows its figures")]
async fn acknowledgments_and_commits(engine: &Engine) {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), engine);
    let receiver = Receiver::start(&folder).await;
    let order = receiver.order(&acme(), "A-0001").await;
    receiver.acknowledges(&paid(&order, "first")).await;
    let mut commits = commits(engine, &folder);
    let mut connection = Connection::open(receiver.address).await;
    let mut took = Vec::new();
    for number in 0..MEASURED {
        // As many a second as a busy institution gets.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let body = paid(&order, &number.to_string());
        let request = notification(PATH, &body, INSTITUTION_SECRET);
        let began = Instant::now();
        let answer = connection.send(request).await;
        took.push(began.elapsed());
        assert_eq!(answer.status, 200);
    }
    commits.extend(self::commits(engine, &folder));
    for durations in [&mut took, &mut commits] {
        durations.sort_unstable();
    }
    let percentile = |of: &[Duration], percent: usize| of[(of.len() - 1) * percent / 100];
    let [ack, commit] = [&took, &commits].map(|of| percentile(of, 99));
    let bar = Duration::from_millis(50) + commit;
    eprintln!(
        "acknowledgment: p50 {:?}, p99 {ack:?} of {}; a commit: p50 {:?}, p99 {commit:?} of {}; bar {bar:?}: {}",
        percentile(&took, 50),
        took.len(),
        percentile(&commits, 50),
        commits.len(),
        if ack <= bar { "met" } else { "missed" }
    );
    receiver.program.stop().await;
}

/// How long commits take: of the server itself, or of a write to the file's disk.
fn commits(engine: &Engine, folder: &Folder) -> Vec<Duration> {
    match engine {
        Engine::Server(server) => {
            server.sql("CREATE TABLE IF NOT EXISTS public.probe (micros bigint)");
            server.sql(
                "DO $$ DECLARE began timestamptz; BEGIN FOR n IN 1..1000 LOOP
                    began := clock_timestamp();
                    INSERT INTO public.probe VALUES (0);
                    COMMIT;
                    INSERT INTO public.probe VALUES (extract(epoch FROM clock_timestamp() - began) * 1000000);
                    COMMIT;
                END LOOP; END $$",
            );
            let micros = server.sql("SELECT micros FROM public.probe WHERE micros > 0");
            server.sql("TRUNCATE public.probe");
            let micros = micros.lines().map(|line| line.parse().unwrap());
            micros.map(Duration::from_micros).collect()
        }
        Engine::File => {
            let path = folder.path("store/probe");
            let mut file = fs::File::create(&path).unwrap();
            let durations = (0..1_000).map(|_| {
                let began = Instant::now();
                file.write_all(&[7; 8_192]).unwrap();
                file.sync_data().unwrap();
                began.elapsed()
            });
            let durations = durations.collect();
            fs::remove_file(path).unwrap();
            durations
        }
    }
}

/// A run of kills.
struct KillRun {
    gatepay: Arc<GatePay>,
    engine: Engine,
    folder: Folder,
    receiver: Receiver,
    /// The id of acme's order, which a part of the notifications is about.
    order: String,
    /// The numbers of the notifications that were acknowledged and then found in the store.
    found: BTreeSet<u64>,
}

#[expect(clippy::print_stderr, reason = "a proof shows its figures")]
async fn kill_while_gatepay_sends(engine: Engine, rounds: u32, number: u32) -> KillFigures {
    let mut dice = Dice::new(u64::from(rounds + number));
    let mut run = KillRun::start(engine, number).await;
    let (mut of_proxy, mut of_database) = (0, 0);
    for round in 0..rounds {
        run.send_to_proxy();
        let sender = run.send_without_end(round);
        run.until_one_more_is_acknowledged().await;
        tokio::time::sleep(Duration::from_micros(dice.below(60_000))).await;
        let is_of_database = matches!(run.engine, Engine::Server(_)) && dice.below(2) == 0;
        if is_of_database {
            run.kill_database();
            of_database += 1;
        } else {
            run.receiver.program.signal("-KILL");
            of_proxy += 1;
        }
        sender.abort();
        run.send_nowhere();
        if !is_of_database {
            run.start_proxy_again().await;
        }
        run.find_acknowledged(round).await;
        if round % 100 == 99 {
            let found = run.found.len();
            eprintln!(
                "run {number}: kills: {of_proxy} of the proxy, {of_database} of the database; acknowledged: {found}, lost: 0"
            );
        }
    }
    let acknowledged = run.found.len();
    assert!(acknowledged >= rounds as usize);
    run.receiver.program.stop().await;
    KillFigures {
        of_proxy,
        of_database,
        acknowledged,
    }
}

impl KillRun {
    async fn start(engine: Engine, number: u32) -> Self {
        let gatepay = Arc::new(GatePay::now_and(|config| {
            let mut sending = NotificationSending::new(nowhere(), institution());
            sending.speed = NonZeroU32::new(1_000).unwrap();
            sending.record = 4_000;
            config.notifications = Some(sending);
        }));
        let folder = folder(&gatepay.url(), &engine);
        // Another run may get the port of a program that was killed, and would be sent this run's notifications.
        let own = format!("listen = '127.0.1.{}:0', public_url", number + 1);
        folder.edit("proxy.toml", "listen = '127.0.0.1:0', public_url", &own);
        let receiver = Receiver::start(&folder).await;
        let order = receiver.order(&acme(), "A-0001").await;
        receiver.acknowledges(&paid(&order, "first")).await;
        Self {
            gatepay,
            engine,
            folder,
            receiver,
            order,
            found: BTreeSet::new(),
        }
    }

    fn send_to_proxy(&self) {
        let url = format!("http://{}{PATH}", self.receiver.address);
        self.gatepay.sandbox.move_notifications_to(&url).unwrap();
    }

    /// Repetitions go where nothing listens, until the next round.
    fn send_nowhere(&self) {
        let sandbox = &self.gatepay.sandbox;
        sandbox.move_notifications_to(&nowhere()).unwrap();
    }

    /// Sends notifications until the task is aborted: about acme's order, about the institution, and some that no
    /// field leads to a tenant.
    fn send_without_end(&self, round: u32) -> tokio::task::JoinHandle<()> {
        let (gatepay, order) = (Arc::clone(&self.gatepay), self.order.clone());
        let before = gatepay.sandbox.notifications_waiting();
        tokio::spawn(async move {
            for number in 0_u32.. {
                while gatepay.sandbox.notifications_waiting() >= before + UNDER_WAY {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                let number = format!("{round}.{number}");
                let body = match number.len() + number.bytes().map(usize::from).sum::<usize>() {
                    sum if sum % 8 == 0 => {
                        json!({ "bizType": "PAY", "bizStatus": "PAY_SUCCESS", "bizId": number, "data": {} })
                    }
                    sum if sum % 8 < 4 => {
                        json!({ "bizType": "INSTITUTION", "bizStatus": "INSTITUTION_ACCOUNT_SUCCESS",
                            "data": { "request_id": number, "account_id": "9" } })
                    }
                    _ => paid(&order, &number),
                };
                gatepay.sandbox.notify(body.to_string()).unwrap();
            }
        })
    }

    /// The acknowledged notifications that were not looked for in the store yet.
    fn acknowledged(&self) -> Vec<SentNotification> {
        let mut sent = self.gatepay.sandbox.notifications_sent();
        sent.retain(|sent| sent.acknowledged && !self.found.contains(&sent.id));
        sent
    }

    async fn until_one_more_is_acknowledged(&self) {
        until("one more is acknowledged", || {
            !self.acknowledged().is_empty()
        })
        .await;
    }

    fn kill_database(&mut self) {
        if let Engine::Server(server) = &mut self.engine {
            server.kill();
            server.start_again();
        }
    }

    async fn start_proxy_again(&mut self) {
        let killed = &mut self.receiver.program;
        until("the killed proxy has ended", || killed.has_ended()).await;
        self.receiver = Receiver::start(&self.folder).await;
    }

    /// Finds every notification in the store that was acknowledged.
    async fn find_acknowledged(&mut self, round: u32) {
        let acknowledged = self.acknowledged();
        match &self.engine {
            Engine::Server(server) => {
                let stored = server.sql("SELECT convert_from(body, 'UTF8') FROM gatepay.event");
                let stored: BTreeSet<&str> = stored.lines().collect();
                for sent in &acknowledged {
                    let body = str::from_utf8(&sent.body).unwrap();
                    assert!(stored.contains(body), "{body} is lost in round {round}");
                }
            }
            // The proxy was killed and started again, and nothing is sent to it: only what was lost would be new.
            Engine::File => {
                let receiver = &self.receiver;
                let body = paid(&self.order, "first");
                acknowledges_in_the_end(receiver, &body).await;
                for sent in &acknowledged {
                    let body: Value = serde_json::from_slice(&sent.body).unwrap();
                    acknowledges_in_the_end(receiver, &body).await;
                }
                for (kind, result) in [("PAY", "new"), ("PAY", "changed"), ("INSTITUTION", "new")] {
                    let stored = receiver.received(kind, result).await;
                    assert_eq!(
                        stored, "0",
                        "a {kind} notification is lost in round {round}"
                    );
                }
            }
        }
        self.found.extend(acknowledged.iter().map(|sent| sent.id));
    }
}

/// Sends a notification until it is acknowledged, also after a connection of the test's own was reset: one that is sent again
/// is a duplicate only if it was stored before, and one that had been lost has been counted as new by then.
async fn acknowledges_in_the_end(receiver: &Receiver, body: &Value) {
    let began = Instant::now();
    loop {
        let mut connection = Connection::open(receiver.address).await;
        let request = notification(PATH, body, INSTITUTION_SECRET);
        match connection.try_send(request).await {
            Ok(answer) if answer.status == 200 => {
                assert_eq!(answer.body, ACKNOWLEDGED);
                return;
            }
            unanswered => assert!(began.elapsed() < PATIENCE, "{unanswered:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A URL where nothing listens, and where no other run's program can: it is below the ports that the system chooses.
fn nowhere() -> String {
    format!("http://127.0.0.1:9{PATH}")
}
