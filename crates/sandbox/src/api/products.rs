//! Products that plans are priced by. No page shows a product's fields: the sandbox stores the parameters as sent.

use serde_json::{Value, json};

use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::page::ListPage;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// All products, oldest first.
#[derive(Default)]
pub(crate) struct ProductBook(Vec<SandboxProduct>);

struct SandboxProduct {
    account: String,
    /// The product in the form of answers.
    description: Value,
}

/// `POST …/product/create`.
pub(crate) fn create(
    products: &mut ProductBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    asked.text("productName")?;
    let ProductBook(products) = products;
    let number = products.len() + 1;
    let mut description = Value::Object(asked.members().clone());
    description["productNo"] = json!(format!("PD{number:09}"));
    description["priceNo"] = json!(format!("PR{number:09}"));
    description["createTime"] = json!(call.now);
    products.push(SandboxProduct {
        account: call.account.to_owned(),
        description: description.clone(),
    });
    Ok(description)
}

/// `GET …/product/pageQuery`, newest first.
pub(crate) fn list(
    products: &ProductBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let page = ListPage::asked(asked, "page", "pageSize")?;
    let mut products: Vec<_> = products.of(call.account).collect();
    products.reverse();
    Ok(json!({"total": products.len(), "list": page.of(&products)}))
}

/// `GET …/product/queryOne`.
pub(crate) fn query(
    products: &ProductBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let number = asked.text("productNo")?;
    let mut products = products.of(call.account);
    products
        .find(|product| product["productNo"] == number)
        .cloned()
        .ok_or(ApiFailure::NotFound("productNo"))
}

impl ProductBook {
    fn of(&self, account: &str) -> impl Iterator<Item = &Value> {
        self.0
            .iter()
            .filter(move |product| product.account == account)
            .map(|product| &product.description)
    }
}
