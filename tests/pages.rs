//! The pages of the documentation: links lead somewhere, the book has every page, no page is long, and the pages of the
//! commands are what `--help` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::support::program::{printed, run};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Whether this is the name of a Markdown file.
fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// Markdown files of this folder and below, by their path in the repository.
fn pages_below(folder: &str, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = Path::new(folder).join(path.file_name().unwrap());
        if path.is_dir() {
            pages_below(name.to_str().unwrap(), found);
        } else if is_page(&path) {
            found.insert(name, fs::read_to_string(path).unwrap());
        }
    }
}

/// The pages of the book.
fn book() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    pages_below("docs", &mut found);
    assert!(found.len() > 40);
    found
}

/// All pages with links.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut found = book();
    for folder in ["config", "benches"] {
        pages_below(folder, &mut found);
    }
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if is_page(&path) {
            let name = path.file_name().unwrap().into();
            found.insert(name, fs::read_to_string(path).unwrap());
        }
    }
    found
}

/// The text without its blocks of code.
fn prose(page: &str) -> String {
    let mut is_code = false;
    let mut text = String::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The targets of the links in a page.
fn links(page: &str) -> Vec<String> {
    let text = prose(page);
    let after = text.split("](").skip(1);
    after
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// The anchors of a page's headings, as a forge and mdBook make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let text = prose(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let line = line.trim_start_matches('#').trim().to_lowercase();
        let kept = line
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                assert!(plain.pop(), "{} leaves the repository", path.display());
            }
            component => plain.push(component),
        }
    }
    plain
}

#[test]
fn every_link_in_the_pages_leads_to_a_file_and_a_heading() {
    let pages = pages();
    let mut broken = Vec::new();
    let mut seen = 0;
    for (name, page) in &pages {
        for link in links(page) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => name.clone(),
                path => plain(&name.parent().unwrap().join(path)),
            };
            let is_there = root().join(&target).exists();
            let has_heading = match pages.get(&target) {
                Some(page) if !anchor.is_empty() => anchors(page).contains(anchor),
                _ => anchor.is_empty(),
            };
            if !is_there || !has_heading {
                broken.push(format!("{}: {link}", name.display()));
            }
        }
    }
    assert!(seen > 300, "the links are read: {seen}");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn links_of_the_book_to_pages_stay_within_the_book() {
    // mdBook turns the name of a linked page into one of its own, which only pages of the book have.
    let outside = |name: &Path, link: &str| {
        let path = link.split('#').next().unwrap();
        is_page(Path::new(path))
            && !link.contains("://")
            && !plain(&name.parent().unwrap().join(path)).starts_with("docs")
    };
    let mut found = Vec::new();
    for (name, page) in book() {
        let links = links(&page).into_iter().filter(|link| outside(&name, link));
        found.extend(links.map(|link| format!("{}: {link}", name.display())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_readme_has_150_lines_at_most_and_every_page_300() {
    for (name, page) in pages() {
        let most = if name == Path::new("README.md") {
            150
        } else {
            300
        };
        let lines = page.lines().count();
        assert!(lines <= most, "{} has {lines} lines", name.display());
    }
}

#[test]
fn the_book_lists_every_page_once() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed = links(&summary);
    let once: BTreeSet<_> = listed
        .iter()
        .map(|link| Path::new("docs").join(link))
        .collect();
    assert_eq!(once.len(), listed.len(), "each once");
    let pages = book().into_keys();
    let pages = pages.filter(|name| name != Path::new("docs/SUMMARY.md"));
    assert_eq!(once, pages.collect());
}

/// The commands that this help lists.
fn listed_commands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return Vec::new();
    };
    let list = list.split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|line| {
        let line = line.strip_prefix("  ")?;
        let name = line.split(' ').next()?;
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    names.collect()
}

/// The help of a command, under this heading, and of the commands below it.
fn help_of(words: &[String], page: &mut String) {
    let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
    arguments.push("--help");
    let (help, code) = printed(&run(&arguments));
    assert_eq!(code, Some(0), "{help}");
    let mark = if words.len() == 1 { "#" } else { "##" };
    let command = words.join(" ");
    let lines: Vec<_> = help.trim_end().lines().map(str::trim_end).collect();
    let help = lines.join("\n");
    writeln!(page, "{mark} {command}\n\n```text\n{help}\n```\n").expect("text takes text");
    for below in listed_commands(&help) {
        help_of(&[words, &[below]].concat(), page);
    }
}

/// `WRITE_PAGES=1 cargo test -p gatepay-proxy --test proxy pages::` writes the pages anew.
#[test]
fn the_pages_of_commands_are_what_help_prints() {
    let (help, _) = printed(&run(&["--help"]));
    let commands = listed_commands(&help);
    assert!(commands.len() > 15, "{commands:?}");
    let folder = root().join("docs/reference/cli");
    let writes = std::env::var_os("WRITE_PAGES").is_some();
    let mut expected = BTreeSet::new();
    for command in commands {
        let mut page = String::new();
        help_of(std::slice::from_ref(&command), &mut page);
        let page = page.trim_end().to_owned() + "\n";
        let file = format!("{command}.md");
        let path = folder.join(&file);
        if writes {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &page).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == page,
            "docs/reference/cli/{file} is not what `{command} --help` prints: run this test with WRITE_PAGES=1"
        );
        expected.insert(file);
    }
    let there = fs::read_dir(&folder).unwrap();
    let there = there.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), expected);
}
