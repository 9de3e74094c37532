//! Answers before delivery: a status, a media type and a body.

use bytes::Bytes;
use gatepay_core::envelope::Envelope;
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::AnswerForms;
use crate::wire::failure::ApiFailure;

/// An answer of the sandbox.
#[derive(Debug, Clone)]
pub(crate) struct SandboxAnswer {
    pub(crate) status: u16,
    pub(crate) media: &'static str,
    pub(crate) body: Bytes,
}

/// The envelope around the data of a success, in the forms that GatePay's pages print (protocol.md 4.1).
///
/// Most pages print no failure; failures of those calls have the standard envelope. The official client libraries have
/// one decoder for all calls with an envelope, and the decoder needs `status`, in upper case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EnvelopeForm {
    /// The standard envelope.
    Standard,
    /// The standard envelope with another code than `000000`.
    Coded(&'static str),
    /// `{code:"SUCCESS", message, data}`: create order.
    Created,
    /// `status` in lower case, and `code` 0: OTC quotes and deposits.
    Lower,
    /// `{code:"0", message, data, success:true}`: subscriptions. Their failures have this form too.
    Flagged,
    /// Data in a wrapper of its own, `{bizCode, bizData, bizMessage}`: one page of the second order query.
    Wrapped,
    /// No envelope: wallet queries.
    Bare,
}

impl EnvelopeForm {
    /// The form of an answer: the form that the official client libraries can read, or the page's form. The libraries
    /// have no calls for OTC and subscriptions, so for those the pages are the only evidence.
    pub(crate) fn under(self, forms: AnswerForms) -> Self {
        match (forms, self) {
            (AnswerForms::Clients, Self::Coded(_) | Self::Created | Self::Wrapped) => {
                Self::Standard
            }
            (AnswerForms::Clients | AnswerForms::Documentation, form) => form,
        }
    }
}

impl SandboxAnswer {
    /// The answer to an operation with this form.
    pub(crate) fn new(form: EnvelopeForm, outcome: Result<Value, ApiFailure>) -> Self {
        match (form, outcome) {
            (EnvelopeForm::Flagged, Err(failure)) => Self::flagged_failure(failure),
            (_, Err(failure)) => Self::failure(failure),
            (form, Ok(data)) => Self::success(form, data),
        }
    }

    fn success(form: EnvelopeForm, data: Value) -> Self {
        match form {
            EnvelopeForm::Standard => Self::json(&Envelope::success(data)),
            EnvelopeForm::Coded(code) => Self::json(&Envelope {
                code,
                ..Envelope::success(data)
            }),
            EnvelopeForm::Created => Self::json(&CreatedEnvelope {
                code: "SUCCESS",
                message: "订单创建成功",
                data,
            }),
            EnvelopeForm::Lower => Self::json(&Envelope {
                status: "success",
                code: "0",
                ..Envelope::success(data)
            }),
            EnvelopeForm::Flagged => Self::json(&FlaggedEnvelope {
                code: "0",
                message: "",
                data,
                success: true,
            }),
            EnvelopeForm::Wrapped => Self::json(&Envelope::success(json!({
                "bizCode": "000000",
                "bizData": data,
                "bizMessage": "",
            }))),
            EnvelopeForm::Bare => Self::json(&data),
        }
    }

    pub(crate) fn failure(failure: ApiFailure) -> Self {
        Self {
            status: failure.status(),
            ..Self::json(&Envelope::failure(
                failure.code(),
                failure.label(),
                failure.message(),
            ))
        }
    }

    fn flagged_failure(failure: ApiFailure) -> Self {
        Self {
            status: failure.status(),
            ..Self::json(&FlaggedEnvelope {
                code: failure.code(),
                message: &failure.message(),
                data: Value::Null,
                success: false,
            })
        }
    }

    pub(crate) fn json(value: &impl Serialize) -> Self {
        Self {
            status: 200,
            media: "application/json",
            body: serde_json::to_vec(value)
                .expect("a JSON value has text keys only")
                .into(),
        }
    }

    /// A plain text answer without an envelope.
    pub(crate) fn plain(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            media: "text/plain",
            body: body.into(),
        }
    }
}

/// Members are in the order that the pages print.
#[derive(Serialize)]
struct CreatedEnvelope {
    code: &'static str,
    message: &'static str,
    data: Value,
}

/// Members are in the order that the pages print.
#[derive(Serialize)]
struct FlaggedEnvelope<'a> {
    code: &'a str,
    message: &'a str,
    data: Value,
    success: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(form: EnvelopeForm, outcome: Result<Value, ApiFailure>) -> String {
        String::from_utf8(SandboxAnswer::new(form, outcome).body.into()).unwrap()
    }

    #[test]
    fn each_envelope_form_matches_the_documentation() {
        for (form, expected) in [
            (
                EnvelopeForm::Standard,
                r#"{"status":"SUCCESS","code":"000000","errorMessage":"","data":1}"#,
            ),
            (
                EnvelopeForm::Coded("00000"),
                r#"{"status":"SUCCESS","code":"00000","errorMessage":"","data":1}"#,
            ),
            (
                EnvelopeForm::Created,
                r#"{"code":"SUCCESS","message":"订单创建成功","data":1}"#,
            ),
            (
                EnvelopeForm::Lower,
                r#"{"status":"success","code":"0","errorMessage":"","data":1}"#,
            ),
            (
                EnvelopeForm::Flagged,
                r#"{"code":"0","message":"","data":1,"success":true}"#,
            ),
            (
                EnvelopeForm::Wrapped,
                r#"{"status":"SUCCESS","code":"000000","errorMessage":"","data":{"bizCode":"000000","bizData":1,"bizMessage":""}}"#,
            ),
            (EnvelopeForm::Bare, "1"),
        ] {
            assert_eq!(text(form, Ok(json!(1))), expected);
        }
    }

    #[test]
    fn a_failure_is_standard_but_for_subscriptions() {
        let failure = || Err(ApiFailure::OrderStatus);
        let standard = text(EnvelopeForm::Standard, failure());
        assert!(standard.starts_with(r#"{"status":"FAIL","code":"400204","#));
        assert_eq!(text(EnvelopeForm::Bare, failure()), standard);
        assert_eq!(
            text(EnvelopeForm::Flagged, failure()),
            r#"{"code":"400204","message":"order status does not allow it","data":null,"success":false}"#
        );
    }
}
