//! What a bucket of Google's says of its rules (the JSON of a bucket), as far as an archive is concerned.

use serde_json::Value;

use crate::store::identity;
use crate::store::object::ask::shown;
use crate::store::trials::Rules;
use crate::words;

/// The parts of a bucket's description that [`rules`] reads.
pub(super) const FIELDS: &str = "kind,versioning,lifecycle,retentionPolicy,objectRetention";

/// Reads what a bucket says of its rules. `directory` ends with a slash, or is empty.
pub(super) fn rules(text: Result<Option<Vec<u8>>, String>, directory: &str) -> Rules {
    let told = text.and_then(|text| {
        let json: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
        json.filter(|json| json.get("kind").and_then(Value::as_str) == Some("storage#bucket"))
            .ok_or_else(|| "what came is not its description".to_owned())
    });
    let bucket = match told {
        Ok(bucket) => bucket,
        Err(reason) => {
            let keeps_versions = Err(reason.clone());
            return Rules { keeps_versions, locks: Err(reason.clone()), by_age: Err(reason) };
        }
    };
    let at = |path: &str| bucket.pointer(path);
    let lists = at("/lifecycle/rule").and_then(Value::as_array);
    let by_age = lists.into_iter().flatten().filter_map(|rule| words(rule, directory));
    Rules {
        keeps_versions: Ok(at("/versioning/enabled") == Some(&Value::Bool(true))),
        locks: Ok(at("/retentionPolicy").is_some()
            || at("/objectRetention/mode").and_then(Value::as_str) == Some("Enabled")),
        by_age: Ok(by_age.collect()),
    }
}

