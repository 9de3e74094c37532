//! Intent: the journal entry about a write or money call, written before the call is sent.

use std::net::IpAddr;

use gatepay_core::Operation;
use gatepay_core::amount::BodyAmounts;

use crate::journal::entry::CallIntent;
use crate::journal::{Journal, JournalUnavailable};
use crate::journey::authenticate::Caller;
use crate::journey::judge::Acting;
use crate::journey::sign::Outbound;
use crate::record::RequestRecord;
use crate::record::access_line::RequestPhase;
use crate::refusal::Refusal;

/// The entry about an admitted call.
pub fn of(
    record: &RequestRecord,
    caller: &Caller<'_>,
    peer: IpAddr,
    (operation, acting, amounts): (&Operation, &Acting<'_>, BodyAmounts),
    outbound: &Outbound,
) -> CallIntent {
    CallIntent {
        id: record.id(),
        party: caller.owner.party().id.as_str().to_owned(),
        client_id: caller.client_id.to_string(),
        peer,
        operation: operation.name.to_string(),
        kind: operation.kind.as_str(),
        account: acting.account().map(str::to_owned),
        key: record.known_key().map(str::to_owned),
        amounts,
        timestamp: caller.stamp.timestamp().to_owned(),
        nonce: caller.stamp.nonce().to_owned(),
        body: outbound.content().1.clone(),
        signature: caller.into(),
    }
}

/// Writes the call's entry, if there is one to be written. The call may be sent once the entry is on the disk.
pub async fn write_if_any(
    journal: Option<&Journal>,
    intent: Option<Box<CallIntent>>,
    record: &mut RequestRecord,
) -> Result<(), Refusal> {
    let (Some(journal), Some(intent)) = (journal, intent) else {
        return Ok(());
    };
    record.enter_phase(RequestPhase::Journal);
    let written = journal.before(*intent).await;
    record.enter_phase(RequestPhase::Own);
    let open = written.map_err(|JournalUnavailable| Refusal::JournalUnavailable)?;
    record.journaled(open);
    Ok(())
}
