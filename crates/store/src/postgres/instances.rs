//! Joining, signs of life and leaving; the ring of slots; halts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use zeroize::Zeroizing;

use super::admit::{KnownContact, cell, contact, millis};
use super::connector::keeps_commits;
use super::{PostgresStore, key_of};
use crate::admission::HaltScope;
use crate::error::StoreError;
use crate::instance::{
    ClusterView, HaltEnd, HaltInForce, InstanceBeat, InstanceIntroduction, InstanceJoined,
    InstanceView, LOST_AFTER_MS, Replication, ResumeResult, lost_halts,
};
use crate::server_facts::{GuardFacts, ServerFacts};
use crate::store_clock::StoreTime;

/// How long instances without a sign of life are listed, in milliseconds.
const GONE_FOR_MS: u64 = 60_000;

/// How long after its last sign of life an instance may still send something, with a margin of a second.
const SIGNS_FOR: Duration = Duration::from_millis(LOST_AFTER_MS + 1_000);

/// The times of this instance's latest signs of life, by the server's clock. If that clock steps forward, the other instances
/// look gone until their next signs of life. By its own earliest sign this instance tells those that gave one before the step.
#[derive(Default)]
pub(super) struct OwnSigns(VecDeque<(Instant, i64)>);

impl OwnSigns {
    fn note(&mut self, at_ms: i64) {
        self.forget_old();
        self.0.push_back((Instant::now(), at_ms));
    }

    fn earliest(&mut self) -> Option<i64> {
        self.forget_old();
        self.0.iter().map(|(_, at_ms)| *at_ms).min()
    }

    fn forget_old(&mut self) {
        while self
            .0
            .front()
            .is_some_and(|(noted, _)| noted.elapsed() > SIGNS_FOR)
        {
            self.0.pop_front();
        }
    }
}

/// The last sign of life of this process: when it was asked for, and the server's clock and the store's time in the answer.
#[derive(Clone, Copy)]
pub(super) struct LastSign {
    asked: Instant,
    wall_ms: i64,
    steady_ms: i64,
}

const JOIN: &str = "SELECT * FROM gatepay.join_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)";
const KEY: &str = "SELECT fingerprint_key FROM gatepay.cluster";
const TIME: &str =
    "SELECT t.*, (SELECT coalesce(max(f.guarded_until), 0) FROM gatepay.life AS f) AS guarded
    FROM gatepay.time_v1() AS t";
const TURN: &str = "SELECT gatepay.turn_ring_v1($1)";
const EMPTY: &str = "SELECT gatepay.empty_slot_v1($1)";
const REWRITE: &str = "SELECT gatepay.rewrite_limits_v1()";
const LEAVE: &str = "SELECT gatepay.leave_v1($1)";
const HALT: &str = "SELECT gatepay.halt_v1($1, $2)";
const BRING_BACK: &str = "SELECT gatepay.bring_back_v1($1, $2, $3, $4)";
const PROPOSE_RESUME: &str = "SELECT gatepay.propose_resume_v1($1, $2, $3)";
const RESUME: &str = "SELECT gatepay.resume_v1($1, $2)";
const DISTRUST: &str = "SELECT gatepay.distrust_v1($1, $2)";
const CHECK: &str = "SELECT * FROM gatepay.check_v1()";
const SERVER: &str = "SELECT current_setting('server_version_num')::integer AS version,
    coalesce((SELECT s.ssl FROM pg_stat_ssl AS s WHERE s.pid = pg_backend_pid()), false) AS encrypted,
    current_setting('is_superuser') = 'on' AS superuser,
    coalesce(inet_server_addr() <<= '127.0.0.0/8'::inet OR inet_server_addr() = '::1'::inet, true) AS local";
const INSTANCES: &str =
    "SELECT i.id, i.began, i.seen, i.host, i.version, i.config_hash, i.journal_head, i.halt_epoch, l.rate AS lease
    FROM gatepay.instance AS i LEFT JOIN gatepay.lease AS l ON l.instance = i.id WHERE i.seen >= $1
        OR (SELECT max(f.began) FROM gatepay.life AS f) > $1 ORDER BY i.id";
/// The halts, and the ends of halts of these scopes, read at the same moment.
const HALTS: &str = "SELECT k.halt_epoch, h.scope, h.since, h.set_by, h.epoch, e.scope AS ended, e.epoch AS end_epoch
    FROM gatepay.cluster AS k LEFT JOIN (gatepay.halt AS h
        FULL JOIN (SELECT t.scope, t.epoch FROM gatepay.halt_end AS t WHERE t.scope = ANY ($1)) AS e ON e.scope = h.scope
    ) ON true ORDER BY h.scope";
