//! Seen names: finds a member name that an object repeats.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use arrayvec::ArrayVec;

/// The names of all open objects of a text. Names that differ only in case are equal.
///
/// Up to 32 names are compared in turn, without heap allocation. More names are hashed, with a key that callers do not
/// know. So the cost of a name does not grow with the number of names.
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
    /// Whether the object at `object` already has this name. A member comes after the members inside its value.
    pub(super) fn repeats(&mut self, depth: usize, object: usize, name: Cow<'a, [u8]>) -> bool {
        let name = FoldedName(name);
        if let Some(many) = &mut self.many {
            return !many.insert((object, name));
        }
        // Deeper objects have ended, and so have other objects at the same depth.
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

/// A name that is compared without regard to ASCII case.
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
