//! Everything the emulator keeps: the books of all parts of the API.

use crate::api::accounts::Accounts;
use crate::api::balances::Balances;
use crate::api::banks::Banks;
use crate::api::channels::Channels;
use crate::api::conversions::Conversions;
use crate::api::fees::FeeRules;
use crate::api::fixed_addresses::FixedAddresses;
use crate::api::gift_cards::GiftCards;
use crate::api::orders::Orders;
use crate::api::otc::Otc;
use crate::api::payouts::Payouts;
use crate::api::plans::Plans;
use crate::api::products::Products;
use crate::api::refunds::Refunds;
use crate::api::rewards::Rewards;
use crate::api::subscriptions::Subscriptions;
use crate::api::transfers::Transfers;
use crate::config::{AnswerForms, NumbersUniquePer};
use crate::rules::call::Call;

/// Everything that GatePay remembers of its merchants' business.
pub(crate) struct Ledger {
    answer_forms: AnswerForms,
    pub(crate) accounts: Accounts,
    pub(crate) balances: Balances,
    pub(crate) orders: Orders,
    pub(crate) refunds: Refunds,
    pub(crate) fixed_addresses: FixedAddresses,
    pub(crate) conversions: Conversions,
    pub(crate) payouts: Payouts,
    pub(crate) rewards: Rewards,
    pub(crate) transfers: Transfers,
    pub(crate) banks: Banks,
    pub(crate) otc: Otc,
    pub(crate) gift_cards: GiftCards,
    pub(crate) plans: Plans,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) products: Products,
    pub(crate) channels: Channels,
    pub(crate) fee_rules: FeeRules,
}

impl Ledger {
    pub(crate) fn new(
        accounts: Accounts,
        numbers: NumbersUniquePer,
        answer_forms: AnswerForms,
    ) -> Self {
        Self {
            answer_forms,
            accounts,
            balances: Balances::default(),
            orders: Orders::new(numbers),
            refunds: Refunds::new(numbers),
            fixed_addresses: FixedAddresses::default(),
            conversions: Conversions::new(numbers),
            payouts: Payouts::new(numbers),
            rewards: Rewards::new(numbers),
            transfers: Transfers::new(numbers),
            banks: Banks::default(),
            otc: Otc::new(numbers),
            gift_cards: GiftCards::default(),
            plans: Plans::new(numbers),
            subscriptions: Subscriptions::new(numbers),
            products: Products::default(),
            channels: Channels::default(),
            fee_rules: FeeRules::default(),
        }
    }

    /// A call in an account's name.
    pub(crate) fn call<'a>(&self, account: &'a str, now: u64) -> Call<'a> {
        Call {
            account,
            now,
            forms: self.answer_forms,
        }
    }
}
