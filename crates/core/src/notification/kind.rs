//! Notification kind: what a notification is about, and the order of its statuses (protocol.md 5.2).

use crate::words::words;

/// What a notification is about. The word of a kind is GatePay's `bizType`, if GatePay documents one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotificationKind {
    /// An order that is paid from a Gate account.
    Pay,
    /// An order that is paid to an address.
    PayAddress,
    /// A transaction that arrives at an order's address.
    TransferAddress,
    /// A deposit to a fixed address.
    PayFixedAddress,
    /// A fixed address that is at risk.
    FixedAddressRisk,
    /// A refund.
    PayRefund,
    /// A reward batch.
    PayBatch,
    /// A batch of gift cards.
    PayGiftBatch,
    /// A payout. Its notification has no envelope and thus no `bizType`; GatePay's table names the kind so.
    Withdraw,
    /// An on-chain deduction of a subscription.
    SubscriptionPayment,
    /// A deduction from an account.
    AccountAuthDeduction,
    /// The creation of a sub-account: news for the institution.
    Institution,
    /// An OTC order. GatePay documents no `bizType`, so the fields show the kind.
    Otc,
    /// Another kind, or a body that has no single reading.
    Unknown,
}

words!(NotificationKind {
    Pay = "PAY",
    PayAddress = "PAY_ADDRESS",
    TransferAddress = "TRANSFER_ADDRESS",
    PayFixedAddress = "PAY_FIXED_ADDRESS",
    FixedAddressRisk = "FIXED_ADDRESS_RISK",
    PayRefund = "PAY_REFUND",
    PayBatch = "PAY_BATCH",
    PayGiftBatch = "PAY_GIFT_BATCH",
    Withdraw = "WITHDRAW",
    SubscriptionPayment = "SUBSCRIPTION_PAYMENT",
    AccountAuthDeduction = "ACCOUNT_AUTH_DEDUCTION",
    Institution = "INSTITUTION",
    Otc = "OTC",
    Unknown = "UNKNOWN",
});

/// The place of a status in the life of one object. A later status has a higher rank; all final statuses of a kind have
/// the same, highest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatusRank {
    /// The rank. Only ranks of one object are comparable.
    pub rank: u32,
    /// Whether GatePay documents no later status.
    pub is_final: bool,
}

impl StatusRank {
    /// The rank of every final status.
    pub const FINAL: Self = Self {
        rank: 0x00ff_0000,
        is_final: true,
    };

    /// The rank of a status that is not final, from 1 on.
    const fn step(step: u8) -> Self {
        Self {
            rank: (step as u32) << 16,
            is_final: false,
        }
    }

    /// The rank of a payout that still runs, with the number of its sub-orders that have left the first status. The
    /// number only grows.
    pub(super) fn with_progress(self, moved: usize) -> Self {
        let moved = u32::from(u16::try_from(moved).unwrap_or(u16::MAX));
        let moved = if self.is_final { 0 } else { moved };
        Self {
            rank: self.rank + moved,
            ..self
        }
    }
}

