//! Route: finds the operation by exact (method, path) in the catalogue.

use std::sync::Arc;

use gatepay_core::{Catalogue, Operation};
use gatepay_tenancy::PartyRef;

use crate::generation::Generation;
use crate::journey::ingress::RequestTarget;
use crate::refusal::Refusal;

/// A request whose operation is known. Nothing about its caller is proved. [`operation`] alone makes one.
#[derive(Clone, Copy)]
pub struct Routed<'g> {
    generation: &'g Arc<Generation>,
    position: usize,
    query: Option<&'g str>,
    by_operator: bool,
}

impl<'g> Routed<'g> {
    /// The generation by which the request is judged.
    pub fn generation(&self) -> &'g Arc<Generation> {
        self.generation
    }

    /// The operation's position in the catalogue.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The operation.
    pub fn operation(&self) -> &'g Operation {
        &self.generation.catalogue.rows()[self.position]
    }

    /// The query behind `?`, as it was sent.
    pub fn query(&self) -> Option<&'g str> {
        self.query
    }

    /// Whether the request came by an operator's path, in the institution's form.
    pub fn is_by_operator(&self) -> bool {
        self.by_operator
    }
}

/// Finds the operation that a request is for.
pub fn operation<'g>(
    generation: &'g Arc<Generation>,
    target: &RequestTarget<'g>,
    owner: Option<PartyRef<'_>>,
) -> Result<Routed<'g>, Refusal> {
    Ok(Routed {
        position: position(&generation.catalogue, target, owner)?,
        generation,
        query: target.query,
        by_operator: matches!(owner, Some(PartyRef::Operator(_))),
    })
}

/// The position in the catalogue of the operation a request is for. It depends on the owner of the client id.
///
/// Tenants call merchant paths, operators institution paths. The other side's paths do not exist for them: they get
/// exactly the answer of any unknown path.
fn position(
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
                    position(&catalogue, &target, None).unwrap_err().slug(),
                    "unknown_operation",
                    "{method} {path}"
                );
            }
        }
    }
}
