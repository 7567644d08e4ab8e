//! A bucket's lifecycle rules, as far as they delete or move by age what an archive cannot be without: the
//! identity and the history files, which are as old as the archive and small.

use crate::store::identity;
use crate::store::object::ask::shown;
use crate::store::object::xml;
use crate::words;

/// Identities and history files are smaller: a rule for larger objects does not mean them.
const SMALL: u64 = 64 << 10;

/// Storage classes out of which an object can be read at once.
const READABLE: [&str; 5] =
    ["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"];

/// A rule, as far as it was read.
#[derive(Debug, Default)]
struct Rule {
    id: String,
    enabled: bool,
    prefix: String,
    /// It is for objects with a tag, which an archive's have not, or for large ones.
    for_others: bool,
    deletes: Option<String>,
    moves: Option<String>,
    moves_to: String,
}

/// Returns the rules of a bucket that delete or move the identity or a history file in a directory of it, each in
/// words. `directory` ends with a slash, or is empty.
///
/// # Errors
/// The text is not one of such rules.
pub(super) fn by_age(text: &[u8], directory: &str) -> Result<Vec<String>, String> {
    let (mut found, mut rule) = (Vec::new(), Rule::default());
    xml::elements(text, &mut |path, text| {
        let Some(("LifecycleConfiguration", path)) =
            path.split_first().map(|(first, rest)| (first.as_str(), rest))
        else {
            return;
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["Rule"] => found.extend(std::mem::take(&mut rule).words(directory)),
            ["Rule", "ID"] => rule.id = shown(text),
            ["Rule", "Status"] => rule.enabled = text == "Enabled",
            ["Rule", "Prefix"] | ["Rule", "Filter", .., "Prefix"] => {
                text.clone_into(&mut rule.prefix)
            }
            ["Rule", "Filter", .., "Tag"] => rule.for_others = true,
            ["Rule", "Filter", .., "ObjectSizeGreaterThan"] => {
                rule.for_others |= text.parse().is_ok_and(|size: u64| size >= SMALL);
            }
            ["Rule", "Expiration", "Days" | "Date"] => rule.deletes = Some(shown(text)),
            ["Rule", "Transition", "Days" | "Date"] => rule.moves = Some(shown(text)),
            ["Rule", "Transition", "StorageClass"] if !READABLE.contains(&text) => {
                rule.moves_to = shown(text);
            }
            _ => {}
        }
    })?;
    Ok(found)
}

impl Rule {
    fn words(self, directory: &str) -> Option<String> {
        if !self.enabled || self.for_others || !matches(&self.prefix, directory) {
            return None;
        }
        let when = |text: String| match text.parse() {
            Ok(days) => format!("after {}", words::count::<u64>(days, "day")),
            Err(_) => format!("on {text}"),
        };
        let does = match (self.deletes, self.moves) {
            (Some(at), _) => format!("deletes objects {}", when(at)),
            (None, Some(at)) if !self.moves_to.is_empty() => {
                format!("moves objects to {} {}", self.moves_to, when(at))
            }
            _ => return None,
        };
        Some(format!("the lifecycle rule \"{}\" {does}", self.id))
    }
}

/// Returns whether a rule for what begins so is one for the identity or for a history file.
fn matches(prefix: &str, directory: &str) -> bool {
    let Some(begin) = prefix.strip_prefix(directory) else { return directory.starts_with(prefix) };
    let hex = |c: char| matches!(c, '0'..='9' | 'A'..='F');
    let number: String = begin.chars().take(8).take_while(|c| hex(*c)).collect();
    let behind = begin.strip_prefix(number.as_str()).unwrap_or_default();
    // The first timeline has no history file, so that its WAL alone begins so.
    let is_history = match number.len() {
        8 => number != "00000001" && ".history".starts_with(behind),
        _ => behind.is_empty(),
    };
    identity::FILE_NAME.starts_with(begin) || is_history
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_rule_is_for_what_its_prefix_begins() {
        for prefix in [
            "",
            "a",
            "a/",
            "a/w",
            "a/walsafe_archive.id",
            "a/0000000",
            "a/00000002",
            "a/0000000A.hi",
        ] {
            assert!(matches(prefix, "a/"), "{prefix}");
        }
        for prefix in
            ["b", "a/b", "a/00000001", "a/000000020", "a/000000020000000000000001", "a/00000002.x"]
        {
            assert!(!matches(prefix, "a/"), "{prefix}");
        }
        assert!(matches("", "") && matches("wal", "") && !matches("x", ""));
    }

    /// The identity goes after the time that segments may, and a year later nothing tells whose archive it is.
    #[test]
    fn rules_that_take_the_identity_away_are_told_and_no_others() {
        let rule = |id: &str, status: &str, filter: &str, what: &str| {
            format!("<Rule><ID>{id}</ID>{filter}<Status>{status}</Status>{what}</Rule>")
        };
        let days = "<Expiration><Days>30</Days></Expiration>";
        let date = "<Expiration><Date>2027-01-01T00:00:00Z</Date></Expiration>";
        let moves = |class: &str| {
            format!("<Transition><Days>1</Days><StorageClass>{class}</StorageClass></Transition>")
        };
        let old = "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>";
        let large = "<Filter><And><Prefix/><ObjectSizeGreaterThan>131072</ObjectSizeGreaterThan></And></Filter>";
        let tagged = "<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>";
        let of = |prefix: &str| format!("<Filter><Prefix>{prefix}</Prefix></Filter>");
        let text: String = [
            rule("all", "Enabled", "<Filter/>", days),
            rule("old way", "Enabled", "<Prefix>p/</Prefix>", date),
            rule("cold", "Enabled", &of("p"), &moves("DEEP_ARCHIVE")),
            rule("off", "Disabled", "<Filter/>", days),
            rule("others", "Enabled", &of("q/"), days),
            rule("wal", "Enabled", &of("p/0000000100"), days),
            rule("large", "Enabled", large, days),
            rule("tagged", "Enabled", tagged, days),
            rule("warm", "Enabled", "<Filter/>", &moves("STANDARD_IA")),
            rule("versions", "Enabled", "<Filter/>", old),
        ]
        .concat();
        let text = format!("<LifecycleConfiguration xmlns=\"x\">{text}</LifecycleConfiguration>");
        assert_eq!(
            by_age(text.as_bytes(), "p/").unwrap(),
            [
                "the lifecycle rule \"all\" deletes objects after 30 days",
                "the lifecycle rule \"oldway\" deletes objects on 2027-01-01T00:00:00Z",
                "the lifecycle rule \"cold\" moves objects to DEEP_ARCHIVE after 1 day",
            ]
        );
        assert!(by_age(b"<LifecycleConfiguration><Rule>", "p/").is_err());
        assert!(by_age(b"nothing", "p/").is_err());
    }
}
