//! Route: finds the operation by exact (method, path) in the catalogue.

use gatepay_core::Catalogue;
use gatepay_tenancy::PartyRef;

use crate::journey::ingress::RequestTarget;
use crate::refusal::Refusal;

/// The position in the catalogue of the operation a request is for. It depends on the owner of the client id.
///
/// Tenants call merchant paths, operators institution paths. The other side's paths do not exist for them: they get
/// exactly the answer of any unknown path.
pub fn operation(
    catalogue: &Catalogue,
    target: &RequestTarget<'_>,
    who: Option<PartyRef<'_>>,
) -> Result<usize, Refusal> {
    let found = target.method.and_then(|method| match who {
        Some(PartyRef::Operator(_)) => catalogue.institution(method, target.path),
        Some(PartyRef::Tenant(_)) | None => catalogue.merchant(method, target.path),
    });
    found.ok_or_else(|| Refusal::unknown_operation(target.method_text, target.path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::operation::Method;

    #[test]
    fn an_institution_path_is_unknown_to_tenants() {
        let catalogue = Catalogue::standard();
        for row in catalogue.rows() {
            // Batch transfer has the same path on both sides.
            let Some(path) = row
                .institution_path
                .as_deref()
                .filter(|path| row.merchant_path.as_deref() != Some(path))
            else {
                continue;
            };
            for method in Method::ALL {
                let target = RequestTarget {
                    method: Some(*method),
                    method_text: method.as_str(),
                    path,
                    query: None,
                    bytes: 0,
                };
                assert_eq!(
                    operation(&catalogue, &target, None).unwrap_err().slug(),
                    "unknown_operation",
                    "{method} {path}"
                );
            }
        }
    }
}
