//! Seen names: finds a member name that an object repeats.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher, RandomState};

use arrayvec::ArrayVec;

/// The names of all open objects of a text. Names that differ only in case are equal.
///
/// Up to 32 names are compared in turn, without heap allocation. More names are hashed, with a key that callers do not
/// know. So the cost of a name does not grow with the number of names.
#[derive(Default)]
pub(super) struct SeenNames<'a> {
    few: ArrayVec<SeenName<'a>, 32>,
    many: Option<ManyNames<'a>>,
}

/// Names by a hash that is computed once for each, also while their number grows.
struct ManyNames<'a> {
    key: RandomState,
    names: HashSet<NameInObject<'a>, BuildHasherDefault<KnownHash>>,
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
            return !many.insert(object, name);
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
            let mut many = ManyNames {
                key: RandomState::new(),
                names: HashSet::default(),
            };
            for seen in self.few.drain(..).chain([full.element()]) {
                many.insert(seen.object, seen.name);
            }
            self.many = Some(many);
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

/// A name of the object at a place.
#[derive(PartialEq, Eq)]
struct NameInObject<'a> {
    hash: u64,
    object: usize,
    name: FoldedName<'a>,
}

impl Hash for NameInObject<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Takes a hash as it is.
#[derive(Default)]
struct KnownHash(u64);

impl Hasher for KnownHash {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a name has its hash");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl<'a> ManyNames<'a> {
    /// Adds a name; returns whether it is new.
    fn insert(&mut self, object: usize, name: FoldedName<'a>) -> bool {
        let hash = self.hash(object, &name.0);
        let name = NameInObject { hash, object, name };
        self.names.insert(name)
    }

    /// Most names are hashed by one call, together with their object: a caller chooses how many there are.
    fn hash(&self, object: usize, name: &[u8]) -> u64 {
        const PLACE: usize = size_of::<usize>();
        let mut state = self.key.build_hasher();
        let (first, rest) = name.split_at(name.len().min(32));
        let mut folded = [0; PLACE + 32];
        folded[..PLACE].copy_from_slice(&object.to_ne_bytes());
        folded[PLACE..][..first.len()].copy_from_slice(first);
        folded[PLACE..].make_ascii_lowercase();
        state.write(&folded[..PLACE + first.len()]);
        for piece in rest.chunks(32) {
            let mut folded = [0; 32];
            folded[..piece.len()].copy_from_slice(piece);
            folded.make_ascii_lowercase();
            state.write(&folded[..piece.len()]);
        }
        state.finish()
    }
}
