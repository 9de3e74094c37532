//! The institution's account and its sub-accounts (protocol.md 6): create, query, list, update; and the account that a
//! call acts for.

use std::time::Duration;

use gatepay_core::header;
use gatepay_core::operation::{AccountHeader as Named, Operation, OperationScope};
use hyper::HeaderMap;
use serde_json::{Map, Value, json};

use crate::config::{AccountStatus, SubAccount};
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::news::{BusinessNews, NewsBook};
use crate::rules::page::ListPage;
use crate::wire::failure::ApiFailure;
use crate::wire::headers::single;
use crate::wire::parameters::RequestParameters;

/// The first account id given; ids in the samples have as many digits.
const FIRST_ID: u64 = 9_000_000_001;

/// Operations that use the institution's own account if On-Behalf-Of is missing (protocol.md 2).
const FOR_THE_INSTITUTION: [&str; 2] = ["create_batch_transfer", "query_batch_transfer"];

/// The members that describe an account: callers set them and answers repeat them.
const DESCRIPTION: [&str; 4] = ["customer_id", "display_name", "account_holder", "metadata"];

/// The institution's account and all sub-accounts.
pub(crate) struct AccountBook {
    institution: String,
    /// The required value of `X-GatePay-MerchantId`; `None` accepts any value.
    merchant_id: Option<String>,
    /// The time from an account's creation to its activation, in milliseconds.
    delay_ms: u64,
    /// Oldest first.
    sub: Vec<SandboxAccount>,
}

struct SandboxAccount {
    id: String,
    /// The request that created the account; `None` for an account of the configuration.
    asked: Option<RequestParameters>,
    request_id: String,
    /// The account's description, as last updated.
    description: Map<String, Value>,
    created_ms: u64,
    updated_ms: u64,
    /// The time of activation, in milliseconds since 1970; `None` is never.
    active_from_ms: Option<u64>,
}

/// `POST …/accounts/create`. A repeated request has the same answer, INIT and no id, even once the account is ACTIVE.
pub(crate) fn create(
    accounts: &mut AccountBook,
    news: &mut NewsBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let request_id = asked.text("request_id")?;
    asked.text("customer_id")?;
    asked.text("display_name")?;
    asked.object("account_holder")?;
    let mut known = accounts.sub.iter();
    let created_ms = match known.find(|account| account.request_id == request_id) {
        Some(earlier) if earlier.asked.as_ref() == Some(asked) => earlier.created_ms,
        Some(_) => return Err(ApiFailure::Reused("request_id")),
        None => {
            let account = accounts.add(request_id, asked, call.now);
            news.tell(|| account.news());
            call.now
        }
    };
    let mut answer = described(asked);
    answer.insert("request_id".to_owned(), json!(request_id));
    answer.insert("status".to_owned(), json!("INIT"));
    // This member is text here, and a number in every other answer.
    answer.insert("created".to_owned(), json!(created_ms.to_string()));
    Ok(answer.into())
}

/// `POST …/accounts/update`, of the account in On-Behalf-Of.
pub(crate) fn update(
    accounts: &mut AccountBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let mut accounts = accounts.sub.iter_mut();
    let account = accounts
        .find(|account| account.id == call.account)
        .ok_or(ApiFailure::UnknownAccount)?;
    let said = described(asked).into_iter();
    account
        .description
        .extend(said.filter(|(_, value)| !value.is_null()));
    account.updated_ms = call.now;
    let mut answer = account.describe(call.now);
    // This member is text here, and a number in a query.
    answer["updated"] = json!(account.updated_ms.to_string());
    Ok(answer)
}

/// `GET …/accounts/query`. No known page documents the parameters; any parameter that names an account is accepted.
pub(crate) fn query(
    accounts: &AccountBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let wanted = AccountFilter::asked(asked)?;
    if wanted.names_nothing() {
        let names = "request_id, account_id or customer_id";
        return Err(ApiFailure::Malformed(names));
    }
    let accounts = accounts.sub.iter();
    accounts
        .filter(|account| wanted.fits(account, call.now))
        .map(|account| account.describe(call.now))
        .next()
        .ok_or(ApiFailure::UnknownAccount)
}

