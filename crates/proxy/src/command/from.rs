//! The sources from which a command takes secrets and bodies.

use std::env;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use gatepay_core::SecretKey;
use gatepay_core::secret::SecretError;
use gatepay_proxy::tls::fault_text;
use zeroize::Zeroizing;

use super::complain;

/// The place of a secret. It is never on the command line, which every user of the machine may read.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SecretFrom {
    /// A file that holds the secret; one final line end is not part of it.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// An environment variable that holds the secret.
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
}

impl SecretFrom {
    /// A secret in this file.
    pub(crate) fn file(path: &Path) -> Self {
        Self {
            secret_file: Some(path.to_owned()),
            secret_env: None,
        }
    }

    /// The text of the secret as stored, without one final LF or CR LF.
    pub(crate) fn text(&self) -> Result<Zeroizing<String>, String> {
        let text = match (&self.secret_file, &self.secret_env) {
            (Some(path), _) => fs::read_to_string(path).map_err(|error| file_fault(path, &error)),
            (None, Some(name)) => {
                env::var(name).map_err(|_| format!("environment variable {name} is not set"))
            }
            (None, None) => Err("name the secret with --secret-file or --secret-env".to_owned()),
        };
        let text = Zeroizing::new(text?);
        let line = text.strip_suffix('\n').map_or(text.as_str(), |line| {
            line.strip_suffix('\r').unwrap_or(line)
        });
        Ok(Zeroizing::new(line.to_owned()))
    }

    /// The secret. Characters outside visible ASCII are noted on standard error, since they are seldom meant.
    pub(crate) fn key(&self) -> Result<SecretKey, String> {
        let text = self.text()?;
        if let Err(error @ SecretError::NotVisible { .. }) = SecretKey::new(text.clone()) {
            complain(format_args!("note: the secret {error}"));
        }
        SecretKey::of_any_text(text).map_err(|error| format!("the secret {error}"))
    }
}

/// The place of a body. Its bytes are used unchanged; without an option the body is empty.
#[derive(Args, Clone)]
#[group(multiple = false)]
pub(crate) struct BodyFrom {
    /// The body itself.
    #[arg(long, value_name = "TEXT")]
    data: Option<String>,
    /// A file that holds exactly the bytes of the body, or `-` for standard input.
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
}

impl BodyFrom {
    /// Reads the whole body.
    pub(crate) fn read(&self) -> Result<Vec<u8>, String> {
        match (&self.data, &self.data_file) {
            (Some(text), _) => Ok(text.clone().into_bytes()),
            (None, Some(path)) => read(path),
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// Reads every byte of a file, or of standard input if the path is `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let all = io::stdin().lock().read_to_end(&mut bytes);
        return all
            .map(|_| bytes)
            .map_err(|error| format!("standard input: {error}"));
    }
    fs::read(path).map_err(|error| file_fault(path, &error))
}

/// A file that cannot be read, and why.
pub(crate) fn file_fault(path: &Path, error: &io::Error) -> String {
    format!("{}: {}", path.display(), fault_text::of_file(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        body: BodyFrom,
    }

    fn body(arguments: &[&str]) -> Result<Vec<u8>, String> {
        let line = Line::try_parse_from([&["sign"], arguments].concat());
        line.map_err(|error| error.to_string())?.body.read()
    }

    #[test]
    fn a_body_is_taken_as_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("order.json");
        fs::write(&path, b"{ \"a\": 1 }\r\n\xff").unwrap();
        assert_eq!(
            body(&["--data-file", path.to_str().unwrap()]).unwrap(),
            b"{ \"a\": 1 }\r\n\xff"
        );
        assert_eq!(body(&["--data", " {}\n"]).unwrap(), b" {}\n");
        assert_eq!(body(&[]).unwrap(), b"");
    }

    #[test]
    fn a_body_comes_from_one_place() {
        assert!(body(&["--data", "{}", "--data-file", "order.json"]).is_err());
        assert_eq!(
            body(&["--data-file", "no/such/file"]).unwrap_err(),
            "no/such/file: file not found; create it, or change the path"
        );
    }
}
