//! The two times of an open file: the machine's clock, and the store's time.

use super::clock::{self, LastSign};
use super::file::{StoreFile, to_sql};
use crate::error::StoreError;
use crate::store_clock::{ClockWitness, StoreClock, StoreTime};

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
        let clock = clock::read(self.connection())?;
        Ok(clock
            .unwrap_or_else(|| StoreClock::first(wall_ms))
            .time(wall_ms))
    }

    /// The knowledge that this process has of the clock when it begins a run or gives a sign of life. No other process uses the
    /// file. `None` while a test sets the time.
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