/// The times that a sign of life brings halts back before it fails: once, and again after a failover in between.
const BRINGS_BACK: usize = 2;
/// The standbys, and the settings that keep commits, which can change while the server runs. `synchronous_commit` is that of new
/// sessions, since each session has its own.
const STANDBYS: &str = "SELECT current_setting('synchronous_standby_names') <> '',
    (SELECT count(*) FROM pg_stat_replication),
    current_setting('fsync'), current_setting('full_page_writes'),
    (SELECT s.reset_val FROM pg_settings AS s WHERE s.name = 'synchronous_commit'),
    to_regproc('aurora_version') IS NOT NULL";

impl PostgresStore {
    /// Joins the store: refuses a schema that this version does not work with, compares the store with the last
    /// contact, and makes the ring long enough for `past_ms`.
    pub async fn join(
        &self,
        introduction: &InstanceIntroduction,
    ) -> Result<InstanceJoined, StoreError> {
        let schema = self.usable_schema().await?;
        let beat = InstanceBeat {
            config_hash: introduction.config_hash.clone(),
            journal_head: None,
            halt_epoch: 0,
            bodyless: false,
            known_halts: Vec::new(),
        };
        let (now_ms, guarded_until, _) = self.sign_of_life(introduction, &beat).await?;
        self.save_contact().await?;
        *self.introduction.lock() = Some(InstanceIntroduction {
            uncovered: false,
            ..introduction.clone()
        });
        let fingerprint_key = self.fingerprint_key().await?;
        *self.joined_key.lock() = Some(fingerprint_key.clone());
        Ok(InstanceJoined {
            fingerprint_key,
            schema,
            now_ms,
            guarded_until,
        })
    }

    /// Gives a sign of life, and returns the store's view of all instances. Called each second.
    pub async fn beat(&self, beat: &InstanceBeat) -> Result<ClusterView, StoreError> {
        let introduction = self.introduction.lock().clone();
        let introduction = introduction
            .ok_or_else(|| StoreError::Unexpected("a beat before joining".to_owned()))?;
        // A database that was made anew guards itself for longer than until the next sign of life, so that nothing is
        // admitted under two keys.
        let key = self.fingerprint_key().await?;
        if self.joined_key.lock().as_ref() != Some(&key) {
            return Err(StoreError::Replaced);
        }
        let seen = self.sign_of_life(&introduction, beat).await?;
        let known = &beat.known_halts;
        let mut brought_back = Vec::new();
        for _ in 0..=BRINGS_BACK {
            let (view, ended, kept) = self.view(seen, known).await?;
            kept?;
            let lost = lost_halts(known, &view.halts, &ended);
            if lost.is_empty() {
                return Ok(ClusterView {
                    brought_back,
                    ..view
                });
            }
            self.bring_back(&lost).await?;
            brought_back = lost.into_iter().map(|halt| halt.scope).collect();
        }
        Err(StoreError::Unexpected("halts are lost again".to_owned()))
    }

    async fn fingerprint_key(&self) -> Result<Zeroizing<[u8; 16]>, StoreError> {
        let rows = self.control(KEY, &[]).await?;
        let row = rows.first().ok_or(StoreError::NotMigrated)?;
        key_of(cell(row, "fingerprint_key")?)
    }

    async fn bring_back(&self, lost: &[HaltInForce]) -> Result<(), StoreError> {
        let scopes: Vec<String> = lost.iter().map(|it| it.scope.to_string()).collect();
        let sinces: Vec<i64> = lost.iter().map(|it| millis(it.since_ms)).collect();
        let bys: Vec<&str> = lost.iter().map(|it| it.by.as_str()).collect();
        let epochs: Vec<i64> = lost.iter().map(|it| it.epoch).collect();
        let parameters: [&(dyn ToSql + Sync); 4] = [&scopes, &sinces, &bys, &epochs];
        self.control(BRING_BACK, &parameters).await.map(drop)
    }

    /// Writes the contact file, asks on idle admission lines, prepares the next slot of the ring, and keeps the tables of
    /// limits small. Called after each sign of life.
    pub async fn upkeep(&self) -> Result<(), StoreError> {
        let saved = self.save_contact().await;
        self.probe_idle_lines().await;
        self.turn_ring().await?;
        self.control(REWRITE, &[]).await?;
        saved
    }

    /// Ends the membership: the instance's holdings are free at once.
    pub async fn leave(&self) -> Result<(), StoreError> {
        let introduction = self.introduction.lock().take();
        if let Some(introduction) = introduction {
            self.leave_limits(introduction.id).await?;
            self.control(LEAVE, &[&introduction.id]).await?;
        }
        self.save_contact().await
    }

