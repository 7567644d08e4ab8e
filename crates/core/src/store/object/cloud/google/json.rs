//! The JSON of Google Cloud Storage, as far as it is needed: the code of an error, and a page of a listing.

use serde_json::Value;

use super::super::{Entry, Next, Page};

/// Permissions that a refusal may say are missing.
const PERMISSIONS: [&str; 5] = [
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.get",
    "storage.objects.list",
    "storage.buckets.get",
];

/// Returns the code of an error (`error.errors[0].reason`), and the permission that is missing, or that it is a
/// retention policy, if it says so; empty if the text holds none.
pub(super) fn error_code(body: &[u8]) -> String {
    let Ok(json) = serde_json::from_slice::<Value>(body) else { return String::new() };
    let Some(error) = json.get("error") else { return String::new() };
    let reason = error.get("errors").and_then(|errors| errors.get(0)?.get("reason")?.as_str());
    let code: String = reason
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._".contains(*c))
        .take(64)
        .collect();
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    let missing = PERMISSIONS.iter().find(|permission| message.contains(**permission));
    match (code.as_str(), missing) {
        ("", _) => "an error without a code".to_owned(),
        ("forbidden", Some(permission)) => format!("forbidden {permission}"),
        ("forbidden", None) if message.contains("retention policy") => {
            "forbidden retentionPolicy".to_owned()
        }
        _ => code,
    }
}

/// Returns whether this is the description of an object with this name, length and MD5. The last one is missing now
/// and then.
pub(super) fn is_of(body: &[u8], key: &str, len: u64, md5: &str) -> bool {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| json.get(name).and_then(Value::as_str);
    text("kind") == Some("storage#object")
        && text("name") == Some(key)
        // A number of 64 bits is text in JSON.
        && text("size").and_then(|size| size.parse().ok()) == Some(len)
        && text("md5Hash").is_none_or(|known| known == md5)
}

/// The parts of a page that [`page`] reads.
pub(super) const FIELDS: &str = "kind,items(name,size,updated),prefixes,nextPageToken";

