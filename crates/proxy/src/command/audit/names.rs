//! Checks names on the command line against the journal and the configuration.

use std::collections::BTreeSet;

use gatepay_core::{Catalogue, Kind};
use gatepay_proxy::journal::show::SearchResult;
use gatepay_tenancy::problem::nearest;

use super::{AuditSubject, usage};
use crate::command::ExitStatus;

/// The names that the journal and the configuration hold.
pub(super) struct KnownNames<'a> {
    operations: BTreeSet<&'a str>,
    reads: BTreeSet<&'a str>,
    /// `None` if tenants without a call in the journal are unknown.
    parties: Option<BTreeSet<&'a str>>,
}

impl<'a> KnownNames<'a> {
    /// The names of the configuration and of the journal, which may be older or of another proxy.
    pub(super) fn of(
        subject: &'a AuditSubject,
        standard: &'a Catalogue,
        shown: &'a SearchResult,
    ) -> Self {
        let configuration = subject.configuration.as_ref();
        let catalogue = configuration.map_or(standard, |(catalogue, _)| catalogue);
        let rows = catalogue.rows();
        let reads = rows.iter().filter(|row| row.kind == Kind::Read);
        let others = rows.iter().filter(|row| row.kind != Kind::Read);
        let operations = others.map(|row| row.name.as_ref());
        let parties = configuration.map(|(_, registry)| {
            let parties = registry.parties().map(|who| who.party().id.as_str());
            parties
                .chain(shown.parties.iter().map(String::as_str))
                .collect()
        });
        Self {
            operations: operations
                .chain(shown.operations.iter().map(String::as_str))
                .collect(),
            reads: reads.map(|row| row.name.as_ref()).collect(),
            parties,
        }
    }

    /// Refuses unknown names and lists all of them.
    pub(super) fn check(
        &self,
        operations: &[String],
        parties: &[String],
    ) -> Result<(), ExitStatus> {
        let mut wrong = Vec::new();
        for name in operations {
            if self.operations.contains(name.as_str()) {
            } else if self.reads.contains(name.as_str()) {
                wrong.push(format!(
                    "--operation {name:?}: is a read, and the journal has no reads"
                ));
            } else {
                let lists = "`gatepay-proxy operations` lists them";
                let meant = meant(name, &self.operations, lists);
                wrong.push(format!("--operation {name:?}: is no operation; {meant}"));
            }
        }
        let known = self.parties.as_ref();
        for name in parties {
            if let Some(known) = known.filter(|known| !known.contains(name.as_str())) {
                let meant = meant(name, known, "`gatepay-proxy tenant list` lists them");
                wrong.push(format!(
                    "--tenant {name:?}: is no tenant or operator; {meant}"
                ));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(usage(wrong.join("\n")))
    }
}

fn meant(name: &str, names: &BTreeSet<&str>, otherwise: &str) -> String {
    let nearest = nearest(name, names.iter().copied());
    if nearest.is_empty() {
        return otherwise.to_owned();
    }
    format!("did you mean {}?", nearest.join(", "))
}
