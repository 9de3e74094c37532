//! The SQL functions and the model in Rust give the same answers to any sequence of calls, clocks and failovers.

use std::collections::HashMap;
use std::time::Duration;

use gatepay_core::Kind;
use gatepay_store::admission::{AdmissionBatch, AdmissionRow, HaltScope, LedgerIntent};
use gatepay_store::identity::{StoreContact, StoreIdentity};
use gatepay_store::instance::{HaltInForce, InstanceBeat};
use gatepay_store::model::{ModelServer, StoreModel};
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::StoreTerms;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use crate::cap_steps::START_MS;
use crate::postgres::{self, PgServer};
use crate::support::{beat, connected, introduction, runtime, settings, text, timed};

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// An instance asks for a batch.
    Admit(usize, Vec<AskedRow>),
    /// Of an instance that may serve reads while the store is away.
    Beat(usize, bool),
    Advance(u64),
    Halt(usize),
    /// Whether by the epoch of its last order.
    Resume(usize, bool),
    /// Halts are lost with the last commits.
    LoseHalts,
    Distrust,
    /// A standby takes over: another timeline, at an earlier position, without the stamps of the last milliseconds.
    Promote(u64),
    /// The data directory of some moment is put back.
    Rewind(u64),
    Restart,
}

#[derive(Debug, Clone)]
enum AskedRow {
    /// A row that was asked for before.
    Again(prop::sample::Index),
    New {
        offset_ms: i64,
        kind: u8,
        party: u8,
        nonce: Option<u8>,
        intent: Option<u8>,
    },
}

fn asked_row() -> impl Strategy<Value = AskedRow> {
    let offset = prop_oneof![4 => -400_000_i64..11_000, 1 => -4_000_000_i64..100_000];
    let row = (
        offset,
        0_u8..3,
        0_u8..2,
        prop::option::of(0_u8..5),
        prop::option::of(0_u8..4),
    );
    prop_oneof![
        any::<prop::sample::Index>().prop_map(AskedRow::Again),
        row.prop_map(|(offset_ms, kind, party, nonce, intent)| AskedRow::New {
            offset_ms,
            kind,
            party,
            nonce,
            intent
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0_usize..2, prop::collection::vec(asked_row(), 1..6)).prop_map(|(it, rows)| Step::Admit(it, rows)),
        6 => (0_usize..2, any::<bool>()).prop_map(|(it, bodyless)| Step::Beat(it, bodyless)),
        4 => prop_oneof![0_u64..2_000, 5_000_u64..20_000, 50_000_u64..700_000].prop_map(Step::Advance),
        4 => (0_usize..5).prop_map(Step::Halt),
        1 => (0_usize..5, any::<bool>()).prop_map(|(it, seen)| Step::Resume(it, seen)),
        4 => Just(Step::LoseHalts),
        1 => Just(Step::Distrust),
        1 => (0_u64..100_000).prop_map(Step::Promote),
        1 => (0_u64..100_000).prop_map(Step::Rewind),
        1 => Just(Step::Restart),
    ]
}

fn scope(number: usize) -> HaltScope {
    match number {
        0 => HaltScope::All,
        1 => HaltScope::Money,
        2 => HaltScope::Module("payout".to_owned()),
        3 => HaltScope::Party("p0".to_owned()),
        _ => HaltScope::Suspended("p1".to_owned()),
    }
}

/// The terms of an instance: the second has a longer guard.
fn terms(instance: usize) -> StoreTerms {
    let mut terms = StoreTerms::default();
    terms.future_ms += [0, 50_000][instance];
    // A call that was given up on a busy machine would still change the tables.
    terms.timeout = Duration::from_mins(1);
    terms
}

/// A real server with the clock and identity of a table, beside the model.
struct Pair {
    runtime: Runtime,
    admin: Client,
    server: PgServer,
}

/// One sequence of steps.
struct Trial<'a> {
    pair: &'a Pair,
    model: StoreModel,
    state: ModelServer,
    stores: [Box<PostgresStore>; 2],
    contacts: [Option<StoreContact>; 2],
    asked: Vec<AdmissionRow>,
    seen: HashMap<HaltScope, i64>,
    /// The halts in force as each instance saw them last.
    known: [Vec<HaltInForce>; 2],
}

