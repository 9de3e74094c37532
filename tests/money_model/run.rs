//! Running one scenario, from the start of its first process to the end of its last.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use tempfile::TempDir;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::history::{Delivery, History, Moment, Said, SignedCall, Violation};
use super::scenario::{
    Back, Change, FUTURE_MS, Flaw, Merchant, Mishap, Scenario, Setup, Sort, Step,
};
use super::tally::Tally;
use super::world::{self, Asked, World};
use crate::support::*;

/// A running scenario.
pub(super) struct Run<'w> {
    pub(super) world: &'w World,
    pub(super) setup: Setup,
    pub(super) folder: TempDir,
    /// Where the process keeps its state.
    pub(super) state: Option<PathBuf>,
    /// The number of state folders and copies made so far.
    pub(super) folders: usize,
    /// Copies of the state folder, in the order made.
    pub(super) copies: Vec<PathBuf>,
    /// The latest wall time that any process saw, in milliseconds since 1970.
    pub(super) latest_ms: u64,
    pub(super) proxy: Option<Proxy>,
    pub(super) connection: Option<Connection>,
    /// Processes that have handed over and finish their calls in flight.
    pub(super) leaving: Vec<JoinHandle<()>>,
    /// Calls in flight at GatePay when their process ended, by delivery.
    pub(super) in_flight: Vec<(usize, JoinHandle<Option<Answer>>)>,
    pub(super) calls: Vec<Signed>,
    pub(super) careless: BTreeSet<usize>,
    pub(super) groups: usize,
    /// The number of the latest order a shop wanted to create.
    pub(super) orders: BTreeMap<&'static str, String>,
    pub(super) history: History,
    pub(super) tally: Tally,
}

/// A signed call with all of its bytes.
#[derive(Clone)]
pub(super) struct Signed {
    pub(super) asked: Asked,
    pub(super) call: Call,
    pub(super) intent: usize,
}

/// The result of a scenario.
pub(super) struct RunReport {
    pub(super) violations: Vec<Violation>,
    pub(super) tally: Tally,
    /// Every delivery with its answer.
    pub(super) story: String,
}

/// Runs a scenario, and compares the answers with the executed calls.
pub(super) async fn run(world: &World, scenario: &Scenario) -> RunReport {
    world.begin();
    let before = [Merchant::Acme, Merchant::Globex].map(|shop| world.cents(shop));
    let mut run = Run::begin(world, scenario.setup);
    run.start(Change::Nothing).await;
    // The first process's start-up guard is over, so that steps do not begin with refusals.
    run.pass(FUTURE_MS + 1);
    for step in &scenario.steps {
        if run.proxy.is_none() {
            break;
        }
        run.tally.step(step);
        run.step(*step).await;
    }
    run.end().await;
    let after = [Merchant::Acme, Merchant::Globex].map(|shop| world.cents(shop));
    run.report(before.iter().sum::<u64>() - after.iter().sum::<u64>())
}

impl<'w> Run<'w> {
    fn begin(world: &'w World, setup: Setup) -> Self {
        let folder = in_memory();
        let state = setup.state_dir.then(|| folder.path().join("state-0"));
        Self {
            world,
            setup,
            folder,
            state,
            folders: 0,
            copies: Vec::new(),
            latest_ms: world.clock().unix_ms(),
            proxy: None,
            connection: None,
            leaving: Vec::new(),
            in_flight: Vec::new(),
            calls: Vec::new(),
            careless: BTreeSet::new(),
            groups: 0,
            orders: BTreeMap::new(),
            history: History::default(),
            tally: Tally::default(),
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Call(sort, shop, skew, mishap) => {
                let call = self.new_call(sort, shop, skew);
                self.suffer(sort, mishap);
                self.deliver(call).await;
            }
            Step::Again(back) => self.again(back).await,
            Step::Elsewhere(back) => self.elsewhere(back).await,
            Step::Flawed(back, flaw) => self.flawed(back, flaw).await,
            Step::Anew(back) => {
                if let Some(call) = self.earlier(back) {
                    self.careless.insert(self.calls[call].intent);
                    self.anew(call).await;
                }
            }
            Step::Obey(back) => self.obey(back).await,
            Step::AtOnce(sort, shop, copies) => self.at_once(sort, shop, copies).await,
            Step::Overtaken(sort, shop, wait) => self.overtaken(sort, shop, wait).await,
            Step::Pass(ms) => self.pass(ms),
            Step::WallClock(ms) => {
                self.world.clock().step(ms);
                self.move_mark();
            }
            Step::Housekeeping => self.keep_house(),
            Step::CopyState => self.copy_state(),
            Step::Restart(restart) => self.restart(restart).await,
            Step::JournalBreaks => self.break_journal(),
            Step::JournalMends => self.mend_journal().await,
        }
        self.world.gatepay.sandbox.clear_faults();
    }

    // Calls.

