use crate::support::program::{Folder, Program};
use crate::support::*;
use gatepay_core::envelope::{self, AnswerVerdict};
use gatepay_core::operation::AccountHeader;
use gatepay_core::{Catalogue, header};
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::examples;
use std::time::Duration;

const ACCOUNTS: &str = "/merchant/open/institution/v1/accounts";
const FEES: &str = "/rate/commission_rule/list";
pub(crate) const TRANSFER: &str = "/transfer/open/institution/v1/pay/transfer";
const MERCHANT_ID: &str = "merchant-fake";
const AN_ACCOUNT: &str = r#"{"request_id":"S-0001","customer_id":"C-0001","display_name":"Initech","account_holder":{"entity_country":"SG","entity_type":"BUSINESS","entity_name":"Initech"}}"#;

/// A proxy with a back office, an account and a merchant id of the institution's own.
pub(crate) fn before(gatepay: &GatePay, office: Shop) -> Proxy {
    Proxy::before(gatepay)
        .catalogue(everything_on())
        .operator(office)
        .with(|settings| {
            let institution = whole(&mut settings.institution);
            institution.account_id = Some(INSTITUTION_ACCOUNT.to_owned());
            institution.merchant_id = Some(MERCHANT_ID.to_owned());
        })
        .start()
}

/// The back office asks for an order of this account's.
pub(crate) fn query_for(account: &str) -> Call {
    let path = format!("{PREFIX}{QUERY}");
    office()
        .post(&path, BY_NUMBER)
        .header(header::ON_BEHALF_OF, account)
}

pub(crate) fn list_fees() -> Call {
    office().post(FEES, "{}")
}

#[tokio::test]
async fn the_back_office_needs_no_institution_secret_for_any_operation() {
    let standard = Catalogue::standard();
    let gatepay = GatePay::start();
    let proxy = before(&gatepay, office());
    let mut called = 0;
    for row in standard.rows() {
        let Some(path) = row.institution_path.as_deref() else {
            continue;
        };
        let account = acme().sub_account;
        let method = row.institution_method;
        let sent = examples::prepare_for(&gatepay.sandbox, account, &row.name, method).unwrap();
        let call = office().calls(path, &sent);
        let (call, acts_for, merchant) = match row.account {
            AccountHeader::OnBehalfOf => (
                call.header(header::ON_BEHALF_OF, account),
                Some(account),
                None,
            ),
            AccountHeader::MerchantId => (call, None, Some(MERCHANT_ID)),
            AccountHeader::None => (call, None, None),
        };
        let answer = proxy.send(call).await;
        let what = format!("{}: {}", row.name, answer.text());
        assert_eq!(answer.refusal(), None, "{what}");
        called += 1;
        assert_eq!(gatepay.count(), called, "{what}");
        let received = gatepay.last();
        assert!(received.verified && received.executed, "{what}");
        assert_eq!(received.operation.as_deref(), Some(&*row.name), "{what}");
        assert_eq!(received.method, method.as_str(), "{what}");
        assert_eq!(
            received.target,
            target(path, sent.query.as_deref()),
            "{what}"
        );
        assert_eq!(received.body, sent.body, "{what}");
        assert_eq!(received.header(header::ON_BEHALF_OF), acts_for, "{what}");
        assert_eq!(received.header(header::MERCHANT_ID), merchant, "{what}");
        assert_eq!(
            received.header(header::CLIENT_ID),
            Some(INSTITUTION_ID),
            "{what}"
        );
        assert_eq!(answer.body, received.answer_body, "{what}");
        let verdict = envelope::judge(row.kind, answer.status, &answer.body).verdict;
        assert_eq!(verdict, AnswerVerdict::Success, "{what}");
    }
    assert_eq!(called, 82, "all but mcp_call");
}

#[tokio::test]
async fn a_sub_account_is_created_becomes_active_and_trades_after_a_restart() {
    let gatepay = GatePay::with(|config| config.account_delay = Duration::from_mins(1));
    let proxy = before(&gatepay, office());
    let account = async || {
        let path = format!("{ACCOUNTS}/query?request_id=S-0001");
        proxy.send(office().get(&path)).await.json()["data"].clone()
    };
    let create = office().post(&format!("{ACCOUNTS}/create"), AN_ACCOUNT);
    assert_eq!(proxy.send(create).await.json()["data"]["status"], "INIT");
    assert_eq!(account().await["status"], "INIT");
    proxy.clock.advance(Duration::from_mins(1));
    let active = account().await;
    assert_eq!(active["status"], "ACTIVE");
    let id = active["account_id"].as_str().unwrap().to_owned();
    proxy.stop().await;

    let initech = Shop::new(
        "initech",
        "client-initech",
        "fake-initech-secret-04",
        id.leak(),
    );
    let proxy = Proxy::before(&gatepay)
        .tenant(acme())
        .tenant(initech.clone())
        .operator(office())
        .start();
    let created = proxy.send(initech.post(CREATE, order("A-0001"))).await;
    assert_eq!(created.status, 200, "{}", created.text());
    assert_eq!(
        gatepay.last().header(header::ON_BEHALF_OF),
        Some(initech.sub_account)
    );
    let asked = query_for(initech.sub_account);
    assert_eq!(
        proxy.send(asked).await.code(),
        "000000",
        "the office sees it too"
    );
    let foreign = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
    assert_ne!(foreign.code(), "000000", "no other shop does");
}

