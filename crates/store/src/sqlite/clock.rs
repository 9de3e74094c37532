//! The clock of the file: the steps of the machine's clock that its process saw, kept with each sign of life.

use std::time::Instant;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::error::StoreError;
use crate::store_clock::{ClockWitness, StoreClock};

/// The last sign of life of this process: the machine's clock, the store's time and the monotonic clock then, in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct LastSign {
    pub(super) wall: i64,
    pub(super) steady: i64,
    pub(super) monotonic: i64,
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

    pub(super) fn monotonic_ms(&self) -> i64 {
        #[cfg(test)]
        if let Some((_, monotonic_ms)) = self.set {
            return monotonic_ms;
        }
        i64::try_from(self.opened.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// Advances the store's time with a sign of life. Returns the time, and whether it did.
pub(super) fn tick(
    change: &Transaction<'_>,
    wall_ms: i64,
    witness: Option<ClockWitness>,
) -> Result<(i64, bool), StoreError> {
    let Some(witness) = witness else {
        return Ok((wall_ms, true));
    };
    let known = read(change)?;
    let next = match known {
        None => StoreClock::first(wall_ms),
        Some(known) => match known.tick(wall_ms, witness) {
            None => return Ok((known.now(wall_ms), false)),
            Some(next) => next,
        },
    };
    put(change, known, next)?;
    Ok((next.now(wall_ms), true))
}

/// Accepts the machine's clock as it stands.
pub(super) fn accept(change: &Transaction<'_>, wall_ms: i64) -> Result<(), StoreError> {
    let known = read(change)?;
    put(change, known, StoreClock::first(wall_ms))
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

/// Makes everything due at once that was scheduled or claimed for a time that does not come soon.
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

pub(super) fn read(connection: &Connection) -> Result<Option<StoreClock>, StoreError> {
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
