//! XML as clouds answer it, as far as it is needed.

use quick_xml::Reader;
use quick_xml::events::Event;

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
/// it. White space at the ends of a text is left out.
///
/// # Errors
/// It is not a whole text of XML.
#[cfg(feature = "s3")]
pub(super) fn elements(
    text: &[u8],
    each: &mut dyn FnMut(&[String], &str),
) -> Result<(), &'static str> {
    walk(text, &mut |path, text, _| each(path, text.trim()))
}

/// The same, with all of each text, and whether the element says that its text is encoded (`Encoded="true"`).
///
/// # Errors
/// It is not a whole text of XML.
pub(super) fn walk(
    text: &[u8],
    each: &mut dyn FnMut(&[String], &str, bool),
) -> Result<(), &'static str> {
    const BROKEN: &str = "the answer is not whole";
    let text = std::str::from_utf8(text).map_err(|_| BROKEN)?;
    let mut reader = Reader::from_str(text);
    let (mut path, mut text, mut whole, mut encoded) = (Vec::new(), String::new(), false, false);
    loop {
        match reader.read_event().map_err(|_| BROKEN)? {
            Event::Start(start) => {
                encoded = start
                    .attributes()
                    .flatten()
                    .any(|a| a.key.as_ref() == "Encoded" && a.value.as_ref() == "true");
                path.push(start.local_name().as_ref().to_owned());
                text.clear();
            }
            Event::Empty(start) => {
                path.push(start.local_name().as_ref().to_owned());
                each(&path, "", false);
                path.pop();
                whole |= path.is_empty();
            }
            Event::Text(piece) => text.push_str(&piece),
            Event::GeneralRef(name) => text.push(named(&name).ok_or(BROKEN)?),
            Event::End(_) => {
                each(&path, &text, encoded);
                path.pop();
                text.clear();
                encoded = false;
                whole |= path.is_empty();
            }
            Event::Eof => return if whole && path.is_empty() { Ok(()) } else { Err(BROKEN) },
            _ => {}
        }
    }
}

/// Returns the character that a reference stands for.
pub(super) fn named(name: &str) -> Option<char> {
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
}