/// A documented status, and its rank if the documentation lets one be stated.
pub type KnownStatus = (&'static str, Option<StatusRank>);

const FIRST: Option<StatusRank> = Some(StatusRank::step(1));
const SECOND: Option<StatusRank> = Some(StatusRank::step(2));
const FINAL: Option<StatusRank> = Some(StatusRank::FINAL);

impl NotificationKind {
    /// The documented statuses, from the earliest on.
    ///
    /// A rank withholds news from a tenant, so a status has a rank only if the order is documented or in the words
    /// themselves. If two statuses may come in either order, both have the same rank. A status without a rank is always
    /// delivered. Statuses that end an object in different ways are all final: each of them is delivered.
    pub const fn statuses(self) -> &'static [KnownStatus] {
        match self {
            Self::Pay => &[
                ("PAY_SUCCESS", FINAL),
                ("PAY_ERROR", FINAL),
                ("PAY_CLOSE", FINAL),
            ],
            Self::PayAddress => &[
                ("PAY_BLOCK", FIRST),
                ("PAY_EXPIRED_IN_PROCESS", FIRST),
                ("PAY_SUCCESS", FINAL),
                ("PAY_ERROR", FINAL),
                ("PAY_CLOSE", FINAL),
            ],
            // No page states in which order these come for one transaction.
            Self::TransferAddress => &[
                ("TRANSFERRED_ADDRESS_IN_TERM", None),
                ("TRANSFERRED_ADDRESS_DELAY", None),
                ("TRANSFERRED_ADDRESS_BLOCK", None),
                ("CONVERT_ADDRESS_PAY_DELAY", None),
                ("TRANSFERRED_ADDRESS_PAID", None),
                ("TRANSFERRED_ADDRESS_EXPIRE", None),
            ],
            // Held for risk and not credited: a deposit that is credited has left this status.
            Self::PayFixedAddress => &[("PAY_BLOCK", FIRST), ("PAY_SUCCESS", FINAL)],
            Self::PayRefund => &[
                ("REFUND_PROCESS", FIRST),
                ("REFUND_SUCCESS", FINAL),
                ("REFUND_REJECTED", FINAL),
            ],
            Self::PayBatch | Self::PayGiftBatch => &[("PAID", FINAL)],
            Self::Withdraw => &[
                ("INIT", FIRST),
                ("PROCESSING", SECOND),
                ("SUCCESS", FINAL),
                ("PARTIAL", FINAL),
                ("FAIL", FINAL),
            ],
            Self::SubscriptionPayment => &[("SUCCESS", FINAL)],
            Self::AccountAuthDeduction => &[("DEDUCT_SUCCESS", FINAL), ("DEDUCT_FAILED", FINAL)],
            Self::Institution => &[
                ("INSTITUTION_ACCOUNT_SUCCESS", FINAL),
                ("INSTITUTION_ACCOUNT_FAIL", FINAL),
            ],
            // The bank has sent a dispatched order, which may still fail.
            Self::Otc => &[
                ("PROCESSING", FIRST),
                ("DISPATCHED", SECOND),
                ("DONE", FINAL),
                ("FAIL", FINAL),
            ],
            Self::FixedAddressRisk | Self::Unknown => &[],
        }
    }

    /// The rank of a status of this kind, exactly as GatePay spells it.
    pub fn rank(self, status: &str) -> Option<StatusRank> {
        let known = self.statuses().iter().find(|known| known.0 == status);
        known.and_then(|known| known.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_kinds_and_statuses_are_known() {
        let page = include_str!("../../../../docs/gatepay/protocol.md");
        let begin = page.find("### 5.2 Kinds").unwrap();
        let end = page.find("### 5.3").unwrap();
        let mut rows = page[begin..end]
            .lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
        assert!(rows.next().unwrap().contains("bizType"));
        let mut kinds = 0;
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            for word in cells[1].split(", ") {
                kinds += 1;
                let kind = match word.split_once(' ') {
                    Some((word, _)) => NotificationKind::parse(word),
                    None => NotificationKind::parse(word),
                };
                let kind = kind.unwrap_or_else(|| panic!("{word}"));
                for (status, rank) in kind.statuses() {
                    let tail = status.rsplit('_').next().unwrap();
                    assert!(cells[2].contains(tail), "{word}: {status}");
                    assert_eq!(kind.rank(status), *rank);
                }
                let upper = |text: &&str| {
                    text.len() > 2 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
                };
                let documented = cells[2].split(|c: char| !c.is_ascii_alphabetic() && c != '_');
                for status in documented.filter(upper) {
                    let ends = |known: &&KnownStatus| known.0.ends_with(status);
                    let is_known = kind.statuses().iter().any(|known| ends(&known));
                    assert!(
                        is_known || ["PENDING", "DONE"].contains(&status),
                        "{word}: {status}"
                    );
                }
            }
        }
        assert_eq!(
            kinds,
            NotificationKind::ALL.len() - 1,
            "all but the unknown"
        );
    }

    #[test]
    fn a_final_status_has_the_highest_rank() {
        for kind in NotificationKind::ALL {
            for (status, rank) in kind.statuses() {
                if let Some(rank) = rank.filter(|rank| !rank.is_final) {
                    let later = rank.with_progress(usize::MAX);
                    assert!(rank < later && later < StatusRank::FINAL, "{kind} {status}");
                    assert!(later < StatusRank::step(u8::try_from(rank.rank >> 16).unwrap() + 1));
                }
            }
        }
        assert_eq!(StatusRank::FINAL.with_progress(3), StatusRank::FINAL);
        assert_eq!(NotificationKind::Pay.rank("pay_success"), None);
        assert_eq!(NotificationKind::Unknown.rank("PAY_SUCCESS"), None);
    }
}
