//! Replay capacity: how many stamps the replay memory may have to hold, from the rates that are configured.

use gatepay_tenancy::settings::{QuotaSettings, Settings};
use gatepay_tenancy::{PartyRef, Rate, Registry, ReplayRule};

/// The largest number of entries in the replay memory: one for each stamp that all parties may have admitted, or that
/// the institution may send, the lesser of the two, while a stamp is fresh. A stamp takes one more if its nonce is
/// remembered by itself.
pub fn replay_capacity(settings: &Settings, quota: &QuotaSettings, registry: &Registry) -> usize {
    let window = settings.window;
    // A stamp is remembered from its admission until it is stale, and one slice of time more.
    let seconds = (window.past_ms + window.future_ms) / 1_000 + 20;
    let most =
        |rate: Rate| u64::from(rate.per_second.get()) * seconds + u64::from(rate.burst.get());
    let institution = most(quota.rate);
    // One walk for both: it takes long if there are many parties.
    let (mut stamps, mut nonces) = (0_u64, 0_u64);
    for party in registry.parties().map(PartyRef::party) {
        let most = most(party.limits.all);
        stamps = stamps.saturating_add(most);
        if party.replay == ReplayRule::Nonce {
            nonces = nonces.saturating_add(most);
        }
    }
    let most = stamps
        .min(institution)
        .saturating_add(nonces.min(institution));
    usize::try_from(most).unwrap_or(usize::MAX)
}