/// `GET …/accounts/list`.
pub(crate) fn list(
    accounts: &AccountBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let wanted = AccountFilter::asked(asked)?;
    let page = ListPage::asked(asked, "cursor", "limit")?;
    let accounts = accounts.sub.iter();
    let found: Vec<_> = accounts
        .filter(|account| wanted.fits(account, call.now))
        .map(|account| account.summarize(call.now))
        .collect();
    Ok(json!({"accounts": page.of(&found), "has_more": page.end() < found.len()}))
}

impl AccountBook {
    pub(crate) fn new(
        institution: String,
        merchant_id: Option<String>,
        delay: Duration,
        sub_accounts: Vec<SubAccount>,
    ) -> Self {
        Self {
            institution,
            merchant_id,
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            sub: sub_accounts
                .into_iter()
                .map(SandboxAccount::given)
                .collect(),
        }
    }

    /// The account that a call acts for, from the header that the operation prescribes.
    pub(crate) fn acting<'a>(
        &'a self,
        operation: &Operation,
        headers: &'a HeaderMap,
        now: u64,
    ) -> Result<&'a str, ApiFailure> {
        match operation.account {
            Named::None => Ok(&self.institution),
            Named::MerchantId => {
                let merchant_id = single(headers, header::MERCHANT_ID)?;
                match &self.merchant_id {
                    Some(own) if own.as_bytes() != merchant_id => Err(ApiFailure::UnknownMerchant),
                    Some(_) | None => Ok(&self.institution),
                }
            }
            Named::OnBehalfOf
                if !headers.contains_key(header::ON_BEHALF_OF)
                    && FOR_THE_INSTITUTION.contains(&operation.name.as_ref()) =>
            {
                Ok(&self.institution)
            }
            Named::OnBehalfOf => single(headers, header::ON_BEHALF_OF)
                .ok()
                .and_then(|id| str::from_utf8(id).ok())
                .filter(|id| match operation.scope {
                    OperationScope::Tenant => self.is_active(id, now),
                    OperationScope::Institution => self.holds_money(id, now),
                })
                .ok_or(ApiFailure::UnknownSubAccount),
        }
    }

    /// Whether money can move to and from the account: an active sub-account, or the institution's own account.
    pub(crate) fn holds_money(&self, id: &str, now: u64) -> bool {
        id == self.institution || self.is_active(id, now)
    }

    /// Whether the account is an active sub-account.
    pub(crate) fn is_active(&self, id: &str, now: u64) -> bool {
        self.sub
            .iter()
            .any(|account| account.id == id && account.status(now) == AccountStatus::Active)
    }

    fn add(&mut self, request_id: &str, asked: &RequestParameters, now: u64) -> &SandboxAccount {
        let id = self.next_id();
        self.sub.push_mut(SandboxAccount {
            id,
            asked: Some(asked.clone()),
            request_id: request_id.to_owned(),
            description: described(asked),
            created_ms: now,
            updated_ms: now,
            active_from_ms: Some(now.saturating_add(self.delay_ms)),
        })
    }

    /// Makes the newest sub-account usable at once, and gives its id.
    pub(crate) fn activate_newest(&mut self, now: u64) -> Option<&str> {
        let newest = self.sub.last_mut()?;
        newest.active_from_ms = Some(now);
        Some(&newest.id)
    }

    fn next_id(&self) -> String {
        let taken =
            |id: &str| id == self.institution || self.sub.iter().any(|account| account.id == id);
        (FIRST_ID..u64::MAX)
            .skip(self.sub.len())
            .map(|id| id.to_string())
            .find(|id| !taken(id))
            .expect("there are more ids than accounts")
    }
}

impl SandboxAccount {
    /// An account of the configuration.
    fn given(account: SubAccount) -> Self {
        Self {
            description: Map::from_iter([
                ("customer_id".to_owned(), json!(account.id)),
                ("display_name".to_owned(), json!(account.id)),
            ]),
            request_id: account.id.clone(),
            id: account.id,
            asked: None,
            created_ms: 0,
            updated_ms: 0,
            active_from_ms: match account.status {
                AccountStatus::Init => None,
                AccountStatus::Active => Some(0),
            },
        }
    }

