//! Onboarding: the two files of a new tenant, its secret and its table.
//!
//! Random bytes are arguments. Nothing that exists is ever overwritten, and after a fault nothing is left behind.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{self, Path, PathBuf};

use gatepay_core::ClientId;
use zeroize::Zeroizing;

use crate::document;
use crate::load::party_files;
use crate::party::PartyId;
use crate::tenant::SubAccount;

/// Who is to be added, and where.
#[derive(Debug, Clone, Copy)]
pub struct NewTenant<'a> {
    /// Its name, and that of its files.
    pub id: &'a PartyId,
    /// The account it acts for.
    pub sub_account: &'a SubAccount,
    /// The folder of tenant files.
    pub tenants: &'a Path,
    /// The folder of secrets; `None` means `secrets` beside the tenants' folder. It is made if there is none.
    pub secrets: Option<&'a Path>,
}

/// Where its client id and secret come from.
pub struct Random {
    /// Becomes a version 4 UUID.
    pub client_id: [u8; 16],
    /// Becomes 64 hexadecimal digits.
    pub secret: Zeroizing<[u8; 32]>,
}

/// What the tenant has to be told, and where it was written.
pub struct Added {
    /// To be told.
    pub client_id: ClientId,
    /// To be told, once, by a way that keeps it secret.
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

/// Everything for the owner, nothing for others.
const SECRET_MODE: u32 = 0o600;
/// The folder of secrets likewise.
const SECRETS_MODE: u32 = 0o700;
/// No secret is in it, but who is a customer is nobody's business.
const TENANT_MODE: u32 = 0o640;

/// Writes the secret, then the table that names it: whoever watches the folder never sees one without the other.
///
/// # Panics
/// Never: a UUID is visible ASCII.
pub fn add(tenant: &NewTenant<'_>, random: &Random) -> Result<Added, AddError> {
    refuse_known(tenant)?;
    let beside = tenant.tenants.parent().unwrap_or(Path::new(""));
    let default = beside.join("secrets");
    let secrets = tenant.secrets.unwrap_or(&default);
    let secret_file = secrets.join(format!("{}.key", tenant.id));
    let tenant_file = tenant.tenants.join(format!("{}.toml", tenant.id));

    let client_id = uuid::Builder::from_random_bytes(random.client_id).into_uuid();
    let client_id = ClientId::parse(&client_id.to_string()).expect("a UUID is visible ASCII");
    let secret = Zeroizing::new(hex::encode(*random.secret));
    let named = match tenant.secrets {
        None => Path::new("..")
            .join("secrets")
            .join(format!("{}.key", tenant.id)),
        Some(_) => path::absolute(&secret_file).map_err(at(&secret_file))?,
    };
    let table = table(tenant, &client_id, &named)?;

    make_secrets_folder(secrets).map_err(at(secrets))?;
    write_secret(&secret_file, &secret).map_err(at(&secret_file))?;
    if let Err(error) = write_tenant(tenant.tenants, &tenant_file, &table) {
        // It was made a moment ago, by us; that it cannot be removed is less news than why it has to be.
        let _unremoved = fs::remove_file(&secret_file);
        return Err(at(&tenant_file)(error));
    }
    Ok(Added {
        client_id,
        secret,
        tenant_file,
        secret_file,
    })
}

/// Looks through all tenant files, whatever their names. A file that cannot be read is left to `check`.
fn refuse_known(tenant: &NewTenant<'_>) -> Result<(), AddError> {
    if tenant.tenants.is_file() {
        return Err(AddError::NotAFolder(tenant.tenants.to_owned()));
    }
    for file in party_files(tenant.tenants).map_err(at(tenant.tenants))? {
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

fn make_secrets_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(SECRETS_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn write_secret(path: &Path, secret: &str) -> io::Result<()> {
    let mut line = Zeroizing::new(String::with_capacity(secret.len() + 1));
    line.push_str(secret);
    line.push('\n');
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(SECRET_MODE)
        .open(path)?;
    let written = file
        .write_all(line.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_folder_of(path));
    if written.is_err() {
        let _unremoved = fs::remove_file(path);
    }
    written
}

/// Under its name the file is whole or not there: a reload can come at any moment.
fn write_tenant(folder: &Path, path: &Path, table: &str) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)?;
    file.write_all(table.as_bytes())?;
    let mode = Permissions::from_mode(TENANT_MODE);
    file.as_file().set_permissions(mode)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    sync_folder_of(path)
}

/// A new name lasts once its folder is on disk.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The table as an operator would write it, with what may be said besides in comments.
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
# For rotation add a second credential with a client id and secret of its own, and let the two overlap:
# not_before = 2026-01-01T00:00:00Z
# not_after = 2027-01-01T00:00:00Z

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

    assert_not_impl_any!(Added: fmt::Debug, fmt::Display, serde::Serialize, Clone);
    assert_not_impl_any!(Random: fmt::Debug, fmt::Display, serde::Serialize, Clone);

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir(place.tenants()).unwrap();
            place
        }

        fn tenants(&self) -> PathBuf {
            self.0.path().join("tenants.d")
        }

        fn add(&self, id: &str, sub_account: &str) -> Result<Added, AddError> {
            let tenant = NewTenant {
                id: &PartyId::parse(id).unwrap(),
                sub_account: &SubAccount::parse(sub_account).unwrap(),
                tenants: &self.tenants(),
                secrets: None,
            };
            let random = Random {
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
        let place = Place::new();
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
        assert_eq!(Place::mode(&added.secret_file), 0o600);
        assert_eq!(Place::mode(added.secret_file.parent().unwrap()), 0o700);
        assert_eq!(Place::mode(&added.tenant_file), 0o640);
        let table = document::read(&added.tenant_file).ok().unwrap();
        assert_eq!(document::text(&table, "sub_account"), Some("21\"2\\4"));
    }

    #[test]
    fn a_tenant_that_exists_is_left_alone_whatever_its_file_is_called() {
        let place = Place::new();
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
        let place = Place::new();
        let secrets = place.0.path().join("secrets");
        fs::create_dir(&secrets).unwrap();
        fs::write(secrets.join("acme.key"), "old").unwrap();
        assert!(place.add("acme", "1").is_err());
        assert_eq!(fs::read_to_string(secrets.join("acme.key")).unwrap(), "old");
        assert!(!place.tenants().join("acme.toml").exists());
    }

    #[test]
    fn a_table_that_cannot_be_written_leaves_no_secret_behind() {
        let place = Place::new();
        // A dangling link: nobody's tenant, and yet the name is taken.
        std::os::unix::fs::symlink("nowhere", place.tenants().join("acme.toml")).unwrap();
        assert!(place.add("acme", "1").is_err());
        assert!(!place.0.path().join("secrets/acme.key").exists());
        assert_eq!(fs::read_dir(place.tenants()).unwrap().count(), 1);
    }
}
