//! Watch: declares the destinations of each configuration to the store, and follows what other instances declare.

use std::sync::Arc;
use std::time::Duration;

use gatepay_store::admission::StoredText;
use gatepay_store::destinations::{DeclaredDestinations, DestinationBook, DestinationDeclaration};
use gatepay_tenancy::destinations::TenantDestinations;
use tokio::time::sleep;

use super::{is_listed, text};
use crate::caps::Caps;
use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::generation::Generation;
use crate::process::clock::Clock;

/// The interval at which the configuration in force is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The shorter interval until the store has the first lists.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// The looks between two questions whether another instance has declared something.
const LOOKS_PER_QUESTION: u32 = 5;

/// The lists that this process knows.
struct KnownLists {
    /// The configuration that it has declared.
    generation: Arc<Generation>,
    /// The number of the declaration; `None` if there was nothing to declare.
    declared: Option<i64>,
    /// The number of the store's lists.
    epoch: i64,
}

/// The answer of the store to the question for its lists.
enum AskedLists {
    /// The known lists are the store's.
    Same,
    /// Other lists, and their number.
    Newer(DestinationBook, i64),
    /// The store has lost this process's declaration, or an instance has ended whose lists it still has.
    Undeclared,
}

/// Declares and follows until it is dropped.
pub(in crate::caps) async fn run(
    caps: &Caps,
    calls: &StoreCalls,
    (in_force, clock): (&(dyn Fn() -> Arc<Generation> + Send + Sync), &Clock),
    arrange: impl Fn(&Generation),
) {
    let mut known: Option<KnownLists> = None;
    let mut number = 0;
    let mut was_away = false;
    for look in 1_u32.. {
        let generation = in_force();
        let asked_at = clock.elapsed();
        let is_asked = look % LOOKS_PER_QUESTION == 0;
        let current = known
            .as_ref()
            .filter(|known| Arc::ptr_eq(&known.generation, &generation));
        let mut declared = current.and_then(|known| known.declared);
        let asked = match current {
            None => {
                let declaration = declaration(&generation);
                if !declaration.accounts.is_empty() {
                    arrange(&generation);
                }
                number += 1;
                let taken = take(calls, declaration, number).await;
                taken.map(|(book, epoch, has_declared)| {
                    declared = has_declared.then_some(number);
                    AskedLists::Newer(book, epoch)
                })
            }
            Some(known) if is_asked => newer(calls, (known.epoch, known.declared)).await,
            Some(_) => Ok(AskedLists::Same),
        };
        match asked {
            Ok(AskedLists::Same) => {
                if is_asked {
                    caps.destinations.confirm(asked_at);
                }
                was_away = false;
            }
            Ok(AskedLists::Undeclared) => known = None,
            Ok(AskedLists::Newer(book, epoch)) => {
                let accounts = book.accounts.values().filter(|it| it.is_listed).count();
                if accounts > 0 {
                    tracing::info!(accounts, "the store has the lists of destinations");
                }
                caps.destinations.know(book, asked_at);
                known = Some(KnownLists {
                    generation,
                    declared,
                    epoch,
                });
                was_away = false;
            }
            Err(error) => {
                // Before this instance has joined the store, the log tells why.
                if !was_away && !matches!(error, StoreCallError::NotJoined) {
                    tracing::error!(%error, "the store does not take the destinations of this configuration: new ones wait");
                }
                was_away = true;
            }
        }
        let is_first = caps.destinations.is_unknown();
        sleep(if is_first { FIRST_LOOK } else { LOOK }).await;
    }
}

/// The lists and their number after this instance has declared its own, if it has any or the store has; and whether it has.
async fn take(
    calls: &StoreCalls,
    declaration: DestinationDeclaration,
    number: i64,
) -> Result<(DestinationBook, i64, bool), StoreCallError> {
    let taken = calls.call(move |store| async move {
        let declares =
            !declaration.accounts.is_empty() || !store.destinations().await?.accounts.is_empty();
        let is_taken = !declares || store.declare_destinations(&declaration, number).await?;
        if !is_taken {
            return Ok(None);
        }
        // First the number: a declaration in between is then read once more.
        let epoch = store.destination_epoch().await?;
        Ok(Some((store.destinations().await?, epoch, declares)))
    });
    taken.await?.ok_or(StoreCallError::NotJoined)
}

/// The lists, if an instance has declared others, and whether this instance's declaration still counts.
async fn newer(
    calls: &StoreCalls,
    (epoch, declared): (i64, Option<i64>),
) -> Result<AskedLists, StoreCallError> {
    let asked = calls.call(move |store| async move {
        if let Some(number) = declared
            && !store.destinations_stand(number).await?
        {
            return Ok(AskedLists::Undeclared);
        }
        let newest = store.destination_epoch().await?;
        Ok(if newest == epoch {
            AskedLists::Same
        } else {
            AskedLists::Newer(store.destinations().await?, newest)
        })
    });
    asked.await
}

/// The destinations of all sub-accounts whose tenants have any, or say so. Tenants that share one have one list together.
fn declaration(generation: &Generation) -> DestinationDeclaration {
    let mut declaration = DestinationDeclaration::default();
    for tenant in generation.registry.tenants() {
        let account = StoredText::parse(tenant.sub_account.as_str());
        let (Some(account), Some(destinations)) = (account, tenant.destinations()) else {
            continue;
        };
        let own = said(destinations);
        let known = declaration.accounts.entry(account);
        let known = known.or_insert_with(|| own.clone());
        known.is_listed |= own.is_listed;
        known.hold_ms = known.hold_ms.max(own.hold_ms);
        known.targets.extend(own.targets);
    }
    declaration
}

fn said(destinations: &TenantDestinations) -> DeclaredDestinations {
    DeclaredDestinations {
        is_listed: is_listed(destinations),
        hold_ms: u64::try_from(destinations.hold.as_millis()).unwrap_or(u64::MAX),
        targets: destinations.listed.iter().filter_map(text).collect(),
    }
}