    async fn sign_of_life(
        &self,
        introduction: &InstanceIntroduction,
        beat: &InstanceBeat,
    ) -> Result<(u64, u64, StoreTime), StoreError> {
        let asked = Instant::now();
        let last = *self.last_sign.lock();
        let (last_wall, last_steady) = last.map(|last| (last.wall_ms, last.steady_ms)).unzip();
        let silent = last.map(|last| asked.duration_since(last.asked).as_millis());
        let silent = silent.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        let known = KnownContact::from(self.contact());
        let guard_ms = millis(self.terms.guard_ms());
        let past_ms = millis(introduction.past_ms);
        let lossless = self.lossless();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = known.parameters().to_vec();
        parameters.extend([
            &guard_ms as &(dyn ToSql + Sync),
            &lossless,
            &introduction.id,
            &introduction.host,
            &introduction.version,
            &beat.config_hash,
            &beat.journal_head,
            &beat.halt_epoch,
            &past_ms,
            &introduction.uncovered,
            &beat.bodyless,
            &last_wall,
            &last_steady,
            &silent,
        ]);
        let rows = self.control(JOIN, &parameters).await?;
        let row = only(&rows)?;
        let time = store_time(row)?;
        let (mut answered, guarded_until, new_guard) = contact(row)?;
        // A sign that did not advance the store's time leaves its reference to the next one, so that a step it saw is not lost.
        if last.is_none() || cell::<bool>(row, "o_ticked")? {
            *self.last_sign.lock() = Some(LastSign {
                asked,
                wall_ms: answered.at_ms,
                steady_ms: millis(time.now_ms),
            });
        }
        answered.sign_of_life = Some((introduction.id, answered.at_ms));
        self.own_signs.lock().note(answered.at_ms);
        self.remember(answered, new_guard);
        Ok((answered.at_ms.unsigned_abs(), guarded_until, time))
    }

