//! GatePay's API, one file for each part.

pub(crate) mod accounts;
pub(crate) mod balances;
pub(crate) mod banks;
pub(crate) mod channels;
pub(crate) mod conversions;
pub(crate) mod currencies;
pub(crate) mod fees;
pub(crate) mod fixed_addresses;
pub(crate) mod gift_cards;
pub(crate) mod orders;
pub(crate) mod otc;
pub(crate) mod payouts;
pub(crate) mod plans;
pub(crate) mod products;
pub(crate) mod refunds;
pub(crate) mod rewards;
pub(crate) mod subscriptions;
pub(crate) mod transfers;
pub(crate) mod wallet;
