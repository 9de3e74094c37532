//! `take_v1`, `exchange_v1` and `leave_limits_v1`: limits across instances.

use std::time::Duration;

use tokio_postgres::Row;

use super::PostgresStore;
use super::admit::cell;
use crate::error::StoreError;
use crate::limits::{
    DemandReport, LeaseGrant, LimitAnswers, LimitQuestions, SeatAnswer, TokenAnswer,
};

const TAKE: &str = "SELECT * FROM gatepay.take_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
const EXCHANGE: &str =
    "SELECT * FROM gatepay.exchange_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
const LEAVE: &str = "SELECT gatepay.leave_limits_v1($1, $2)";

impl PostgresStore {
    /// Takes tokens and seats for this instance. After an error it is unknown whether they were taken: they are not the
    /// instance's, and the store lends them to others two or five seconds later.
    pub async fn take(&self, questions: &LimitQuestions) -> Result<LimitAnswers, StoreError> {
        let LimitQuestions {
            instance,
            number,
            tokens,
            seats,
        } = questions;
        let tenants: Vec<&str> = tokens.iter().map(|it| &*it.tenant).collect();
        let limits: Vec<&str> = tokens.iter().map(|it| it.limit).collect();
        let rates: Vec<f64> = tokens.iter().map(|it| positive(it.rate)).collect();
        let bursts: Vec<f64> = tokens.iter().map(|it| positive(it.burst)).collect();
        let holds: Vec<i64> = tokens.iter().map(|it| hold_ms(it.holds)).collect();
        let wants: Vec<i32> = tokens.iter().map(|it| count(it.want)).collect();
        let waitings: Vec<i32> = tokens.iter().map(|it| count(it.waiting)).collect();
        let helds: Vec<i32> = tokens.iter().map(|it| count(it.held)).collect();
        let backs: Vec<i32> = tokens.iter().map(|it| count(it.returned)).collect();
        let seat_tenants: Vec<&str> = seats.iter().map(|it| &*it.tenant).collect();
        let seat_alls: Vec<i32> = seats.iter().map(|it| count(it.seats)).collect();
        let seat_wants: Vec<i32> = seats.iter().map(|it| count(it.want)).collect();
        let seat_helds: Vec<i32> = seats.iter().map(|it| count(it.held)).collect();
        let lossless = self.lossless();
        let rows = self
            .limits(
                TAKE,
                &[
                    &lossless,
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
                    &seat_alls,
                    &seat_wants,
                    &seat_helds,
                ],
            )
            .await?;
        answers(confirmed(&rows)?, questions)
    }

    /// Reports the tenants' demand, and gets a part of the institution's rate. After an error the last lease may be
    /// used for [`LEASE_GRACE`](crate::limits::LEASE_GRACE) after the call began, and no longer.
    pub async fn exchange(&self, report: &DemandReport) -> Result<LeaseGrant, StoreError> {
        let tenants: Vec<&str> = report.tenants.iter().map(|it| &*it.tenant).collect();
        let weights = report.tenants.iter().map(|it| positive(it.weight));
        let weights: Vec<f64> = weights.collect();
        let asked: Vec<f64> = report.tenants.iter().map(|it| it.asked.max(0.0)).collect();
        let (rate, burst) = (positive(report.rate), positive(report.burst));
        let in_force = report.in_force.map(positive);
        let silent = report.silent.map(|it| i64::try_from(it.as_millis()));
        let silent = silent.map(|it| it.unwrap_or(i64::MAX));
        let lossless = self.lossless();
        let rows = self
            .limits(
                EXCHANGE,
                &[
                    &lossless,
                    &report.instance,
                    &report.number,
                    &report.applied,
                    &report.era,
                    &silent,
                    &rate,
                    &burst,
                    &in_force,
                    &hold_ms(report.holds),
                    &tenants,
                    &weights,
                    &asked,
                ],
            )
            .await?;
        grant(confirmed(&rows)?, report)
    }