impl Pair {
    fn start() -> Self {
        let runtime = runtime();
        let server = runtime.block_on(PgServer::migrated());
        let admin = runtime.block_on(connected(&server));
        let faked = "CREATE TABLE gatepay.server (system bigint, timeline bigint, wal bigint, started bigint, now bigint);
            INSERT INTO gatepay.server VALUES (0, 0, 0, 0, 0);
            CREATE OR REPLACE FUNCTION gatepay.wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
                'SELECT now FROM gatepay.server';
            CREATE OR REPLACE FUNCTION gatepay.identity(
                OUT system_id bigint, OUT timeline bigint, OUT wal bigint, OUT started bigint
            ) LANGUAGE sql VOLATILE AS 'SELECT system, timeline, wal, started FROM gatepay.server'";
        runtime
            .block_on(admin.batch_execute(&timed(faked)))
            .unwrap();
        Self {
            runtime,
            admin,
            server,
        }
    }

    fn trial(&self) -> Trial<'_> {
        let emptied = "TRUNCATE gatepay.life, gatepay.instance, gatepay.stamp, gatepay.nonce, gatepay.halt, gatepay.halt_end,
                gatepay.owner, gatepay.departure;
            UPDATE gatepay.cluster SET halt_epoch = 0, guard_ms = 0, bodyless_until = 0;
            UPDATE gatepay.slot SET slice = 0, filling = true";
        self.runtime
            .block_on(self.admin.batch_execute(emptied))
            .unwrap();
        let store = |instance| {
            let store = PostgresStore::new(&settings(&[self.server.port]), terms(instance));
            Box::new(store.unwrap())
        };
        Trial {
            pair: self,
            model: StoreModel::new(StoreTerms::default()),
            state: ModelServer {
                identity: StoreIdentity {
                    system_id: 7,
                    timeline: 1,
                },
                position: 1_000,
                started: 1_000 * START_MS.cast_signed(),
                now_ms: START_MS,
            },
            stores: [store(0), store(1)],
            contacts: [None, None],
            asked: Vec::new(),
            seen: HashMap::new(),
            known: [Vec::new(), Vec::new()],
        }
    }
}

