//! Answers against the types of GatePay's official client libraries.
//!
//! The libraries for Go, Java and Python decode an answer into types of their own. Go's decoder is the strict one: a
//! number where a text is expected loses the whole answer. `client_table` says for each operation that a library has
//! which members its answer needs, and of which type.

use std::collections::BTreeSet;

use gatepay_core::Catalogue;
use gatepay_sandbox::{AnswerForms, OpeningBalance, Sandbox, examples};
use serde_json::{Map, Value};

use crate::client_table::Type::{Boolean, Decimal, Digits, Integer, Number, Object, Text, Texts};
use crate::client_table::{DOCUMENTED_OTHERWISE, Envelope, ROWS, Row, Type};
use crate::support::{ACME, call, config, example, start};

#[test]
fn every_answer_has_the_members_and_types_that_client_libraries_decode() {
    let sandbox = sandbox(AnswerForms::Clients);
    for row in ROWS {
        let answer = answer(&sandbox, row.0);
        assert_eq!(decode(row, &answer), Ok(()), "{}: {answer}", row.0);
    }
}

#[test]
fn in_the_documentations_forms_the_operations_that_are_documented_otherwise_and_no_others_fail() {
    let sandbox = sandbox(AnswerForms::Documentation);
    let failed: BTreeSet<_> = ROWS
        .iter()
        .filter(|row| decode(row, &answer(&sandbox, row.0)).is_err())
        .map(|row| row.0)
        .collect();
    assert_eq!(failed, DOCUMENTED_OTHERWISE.iter().copied().collect());
}

/// Library calls that are missing from the table would go unchecked.
#[test]
fn an_operation_of_a_module_that_libraries_have_is_in_the_table_unless_no_library_calls_it() {
    let uncalled = [
        // The libraries call this by `/v1/pay/balance`, which is `all_balances`.
        "query_balance",
        "save_fixed_address",
        "fixed_address_detail",
        "fixed_address_orders",
        "wallet_withdrawals",
    ];
    let elsewhere = [
        "/otc/",
        "/pay-subscription/",
        "/merchant/",
        "/rate/",
        "/transfer/",
    ];
    let mut missing = Vec::new();
    for row in Catalogue::standard().rows() {
        let Some(path) = row.institution_path.as_deref() else {
            continue;
        };
        let listed = ROWS.iter().any(|listed| listed.0 == row.name);
        if !listed
            && !uncalled.contains(&row.name.as_ref())
            && !elsewhere.iter().any(|part| path.contains(part))
        {
            missing.push(row.name.to_string());
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_table_refuses_what_a_strict_decoder_refuses() {
    let row: &Row = &(
        "",
        Envelope::Standard,
        &[
            (Text, &["a", "l[].t"]),
            (Integer, &["n"]),
            (Decimal, &["d"]),
        ],
    );
    let good = r#"{"status":"SUCCESS","data":{"a":"","l":[{"t":"x"}],"n":1,"d":"0.5"}}"#;
    let decoded = |text: &str| decode(row, &serde_json::from_str(text).unwrap());
    assert_eq!(decoded(good), Ok(()));
    for (from, to) in [
        ("SUCCESS", "success"),
        (r#""a":"""#, r#""a":1"#),
        (r#""a":"","#, ""),
        (r#""a":"""#, r#""a":null"#),
        (r#"[{"t":"x"}]"#, r#"{"t":"x"}"#),
        (r#"[{"t":"x"}]"#, r#"[{"t":2}]"#),
        (r#"[{"t":"x"}]"#, "[]"),
        (r#""n":1"#, r#""n":"1""#),
        (r#""n":1"#, r#""n":1.5"#),
        (r#""d":"0.5""#, r#""d":"""#),
    ] {
        assert!(good.contains(from));
        assert!(decoded(&good.replacen(from, to, 1)).is_err(), "{to}");
    }
}

fn sandbox(forms: AnswerForms) -> Sandbox {
    let mut config = config();
    config.answer_forms = forms;
    // A bill then has a line, and every balance an amount.
    config.opening_balances = vec![OpeningBalance::new(ACME, "USDT", "1000")];
    start(config)
}

/// The answer to an operation's example.
fn answer(sandbox: &Sandbox, operation: &str) -> Value {
    let catalogue = Catalogue::standard();
    let row = catalogue
        .named(operation)
        .expect("the table names operations");
    if operation == "list_channels" {
        // The list then has one channel.
        answer(sandbox, "update_channel");
    }
    let method = row.institution_method;
    let asked = examples::prepare_for(sandbox, ACME, operation, method).unwrap();
    let path = row.institution_path.as_deref().unwrap();
    let (status, _, body) = call(sandbox, &example(path, ACME, &asked));
    assert_eq!(status, 200, "{operation}");
    serde_json::from_str(&body).unwrap()
}

/// The verdict of a strict decoder of a row's types on an answer.
fn decode((_, envelope, types): &Row, answer: &Value) -> Result<(), String> {
    let data = match envelope {
        Envelope::None => answer,
        Envelope::Standard if answer["status"] != "SUCCESS" => return Err("status".to_owned()),
        Envelope::Standard => answer.get("data").ok_or("data")?,
    };
    for (expected, paths) in *types {
        for path in *paths {
            let (path, nullable) = match path.strip_suffix('*') {
                Some(path) => (path, true),
                None => (*path, false),
            };
            check(data, path, *expected, nullable).map_err(|fault| format!("{path}: {fault}"))?;
        }
    }
    Ok(())
}

fn check(value: &Value, path: &str, expected: Type, nullable: bool) -> Result<(), String> {
    if let Some(rest) = path.strip_prefix("[]") {
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        let items = value.as_array().ok_or("it is no list")?;
        // An empty list would hide missing members.
        if items.is_empty() && !rest.is_empty() {
            return Err("the list is empty".to_owned());
        }
        return items
            .iter()
            .try_for_each(|item| check(item, rest, expected, nullable));
    }
    if path.is_empty() {
        return match value {
            Value::Null if nullable => Ok(()),
            value if expected.takes(value) => Ok(()),
            value => Err(format!("{value} is no {expected:?}")),
        };
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    let rest = rest.strip_prefix('.').unwrap_or(rest);
    let members: &Map<_, _> = value.as_object().ok_or("it is no object")?;
    let member = members.get(name).ok_or("it is missing")?;
    check(member, rest, expected, nullable)
}

impl Type {
    fn takes(self, value: &Value) -> bool {
        match (self, value) {
            (Digits, Value::String(text)) => text.parse::<i64>().is_ok(),
            (Decimal, Value::String(text)) => {
                text.starts_with(|first: char| first.is_ascii_digit())
                    && text.parse::<f64>().is_ok()
            }
            (Integer, Value::Number(number)) => number.is_i64(),
            (Text, Value::String(_))
            | (Object, Value::Object(_))
            | (Boolean, Value::Bool(_))
            | (Number | Decimal, Value::Number(_)) => true,
            (Texts, Value::Object(members)) => members.values().all(Value::is_string),
            _ => false,
        }
    }
}
