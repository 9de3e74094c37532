//! Field: the rules for the fields of a body, as data. GatePay's pages state these rules for the order operations.
//!
//! The sources are `docs/gatepay/samples.json` and `schemas.md`. A row of the catalogue gets rules by naming a list;
//! [`check`](crate::check) enforces the rules.

use std::fmt;

/// One member of a body, and its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyField {
    /// The path of the field, as refusals name it: `goods.goodsName`.
    pub path: &'static str,
    /// The field's name inside its object: the last part of the path.
    pub name: &'static str,
    /// Whether the field must be present.
    pub need: FieldNeed,
    /// The required form. Only the strict check enforces the form.
    pub form: FieldForm,
}

/// Whether a field must be present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldNeed {
    /// The field must be present.
    Required,
    /// The field or the given alternative must be present.
    Or(&'static str),
    /// The field may be absent.
    Optional,
}

/// The required form of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldForm {
    /// Text.
    Text,
    /// Text with a minimum and a maximum number of characters.
    Characters(usize, usize),
    /// Text with a maximum number of bytes in UTF-8.
    Bytes(usize),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An amount above zero as text: digits, with a maximum number of digits after the decimal point.
    Amount(usize),
    /// A number without fraction or exponent.
    Integer,
    /// A list of texts.
    Texts,
    /// An object with these members.
    Object(&'static [BodyField]),
}

/// A body's field with an amount, and the fields that belong to the amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmountField {
    /// The field, or `list.field` if every item of a list has the field.
    pub path: &'static str,
    /// The currency field, in the same object. An item without a currency has the body's currency.
    pub currency: Option<&'static str>,
    /// The field with the multiplier of the amount.
    pub times: Option<&'static str>,
}

impl BodyField {
    const fn required(path: &'static str, form: FieldForm) -> Self {
        Self::new(path, FieldNeed::Required, form)
    }

    const fn optional(path: &'static str, form: FieldForm) -> Self {
        Self::new(path, FieldNeed::Optional, form)
    }

    const fn new(path: &'static str, need: FieldNeed, form: FieldForm) -> Self {
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

/// Writes the rest of a sentence that begins with the field's name.
impl fmt::Display for FieldForm {
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

/// Rules for the body of `POST /v1/pay/order`.
pub(crate) const CREATE_ORDER: &[BodyField] = &[
    BodyField::required("merchantTradeNo", FieldForm::Characters(5, 32)),
    BodyField::required(
        "env",
        FieldForm::Object(&[BodyField::required(
            "env.terminalType",
            FieldForm::OneOf(TERMINALS),
        )]),
    ),
    BodyField::required("currency", FieldForm::Text),
    BodyField::required("orderAmount", FieldForm::Amount(2)),
    BodyField::required(
        "goods",
        FieldForm::Object(&[
            BodyField::required("goods.goodsName", FieldForm::Characters(1, 160)),
            BodyField::optional("goods.goodsDetail", FieldForm::Characters(0, 256)),
        ]),
    ),
    // The rule "at most one hour ahead" needs a clock, which this crate lacks.
    BodyField::optional("orderExpireTime", FieldForm::Integer),
    // The text says 256, and the limit in the same entry says 512: only a value over both is refused.
    BodyField::optional("returnUrl", FieldForm::Characters(0, 512)),
    BodyField::optional("cancelUrl", FieldForm::Characters(0, 512)),
    BodyField::optional("channelId", FieldForm::Characters(0, 32)),
    BodyField::optional("fiatCurrency", FieldForm::Text),
    BodyField::optional("fiatAmount", FieldForm::Text),
    BodyField::optional("surchargeAmount", FieldForm::Text),
    BodyField::optional("payCurrency", FieldForm::Text),
    BodyField::optional("payAmount", FieldForm::Text),
    BodyField::optional("chain", FieldForm::Text),
    BodyField::optional("address", FieldForm::Text),
    BodyField::optional("sourceType", FieldForm::Text),
    BodyField::optional("payTypes", FieldForm::Texts),
];

/// Rules for the bodies of `POST /v1/pay/order/query` and `POST /v1/pay/order/close`.
pub(crate) const ORDER_ID: &[BodyField] = &[
    BodyField::new(
        "prepayId",
        FieldNeed::Or("merchantTradeNo"),
        FieldForm::Text,
    ),
    BodyField::optional("merchantTradeNo", FieldForm::Bytes(32)),
];

/// Rules for the body of `POST /v1/pay/order/refund`.
pub(crate) const REFUND_ORDER: &[BodyField] = &[
    BodyField::required("refundRequestId", FieldForm::Characters(1, 32)),
    BodyField::required("prepayId", FieldForm::Text),
    // The refund page states no pattern; the general rule allows six decimals.
    BodyField::required("refundAmount", FieldForm::Amount(6)),
    BodyField::optional("refundReason", FieldForm::Characters(0, 256)),
];

/// Rules for the body of `POST /v1/pay/order/refund/query`.
pub(crate) const REFUND_ID: &[BodyField] = &[BodyField::required(
    "refundRequestId",
    FieldForm::Characters(1, 32),
)];

const TERMINALS: &[&str] = &["APP", "WEB", "WAP", "MINIAPP", "OTHERS"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn field_rules_of_an_operation_cover_its_key_and_name_its_own_fields() {
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
                if let FieldNeed::Or(other) = field.need {
                    assert!(has(other), "{}: {other}", row.name);
                }
                if let FieldForm::Object(members) = field.form {
                    for member in members {
                        assert_eq!(member.path, format!("{}.{}", field.path, member.name));
                    }
                }
            }
        }
    }
}