/// Returns in words what a rule does to the identity or to a history file; `None` if it leaves both alone. Objects
/// of every class of Google's can be read at once, so one that moves does no harm.
fn words(rule: &Value, directory: &str) -> Option<String> {
    let condition = rule.get("condition")?;
    let is_for_others = condition.get("isLive") == Some(&Value::Bool(false))
        // These are of versions that are not the current one, and of times that an archive's objects lack.
        || ["numNewerVersions", "daysSinceNoncurrentTime", "noncurrentTimeBefore", "daysSinceCustomTime", "customTimeBefore"]
            .iter()
            .any(|name| condition.get(*name).is_some_and(|value| value.as_u64() != Some(0)));
    let deletes = rule.pointer("/action/type").and_then(Value::as_str) == Some("Delete");
    if !deletes || is_for_others {
        return None;
    }
    let texts = |name: &str| -> Vec<&str> {
        let list = condition.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let (begins, ends) = (texts("matchesPrefix"), texts("matchesSuffix"));
    let begins = |name: &str, is_begin: &dyn Fn(&str, &str) -> bool| {
        begins.is_empty() || begins.iter().any(|begin| is_begin(begin, name))
    };
    let ends = |name: &str| ends.is_empty() || ends.iter().any(|end| name.ends_with(end));
    let id = format!("{directory}{}", identity::FILE_NAME);
    let takes_identity = begins(&id, &|begin, name| name.starts_with(begin)) && ends(&id);
    // Any number may stand before the dot.
    let takes_history =
        begins("", &|begin, _| is_begin_of_history(begin, directory)) && ends("00000000.history");
    if !takes_identity && !takes_history {
        return None;
    }
    let age = condition.get("age").and_then(Value::as_u64);
    let before = condition.get("createdBefore").and_then(Value::as_str);
    let when = match (age, before) {
        (Some(days), _) => format!(" after {}", words::count(days, "day")),
        (None, Some(date)) => format!(" of before {}", shown(date)),
        (None, None) => String::new(),
    };
    Some(format!("a lifecycle rule deletes objects{when}"))
}

/// Returns whether a history file's name in a directory can begin so.
fn is_begin_of_history(begin: &str, directory: &str) -> bool {
    let Some(rest) = begin.strip_prefix(directory) else { return directory.starts_with(begin) };
    let hex = |c: char| matches!(c, '0'..='9' | 'A'..='F');
    let number: String = rest.chars().take(8).take_while(|c| hex(*c)).collect();
    let behind = rest.strip_prefix(number.as_str()).unwrap_or_default();
    behind.is_empty() || (number.len() == 8 && ".history".starts_with(behind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(rules_text: &str) -> Vec<String> {
        let text =
            format!(r#"{{"kind": "storage#bucket", "lifecycle": {{"rule": [{rules_text}]}}}}"#);
        rules(Ok(Some(text.into_bytes())), "p/").by_age.unwrap()
    }

    /// The identity goes after the time that segments may, and a year later nothing tells whose archive it is.
    #[test]
    fn rules_that_take_the_identity_or_history_away_are_told_and_no_others() {
        let delete = |condition: &str| {
            format!(r#"{{"action": {{"type": "Delete"}}, "condition": {{{condition}}}}}"#)
        };
        for (condition, days) in [
            (r#""age": 30"#, " after 30 days"),
            (r#""age": 1, "matchesPrefix": ["q/", "p/"]"#, " after 1 day"),
            (r#""age": 0, "matchesPrefix": ["p/wal"]"#, " after 0 days"),
            (r#""age": 9, "matchesSuffix": [".history"]"#, " after 9 days"),
            (r#""age": 9, "matchesPrefix": ["p/0000"]"#, " after 9 days"),
            (r#""age": 9, "matchesPrefix": ["p/00000002.h"]"#, " after 9 days"),
            (r#""age": 9, "matchesPrefix": ["p/w"], "matchesSuffix": ["id"]"#, " after 9 days"),
            (r#""createdBefore": "2026-01-31""#, " of before 2026-01-31"),
            (r#""age": 9, "isLive": true, "numNewerVersions": 0"#, " after 9 days"),
        ] {
            let told = format!("a lifecycle rule deletes objects{days}");
            assert_eq!(of(&delete(condition)), [told], "{condition}");
        }
        for condition in [
            r#""age": 30, "matchesPrefix": ["q/"]"#,
            r#""age": 30, "matchesPrefix": ["p/000000010", "p/0000000200"]"#,
            r#""age": 30, "matchesPrefix": ["p/00000001"], "matchesSuffix": [".zst", ".lz4"]"#,
            r#""age": 30, "matchesPrefix": ["p/w"], "matchesSuffix": [".history"]"#,
            r#""age": 30, "isLive": false"#,
            r#""daysSinceNoncurrentTime": 7"#,
            r#""numNewerVersions": 3"#,
            r#""daysSinceCustomTime": 3"#,
        ] {
            assert_eq!(of(&delete(condition)), [""; 0], "{condition}");
        }
        let cold = r#"{"action": {"type": "SetStorageClass", "storageClass": "ARCHIVE"},
            "condition": {"age": 30}}"#;
        let parts =
            r#"{"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 1}}"#;
        assert_eq!(of(&format!("{cold}, {parts}")), [""; 0]);
    }

    #[test]
    fn versions_and_locks_are_told_and_what_is_no_answer_is_not_taken_for_one() {
        let read = |text: &str| rules(Ok(Some(text.as_bytes().to_vec())), "p/");
        let plain = read(r#"{"kind": "storage#bucket"}"#);
        let none = Rules { keeps_versions: Ok(false), locks: Ok(false), by_age: Ok(Vec::new()) };
        assert_eq!(plain, none);
        let both = read(
            r#"{"kind": "storage#bucket", "versioning": {"enabled": true},
            "retentionPolicy": {"retentionPeriod": "86400"}}"#,
        );
        assert_eq!((both.keeps_versions, both.locks), (Ok(true), Ok(true)));
        let single = read(r#"{"kind": "storage#bucket", "objectRetention": {"mode": "Enabled"}}"#);
        assert_eq!(single.locks, Ok(true));
        for other in ["{}", "<html>", ""] {
            assert!(read(other).by_age.is_err(), "{other}");
        }
        let forbidden = rules(Err("answered 403 forbidden".to_owned()), "p/");
        assert_eq!(forbidden.locks, Err("answered 403 forbidden".to_owned()));
        assert!(rules(Ok(None), "p/").keeps_versions.is_err());
    }
}
