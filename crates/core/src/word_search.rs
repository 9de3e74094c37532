//! Word search: finds several words in the letters of a name, in one pass over the name.
//!
//! A caller chooses the names in a body, and some thousand fit into one. A search for one word after another would cost each name
//! as many passes as there are words.

use std::array;

/// Words of lower-case letters, laid out for a search for all at once.
///
/// Each letter of each word has a bit. The bit is set while the letters so far end with the word up to that letter, so that one
/// shift moves all words on (Baeza-Yates and Gonnet, "A new approach to text searching", 1992). A word's bits lie in one lane.
pub(crate) struct WordSearch<const WORDS: usize, const LANES: usize> {
    words: [&'static str; WORDS],
    /// The bits of first letters.
    begins: [u64; LANES],
    /// For each letter of the alphabet, its bits.
    letters: [[u64; LANES]; 26],
    /// The lane and the bit of each word's last letter.
    ends: [(usize, u64); WORDS],
    /// The bits of all last letters.
    any_end: [u64; LANES],
}

impl<const WORDS: usize, const LANES: usize> WordSearch<WORDS, LANES> {
    /// A search for these words. Words that do not fit into the lanes do not compile.
    pub(crate) const fn new(words: [&'static str; WORDS]) -> Self {
        let mut search = Self {
            words,
            begins: [0; LANES],
            letters: [[0; LANES]; 26],
            ends: [(0, 0); WORDS],
            any_end: [0; LANES],
        };
        let (mut word, mut lane, mut next) = (0, 0, 0);
        while word < WORDS {
            let text = words[word].as_bytes();
            if next + text.len() > 64 {
                (lane, next) = (lane + 1, 0);
            }
            search.begins[lane] |= 1 << next;
            let mut at = 0;
            while at < text.len() {
                search.letters[(text[at] - b'a') as usize][lane] |= 1 << next;
                (at, next) = (at + 1, next + 1);
            }
            let end = 1 << (next - 1);
            search.ends[word] = (lane, end);
            search.any_end[lane] |= end;
            word += 1;
        }
        search
    }

    /// The first of the words, in the order given, that the letters contain.
    pub(crate) fn first_in(&self, letters: impl Iterator<Item = u8>) -> Option<&'static str> {
        let none = [0_u64; LANES];
        let (mut state, mut seen) = (none, none);
        for letter in letters {
            let at = letter.checked_sub(b'a').map(usize::from);
            let bits = at.and_then(|at| self.letters.get(at)).unwrap_or(&none);
            state = array::from_fn(|lane| ((state[lane] << 1) | self.begins[lane]) & bits[lane]);
            seen = array::from_fn(|lane| seen[lane] | state[lane]);
        }
        let ends: [u64; LANES] = array::from_fn(|lane| seen[lane] & self.any_end[lane]);
        if ends == none {
            return None;
        }
        let mut found = self.words.into_iter().zip(self.ends);
        let (word, _) = found.find(|(_, (lane, end))| seen[*lane] & end != 0)?;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WORDS: [&str; 5] = [
        "abab",
        "ba",
        "abba",
        "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccca",
        "cab",
    ];
    static SEARCH: WordSearch<5, 2> = WordSearch::new(WORDS);

    proptest! {
        #[test]
        fn words_are_found_as_one_after_another_finds_them(text in "[abc0]{0,12}|c{50,70}[ab]{0,4}") {
            let wanted = WORDS.into_iter().find(|word| text.contains(word));
            prop_assert_eq!(SEARCH.first_in(text.bytes()), wanted);
        }
    }
}
