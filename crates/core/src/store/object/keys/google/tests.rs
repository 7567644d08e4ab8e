#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::thread::{self, JoinHandle};

use serde_json::json;

use super::*;
use crate::error::ErrorKind;
use crate::store::object::keys::tests::{Does, searching, server as once};

/// Answers requests in turn. Returns where, and in the end what was asked.
fn server(answers: Vec<(u16, String)>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let serve = move |(status, body): (u16, String)| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut asked = String::new();
        while !asked.ends_with("\r\n\r\n") {
            reader.read_line(&mut asked).unwrap();
        }
        let len = asked
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        let mut sent = vec![0; len];
        reader.read_exact(&mut sent).unwrap();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        asked + &String::from_utf8(sent).unwrap()
    };
    (at, thread::spawn(move || answers.into_iter().map(serve).collect()))
}

/// A file of credentials, and the section that names it.
struct World {
    temp: tempfile::TempDir,
}

impl World {
    fn new(account: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (json, keys) = (temp.path().join("key.json"), temp.path().join("keys"));
        fs::write(&json, account).unwrap();
        fs::write(&keys, format!("[gs://b]\n{FILE} = {}\n", json.display())).unwrap();
        for path in [json, keys] {
            fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        }
        Self { temp }
    }

    fn keys(&self) -> GoogleKeys {
        let from = Credentials { file: Some(self.temp.path().join("keys")), data_directory: None };
        GoogleKeys { variable: |_| None, ..GoogleKeys::new(from, "gs://b/p".to_owned()) }
    }

    /// Finds a token, and the header that it makes.
    fn header(&self) -> Result<String, Refusal> {
        let keys = self.keys();
        let token = searching(|search| keys.find(search)).map_err(|unsigned| unsigned.refusal)?;
        let mut parts = http::Request::new(()).into_parts().0;
        keys.sign(&token, &mut parts, None)?;
        Ok(parts.headers["authorization"].to_str().unwrap().to_owned())
    }
}

fn given(token: &str, life: u64) -> (u16, String) {
    (200, json!({"access_token": token, "expires_in": life, "token_type": "Bearer"}).to_string())
}

/// The file of a service account whose tokens are from this URL.
pub(in crate::store::object) fn service(tokens: &str) -> String {
    json!({
        "type": "service_account",
        "client_email": "wal@p.test",
        "private_key": jwt::tests::KEY,
        "private_key_id": "k1",
        "token_uri": tokens,
    })
    .to_string()
}

#[test]
fn a_service_account_signs_and_is_given_a_token() {
    let (at, asked) = server(vec![given("t0k3n", u64::MAX), given("short", 200)]);
    let world = World::new(&service(&format!("http://{at}/token")));
    assert_eq!(world.header().unwrap(), "Bearer t0k3n");
    // One that ends soon is asked for again before it does.
    let keys = world.keys();
    let short = searching(|search| keys.find(search)).unwrap();
    assert!(!keys.is_good(&short) && keys.is_valid(&short));
    let asked = asked.join().unwrap();
    assert!(asked[0].starts_with("POST /token HTTP/1.1\r\n"), "{}", asked[0]);
    let form = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=eyJ";
    assert!(asked[0].contains(form), "{}", asked[0]);
    assert!(!format!("{keys:?}").contains("PRIVATE KEY"));
}

#[test]
fn somebody_elses_token_is_exchanged_for_one_of_a_service_account() {
    let subject = r#"{"access_token": "th31rs"}"#.to_owned();
    let ends = humantime::format_rfc3339(
        std::time::SystemTime::now() + std::time::Duration::from_secs(3600),
    );
    let account = json!({"accessToken": "0urs", "expireTime": ends.to_string()}).to_string();
    let (at, asked) = server(vec![(200, subject), given("federated", 3600), (200, account)]);
    let world = World::new(
        &json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/x",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("http://{at}/sts"),
            "service_account_impersonation_url": format!("http://{at}/sa:generateAccessToken"),
            "credential_source": {
                "url": format!("http://{at}/theirs?x=1"),
                "headers": {"Metadata": "True"},
                "format": {"type": "json", "subject_token_field_name": "access_token"},
            },
        })
        .to_string(),
    );
    assert_eq!(world.header().unwrap(), "Bearer 0urs");
    let asked = asked.join().unwrap();
    let is = |at: usize, parts: &[&str]| {
        let missing: Vec<_> = parts.iter().filter(|part| !asked[at].contains(**part)).collect();
        assert!(missing.is_empty(), "{missing:?} in {}", asked[at]);
    };
    is(0, &["GET /theirs?x=1 HTTP/1.1\r\n", "metadata: True\r\n"]);
    is(1, &["POST /sts ", "subject_token=th31rs&", "cloud-platform&", "audience=%2F%2Fiam."]);
    is(2, &["POST /sa:generateAccessToken ", "Bearer federated", "devstorage.read_write"]);
}

