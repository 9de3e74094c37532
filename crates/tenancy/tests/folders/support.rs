//! Test support: builds folders of configuration.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use gatepay_tenancy::{Configuration, Problem, load};

/// The smallest valid `proxy.toml`.
pub(crate) const PROXY: &str = "[[institution.credential]]
client_id = 'institution'
secret = { file = 'secrets/institution.key' }
";

/// A folder with a `proxy.toml`, an empty `tenants.d` and the institution's made-up secret.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    env: HashMap<String, String>,
}

pub(crate) fn folder() -> Folder {
    let folder = Folder {
        dir: tempfile::tempdir().unwrap(),
        env: HashMap::new(),
    };
    fs::create_dir(folder.path("tenants.d")).unwrap();
    folder
        .file("proxy.toml", PROXY)
        .secret("institution", "made-up-institution-secret")
}

impl Folder {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Writes `proxy.toml` with this text before the institution's credential.
    pub(crate) fn proxy(self, text: &str) -> Self {
        self.file("proxy.toml", format!("{text}\n{PROXY}"))
    }

    pub(crate) fn secret(self, name: &str, secret: &str) -> Self {
        self.secret_with_mode(name, secret, 0o600)
    }

    pub(crate) fn secret_with_mode(self, name: &str, secret: impl AsRef<[u8]>, mode: u32) -> Self {
        let name = format!("secrets/{name}.key");
        let path = self.path(&name);
        let folder = self.file(&name, secret);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        folder
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds a minimal valid tenant, with `more` at the end of its file.
    pub(crate) fn tenant(self, id: &str, more: &str) -> Self {
        let name = format!("tenants.d/{id}.toml");
        self.file(&name, tenant(id, more))
            .secret(id, &format!("made-up-{id}-secret"))
    }

    /// Adds a minimal valid operator, with `more` at the end of its file.
    pub(crate) fn operator(self, id: &str, more: &str) -> Self {
        let name = format!("operators.d/{id}.toml");
        self.file(&name, operator(id, more))
            .secret(id, &format!("made-up-{id}-secret"))
    }

    pub(crate) fn load(&self) -> Result<Configuration, Vec<Problem>> {
        load(&self.path("proxy.toml"), &self.env())
    }

    pub(crate) fn env(&self) -> impl Fn(&str) -> Option<String> {
        |name| self.env.get(name).cloned()
    }

    #[track_caller]
    pub(crate) fn loads(&self) -> Configuration {
        self.load().map_err(|problems| lines(&problems)).unwrap()
    }

    /// The problems of the folder, as an operator reads them.
    pub(crate) fn problems(&self) -> Vec<String> {
        lines(&self.load().err().unwrap_or_default())
    }
}

pub(crate) fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

pub(crate) fn tenant(id: &str, more: &str) -> String {
    format!(
        "id = '{id}'
sub_account = 'account-{id}'
credential = [{{ client_id = 'client-{id}', secret = {{ file = '../secrets/{id}.key' }} }}]
{more}
"
    )
}

pub(crate) fn operator(id: &str, more: &str) -> String {
    tenant(id, more).replace(&format!("sub_account = 'account-{id}'\n"), "")
}

/// The example files in `config/` of the workspace.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}
