//! Answers before they are sent: a status, a media type and a body.

use bytes::Bytes;
use gatepay_core::envelope::Envelope;
use serde::Serialize;

use crate::Failure;

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) media: &'static str,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The standard envelope (protocol.md 4.1).
    pub(crate) fn standard(result: Result<impl Serialize, Failure>) -> Self {
        match result {
            Ok(data) => Self::json(&Envelope::success(data)),
            Err(failure) => Self::failure(failure),
        }
    }

    /// The envelope that the page of create order prints. Its form for failures is not shown, so they are standard.
    pub(crate) fn of_create_order(result: Result<impl Serialize, Failure>) -> Self {
        match result {
            Ok(data) => Self::json(&Created {
                code: "SUCCESS",
                message: "订单创建成功",
                data,
            }),
            Err(failure) => Self::failure(failure),
        }
    }

    pub(crate) fn failure(failure: Failure) -> Self {
        Self {
            status: failure.status(),
            ..Self::json(&Envelope::failure(
                failure.code(),
                failure.label(),
                failure.message(),
            ))
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

    /// No envelope.
    pub(crate) fn plain(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            media: "text/plain",
            body: body.into(),
        }
    }
}

/// In the order printed.
#[derive(Serialize)]
struct Created<D> {
    code: &'static str,
    message: &'static str,
    data: D,
}
