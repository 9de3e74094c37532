//! The store's side of limits twice: the model, and the SQL functions of a real server if there is one. Both get the same
//! calls at the same times, and have to give the same answers.

use std::collections::BTreeMap;
use std::time::Duration;

use gatepay_store::limits::model::{LimitModel, OvertakenCall};
use gatepay_store::limits::{
    DemandReport, LeaseGrant, LimitAnswers, LimitQuestions, SeatAnswer, TokenAnswer,
};
use tokio_postgres::{Client, NoTls, Row, Statement};

use crate::postgres::{self, PgServer};

/// The model, and the functions that have to agree with it.
pub(crate) struct LimitStores {
    pub(crate) model: LimitModel,
    pub(crate) wall_ms: i64,
    pub(crate) life: i64,
    sql: Option<SqlLimits>,
    /// Calls of both kinds.
    pub(crate) takes: u32,
    pub(crate) exchanges: u32,
}

struct SqlLimits {
    client: Client,
    /// The tables' eras by the model's.
    eras: BTreeMap<i64, i64>,
    take: Statement,
    exchange: Statement,
    leave: Statement,
}

/// A migrated server; `None`, after a line that says so, where PostgreSQL is not installed.
pub(crate) async fn limit_server() -> Option<PgServer> {
    if postgres::is_missing() {
        return None;
    }
    Some(PgServer::migrated().await)
}

impl LimitStores {
    /// Stores in a life of their own.
    pub(crate) async fn new(server: Option<&PgServer>, life: i64) -> Self {
        let sql = match server {
            Some(server) => Some(SqlLimits::connect(server.port).await),
            None => None,
        };
        if let Some(sql) = &sql {
            let emptied = "DELETE FROM gatepay.instance; DELETE FROM gatepay.push_back";
            sql.client.batch_execute(emptied).await.unwrap();
        }
        Self {
            model: LimitModel::default(),
            wall_ms: 1_000_000_000,
            life: life * 1_000,
            sql,
            takes: 0,
            exchanges: 0,
        }
    }

    pub(crate) async fn take(
        &mut self,
        questions: &LimitQuestions,
    ) -> Result<LimitAnswers, OvertakenCall> {
        self.takes += 1;
        let life = self.life;
        let answers = self.model.take(life, self.wall_ms, questions);
        if let Some(sql) = &mut self.sql {
            let row = sql.take(life, self.wall_ms, questions).await;
            assert_eq!(row.is_err(), answers.is_err(), "{questions:?}");
            if let (Ok(row), Ok(answers)) = (row, &answers) {
                sql.note_era(answers.era, &row);
                let told = read_answers(&row, answers.era);
                assert_eq!(&told, answers, "{questions:?}");
            }
        }
        answers
    }

    pub(crate) async fn exchange(
        &mut self,
        report: &DemandReport,
    ) -> Result<LeaseGrant, OvertakenCall> {
        self.exchanges += 1;
        let life = self.life;
        let grant = self.model.exchange(life, self.wall_ms, report);
        if let Some(sql) = &mut self.sql {
            let row = sql.exchange(life, self.wall_ms, report).await;
            assert_eq!(row.is_err(), grant.is_err(), "{report:?}");
            if let (Ok(row), Ok(grant)) = (row, &grant) {
                sql.note_era(grant.era, &row);
                same_grant(&row, grant, report);
            }
        }
        grant
    }

    pub(crate) async fn leave(&mut self, instance: i64) {
        let life = self.life;
        self.model.leave(life, self.wall_ms, instance);
        if let Some(sql) = &self.sql {
            sql.client
                .query(&sql.leave, &[&life, &self.wall_ms, &instance])
                .await
                .unwrap();
        }
    }

    /// Notes a sign of life of an instance.
    pub(crate) async fn sign_of_life(&mut self, instance: i64) {
        const SIGN: &str =
            "INSERT INTO gatepay.instance (id, began, seen, host, version, config_hash)
            VALUES ($1, $2, $2, '', '', '') ON CONFLICT (id) DO UPDATE SET seen = excluded.seen";
        self.model.sign_of_life(self.wall_ms, instance);
        if let Some(sql) = &self.sql {
            let (client, wall_ms) = (&sql.client, &self.wall_ms);
            client.execute(SIGN, &[&instance, wall_ms]).await.unwrap();
        }
    }

