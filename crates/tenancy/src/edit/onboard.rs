//! Onboarding: the two files of a new tenant, its secret and its table.
//!
//! Random bytes are arguments. Nothing that exists is ever overwritten, and after a fault nothing is left behind.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};

use gatepay_core::ClientId;
use zeroize::Zeroizing;

use crate::disk::durable_write;
use crate::disk::party_files::party_files;
use crate::edit::bulk::pending::Leftovers;
use crate::edit::files::{self, ConfigFiles, EditError, LockedFolder};
use crate::edit::new_credential::{RandomBytes, draw};
use crate::model::party::PartyId;
use crate::model::tenant::SubAccount;
use crate::syntax::document;

/// The tenant to add, and its place.
#[derive(Clone, Copy)]
pub struct NewTenant<'a> {
    /// Its name, and that of its files.
    pub id: &'a PartyId,
    /// The account it acts for.
    pub sub_account: &'a SubAccount,
    /// Where it goes.
    pub place: TenantDestination<'a>,
    /// The folder of secrets; `None` means `secrets` beside the tenants' folder. It is made if there is none.
    pub secrets: Option<&'a Path>,
}

/// Where a tenant is added.
#[derive(Clone, Copy)]
pub enum TenantDestination<'a> {
    /// To a configuration, which has to be whole with it.
    Configuration(ConfigFiles<'a>),
    /// To a folder of tenant files that stands for itself.
    Folder(&'a Path),
}

/// The new credential, for the tenant, and the files it was written to.
pub struct AddedTenant {
    /// The client id, which the tenant is told.
    pub client_id: ClientId,
    /// The secret, which the tenant is told once, by a way that keeps it secret.
    pub secret: Zeroizing<String>,
    /// The tenant's table.
    pub tenant_file: PathBuf,
    /// The tenant's secret.
    pub secret_file: PathBuf,
}

/// Why no tenant was added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Another file has a tenant of this name.
    #[error("tenant {id} exists already, in {}", file.display())]
    Id {
        /// The name.
        id: PartyId,
        /// The file.
        file: PathBuf,
    },
    /// Another tenant acts for this account, and loading would refuse the two.
    #[error("sub-account {sub_account} is already used in {}", file.display())]
    SubAccount {
        /// The account.
        sub_account: SubAccount,
        /// The file.
        file: PathBuf,
    },
    /// The tenants are in one file, which only its owner can extend.
    #[error("{} is no folder; add the tenant to it by hand", _0.display())]
    NotAFolder(PathBuf),
    /// The edit is refused: above all, the configuration would have a problem.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// A path that a TOML file cannot name.
    #[error("{} is not UTF-8", _0.display())]
    NotUtf8(PathBuf),
    /// A file or folder could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// Writes the secret, then the table that names it: a watcher of the folder never sees the table without the secret.
///
/// # Panics
/// Never: a UUID is visible ASCII.
pub fn add(tenant: &NewTenant<'_>, random: &RandomBytes) -> Result<AddedTenant, AddError> {
    match tenant.place {
        TenantDestination::Folder(tenants) => add_to(tenants, tenant, random, |_, _| Ok(())),
        TenantDestination::Configuration(files) => {
            let folder = LockedFolder::of(&files)?;
            let beside = folder.tenants.parent().unwrap_or(Path::new(""));
            let secrets = tenant
                .secrets
                .map_or_else(|| beside.join("secrets"), Path::to_owned);
            if !folder.is_one_file() {
                let left = Leftovers::find(&secrets, &folder.tenants);
                let removed = left.and_then(|left| left.remove(&folder.tenants));
                removed.map_err(at(&secrets))?;
            }
            add_to(&folder.tenants, tenant, random, |file, table| {
                files::load_edited(&files, file, Some(table))?;
                Ok(())
            })
        }
    }
}

fn add_to(
    tenants: &Path,
    tenant: &NewTenant<'_>,
    random: &RandomBytes,
    judge: impl FnOnce(&Path, &str) -> Result<(), AddError>,
) -> Result<AddedTenant, AddError> {
    refuse_known(tenants, tenant)?;
    let beside = tenants.parent().unwrap_or(Path::new(""));
    let default = beside.join("secrets");
    let secrets = tenant.secrets.unwrap_or(&default);
    let secret_file = secrets.join(format!("{}.key", tenant.id));
    let tenant_file = tenants.join(format!("{}.toml", tenant.id));

    let (client_id, secret) = draw(random);
    let named = match tenant.secrets {
        None => Path::new("..")
            .join("secrets")
            .join(format!("{}.key", tenant.id)),
        Some(_) => path::absolute(&secret_file).map_err(at(&secret_file))?,
    };
    let table = table(tenant, &client_id, &named)?;

    durable_write::make_secrets_folder(secrets).map_err(at(secrets))?;
    durable_write::write_secret(&secret_file, &secret, None).map_err(at(&secret_file))?;
    let written = judge(&tenant_file, &table)
        .and_then(|()| durable_write::write_tenant(&tenant_file, &table).map_err(at(&tenant_file)));
    if let Err(error) = written {
        // It was made a moment ago, by us; that it cannot be removed is less news than why it has to be.
        let _unremoved = fs::remove_file(&secret_file);
        return Err(error);
    }
    Ok(AddedTenant {
        client_id,
        secret,
        tenant_file,
        secret_file,
    })
}

/// Looks through all tenant files, with any name. A file that cannot be read is left to `check`.
fn refuse_known(tenants: &Path, tenant: &NewTenant<'_>) -> Result<(), AddError> {
    if tenants.is_file() {
        return Err(AddError::NotAFolder(tenants.to_owned()));
    }
    for file in party_files(tenants).map_err(at(tenants))? {
        let Ok(root) = document::read(&file) else {
            continue;
        };
        for table in document::tenants(&root) {
            if document::text(table, "id") == Some(tenant.id.as_str()) {
                let id = tenant.id.clone();
                return Err(AddError::Id { id, file });
            }
            if document::text(table, "sub_account") == Some(tenant.sub_account.as_str()) {
                let sub_account = tenant.sub_account.clone();
                return Err(AddError::SubAccount { sub_account, file });
            }
        }
    }
    Ok(())
}

/// The table as an operator would write it, with the optional keys in comments.
fn table(
    tenant: &NewTenant<'_>,
    client_id: &ClientId,
    secret_file: &Path,
) -> Result<String, AddError> {
    let file = secret_file.to_str();
    let file = file.ok_or_else(|| AddError::NotUtf8(secret_file.to_owned()))?;
    Ok(format!(
        r#"id = {id}
sub_account = {sub_account}    # as GatePay gave it
standing = "active"             # active | read_only | suspended

[[credential]]
client_id = {client_id}
secret = {{ file = {file} }}

# `gatepay-proxy tenant rotate {id_plain}` adds a second one, and dates this.

# What follows are the defaults.
# [limits]
# requests_per_second = 50
# burst = 100
# in_flight = 20
# [operations]                  # modules, kinds (read, write, money) or names of operations
# allow = ["payment", "balance"]
# deny = ["money"]
"#,
        id = quoted(tenant.id.as_str()),
        id_plain = tenant.id,
        sub_account = quoted(tenant.sub_account.as_str()),
        client_id = quoted(client_id.as_str()),
        file = quoted(file),
    ))
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _infallible = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> AddError {
    move |error| AddError::Io {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_not_impl_any;
    use std::fmt;
    use std::os::unix::fs::PermissionsExt as _;

    assert_not_impl_any!(AddedTenant: fmt::Debug, fmt::Display, serde::Serialize, Clone);

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir(place.tenants()).unwrap();
            place
        }

        fn tenants(&self) -> PathBuf {
            self.0.path().join("tenants.d")
        }

        fn add(&self, id: &str, sub_account: &str) -> Result<AddedTenant, AddError> {
            let tenant = NewTenant {
                id: &PartyId::parse(id).unwrap(),
                sub_account: &SubAccount::parse(sub_account).unwrap(),
                place: TenantDestination::Folder(&self.tenants()),
                secrets: None,
            };
            let random = RandomBytes {
                client_id: [0xab; 16],
                secret: Zeroizing::new([0xcd; 32]),
            };
            add(&tenant, &random)
        }

        fn mode(path: &Path) -> u32 {
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        }
    }

    #[test]
    fn a_new_tenant_has_a_table_and_a_secret_of_its_own() {
        let place = Home::new();
        let added = place.add("acme", "21\"2\\4").unwrap();
        assert_eq!(
            added.client_id.as_str(),
            "abababab-abab-4bab-abab-abababababab"
        );
        assert_eq!(*added.secret, "cd".repeat(32));
        assert_eq!(
            fs::read_to_string(&added.secret_file).unwrap(),
            format!("{}\n", "cd".repeat(32))
        );
        assert_eq!(Home::mode(&added.secret_file), 0o600);
        assert_eq!(Home::mode(added.secret_file.parent().unwrap()), 0o700);
        assert_eq!(Home::mode(&added.tenant_file), 0o640);
        let table = document::read(&added.tenant_file).ok().unwrap();
        assert_eq!(document::text(&table, "sub_account"), Some("21\"2\\4"));
    }

    #[test]
    fn a_tenant_that_exists_in_a_file_of_any_name_is_not_added_again() {
        let place = Home::new();
        let other = place.tenants().join("others.json");
        fs::write(
            &other,
            r#"{"tenant": [{"id": "acme", "sub_account": "1"}]}"#,
        )
        .unwrap();
        let error = place.add("acme", "2").err().unwrap();
        assert!(matches!(error, AddError::Id { file, .. } if file == other));
        let error = place.add("globex", "1").err().unwrap();
        assert!(matches!(error, AddError::SubAccount { file, .. } if file == other));
        assert!(!place.0.path().join("secrets").exists());
    }

    #[test]
    fn a_secret_that_exists_is_never_overwritten() {
        let place = Home::new();
        let secrets = place.0.path().join("secrets");
        fs::create_dir(&secrets).unwrap();
        fs::write(secrets.join("acme.key"), "old").unwrap();
        assert!(place.add("acme", "1").is_err());
        assert_eq!(fs::read_to_string(secrets.join("acme.key")).unwrap(), "old");
        assert!(!place.tenants().join("acme.toml").exists());
    }

    #[test]
    fn a_table_that_cannot_be_written_leaves_no_secret_behind() {
        let place = Home::new();
        // A dangling link: it is no tenant's folder, and yet the name is taken.
        std::os::unix::fs::symlink("nowhere", place.tenants().join("acme.toml")).unwrap();
        assert!(place.add("acme", "1").is_err());
        assert!(!place.0.path().join("secrets/acme.key").exists());
        assert_eq!(fs::read_dir(place.tenants()).unwrap().count(), 1);
    }
}
