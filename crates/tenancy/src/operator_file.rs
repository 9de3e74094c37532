//! An operator's table, as written.

use crate::claims::Claims;
use crate::operator::Operator;
use crate::party_file::{self, Terms};
use crate::permissions::Audience;
use crate::reader::{Place, Reader};
use crate::secrets::Sources;

/// Reads one operator. `None` if something it cannot be without is missing or wrong; that was reported.
pub(crate) fn read(
    mut reader: Reader<'_>,
    terms: Terms<'_>,
    sources: Sources<'_>,
    claims: &mut Claims<Place>,
) -> Option<Operator> {
    let party = party_file::read(&mut reader, Audience::Operators, terms, sources, claims);
    reader.finish();
    Some(Operator { party: party? })
}
