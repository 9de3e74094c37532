//! Alone reads keys: from a file or a variable that the configuration names, never from the configuration itself.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use gatepay_core::SecretKey;
use gatepay_core::secret::SecretError;
use zeroize::Zeroizing;

use crate::disk::file_stamp::FilesRead;
use crate::disk::regular_file::RegularFile;
use crate::model::settings::SecretText;
use crate::syntax::document::{ConfigValue, error_text};
use crate::syntax::table_reader::{TableReader, ValueFault};
use crate::syntax::value;

/// Looks up an environment variable; an argument, so that tests need not set the process's own.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + Sync + 'a;

/// Where the secrets that one file names are looked for.
#[derive(Clone, Copy)]
pub(crate) struct SecretSources<'a> {
    /// The folder of that file: its paths are relative to it.
    pub(crate) folder: &'a Path,
    pub(crate) env: &'a Environment<'a>,
    /// Whether a secret that is not here stands for one of its own.
    pub(crate) elsewhere: bool,
    /// Which files were opened for it.
    pub(crate) reads: &'a FilesRead,
    /// Which characters a secret may have.
    pub(crate) text: SecretText,
}

/// The largest secret file. Issued secrets have some dozens of characters; a larger file is another one.
const LARGEST: usize = 4096;
/// With less left, the standard library reads the end of a file into a buffer of its own, which is not erased.
const ROOM_TO_SPARE: usize = 64;
const INLINE: &str = "inline secrets are not allowed; use { file = \"…\" } or { env = \"…\" }";
/// Read, write and execute for others.
const OTHERS: u32 = 0o007;

/// Reads the secret that `key` names as `{ file = "…" }` or `{ env = "…" }`.
pub(crate) fn required(
    reader: &mut TableReader<'_>,
    key: &'static str,
    sources: SecretSources<'_>,
) -> Option<SecretKey> {
    reader.need(key, "is required; use { file = \"…\" } or { env = \"…\" }");
    optional(reader, key, sources)
}

/// Like [`required`], for a secret that may be absent.
pub(crate) fn optional(
    reader: &mut TableReader<'_>,
    key: &'static str,
    sources: SecretSources<'_>,
) -> Option<SecretKey> {
    if let Some(ConfigValue::Text(_)) = reader.peek(key) {
        return reader.optional(key, |_| Err(ValueFault::from(INLINE)));
    }
    let mut source = reader.table(key)?;
    let file = source.has("file");
    let env = source.has("env");
    let from_file = source.optional("file", |value| {
        let path = value::path(sources.folder)(value)?;
        match value {
            // As it is written, so that two checkouts of the same files have the same.
            ConfigValue::Text(name) if sources.elsewhere && !path.exists() => stand_in(name),
            _ => read_file(&path, sources),
        }
    });
    let from_env = source.optional("env", |value| {
        let variable = value::text(|name| {
            let text = (sources.env)(name).map(Zeroizing::new);
            let absent = sources.elsewhere.then(|| Zeroizing::new(String::new()));
            text.or(absent).ok_or("environment variable is not set")
        });
        match (variable(value)?, value) {
            (text, ConfigValue::Text(name)) if text.is_empty() && sources.elsewhere => {
                stand_in(name)
            }
            (text, _) => parse(line_of(&text), sources.text),
        }
    });
    source.one();
    source.finish();
    if file == env {
        reader.problem(
            key,
            "must have exactly one source: { file = \"…\" } or { env = \"…\" }",
        );
        return None;
    }
    from_file.or(from_env)
}

/// A secret of its own for each name: it only lets the other checks run.
fn stand_in(name: &str) -> Result<SecretKey, ValueFault> {
    let text = format!("elsewhere:{}", hex::encode(name));
    parse(&text, SecretText::Visible)
}

/// Reads a secret file, less one final line end.
fn read_file(path: &Path, sources: SecretSources<'_>) -> Result<SecretKey, ValueFault> {
    let io_fault = |error: io::Error| match error.kind() {
        io::ErrorKind::IsADirectory => "secret file is not a regular file".into(),
        _ => ValueFault::Borrowed(error_text(&error)),
    };
    let file = RegularFile::open(path, sources.reads).map_err(io_fault)?;
    if file.metadata.permissions().mode() & OTHERS != 0 {
        return Err("secret file is world-accessible; run chmod o= FILE".into());
    }
    // One allocation: a buffer that grows leaves copies behind. It is no larger than needed, since all of it is erased: of
    // a hundred thousand secrets that takes longer than to read them. A file of procfs has no length.
    let room = match file.length() {
        None => LARGEST + 1,
        Some(length) => usize::try_from(length).unwrap_or(LARGEST).min(LARGEST) + 1,
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(room + ROOM_TO_SPARE));
    let most = u64::try_from(LARGEST + 1).expect("a small constant");
    file.read(most, &mut bytes).map_err(io_fault)?;
    if bytes.len() > LARGEST {
        return Err(format!(
            "secret file is larger than {LARGEST} bytes; it must contain the secret alone"
        )
        .into());
    }
    let text = str::from_utf8(&bytes).map_err(|_| "secret file is not UTF-8")?;
    parse(line_of(text), sources.text)
}

/// A text without one final line end, which is no part of a secret.
fn line_of(text: &str) -> &str {
    let ends = ["\r\n", "\n"];
    let line = ends.iter().find_map(|end| text.strip_suffix(end));
    line.unwrap_or(text)
}

fn parse(text: &str, allowed: SecretText) -> Result<SecretKey, ValueFault> {
    let text = Zeroizing::new(text.to_owned());
    let parsed = match allowed {
        SecretText::Visible => SecretKey::new(text),
        SecretText::Any => SecretKey::of_any_text(text),
    };
    parsed.map_err(|error| match error {
        SecretError::NotVisible { .. } => {
            format!("secret {error}; secret_text = \"any\" allows it").into()
        }
        _ => format!("secret {error}").into(),
    })
}
