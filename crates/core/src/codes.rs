//! Codes: every code that GatePay publishes (protocol.md 4.2), and its meaning for the answered call.

/// The meaning of a code for the answered call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeMeaning {
    /// GatePay accepted the call.
    Success,
    /// GatePay does not know the outcome: "retry with the same parameters".
    Unsettled,
    /// GatePay refused the institution's signature, clock, client id or nonce, before it read the call.
    InstitutionRejected,
    /// The request itself is wrong, or names an object that does not exist. No earlier delivery under the same key can
    /// be the cause: GatePay would have refused that delivery likewise.
    Refused,
    /// GatePay refused this delivery, and an earlier one under the same key may have been executed: the code may mean that the
    /// key was used before, since GatePay publishes a code of its own for few keys; or this delivery came too late, and the
    /// earlier one in time.
    KeyMayExist,
    /// The state of funds or prices forbids the call. An earlier delivery under the same key may be the cause: that
    /// delivery may have spent the balance or the refundable rest.
    ShortOfFunds,
    /// The state of the call's object forbids the call. An earlier delivery may have brought about that state: an order
    /// that is closed cannot be closed.
    StateConflict,
    /// An object with the call's key exists: GatePay executed an earlier delivery, or another call used the key.
    KeyExists,
}

/// The meaning of a code that GatePay publishes (protocol.md 4.2).
pub fn meaning(code: &str) -> Option<CodeMeaning> {
    let row = TABLE.iter().find(|(_, codes)| codes.contains(&code));
    row.map(|(meaning, _)| *meaning)
}

/// Every code of protocol.md 4.2, by meaning.
pub(crate) const TABLE: [(CodeMeaning, &[&str]); 8] = [
    (CodeMeaning::Success, &["000000"]),
    (CodeMeaning::Unsettled, &["300000", "300001", "400000"]),
    (
        CodeMeaning::InstitutionRejected,
        &["400002", "400003", "400004", "400020"],
    ),
    (
        CodeMeaning::Refused,
        &[
            "400007", // Content-Type
            "400202", // order does not exist
            "400203", // merchant does not exist
            "400205", // invalid currency
            "400304", // refund id does not exist
            "400621", // wrong payment amount
            "400623", // currency not supported for payment
            "400624", // invalid notification address
            "500008", // merchant not found
            "500203", // address payment: order not found
            "500204", // refund receiver is not a Gate user
            "500205", // refund currency does not match
            "500207", // address refund not found
            "500208", // not a converted-address order
            "550234", // memo too long
            "550235", // amount precision
            "550238", // too many sub-orders
            "550239", // amount missing
            "550240", // currency missing
            "550241", // address missing
            "550242", // chain missing
        ],
    ),
    (
        CodeMeaning::KeyMayExist,
        &[
            "400001", // parameters malformed: or the key was used before, with other parameters
            "400603", // order timed out: an earlier delivery may have come in time
            "400607", // too many refunds: the earlier one may be among them
            "550249", // invalid batch_id or withdraw_order_id: or one that was used before
        ],
    ),
    (
        CodeMeaning::ShortOfFunds,
        &[
            "400605", // insufficient balance
            "400608", // refund amount wrong: above the refundable rest
            "400622", // exchange rate moved
            "500206", // refund amount over the limit
            "550233", // insufficient balance
        ],
    ),
    (
        CodeMeaning::StateConflict,
        &[
            "400204", // order status does not allow it
            "400604", // order to refund not in a final state
            "500100", // QR code expired: an earlier delivery may have used it
            "500101", // QR code already used
            "500103", // address payment: conversion error, which may come after the conversion began
        ],
    ),
    (
        CodeMeaning::KeyExists,
        &[
            "400201", // merchant order number already exists
            "400620", // duplicate payment of the order
            "550245", // batch_id exists
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_for_tenants_lists_every_code_that_leaves_the_outcome_open() {
        let page = include_str!("../../../docs/for-tenants/tenants.md");
        let (_, rows) = page
            .split_once("with these codes of GatePay's own")
            .unwrap();
        let rows = rows.lines().skip_while(|line| !line.starts_with("| `"));
        let rows: Vec<&str> = rows.take_while(|line| line.starts_with("| `")).collect();
        let open = TABLE.iter().filter(|(meaning, _)| {
            !matches!(
                meaning,
                CodeMeaning::Success | CodeMeaning::InstitutionRejected | CodeMeaning::Refused
            )
        });
        let expected: Vec<_> = open
            .map(|(_, codes)| format!("| `{}` | ", codes.join("`, `")))
            .collect();
        assert_eq!(rows.len(), expected.len(), "{expected:?}");
        for (row, expected) in rows.iter().zip(expected) {
            assert!(row.starts_with(&expected), "{row}, not {expected}");
        }
    }
}
