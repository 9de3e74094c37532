//! Sums of caps in PostgreSQL: what callers can name without spending leaves nothing behind, reports read what caps need and
//! hold up nothing, and a clock that comes back finds what still counts.

use gatepay_store::admission::{AdmissionRow, AdmissionVerdict};
use gatepay_store::caps::report::MOST_OTHER_SUMS;
use gatepay_store::caps::rule::{CapDeclaration, CapMeasure, CapRule, CapScope};
use gatepay_store::caps::spend::{AttemptResult, SettledAttempt};
use gatepay_store::engine::Store;

use crate::cap_steps::{START_MS, amount, beside, rule};
use crate::clocked::Clocked;
use crate::postgres;
use crate::rows::{self, units_of};
use crate::support::{batch, beat, row_at};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const NOW_MS: u64 = START_MS + 60_000;

/// One instance with caps, and a clock that the test sets.
struct Counted {
    store: Store,
    clocked: Clocked,
}

impl Counted {
    async fn with(rules: &[CapRule]) -> Self {
        let clocked = Clocked::start().await;
        let store = clocked.instances(1).await.remove(0);
        let counted = Self { store, clocked };
        counted.set(NOW_MS).await;
        let declaration = CapDeclaration {
            rules: rules.to_vec(),
            raise_after_ms: DAY_MS,
            ..CapDeclaration::default()
        };
        counted.store.declare_caps(&declaration, 1).await.unwrap();
        counted
    }

    async fn set(&self, now_ms: u64) {
        self.clocked.set(now_ms).await;
    }

    async fn execute(&self, statement: &str) {
        self.clocked.admin.batch_execute(statement).await.unwrap();
    }

    async fn number(&self, query: &str) -> i64 {
        self.clocked
            .admin
            .query_one(query, &[])
            .await
            .unwrap()
            .get(0)
    }

    async fn ask(&self, row: &AdmissionRow) -> AdmissionVerdict {
        let asked = batch(std::slice::from_ref(row));
        self.store.admit(&asked).await.unwrap().verdicts.remove(0)
    }

    async fn settle(&self, row: &AdmissionRow, result: AttemptResult) {
        let settled = SettledAttempt {
            stamp: row.stamp,
            result,
        };
        self.store.settle_attempts(&[settled]).await.unwrap();
    }
}

fn payout(currencies: &[String], units: &str) -> AdmissionRow {
    AdmissionRow {
        spend: Some(Box::new(rows::payout(units_of(units, currencies)))),
        ..row_at(NOW_MS)
    }
}

fn all(of: Option<&str>) -> CapRule {
    rule(CapScope::All, CapMeasure::Per24Hours, of, "1000000")
}

fn own(measure: CapMeasure, of: Option<&str>, limit: &str) -> CapRule {
    rule(beside("acme"), measure, of, limit)
}

#[tokio::test]
async fn a_call_that_gatepay_did_not_execute_leaves_no_sums_of_the_currencies_it_named() {
    if postgres::is_missing() {
        return;
    }
    let rules = [all(None), own(CapMeasure::PerHour, None, "100")];
    let counted = Counted::with(&rules).await;
    let invented: Vec<String> = (0..16).map(|number| format!("X{number}")).collect();
    let row = payout(&invented, "1");
    assert_eq!(counted.ask(&row).await, AdmissionVerdict::Admitted);
    let sums = "SELECT count(*) FROM gatepay.meter";
    assert_eq!(counted.number(sums).await, 16 * 2 * 2);
    let kept = payout(&invented[..1], "3");
    assert_eq!(counted.ask(&kept).await, AdmissionVerdict::Admitted);
    counted.settle(&row, AttemptResult::NotExecuted).await;
    assert_eq!(counted.number(sums).await, 2 * 2, "of the other call");
    let left = "SELECT sum(amount)::bigint * 100 + sum(calls)::bigint FROM gatepay.meter";
    assert_eq!(counted.number(left).await, 12 * 100 + 4);
}

