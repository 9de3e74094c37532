//! Sorted lists of many items of which few change at a time.

use std::cmp::Ordering;
use std::mem;

/// More than this are sorted in together; each by itself moves half of the list.
const ONE_BY_ONE: usize = 16;

/// Adds items to a sorted list. Of equal items the later one comes last.
pub(super) fn insert_sorted<T>(
    list: &mut Vec<T>,
    mut items: Vec<T>,
    order: impl Fn(&T, &T) -> Ordering,
) {
    if items.len() > ONE_BY_ONE {
        if list.is_empty() {
            mem::swap(list, &mut items);
        }
        list.extend(items);
        // Sorting takes memory even where it has nothing to do, as with the first reading of files.
        if !list.is_sorted_by(|one, other| order(one, other).is_le()) {
            list.sort_by(order);
        }
        return;
    }
    for item in items {
        let at = list.partition_point(|other| order(other, &item).is_le());
        list.insert(at, item);
    }
}

/// Hashes, in order; one may be there several times.
#[derive(Default)]
pub(super) struct SortedHashes(Vec<u64>);

impl SortedHashes {
    /// Takes out each of some hashes once, and puts others in.
    pub(super) fn exchange(&mut self, mut left: Vec<u64>, came: Vec<u64>) {
        if !left.is_empty() {
            left.sort_unstable();
            let mut left = left.into_iter().peekable();
            self.0.retain(|hash| {
                while left.next_if(|other| other < hash).is_some() {}
                left.next_if_eq(hash).is_none()
            });
        }
        if self.0.is_empty() {
            // All at a start: a stable sort would take as much memory again.
            self.0 = came;
            self.0.sort_unstable();
        } else {
            insert_sorted(&mut self.0, came, u64::cmp);
        }
    }

    pub(super) fn contains(&self, hash: u64) -> bool {
        self.0.binary_search(&hash).is_ok()
    }

    /// The hashes that are in another list, too. One walk along the two.
    pub(super) fn common(&self, other: &Self) -> impl Iterator<Item = u64> {
        let mut rest = &other.0[..];
        self.0.iter().copied().filter(move |hash| {
            let passed = rest.iter().take_while(|other| *other < hash).count();
            rest = &rest[passed..];
            rest.first() == Some(hash)
        })
    }

    /// The hashes that are there several times.
    pub(super) fn repeated(&self) -> impl Iterator<Item = u64> {
        let pairs = self.0.windows(2);
        pairs.filter(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Of few values, so that many are equal.
    fn few() -> impl Strategy<Value = Vec<u64>> {
        vec(0..40_u64, 0..40)
    }

    proptest! {
        #[test]
        fn hashes_after_exchanges_are_those_of_a_list_built_from_nothing(
            rounds in vec((few(), few()), 1..8)
        ) {
            let (mut hashes, mut all) = (SortedHashes::default(), Vec::new());
            for (wanted, came) in rounds {
                let mut left = Vec::new();
                for hash in wanted {
                    if let Some(at) = all.iter().position(|other| *other == hash) {
                        left.push(all.swap_remove(at));
                    }
                }
                all.extend(&came);
                all.sort_unstable();
                hashes.exchange(left, came);
                prop_assert_eq!(&hashes.0, &all);
                for hash in 0..40 {
                    prop_assert_eq!(hashes.contains(hash), all.contains(&hash));
                    let count = all.iter().filter(|other| **other == hash).count();
                    let repeated = hashes.repeated().any(|other| other == hash);
                    prop_assert_eq!(repeated, count > 1);
                }
            }
        }

        #[test]
        fn common_hashes_are_those_that_both_lists_have(one in few(), other in few()) {
            let sorted = |hashes: &[u64]| {
                let mut sorted = SortedHashes::default();
                sorted.exchange(Vec::new(), hashes.to_vec());
                sorted
            };
            let mut expected = one.clone();
            expected.sort_unstable();
            expected.retain(|hash| other.contains(hash));
            let common: Vec<_> = sorted(&one).common(&sorted(&other)).collect();
            prop_assert_eq!(common, expected);
        }

        #[test]
        fn items_are_inserted_as_a_stable_sort_places_them(
            mut list in few(), items in few()
        ) {
            list.sort_unstable();
            let mut list: Vec<_> = list.into_iter().map(|number| (number, false)).collect();
            let items: Vec<_> = items.into_iter().map(|number| (number, true)).collect();
            let mut expected = [&list[..], &items].concat();
            expected.sort_by_key(|(number, _)| *number);
            insert_sorted(&mut list, items, |one, other| one.0.cmp(&other.0));
            prop_assert_eq!(list, expected);
        }
    }
}
