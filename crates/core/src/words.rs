//! Sentences for people: numbers with their nouns, and where a sentence begins.

use std::fmt::Display;

/// Returns a number with its noun: "1 segment", "0 segments", "2 segments". The plural of every noun used here
/// ends in s.
pub fn count<N: Copy + Display + TryInto<u64>>(number: N, noun: &str) -> String {
    format!("{number} {noun}{}", either(number, "", "s"))
}

/// Returns the first text for one thing, and the second for none or many.
pub fn either<'t, N: TryInto<u64>>(number: N, one: &'t str, many: &'t str) -> &'t str {
    if matches!(number.try_into(), Ok(1)) { one } else { many }
}

/// Makes a sentence of its own out of what could stand within one: a capital first, a full stop last.
#[must_use]
pub fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(char::to_uppercase).into_iter().flatten();
    let mut sentence: String = first.chain(chars).collect();
    if !sentence.is_empty() && !sentence.ends_with(['.', '?', '!']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "1 segments", "checked 1 files", "The file is damaged in 1 more places".
    #[test]
    fn one_thing_is_one_thing() {
        let counted = [0_u64, 1, 2].map(|number| count(number, "file"));
        assert_eq!(counted, ["0 files", "1 file", "2 files"]);
        assert_eq!(count(1_usize, "WAL segment"), "1 WAL segment");
        assert_eq!([0_u64, 1, 2].map(|number| either(number, "is", "are")), ["are", "is", "are"]);
    }

    #[test]
    fn a_sentence_has_a_capital_and_one_full_stop() {
        for (text, expected) in [
            ("", ""),
            ("ärger", "Ärger."),
            ("\"x\" is on.", "\"x\" is on."),
            ("is it there?", "Is it there?"),
        ] {
            assert_eq!(sentence(text), expected);
        }
    }
}
