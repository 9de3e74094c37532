//! A plan in words: a line for each change, and one for all of them.

use std::fmt;

use serde_json::Value;

use super::{ChangedEntry, FactChange, GroupChanges, Plan, PlanSections, UnpairedEntry};
use crate::model::facts::ConfigFacts;

impl PlanSections {
    /// `None` if nothing does.
    pub(super) fn summary(&self) -> Option<String> {
        let some = |changes: &[FactChange], noun: &str| {
            (!changes.is_empty()).then(|| format!("{noun}: {} changed", changes.len()))
        };
        let parts = [
            self.tenants.summary("tenants"),
            self.operators.summary("operators"),
            some(&self.institution, "institution"),
            self.operations.summary("operations"),
            some(&self.settings, "settings"),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

impl GroupChanges {
    /// Like `2 tenants added, 1 changed`; `None` if nothing does.
    fn summary(&self, noun: &str) -> Option<String> {
        let counts = [
            (self.added.len(), "added"),
            (self.removed.len(), "removed"),
            (self.changed.len(), "changed"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<_> = counts
            .map(|(count, verb)| format!("{count} {verb}"))
            .collect();
        (!parts.is_empty()).then(|| format!("{noun}: {}", parts.join(", ")))
    }

    fn write(&self, noun: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for UnpairedEntry { id, facts } in &self.added {
            writeln!(f, "+ {noun} {id}{}", PartySummary(facts))?;
        }
        for UnpairedEntry { id, facts } in &self.removed {
            writeln!(f, "- {noun} {id}{}", PartySummary(facts))?;
        }
        for ChangedEntry { id, changes } in &self.changed {
            write_all(changes, &format!("{noun} {id}"), f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlanSections {
            settings,
            institution,
            operations,
            tenants,
            operators,
        } = &self.sections;
        write_all(settings, "setting", f)?;
        write_all(institution, "institution", f)?;
        operations.write("operation", f)?;
        operators.write("operator", f)?;
        tenants.write("tenant", f)
    }
}

fn write_all(changes: &[FactChange], what: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for change in changes {
        writeln!(f, "~ {what}: {change}")?;
    }
    Ok(())
}

impl fmt::Display for FactChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, before, after } = self;
        match (key.as_str(), before, after) {
            ("operations", Value::Array(old), Value::Array(new)) => {
                let lost = old
                    .iter()
                    .filter(|name| !new.contains(name))
                    .map(|it| (it, '-'));
                let won = new
                    .iter()
                    .filter(|name| !old.contains(name))
                    .map(|it| (it, '+'));
                write!(f, "{key}:")?;
                lost.chain(won)
                    .try_for_each(|(name, sign)| write!(f, " {sign}{}", ValueText(name)))
            }
            (_, Value::Null, Value::Object(_)) => write!(f, "{key}: added{}", ValueText(after)),
            (_, Value::Object(_), Value::Null) => write!(f, "{key}: removed"),
            (_, Value::Object(old), Value::Object(new)) => {
                write!(f, "{key}:")?;
                let differs = |key: &&String| old.get(*key) != new.get(*key);
                for (index, key) in new.keys().filter(differs).enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    match key.as_str() {
                        "fingerprint" => write!(f, "{comma} another secret")?,
                        key => write!(
                            f,
                            "{comma} {key} {} -> {}",
                            ValueText(&old[key]),
                            ValueText(&new[key])
                        )?,
                    }
                }
                Ok(())
            }
            (key, old, new) => {
                let shown = |value: &Value| match (key, value) {
                    ("operations", Value::Null) => "all that are open".to_owned(),
                    ("addresses", Value::Null) => "anywhere".to_owned(),
                    (_, value) => ValueText(value).to_string(),
                };
                write!(f, "{key}: {} -> {}", shown(old), shown(new))
            }
        }
    }
}

/// Sub-account and standing of an added or removed party.
struct PartySummary<'a>(&'a ConfigFacts);

impl fmt::Display for PartySummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = ["sub_account", "standing", "institution"];
        let mut separator = ": ";
        for key in told {
            if let Some(value) = self.0.get(key) {
                write!(
                    f,
                    "{separator}{} {}",
                    key.replace('_', "-"),
                    ValueText(value)
                )?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// A value in words.
pub(super) struct ValueText<'a>(pub(super) &'a Value);

impl fmt::Display for ValueText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("none"),
            Value::String(text) => f.write_str(text),
            Value::Array(values) => {
                let words: Vec<_> = values
                    .iter()
                    .map(|value| ValueText(value).to_string())
                    .collect();
                f.write_str(&words.join(", "))
            }
            // A credential: its dates, if it has any.
            Value::Object(fields) => {
                let dates = fields
                    .iter()
                    .filter(|(key, value)| !value.is_null() && key.as_str() != "fingerprint");
                dates
                    .into_iter()
                    .try_for_each(|(key, value)| write!(f, ", {key} {}", ValueText(value)))
            }
            other => write!(f, "{other}"),
        }
    }
}
