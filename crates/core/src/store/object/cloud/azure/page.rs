//! A page of Azure's listing (List Blobs).

use crate::server::url::text::{http_date, percent_decode};
use crate::store::object::cloud::{Entry, Next, Page};
use crate::store::object::xml;

/// Reads a page (`EnumerationResults`). It is whole if it says where the listing goes on, or that it does not: by a
/// marker that is empty.
///
/// # Errors
/// The text is not a whole page.
pub(super) fn parse(text: &[u8]) -> Result<Page, &'static str> {
    const BROKEN: &str = "a listing that is not whole";
    let (mut entries, mut entry, mut next) = (Vec::new(), Entry::default(), None);
    let (mut is_directory, mut unreadable) = (false, false);
    xml::walk(text, &mut |path, text, encoded| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let Some((&"EnumerationResults", path)) = path.split_first() else { return };
        match path {
            ["Blobs", "Blob" | "BlobPrefix", "Name"] => {
                // What XML cannot hold is percent-encoded.
                let name = if encoded { percent_decode(text) } else { Some(text.to_owned()) };
                unreadable |= name.is_none();
                entry.key = name.unwrap_or_default();
            }
            ["Blobs", "Blob", "Properties", "Content-Length"] => {
                entry.len = text.trim().parse().unwrap_or_default();
            }
            ["Blobs", "Blob", "Properties", "Last-Modified"] => {
                entry.modified = http_date(text.trim());
            }
            // In an account with a hierarchical namespace, directories are there like blobs.
            ["Blobs", "Blob", "Properties", "ResourceType"] => is_directory = text == "directory",
            ["Blobs", "Blob" | "BlobPrefix"] => {
                let entry = std::mem::take(&mut entry);
                if !std::mem::take(&mut is_directory) {
                    entries.push(entry);
                }
            }
            ["NextMarker"] => next = Some(text.to_owned()),
            _ => {}
        }
    })
    .map_err(|_| BROKEN)?;
    let next = match next.filter(|_| !unreadable).ok_or(BROKEN)? {
        marker if marker.is_empty() => Next::Nowhere,
        marker => Next::At(marker),
    };
    Ok(Page { entries, next })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PAGE: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults \
        ServiceEndpoint=\"https://a.blob.core.windows.net/\" ContainerName=\"wal\"><Prefix>p/</Prefix>\
        <Delimiter>/</Delimiter><Blobs><Blob><Name>p/a&amp;b </Name><Properties>\
        <Last-Modified>Sun, 06 Nov 1994 08:49:37 GMT</Last-Modified><Content-Length>17</Content-Length>\
        <AccessTier>Hot</AccessTier></Properties></Blob><BlobPrefix><Name>p/sub/</Name></BlobPrefix>\
        <Blob><Name>p/dir</Name><Properties><ResourceType>directory</ResourceType></Properties></Blob>\
        <Blob><Name Encoded=\"true\">p/%EF%BF%BEx</Name><Properties/></Blob></Blobs>\
        <NextMarker>2!8!a+/=</NextMarker></EnumerationResults>";

    #[test]
    fn a_page_gives_its_blobs_and_where_it_goes_on() {
        let page = parse(PAGE.as_bytes()).unwrap();
        let modified = humantime::parse_rfc3339("1994-11-06T08:49:37Z").ok();
        let entry = |key: &str, len, modified| Entry { key: key.to_owned(), len, modified };
        let entries = vec![
            entry("p/a&b ", 17, modified),
            entry("p/sub/", 0, None),
            entry("p/\u{fffe}x", 0, None),
        ];
        assert_eq!(page, Page { entries, next: Next::At("2!8!a+/=".to_owned()) });
        for end in ["<NextMarker/>", "<NextMarker></NextMarker>"] {
            let text = format!("<EnumerationResults><Blobs/>{end}</EnumerationResults>");
            let page = parse(text.as_bytes()).unwrap();
            assert_eq!(page, Page { entries: Vec::new(), next: Next::Nowhere });
        }
    }

    /// A listing that ends early must not be an archive that ends early.
    #[test]
    fn half_a_page_is_no_page() {
        for (len, _) in PAGE.char_indices() {
            assert!(parse(PAGE.get(..len).unwrap().as_bytes()).is_err(), "{len}");
        }
        for text in [
            "<EnumerationResults><Blobs/></EnumerationResults>",
            "<html><NextMarker/></html>",
            "<Error><Code>ServerBusy</Code></Error>",
            "",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