    fn status(&self, now: u64) -> AccountStatus {
        match self.active_from_ms {
            Some(from) if now >= from => AccountStatus::Active,
            Some(_) | None => AccountStatus::Init,
        }
    }

    /// The end of the account's creation, told once the account is active.
    fn news(&self) -> BusinessNews {
        let active_ms = self.active_from_ms.unwrap_or(self.created_ms);
        let account = self.summarize(active_ms);
        let statuses = ["INSTITUTION_ACCOUNT_SUCCESS"];
        BusinessNews::enveloped("INSTITUTION", &self.request_id, &statuses, account).at(active_ms)
    }

    /// The account in the form of a list.
    fn summarize(&self, now: u64) -> Value {
        let said = |name| self.description.get(name).cloned().unwrap_or_default();
        let is_active = self.status(now) == AccountStatus::Active;
        json!({
            "request_id": self.request_id,
            "account_id": is_active.then_some(&self.id),
            "customer_id": said("customer_id"),
            "display_name": said("display_name"),
            "status": self.status(now).as_str(),
            "created": self.created_ms,
        })
    }

    /// The account in the form of a query.
    fn describe(&self, now: u64) -> Value {
        let said = |name| self.description.get(name).cloned().unwrap_or_default();
        let mut answer = self.summarize(now);
        answer["account_holder"] = said("account_holder");
        answer["metadata"] = said("metadata");
        answer["updated"] = json!(self.updated_ms);
        answer
    }
}

impl AccountStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Active => "ACTIVE",
        }
    }
}

/// The filter of an account query or list.
struct AccountFilter<'a> {
    request_id: Option<&'a str>,
    account_id: Option<&'a str>,
    customer_id: Option<&'a str>,
    status: Option<&'a str>,
    created_from_ms: u64,
    created_to_ms: u64,
}

impl<'a> AccountFilter<'a> {
    fn asked(asked: &'a RequestParameters) -> Result<Self, ApiFailure> {
        Ok(Self {
            request_id: asked.optional_text("request_id")?,
            account_id: asked.optional_text("account_id")?,
            customer_id: asked.optional_text("customer_id")?,
            status: asked.optional_text("status")?,
            created_from_ms: asked.optional_time("created_gte")?.unwrap_or_default(),
            created_to_ms: asked.optional_time("created_lte")?.unwrap_or(u64::MAX),
        })
    }

    fn names_nothing(&self) -> bool {
        self.request_id.is_none() && self.account_id.is_none() && self.customer_id.is_none()
    }

    fn fits(&self, account: &SandboxAccount, now: u64) -> bool {
        let customer_id = account.description.get("customer_id");
        let customer_id = customer_id.and_then(Value::as_str);
        let status = account.status(now);
        self.request_id.is_none_or(|id| id == account.request_id)
            && self
                .account_id
                .is_none_or(|id| id == account.id && status == AccountStatus::Active)
            && (self.customer_id.is_none() || self.customer_id == customer_id)
            && self.status.is_none_or(|wanted| wanted == status.as_str())
            && (self.created_from_ms..=self.created_to_ms).contains(&account.created_ms)
    }
}

