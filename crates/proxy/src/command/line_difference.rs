//! The lines that differ between two versions of a file.

/// The removed lines with `-` and the added ones with `+`, each with its number in the version that has it.
pub(crate) fn difference(before: &str, after: &str) -> Vec<String> {
    let [before, after] = [before, after].map(|text| text.lines().collect::<Vec<_>>());
    let same = |(one, other): &(&&str, &&str)| one == other;
    let head = before.iter().zip(&after).take_while(same).count();
    let rest = before[head..].iter().rev().zip(after[head..].iter().rev());
    let tail = rest.take_while(same).count();
    let old = &before[head..before.len() - tail];
    let new = &after[head..after.len() - tail];
    let mut lines = Vec::new();
    let (mut at_old, mut at_new) = (0, 0);
    let common = longest_common(old, new);
    for (common_old, common_new) in common.into_iter().chain([(old.len(), new.len())]) {
        let removed = old[at_old..common_old].iter().zip(head + at_old + 1..);
        lines.extend(removed.map(|(line, number)| format!("-{number}: {line}")));
        let added = new[at_new..common_new].iter().zip(head + at_new + 1..);
        lines.extend(added.map(|(line, number)| format!("+{number}: {line}")));
        (at_old, at_new) = (common_old + 1, common_new + 1);
    }
    lines
}

/// The longest sequence of lines that both have, as pairs of positions.
fn longest_common(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    // The length of the longest sequence from each pair of positions on.
    let mut lengths = vec![0_usize; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * width + j] = if old[i] == new[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_differ_are_told_with_their_numbers() {
        assert!(difference("a\nb\n", "a\nb\n").is_empty());
        assert_eq!(
            difference("a\nb\nc\nd\ne\n", "a\nB\nc\nd\nnew\ne\n"),
            ["-2: b", "+2: B", "+5: new"]
        );
        assert_eq!(difference("a\n", ""), ["-1: a"]);
        assert_eq!(difference("", "a\n"), ["+1: a"]);
    }
}
