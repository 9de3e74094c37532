//! Bank accounts for OTC orders. A bank account is created by a form with files, and is approved at once.

use serde_json::{Value, json};

use crate::rules::call::{LedgerCall, Outcome};
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The id of the first bank account.
const FIRST_ID: usize = 93_000_001;

/// The status of a usable bank account.
const APPROVED: u8 = 1;

/// All bank accounts, oldest first.
#[derive(Default)]
pub(crate) struct BankBook(Vec<BankAccount>);

struct BankAccount {
    account: String,
    id: String,
    /// The bank account in the form of a list.
    description: Value,
}

/// `POST …/bank/create`.
pub(crate) fn create(
    banks: &mut BankBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    for required in ["bankAccountName", "bankName", "countryId", "iban", "swift"] {
        asked.text(required)?;
    }
    let BankBook(banks) = banks;
    let id = (FIRST_ID + banks.len()).to_string();
    banks.push(BankAccount {
        account: call.account.to_owned(),
        id: id.clone(),
        description: json!({
            "bankAccountId": id,
            "bankAccountName": asked.echo("bankAccountName"),
            "bankName": asked.echo("bankName"),
            "countryId": asked.echo("countryId"),
            "address": asked.echo("address"),
            "iban": asked.echo("iban"),
            "swift": asked.echo("swift"),
            "status": APPROVED,
        }),
    });
    Ok(json!({"bankAccountId": id, "needSupplementMaterial": false}))
}

/// `GET …/bank/list`. The filters match parts of a name or number.
pub(crate) fn list(banks: &BankBook, call: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let mut wanted = Vec::new();
    for name in ["bankAccountName", "iban"] {
        wanted.extend(asked.optional_text(name)?.map(|part| (name, part)));
    }
    let BankBook(banks) = banks;
    let found = banks
        .iter()
        .filter(|bank| bank.account == call.account)
        .map(|bank| &bank.description)
        .filter(|bank| {
            wanted.iter().all(|(name, part)| {
                let value = bank[name].as_str();
                value.is_some_and(|value| value.contains(part))
            })
        });
    Ok(json!(found.collect::<Vec<_>>()))
}

/// `POST …/bank/material/supplement`. The sandbox does not read the material.
pub(crate) fn supplement(
    banks: &BankBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let id = asked.text("bankAccountId")?;
    if !banks.has(call.account, id) {
        return Err(ApiFailure::NotFound("bankAccountId"));
    }
    Ok(json!({"bankAccountId": id, "needSupplementMaterial": false}))
}

impl BankBook {
    /// Whether the bank account `id` belongs to `account`.
    pub(crate) fn has(&self, account: &str, id: &str) -> bool {
        self.0
            .iter()
            .any(|bank| bank.account == account && bank.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{OTHER, TestDesk};

    #[test]
    fn a_bank_account_is_approved_and_found_by_a_part_of_its_name_or_number() {
        let mut desk = TestDesk::new();
        let mut bank = json!({
            "bankAccountName": "Acme Ltd", "bankName": "B", "countryId": "SG", "iban": "DE0212",
            "swift": "S",
        });
        let id = desk.get("create_otc_bank", &bank)["bankAccountId"].take();
        for (asked, found) in [
            (json!({}), 1),
            (json!({"iban": "021"}), 1),
            (json!({"bankAccountName": "Acme", "iban": "FR"}), 0),
        ] {
            let list = desk.get("list_otc_banks", &asked);
            assert_eq!(list.as_array().unwrap().len(), found);
        }
        let material = json!({"bankAccountId": id});
        desk.get("supplement_otc_bank", &material);
        let strange = desk.ask(OTHER, "supplement_otc_bank", &material);
        assert_eq!(strange, Err("400202".to_owned()));
        bank["swift"] = json!("");
        assert_eq!(desk.refusal("create_otc_bank", &bank), "400001");
    }
}
