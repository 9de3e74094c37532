//! Counts of the events in a run: a model that never reaches an event proves nothing about it.

use std::collections::BTreeMap;
use std::fmt;

use super::history::Said;
use super::scenario::{End, Mishap, Step};

#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<(&'static str, String), usize>);

impl Tally {
    pub(super) fn add(&mut self, of: &'static str, what: impl Into<String>) {
        *self.0.entry((of, what.into())).or_default() += 1;
    }

    pub(super) fn step(&mut self, step: &Step) {
        let name = format!("{step:?}");
        let name = name.split('(').next().unwrap_or_default();
        self.add("step", name);
        if let Step::Restart(restart) = step {
            self.end(restart.end);
            let state = format!("{:?}", restart.state);
            self.add("state", state.split('(').next().unwrap_or_default());
        }
        if let Step::Call(_, _, _, Some(mishap)) = step {
            self.mishap(*mishap);
        }
    }

    fn end(&mut self, end: End) {
        self.add("end", format!("{end:?}"));
    }

    fn mishap(&mut self, mishap: Mishap) {
        self.add("mishap", mishap.name());
    }

    pub(super) fn answer(&mut self, said: Option<&Said>) {
        let Some(said) = said else {
            return self.add("outcome", "no answer");
        };
        self.add("outcome", said.outcome().unwrap_or("not said"));
        if let Some(refusal) = &said.refusal {
            self.add("refusal", refusal.as_str());
        }
    }

    pub(super) fn of(&self, of: &'static str, what: &str) -> usize {
        self.0.get(&(of, what.to_owned())).copied().unwrap_or(0)
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (what, times) in other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }

    /// Fails if a wanted event did not occur.
    pub(super) fn is_not_vacuous(&self, wanted: &[(&'static str, &[&str])]) {
        for (of, all) in wanted {
            for what in *all {
                assert!(self.of(of, what) > 0, "{of} {what} never happened:\n{self}");
            }
        }
    }
}

/// One line for each kind of event.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for ((of, what), times) in &self.0 {
            if *of == before {
                write!(f, ", {what} {times}")?;
            } else {
                let end = if before.is_empty() { "" } else { "\n" };
                write!(f, "{end}{of}: {what} {times}")?;
                before = of;
            }
        }
        Ok(())
    }
}
