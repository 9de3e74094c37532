//! Destinations: declarations, and the lists in force.

use super::PostgresStore;
use super::admit::{cell, millis};
use super::caps::only;
use crate::destinations::{
    DestinationBook, DestinationDeclaration, DestinationList, DestinationTimes,
};
use crate::error::StoreError;
use crate::stored_text::StoredText;

const DECLARE: &str = "SELECT gatepay.declare_destinations_v1($1, $2, $3, $4, $5, $6, $7) AS taken";
const STAND: &str = "SELECT gatepay.destinations_stand_v1($1, $2) AS stand";
const LISTS: &str = "SELECT l.account, l.listed, l.hold, l.shorter, l.shorter_from, l.opens FROM gatepay.account_list AS l";
const TARGETS: &str = "SELECT t.account, t.target, t.first_loaded, t.usable_from FROM gatepay.account_destination AS t";
const EPOCH: &str = "SELECT e.number FROM gatepay.destination_epoch AS e";

impl PostgresStore {
    pub(crate) async fn declare_destinations(
        &self,
        declaration: &DestinationDeclaration,
        number: i64,
    ) -> Result<bool, StoreError> {
        let lists = &declaration.accounts;
        let accounts: Vec<&str> = lists.keys().map(StoredText::as_str).collect();
        let listed: Vec<bool> = lists.values().map(|it| it.is_listed).collect();
        let holds: Vec<i64> = lists.values().map(|it| millis(it.hold_ms)).collect();
        let targets = lists.iter().flat_map(|(account, declared)| {
            let targets = declared.targets.iter();
            targets.map(move |it| (account.as_str(), it.as_str()))
        });
        let (of_accounts, texts): (Vec<&str>, Vec<&str>) = targets.unzip();
        let rows = self
            .long_call(
                DECLARE,
                &[
                    &self.instance(),
                    &number,
                    &accounts,
                    &listed,
                    &holds,
                    &of_accounts,
                    &texts,
                ],
            )
            .await?;
        only(&rows, "taken")
    }

    pub(crate) async fn destinations_stand(&self, number: i64) -> Result<bool, StoreError> {
        let rows = self.control(STAND, &[&self.instance(), &number]).await?;
        only(&rows, "stand")
    }

    pub(crate) async fn destinations(&self) -> Result<DestinationBook, StoreError> {
        let mut book = DestinationBook::default();
        for row in self.long_call(LISTS, &[]).await? {
            let ms =
                |name| Ok::<_, StoreError>(cell::<Option<i64>>(&row, name)?.map(i64::unsigned_abs));
            let list = DestinationList {
                is_listed: cell(&row, "listed")?,
                hold_ms: ms("hold")?.unwrap_or_default(),
                shorter: ms("shorter")?.zip(ms("shorter_from")?),
                opens_ms: ms("opens")?,
                ..DestinationList::default()
            };
            book.accounts.insert(text(&row, "account")?, list);
        }
        for row in self.long_call(TARGETS, &[]).await? {
            let times = DestinationTimes {
                first_loaded_ms: cell::<i64>(&row, "first_loaded")?.unsigned_abs(),
                usable_from_ms: cell::<i64>(&row, "usable_from")?.unsigned_abs(),
            };
            // A list that another instance declared between the two statements comes with the next epoch.
            if let Some(list) = book.accounts.get_mut(&text(&row, "account")?) {
                list.targets.insert(text(&row, "target")?, times);
            }
        }
        Ok(book)
    }

    pub(crate) async fn destination_epoch(&self) -> Result<i64, StoreError> {
        match &self.control(EPOCH, &[]).await?[..] {
            [row] => cell(row, "number"),
            rows => Err(StoreError::Unexpected(format!("{} rows", rows.len()))),
        }
    }
}

fn text(row: &tokio_postgres::Row, name: &str) -> Result<StoredText, StoreError> {
    let text: String = cell(row, name)?;
    StoredText::parse(&text)
        .ok_or_else(|| StoreError::Unexpected(format!("{name} of a destination")))
}
