//! Money caps: no call goes to GatePay beyond a cap, and what is proven not to be spent comes free.

mod accounts;
mod approvals;
mod campaign;
mod destinations;
mod keeping;
mod raising;
mod refusing;
mod settling;
mod showing;

use std::fs;

use bytes::Bytes;
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::{ApiFailure, InjectedFault};
use http::Request;
use http_body_util::Full;
use serde_json::json;

use crate::support::postgres::{self, PgServer};
use crate::support::program::{Folder, Program, printed, run};
use crate::support::*;

const PAYOUT: &str = "/v1/pay/withdraw";

/// The emulator, in which acme has money.
fn gatepay() -> GatePay {
    let gatepay = GatePay::now();
    for shop in [acme(), globex()] {
        for currency in ["USDT", "ETH"] {
            gatepay
                .sandbox
                .fund(shop.sub_account, currency, "100000")
                .unwrap();
        }
    }
    gatepay
}

/// A folder with its store in a file, and caps of acme.
fn folder_of_file(gatepay: &GatePay, caps: &str) -> Folder {
    let folder = Folder::before(&gatepay.url());
    folder.proxy(
        "timestamp = { future_ms = 300 }\n\
         store = { path = 'store/gatepay.db', max_skew_ms = 200 }",
    );
    fs::create_dir(folder.path("store")).unwrap();
    let config = folder.name("proxy.toml");
    let (said, code) = printed(&run(&["store", "migrate", "--config", &config]));
    assert_eq!(code, Some(0), "{said}");
    folder.tenant(&acme(), caps);
    folder
}

/// A program with its store in a file, and caps of acme.
async fn serving(gatepay: &GatePay, caps: &str) -> (Folder, Program) {
    let folder = folder_of_file(gatepay, caps);
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    (folder, program)
}

/// Folders of two instances that share a store, with this file of acme.
fn folders_of_two(gatepay: &GatePay, server: &PgServer, tenant: &str) -> [Folder; 2] {
    [0, 1].map(|_| {
        let folder = Folder::before(&gatepay.url());
        folder.uses_a_store(&[server.port], ", timeout_ms = 10_000");
        folder.tenant(&acme(), tenant);
        folder
    })
}

/// Caps of payouts in USDT.
fn caps(limits: &str) -> String {
    format!("[[cap]]\ncalls = ['payouts']\ncurrency = 'USDT'\n{limits}\n")
}

fn payout_of(number: &str, amount: &str, currency: &str) -> String {
    json!({ "batch_id": number, "withdraw_list": [
        { "merchant_withdraw_id": format!("w{number}"), "amount": amount, "currency": currency, "chain": "ETH", "address": "0xabc" } ] })
    .to_string()
}

fn payout(number: &str, amount: &str) -> Request<Full<Bytes>> {
    signed(&acme().post(PAYOUT, payout_of(number, amount, "USDT")))
}

fn signed(call: &Call) -> Request<Full<Bytes>> {
    call.request(&Clock::system())
}

async fn send(program: &Program, request: &Request<Full<Bytes>>) -> Answer {
    send_to_instance(program.address, request).await
}

/// Sends a payout of a new number until it is answered with this refusal, or with none.
async fn until_answered(program: &Program, amount: &str, refusal: Option<&str>) -> Answer {
    let began = std::time::Instant::now();
    for number in 0.. {
        let answer = send(program, &payout(&format!("u{number}"), amount)).await;
        if answer.refusal() == refusal {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{}", answer.text());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    unreachable!()
}

fn is_refused(answer: &Answer, slug: &str) {
    assert_eq!(answer.refusal(), Some(slug), "{}", answer.text());
}

fn is_refused_saying(answer: &Answer, slug: &str, text: &str) {
    is_refused(answer, slug);
    assert!(answer.message().contains(text), "{}", answer.message());
}
