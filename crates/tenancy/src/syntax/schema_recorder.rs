//! Recording mode of the readers: no file is read, and the requested keys are collected for the JSON Schema.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

/// The keys that a reader requested of a table.
#[derive(Default)]
pub(crate) struct KeyRecorder {
    keys: RefCell<BTreeMap<&'static str, RecordedShape>>,
    needed: RefCell<BTreeSet<&'static str>>,
    one: Cell<bool>,
}

/// The value of a key.
pub(crate) enum RecordedShape {
    /// One value, that a parser accepts.
    Value(AcceptedValues),
    /// A list of such.
    List(AcceptedValues),
    Table(Rc<KeyRecorder>),
    Tables(Rc<KeyRecorder>),
}

/// Stands in for a value; a parser that gets it tells the values it accepts. The first to tell knows best: others are parts of it.
pub(crate) type AcceptedValues = Arc<OnceLock<Value>>;

impl KeyRecorder {
    /// A key was asked for.
    pub(crate) fn key(&self, key: &'static str, holds: RecordedShape) {
        self.keys.borrow_mut().insert(key, holds);
    }

    /// A key has to be there.
    pub(crate) fn need(&self, key: &'static str) {
        self.needed.borrow_mut().insert(key);
    }

    /// Exactly one of its keys has to stand there.
    pub(crate) fn one(&self) {
        self.one.set(true);
    }

    /// The JSON Schema of a table with these keys.
    pub(crate) fn schema(&self) -> Value {
        let mut properties = json!({});
        for (key, holds) in &*self.keys.borrow() {
            properties[*key] = match holds {
                RecordedShape::Value(told) => accepted(told),
                RecordedShape::List(told) => json!({ "type": "array", "items": accepted(told) }),
                RecordedShape::Table(asked) => asked.schema(),
                RecordedShape::Tables(asked) => json!({ "type": "array", "items": asked.schema() }),
            };
        }
        let mut schema = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        let needed = self.needed.borrow();
        if !needed.is_empty() {
            schema["required"] = json!(*needed);
        }
        if self.one.get() {
            schema["minProperties"] = 1.into();
            schema["maxProperties"] = 1.into();
        }
        schema
    }
}

/// A parser that did not tell is taken to accept anything.
fn accepted(told: &AcceptedValues) -> Value {
    told.get().cloned().unwrap_or_else(|| json!({}))
}