/// Reads a page of a listing. Objects and what stands for many come in lists of their own, and are put into one
/// order here.
///
/// # Errors
/// It is not a whole one.
pub(super) fn page(text: &[u8]) -> Result<Page, &'static str> {
    const BROKEN: &str = "a listing that is not whole";
    let json: Value = serde_json::from_slice(text).map_err(|_| BROKEN)?;
    // Without this, any answer would be an empty listing.
    if json.get("kind").and_then(Value::as_str) != Some("storage#objects") {
        return Err("what is not a listing");
    }
    let list = |name: &str| match json.get(name) {
        None => Ok([].as_slice()),
        Some(list) => list.as_array().map(Vec::as_slice).ok_or(BROKEN),
    };
    let mut entries = Vec::new();
    for item in list("items")? {
        let text = |name: &str| item.get(name).and_then(Value::as_str);
        entries.push(Entry {
            key: text("name").ok_or(BROKEN)?.to_owned(),
            // A number of 64 bits is text in JSON.
            len: text("size").and_then(|size| size.parse().ok()).ok_or(BROKEN)?,
            modified: text("updated").and_then(|time| humantime::parse_rfc3339(time).ok()),
        });
    }
    for prefix in list("prefixes")? {
        let key = prefix.as_str().ok_or(BROKEN)?.to_owned();
        entries.push(Entry { key, ..Entry::default() });
    }
    entries.sort_by(|one, other| one.key.cmp(&other.key));
    let next = match json.get("nextPageToken") {
        None => Next::Nowhere,
        Some(token) => Next::At(token.as_str().ok_or(BROKEN)?.to_owned()),
    };
    Ok(Page { entries, next })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_code_of_an_error_is_found_and_nothing_else_is_taken_for_one() {
        let error = br#"{"error": {"code": 412, "message": "At least one of the pre-conditions you specified did not hold.",
            "errors": [{"message": "m", "domain": "global", "reason": "conditionNotMet",
            "locationType": "header", "location": "If-Match"}]}}"#;
        assert_eq!(error_code(error), "conditionNotMet");
        let forbidden = br#"{"error": {"code": 403, "errors": [{"reason": "forbidden"}], "message":
            "hunter2 does not have storage.objects.create access to the Google Cloud Storage object."}}"#;
        assert_eq!(error_code(forbidden), "forbidden storage.objects.create");
        let held = br#"{"error": {"code": 403, "errors": [{"reason": "forbidden"}], "message":
            "Object 'b/o' is subject to bucket's retention policy and cannot be deleted or overwritten"}}"#;
        assert_eq!(error_code(held), "forbidden retentionPolicy");
        let odd = br#"{"error": {"errors": [{"reason": "Not Found <b>"}]}}"#;
        assert_eq!(error_code(odd), "NotFoundb");
        assert_eq!(error_code(b"{\"error\": {\"code\": 500}}"), "an error without a code");
        assert_eq!(error_code(b"{\"error\": \"x\"}"), "an error without a code");
        assert_eq!(error_code(br#"{"kind": "storage#object", "name": "error"}"#), "");
        assert_eq!(error_code(b"conditionNotMet"), "");
        assert_eq!(error_code(b""), "");
    }

    #[test]
    fn an_object_is_known_by_its_name_length_and_digest() {
        let object = |more: &str| format!(r#"{{"kind": "storage#object", "name": "p/a"{more}}}"#);
        let is_it = |text: &str| is_of(text.as_bytes(), "p/a", 5, "bWQ1");
        assert!(is_it(&object(r#", "size": "5", "md5Hash": "bWQ1", "crc32c": "x""#)));
        assert!(is_it(&object(r#", "size": "5""#)));
        for other in [
            String::new(),
            "<html>200</html>".to_owned(),
            object(""),
            object(r#", "size": "6""#),
            object(r#", "size": "5", "md5Hash": "bWQ2""#),
            object(r#", "size": "5""#).replace("p/a", "p/b"),
            object(r#", "size": "5""#).replace("object", "objects"),
        ] {
            assert!(!is_it(&other), "{other}");
        }
    }

    #[test]
    fn a_page_gives_its_keys_in_order_and_where_it_goes_on() {
        let text = br#"{"kind": "storage#objects", "nextPageToken": "CgNw==",
            "prefixes": ["p/b/"], "items": [
            {"name": "p/a", "size": "16777216", "updated": "2026-11-29T10:11:12.345Z"},
            {"name": "p/c \"x\"", "size": "0"}]}"#;
        let modified = humantime::parse_rfc3339("2026-11-29T10:11:12.345Z").ok();
        let entry = |key: &str, len, modified| Entry { key: key.to_owned(), len, modified };
        let entries = vec![
            entry("p/a", 16_777_216, modified),
            entry("p/b/", 0, None),
            entry("p/c \"x\"", 0, None),
        ];
        let next = Next::At("CgNw==".to_owned());
        assert_eq!(page(text).unwrap(), Page { entries, next });
        let empty = page(br#"{"kind": "storage#objects"}"#).unwrap();
        assert_eq!(empty, Page { entries: Vec::new(), next: Next::Nowhere });
    }

    /// A listing that ends early must not be an archive that ends early.
    #[test]
    fn half_a_page_is_no_page() {
        let text = r#"{"kind": "storage#objects", "items": [{"name": "a", "size": "1"}]}"#;
        assert!(page(text.as_bytes()).is_ok());
        for len in 0..text.len() {
            assert!(page(text.get(..len).unwrap().as_bytes()).is_err(), "{len}");
        }
        for other in [
            "{}",
            r#"{"kind": "storage#object"}"#,
            r#"{"kind": "storage#objects", "items": {}}"#,
            r#"{"kind": "storage#objects", "items": [{"size": "1"}]}"#,
            r#"{"kind": "storage#objects", "items": [{"name": "a"}]}"#,
            r#"{"kind": "storage#objects", "nextPageToken": 5}"#,
            "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
        ] {
            assert!(page(other.as_bytes()).is_err(), "{other}");
        }
    }
}
