//! Destinations: declarations, and the lists in force.

use super::PostgresStore;
use super::admit::{cell, millis};
use crate::destinations::{
    DestinationBook, DestinationDeclaration, DestinationList, DestinationOwner, DestinationTimes,
};
use crate::error::StoreError;
use crate::stored_text::StoredText;

const DECLARE: &str = "SELECT gatepay.declare_destinations_v1($1, $2, $3, $4, $5, $6, $7)";
const LISTS: &str =
    "SELECT l.party, l.account, l.listed, l.hold, l.shorter, l.shorter_from, l.opens
    FROM gatepay.destination_list AS l";
const TARGETS: &str = "SELECT t.party, t.account, t.target, t.first_loaded, t.usable_from FROM gatepay.destination AS t";
const EPOCH: &str = "SELECT e.number FROM gatepay.destination_epoch AS e";

impl PostgresStore {
    pub(crate) async fn declare_destinations(
        &self,
        declaration: &DestinationDeclaration,
    ) -> Result<(), StoreError> {
        let owners = &declaration.owners;
        let parties: Vec<&str> = owners.keys().map(|it| it.party.as_str()).collect();
        let accounts: Vec<&str> = owners.keys().map(|it| it.account.as_str()).collect();
        let listed: Vec<bool> = owners.values().map(|it| it.is_listed).collect();
        let holds: Vec<i64> = owners.values().map(|it| millis(it.hold_ms)).collect();
        let targets = owners.iter().flat_map(|(owner, declared)| {
            let targets = declared.targets.iter();
            targets.map(move |it| (owner.party.as_str(), owner.account.as_str(), it.as_str()))
        });
        let (mut of_parties, mut of_accounts, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for (party, account, text) in targets {
            of_parties.push(party);
            of_accounts.push(account);
            texts.push(text);
        }
        self.control(
            DECLARE,
            &[
                &parties,
                &accounts,
                &listed,
                &holds,
                &of_parties,
                &of_accounts,
                &texts,
            ],
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn destinations(&self) -> Result<DestinationBook, StoreError> {
        let mut book = DestinationBook::default();
        for row in self.control(LISTS, &[]).await? {
            let ms =
                |name| Ok::<_, StoreError>(cell::<Option<i64>>(&row, name)?.map(i64::unsigned_abs));
            let list = DestinationList {
                is_listed: cell(&row, "listed")?,
                hold_ms: ms("hold")?.unwrap_or_default(),
                shorter: ms("shorter")?.zip(ms("shorter_from")?),
                opens_ms: ms("opens")?,
                ..DestinationList::default()
            };
            book.owners.insert(owner(&row)?, list);
        }
        for row in self.control(TARGETS, &[]).await? {
            let times = DestinationTimes {
                first_loaded_ms: cell::<i64>(&row, "first_loaded")?.unsigned_abs(),
                usable_from_ms: cell::<i64>(&row, "usable_from")?.unsigned_abs(),
            };
            // A list that another instance declared between the two statements comes with the next epoch.
            if let Some(list) = book.owners.get_mut(&owner(&row)?) {
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

fn owner(row: &tokio_postgres::Row) -> Result<DestinationOwner, StoreError> {
    Ok(DestinationOwner {
        party: text(row, "party")?,
        account: text(row, "account")?,
    })
}

fn text(row: &tokio_postgres::Row, name: &str) -> Result<StoredText, StoreError> {
    let text: String = cell(row, name)?;
    StoredText::parse(&text)
        .ok_or_else(|| StoreError::Unexpected(format!("{name} of a destination")))
}