#[tokio::test]
async fn a_report_reads_the_sums_of_its_caps_however_many_currencies_callers_have_named() {
    if postgres::is_missing() {
        return;
    }
    let rules = [
        all(Some("USDT")),
        own(CapMeasure::PerHour, Some("USDT"), "100"),
    ];
    let counted = Counted::with(&rules).await;
    let row = payout(&["USDT".to_owned()], "7");
    assert_eq!(counted.ask(&row).await, AdmissionVerdict::Admitted);
    let name_others = format!(
        "INSERT INTO gatepay.meter
        SELECT s.scope, 'create_payout', 'X' || n, g.grain, {NOW_MS} / g.ms, 1, 1
        FROM (VALUES (''), ('100')) AS s(scope), (VALUES (0, 37500), (1, 900000)) AS g(grain, ms),
            generate_series(1, 15000) AS n;
        ANALYZE gatepay.meter"
    );
    counted.execute(&name_others).await;
    let facts = counted.store.cap_facts(None).await.unwrap();
    // USDT over all and of the sub-account, for hours and for days.
    assert_eq!(facts.meters.len(), 4);
    let used: Vec<_> = facts.report(None).caps;
    assert_eq!(used.len(), 2);
    assert!(used.iter().all(|cap| cap.uses[0].counted == amount("7")));

    // A cap for every other currency has a limited number of them, each with all of its slices.
    let rules = [own(CapMeasure::PerHour, None, "100")];
    let others = Counted::with(&rules).await;
    others.execute(&name_others).await;
    let second = format!(
        "INSERT INTO gatepay.meter
        SELECT '100', 'create_payout', 'X' || n, 0, {NOW_MS} / 37500 - 1, 1, 1
        FROM generate_series(1, 15000) AS n"
    );
    others.execute(&second).await;
    let facts = others.store.cap_facts(None).await.unwrap();
    let most = MOST_OTHER_SUMS as usize;
    assert!(
        facts.meters.len() <= 2 * (most + 2),
        "{}",
        facts.meters.len()
    );
    let used = facts.report(None).caps.remove(0).uses;
    assert!(used.len() >= most / 2, "{}", used.len());
    assert!(used.iter().all(|of| of.counted == amount("2")));
}

#[tokio::test]
async fn signs_of_life_and_settlements_do_not_wait_for_a_report() {
    if postgres::is_missing() {
        return;
    }
    let rules = [own(CapMeasure::PerHour, Some("USDT"), "100")];
    let counted = Counted::with(&rules).await;
    counted
        .execute("BEGIN; LOCK TABLE gatepay.cap_midnight IN ACCESS EXCLUSIVE MODE")
        .await;
    let sign = beat();
    let report = counted.store.cap_facts(None);
    tokio::pin!(report);
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while counted.number(waits).await == 0 {
        tokio::select! {
            biased;
            told = &mut report => panic!("{told:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    tokio::select! {
        biased;
        told = &mut report => panic!("{told:?}"),
        view = counted.store.beat(&sign) => drop(view.unwrap()),
    }
    let row = payout(&[], "1");
    tokio::select! {
        biased;
        told = &mut report => panic!("{told:?}"),
        () = counted.settle(&row, AttemptResult::Executed) => {}
    }
    counted.execute("COMMIT").await;
    assert_eq!(report.await.unwrap().report(None).caps.len(), 1);
}

#[tokio::test]
async fn a_clock_that_steps_forward_by_a_day_and_back_forgets_nothing_that_counts() {
    if postgres::is_missing() {
        return;
    }
    let rules = [own(CapMeasure::PerHour, Some("USDT"), "100")];
    let counted = Counted::with(&rules).await;
    let usdt = ["USDT".to_owned()];
    let first = counted.ask(&payout(&usdt, "100")).await;
    assert_eq!(first, AdmissionVerdict::Admitted);
    counted.set(NOW_MS + DAY_MS).await;
    counted.store.age_spends().await.unwrap();
    counted.set(NOW_MS + 1_000).await;
    let second = counted.ask(&payout(&usdt, "1")).await;
    assert!(
        matches!(second, AdmissionVerdict::CapExceeded(_)),
        "{second:?}"
    );
    // Later they leave.
    counted.set(NOW_MS + 5 * DAY_MS).await;
    counted.store.age_spends().await.unwrap();
    let sums = "SELECT count(*) FROM gatepay.meter";
    assert_eq!(counted.number(sums).await, 0);
}