/// The description in a request; a missing member is `null`.
fn described(asked: &RequestParameters) -> Map<String, Value> {
    DESCRIPTION
        .iter()
        .map(|name| ((*name).to_owned(), asked.echo(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, DELAY_MS, INSTITUTION, NOW, OTHER, TestDesk};

    fn new_account(request_id: &str) -> Value {
        json!({
            "request_id": request_id, "customer_id": "c1", "display_name": "New",
            "account_holder": {"entity_country": "SG"},
        })
    }

    #[test]
    fn an_account_becomes_active_when_its_time_has_come() {
        let mut desk = TestDesk::new();
        let created = desk.get("create_account", &new_account("r1"));
        assert_eq!(created["status"], "INIT");
        assert_eq!(created["created"], NOW.to_string(), "text, in this answer");
        assert!(created.get("account_id").is_none());

        let by_request = json!({"request_id": "r1"});
        desk.now = NOW + DELAY_MS - 1;
        let found = desk.get("query_account", &by_request);
        assert_eq!(
            (&found["status"], &found["account_id"]),
            (&json!("INIT"), &Value::Null)
        );
        desk.now = NOW + DELAY_MS;
        let found = desk.get("query_account", &by_request);
        assert_eq!(
            (&found["status"], &found["created"]),
            (&json!("ACTIVE"), &json!(NOW))
        );
        let id = found["account_id"].as_str().unwrap();
        assert!(desk.ledger.accounts.is_active(id, desk.now));
        for name in ["account_id", "customer_id"] {
            let value = if name == "account_id" { id } else { "c1" };
            assert_eq!(desk.get("query_account", &json!({name: value})), found);
        }
        assert_eq!(
            desk.refusal("query_account", &json!({"account_id": "17"})),
            "400203"
        );
        assert_eq!(desk.refusal("query_account", &json!({})), "400001");
    }

    #[test]
    fn a_request_id_makes_one_account() {
        let mut desk = TestDesk::new();
        let created = desk.get("create_account", &new_account("r1"));
        desk.now += 2 * DELAY_MS;
        assert_eq!(desk.get("create_account", &new_account("r1")), created);
        let mut other = new_account("r1");
        other["display_name"] = json!("Other");
        assert_eq!(desk.refusal("create_account", &other), "400001");
        let all = desk.get("list_accounts", &json!({"request_id": "r1"}));
        assert_eq!(all["accounts"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn accounts_are_listed_by_filter_and_page() {
        let mut desk = TestDesk::new();
        for request_id in ["r1", "r2", "r3"] {
            desk.get("create_account", &new_account(request_id));
        }
        let mut list = |asked: Value| {
            let list = desk.get("list_accounts", &asked);
            let accounts = list["accounts"].as_array().unwrap().len();
            (accounts, list["has_more"].as_bool().unwrap())
        };
        assert_eq!(list(json!({})), (5, false));
        assert_eq!(list(json!({"status": "ACTIVE"})), (2, false));
        assert_eq!(list(json!({"created_gte": NOW})), (3, false));
        assert_eq!(list(json!({"created_lte": NOW - 1})), (2, false));
        assert_eq!(list(json!({"customer_id": "c1", "limit": 2})), (2, true));
        assert_eq!(
            list(json!({"customer_id": "c1", "limit": 2, "cursor": "2"})),
            (1, false)
        );
        assert_eq!(
            desk.refusal("list_accounts", &json!({"limit": 201})),
            "400001"
        );
    }

    #[test]
    fn an_account_update_changes_only_the_fields_it_names() {
        let mut desk = TestDesk::new();
        desk.now += 5;
        let updated = desk.get("update_account", &json!({"display_name": "Acme Ltd"}));
        assert_eq!(
            updated["updated"],
            (NOW + 5).to_string(),
            "text, in this answer"
        );
        let found = desk.get("query_account", &json!({"account_id": ACME}));
        assert_eq!(found["display_name"], "Acme Ltd");
        assert_eq!(
            (&found["customer_id"], &found["updated"]),
            (&json!(ACME), &json!(NOW + 5))
        );
        let institution = desk.ask(INSTITUTION, "update_account", &json!({}));
        assert_eq!(institution, Err("400203".to_owned()));
    }

    #[test]
    fn an_account_that_stays_init_holds_no_money() {
        let accounts = AccountBook::new(
            INSTITUTION.to_owned(),
            None,
            Duration::ZERO,
            vec![SubAccount::active(ACME), SubAccount::init(OTHER)],
        );
        assert!(accounts.holds_money(INSTITUTION, 0) && !accounts.is_active(INSTITUTION, 0));
        assert!(accounts.holds_money(ACME, 0) && !accounts.holds_money(OTHER, u64::MAX));
    }
}
