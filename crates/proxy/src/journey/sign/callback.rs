//! Callback: exchanges the `callbackUrl` in a tenant's call for a URL of the proxy's own.

use bytes::Bytes;
use gatepay_store::notifications::ledger::MOST_CALLBACK_URLS;

use crate::journey::judge::{Acting, Judged, OwnCallback};
use crate::notify::callback::{CallbackTokens, NoToken};
use crate::refusal::Refusal;

/// The body of a call with the proxy's URL. All other bytes stay.
pub(super) async fn exchanged(
    judged: &Judged<'_>,
    callback: &OwnCallback,
    tokens: Option<&CallbackTokens>,
) -> Result<Bytes, Refusal> {
    let verified = judged.verified();
    let (Some(tokens), Acting::OnBehalfOf(account)) = (tokens, judged.acting()) else {
        return Err(Refusal::StoreUnavailable);
    };
    let tenant = verified.caller().owner.party().id.as_str();
    let operation = &verified.routed().operation().name;
    let url = tokens.url_for(tenant, account, &callback.url, operation);
    let url = url.await.map_err(refuse)?;
    Ok(callback.field.exchanged(verified.body(), &url).into())
}

fn refuse(why: NoToken) -> Refusal {
    match why {
        NoToken::Away => Refusal::StoreUnavailable,
        NoToken::TooManyUrls => Refusal::OperationNotAllowed(
            format!(
                "your calls have named {MOST_CALLBACK_URLS} other callback URLs; name one of these"
            )
            .into(),
        ),
    }
}
