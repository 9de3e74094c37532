//! What is emulated: one line per operation of the catalogue.

use crate::answer::Answer;
use crate::body::Body;
use crate::orders::{Call, Orders};
use crate::{Failure, NumbersUniquePer};

/// Everything that GatePay remembers of its merchants' business.
pub(crate) struct Ledger {
    pub(crate) orders: Orders,
}

/// Carries out one operation.
pub(crate) type Execute = fn(&mut Ledger, Call<'_>, &[u8]) -> Answer;

impl Ledger {
    pub(crate) fn new(numbers_unique_per: NumbersUniquePer) -> Self {
        Self {
            orders: Orders::new(numbers_unique_per),
        }
    }
}

/// How an operation is carried out, by its name in the catalogue; `None` if it is not emulated yet.
pub(crate) fn emulated(operation: &str) -> Option<Execute> {
    let execute: Execute = match operation {
        "create_order" => |ledger, call, body| {
            Answer::of_create_order(parsed(body, |body| ledger.orders.create(call, body)))
        },
        "query_order" => |ledger, call, body| {
            Answer::standard(parsed(body, |body| ledger.orders.query(call, body)))
        },
        "close_order" => |ledger, call, body| {
            Answer::standard(parsed(body, |body| ledger.orders.close(call, body)))
        },
        "refund_order" => |ledger, call, body| {
            Answer::standard(parsed(body, |body| ledger.orders.refund(call, body)))
        },
        "query_refund" => |ledger, call, body| {
            Answer::standard(parsed(body, |body| ledger.orders.query_refund(call, body)))
        },
        _ => return None,
    };
    Some(execute)
}

fn parsed<T>(body: &[u8], execute: impl FnOnce(&Body) -> Result<T, Failure>) -> Result<T, Failure> {
    execute(&Body::parse(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::Catalogue;
    use proptest::prelude::*;

    const EMULATED: [&str; 5] = [
        "create_order",
        "query_order",
        "close_order",
        "refund_order",
        "query_refund",
    ];

    #[test]
    fn what_is_emulated_is_in_the_catalogue() {
        let catalogue = Catalogue::standard();
        let rows = catalogue.rows().iter().map(|row| row.name.as_ref());
        let found: Vec<_> = rows.filter(|name| emulated(name).is_some()).collect();
        assert_eq!(found, EMULATED);
    }

    /// JSON with the names that matter and values of every kind, or no JSON at all.
    fn any_body() -> impl Strategy<Value = Vec<u8>> {
        let name = prop::sample::select(vec![
            "merchantTradeNo",
            "env",
            "goods",
            "currency",
            "orderAmount",
            "orderExpireTime",
            "prepayId",
            "refundRequestId",
            "refundAmount",
            "terminalType",
            "goodsName",
            "channelId",
        ]);
        let leaf = prop_oneof![
            "null",
            "-?[0-9]{1,20}",
            "\"[0-9.]{0,24}\"",
            "\"[a-z\u{e9}]{0,3}\""
        ];
        let object = |value: BoxedStrategy<String>| {
            prop::collection::vec((name.clone(), value), 0..9).prop_map(|members| {
                let members = members
                    .iter()
                    .map(|(name, value)| format!("\"{name}\":{value}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            })
        };
        let inner = object(leaf.clone().boxed());
        let json = object(prop_oneof![leaf, inner].boxed());
        prop_oneof![any::<Vec<u8>>(), json.prop_map(String::into_bytes)]
    }

    proptest! {
        #[test]
        fn no_body_makes_any_operation_panic(body in any_body(), now: u64) {
            let mut ledger = Ledger::new(NumbersUniquePer::SubAccount);
            for name in EMULATED {
                let execute = emulated(name).unwrap();
                let answer = execute(&mut ledger, Call { account: "1", now }, &body);
                prop_assert_eq!(answer.status, 200);
            }
        }
    }
}