impl Trial<'_> {
    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.state.position += 10;
            match step {
                Step::Admit(instance, rows) => self.admit(*instance, rows),
                Step::Beat(instance, bodyless) => self.beat(*instance, *bodyless),
                Step::Advance(ms) => self.state.now_ms += ms,
                Step::Halt(number) => {
                    self.publish();
                    let expected = self.model.halt(&self.state, scope(*number));
                    let scope = scope(*number);
                    let halted = self.stores[0].halt(&scope, "o");
                    assert_eq!(self.pair.runtime.block_on(halted).unwrap(), expected);
                    self.seen.insert(scope, expected);
                }
                Step::Resume(number, by_last) => {
                    self.publish();
                    let scope = scope(*number);
                    let last = self.seen.get(&scope).copied().unwrap_or_default();
                    let seen = if *by_last { last } else { last - 1 };
                    let expected = self.model.resume(&self.state, &scope, seen);
                    let resumed = self.stores[0].resume(&scope, seen);
                    assert_eq!(self.pair.runtime.block_on(resumed).unwrap(), expected);
                }
                Step::LoseHalts => {
                    self.model.lose_halts();
                    let lost = "TRUNCATE gatepay.halt, gatepay.halt_end; UPDATE gatepay.cluster SET halt_epoch = 0";
                    let lost = self.pair.admin.batch_execute(lost);
                    self.pair.runtime.block_on(lost).unwrap();
                }
                Step::Distrust => {
                    self.publish();
                    self.model.under(terms(0)).distrust(&self.state);
                    self.pair
                        .runtime
                        .block_on(self.stores[0].distrust())
                        .unwrap();
                }
                Step::Promote(lost_ms) => {
                    self.state.identity.timeline += 1;
                    self.lose(*lost_ms);
                }
                Step::Rewind(lost_ms) => {
                    self.restart();
                    self.lose(*lost_ms);
                }
                Step::Restart => self.restart(),
            }
        }
    }

    /// The server's state, for the functions of the real one.
    fn publish(&self) {
        let ModelServer {
            identity,
            position,
            started,
            now_ms,
        } = self.state;
        let statement = format!(
            "UPDATE gatepay.server SET system = {}, timeline = {}, wal = {position}, started = {started}, now = {now_ms}",
            identity.system_id, identity.timeline
        );
        self.pair
            .runtime
            .block_on(self.pair.admin.batch_execute(&statement))
            .unwrap();
    }

    /// Starts are told apart, also two within a millisecond.
    fn restart(&mut self) {
        let now = 1_000 * self.state.now_ms.cast_signed();
        self.state.started = now.max(self.state.started + 1);
    }

    fn lose(&mut self, lost_ms: u64) {
        self.state.position = (self.state.position - 50).max(1);
        let since = self.state.now_ms - lost_ms;
        self.model.lose(since);
        let lost = format!(
            "DELETE FROM gatepay.stamp WHERE admitted >= {since}; DELETE FROM gatepay.instance WHERE seen >= {since}"
        );
        self.pair
            .runtime
            .block_on(self.pair.admin.batch_execute(&lost))
            .unwrap();
    }

    fn admit(&mut self, instance: usize, rows: &[AskedRow]) {
        let mut batch = AdmissionBatch::default();
        for row in rows {
            let row = self.row(row);
            // A row that stands in the batch already is left out.
            let _ = batch.push(row);
        }
        self.publish();
        let asked = self.stores[instance].admit(&batch);
        let answered = self.pair.runtime.block_on(asked).unwrap();
        let contact = self.contacts[instance];
        let (expected, contact) =
            self.model
                .under(terms(instance))
                .admit(&self.state, contact.as_ref(), batch.rows());
        assert_eq!(answered, expected, "{:?}", batch.rows());
        self.contacts[instance] = Some(contact);
        assert_eq!(self.stores[instance].contact(), Some(contact));
    }

    fn row(&mut self, row: &AskedRow) -> AdmissionRow {
        let row = match row {
            AskedRow::Again(index) if !self.asked.is_empty() => {
                return index.get(&self.asked).clone();
            }
            AskedRow::Again(_) => &AskedRow::New {
                offset_ms: 0,
                kind: 0,
                party: 0,
                nonce: None,
                intent: None,
            },
            new @ AskedRow::New { .. } => new,
        };
        let AskedRow::New {
            offset_ms,
            kind,
            party,
            nonce,
            intent,
        } = row
        else {
            unreachable!("the other kind has returned");
        };
        let mut print = [1; 16];
        print[..8].copy_from_slice(&self.asked.len().to_be_bytes());
        let intent = intent.map(|number| LedgerIntent {
            key_kind: "merchantTradeNo",
            key: text(&number.to_string()),
            currency: None,
        });
        let row = AdmissionRow {
            stamp: print,
            nonce: nonce.map(|nonce| [nonce; 16]),
            stamp_ms: self.state.now_ms.saturating_add_signed(*offset_ms),
            party: text(&format!("p{party}")),
            account: text("100"),
            kind: [Kind::Read, Kind::Write, Kind::Money][usize::from(*kind)],
            module: if *party == 0 { "payout" } else { "convert" },
            operation: "made_up".into(),
            has_body: self.asked.len().is_multiple_of(2),
            intents: intent.into_iter().collect(),
            spend: None,
            usage: None,
        };
        self.asked.push(row.clone());
        row
    }

    fn beat(&mut self, instance: usize, bodyless: bool) {
        self.publish();
        let id = i64::try_from(instance).unwrap();
        let store = &self.stores[instance];
        let contact = self.contacts[instance];
        let joined = self
            .pair
            .runtime
            .block_on(store.join(&introduction(id)))
            .unwrap();
        let model = self.model.under(terms(instance));
        let (_, contact) = model.beat(&self.state, contact.as_ref(), id, false);
        assert_eq!(store.contact(), Some(contact));
        let known_halts = std::mem::take(&mut self.known[instance]);
        let known: Vec<_> = known_halts
            .iter()
            .map(|halt| (halt.scope.clone(), halt.epoch))
            .collect();
        let signs = InstanceBeat {
            bodyless,
            known_halts,
            ..beat()
        };
        let view = self.pair.runtime.block_on(store.beat(&signs)).unwrap();
        self.pair.runtime.block_on(store.upkeep()).unwrap();
        let model = self.model.under(terms(instance));
        let (_, contact) = model.beat(&self.state, Some(&contact), id, bodyless);
        // A guard that was set in the same millisecond as a contact is set once more by it.
        assert!(view.guarded_until >= joined.guarded_until);
        self.model.bring_back(&self.state, &known);
        let halts = view.halts.iter();
        let halts: Vec<_> = halts.map(|it| (it.scope.clone(), it.epoch)).collect();
        assert_eq!(sorted(halts), sorted(self.model.halts()));
        self.known[instance] = view.halts;
        self.model.turn_ring(&self.state);
        self.contacts[instance] = Some(contact);
    }
}

fn sorted(mut halts: Vec<(HaltScope, i64)>) -> Vec<(HaltScope, i64)> {
    halts.sort();
    halts
}

fn agree(cases: u32, steps: usize) {
    if postgres::is_missing() {
        return;
    }
    let pair = Pair::start();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let sequences = prop::collection::vec(step(), 1..steps);
    let result = runner.run(&sequences, |steps| {
        pair.trial().run(&steps);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_functions_and_the_model_agree() {
    agree(30, 40);
}

#[test]
#[ignore = "minutes: the long form of the_functions_and_the_model_agree"]
fn the_functions_and_the_model_agree_in_many_long_sequences() {
    agree(3_000, 120);
}