    pub(super) fn new_call(&mut self, sort: Sort, shop: Merchant, skew_ms: i64) -> usize {
        let id = format!("{shop:?}");
        let closes = self.orders.get(id.as_str()).cloned();
        let asked = self.world.ask(sort, shop, closes.as_deref());
        if sort == Sort::CreateOrder {
            let (_, number) = asked.key.split_once(' ').expect("operation and number");
            let id = if shop == Merchant::Acme {
                "Acme"
            } else {
                "Globex"
            };
            self.orders.insert(id, number.to_owned());
        }
        self.sign(asked, self.calls.len(), skew_ms)
    }

    fn sign(&mut self, asked: Asked, intent: usize, skew_ms: i64) -> usize {
        let stamp = self.calls.len();
        let call = asked.sign(self.world.clock(), stamp, skew_ms);
        self.history.stamps.push(SignedCall {
            key: asked.key.clone(),
            intent,
        });
        self.calls.push(Signed {
            asked,
            call,
            intent,
        });
        stamp
    }

    fn earlier(&self, Back(back): Back) -> Option<usize> {
        let calls = self.calls.len();
        (calls > 0).then(|| calls - 1 - usize::from(back) % calls)
    }

    async fn again(&mut self, back: Back) {
        let Some(call) = self.earlier(back) else {
            return;
        };
        let intent = self.calls[call].intent;
        if self.calls.iter().rposition(|other| other.intent == intent) != Some(call) {
            // The call was signed anew since. A caller that sends both stamps wants both effects.
            self.careless.insert(intent);
        }
        self.deliver(call).await;
    }

    async fn elsewhere(&mut self, back: Back) {
        if let Some(call) = self.earlier(back) {
            let signed = &self.calls[call];
            let mut request = signed.call.request(self.world.clock());
            *request.uri_mut() = signed.asked.sort.other_path().parse().expect("a path");
            self.deliver_changed(call, request).await;
        }
    }

    async fn flawed(&mut self, back: Back, flaw: Flaw) {
        if let Some(call) = self.earlier(back) {
            let signed = &self.calls[call];
            let request = signed.asked.flawed(&signed.call, flaw);
            let request = request.request(self.world.clock());
            self.deliver_changed(call, request).await;
        }
    }

    /// Sends a changed request that carries the stamp of a call.
    async fn deliver_changed(&mut self, call: usize, request: Request<Full<bytes::Bytes>>) {
        self.careless.insert(self.calls[call].intent);
        self.groups += 1;
        let delivery = self.sent(call, true);
        let answer = self.exchange(request).await;
        self.answered(delivery, answer);
    }

    async fn anew(&mut self, call: usize) {
        let Signed { asked, intent, .. } = self.calls[call].clone();
        let stamp = self.sign(asked, intent, 0);
        self.deliver(stamp).await;
    }

    /// Follows the latest answer. After a 429 or a lost answer the same bytes are sent again. After `not-executed` the
    /// call is signed anew. Every other answer is left to a query.
    async fn obey(&mut self, back: Back) {
        let Some(call) = self.earlier(back) else {
            return;
        };
        let intent = self.calls[call].intent;
        let latest = self.calls.iter().rposition(|other| other.intent == intent);
        let latest = latest.expect("it is one of them");
        let deliveries = self.history.deliveries.iter().rev();
        let mut told =
            deliveries.filter(|delivery| delivery.stamp == latest && !delivery.elsewhere);
        let Some(told) = told.next() else {
            return;
        };
        match &told.answered {
            None => self.deliver(latest).await,
            Some((_, said)) if said.status == 429 => self.deliver(latest).await,
            Some((_, said)) if said.denies() => self.anew(latest).await,
            Some(_) => {}
        }
    }

    /// Sends a call with the bytes that were signed.
    async fn deliver(&mut self, call: usize) {
        let request = self.calls[call].call.request(self.world.clock());
        self.groups += 1;
        let delivery = self.sent(call, false);
        let answer = self.exchange(request).await;
        self.answered(delivery, answer);
    }

    async fn at_once(&mut self, sort: Sort, shop: Merchant, copies: u8) {
        let call = self.new_call(sort, shop, 0);
        let request = self.calls[call].call.request(self.world.clock());
        self.careless.insert(self.calls[call].intent);
        self.groups += 1;
        let mut answers = JoinSet::new();
        for _ in 0..copies {
            let delivery = self.sent(call, false);
            let (address, request) = (self.proxy().address(), request.clone());
            answers.spawn(async move {
                let mut connection = Connection::open(address).await;
                (delivery, connection.try_send(request).await.ok())
            });
        }
        while let Some(answered) = answers.join_next().await {
            let (delivery, answer) = answered.expect("no caller panicked");
            self.answered(delivery, answer);
        }
    }