#[test]
fn a_token_in_a_file_is_read_each_time() {
    let (at, asked) = server(vec![given("one", 3600)]);
    let world = World::new("");
    let token = world.temp.path().join("token");
    fs::write(&token, "fr0mf1le\n").unwrap();
    let account = json!({
        "type": "external_account",
        "audience": "a",
        "subject_token_type": "t",
        "token_url": format!("http://{at}/sts"),
        "credential_source": {"file": token},
    });
    fs::write(world.temp.path().join("key.json"), account.to_string()).unwrap();
    assert_eq!(world.header().unwrap(), "Bearer one");
    let asked = asked.join().unwrap();
    assert!(asked[0].contains("subject_token=fr0mf1le&"), "{}", asked[0]);
    assert!(asked[0].contains("devstorage.read_write&"), "{}", asked[0]);
    fs::remove_file(&token).unwrap();
    let refusal = world.header().unwrap_err();
    assert!(refusal.text.contains("which cannot be read"), "{}", refusal.text);
}

#[test]
fn the_metadata_of_an_instance_come_last() {
    let (at, asked) = server(vec![given("1nstance", 3600)]);
    let of = |at: &str| searching(|search| tokens::of_instance(at, search));
    let token = of(&at).unwrap().unwrap();
    assert_eq!(token.text(), "1nstance");
    let asked = asked.join().unwrap();
    let path = "GET /computeMetadata/v1/instance/service-accounts/default/token HTTP/1.1\r\n";
    assert!(asked[0].starts_with(path), "{}", asked[0]);
    assert!(asked[0].contains("metadata-flavor: Google\r\n"), "{}", asked[0]);
    // Nobody listens there any more.
    assert!(of(&at).unwrap().is_none());

    let none = |variable: fn(&str) -> Option<String>| {
        let keys = GoogleKeys::new(Credentials::default(), "gs://b/p".to_owned());
        let keys = GoogleKeys { variable, ..keys };
        searching(|search| keys.find(search)).err().unwrap().refusal.text
    };
    let text = none(|name| (name == "NO_GCE_CHECK").then(|| "true".to_owned()));
    assert!(text.contains("there are no credentials"), "{text}");
    let home = GoogleKeys::new(Credentials::default(), String::new());
    let home = GoogleKeys { variable: |name| (name == "HOME").then(|| "/h".to_owned()), ..home };
    let path = "/h/.config/gcloud/application_default_credentials.json";
    assert_eq!(home.well_known(), Some(PathBuf::from(path)));
    let named = none(|name| {
        (name == "GOOGLE_APPLICATION_CREDENTIALS").then(|| "/none/key.json".to_owned())
    });
    assert!(named.contains("\"/none/key.json\" cannot be read"), "{named}");
}

