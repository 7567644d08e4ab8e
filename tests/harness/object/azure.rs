//! How the tests themselves speak to Azure Blob Storage: signed with an account's key.

use std::io;
use std::time::SystemTime;

use super::bucket::Bucket;
use super::http::{self, Answer, elements};
use super::sign::{encode, hmac, timestamp};

const VERSION: &str = "2024-05-04";

/// What a request that stores carries beside its contents, and beside the condition if it must not replace.
pub(super) fn of_put(new: bool) -> Vec<(&'static str, &'static str)> {
    let mut headers = vec![("x-ms-blob-type", "BlockBlob")];
    headers.extend(new.then_some(("if-none-match", "*")));
    headers
}

/// The head of a signed request; the container's own has no key.
pub(super) fn head(
    bucket: &Bucket,
    method: &str,
    key: &str,
    query: &[(&str, &str)],
    headers: &[(&str, &str)],
    length: usize,
) -> String {
    let account = &bucket.keys.access;
    let path = encode(&format!("/{account}/{}/{key}", bucket.name), b"/");
    let path = if key.is_empty() { path.trim_end_matches('/') } else { &path };
    let date = date();
    let mut all = vec![("x-ms-date", date.as_str()), ("x-ms-version", VERSION)];
    all.extend(headers);
    let header = |name: &str| all.iter().find(|(known, _)| *known == name).map_or("", |(_, v)| v);
    let length_text = if length == 0 { String::new() } else { length.to_string() };
    // Method, encoding, language, length, MD5, type, date, four conditions, range.
    let none = header("if-none-match");
    let mut text =
        format!("{method}\n\n\n{length_text}\n{}\n\n\n\n\n{none}\n\n\n", header("content-md5"));
    let mut own: Vec<_> = all.iter().filter(|(name, _)| name.starts_with("x-ms-")).collect();
    own.sort();
    own.iter().for_each(|(name, value)| text += &format!("{name}:{value}\n"));
    text += &format!("/{account}{path}");
    let mut sorted = query.to_vec();
    sorted.sort_unstable();
    sorted.iter().for_each(|(name, value)| text += &format!("\n{name}:{value}"));
    let key = from_base64(&bucket.keys.secret);
    let signature = base64(&hmac(&key, text.as_bytes()));
    let lines: String = all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let query: Vec<String> = sorted
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name, b""), encode(value, b"")))
        .collect();
    let question = if query.is_empty() { "" } else { "?" };
    format!(
        "{method} {path}{question}{} HTTP/1.1\r\nhost: {}\r\n{lines}\
         authorization: SharedKey {account}:{signature}\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n",
        query.join("&"),
        bucket.address,
    )
}

fn ask(bucket: &Bucket, method: &str, query: &[(&str, &str)]) -> io::Result<Answer> {
    let head = head(bucket, method, "", query, &[], 0);
    http::exchange(bucket.address, method, &head, b"")
}

pub(super) fn create(bucket: &Bucket) -> io::Result<Answer> {
    ask(bucket, "PUT", &[("restype", "container")])
}

#[track_caller]
pub(super) fn names(bucket: &Bucket, prefix: &str) -> Vec<String> {
    let (mut names, mut marker) = (Vec::new(), String::new());
    loop {
        // Short pages, so that the next one is asked for in each test of many.
        let mut query = vec![
            ("comp", "list"),
            ("maxresults", "100"),
            ("prefix", prefix),
            ("restype", "container"),
        ];
        if !marker.is_empty() {
            query.push(("marker", &marker));
        }
        let answer = bucket.must(ask(bucket, "GET", &query), "list");
        let page = String::from_utf8_lossy(&answer.body).into_owned();
        names.extend(elements(&page, "Name"));
        marker = elements(&page, "NextMarker").pop().unwrap_or_default();
        if marker.is_empty() {
            break;
        }
    }
    names.sort();
    names
}

/// The time as headers have it: `Sun, 06 Nov 1994 08:49:37 GMT`. Nobody looks at the day of the week.
fn date() -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = timestamp(SystemTime::now());
    let number = |from: usize, to: usize| text[from..to].to_owned();
    let month = MONTHS[number(4, 6).parse::<usize>().expect("a month") - 1];
    let time = format!("{}:{}:{}", number(9, 11), number(11, 13), number(13, 15));
    format!("Sun, {} {month} {} {time} GMT", number(6, 8), number(0, 4))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut number = [0; 4];
        number[1..=three.len()].copy_from_slice(three);
        let number = u32::from_be_bytes(number) as usize;
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = char::from(ALPHABET[number >> shift & 63]);
            text.push(if place <= three.len() { letter } else { '=' });
        }
    }
    text
}

fn from_base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_usize, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter).expect("base64");
        (bits, count) = ((bits << 6 | value) & 0xffff, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_rfc_4648_says() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text), bytes.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_base64(&base64(&all)), all);
    }

    #[test]
    fn a_date_looks_like_one() {
        let date = date();
        assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
    }
}
