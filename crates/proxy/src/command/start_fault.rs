//! A fault that keeps the process from starting, at its place in the configuration: file, line, key, folder, remedy.

use std::io;
use std::path::{Path, PathBuf};

use gatepay_proxy::start_error::StartError;
use gatepay_tenancy::Problem;
use gatepay_tenancy::load::line_of;
use gatepay_tenancy::settings::Settings;

/// The places that faults are told with.
pub(super) struct StartPlaces {
    proxy_toml: PathBuf,
    state_dir: Option<PathBuf>,
    audit_dir: Option<PathBuf>,
}

impl StartPlaces {
    pub(super) fn of(proxy_toml: &Path, settings: &Settings) -> Self {
        Self {
            proxy_toml: proxy_toml.to_owned(),
            state_dir: settings.state_dir.clone(),
            audit_dir: settings.audit.as_ref().map(|audit| audit.dir.clone()),
        }
    }

    /// `proxy.toml:7: audit.dir: /srv/audit: permission denied; …`. A fault without a key is told as it is.
    pub(super) fn tell(&self, fault: &StartError) -> String {
        match fault {
            StartError::Store(_) | StartError::Listen(..) | StartError::Thread(_) => {
                fault.to_string()
            }
            _ => self.problem(fault).to_string(),
        }
    }

    /// The fault as a problem of the configuration.
    pub(super) fn problem(&self, fault: &StartError) -> Problem {
        let (key, text) = match fault {
            StartError::State(error) => ("state_dir", in_folder(self.state_dir.as_deref(), error)),
            StartError::Journal(error) => {
                ("audit.dir", in_folder(self.audit_dir.as_deref(), error))
            }
            StartError::Tls(text) => ("listen.tls", text.clone()),
            StartError::Notifications(text) => ("notifications.tls", text.clone()),
            StartError::Upstream(text) => ("upstream", text.clone()),
            StartError::Store(text) => ("store", text.clone()),
            StartError::Listen(..) => ("listen.address", fault.to_string()),
            StartError::Thread(_) => ("", fault.to_string()),
        };
        let file = self.proxy_toml.file_name().map(PathBuf::from);
        Problem {
            file: file.unwrap_or_default(),
            line: line_of(&self.proxy_toml, key),
            key: key.to_owned(),
            text,
        }
    }
}

/// An error about a folder, with the folder's path and, for errors of the kernel, a remedy.
fn in_folder(folder: Option<&Path>, error: &io::Error) -> String {
    let folder = folder.map(|folder| folder.display().to_string());
    let folder = folder.unwrap_or_default();
    let text = error.to_string();
    if text.contains(&folder) {
        return text;
    }
    let from_kernel = error.raw_os_error().is_some();
    let text = match error.kind() {
        io::ErrorKind::PermissionDenied if from_kernel => {
            "permission denied; create it for the user of the process, or choose a folder below StateDirectory= of the unit"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "is read-only for this process; under systemd, name it in ReadWritePaths= of the unit"
        }
        io::ErrorKind::NotFound if from_kernel => "its parent folder does not exist; create it",
        io::ErrorKind::StorageFull => "no space is left on its disk",
        _ => &text,
    };
    format!("{folder}: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(toml: &str) -> (tempfile::TempDir, StartPlaces) {
        let folder = tempfile::tempdir().unwrap();
        let proxy_toml = folder.path().join("proxy.toml");
        std::fs::write(&proxy_toml, toml).unwrap();
        let places = StartPlaces {
            proxy_toml,
            state_dir: Some("/srv/state".into()),
            audit_dir: Some("/srv/audit".into()),
        };
        (folder, places)
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_told_with_line_key_folder_and_remedy() {
        let (_folder, places) = places("state_dir = '/srv/state'\n[audit]\ndir = '/srv/audit'\n");
        let read_only = io::Error::from_raw_os_error(rustix::io::Errno::ROFS.raw_os_error());
        assert_eq!(
            places.tell(&StartError::Journal(read_only)),
            "proxy.toml:3: audit.dir: /srv/audit: is read-only for this process; under systemd, name it in ReadWritePaths= of the unit"
        );
        let denied = io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error());
        let told = places.tell(&StartError::State(denied));
        let begins = "proxy.toml:1: state_dir: /srv/state: permission denied; create it";
        assert!(told.starts_with(begins), "{told}");
    }

    #[test]
    fn a_fault_that_names_its_folder_names_it_once() {
        let (_folder, places) = places("");
        let told = places.tell(&StartError::State(io::Error::other(
            "/srv/state is no folder",
        )));
        assert_eq!(told, "proxy.toml: state_dir: /srv/state is no folder");
    }
}
