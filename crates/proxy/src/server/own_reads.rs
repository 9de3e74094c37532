//! Own reads: the reads that the proxy itself sends to GatePay, as a probe or to try a credential.

use std::sync::Arc;

use crate::journey::sign::Outbound;
use crate::upstream::credential_rotation::ActiveCredential;
use crate::upstream::forward::CallOwner;
use crate::upstream::probe;
use crate::worker::Worker;

/// Sends the proxy's own probe reads to GatePay, for as long as this future is polled.
pub async fn probe(worker: &Worker) {
    let app = &worker.app;
    let ask = || {
        let generation = app.generation.load();
        let row = generation.catalogue.probe()?;
        let outbound = Outbound::probe(row, &app.upstream.host).ok()?;
        let signing = &app.upstream.credential_rotation;
        let signing = signing.signing(&generation.institution)?;
        Some(move |head: &mut Vec<u8>| {
            outbound.attempt(signing.credential(), &app.upstream.clock.stamp(), head)
        })
    };
    probe::watch(worker.upstream_call(CallOwner::Proxy), ask).await;
}

/// Switches signing to another credential of the institution when its time has come and GatePay accepts that
/// credential, for as long as this future is polled.
pub async fn rotate(worker: &Worker) {
    let app = &worker.app;
    let institution = || Arc::clone(&app.generation.load().institution);
    let proves = |signing: Arc<ActiveCredential>| async move {
        let generation = app.generation.load_full();
        let row = generation.catalogue.probe();
        let read = row.and_then(|row| Outbound::probe(row, &app.upstream.host).ok());
        let read = read.ok_or("there is no read to try it with: list_accounts is off")?;
        let attempt = |head: &mut Vec<u8>| {
            read.attempt(signing.credential(), &app.upstream.clock.stamp(), head)
        };
        probe::prove(worker.upstream_call(CallOwner::Proxy), attempt).await
    };
    let rotation = &app.upstream.credential_rotation;
    rotation.watch(institution, proves).await;
}
