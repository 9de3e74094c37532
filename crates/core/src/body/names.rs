//! Which names an object has had.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use arrayvec::ArrayVec;

/// The names of all objects of a text that are open. Upper and lower case are one name.
///
/// A few are compared one by one, without taking anything from the heap; more are hashed, with a key that callers do not
/// know. So a name costs the same however many there are.
#[derive(Default)]
pub(super) struct SeenNames<'a> {
    few: ArrayVec<SeenName<'a>, 32>,
    many: Option<HashSet<(usize, FoldedName<'a>)>>,
}

struct SeenName<'a> {
    depth: usize,
    object: usize,
    name: FoldedName<'a>,
}

impl<'a> SeenNames<'a> {
    /// Whether this object has had this name. Members are told behind those inside their values.
    pub(super) fn repeats(&mut self, depth: usize, object: usize, name: Cow<'a, [u8]>) -> bool {
        let name = FoldedName(name);
        if let Some(many) = &mut self.many {
            return !many.insert((object, name));
        }
        // Objects that stand deeper have ended, and so have others that stand as deep.
        while let Some(last) = self.few.last()
            && (last.depth > depth || (last.depth == depth && last.object != object))
        {
            self.few.pop();
        }
        let own = self
            .few
            .iter()
            .rev()
            .take_while(|seen| seen.object == object);
        if own.into_iter().any(|seen| seen.name == name) {
            return true;
        }
        let seen = SeenName {
            depth,
            object,
            name,
        };
        if let Err(full) = self.few.try_push(seen) {
            let all = self.few.drain(..).chain([full.element()]);
            self.many = Some(all.map(|seen| (seen.object, seen.name)).collect());
        }
        false
    }
}

/// A name of which case does not matter.
#[derive(Debug, Eq)]
struct FoldedName<'a>(Cow<'a, [u8]>);

impl PartialEq for FoldedName<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Hash for FoldedName<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for piece in self.0.chunks(32) {
            let mut folded = [0; 32];
            folded[..piece.len()].copy_from_slice(piece);
            folded.make_ascii_lowercase();
            state.write(&folded[..piece.len()]);
        }
        state.write_u8(0xff);
    }
}
