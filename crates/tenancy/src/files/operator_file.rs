//! An operator's table, as written.

use crate::files::party_file::{self, Terms};
use crate::files::secrets::Sources;
use crate::model::claims::Claims;
use crate::model::operator::Operator;
use crate::model::permissions::Audience;
use crate::syntax::table_reader::{Place, Reader};

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
