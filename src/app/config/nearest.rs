//! Which known key someone probably meant.

use super::key::Key;

/// Names longer than this get no suggestion: nobody mistypes that much.
const NAME_CHARS_MAX: usize = 64;

/// The known key nearest to `wrong`, if one is near enough to be worth saying.
pub(super) fn nearest<'a>(wrong: &str, keys: impl Iterator<Item = &'a Key>) -> Option<&'a Key> {
    if wrong.chars().count() > NAME_CHARS_MAX {
        return None;
    }
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    let (section, short) = wrong.rsplit_once('.').unwrap_or(("", &wrong));
    keys.filter_map(|key| {
        // The right key in the wrong section is as good a guess as a mistyped one.
        let misplaced = distance(short, key.short()) + distance(section, key.section()).min(2);
        let cost = distance(&wrong, key.name).min(misplaced);
        (cost <= 2 + wrong.len() / 8).then_some((cost, key))
    })
    .min_by_key(|(cost, _)| *cost)
    .map(|(_, key)| key)
}

/// How many letters must be inserted, removed or replaced to make `a` into `b`.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (to, (diagonal, above)) in b.chars().zip(row.iter().zip(row.iter().skip(1))) {
            left = (diagonal + usize::from(from != to))
                .min(above + 1)
                .min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_insertions_removals_and_replacements() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("listen", "listen"), 0);
        assert_eq!(distance("lisen", "listen"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