#[tokio::test]
async fn the_files_of_an_operator_and_of_the_tenant_it_made_are_enough() {
    let gatepay = GatePay::now();
    let clock = Clock::system();
    let folder = Folder::before(&gatepay.url());
    folder.operator(&office(), "");
    let program = Program::serve(&folder).await;
    let send = async |program: &Program, call: Call| {
        let mut connection = Connection::open(program.address).await;
        connection.send(call.request(&clock)).await.json()["data"].clone()
    };
    let create = office().post(&format!("{ACCOUNTS}/create"), AN_ACCOUNT);
    assert_eq!(send(&program, create).await["status"], "INIT");
    let ask = office().get(&format!("{ACCOUNTS}/query?request_id=S-0001"));
    let account = send(&program, ask).await;
    assert_eq!(account["status"], "ACTIVE");
    program.terminate();
    assert_eq!(program.end().await.0, Some(0));

    let id = account["account_id"].as_str().unwrap().to_owned();
    let initech = Shop::new(
        "initech",
        "client-initech",
        "fake-initech-secret-04",
        id.leak(),
    );
    folder.tenant(&initech, "");
    let program = Program::serve(&folder).await;
    let placed = send(&program, initech.post(CREATE, order("A-0001"))).await;
    assert!(placed["prepayId"].is_string(), "{placed}");
    let received = gatepay.last();
    assert_eq!(
        received.header(header::ON_BEHALF_OF),
        Some(initech.sub_account)
    );
}

#[tokio::test]
async fn an_operator_acts_for_known_accounts_and_for_no_other() {
    let gatepay = GatePay::start();
    let proxy = before(&gatepay, office());
    let by = |operation: &str, path: &str, account: &str| {
        let example = examples::prepare(&gatepay.sandbox, account, operation).unwrap();
        office().calls(path, &example)
    };
    let charge = "/transfer/open/institution/v1/pay/charge";
    let own = acme().sub_account;
    for (operation, path) in [("create_transfer", TRANSFER), ("create_charge", charge)] {
        for account in [own, globex().sub_account, INSTITUTION_ACCOUNT] {
            let call = by(operation, path, account).header(header::ON_BEHALF_OF, account);
            let answer = proxy.send(call).await;
            assert_eq!(
                answer.code(),
                "000000",
                "{operation} {account}: {}",
                answer.text()
            );
            assert_eq!(gatepay.last().header(header::ON_BEHALF_OF), Some(account));
        }
        let count = gatepay.count();
        let call = || by(operation, path, own);
        for call in [
            call(),
            call().header(header::ON_BEHALF_OF, "9000000001"),
            call().header(header::ON_BEHALF_OF, ""),
            call().header(header::ON_BEHALF_OF, MERCHANT_ID),
            call()
                .header(header::ON_BEHALF_OF, own)
                .header(header::ON_BEHALF_OF, own),
        ] {
            let answer = proxy.send(call).await;
            assert_eq!(
                answer.refused(),
                (403, "on_behalf_of_mismatch"),
                "{}",
                answer.text()
            );
        }
        assert_eq!(gatepay.count(), count);
    }
    for call in [list_fees(), office().get(&format!("{ACCOUNTS}/list"))] {
        let count = gatepay.count();
        let named = call.clone().header(header::ON_BEHALF_OF, own);
        assert_eq!(
            proxy.send(named).await.refused(),
            (403, "on_behalf_of_mismatch")
        );
        assert_eq!(gatepay.count(), count);
        assert_eq!(proxy.send(call).await.status, 200);
    }
}

#[tokio::test]
async fn fee_settings_carry_the_merchant_id_of_the_configuration() {
    let gatepay = GatePay::with(|config| config.merchant_id = Some(MERCHANT_ID.to_owned()));
    let proxy = before(&gatepay, office());
    let answer = proxy
        .send(list_fees().header(header::MERCHANT_ID, "666"))
        .await;
    assert_eq!(answer.code(), "000000", "{}", answer.text());
    assert_eq!(
        gatepay.last().header(header::MERCHANT_ID),
        Some(MERCHANT_ID)
    );

    let without = Proxy::before(&gatepay).operator(office()).start();
    let answer = without.send(list_fees()).await;
    assert_eq!(answer.refused(), (403, "operation_not_allowed"));
    assert!(
        answer.message().contains("institution.merchant_id"),
        "{}",
        answer.message()
    );
    assert_eq!(gatepay.count(), 1);
}
