//! Destinations in the file.

use rusqlite::{Connection, Row, params};

use super::SqliteStore;
use super::file::{StoreFile, committed, to_sql};
use super::spend_tables::unreadable;
use crate::destinations::{
    DestinationBook, DestinationDeclaration, DestinationList, DestinationTimes,
};
use crate::error::StoreError;
use crate::stored_text::StoredText;

impl SqliteStore {
    pub(crate) async fn declare_destinations(
        &self,
        declaration: &DestinationDeclaration,
        number: i64,
    ) -> Result<bool, StoreError> {
        let declaration = declaration.clone();
        self.run(move |file| file.declare_destinations(&declaration, number))
            .await
    }

    pub(crate) async fn destinations(&self) -> Result<DestinationBook, StoreError> {
        self.run(|file| book(file.connection())).await
    }
}

impl StoreFile {
    fn declare_destinations(
        &mut self,
        declaration: &DestinationDeclaration,
        number: i64,
    ) -> Result<bool, StoreError> {
        if number <= self.declared.destinations {
            return Ok(false);
        }
        let now_ms = self.now()?;
        let change = self.begin()?;
        let before = book(&change)?;
        let mut after = before.clone();
        after.declare(declaration, now_ms);
        if after == before {
            drop(change);
        } else {
            write(&change, &before, &after)?;
            committed(change, now_ms)?;
        }
        self.declared.destinations = number;
        Ok(true)
    }
}

fn book(connection: &Connection) -> Result<DestinationBook, StoreError> {
    let mut book = DestinationBook::default();
    let lists = "SELECT account, listed, hold, shorter, shorter_from, opens FROM account_list";
    let mut lists = connection.prepare_cached(lists)?;
    let mut rows = lists.query([])?;
    while let Some(row) = rows.next()? {
        let ms = |at| Ok::<_, StoreError>(row.get::<_, Option<i64>>(at)?.map(i64::unsigned_abs));
        let list = DestinationList {
            is_listed: row.get(1)?,
            hold_ms: ms(2)?.unwrap_or_default(),
            shorter: ms(3)?.zip(ms(4)?),
            opens_ms: ms(5)?,
            ..DestinationList::default()
        };
        book.accounts.insert(text(row, 0)?, list);
    }
    let targets = "SELECT account, target, first_loaded, usable_from FROM account_destination";
    let mut targets = connection.prepare_cached(targets)?;
    let mut rows = targets.query([])?;
    while let Some(row) = rows.next()? {
        let times = DestinationTimes {
            first_loaded_ms: row.get::<_, i64>(2)?.unsigned_abs(),
            usable_from_ms: row.get::<_, i64>(3)?.unsigned_abs(),
        };
        if let Some(list) = book.accounts.get_mut(&text(row, 0)?) {
            list.targets.insert(text(row, 1)?, times);
        }
    }
    Ok(book)
}

/// Writes what differs: calls are not admitted meanwhile.
fn write(
    change: &Connection,
    before: &DestinationBook,
    after: &DestinationBook,
) -> Result<(), StoreError> {
    let mut forget_list = change.prepare_cached("DELETE FROM account_list WHERE account = ?1")?;
    let mut forget = change
        .prepare_cached("DELETE FROM account_destination WHERE account = ?1 AND target = ?2")?;
    let mut put_list = change
        .prepare_cached("INSERT OR REPLACE INTO account_list VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let mut put = change
        .prepare_cached("INSERT OR REPLACE INTO account_destination VALUES (?1, ?2, ?3, ?4)")?;
    let none = DestinationList::default();
    for (account, known) in &before.accounts {
        let list = after.accounts.get(account);
        if list.is_none() {
            forget_list.execute([account.as_str()])?;
        }
        let kept = &list.unwrap_or(&none).targets;
        for target in known.targets.keys().filter(|it| !kept.contains_key(it)) {
            forget.execute([account.as_str(), target.as_str()])?;
        }
    }
    for (account, list) in &after.accounts {
        let known = before.accounts.get(account);
        if known == Some(list) {
            continue;
        }
        let (shorter, from_ms) = list.shorter.unzip();
        put_list.execute(params![
            account.as_str(),
            list.is_listed,
            to_sql(list.hold_ms),
            shorter.map(to_sql),
            from_ms.map(to_sql),
            list.opens_ms.map(to_sql)
        ])?;
        let known = &known.unwrap_or(&none).targets;
        let changed = list.targets.iter();
        let changed = changed.filter(|(target, times)| known.get(*target) != Some(*times));
        for (target, times) in changed {
            put.execute(params![
                account.as_str(),
                target.as_str(),
                to_sql(times.first_loaded_ms),
                to_sql(times.usable_from_ms)
            ])?;
        }
    }
    Ok(())
}

fn text(row: &Row<'_>, at: usize) -> Result<StoredText, StoreError> {
    let text: String = row.get(at)?;
    StoredText::parse(&text).ok_or_else(unreadable)
}
