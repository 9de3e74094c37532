//! A table of admitted stamps, laid out for the memory it is read from.
//!
//! A look-up reads one cache line in most cases, else mostly the one beside it, and the entry that a later call of
//! [`StampTable::insert`] adds goes into the line that was read last. With some hundred thousand stamps no line is in a
//! near cache, so what a request waits for is how many lines it asks for. A table with its tags apart from its entries
//! asks for two: for one when it looks, for the other once it writes.

use super::StampHash;

/// The stamps of one slice of time, and when each was admitted. It only grows: a slice is forgotten as a whole.
#[derive(Default)]
pub(super) struct StampTable {
    /// Their number is a power of two, or none before the first entry.
    lines: Box<[StampLine]>,
    entries: usize,
}

/// An admitted stamp.
#[derive(Clone, Copy)]
pub(super) struct StampEntry {
    pub(super) print: StampHash,
    /// When it was admitted, in milliseconds from the start of its slice: the stamp may lie either side of that.
    pub(super) admitted: i32,
}

/// One cache line of entries. An entry whose line is full goes into the next that is not.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct StampLine {
    prints: [StampHash; IN_LINE],
    admitted: [i32; IN_LINE],
    used: u32,
}

/// The number of entries in a line.
const IN_LINE: usize = 3;

const _: () = assert!(size_of::<StampLine>() == 64);

impl StampLine {
    const EMPTY: Self = Self {
        prints: [StampHash { high: 0, low: 0 }; IN_LINE],
        admitted: [0; IN_LINE],
        used: 0,
    };

    fn entries(&self) -> impl Iterator<Item = StampEntry> + '_ {
        let all = self.prints.iter().zip(&self.admitted);
        all.take(self.used as usize)
            .map(|(&print, &admitted)| StampEntry { print, admitted })
    }
}

impl StampTable {
    /// When this stamp was admitted, in milliseconds from the start of its slice.
    pub(super) fn admitted(&self, print: StampHash) -> Option<i32> {
        let mut at = self.line_of(print)?;
        loop {
            let line = &self.lines[at];
            if let Some(found) = line.entries().find(|entry| entry.print == print) {
                return Some(found.admitted);
            }
            if (line.used as usize) < IN_LINE {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Adds a stamp that is not in the table.
    pub(super) fn insert(&mut self, entry: StampEntry) {
        // At most three quarters are used, so there always is a line that is not full.
        if (self.entries + 1) * 4 > self.lines.len() * IN_LINE * 3 {
            self.grow();
        }
        self.put(entry);
        self.entries += 1;
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = StampEntry> + '_ {
        self.lines.iter().flat_map(StampLine::entries)
    }

    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// The memory that its lines take, in bytes.
    pub(super) fn allocated(&self) -> usize {
        size_of_val(&*self.lines)
    }

    fn put(&mut self, entry: StampEntry) {
        let mut at = self.line_of(entry.print).expect("there is room");
        while self.lines[at].used as usize == IN_LINE {
            at = self.after(at);
        }
        let line = &mut self.lines[at];
        let place = line.used as usize;
        (line.prints[place], line.admitted[place]) = (entry.print, entry.admitted);
        line.used += 1;
    }

    #[cold]
    fn grow(&mut self) {
        let lines = (self.lines.len() * 2).max(1);
        let before = std::mem::replace(&mut self.lines, vec![StampLine::EMPTY; lines].into());
        for entry in before.iter().flat_map(StampLine::entries) {
            self.put(entry);
        }
    }

    /// The line that a stamp is looked for in first.
    fn line_of(&self, print: StampHash) -> Option<usize> {
        let last = self.lines.len().checked_sub(1)?;
        // Their number is a power of two. The hash is keyed, so nobody can aim at a line.
        Some(usize::try_from(print.high & last as u64).expect("a line's number is small"))
    }

    fn after(&self, line: usize) -> usize {
        (line + 1) & (self.lines.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip128::SipHasher24;
    use std::collections::HashMap;

    proptest! {
        /// Whatever the hashes are, even if they all ask for the same lines, the table knows each stamp that was put into
        /// it, and no other.
        #[test]
        fn a_table_has_what_was_put_into_it(
            stamps in prop::collection::hash_map((0..40_u64, 0..40_u64), any::<i32>(), 0..400),
        ) {
            let mut table = StampTable::default();
            let mut known = HashMap::new();
            let print = |(high, low)| StampHash { high, low };
            for (stamp, admitted) in stamps {
                prop_assert_eq!(table.admitted(print(stamp)), None);
                table.insert(StampEntry { print: print(stamp), admitted });
                known.insert(stamp, admitted);
                prop_assert_eq!(table.admitted(print(stamp)), Some(admitted));
            }
            for stamp in (0..40).flat_map(|high| (0..40).map(move |low| (high, low))) {
                prop_assert_eq!(table.admitted(print(stamp)), known.get(&stamp).copied());
            }
            prop_assert_eq!(table.len(), known.len());
            let all = table.entries().map(|entry| ((entry.print.high, entry.print.low), entry.admitted));
            prop_assert_eq!(all.collect::<HashMap<_, _>>(), known);
        }
    }

    /// What makes it fast, and what it may cost: with hashes as they come, a look-up reads 1.7 lines at most in the mean,
    /// and a table that has more than a few takes 57 bytes for an entry at most.
    #[test]
    fn a_look_up_reads_little_more_than_a_line() {
        let mut table = StampTable::default();
        let hash = SipHasher24::new_with_key(&[7; 16]);
        let print = |number: u64| StampHash::from(hash.hash(&number.to_le_bytes()));
        let read = |table: &StampTable, print: StampHash| {
            let (mut at, mut lines) = (table.line_of(print).unwrap(), 1);
            while table.lines[at].used as usize == IN_LINE {
                at = table.after(at);
                lines += 1;
            }
            lines
        };
        let (mut lines, mut looked) = (0, 0);
        for number in 0..100_000 {
            table.insert(StampEntry {
                print: print(number),
                admitted: 0,
            });
            if number > 1_000 {
                assert!(table.allocated() <= 57 * table.len(), "{number}");
                lines += read(&table, print(number + 1_000_000));
                looked += 1;
            }
        }
        println!("{lines} lines in {looked} looks");
        assert!(lines * 10 <= looked * 17, "{lines} lines in {looked} looks");
    }
}
