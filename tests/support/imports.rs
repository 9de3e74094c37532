//! The import graph of a crate: which module names which, and the cycles among them.
//!
//! The graph is read without a compiler. A path counts if it begins with `crate::`, `super::` or the crate's own name.
//! Comments, literals and items under `#[cfg(test)]` do not count. A module may name its children, so these edges do
//! not count either. The crate root's edges do count, so that no module reaches others through the root's re-exports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each module of a crate with the modules it names; the crate root is `lib`.
pub(crate) type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The import edges of the crate in this folder.
pub(crate) fn arrows(folder: &Path, crate_name: &str) -> Arrows {
    let mut sources = BTreeMap::new();
    collect(&folder.join("src"), "", &mut sources);
    assert!(!sources.is_empty(), "{}", folder.display());
    arrows_of(&sources, crate_name)
}

fn collect(folder: &Path, parent: &str, sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let module = if parent.is_empty() {
            stem.to_owned()
        } else {
            format!("{parent}::{stem}")
        };
        if path.is_dir() {
            collect(&path, &module, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The import edges of sources, each by the path of its module: `edit` for `edit.rs`, `edit::json` for `edit/json.rs`.
pub(crate) fn arrows_of(sources: &BTreeMap<String, String>, crate_name: &str) -> Arrows {
    let mut code: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut tests = BTreeSet::new();
    for (module, source) in sources {
        let (tokens, files) = without_tests(&tokens(source));
        code.insert(module, tokens);
        tests.extend(files.into_iter().map(|file| format!("{module}::{file}")));
    }
    code.retain(|module, _| !tests.contains(*module));
    let modules: BTreeSet<&str> = code.keys().copied().collect();
    let named = |module: &str, tokens: &[String]| {
        let paths = paths(module, tokens, &modules, crate_name).into_iter();
        let longest = |path: Vec<String>| {
            let beginnings = (1..=path.len()).rev().map(|end| path[..end].join("::"));
            let mut known = beginnings.filter(|it| modules.contains(it.as_str()));
            known.next().unwrap_or_else(|| "lib".to_owned())
        };
        paths.map(longest).filter(|it| it != module).collect()
    };
    let each = code
        .iter()
        .map(|(module, tokens)| ((*module).to_owned(), named(module, tokens)));
    each.collect()
}

/// The modules in cycles, and the modules on a path from one cycle to another.
///
/// A module is removed while it names no remaining module, or no remaining module names it: it is in no cycle.
pub(crate) fn circles(mut arrows: Arrows) -> BTreeSet<String> {
    loop {
        let named: BTreeSet<_> = arrows.values().flatten().cloned().collect();
        let before = arrows.len();
        arrows.retain(|module, names| !names.is_empty() && named.contains(module));
        let left: BTreeSet<_> = arrows.keys().cloned().collect();
        for names in arrows.values_mut() {
            names.retain(|name| left.contains(name));
        }
        if arrows.len() == before {
            return left;
        }
    }
}

/// The paths that a module names, from the crate root.
fn paths(
    module: &str,
    tokens: &[String],
    modules: &BTreeSet<&str>,
    crate_name: &str,
) -> Vec<Vec<String>> {
    let is_root = matches!(module, "lib" | "main");
    let parts = module.split("::").filter(|_| !is_root);
    let own: Vec<String> = parts.map(str::to_owned).collect();
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let begins = at == 0 || tokens[at - 1] != "::";
        if !begins || tokens.get(at + 1).is_none_or(|next| next != "::") {
            continue;
        }
        let (base, rest) = match token.as_str() {
            "crate" => (Vec::new(), &tokens[at + 2..]),
            name if name == crate_name => (Vec::new(), &tokens[at + 2..]),
            "super" => (own.clone(), &tokens[at..]),
            name if is_root && modules.contains(name) => (Vec::new(), &tokens[at..]),
            _ => continue,
        };
        expand(rest, base, &mut found);
    }
    found
}

/// Expands one path, or one tree of paths, and returns the tokens that follow.
fn expand<'a>(
    mut tokens: &'a [String],
    mut base: Vec<String>,
    found: &mut Vec<Vec<String>>,
) -> &'a [String] {
    while let [name, rest @ ..] = tokens {
        match name.as_str() {
            "{" => {
                tokens = rest;
                while let Some(first) = tokens.first().filter(|first| *first != "}") {
                    tokens = match first.as_str() {
                        "," => &tokens[1..],
                        _ => expand(tokens, base.clone(), found),
                    };
                }
                return tokens.get(1..).unwrap_or_default();
            }
            "self" => {}
            "super" => drop(base.pop()),
            name => base.push(name.to_owned()),
        }
        match rest {
            [colons, after @ ..] if colons == "::" => tokens = after,
            _ => {
                found.push(base);
                // An `as` may follow.
                let end = rest.iter().position(|it| matches!(&**it, "," | "}" | ";"));
                return &rest[end.unwrap_or(rest.len())..];
            }
        }
    }
    tokens
}

/// The names and signs of a source, without comments. A literal is an empty token.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(length) = literal(rest) {
            tokens.push(String::new());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else if is_name(first) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else {
            tokens.extend((!first.is_whitespace()).then(|| first.to_string()));
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the literal or block comment at the start of a text. A lifetime is not a literal.
fn literal(text: &str) -> Option<usize> {
    let until = |begin: usize, end: &str| {
        let found = text[begin..].find(end);
        found.map_or(text.len(), |at| begin + at + end.len())
    };
    let quoted = |begin: usize, quote: u8| {
        let mut at = begin;
        while let Some(byte) = text.as_bytes().get(at).filter(|byte| **byte != quote) {
            at += if *byte == b'\\' { 2 } else { 1 };
        }
        at + 1
    };
    if text.starts_with("/*") {
        return Some(until(2, "*/"));
    }
    let prefix = ["br", "r", "b", "c", ""]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))?;
    let after = &text[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    if prefix.ends_with('r') && after[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(until(prefix.len() + hashes + 1, &end));
    }
    if after.starts_with('"') {
        return Some(quoted(prefix.len() + 1, b'"'));
    }
    let mut inner = after.strip_prefix('\'')?.chars();
    let (first, second) = (inner.next()?, inner.next()?);
    (first == '\\' || second == '\'').then(|| quoted(prefix.len() + 1, b'\''))
}

/// Removes items under `#[cfg(test)]`, and returns the names of test modules that are separate files.
fn without_tests(tokens: &[String]) -> (Vec<String>, Vec<String>) {
    const CFG: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut files) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let is_cfg =
            tokens[at..].len() > CFG.len() && tokens[at..].iter().zip(CFG).all(|(a, b)| a == b);
        if !is_cfg {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let item = &tokens[at + CFG.len()..];
        let mut depth = 0;
        let length = item.iter().position(|token| {
            depth += i32::from(matches!(&**token, "{" | "(" | "["));
            depth -= i32::from(matches!(&**token, "}" | ")" | "]"));
            depth == 0 && matches!(&**token, "}" | ";") || depth < 0
        });
        let length = length.map_or(item.len(), |last| last + 1);
        if let Some(at) = item[..length].iter().position(|it| it == "mod") {
            files.extend(item.get(at + 1).cloned());
        }
        at += CFG.len() + length;
    }
    (kept, files)
}
