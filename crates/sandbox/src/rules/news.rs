//! News: business that GatePay notifies of, as the parts of the API tell it (protocol.md 5.2).

use serde_json::Value;

/// News that no notification was made of yet.
#[derive(Default)]
pub(crate) struct NewsBook {
    /// Whether the sandbox sends notifications. If not, no news is composed.
    is_read: bool,
    told: Vec<BusinessNews>,
}

/// One object of business and the statuses that it goes through; each status becomes one notification.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BusinessNews {
    /// The object, for the order of notifications: those about the same object are first sent in the order told.
    pub(crate) object: String,
    /// The statuses, earliest first.
    pub(crate) statuses: Vec<&'static str>,
    pub(crate) content: NewsContent,
    /// The callback URL of the object itself; `None` is the institution's.
    pub(crate) callback_url: Option<String>,
    /// When the business happens, in milliseconds since 1970; `None` is now.
    pub(crate) at_ms: Option<u64>,
}

/// The content of the notifications of a piece of news.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NewsContent {
    /// In the envelope. A member `status` of the data that is one of the news' statuses follows the notification's.
    Enveloped {
        kind: &'static str,
        id: String,
        data: Value,
    },
    /// A payout, which has no envelope. The statuses of its sub-orders follow the notification's status.
    Payout {
        main_order: Value,
        sub_orders: Vec<Value>,
    },
}

impl NewsBook {
    /// A book of news that is sent as notifications.
    pub(crate) fn read() -> Self {
        Self {
            is_read: true,
            told: Vec::new(),
        }
    }

    pub(crate) fn tell(&mut self, news: impl FnOnce() -> BusinessNews) {
        if self.is_read {
            self.told.push(news());
        }
    }

    /// Takes the news out, oldest first.
    pub(crate) fn take(&mut self) -> Vec<BusinessNews> {
        std::mem::take(&mut self.told)
    }
}

impl BusinessNews {
    /// News in the envelope: `id` becomes `bizId`.
    pub(crate) fn enveloped(
        kind: &'static str,
        id: &str,
        statuses: &[&'static str],
        data: Value,
    ) -> Self {
        Self {
            object: format!("{kind} {id}"),
            statuses: statuses.to_vec(),
            content: NewsContent::Enveloped {
                kind,
                id: id.to_owned(),
                data,
            },
            callback_url: None,
            at_ms: None,
        }
    }

    /// News of the payout with this id of GatePay's.
    pub(crate) fn payout(id: &str, main_order: Value, sub_orders: Vec<Value>) -> Self {
        Self {
            object: format!("payout {id}"),
            statuses: vec!["INIT", "PROCESSING", "SUCCESS"],
            content: NewsContent::Payout {
                main_order,
                sub_orders,
            },
            callback_url: None,
            at_ms: None,
        }
    }

    /// The news about another object than the one that `bizId` names.
    pub(crate) fn about(self, object: String) -> Self {
        Self { object, ..self }
    }

    /// The news for this callback URL; empty text is the institution's.
    pub(crate) fn to(self, callback_url: &str) -> Self {
        let callback_url = (!callback_url.is_empty()).then(|| callback_url.to_owned());
        Self {
            callback_url,
            ..self
        }
    }

    /// The news at this time.
    pub(crate) fn at(self, at_ms: u64) -> Self {
        Self {
            at_ms: Some(at_ms),
            ..self
        }
    }
}

impl NewsContent {
    /// The kind: `bizType`, or `WITHDRAW` for a payout: its notification has no `bizType`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Enveloped { kind, .. } => kind,
            Self::Payout { .. } => "WITHDRAW",
        }
    }
}
