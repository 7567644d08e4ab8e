//! The XML of S3, as far as it is needed: the code of an error, and a page of a listing.

use std::time::SystemTime;

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::server::url::text::percent_decode;

/// Returns the code of an error; empty if the text holds none.
pub(super) fn error_code(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let code = text
        .contains("<Error")
        .then(|| text.split_once("<Code>")?.1.split_once("</Code>"))
        .flatten()
        .map_or("", |(code, _)| code.trim());
    if code.is_empty() && text.contains("<Error") {
        return "an error without a code".to_owned();
    }
    code.chars().filter(|c| c.is_ascii_alphanumeric() || "._".contains(*c)).take(64).collect()
}

/// Reads a text, and calls `each` with the path and the text of each element at its end: those in it come before
/// it.
///
/// # Errors
/// It is not a whole text of XML.
pub(super) fn elements(
    text: &[u8],
    each: &mut dyn FnMut(&[String], &str),
) -> Result<(), &'static str> {
    const BROKEN: &str = "the answer is not whole";
    let text = std::str::from_utf8(text).map_err(|_| BROKEN)?;
    let mut reader = Reader::from_str(text);
    let (mut path, mut text, mut whole) = (Vec::new(), String::new(), false);
    loop {
        match reader.read_event().map_err(|_| BROKEN)? {
            Event::Start(start) => {
                path.push(start.local_name().as_ref().to_owned());
                text.clear();
            }
            Event::Empty(start) => {
                path.push(start.local_name().as_ref().to_owned());
                each(&path, "");
                path.pop();
                whole |= path.is_empty();
            }
            Event::Text(piece) => text.push_str(&piece),
            Event::GeneralRef(name) => text.push(named(&name).ok_or(BROKEN)?),
            Event::End(_) => {
                each(&path, text.trim());
                path.pop();
                text.clear();
                whole |= path.is_empty();
            }
            Event::Eof => return if whole && path.is_empty() { Ok(()) } else { Err(BROKEN) },
            _ => {}
        }
    }
}

/// An object in a listing, or what stands for all keys with a slash behind the prefix.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) len: u64,
    pub(super) modified: Option<SystemTime>,
}

/// A page of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// What there is, in the server's order.
    pub(super) entries: Vec<Entry>,
    /// There is more behind the last one.
    pub(super) more: bool,
}

impl Page {
    /// Reads a page (`ListBucketResult`).
    ///
    /// # Errors
    /// The text is not a whole page.
    pub(super) fn parse(text: &[u8]) -> Result<Self, &'static str> {
        const BROKEN: &str = "a listing that is not whole";
        let text = std::str::from_utf8(text).map_err(|_| BROKEN)?;
        let mut reader = Reader::from_str(text);
        let (mut page, mut path, mut encoded, mut more) =
            (Self::default(), Vec::new(), false, None);
        let (mut text, mut whole, mut entry) = (String::new(), false, Entry::default());
        loop {
            match reader.read_event().map_err(|_| BROKEN)? {
                Event::Start(start) => {
                    path.push(start.local_name().as_ref().to_owned());
                    text.clear();
                }
                Event::Text(piece) => text.push_str(&piece),
                Event::GeneralRef(name) => text.push(named(&name).ok_or(BROKEN)?),
                Event::End(_) => {
                    let here: Vec<&str> = path.iter().map(String::as_str).collect();
                    match here.as_slice() {
                        ["ListBucketResult"] => whole = true,
                        ["ListBucketResult", "Contents", "Key"]
                        | ["ListBucketResult", "CommonPrefixes", "Prefix"] => {
                            entry.key = std::mem::take(&mut text);
                        }
                        ["ListBucketResult", "Contents", "Size"] => {
                            entry.len = text.trim().parse().unwrap_or_default();
                        }
                        ["ListBucketResult", "Contents", "LastModified"] => {
                            entry.modified = humantime::parse_rfc3339(text.trim()).ok();
                        }
                        ["ListBucketResult", "Contents" | "CommonPrefixes"] => {
                            page.entries.push(std::mem::take(&mut entry));
                        }
                        ["ListBucketResult", "IsTruncated"] => more = Some(text == "true"),
                        ["ListBucketResult", "EncodingType"] => encoded = text == "url",
                        _ => {}
                    }
                    path.pop();
                    text.clear();
                }
                Event::Eof => break,
                _ => {}
            }
        }
        page.more = more.filter(|_| whole).ok_or(BROKEN)?;
        if encoded {
            for Entry { key, .. } in &mut page.entries {
                *key = percent_decode(&key.replace('+', " ")).ok_or(BROKEN)?;
            }
        }
        Ok(page)
    }
}

/// Returns the character that a reference stands for.
fn named(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let number = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(number.ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_code_of_an_error_is_found_and_nothing_else_is_taken_for_one() {
        let error = br#"<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Key>x</Key></Error>"#;
        assert_eq!(error_code(error), "NoSuchKey");
        assert_eq!(
            error_code(b"<Error xmlns='x'><Message>m</Message><Code>Slow Down</Code></Error>"),
            "SlowDown"
        );
        let many = b"<Error><Message>&#34;m&#x22;</Message>\n<Code>\n SlowDown\n</Code></Error>";
        assert_eq!(error_code(many), "SlowDown");
        assert_eq!(error_code(b"<Code>NoSuchKey</Code>"), "");
        assert_eq!(error_code(b"<html>404</html>"), "");
        assert_eq!(error_code(b""), "");
        assert_ne!(error_code(b"<Error><Message>m</Message></Error>"), "");
    }

    #[test]
    fn a_page_gives_its_keys_and_whether_there_is_more() {
        let page = br#"<?xml version="1.0"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
            <Name>b</Name><Prefix>p/</Prefix><KeyCount>2</KeyCount><IsTruncated>true</IsTruncated>
            <Contents><Key>p/a&amp;b&#x41;&#34;&#x22;</Key><ETag>&#34;1&#34;</ETag><Size>17</Size>
                <LastModified>2026-11-29T10:11:12.345Z</LastModified><Owner><ID>Key</ID></Owner></Contents>
            <CommonPrefixes><Prefix>p/sub/</Prefix></CommonPrefixes></ListBucketResult>"#;
        let page = Page::parse(page).unwrap();
        let modified = humantime::parse_rfc3339("2026-11-29T10:11:12.345Z").ok();
        let entry = |key: &str, len, modified| Entry { key: key.to_owned(), len, modified };
        let entries = vec![entry("p/a&bA\"\"", 17, modified), entry("p/sub/", 0, None)];
        assert_eq!(page, Page { entries, more: true });
        let encoded = b"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated><Contents><Key>a%2Fb+c</Key></Contents></ListBucketResult>";
        let entries = vec![entry("a/b c", 0, None)];
        assert_eq!(Page::parse(encoded).unwrap(), Page { entries, more: false });
    }

    /// A listing that ends early must not be an archive that ends early.
    #[test]
    fn half_a_page_is_no_page() {
        let page = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents></ListBucketResult>";
        assert!(Page::parse(page.as_bytes()).is_ok());
        for len in 0..page.len() {
            assert!(Page::parse(page.get(..len).unwrap().as_bytes()).is_err(), "{len}");
        }
        assert!(Page::parse(b"<html><IsTruncated>false</IsTruncated></html>").is_err());
        assert!(
            Page::parse(b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>")
                .is_err()
        );
    }
}
