//! The clock of the file: what its process saw of the machine's, kept with each sign of life.

use std::time::Instant;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::file::{StoreFile, to_sql};
use crate::error::StoreError;
use crate::store_clock::{ClockWitness, StoreClock, StoreTime};

/// The last sign of life of this process: the machine's clock, the store's time and the monotonic clock then, in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct LastSign {
    wall: i64,
    steady: i64,
    monotonic: i64,
}

/// The machine's clocks.
pub(super) struct MachineClock {
    opened: Instant,
    /// The clocks of tests: the one that can step in milliseconds since 1970, and the monotonic one.
    #[cfg(test)]
    pub(super) set: Option<(u64, i64)>,
}

impl MachineClock {
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            #[cfg(test)]
            set: None,
        }
    }

    fn monotonic_ms(&self) -> i64 {
        #[cfg(test)]
        if let Some((_, monotonic_ms)) = self.set {
            return monotonic_ms;
        }
        i64::try_from(self.opened.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl StoreFile {
    /// The machine's clock as it stands, in milliseconds since 1970.
    pub(super) fn wall(&self) -> Result<u64, StoreError> {
        #[cfg(test)]
        if let Some(now_ms) = self.now_ms.or(self.machine.set.map(|(wall, _)| wall)) {
            return Ok(now_ms);
        }
        let now = "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)";
        let now: i64 = self.connection().query_row(now, [], |row| row.get(0))?;
        Ok(now.unsigned_abs())
    }

    /// The store's time, in milliseconds since 1970.
    pub(super) fn now(&self) -> Result<u64, StoreError> {
        Ok(self.time()?.now_ms)
    }

    /// The store's time for deleting what is older than some age: 0 while the clock is in doubt.
    pub(super) fn deleting(&self) -> Result<u64, StoreError> {
        let time = self.time()?;
        Ok(if time.keeps { 0 } else { time.now_ms })
    }

    pub(super) fn time(&self) -> Result<StoreTime, StoreError> {
        let wall_ms = to_sql(self.wall()?);
        #[cfg(test)]
        if self.now_ms.is_some() {
            return Ok(StoreClock::first(wall_ms).time(wall_ms));
        }
        let clock = read(self.connection())?;
        Ok(clock
            .unwrap_or_else(|| StoreClock::first(wall_ms))
            .time(wall_ms))
    }

    /// The knowledge that this process has of the clock, as it begins a run or gives a sign of life. No other process has
    /// any: before a run the file was not in use. `None` while a test tells the time.
    #[cfg_attr(
        not(test),
        expect(clippy::unnecessary_wraps, reason = "a test has none")
    )]
    pub(super) fn witness(&self, is_first: bool) -> Option<ClockWitness> {
        #[cfg(test)]
        if self.now_ms.is_some() {
            return None;
        }
        Some(match self.last_sign {
            Some(last) if !is_first => ClockWitness::Present {
                wall_ms: last.wall,
                steady_ms: last.steady,
                silent_ms: self.machine.monotonic_ms() - last.monotonic,
            },
            _ => ClockWitness::Alone,
        })
    }

    /// Notes a sign of life that is on disk.
    pub(super) fn note_sign(&mut self, wall_ms: u64, steady: i64) {
        self.last_sign = Some(LastSign {
            wall: to_sql(wall_ms),
            steady,
            monotonic: self.machine.monotonic_ms(),
        });
    }
}

/// Advances the store's time with a sign of life. Returns the time.
pub(super) fn tick(
    change: &Transaction<'_>,
    wall_ms: u64,
    witness: Option<ClockWitness>,
) -> Result<i64, StoreError> {
    let wall_ms = to_sql(wall_ms);
    let Some(witness) = witness else {
        return Ok(wall_ms);
    };
    let known = read(change)?;
    let next = known.map_or_else(
        || StoreClock::first(wall_ms),
        |known| known.tick(wall_ms, witness),
    );
    put(change, known, next)?;
    Ok(next.now(wall_ms))
}

/// Accepts the machine's clock as it stands.
pub(super) fn accept(change: &Transaction<'_>, wall_ms: u64) -> Result<(), StoreError> {
    let known = read(change)?;
    put(change, known, StoreClock::first(to_sql(wall_ms)))
}

fn put(
    change: &Transaction<'_>,
    known: Option<StoreClock>,
    next: StoreClock,
) -> Result<(), StoreError> {
    if known == Some(next) {
        return Ok(());
    }
    let mut write = change
        .prepare_cached("INSERT OR REPLACE INTO store_clock VALUES (1, ?1, ?2, ?3, ?4, ?5)")?;
    write.execute(params![
        next.wall_ms,
        next.steady_ms,
        next.apart_since,
        next.is_witnessed,
        next.keeps_until
    ])?;
    if known.is_some_and(|known| next.steady_ms < known.steady_ms) {
        take_time_back(change, next.steady_ms)?;
    }
    Ok(())
}

/// What was scheduled or claimed for a time that does not come soon is due at once.
fn take_time_back(change: &Transaction<'_>, next_ms: i64) -> Result<(), StoreError> {
    for statement in [
        "UPDATE instance SET steady = ?1 WHERE steady > ?1",
        "UPDATE approval SET until = ?1 WHERE state IN (0, 1) AND until > ?1",
        "UPDATE event SET next_at = ?1 WHERE state = 'waiting' AND next_at > ?1",
        "UPDATE event SET decide_at = ?1 WHERE state = 'quarantined' AND decide_at > ?1",
        "UPDATE line SET next_at = ?1 WHERE next_at > ?1",
        "UPDATE endpoint SET claimed_by = NULL, claimed_until = 0, open_until = NULL, next_at = min(next_at, ?1)
        WHERE claimed_until > ?1 OR open_until > ?1 OR next_at > ?1",
    ] {
        change.execute(statement, [next_ms])?;
    }
    Ok(())
}

fn read(connection: &Connection) -> Result<Option<StoreClock>, StoreError> {
    let mut read = connection.prepare_cached(
        "SELECT wall, steady, apart_since, is_witnessed, keeps_until FROM store_clock",
    )?;
    let clock = read.query_row([], |row| {
        Ok(StoreClock {
            wall_ms: row.get(0)?,
            steady_ms: row.get(1)?,
            apart_since: row.get(2)?,
            is_witnessed: row.get(3)?,
            keeps_until: row.get(4)?,
        })
    });
    Ok(clock.optional()?)
}
