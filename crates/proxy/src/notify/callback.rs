//! Callback: the URL of the proxy's own that stands in a call for the tenant's `callbackUrl`.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gatepay_core::destination::DestinationUrl;
use gatepay_store::notifications::ledger::{CallbackToken, CallbackUrl};
use gatepay_tenancy::notifications::NotificationSettings;
use moka::sync::Cache;

use crate::cluster::store_calls::StoreCalls;
use crate::notify::owner::registered_tenants::{RegisteredTenants, whole_url};
use crate::process::clock;

/// Gives tenants' URLs their tokens.
pub struct CallbackTokens {
    settings: Arc<NotificationSettings>,
    tenants: Arc<ArcSwapOption<RegisteredTenants>>,
    calls: StoreCalls,
    /// The tokens that the store has given, so that a repeated call does not ask again.
    known: Cache<TokenKey, String>,
}

/// Tenant, incarnation, URL and operation.
type TokenKey = (String, u64, String, String);

/// The most tokens that are kept here: some hundred bytes each.
const KNOWN: u64 = 4_096;
/// The length of a token in random bytes: too long to be guessed.
const TOKEN_BYTES: usize = 24;

/// Why a URL has no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoToken {
    /// The store does not answer, or the tenant is not registered yet.
    Away,
    /// The tenant's calls have named as many URLs as one tenant may have.
    TooManyUrls,
}

impl CallbackTokens {
    /// Without any token known here.
    pub fn new(
        settings: Arc<NotificationSettings>,
        tenants: Arc<ArcSwapOption<RegisteredTenants>>,
        calls: StoreCalls,
    ) -> Self {
        Self {
            settings,
            tenants,
            calls,
            known: Cache::new(KNOWN),
        }
    }

    /// The URL for GatePay in place of a tenant's. The token is committed when this returns.
    pub async fn url_for(
        &self,
        tenant: &str,
        account: &str,
        url: &DestinationUrl,
        operation: &str,
    ) -> Result<String, NoToken> {
        let tenants = self.tenants.load_full().ok_or(NoToken::Away)?;
        let incarnation = tenants.incarnation(tenant).ok_or(NoToken::Away)?;
        // The call is made for the account that the caller had when it arrived.
        if incarnation.account != account {
            return Err(NoToken::Away);
        }
        let url = whole_url(url);
        let key = (
            tenant.to_owned(),
            incarnation.incarnation,
            url.clone(),
            operation.to_owned(),
        );
        if let Some(token) = self.known.get(&key) {
            return Ok(self.settings.url_of_token(&token));
        }
        let wanted = CallbackUrl {
            tenant: incarnation.clone(),
            url,
            made_for: operation.to_owned(),
        };
        let proposed = hex::encode(clock::random::<TOKEN_BYTES>());
        let given = self
            .calls
            .call(move |store| async move { store.callback_token(&wanted, &proposed).await });
        match given.await {
            Ok(CallbackToken::Token(token)) => {
                self.known.insert(key, token.clone());
                Ok(self.settings.url_of_token(&token))
            }
            Ok(CallbackToken::TooManyUrls) => Err(NoToken::TooManyUrls),
            Ok(CallbackToken::Removed) => Err(NoToken::Away),
            Err(error) => {
                tracing::warn!(%error, "a callback URL has no token: its call is refused");
                Err(NoToken::Away)
            }
        }
    }
}
