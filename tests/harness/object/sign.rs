//! Signatures of AWS's version 4, and the SHA-256 that they are made of: written here so that what the tests
//! see in a bucket does not depend on the code under test.

use std::time::{SystemTime, UNIX_EPOCH};

/// What stands for the hash of a body that is not signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Whose request it is.
#[derive(Debug, Clone)]
pub struct Keys {
    pub access: String,
    pub secret: String,
    pub region: String,
}

/// What is signed of a request.
#[derive(Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Percent-encoded, as in the request's first line.
    pub path: &'a str,
    /// Percent-encoded, sorted by name, each with its `=`.
    pub query: &'a str,
    /// Names in lower case.
    pub headers: &'a [(String, String)],
    /// In hexadecimal, or [`UNSIGNED`].
    pub body_hash: &'a str,
    /// As [`timestamp`] writes it.
    pub time: &'a str,
}

/// The header `Authorization` of a request. All its headers are signed.
#[must_use]
pub fn authorization(keys: &Keys, request: &Request<'_>) -> String {
    let mut headers = request.headers.to_vec();
    headers.sort();
    let signed: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let signed = signed.join(";");
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{signed}\n{}",
        request.method, request.path, request.query, request.body_hash
    );
    let day = request.time.split('T').next().unwrap_or_default();
    let scope = format!("{day}/{}/s3/aws4_request", keys.region);
    let hash = hex(&sha256(canonical.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hash}", request.time);
    let mut key = format!("AWS4{}", keys.secret).into_bytes();
    for part in [day, &keys.region, "s3", "aws4_request", &text] {
        key = hmac(&key, part.as_bytes()).to_vec();
    }
    let access = &keys.access;
    format!(
        "AWS4-HMAC-SHA256 Credential={access}/{scope},SignedHeaders={signed},Signature={}",
        hex(&key)
    )
}

/// Percent-encoding as signatures want it: all but letters, digits and `-._~`, and the slash in a path.
#[must_use]
pub fn encode(text: &str, keep: &[u8]) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// The time in the form `20130524T000000Z`.
#[must_use]
pub fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let (mut day, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{:02}T{hour:02}{minute:02}{second:02}Z", day + 1)
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner: Vec<u8> =
        block.iter().map(|byte| byte ^ 0x36).chain(message.iter().copied()).collect();
    let outer: Vec<u8> = block.iter().map(|byte| byte ^ 0x5c).chain(sha256(&inner)).collect();
    sha256(&outer)
}

/// SHA-256, as in FIPS 180-4.
#[must_use]
pub fn sha256(message: &[u8]) -> [u8; 32] {
    // The first 32 bits of the fractional parts of roots of the first primes: square roots for the state, cube
    // roots for the rounds.
    let mut state: [u32; 8] = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    let rounds = cube_roots();
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(8 * message.len() as u64).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words = [0_u32; 64];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        }
        for i in 16..64 {
            let (a, b) = (words[i - 15], words[i - 2]);
            let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            words[i] = words[i - 16].wrapping_add(s0).wrapping_add(words[i - 7]).wrapping_add(s1);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for (word, round) in words.iter().zip(rounds) {
            let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = (e & f) ^ (!e & g);
            let first =
                h.wrapping_add(s1).wrapping_add(choice).wrapping_add(round).wrapping_add(*word);
            let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let second = s0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b, a) = (c, b, a, first.wrapping_add(second));
        }
        for (sum, value) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut digest = [0; 32];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

/// For each of the first 64 primes p, the fractional part of its cube root times 2^32: the largest r with
/// r³ ≤ p · 2^96, of which the low 32 bits count.
fn cube_roots() -> [u32; 64] {
    let is_prime = |n: &u128| (2..*n).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    let mut roots = [0; 64];
    for (root, prime) in roots.iter_mut().zip((2..).filter(is_prime)) {
        let target = prime << 96;
        let mut r = 0_u128;
        for bit in (0..36).rev() {
            let more = r | 1 << bit;
            if more * more * more <= target {
                r = more;
            }
        }
        *root = (r & 0xffff_ffff) as u32;
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(&sha256(b"")), empty);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&sha256(b"abc")), abc);
        // More than one block, and a length field that needs a block of its own.
        let two = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
        assert_eq!(hex(&sha256(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")), two);
    }

    /// The examples in AWS's documentation of the signature.
    #[test]
    fn signatures_are_those_of_the_documentation() {
        let keys = Keys {
            access: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let empty = hex(&sha256(b""));
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-content-sha256", &empty),
            ("x-amz-date", "20130524T000000Z"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (query, signature) in [
            ("lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            (
                "max-keys=2&prefix=J",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let request = Request {
                method: "GET",
                path: "/",
                query,
                headers: &headers,
                body_hash: &empty,
                time: "20130524T000000Z",
            };
            let header = authorization(&keys, &request);
            assert!(header.ends_with(&format!("Signature={signature}")), "{header}");
        }
    }

    #[test]
    fn times_are_written_as_signatures_want_them() {
        let at = |seconds| timestamp(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(1_369_353_600), "20130524T000000Z");
        assert_eq!(at(1_709_164_799), "20240228T235959Z");
        assert_eq!(at(1_709_164_800), "20240229T000000Z");
        assert_eq!(at(1_735_689_599), "20241231T235959Z");
    }
}