    /// Gives back all that an instance holds of limits; [`leave`](Self::leave) does so too.
    pub async fn leave_limits(&self, instance: i64) -> Result<(), StoreError> {
        self.limits(LEAVE, &[&self.lossless(), &instance]).await?;
        Ok(())
    }
}

/// The row of an answer, unless the server is one that no instance has recognized yet.
fn confirmed(rows: &[Row]) -> Result<&Row, StoreError> {
    let missing = || StoreError::Unexpected("an answer without a row".to_owned());
    let row = rows.first().ok_or_else(missing)?;
    match cell::<Option<i64>>(row, "o_era")? {
        Some(_) => Ok(row),
        None => Err(StoreError::Unconfirmed),
    }
}

fn answers(row: &Row, asked: &LimitQuestions) -> Result<LimitAnswers, StoreError> {
    let kepts: Vec<i32> = cell(row, "kepts")?;
    let lents: Vec<i32> = cell(row, "lents")?;
    let waits: Vec<i64> = cell(row, "waits")?;
    let smalls: Vec<bool> = cell(row, "smalls")?;
    let seat_kepts: Vec<i32> = cell(row, "seat_kepts")?;
    let seat_lents: Vec<i32> = cell(row, "seat_lents")?;
    let seat_smalls: Vec<bool> = cell(row, "seat_smalls")?;
    let counts = [kepts.len(), lents.len(), waits.len(), smalls.len()];
    let seat_counts = [seat_kepts.len(), seat_lents.len(), seat_smalls.len()];
    if counts != [asked.tokens.len(); 4] || seat_counts != [asked.seats.len(); 3] {
        return Err(StoreError::Unexpected("answers are missing".to_owned()));
    }
    let tokens = kepts.iter().zip(&lents).zip(&waits).zip(&smalls);
    let tokens = tokens.map(|(((kept, lent), wait), small)| TokenAnswer {
        kept: kept.unsigned_abs(),
        lent: lent.unsigned_abs(),
        wait_ms: wait.unsigned_abs(),
        small: *small,
    });
    let seats = seat_kepts.iter().zip(&seat_lents).zip(&seat_smalls);
    let seats = seats.map(|((kept, lent), small)| SeatAnswer {
        kept: kept.unsigned_abs(),
        lent: lent.unsigned_abs(),
        small: *small,
    });
    Ok(LimitAnswers {
        era: cell(row, "o_era")?,
        instances: cell::<i32>(row, "o_instances")?.unsigned_abs(),
        tokens: tokens.collect(),
        seats: seats.collect(),
    })
}

fn grant(row: &Row, asked: &DemandReport) -> Result<LeaseGrant, StoreError> {
    let fractions: Vec<f64> = cell(row, "o_fractions")?;
    if fractions.len() != asked.tenants.len() {
        return Err(StoreError::Unexpected("fractions are missing".to_owned()));
    }
    Ok(LeaseGrant {
        number: asked.number,
        era: cell(row, "o_era")?,
        is_open: cell(row, "o_open")?,
        instances: cell::<i32>(row, "o_instances")?.unsigned_abs(),
        rate: cell(row, "o_rate")?,
        burst: cell(row, "o_burst")?,
        target: cell(row, "o_target")?,
        whole_rate: cell(row, "o_whole_rate")?,
        whole_burst: cell(row, "o_whole_burst")?,
        weight: cell(row, "o_weight")?,
        seats_elsewhere: cell::<i32>(row, "o_elsewhere")?.unsigned_abs(),
        fractions,
    })
}

fn hold_ms(holds: Duration) -> i64 {
    i64::try_from(holds.as_millis()).unwrap_or(i64::MAX)
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A figure that the functions can divide by.
fn positive(figure: f64) -> f64 {
    if figure.is_finite() {
        figure.max(1e-3)
    } else {
        1e-3
    }
}
