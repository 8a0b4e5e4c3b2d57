//! Patterns over names: `*` stands for any characters, `?` for one, and everything else for itself, ASCII
//! letters in either case. Rooms' lists of servers are written in them, and the operator's.
//!
//! Matching costs time in proportion to the pattern, whatever it says and whatever the name is:
//! patterns come from any room's administrators.

use std::collections::BTreeMap;

/// One pattern.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Every text is a pattern.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of a text is as the pattern says. For several patterns, [`Subject`] is read
    /// once.
    pub fn matches(&self, text: &str) -> bool {
        Subject::of(text).matches(self)
    }
}

impl std::fmt::Debug for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A text made ready to be held against patterns.
#[derive(Clone, Debug)]
pub struct Subject {
    length: usize,
    /// For each character of the text, where it stands.
    places: BTreeMap<char, Places>,
}

impl Subject {
    /// Reads a text.
    pub fn of(text: &str) -> Self {
        let length = text.chars().count();
        let mut places: BTreeMap<char, Places> = BTreeMap::new();
        for (place, character) in text.chars().enumerate() {
            places
                .entry(folded(character))
                .or_insert_with(|| Places::none(length))
                .add(place);
        }
        Self { length, places }
    }

    /// The first of these patterns that matches.
    pub fn first_match<'a>(&self, globs: &'a [Glob]) -> Option<&'a Glob> {
        globs.iter().find(|glob| self.matches(glob))
    }

    /// Whether the whole text is as the pattern says.
    ///
    /// Goes through the pattern once, with the set of all places in the text at which what was
    /// read so far can end: so there is nothing to go back to.
    pub fn matches(&self, glob: &Glob) -> bool {
        let mut ends = Places::none(self.length);
        ends.add(0);
        for wanted in glob.0.chars() {
            match wanted {
                '*' => ends.all_after(),
                '?' => ends.one_on(),
                wanted => {
                    let Some(places) = self.places.get(&folded(wanted)) else {
                        return false;
                    };
                    ends.only(places);
                    ends.one_on();
                }
            }
            if ends.is_empty() {
                return false;
            }
        }
        ends.has(self.length)
    }
}

/// The same for every case of a letter. Two characters beyond ASCII are the same as one of it but for
/// their case.
const fn folded(character: char) -> char {
    match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => character.to_ascii_lowercase(),
    }
}

/// A set of places in a text, its end included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places(Vec<u64>);

impl Places {
    fn none(length: usize) -> Self {
        Self(vec![0; length / 64 + 1])
    }

    fn add(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    fn has(&self, place: usize) -> bool {
        let word = self.0.get(place / 64).copied().unwrap_or(0);
        word >> (place % 64) & 1 == 1
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn only(&mut self, others: &Self) {
        for (word, other) in self.0.iter_mut().zip(&others.0) {
            *word &= other;
        }
    }

    /// Moves every place one on. The bits past the end of the text that this can set never come
    /// back: nothing moves a place to the left, and only the end is asked for.
    fn one_on(&mut self) {
        let mut carried = 0;
        for word in &mut self.0 {
            let carry = *word >> 63;
            *word = *word << 1 | carried;
            carried = carry;
        }
    }

    /// Adds every place after the first.
    fn all_after(&mut self) {
        let mut begun = false;
        for word in &mut self.0 {
            if begun {
                *word = u64::MAX;
            } else if *word != 0 {
                // The lowest bit and all above it.
                *word |= word.wrapping_neg();
                begun = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_what_they_should() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("*", "hub.example", true),
            ("*.example", "hub.example", true),
            ("*.example", "example", false),
            ("*.Example", "HUB.example", true),
            ("hub.?xample", "hub.example", true),
            ("hub.?", "hub.example", false),
            ("h*b*e", "hub.example", true),
            ("h*b*x", "hub.example", false),
            ("", "", true),
            ("", "a", false),
            ("hub.example", "hub.example.evil", false),
            ("**a**", "xay", true),
            ("hub[.]example", "hub.example", false),
            ("m.é?", "m.é\u{20ac}", true),
            ("\u{17f}a\u{212a}e", "sake", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(text),
                matches,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_its_length_times_the_names() {
        let pattern = Glob::new("*a".repeat(10_000));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(260))));
    }

    /// The definition, as slow as it is plain.
    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| slowly(rest, &text[at..])),
            Some((b'?', rest)) => !text.is_empty() && slowly(rest, &text[1..]),
            Some((wanted, rest)) => text.first() == Some(wanted) && slowly(rest, &text[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn it_matches_what_the_definition_matches(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            let quickly = Glob::new(pattern.as_str()).matches(&text);
            prop_assert_eq!(quickly, slowly(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
