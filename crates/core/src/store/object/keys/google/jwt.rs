//! What a service account signs to be given a token: a JWT with RS256 (RFC 7523).

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

/// As long as Google allows.
const LIFE: Duration = Duration::from_secs(3600);

/// A clock that is a little fast must not give a signature of the future.
const SLACK: Duration = Duration::from_secs(10);

/// Signs with the key of a service account, that it wants a token for a scope.
///
/// # Errors
/// The key is none for RSA. The reason repeats nothing of it.
pub(super) fn signed(
    email: &str,
    key: &str,
    key_id: Option<&str>,
    audience: &str,
    scope: &str,
) -> Result<String, &'static str> {
    const BAD: &str = "has a private_key that cannot be used";
    let key = match PrivateKeyDer::from_pem_slice(key.as_bytes()) {
        Ok(PrivateKeyDer::Pkcs8(key)) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        Ok(PrivateKeyDer::Pkcs1(key)) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        _ => return Err(BAD),
    };
    let key = key.map_err(|_| BAD)?;
    let mut header = json!({"alg": "RS256", "typ": "JWT"});
    if let (Some(id), Some(header)) = (key_id, header.as_object_mut()) {
        header.insert("kid".to_owned(), id.into());
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let begin = now.saturating_sub(SLACK);
    let claims = json!({
        "iss": email,
        "scope": scope,
        "aud": audience,
        "iat": begin.as_secs(),
        "exp": (begin + LIFE).as_secs(),
    });
    let [header, claims] =
        [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = format!("{header}.{claims}");
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
        .map_err(|_| BAD)?;
    Ok(format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    /// Of these tests alone, and so no secret.
    pub(in crate::store::object) const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIIEugIBADANBgkqhkiG9w0BAQEFAASCBKQwggSgAgEAAoIBAQDIr2ptbKLWYKO8
IDTcaMbUFugQp91tRILxs8YSh6p7JLJgrjiLyHNw+YnOCMgnnib57GX8Tk4g4N0s
kWEgryqGP0yFS43ZfXmDjXoKa34WAuKtR4R3LYAM+GucvzlvrnwHhyLPh1lvXbFe
9JOwDh06W0ywB2iXCDeQtPzPNeFDuhjvbTPzlr4Cq6SC/Yg/pr9C7jn2jYoo9qtd
m0guKtEOtG9m65ebRP78iSqkxFxI79TORhoxowd/JthYduOaVoXFT1hNPRatxGE+
gsCtv1Dv/u4V9adChbZnRGQgA2L+1lllF4+8GsGRk9lcGd9ZFO0pAlz3SIE36tQ9
X2Hoi4LpAgMBAAECggEAAJ5LdgK1UpehxzvTmUxBokpfffY3lxViUHlWHUHJnHiF
sHb/0JpxlJ1RXCqDeaahvWXS/3o7JUClQmJlJUn+BZ8n4Pz59vvNWIvHHrM98f+P
RxiwGd7C8r4jx1CA8t9br8KJedmBRNNcSsLSTNCkCEVbB8b2EQmi8Z77/v+725gP
Az83aG72j1OO/qIbVm8wJNlbKkkHaPXhuR9qE17ML+JGH/5ZiCdwLaLm9WGwOkDe
ox/Qnd6sbEV/VOfuRaTI8s0RELj1rMZOKj/6DRuMVbGM0ZLVPKvpJOmMBxzjy7c1
vPo185lf29MPiFhTfiT9xQYsKRlMXNRTKkOuBdEmWwKBgQDtEvjwoUwEE4k0Jvtz
SmJvPgOXqNKSRKbQzutMJuyH+u8z+vxGkZ5jayVTZ/m8qOfolTtxjPmC5KiBUvdQ
VTaEWIld84mfW17xsx5djIeDXSC6tW5aFqMpPH6sREXBEBT2N3QaoMr0me1lofkV
Y5+YHyNyZuM7RFZCgM5G85KV8wKBgQDYtMWoMPMq8T+Ni/bj0y955jfcFG8ylcr1
FZ8pTqvI5HWfaviFX7dkU0HxgEAGqQ3ENHvo4mpNKawHuhhjXMc8LUZfrW7dWjWE
kujZpnrjF1C83U1+4XE6iIbEg7weUAEyZzS1MHNaEnddBtOR2gpQZpUPh2RqpUiw
3XQ3ZTkuswKBgGnIrHHa1yt+eBtgRZUFHPUcS8gRWZxQq8rCebWqLKLkcnXUSVtH
wNAF0EruOz5Wc9yRMkwRpogkdZf3KEmdLE1ToD/e2orT34Kj9Smy+gjAtkj5ifsC
3N0alD9T23gxL9lJlzIGi2knggl2g8lqgZ0ET/HNPRmF/aOBDAoWx1LHAoGAYi/V
9tTm+KgCQaIPJT7Enhi/aoofr+3K3a0ERnUMxKMu4CJZpCSwNVa75C5V1C64vBOD
qQsdWwTsmzuoXSzmYM+quSMdvlFnOkBOHH+f4lDoFgq3WCvRX9IILfX6QEnDoRC+
AvKG8WK4jn/PUKBYWAGCvFx+FQv6mZhdVdQZSp0Cf27gKzU99PpItzMAWHH+SNMk
WwnSLxCYTFhvryAT4Jv10z7ySRHSuaMe7C0qdSikzNCbWDtOptt33ILSz8ru99p/
0KuH3Zp9TUFnIDzu04Qt5OQVhwfaW3BfEPaqwCmUOf64vS1mFc4PTShlmk0cugFw
LBHm8E/Iym1FQdtqVz8=
-----END PRIVATE KEY-----
";

    #[test]
    fn a_service_account_signs_whom_it_is_and_for_how_long() {
        let text = signed("wal@p.test", KEY, Some("k1"), "https://a.test/t", "rw").unwrap();
        let parts: Vec<&str> = text.split('.').collect();
        let decoded = |at: usize| BASE64_URL_SAFE_NO_PAD.decode(parts[at]).unwrap();
        let json = |at| serde_json::from_slice::<Value>(&decoded(at)).unwrap();
        assert_eq!(json(0), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        let claims = json(1);
        assert_eq!([&claims["iss"], &claims["aud"]], ["wal@p.test", "https://a.test/t"]);
        assert_eq!(claims["scope"], "rw");
        let [begin, end] = ["iat", "exp"].map(|name| claims[name].as_u64().unwrap());
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert!((now - 20..=now).contains(&begin) && end == begin + 3600, "{claims}");
        let Ok(PrivateKeyDer::Pkcs8(key)) = PrivateKeyDer::from_pem_slice(KEY.as_bytes()) else {
            unreachable!("no key")
        };
        let pair = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref());
        public.verify(format!("{}.{}", parts[0], parts[1]).as_bytes(), &decoded(2)).unwrap();

        for bad in ["", "hunter2", &KEY.replace("MII", "NII")] {
            let error = signed("e", bad, None, "a", "s").unwrap_err();
            assert!(error.contains("cannot be used"), "{error}");
        }
    }
}
