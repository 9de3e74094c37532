//! The words that operators and tenants read: no riddles in `--help`, metrics, refusals, problems, logs and alerts.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::program::{printed, run};
use crate::support::*;

/// Pronouns that leave the reader to guess the noun.
const RIDDLES: [&str; 11] = [
    "who",
    "whoever",
    "whom",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "anyone",
    "someone",
    "what",
    "whatever",
];

/// The riddle words of a text.
fn riddles(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words
        .filter(|word| RIDDLES.contains(&word.to_ascii_lowercase().as_str()))
        .collect()
}

/// The `--help` of this command and of all commands below it.
fn help(command: &[String]) -> Vec<String> {
    let arguments: Vec<&str> = command
        .iter()
        .map(String::as_str)
        .chain(["--help"])
        .collect();
    let (text, code) = printed(&run(&arguments));
    assert_eq!(code, Some(0), "{command:?}: {text}");
    let below = text
        .split_once("\nCommands:\n")
        .map_or("", |(_, rest)| rest);
    let below = below.lines().take_while(|line| line.starts_with("  "));
    let names: Vec<String> = below
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    let mut all = vec![text];
    for name in names {
        all.extend(help(&[command, &[name]].concat()));
    }
    all
}

/// The string literals of a source file before its tests, without the names of arguments in them.
fn literals(path: &Path) -> Vec<String> {
    let source = fs::read_to_string(path).unwrap();
    let source = source.split("#[cfg(test)]").next().unwrap();
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n").replace("'\"'", "");
    let code = code.replace("\\\"", "");
    let literals = code.split('"').skip(1).step_by(2);
    let text = |literal: &str| {
        let pieces = literal.split('{').enumerate();
        let kept = pieces.map(|(at, piece)| match piece.split_once('}') {
            Some((_, after)) if at > 0 => after,
            _ => piece,
        });
        kept.collect::<String>()
    };
    // A literal of one word is a name.
    literals
        .map(text)
        .filter(|text| text.trim().contains(' '))
        .collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !name.ends_with("tests.rs")
            && name != "simulation.rs"
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_help_of_every_command_names_its_nouns() {
    let all = help(&[]);
    assert!(all.len() > 20, "{}", all.len());
    for text in all {
        assert!(riddles(&text).is_empty(), "{:?}: {text}", riddles(&text));
    }
}

#[tokio::test]
async fn the_help_of_every_metric_names_its_nouns() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let metrics = proxy.metrics().await;
    let helps = metrics.lines().filter(|line| line.starts_with("# HELP"));
    let helps: Vec<&str> = helps.collect();
    assert!(helps.len() > 40, "{}", helps.len());
    for help in helps {
        assert!(riddles(help).is_empty(), "{help}");
    }
}

#[test]
fn the_messages_of_the_proxy_name_their_nouns() {
    let files = sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    let mut seen = 0;
    for file in files {
        for text in literals(&file) {
            seen += 1;
            assert!(riddles(&text).is_empty(), "{}: {text:?}", file.display());
        }
    }
    assert!(seen > 500, "{seen}");
}

#[test]
fn the_alerts_name_their_nouns() {
    let rules = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../config/prometheus/rules.yml"
    ));
    let rules = rules.unwrap();
    for line in rules
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        assert!(riddles(line).is_empty(), "{line}");
    }
}