    /// Takes the next slot out of use and empties the slots out of use. A slot that is being read stays for later.
    async fn turn_ring(&self) -> Result<(), StoreError> {
        let future_ms = millis(self.terms.future_ms);
        for row in self.control(TURN, &[&future_ms]).await? {
            let slot: i16 = cell(&row, "turn_ring_v1")?;
            match self.control(EMPTY, &[&slot]).await {
                Ok(_) => {}
                Err(StoreError::Refused { code, .. }) if code == "55P03" => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The store's view of all instances, for a caller outside of them.
    pub async fn cluster(&self) -> Result<ClusterView, StoreError> {
        let rows = self.control(TIME, &[]).await?;
        let row = only(&rows)?;
        let (now, guarded): (i64, i64) = (cell(row, "o_at")?, cell(row, "guarded")?);
        let seen = (now.unsigned_abs(), guarded.unsigned_abs(), store_time(row)?);
        Ok(self.view(seen, &[]).await?.0)
    }

    /// The view, the ends of halts that the caller knows, and whether the server keeps its commits by its settings.
    async fn view(
        &self,
        (now_ms, guarded_until, time): (u64, u64, StoreTime),
        known: &[HaltInForce],
    ) -> Result<(ClusterView, Vec<HaltEnd>, Result<(), StoreError>), StoreError> {
        let since = self.own_signs.lock().earliest().unwrap_or(i64::MAX);
        let since = since.min(millis(now_ms)) - millis(GONE_FOR_MS);
        let instances = self.control(INSTANCES, &[&since]).await?;
        let instances: Vec<_> = instances.iter().map(instance).collect::<Result<_, _>>()?;
        let (instances, gone) = instances
            .into_iter()
            .partition(|it| it.seen_ms.saturating_add(LOST_AFTER_MS) >= now_ms);
        let scopes: Vec<String> = known.iter().map(|it| it.scope.to_string()).collect();
        let halts = self.control(HALTS, &[&scopes]).await?;
        let ended = halts.iter().filter_map(|row| halt_end(row).transpose());
        let ended = ended.collect::<Result<_, _>>()?;
        let standbys = self.control(STANDBYS, &[]).await?;
        let kept = keeps_commits(only(&standbys)?, 2, self.lossless());
        let view = ClusterView {
            now_ms,
            time,
            guarded_until,
            instances,
            gone,
            halt_epoch: halts.first().map_or(Ok(0), |row| cell(row, "halt_epoch"))?,
            halts: halts
                .iter()
                .filter_map(|row| halt(row).transpose())
                .collect::<Result<_, _>>()?,
            brought_back: Vec::new(),
            replication: replication(only(&standbys)?),
        };
        Ok((view, ended, kept))
    }

    /// Halts calls, on all instances: once this returns, no call that the scope covers is admitted. Returns an epoch: once
    /// every instance's [`halt_epoch`](InstanceView::halt_epoch) has reached it, no call that was admitted before is sent.
    pub async fn halt(&self, scope: &HaltScope, by: &str) -> Result<i64, StoreError> {
        let rows = self.control(HALT, &[&scope.to_string(), &by]).await?;
        cell(only(&rows)?, "halt_v1")
    }

    /// Ends a halt that was seen with this epoch; 0 if none was seen. After an error it may have ended.
    pub async fn resume(
        &self,
        scope: &HaltScope,
        epoch_seen: i64,
    ) -> Result<ResumeResult, StoreError> {
        let rows = self
            .control(RESUME, &[&scope.to_string(), &epoch_seen])
            .await?;
        let epoch: Option<i64> = cell(only(&rows)?, "resume_v1")?;
        Ok(epoch.map_or(ResumeResult::SuspendedAgain, |epoch| {
            ResumeResult::Resumed { epoch }
        }))
    }

    /// As [`Store::propose_resume`](crate::engine::Store::propose_resume).
    pub async fn propose_resume(
        &self,
        scope: &HaltScope,
        epoch: i64,
        by: &str,
    ) -> Result<Option<String>, StoreError> {
        let rows = self
            .control(PROPOSE_RESUME, &[&scope.to_string(), &epoch, &by])
            .await?;
        cell(only(&rows)?, "propose_resume_v1")
    }

    /// Sets a guard by hand: the store may have lost commits, and no instance can know. Returns until when stamps are
    /// refused, in milliseconds since 1970.
    pub async fn distrust(&self) -> Result<u64, StoreError> {
        let guard_ms = millis(self.terms.guard_ms());
        let rows = self
            .control(DISTRUST, &[&guard_ms, &self.lossless()])
            .await?;
        let guarded: i64 = cell(only(&rows)?, "distrust_v1")?;
        Ok(guarded.unsigned_abs())
    }
}

impl PostgresStore {
    /// The server's own facts.
    pub(crate) async fn server_facts(&self) -> Result<ServerFacts, StoreError> {
        let rows = self.control(SERVER, &[]).await?;
        let row = only(&rows)?;
        Ok(ServerFacts {
            version: cell::<i32>(row, "version")?.unsigned_abs(),
            encrypted: cell(row, "encrypted")?,
            superuser: cell(row, "superuser")?,
            local: cell(row, "local")?,
        })
    }

    /// The inputs of the guard.
    pub(crate) async fn guard_facts(&self) -> Result<GuardFacts, StoreError> {
        let rows = self.control(CHECK, &[]).await?;
        let row = only(&rows)?;
        Ok(GuardFacts {
            at_ms: cell::<i64>(row, "o_at")?.unsigned_abs(),
            system_id: cell(row, "o_system_id")?,
            timeline: cell(row, "o_timeline")?,
            known: cell(row, "o_known")?,
            confirmed: cell(row, "o_confirmed")?,
        })
    }
}

fn only(rows: &[Row]) -> Result<&Row, StoreError> {
    let missing = || StoreError::Unexpected("an answer without a row".to_owned());
    rows.first().ok_or_else(missing)
}

fn store_time(row: &Row) -> Result<StoreTime, StoreError> {
    Ok(StoreTime {
        now_ms: cell::<i64>(row, "o_now")?.unsigned_abs(),
        apart_ms: cell(row, "o_apart")?,
        keeps: cell(row, "o_keeps")?,
    })
}

fn instance(row: &Row) -> Result<InstanceView, StoreError> {
    Ok(InstanceView {
        id: cell(row, "id")?,
        began_ms: cell::<i64>(row, "began")?.unsigned_abs(),
        seen_ms: cell::<i64>(row, "seen")?.unsigned_abs(),
        host: cell(row, "host")?,
        version: cell(row, "version")?,
        config_hash: cell(row, "config_hash")?,
        journal_head: cell(row, "journal_head")?,
        halt_epoch: cell(row, "halt_epoch")?,
        lease: cell(row, "lease")?,
    })
}

fn halt(row: &Row) -> Result<Option<HaltInForce>, StoreError> {
    let Some(scope): Option<String> = cell(row, "scope")? else {
        return Ok(None);
    };
    Ok(Some(HaltInForce {
        scope: HaltScope::parse(&scope),
        since_ms: cell::<i64>(row, "since")?.unsigned_abs(),
        by: cell(row, "set_by")?,
        epoch: cell(row, "epoch")?,
    }))
}

fn halt_end(row: &Row) -> Result<Option<HaltEnd>, StoreError> {
    let Some(scope): Option<String> = cell(row, "ended")? else {
        return Ok(None);
    };
    Ok(Some(HaltEnd {
        scope: HaltScope::parse(&scope),
        epoch: cell(row, "end_epoch")?,
    }))
}

fn replication(row: &Row) -> Replication {
    let (synchronous, standbys): (bool, i64) = (row.get(0), row.get(1));
    if synchronous {
        Replication::Synchronous
    } else if standbys > 0 {
        let standbys = u32::try_from(standbys).unwrap_or(u32::MAX);
        Replication::Asynchronous { standbys }
    } else {
        Replication::None
    }
}
