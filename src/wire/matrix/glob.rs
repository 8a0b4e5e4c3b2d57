//! Patterns over server names: `*` for anything, `?` for one character, letters of either case.
//!
//! The work is bounded by the length of the pattern times that of the name, which is short; nothing
//! here goes back further than the last `*`.

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Every text is a pattern.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_ascii_lowercase())
    }

    /// As it was written, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        let (mut pattern, mut text) = (self.0.as_bytes(), text.as_bytes());
        // where to go on when what follows the last star does not match here
        let mut again: Option<(&[u8], &[u8])> = None;
        loop {
            match (pattern.split_first(), text.split_first()) {
                (Some((b'*', rest)), _) => {
                    again = Some((rest, text));
                    pattern = rest;
                    continue;
                }
                (Some((wanted, pattern_rest)), Some((found, text_rest)))
                    if wanted == found || *wanted == b'?' =>
                {
                    (pattern, text) = (pattern_rest, text_rest);
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            let Some((behind, from)) = again else {
                return false;
            };
            let Some((_, from)) = from.split_first() else {
                return false;
            };
            again = Some((behind, from));
            (pattern, text) = (behind, from);
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
        let pattern = Glob::new(&"*a".repeat(10_000));
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
            let quickly = Glob::new(&pattern).matches(&text);
            prop_assert_eq!(quickly, slowly(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