    /// Removes an instance that leaves the store.
    pub(crate) async fn forget(&mut self, instance: i64) {
        const FORGET: &str = "DELETE FROM gatepay.instance WHERE id = $1";
        self.model.forget(instance);
        if let Some(sql) = &self.sql {
            sql.client.execute(FORGET, &[&instance]).await.unwrap();
        }
    }

    /// Moves the store's clock by a step. The clocks of two servers differ by less than a second, so a step and a
    /// failover do not come together: signs of life get the new times at once.
    pub(crate) async fn step(&mut self, ms: i64) {
        const STEP: &str = "UPDATE gatepay.instance SET seen = seen + $1";
        self.wall_ms += ms;
        self.model.step_signs(ms);
        if let Some(sql) = &self.sql {
            sql.client.execute(STEP, &[&ms]).await.unwrap();
        }
    }

    /// The number of buckets, by the tables.
    pub(crate) async fn buckets_in_tables(&self) -> Option<i64> {
        const COUNT: &str = "SELECT count(*) FROM gatepay.bucket";
        let sql = self.sql.as_ref()?;
        Some(sql.client.query_one(COUNT, &[]).await.unwrap().get(0))
    }

    /// The most by which the tokens of a bucket exceed its burst, together with its loans, by the tables.
    pub(crate) async fn excess_in_tables(&self) -> f64 {
        const EXCESS: &str =
            "SELECT coalesce(max(least(b.tokens, b.tokens + s.held - b.burst)), 0)::double precision
            FROM gatepay.bucket AS b JOIN (
                SELECT tenant, lim, sum(held) AS held FROM gatepay.stock GROUP BY tenant, lim
            ) AS s USING (tenant, lim)";
        match &self.sql {
            Some(sql) => sql.client.query_one(EXCESS, &[]).await.unwrap().get(0),
            None => 0.0,
        }
    }
}

