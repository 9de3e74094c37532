//! Watch: declares the destinations of each configuration to the store, and follows what other instances declare.

use std::sync::Arc;
use std::time::Duration;

use gatepay_store::destinations::{DeclaredDestinations, DestinationBook, DestinationDeclaration};
use gatepay_tenancy::destinations::TenantDestinations;
use tokio::time::sleep;

use super::{is_listed, owner, text};
use crate::caps::Caps;
use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::generation::Generation;

/// The interval at which the configuration in force is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The same until the store has the first lists.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// The looks between two questions whether another instance has declared something.
const LOOKS_PER_QUESTION: u32 = 5;

/// Declares and follows until it is dropped.
pub(in crate::caps) async fn run(
    caps: &Caps,
    calls: &StoreCalls,
    in_force: &(dyn Fn() -> Arc<Generation> + Send + Sync),
    arrange: impl Fn(&Generation),
) {
    let mut known: Option<(Arc<Generation>, i64)> = None;
    let mut was_away = false;
    for look in 1_u32.. {
        let generation = in_force();
        let declared = known
            .as_ref()
            .filter(|(it, _)| Arc::ptr_eq(it, &generation));
        let asked = match declared {
            None => {
                let declaration = declaration(&generation);
                if !declaration.owners.is_empty() {
                    arrange(&generation);
                }
                take(calls, declaration).await.map(Some)
            }
            Some((_, epoch)) if look % LOOKS_PER_QUESTION == 0 => newer(calls, *epoch).await,
            Some(_) => Ok(None),
        };
        match asked {
            Ok(None) => was_away = false,
            Ok(Some((book, epoch))) => {
                let tenants = book.owners.values().filter(|it| it.is_listed).count();
                if tenants > 0 {
                    tracing::info!(tenants, "the store has the lists of destinations");
                }
                caps.destinations.know(book);
                known = Some((generation, epoch));
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

/// The lists after this instance has declared its own, if it has any or the store has.
async fn take(
    calls: &StoreCalls,
    declaration: DestinationDeclaration,
) -> Result<(DestinationBook, i64), StoreCallError> {
    let taken = calls.call(move |store| async move {
        let before = store.destinations().await?;
        if !declaration.owners.is_empty() || !before.owners.is_empty() {
            store.declare_destinations(&declaration).await?;
        }
        // First the number: a declaration in between is then read once more.
        let epoch = store.destination_epoch().await?;
        Ok((store.destinations().await?, epoch))
    });
    taken.await
}

/// The lists, if an instance has declared others.
async fn newer(
    calls: &StoreCalls,
    epoch: i64,
) -> Result<Option<(DestinationBook, i64)>, StoreCallError> {
    let asked = calls.call(move |store| async move {
        let newest = store.destination_epoch().await?;
        Ok(if newest == epoch {
            None
        } else {
            Some((store.destinations().await?, newest))
        })
    });
    asked.await
}

/// The destinations of all tenants that have any, or that say so.
fn declaration(generation: &Generation) -> DestinationDeclaration {
    let tenants = generation.registry.tenants().iter();
    let owners = tenants.filter_map(|tenant| Some((owner(tenant)?, said(tenant.destinations()?))));
    DestinationDeclaration {
        owners: owners.collect(),
    }
}

fn said(destinations: &TenantDestinations) -> DeclaredDestinations {
    DeclaredDestinations {
        is_listed: is_listed(destinations),
        hold_ms: u64::try_from(destinations.hold.as_millis()).unwrap_or(u64::MAX),
        targets: destinations.listed.iter().filter_map(text).collect(),
    }
}
