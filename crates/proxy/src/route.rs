//! Route: exact (method, path) in the catalogue, or nothing.

use gatepay_core::Catalogue;

use crate::ingress::Head;
use crate::refusal::Refusal;

/// The place in the catalogue of the operation a tenant's request is for.
///
/// Institution paths do not exist for tenants: they get exactly the answer of any unknown path.
pub fn operation(catalogue: &Catalogue, head: &Head<'_>) -> Result<usize, Refusal> {
    head.method
        .and_then(|method| catalogue.merchant(method, head.path))
        .ok_or(Refusal::UnknownOperation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::operation::Method;

    #[test]
    fn an_institution_path_is_unknown_to_tenants() {
        let catalogue = Catalogue::standard();
        for row in catalogue.rows() {
            // Batch transfer keeps its path: there the two sides are one.
            let Some(path) = row
                .institution_path
                .as_deref()
                .filter(|path| row.merchant_path.as_deref() != Some(path))
            else {
                continue;
            };
            for method in Method::ALL {
                let head = Head {
                    method: Some(*method),
                    path,
                    query: None,
                };
                assert_eq!(
                    operation(&catalogue, &head).unwrap_err().slug(),
                    "unknown_operation",
                    "{method} {path}"
                );
            }
        }
    }
}
