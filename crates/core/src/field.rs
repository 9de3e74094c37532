//! What a body must have, as data: the rules GatePay's pages state for the order operations.
//!
//! The sources are `docs/gatepay/samples.json` and `schemas.md`. A row of the catalogue gets rules by naming a list;
//! [`check`](crate::check) reads them.

use std::fmt;

/// One member of a body, and what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Where it stands, as refusals name it: `goods.goodsName`.
    pub path: &'static str,
    /// Its name inside the object it belongs to: the last part of the path.
    pub name: &'static str,
    /// Whether it must be there.
    pub need: Need,
    /// What it must look like. Only the strict check asks.
    pub form: Form,
}

/// Whether a field must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It must.
    Required,
    /// It or the field named here must.
    Or(&'static str),
    /// It need not.
    Optional,
}

/// What a field must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text.
    Text,
    /// Text of at least so many characters and at most so many.
    Characters(usize, usize),
    /// Text of at most so many bytes of UTF-8.
    Bytes(usize),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An amount above zero as text: digits, and at most so many after a decimal point.
    Amount(usize),
    /// A number without fraction or exponent.
    Integer,
    /// A list of texts.
    Texts,
    /// An object with these members.
    Object(&'static [Field]),
}

/// Where a body has an amount, and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmountField {
    /// The field, or `list.field` if every item of a list has one.
    pub path: &'static str,
    /// The field of its currency, beside it. Items without one have that of the body.
    pub currency: Option<&'static str>,
    /// The field that says how many times the amount is meant.
    pub times: Option<&'static str>,
}

impl Field {
    const fn required(path: &'static str, form: Form) -> Self {
        Self::new(path, Need::Required, form)
    }

    const fn optional(path: &'static str, form: Form) -> Self {
        Self::new(path, Need::Optional, form)
    }

    const fn new(path: &'static str, need: Need, form: Form) -> Self {
        Self {
            path,
            name: after_last_dot(path),
            need,
            form,
        }
    }
}

impl AmountField {
    pub(crate) const fn new(path: &'static str) -> Self {
        Self {
            path,
            currency: None,
            times: None,
        }
    }

    pub(crate) const fn with_currency(path: &'static str, currency: &'static str) -> Self {
        Self {
            currency: Some(currency),
            ..Self::new(path)
        }
    }

    pub(crate) const fn times(self, times: &'static str) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }
}

const fn after_last_dot(path: &'static str) -> &'static str {
    let mut at = path.len();
    while at > 0 && path.as_bytes()[at - 1] != b'.' {
        at -= 1;
    }
    path.split_at(at).1
}

/// The rest of a sentence that begins with the field's name.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("must be text"),
            Self::Characters(0 | 1, most) => {
                write!(f, "must be text of at most {most} characters")
            }
            Self::Characters(least, most) => {
                write!(f, "must be text of {least} to {most} characters")
            }
            Self::Bytes(most) => write!(f, "must be text of at most {most} bytes"),
            Self::OneOf(words) => write!(f, "must be one of {}", words.join(", ")),
            Self::Amount(decimals) => write!(
                f,
                "must be a positive amount in a string, with at most {decimals} decimals"
            ),
            Self::Integer => f.write_str("must be an integer"),
            Self::Texts => f.write_str("must be a list of texts"),
            Self::Object(_) => f.write_str("must be an object"),
        }
    }
}

/// `POST /v1/pay/order`.
pub(crate) const CREATE_ORDER: &[Field] = &[
    Field::required("merchantTradeNo", Form::Characters(5, 32)),
    Field::required(
        "env",
        Form::Object(&[Field::required("env.terminalType", Form::OneOf(TERMINALS))]),
    ),
    Field::required("currency", Form::Text),
    Field::required("orderAmount", Form::Amount(2)),
    Field::required(
        "goods",
        Form::Object(&[
            Field::required("goods.goodsName", Form::Characters(1, 160)),
            Field::optional("goods.goodsDetail", Form::Characters(0, 256)),
        ]),
    ),
    // "At most one hour ahead" needs a clock, which this crate has not.
    Field::optional("orderExpireTime", Form::Integer),
    // The text says 256, the limit in the same entry 512: only what breaks both is refused.
    Field::optional("returnUrl", Form::Characters(0, 512)),
    Field::optional("cancelUrl", Form::Characters(0, 512)),
    Field::optional("channelId", Form::Characters(0, 32)),
    Field::optional("fiatCurrency", Form::Text),
    Field::optional("fiatAmount", Form::Text),
    Field::optional("surchargeAmount", Form::Text),
    Field::optional("payCurrency", Form::Text),
    Field::optional("payAmount", Form::Text),
    Field::optional("chain", Form::Text),
    Field::optional("address", Form::Text),
    Field::optional("sourceType", Form::Text),
    Field::optional("payTypes", Form::Texts),
];

/// `POST /v1/pay/order/query` and `POST /v1/pay/order/close`.
pub(crate) const ORDER_ID: &[Field] = &[
    Field::new("prepayId", Need::Or("merchantTradeNo"), Form::Text),
    Field::optional("merchantTradeNo", Form::Bytes(32)),
];

/// `POST /v1/pay/order/refund`.
pub(crate) const REFUND_ORDER: &[Field] = &[
    Field::required("refundRequestId", Form::Characters(1, 32)),
    Field::required("prepayId", Form::Text),
    // Its page states no pattern; the general rule allows six decimals.
    Field::required("refundAmount", Form::Amount(6)),
    Field::optional("refundReason", Form::Characters(0, 256)),
];

/// `POST /v1/pay/order/refund/query`.
pub(crate) const REFUND_ID: &[Field] =
    &[Field::required("refundRequestId", Form::Characters(1, 32))];

const TERMINALS: &[&str] = &["APP", "WEB", "WAP", "MINIAPP", "OTHERS"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn rules_fit_together() {
        let catalogue = Catalogue::standard();
        let ruled = catalogue.rows().iter().filter(|row| !row.fields.is_empty());
        assert_eq!(ruled.clone().count(), 5);
        for row in ruled {
            let has = |name| row.fields.iter().any(|field| field.name == name);
            assert!(
                row.key.fields().all(has),
                "{}: the key is a field",
                row.name
            );
            for field in row.fields {
                assert_eq!(field.path, field.name, "{}: a top-level field", row.name);
                if let Need::Or(other) = field.need {
                    assert!(has(other), "{}: {other}", row.name);
                }
                if let Form::Object(members) = field.form {
                    for member in members {
                        assert_eq!(member.path, format!("{}.{}", field.path, member.name));
                    }
                }
            }
        }
    }
}
