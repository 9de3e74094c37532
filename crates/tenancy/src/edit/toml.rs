//! Edits of a TOML text that keep its comments, its order and its form.

use toml_edit::{Array, Datetime, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use crate::edit::new_credential::{EndingCredential, NewCredential, UneditableText};
use crate::edit::tenant_keys::KeyValue;

/// Says a tenant's standing.
pub(super) fn stand(
    text: &str,
    tenant: Option<usize>,
    standing: &str,
) -> Result<String, UneditableText> {
    let mut document = parse(text)?;
    set(table(&mut document, tenant)?, "standing", standing.into());
    Ok(document.to_string())
}

/// Sets the value at a path of keys in a tenant's table, or removes it.
pub(super) fn assign(
    text: &str,
    tenant: Option<usize>,
    path: &[&str],
    value: Option<&KeyValue>,
) -> Result<String, UneditableText> {
    let mut document = parse(text)?;
    let mut inner = table(&mut document, tenant)?;
    let (key, tables) = path.split_last().ok_or(UneditableText)?;
    for name in tables {
        if !inner.contains_key(name) {
            if value.is_none() {
                return Ok(document.to_string());
            }
            inner.insert(name, Item::Table(Table::new()));
        }
        let next = inner.get_mut(name).and_then(Item::as_table_like_mut);
        inner = next.ok_or(UneditableText)?;
    }
    match value {
        Some(value) => set(inner, key, value.toml()),
        None => {
            inner.remove(key);
        }
    }
    Ok(document.to_string())
}

/// Dates these of a tenant's credentials, and adds one if there is a new one.
pub(super) fn rotate(
    text: &str,
    tenant: Option<usize>,
    ending: &[EndingCredential],
    not_after: &str,
    new: Option<&NewCredential<'_>>,
) -> Result<String, UneditableText> {
    let not_after: Datetime = not_after.parse().map_err(|_| UneditableText)?;
    let date = |credential: &mut dyn TableLike, end: &EndingCredential| {
        if let Some(not_before) = &end.not_before {
            let not_before: Datetime = not_before.parse().map_err(|_| UneditableText)?;
            set(credential, "not_before", not_before.into());
        }
        set(credential, "not_after", not_after.into());
        Ok(())
    };
    let mut document = parse(text)?;
    match table(&mut document, tenant)?.get_mut("credential") {
        Some(Item::ArrayOfTables(tables)) => {
            for end in ending {
                let credential = tables.get_mut(end.index).ok_or(UneditableText)?;
                date(credential, end)?;
            }
            if let Some(new) = new {
                tables.push(credential(new));
            }
        }
        Some(Item::Value(Value::Array(tables))) => {
            for end in ending {
                let credential = tables
                    .get_mut(end.index)
                    .and_then(Value::as_inline_table_mut);
                date(credential.ok_or(UneditableText)?, end)?;
            }
            if let Some(new) = new {
                push(tables, credential(new).into_inline_table());
            }
        }
        _ => return Err(UneditableText),
    }
    Ok(document.to_string())
}

/// Takes a tenant out of a file of many; `lines` are those that their tables begin on.
pub(super) fn remove(text: &str, tenant: usize, lines: &[u32]) -> Result<String, UneditableText> {
    let mut document = parse(text)?;
    match document.get_mut("tenant") {
        Some(Item::ArrayOfTables(_)) => without_lines(text, tenant, lines),
        Some(Item::Value(Value::Array(tables))) if tenant < tables.len() => {
            tables.remove(tenant);
            Ok(document.to_string())
        }
        _ => Err(UneditableText),
    }
}

fn parse(text: &str) -> Result<DocumentMut, UneditableText> {
    text.parse().map_err(|_| UneditableText)
}

fn table(
    document: &mut DocumentMut,
    tenant: Option<usize>,
) -> Result<&mut dyn TableLike, UneditableText> {
    let Some(index) = tenant else {
        return Ok(document.as_table_mut());
    };
    let table: Option<&mut dyn TableLike> = match document.get_mut("tenant") {
        Some(Item::ArrayOfTables(tables)) => tables.get_mut(index).map(|it| it as _),
        Some(Item::Value(Value::Array(tables))) => tables
            .get_mut(index)
            .and_then(Value::as_inline_table_mut)
            .map(|it| it as _),
        _ => None,
    };
    table.ok_or(UneditableText)
}

/// A value that was there keeps the space and the comment around it.
fn set(table: &mut dyn TableLike, key: &str, mut value: Value) {
    if let Some(old) = table.get_mut(key).and_then(Item::as_value_mut) {
        *value.decor_mut() = old.decor().clone();
        *old = value;
    } else {
        // In an inline table the space before the closing brace belongs to the last value.
        let last = table.iter_mut().last();
        if let Some(last) = last.and_then(|(_, item)| item.as_value_mut()) {
            let suffix = last.decor().suffix().and_then(|suffix| suffix.as_str());
            if suffix == Some(" ") {
                last.decor_mut().set_suffix("");
                *value.decor_mut() = toml_edit::Decor::new(" ", " ");
            }
        }
        table.insert(key, Item::Value(value));
    }
}

fn credential(new: &NewCredential<'_>) -> Table {
    let mut secret = InlineTable::new();
    secret.insert("file", new.secret_file.into());
    let mut table = Table::new();
    table.insert("client_id", Item::Value(new.client_id.into()));
    table.insert("secret", Item::Value(secret.into()));
    table
}

/// In a list that has a line for each item, on a line of its own.
fn push(tables: &mut Array, table: InlineTable) {
    let mut value = Value::from(table);
    let last = tables.iter().last();
    let prefix = last.and_then(|last| last.decor().prefix()?.as_str());
    value.decor_mut().set_prefix(match prefix {
        Some(prefix) if prefix.contains('\n') => prefix,
        _ => " ",
    });
    tables.push_formatted(value);
}

/// A tenant's lines are those from its header, and the comment right above it, to its last, and the comment right below
/// that. Comments that stand by themselves may be about the file, and stay.
fn without_lines(text: &str, tenant: usize, headers: &[u32]) -> Result<String, UneditableText> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let comment = |line: &&str| line.trim_start().starts_with('#');
    let blank = |line: &&str| line.trim().is_empty();
    let header = |index: usize| {
        let line = headers.get(index)?;
        usize::try_from(*line).ok()?.checked_sub(1)
    };
    let above = |header: usize| {
        let comments = lines[..header]
            .iter()
            .rev()
            .take_while(|line| comment(line));
        header - comments.count()
    };
    let own = header(tenant)
        .filter(|line| *line < lines.len())
        .ok_or(UneditableText)?;
    let begin = above(own);
    let limit = header(tenant + 1).map_or(lines.len(), above);
    let said = lines[own..limit]
        .iter()
        .rposition(|line| !comment(line) && !blank(line));
    let mut end = own + said.ok_or(UneditableText)? + 1;
    end += lines[end..limit]
        .iter()
        .take_while(|line| comment(line))
        .count();
    end += lines[end..limit]
        .iter()
        .take_while(|line| blank(line))
        .count();
    let mut rest = [&lines[..begin], &lines[end..]].concat().concat();
    if headers.len() == 1 {
        // Without any, the file would be read as that of one tenant.
        rest.push_str("tenant = []\n");
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: NewCredential<'_> = NewCredential {
        client_id: "new",
        secret_file: "../secrets/new.key",
    };

    fn end(index: usize) -> EndingCredential {
        EndingCredential {
            index,
            not_before: None,
        }
    }

    const MANY: &str = "# Our tenants.

# The first one.
[[tenant]]
id = 'a'       # short
standing = 'active'    # for now
[tenant.limits]
burst = 1
# in_flight = 20

# The rest.

# Another.
[[tenant]]
id = 'b'
[[tenant.credential]]
client_id = 'b'
";

    #[test]
    fn setting_the_standing_in_toml_changes_no_other_byte() {
        let edited = stand(MANY, Some(0), "suspended").ok().unwrap();
        assert_eq!(edited, MANY.replace("'active' ", "\"suspended\" "));
        let edited = stand(MANY, Some(1), "suspended").ok().unwrap();
        assert_eq!(
            edited,
            MANY.replace("]]\nid = 'b'\n", "]]\nid = 'b'\nstanding = \"suspended\"\n")
        );
        let edited = stand(
            "# x\nid = 'a' # y\n\n# z\n[limits]\nburst = 1\n",
            None,
            "read_only",
        );
        assert_eq!(
            edited.ok().unwrap(),
            "# x\nid = 'a' # y\nstanding = \"read_only\"\n\n# z\n[limits]\nburst = 1\n"
        );
    }

    #[test]
    fn assigning_in_toml_keeps_comments_and_order_and_makes_tables_that_are_missing() {
        let number = KeyValue::Integer(80);
        let edited = assign(MANY, Some(0), &["limits", "burst"], Some(&number));
        assert_eq!(
            edited.ok().unwrap(),
            MANY.replace("burst = 1\n", "burst = 80\n")
        );
        let edited = assign(MANY, Some(0), &["limits", "burst"], None)
            .ok()
            .unwrap();
        assert!(!edited.contains("burst") && edited.contains("# in_flight = 20"));
        let edited = assign(MANY, Some(1), &["limits", "money", "burst"], Some(&number));
        let edited = edited.ok().unwrap();
        assert!(
            edited.contains("[tenant.limits.money]\nburst = 80"),
            "{edited}"
        );
        let none = assign(MANY, Some(1), &["limits", "money", "burst"], None);
        assert_eq!(none.ok().unwrap(), MANY);
        let inline = "id = 'a'\nlimits = { burst = 1 } # few\n";
        let list = KeyValue::List(vec!["rate".to_owned(), "read".to_owned()]);
        assert_eq!(
            assign(inline, None, &["limits", "shadow"], Some(&list))
                .ok()
                .unwrap(),
            "id = 'a'\nlimits = { burst = 1, shadow = [\"rate\", \"read\"] } # few\n"
        );
        assert!(assign("limits = 3\n", None, &["limits", "burst"], Some(&number)).is_err());
    }

    #[test]
    fn removing_a_tenant_from_toml_removes_its_own_comments_only() {
        let edited = remove(MANY, 0, &[4, 14]).ok().unwrap();
        let (head, _) = MANY.split_once("# The first").unwrap();
        let (_, tail) = MANY.split_once("in_flight = 20\n\n").unwrap();
        assert_eq!(edited, format!("{head}{tail}"));
        let edited = remove(MANY, 1, &[4, 14]).ok().unwrap();
        let (head, _) = MANY.split_once("# Another").unwrap();
        assert_eq!(edited, head);
        let edited = remove("# Ours.\n\n[[tenant]]\nid = 'a'\n", 0, &[3])
            .ok()
            .unwrap();
        assert_eq!(edited, "# Ours.\n\ntenant = []\n");
        let edited = remove("tenant = [{ id = 'a' }, { id = 'b' }]\n", 0, &[1, 1])
            .ok()
            .unwrap();
        assert_eq!(edited, "tenant = [ { id = 'b' }]\n");
    }

    #[test]
    fn a_credential_added_to_toml_follows_the_format_of_the_others() {
        let tables = "id = 'a'\n[[credential]]\nclient_id = 'old' # theirs\n\n# More.\n[limits]\nburst = 1\n";
        assert_eq!(
            rotate(tables, None, &[end(0)], "2026-01-01T00:00:00Z", Some(&NEW))
                .ok()
                .unwrap(),
            "id = 'a'\n[[credential]]\nclient_id = 'old' # theirs\nnot_after = 2026-01-01T00:00:00Z\n\n\
             [[credential]]\nclient_id = \"new\"\nsecret = { file = \"../secrets/new.key\" }\n\n# More.\n[limits]\nburst = 1\n"
        );
        let inline =
            "credential = [\n    { client_id = 'old', not_after = 2027-01-01T00:00:00Z },\n]\n";
        assert_eq!(
            rotate(inline, None, &[end(0)], "2026-01-01T00:00:00Z", Some(&NEW))
                .ok()
                .unwrap(),
            "credential = [\n    { client_id = 'old', not_after = 2026-01-01T00:00:00Z },\n    \
             { client_id = \"new\", secret = { file = \"../secrets/new.key\" } },\n]\n"
        );
        let short = "credential = [{ client_id = 'old' }]\n";
        assert_eq!(
            rotate(short, None, &[], "2026-01-01T00:00:00Z", Some(&NEW))
                .ok()
                .unwrap(),
            "credential = [{ client_id = 'old' }, { client_id = \"new\", secret = { file = \"../secrets/new.key\" } }]\n"
        );
    }

    #[test]
    fn an_edit_of_a_tenant_index_that_is_missing_is_an_error() {
        assert!(stand(MANY, Some(2), "active").is_err());
        assert!(rotate(MANY, Some(0), &[], "2026-01-01T00:00:00Z", Some(&NEW)).is_err());
        assert!(rotate(MANY, Some(1), &[end(7)], "2026-01-01T00:00:00Z", Some(&NEW)).is_err());
        assert!(remove(MANY, 2, &[4, 14]).is_err());
    }
}
