//! The process's configuration file: named on the command line, by the environment, or found in one of the usual places.

use std::cell::OnceCell;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use super::complain;

/// The variable that names the configuration for every command.
const VARIABLE: &str = "GATEPAY_PROXY_CONFIG";
/// Where the configuration is looked for, in this order: the folder one works in, then where packages put it.
const USUAL: [&str; 2] = ["proxy.toml", "/etc/gatepay-proxy/proxy.toml"];

/// The option that names the process's configuration.
#[expect(clippy::doc_markdown, reason = "the text of --help")]
#[derive(Args, Clone, Default)]
pub(crate) struct ConfigFile {
    /// The process's configuration [default: $GATEPAY_PROXY_CONFIG, else ./proxy.toml, else /etc/gatepay-proxy/proxy.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The choice, made once, so that a missing file is told once.
    #[arg(skip)]
    chosen: OnceCell<PathBuf>,
}

impl ConfigFile {
    /// The file to read. If it does not exist, the places that were tried and the option are printed; reading it then
    /// reports the problem.
    pub(crate) fn path(&self) -> &Path {
        self.chosen.get_or_init(|| {
            let choice = ConfigChoice::of(
                self.config.as_deref(),
                env::var_os(VARIABLE),
                &USUAL.map(Path::new),
            );
            if let Some(missing) = choice.missing {
                complain(missing);
            }
            choice.path
        })
    }
}

/// The chosen file, and the message if it does not exist.
struct ConfigChoice {
    path: PathBuf,
    missing: Option<String>,
}

impl ConfigChoice {
    fn of(named: Option<&Path>, variable: Option<OsString>, usual: &[&Path]) -> Self {
        let variable = variable
            .filter(|value| !value.is_empty())
            .map(PathBuf::from);
        if let Some(path) = named {
            return Self::named(path, "which --config names");
        }
        if let Some(path) = &variable {
            let why = format!("which ${VARIABLE} names; --config FILE goes before it");
            return Self::named(path, &why);
        }
        let present = usual.iter().find(|path| !is_missing(path));
        let tried: Vec<_> = usual
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        Self {
            path: present.unwrap_or(&usual[0]).to_path_buf(),
            missing: present.is_none().then(|| {
                format!(
                    "no configuration is at {}; name it with --config FILE or ${VARIABLE}",
                    tried.join(" or ")
                )
            }),
        }
    }

    fn named(path: &Path, why: &str) -> Self {
        Self {
            path: path.to_owned(),
            missing: is_missing(path)
                .then(|| format!("no configuration is at {}, {why}", path.display())),
        }
    }
}

/// A file that may not be looked at is there: reading it tells why it cannot be read.
fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_goes_before_the_variable_and_the_variable_before_the_usual_places() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            path
        };
        let (named, variable, here, packaged) = (file("a"), file("b"), file("c"), file("d"));
        let nowhere = folder.path().join("nowhere");
        let usual = [here.as_path(), packaged.as_path()];
        let second = [nowhere.as_path(), packaged.as_path()];
        let set = || Some(variable.clone().into_os_string());
        let chosen = |named, variable, usual: &[&Path]| {
            let choice = ConfigChoice::of(named, variable, usual);
            assert_eq!(choice.missing, None);
            choice.path
        };
        assert_eq!(chosen(Some(&named), set(), &usual), named);
        assert_eq!(chosen(None, set(), &usual), variable);
        assert_eq!(chosen(None, None, &usual), here);
        // An empty variable is how shells unset one for a single command.
        assert_eq!(chosen(None, Some("".into()), &usual), here);
        assert_eq!(chosen(None, None, &second), packaged);
    }

    #[test]
    fn a_missing_configuration_is_told_with_the_places_that_were_tried_and_the_option() {
        let missing = |named, variable: Option<&str>| {
            let usual = [Path::new("no/a.toml"), Path::new("no/b.toml")];
            let choice = ConfigChoice::of(named, variable.map(Into::into), &usual);
            choice.missing.unwrap()
        };
        assert_eq!(
            missing(None, None),
            "no configuration is at no/a.toml or no/b.toml; name it with --config FILE or $GATEPAY_PROXY_CONFIG"
        );
        assert_eq!(
            missing(Some(Path::new("no/c.toml")), None),
            "no configuration is at no/c.toml, which --config names"
        );
        assert_eq!(
            missing(None, Some("no/d.toml")),
            "no configuration is at no/d.toml, which $GATEPAY_PROXY_CONFIG names; --config FILE goes before it"
        );
    }
}
