//! An operator's table, as written.

use crate::files::party_file::{self, PartyBounds};
use crate::files::secrets::SecretSources;
use crate::model::claims::UniqueClaims;
use crate::model::operator::Operator;
use crate::model::permissions::CallerClass;
use crate::syntax::table_reader::{SourceLocation, TableReader};

/// Reads one operator. `None` if something it cannot be without is missing or wrong; that was reported.
pub(crate) fn read(
    mut reader: TableReader<'_>,
    terms: PartyBounds<'_>,
    sources: SecretSources<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> Option<Operator> {
    let party = party_file::read(&mut reader, CallerClass::Operators, terms, sources, claims);
    reader.finish();
    Some(Operator { party: party? })
}
