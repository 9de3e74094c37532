//! Catalogues as changed by a `proxy.toml`.

use std::fmt::Write as _;
use std::fs;

use gatepay_core::Catalogue;
use gatepay_core::operation::OperationScope;
use gatepay_tenancy::{Configuration, Problem};

use super::program::Folder;
use super::{INSTITUTION_SECRET, UNUSED, acme};

/// The configuration of the files with these `[[operation]]` tables, and this text at the end of acme's file.
pub(crate) fn configured(tables: &str, acmes: &str) -> Result<Configuration, Vec<Problem>> {
    let folder = Folder::with(UNUSED, INSTITUTION_SECRET, &[]);
    folder.tenant(&acme(), acmes);
    let proxy = fs::read_to_string(folder.path("proxy.toml")).expect("it was just written");
    folder.file("proxy.toml", &(proxy + tables));
    gatepay_tenancy::load(&folder.path("proxy.toml"), &|_| None)
}

/// The catalogue of GatePay's documentation, as changed by these `[[operation]]` tables.
pub(crate) fn changed(tables: &str) -> Catalogue {
    configured(tables, "")
        .unwrap_or_else(|problems| panic!("{problems:?}\n{tables}"))
        .catalogue
}

/// A catalogue with every operation turned on but `mcp_call`, which has no path at GatePay.
pub(crate) fn everything_on() -> Catalogue {
    changed(&tables_of_everything())
}

/// The `[[operation]]` tables that turn every operation on.
pub(crate) fn tables_of_everything() -> String {
    let standard = Catalogue::standard();
    let mut tables = String::new();
    for row in standard.rows() {
        if row.scope == OperationScope::Tenant
            && row.off().is_some()
            && row.institution_path.is_some()
        {
            let name = &row.name;
            writeln!(tables, "[[operation]]\nname = '{name}'\nenabled = true")
                .expect("text takes text");
        }
    }
    tables
}