/// The metadata of a node of Kubernetes ask elsewhere, and were given two seconds.
#[test]
fn the_metadata_of_an_instance_are_waited_for_and_asked_again() {
    let of = |does| {
        let (at, asked) = once(vec![does]);
        let of = searching(|search| tokens::of_instance(at.trim_start_matches("http://"), search));
        asked.join().unwrap();
        of.map(|token| token.map(|token| token.text().to_owned()))
    };
    let late = of(Does::Late(std::time::Duration::from_millis(2500)));
    assert_eq!(late.unwrap().as_deref(), Some("late"));
    // No account is attached.
    assert_eq!(of(Does::Answer(404, "")).unwrap(), None);
    for (does, passes, kind) in [
        (Does::Answer(503, ""), true, ErrorKind::StorageBusy),
        (Does::Answer(429, ""), true, ErrorKind::StorageBusy),
        (Does::Cut, true, ErrorKind::Unreachable),
        (Does::Answer(403, "hunter2"), false, ErrorKind::CredentialsRefused),
        (Does::Answer(200, "hunter2"), false, ErrorKind::CredentialsRefused),
    ] {
        let unsigned = of(does).unwrap_err();
        let Unsigned { refusal, .. } = &unsigned;
        assert_eq!((unsigned.passes, refusal.kind), (passes, kind), "{does:?} {}", refusal.text);
        assert!(!refusal.text.contains("hunter2"), "{}", refusal.text);
    }
}

/// With `allow_http=true`, whoever was on the way had the token.
#[test]
fn a_token_is_not_sent_in_clear() {
    let (at, asked) = server(vec![given("hunter2", 3600)]);
    let keys = World::new(&service(&format!("http://{at}/token"))).keys();
    let world = World::new(&service(&format!("http://{at}/token")));
    let token = searching(|search| world.keys().find(search)).unwrap();
    asked.join().unwrap();
    let sign = |uri: &str| {
        let mut parts = http::Request::get(uri).body(()).unwrap().into_parts().0;
        keys.sign(&token, &mut parts, None).map_err(|refusal| refusal.text)
    };
    let said = sign("http://store.test/b/x").unwrap_err();
    assert!(said.starts_with("a token is not sent to store.test without TLS"), "{said}");
    assert!(said.ends_with("use https") && !said.contains("hunter2"), "{said}");
    for good in ["https://store.test/b/x", "http://127.0.0.1:1/b/x", "http://localhost/b/x"] {
        sign(good).unwrap();
    }
}

#[test]
fn what_is_wrong_is_named_without_what_is_secret() {
    let (at, asked) = server(vec![
        (400, r#"{"error": "invalid_grant", "error_description": "hunter2"}"#.to_owned()),
        (503, "hunter2".to_owned()),
        (403, r#"{"error": {"status": "PERMISSION_DENIED", "message": "hunter2"}}"#.to_owned()),
        (200, "hunter2".to_owned()),
        (200, "{}".to_owned()),
    ]);
    let world = World::new(&service(&format!("http://{at}/token")));
    for (kind, says) in [
        (ErrorKind::CredentialsRefused, "127.0.0.1 answered 400 invalid_grant"),
        (ErrorKind::StorageBusy, "answered 503 without a code"),
        (ErrorKind::CredentialsRefused, "answered 403 PERMISSION_DENIED"),
        (ErrorKind::CredentialsRefused, "is not JSON"),
        (ErrorKind::CredentialsRefused, "gave no token"),
    ] {
        let refusal = world.header().unwrap_err();
        assert_eq!(refusal.kind, kind, "{}", refusal.text);
        assert!(refusal.text.contains(says), "{}", refusal.text);
        assert!(!refusal.text.contains("hunter2"), "{}", refusal.text);
    }
    asked.join().unwrap();
    let refusal = world.header().unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Unreachable, "{}", refusal.text);

    let file = world.temp.path().join("key.json");
    for (text, says) in [
        ("hunter2", "is not JSON"),
        (
            r#"{"type": "service_account", "client_email": "e", "private_key": "hunter2",
            "token_uri": "https://t"}"#,
            "private_key that cannot be used",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let refusal = world.header().unwrap_err();
        assert!(refusal.text.contains(says), "{}", refusal.text);
        assert!(refusal.text.contains("key.json") && !refusal.text.contains("hunter2"));
    }
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let refusal = world.header().unwrap_err();
    assert!(refusal.text.contains("can be read or written by others"), "{}", refusal.text);
    fs::write(world.temp.path().join("keys"), format!("[gs://b]\n{FILE} = key.json\n")).unwrap();
    let refusal = world.header().unwrap_err();
    assert!(refusal.text.contains("absolute path"), "{}", refusal.text);
}
