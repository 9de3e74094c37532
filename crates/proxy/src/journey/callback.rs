//! Callback: exchanges the `callbackUrl` in a tenant's call for a URL of the proxy's own.
//!
//! The store makes the token under a lock of all notifications, so it is asked only for a call that has its tokens and has
//! spent its stamp.

use gatepay_store::notifications::ledger::MOST_CALLBACK_URLS;

use crate::journey::admit::Admitted;
use crate::journey::judge::OwnCallback;
use crate::notify::Notifications;
use crate::notify::callback::NoToken;
use crate::refusal::Refusal;

/// Puts the proxy's URL into the body of an admitted call, if its tenant's URL is to be exchanged. All other bytes stay.
pub async fn exchange(
    admitted: &mut Admitted,
    relay: Option<&Notifications>,
) -> Result<(), Refusal> {
    let Some(callback) = admitted.take_callback() else {
        return Ok(());
    };
    let OwnCallback {
        field,
        url,
        tenant,
        account,
    } = *callback;
    let tokens = &relay.ok_or(Refusal::StoreUnavailable)?.callbacks;
    // A call that is refused here has cost the store work.
    admitted.commit();
    let operation = admitted.operation().name.clone();
    let url = tokens.url_for(&tenant, &account, &url, &operation);
    let url = url.await.map_err(refuse)?;
    let body = field.exchanged(admitted.outbound().body(), &url);
    admitted.replace_body(body.into());
    Ok(())
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
