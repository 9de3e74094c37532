//! Walk over JSON: a loop that finds every member at every depth of a valid JSON text. Nesting costs no stack.

use super::{DEEPEST, JsonMember, JsonText, JsonVisitor};

/// Hands over each member after its value, so that the members inside the value come first.
#[cold]
pub(super) fn walk<'a>(text: &'a str, visit: &mut dyn JsonVisitor<'a>) {
    JsonWalk {
        text,
        at: 0,
        open: Vec::new(),
        visit,
    }
    .run();
}

struct JsonWalk<'v, 'a> {
    text: &'a str,
    at: usize,
    /// The arrays and objects around `at`.
    open: Vec<OpenScope>,
    visit: &'v mut dyn JsonVisitor<'a>,
}

/// An array or object that is still open.
enum OpenScope {
    Array,
    Object {
        /// The byte offset of the opening brace.
        at: usize,
        /// The byte offsets where the latest member's name begins and ends. `value` is the offset where its value
        /// begins.
        name: (usize, usize),
        value: usize,
    },
}

impl JsonWalk<'_, '_> {
    /// Between two rounds `at` is the offset after a value, a name with its colon, an opening bracket or a comma.
    fn run(&mut self) {
        loop {
            let begin = self.next();
            match self.byte() {
                Some(b'{') => self.open(OpenScope::Object {
                    at: begin,
                    name: (0, 0),
                    value: 0,
                }),
                Some(b'[') => self.open(OpenScope::Array),
                Some(b'}' | b']') => {
                    self.member();
                    self.open.pop();
                    self.at += 1;
                }
                Some(b',') => {
                    self.member();
                    self.at += 1;
                    if let Some(OpenScope::Object { .. }) = self.open.last() {
                        self.name();
                    }
                }
                Some(b'"') => {
                    self.at = self.behind_string();
                    let text = JsonText(&self.text[begin..self.at]);
                    if text.text().is_none() {
                        self.visit.unreadable(begin);
                    }
                }
                Some(_) => {
                    self.at = self.behind_word();
                    let number = JsonText(&self.text[begin..self.at]).number();
                    if number.is_some_and(|number| !number.parse().is_ok_and(f64::is_finite)) {
                        self.visit.unreadable(begin);
                    }
                }
                None => return,
            }
        }
    }

    fn open(&mut self, open: OpenScope) {
        if self.open.len() == DEEPEST {
            self.visit.too_deep(self.at);
            self.at = self.behind_compound();
            return;
        }
        let is_object = matches!(open, OpenScope::Object { .. });
        self.open.push(open);
        self.at += 1;
        if is_object {
            self.name();
        }
    }

    /// Reads a name and its colon, unless the object ends at `at`.
    fn name(&mut self) {
        let begin = self.next();
        if self.byte() != Some(b'"') {
            return;
        }
        self.at = self.behind_string();
        let end = self.at;
        self.next();
        self.at += 1;
        let begins = self.next();
        if let Some(OpenScope::Object { name, value, .. }) = self.open.last_mut() {
            *name = (begin, end);
            *value = begins;
        }
    }

    /// Hands over the member with the value that ends at `at`, if the innermost open scope is an object with a member.
    fn member(&mut self) {
        let Some(OpenScope::Object { at, name, value }) = self.open.last() else {
            return;
        };
        if name.1 == 0 {
            return;
        }
        let end = self.text[..self.at].trim_ascii_end().len();
        self.visit.member(JsonMember {
            object: *at,
            depth: self.open.len() - 1,
            place: name.0..name.1,
            name: JsonText(&self.text[name.0..name.1]).bytes(),
            value: JsonText(&self.text[*value..end]),
        });
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space and returns the new offset.
    fn next(&mut self) -> usize {
        while self.byte().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
        self.at
    }

    fn behind_string(&self) -> usize {
        let mut at = self.at + 1;
        while let Some(byte) = self.text.as_bytes().get(at) {
            match byte {
                b'"' => return at + 1,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.text.len()
    }

    /// The offset after the array or object that begins at `at`.
    fn behind_compound(&mut self) -> usize {
        let mut depth = 0_usize;
        while let Some(byte) = self.byte() {
            match byte {
                b'"' => {
                    self.at = self.behind_string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                break;
            }
        }
        self.at
    }

    fn behind_word(&self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
        rest.iter()
            .position(is_end)
            .map_or(self.text.len(), |length| self.at + length)
    }
}
