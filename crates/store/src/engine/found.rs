//! The search for one id over all tables.

use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_core::money::MoneyRow;
use gatepay_core::{Catalogue, Kind};

use super::Store;
use crate::error::StoreError;
use crate::found::{EventSearch, FoundInStore, SpendSearch};
use crate::notifications::event::EventId;
use crate::notifications::ledger::{LedgerHolder, TenantAccount};

impl Store {
    /// Everything that the store has of an id: a number of a tenant's, an id of GatePay's, a request id, or the id of a
    /// notification. Each step finds its rows by an index.
    pub async fn find(&self, text: &str) -> Result<FoundInStore, StoreError> {
        let kinds = LedgerKeyKind::ALL.iter();
        let mut keys: Vec<LedgerKey> = kinds
            .filter_map(|kind| LedgerKey::written(*kind, text))
            .collect();
        // The key of a refund has two words, and a search names one of them.
        keys.extend(match self {
            Self::Postgres(store) => store.find_refunds(text).await?,
            Self::Sqlite(store) => store.find_refunds(text).await?,
        });
        let owners = self.owners(&keys).await?;
        let of_key = |(key, holders): (&LedgerKey, Vec<LedgerHolder>)| {
            let key = key.clone();
            holders.into_iter().map(move |holder| (key.clone(), holder))
        };
        let holders: Vec<_> = keys.iter().zip(owners).flat_map(of_key).collect();
        let proofs = holders
            .iter()
            .filter_map(|(_, holder)| holder.proved.as_ref());
        let search = EventSearch {
            text: text.to_owned(),
            events: EventId::parse(text)
                .into_iter()
                .chain(proofs.map(|proved| proved.event))
                .collect(),
            keys,
        };
        let (open_calls, events) = match self {
            Self::Postgres(store) => (
                store.find_open_calls(&search).await?,
                store.find_events(&search).await?,
            ),
            Self::Sqlite(store) => (
                store.find_open_calls(&search).await?,
                store.find_events(&search).await?,
            ),
        };
        let search = spend_search(text, &holders);
        let spends = match self {
            _ if search.keys.is_empty() => Vec::new(),
            Self::Postgres(store) => store.find_spends(&search).await?,
            Self::Sqlite(store) => store.find_spends(&search).await?,
        };
        Ok(FoundInStore {
            holders,
            open_calls,
            events,
            spends,
        })
    }
}

fn spend_search(text: &str, holders: &[(LedgerKey, LedgerHolder)]) -> SpendSearch {
    let keys = holders.iter().map(|(key, holder)| {
        let party = TenantAccount {
            tenant: holder.tenant.tenant.clone(),
            account: holder.tenant.account.clone(),
        };
        let key = match key.kind() {
            LedgerKeyKind::OrderRefund => key.text(),
            _ => text,
        };
        (party, key.to_owned())
    });
    let catalogue = Catalogue::standard();
    let money = catalogue.rows().iter();
    let money = money.filter(|row| row.kind == Kind::Money);
    let named = money.flat_map(|row| MoneyRow::selected_by(&row.name));
    let mut counted_as: Vec<String> = named
        .map(str::to_owned)
        .chain(holders.iter().map(|(_, holder)| holder.operation.clone()))
        .collect();
    counted_as.sort();
    counted_as.dedup();
    SpendSearch {
        keys: keys.collect(),
        counted_as,
    }
}