    async fn overtaken(&mut self, sort: Sort, shop: Merchant, wait_ms: u32) {
        let call = self.new_call(sort, shop, 0);
        self.careless.insert(self.calls[call].intent);
        let bytes = self.calls[call].call.bytes(self.world.clock());
        let (last, first) = bytes.split_last().expect("it has a body");
        self.groups += 1;
        let slow = self.sent(call, false);
        let mut raw = self.proxy().raw().await;
        raw.write(first).await;
        // A copy that was answered before this head arrived could truly be told that nothing was executed.
        let replay = &self.proxy().app().admission.replay;
        let print = self.calls[call].call.fingerprint(replay);
        until("its head has arrived", || {
            raw.is_answered() || replay.doubt(print).is_some()
        })
        .await;
        if raw.is_answered() {
            // The proxy refused the call by its head alone.
            let answer = raw.try_answer().await;
            return self.answered(slow, answer);
        }
        self.deliver(call).await;
        self.pass(wait_ms);
        self.history.deliveries[slow].whole = self.now();
        let answer = match raw.try_write(&[*last]).await {
            Ok(()) => raw.try_answer().await,
            Err(_) => None,
        };
        self.answered(slow, answer);
    }

    /// Records the next delivery of a call, and returns its number.
    pub(super) fn sent(&mut self, call: usize, elsewhere: bool) -> usize {
        let now = self.now();
        self.history.deliveries.push(Delivery {
            stamp: call,
            elsewhere,
            group: self.groups,
            sent: now,
            whole: now,
            answered: None,
        });
        self.history.deliveries.len() - 1
    }

    pub(super) fn answered(&mut self, delivery: usize, answer: Option<Answer>) {
        let said = answer.map(|answer| said(&answer));
        self.tally.answer(said.as_ref());
        let now = self.now();
        self.history.deliveries[delivery].answered = said.map(|said| (now, said));
    }

    fn now(&self) -> Moment {
        Moment {
            received: self.world.received(),
        }
    }

    /// Sends on the kept connection, or on a new one after the kept connection has closed.
    async fn exchange(&mut self, request: Request<Full<bytes::Bytes>>) -> Option<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.proxy().connect().await,
        };
        let answer = timeout(PATIENCE, connection.try_send(request)).await;
        let answer = answer.expect("an answer, or a connection that ends").ok()?;
        self.connection = (!answer.closes()).then_some(connection);
        Some(answer)
    }

    pub(super) fn suffer(&self, sort: Sort, mishap: Option<Mishap>) {
        if let Some(mishap) = mishap {
            let fault = mishap.fault().once().on(sort.institution_path());
            self.world.gatepay.inject(fault);
        }
    }

    // Time.

    pub(super) fn pass(&mut self, ms: u32) {
        self.world.clock().advance(Duration::from_millis(ms.into()));
        self.keep_house();
    }

    /// The control thread's work of each second.
    pub(super) fn keep_house(&mut self) {
        let now = self.world.clock().unix_ms();
        self.proxy().app().admission.replay.forget(now);
        self.move_mark();
    }

    /// Advances the watermark. A stamp above the watermark would wait for the advance in real time.
    pub(super) fn move_mark(&mut self) {
        let now = self.world.clock().unix_ms();
        self.latest_ms = self.latest_ms.max(now);
        let app = self.proxy().app();
        let moved = app
            .admission
            .watermark
            .advance(now, app.settings.window.future_ms);
        moved.expect("the folder can be written");
    }

    // Report.

    fn report(mut self, paid_cents: u64) -> RunReport {
        self.history.executions = self.world.executions();
        let violations = self.history.violations(&self.careless);
        assert_eq!(
            paid_cents,
            self.cents(),
            "the books and what GatePay received differ"
        );
        let mut story = String::new();
        for delivery in &self.history.deliveries {
            let key = &self.history.stamps[delivery.stamp].key;
            writeln!(story, "     {key}, {delivery}").expect("text takes text");
        }
        RunReport {
            violations,
            tally: self.tally,
            story,
        }
    }

    /// The total cost of the executed calls, each key counted once.
    fn cents(&self) -> u64 {
        let effects = self.history.executions.iter();
        let keys: BTreeSet<_> = effects
            .filter(|one| one.took_effect)
            .map(|one| one.key.as_str())
            .collect();
        let cost = |key: &&str| match key.split_once(' ') {
            Some(("refund_order", _)) => 1,
            Some(("create_payout", _)) => 2,
            _ => 0,
        };
        keys.iter().map(cost).sum()
    }
}

fn said(answer: &Answer) -> Said {
    let json = serde_json::from_slice(&answer.body).unwrap_or_default();
    Said {
        status: answer.status,
        refusal: answer.refusal().map(str::to_owned),
        outcome: answer.outcome().map(str::to_owned),
        succeeded: answer.status == 200 && world::succeeded(&json),
    }
}

/// A folder in memory if the machine has `/dev/shm`, because files are cheap there.
fn in_memory() -> TempDir {
    let shared = Path::new("/dev/shm");
    let folder = if shared.is_dir() {
        tempfile::tempdir_in(shared)
    } else {
        tempfile::tempdir()
    };
    folder.expect("a folder")
}
