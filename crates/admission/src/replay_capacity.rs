//! Replay capacity: how many stamps the replay memory may have to hold, from the rates that are configured.

use gatepay_tenancy::settings::{QuotaSettings, Settings};
use gatepay_tenancy::{Party, PartyRef, Rate, Registry, ReplayRule};

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
    let stamps = |of: &dyn Fn(&Party) -> bool| {
        let parties = registry
            .parties()
            .map(PartyRef::party)
            .filter(|party| of(party));
        let parties = parties.map(|party| most(party.limits.all));
        parties.fold(0_u64, u64::saturating_add).min(institution)
    };
    let nonces = stamps(&|party| party.replay == ReplayRule::Nonce);
    usize::try_from(stamps(&|_| true).saturating_add(nonces)).unwrap_or(usize::MAX)
}
