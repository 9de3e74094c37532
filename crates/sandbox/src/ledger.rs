//! The ledger: the books of all parts of the API.

use crate::api::accounts::AccountBook;
use crate::api::balances::Balances;
use crate::api::banks::BankBook;
use crate::api::channels::ChannelBook;
use crate::api::conversions::ConversionBook;
use crate::api::fees::FeeRules;
use crate::api::fixed_addresses::FixedAddresses;
use crate::api::gift_cards::GiftCards;
use crate::api::orders::OrderBook;
use crate::api::otc::OtcBook;
use crate::api::payouts::PayoutBook;
use crate::api::plans::PlanBook;
use crate::api::products::ProductBook;
use crate::api::refunds::RefundBook;
use crate::api::rewards::RewardBook;
use crate::api::subscriptions::SubscriptionBook;
use crate::api::transfers::TransferBook;
use crate::config::{AnswerForms, NumbersUniquePer};
use crate::rules::call::LedgerCall;
use crate::rules::news::NewsBook;

/// The state of all merchants' business.
pub(crate) struct Ledger {
    answer_forms: AnswerForms,
    pub(crate) accounts: AccountBook,
    pub(crate) balances: Balances,
    pub(crate) orders: OrderBook,
    pub(crate) refunds: RefundBook,
    pub(crate) fixed_addresses: FixedAddresses,
    pub(crate) conversions: ConversionBook,
    pub(crate) payouts: PayoutBook,
    pub(crate) rewards: RewardBook,
    pub(crate) transfers: TransferBook,
    pub(crate) banks: BankBook,
    pub(crate) otc: OtcBook,
    pub(crate) gift_cards: GiftCards,
    pub(crate) plans: PlanBook,
    pub(crate) subscriptions: SubscriptionBook,
    pub(crate) products: ProductBook,
    pub(crate) channels: ChannelBook,
    pub(crate) fee_rules: FeeRules,
    pub(crate) news: NewsBook,
}

impl Ledger {
    pub(crate) fn new(
        accounts: AccountBook,
        numbers: NumbersUniquePer,
        answer_forms: AnswerForms,
    ) -> Self {
        Self {
            answer_forms,
            accounts,
            balances: Balances::default(),
            orders: OrderBook::new(numbers),
            refunds: RefundBook::new(numbers),
            fixed_addresses: FixedAddresses::default(),
            conversions: ConversionBook::new(numbers),
            payouts: PayoutBook::new(numbers),
            rewards: RewardBook::new(numbers),
            transfers: TransferBook::new(numbers),
            banks: BankBook::default(),
            otc: OtcBook::new(numbers),
            gift_cards: GiftCards::default(),
            plans: PlanBook::new(numbers),
            subscriptions: SubscriptionBook::new(numbers),
            products: ProductBook::default(),
            channels: ChannelBook::default(),
            fee_rules: FeeRules::default(),
            news: NewsBook::default(),
        }
    }

    /// A call on behalf of `account`.
    pub(crate) fn call<'a>(&self, account: &'a str, now: u64) -> LedgerCall<'a> {
        LedgerCall {
            account,
            now,
            forms: self.answer_forms,
        }
    }
}