impl SqlLimits {
    async fn connect(port: u16) -> Self {
        let settings = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        let (client, connection) = tokio_postgres::connect(&settings, NoTls).await.unwrap();
        tokio::spawn(connection);
        let take = client.prepare(
            "SELECT * FROM gatepay.take_at($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        );
        let take = take.await.unwrap();
        let exchange = client.prepare(
            "SELECT * FROM gatepay.exchange_at($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        );
        let exchange = exchange.await.unwrap();
        let leave = client.prepare("SELECT gatepay.leave_limits_at($1, $2, $3)");
        let leave = leave.await.unwrap();
        Self {
            client,
            eras: BTreeMap::new(),
            take,
            exchange,
            leave,
        }
    }

    fn note_era(&mut self, model: i64, row: &Row) {
        let era: i64 = row.get("o_era");
        assert_eq!(*self.eras.entry(model).or_insert(era), era);
    }

    async fn take(
        &self,
        life: i64,
        wall_ms: i64,
        questions: &LimitQuestions,
    ) -> Result<Row, tokio_postgres::Error> {
        let LimitQuestions {
            instance,
            number,
            tokens,
            seats,
        } = questions;
        let count = |number: u32| i32::try_from(number).unwrap();
        let tenants: Vec<&str> = tokens.iter().map(|it| &*it.tenant).collect();
        let limits: Vec<&str> = tokens.iter().map(|it| it.limit).collect();
        let rates: Vec<f64> = tokens.iter().map(|it| it.rate).collect();
        let bursts: Vec<f64> = tokens.iter().map(|it| it.burst).collect();
        let hold = |holds: Duration| i64::try_from(holds.as_millis()).unwrap();
        let holds: Vec<i64> = tokens.iter().map(|it| hold(it.holds)).collect();
        let [wants, waitings, helds, backs] = [
            tokens.iter().map(|it| count(it.want)).collect::<Vec<_>>(),
            tokens.iter().map(|it| count(it.waiting)).collect(),
            tokens.iter().map(|it| count(it.held)).collect(),
            tokens.iter().map(|it| count(it.returned)).collect(),
        ];
        let seat_tenants: Vec<&str> = seats.iter().map(|it| &*it.tenant).collect();
        let [alls, seat_wants, seat_helds] = [
            seats.iter().map(|it| count(it.seats)).collect::<Vec<_>>(),
            seats.iter().map(|it| count(it.want)).collect(),
            seats.iter().map(|it| count(it.held)).collect(),
        ];
        self.client
            .query_one(
                &self.take,
                &[
                    &life,
                    &Some(wall_ms),
                    instance,
                    number,
                    &tenants,
                    &limits,
                    &rates,
                    &bursts,
                    &holds,
                    &wants,
                    &waitings,
                    &helds,
                    &backs,
                    &seat_tenants,
                    &alls,
                    &seat_wants,
                    &seat_helds,
                ],
            )
            .await
    }

    async fn exchange(
        &self,
        life: i64,
        wall_ms: i64,
        report: &DemandReport,
    ) -> Result<Row, tokio_postgres::Error> {
        let tenants: Vec<&str> = report.tenants.iter().map(|it| &*it.tenant).collect();
        let weights: Vec<f64> = report.tenants.iter().map(|it| it.weight).collect();
        let asked: Vec<f64> = report.tenants.iter().map(|it| it.asked).collect();
        let era = self.eras.get(&report.era).copied().unwrap_or_default();
        let silent = report.silent.map(|it| i64::try_from(it.as_millis()));
        let silent = silent.map(Result::unwrap);
        self.client
            .query_one(
                &self.exchange,
                &[
                    &life,
                    &Some(wall_ms),
                    &report.instance,
                    &report.number,
                    &report.applied,
                    &era,
                    &silent,
                    &report.rate,
                    &report.burst,
                    &report.in_force,
                    &i64::try_from(report.holds.as_millis()).unwrap(),
                    &tenants,
                    &weights,
                    &asked,
                ],
            )
            .await
    }
}

fn read_answers(row: &Row, era: i64) -> LimitAnswers {
    let counts = |name: &str| row.get::<_, Vec<i32>>(name);
    let [kepts, lents, seat_kepts, seat_lents] =
        ["kepts", "lents", "seat_kepts", "seat_lents"].map(counts);
    let waits: Vec<i64> = row.get("waits");
    let [smalls, seat_smalls] = ["smalls", "seat_smalls"].map(|it| row.get::<_, Vec<bool>>(it));
    let tokens = (0..kepts.len()).map(|n| TokenAnswer {
        kept: kepts[n].unsigned_abs(),
        lent: lents[n].unsigned_abs(),
        wait_ms: waits[n].unsigned_abs(),
        small: smalls[n],
    });
    let seats = (0..seat_kepts.len()).map(|n| SeatAnswer {
        kept: seat_kepts[n].unsigned_abs(),
        lent: seat_lents[n].unsigned_abs(),
        small: seat_smalls[n],
    });
    LimitAnswers {
        era,
        instances: row.get::<_, i32>("o_instances").unsigned_abs(),
        tokens: tokens.collect(),
        seats: seats.collect(),
    }
}

fn same_grant(row: &Row, grant: &LeaseGrant, report: &DemandReport) {
    let mut told: Vec<f64> = [
        "o_rate",
        "o_burst",
        "o_target",
        "o_whole_rate",
        "o_whole_burst",
        "o_weight",
    ]
    .map(|it| row.get(it))
    .to_vec();
    told.extend(row.get::<_, Vec<f64>>("o_fractions"));
    let mut known = vec![
        grant.rate,
        grant.burst,
        grant.target,
        grant.whole_rate,
        grant.whole_burst,
        grant.weight,
    ];
    known.extend(&grant.fractions);
    let near = |one: &f64, other: &f64| (one - other).abs() < 1e-6;
    assert_eq!(told.len(), known.len());
    assert!(
        told.iter().zip(&known).all(|(one, other)| near(one, other)),
        "{told:?} {known:?} {report:?}"
    );
    assert_eq!(
        row.get::<_, i32>("o_instances").unsigned_abs(),
        grant.instances
    );
    let elsewhere = row.get::<_, i32>("o_elsewhere").unsigned_abs();
    assert_eq!(elsewhere, grant.seats_elsewhere, "{report:?}");
    assert_eq!(row.get::<_, bool>("o_open"), grant.is_open, "{report:?}");
}
