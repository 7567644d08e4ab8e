//! A page of S3's listing.

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::server::url::text::percent_decode;
use crate::store::object::cloud::Entry;
use crate::store::object::xml::named;

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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
