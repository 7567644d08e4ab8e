#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};

use super::*;
use crate::error::ErrorKind;
use crate::store::object::keys::tests::{Does, searching, server};

/// The one that Azurite has, and so no secret.
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const DATE: &str = "Sun, 29 Nov 2026 20:00:00 GMT";

fn parts(uri: &str) -> Parts {
    let request = http::Request::put(uri).header("x-ms-version", "2024-05-04");
    let request = request.header("x-ms-blob-type", "BlockBlob").header("if-none-match", "*");
    request.header("content-md5", "bWQ1").header("host", "h").body(()).unwrap().into_parts().0
}

fn signed(credential: &Credential, uri: &str) -> Parts {
    let mut parts = parts(uri);
    sign(credential, "walsafe1", &mut parts, Some(7), DATE).unwrap();
    parts
}

/// As Microsoft's "Authorize with Shared Key" has it. The signature is Python's of that text.
#[test]
fn an_account_key_signs_what_it_should() {
    let uri =
        "https://walsafe1.blob.core.windows.net/wal/a%20b?comp=list&prefix=p%2F&delimiter=%2F";
    let parts = signed(&Credential::Key(BASE64_STANDARD.decode(ACCOUNT_KEY).unwrap()), uri);
    assert_eq!(
        to_sign("walsafe1", &parts, Some(7)).unwrap(),
        "PUT\n\n\n7\nbWQ1\n\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\n\
         x-ms-date:Sun, 29 Nov 2026 20:00:00 GMT\nx-ms-version:2024-05-04\n\
         /walsafe1/wal/a%20b\ncomp:list\ndelimiter:/\nprefix:p/"
    );
    let authorization = parts.headers["authorization"].to_str().unwrap();
    assert_eq!(authorization, "SharedKey walsafe1:K2FfpqmOJFU7QqR5i2fLH9pRvuj+YGO7zN/uCMYLfpc=");
    // Nothing has no length.
    assert!(to_sign("walsafe1", &parts, Some(0)).unwrap().starts_with("PUT\n\n\n\nbWQ1"));
    assert!(parts.headers["authorization"].is_sensitive());
}

#[test]
fn a_signature_of_somebody_elses_joins_the_query_and_a_token_goes_into_a_header() {
    let sas = Credential::Sas("sv=2024&sig=a%2Fb".to_owned());
    let uri = |at: &str| signed(&sas, at).uri.to_string();
    assert_eq!(uri("https://h/wal/x"), "https://h/wal/x?sv=2024&sig=a%2Fb");
    assert_eq!(uri("https://h/wal?comp=list"), "https://h/wal?comp=list&sv=2024&sig=a%2Fb");
    let token = Credential::Token("t0ken".to_owned(), SystemTime::now());
    let parts = signed(&token, "https://h/wal/x");
    assert_eq!(parts.headers["authorization"], "Bearer t0ken");
    assert_eq!(parts.headers["x-ms-date"], DATE);
    assert_eq!(format!("{token:?}{sas:?}"), "CredentialCredential");
}

fn of(values: &[(&str, &str)]) -> Result<Option<Credential>, String> {
    let said = |name: &str| {
        let (_, value) = values.iter().find(|(known, _)| *known == name)?;
        Some((*value).to_owned())
    };
    searching(|search| given(&said, search)).map_err(|unsigned| unsigned.refusal.text)
}

#[test]
fn a_key_and_a_shared_access_signature_are_taken_as_they_are_copied() {
    let key = of(&[(KEY, &format!("{ACCOUNT_KEY}\n")), (SAS, "sig=x")]).unwrap();
    assert!(matches!(key, Some(Credential::Key(key)) if key.len() == 64));
    let sas = of(&[(SAS, "?sv=1&sig=hunter2%3D ")]).unwrap();
    assert!(sas == Some(Credential::Sas("sv=1&sig=hunter2%3D".to_owned())));
    assert!(of(&[(TENANT, "t"), (CLIENT, "c")]) == Ok(None));
    for wrong in [(KEY, "hunter2"), (SAS, "sv=1&hunter2"), (SAS, "sig=hunter2 x")] {
        let said = of(&[wrong]).unwrap_err();
        assert!(said.contains("is not whole") && !said.contains("hunter2"), "{said}");
    }
}

/// One server archives into two accounts at times, and the environment has the key of one.
#[test]
fn keys_in_the_environment_are_for_the_account_that_it_names() {
    let variable = |named: &'static str| {
        move |name: &str| match name {
            ACCOUNT => Some(named.to_owned()),
            "AZURE_STORAGE_ACCOUNT_KEY" => Some("k".to_owned()),
            SAS => Some("sig=x".to_owned()),
            CLIENT => Some("c".to_owned()),
            _ => None,
        }
    };
    assert_eq!(for_account(KEY, "one", &variable("one")).as_deref(), Some("k"));
    assert_eq!(for_account(SAS, "one", &variable("one")).as_deref(), Some("sig=x"));
    // A key stays here, and the storage refuses what it has signed. A signature would be told to another account.
    let unnamed = |name: &str| variable("")(name).filter(|value| !value.is_empty());
    assert_eq!(for_account(KEY, "two", &unnamed).as_deref(), Some("k"));
    assert_eq!(for_account(SAS, "two", &unnamed), None);
    assert_eq!(for_account(SAS, "two", &variable("one")), None);
    assert_eq!(for_account(KEY, "two", &variable("one")), None);
    assert_eq!(for_account(CLIENT, "two", &variable("one")).as_deref(), Some("c"));
}

/// Answers one request, and returns what was asked.
fn answering(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut asked, mut some) = (String::new(), [0; 4096]);
        let whole = |asked: &str| {
            let (head, body) = asked.split_once("\r\n\r\n")?;
            let len = head.split("content-length: ").nth(1)?.split("\r\n").next()?;
            Some(body.len() >= len.parse().ok()?)
        };
        while whole(&asked) != Some(true) {
            let got = stream.read(&mut some).unwrap();
            asked.push_str(std::str::from_utf8(&some[..got]).unwrap());
        }
        let (status, body) = answer.split_once(' ').unwrap();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        asked
    });
    (at, server)
}

#[test]
fn an_application_gets_a_token_by_its_secret() {
    let (at, server) = answering(r#"200 {"access_token": "t0ken", "expires_in": 3599}"#);
    let found = of(&[(TENANT, "t/1"), (CLIENT, "c"), (SECRET, "s&1"), (AUTHORITY, &at)]);
    let left = |until: SystemTime| until.duration_since(SystemTime::now()).unwrap().as_secs();
    assert!(matches!(found, Ok(Some(Credential::Token(token, until)))
            if token == "t0ken" && (3500..3600).contains(&left(until))));
    let asked = server.join().unwrap();
    assert!(asked.starts_with("POST /t%2F1/oauth2/v2.0/token HTTP/1.1\r\n"), "{asked}");
    let form = "client_id=c&grant_type=client_credentials&\
                scope=https%3A%2F%2Fstorage.azure.com%2F.default&client_secret=s%261";
    assert!(asked.ends_with(form), "{asked}");
}

#[test]
fn a_workload_shows_its_token_and_what_refuses_it_is_told_without_the_answer() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("token");
    std::fs::write(&file, "assert10n\n").unwrap();
    let file = file.to_str().unwrap();
    let (at, server) =
        answering(r#"401 {"error": "invalid_client", "error_description": "hunter2"}"#);
    let values = [(TENANT, "t"), (CLIENT, "c"), (TOKEN_FILE, file), (AUTHORITY, &*at)];
    let said = of(&values).unwrap_err();
    assert!(said.ends_with("answered 401 invalid_client to the request for a token"), "{said}");
    let asked = server.join().unwrap();
    assert!(asked.ends_with("jwt-bearer&client_assertion=assert10n"), "{asked}");
    let missing = of(&[(TENANT, "t"), (CLIENT, "c"), (TOKEN_FILE, "/none")]).unwrap_err();
    assert!(missing.starts_with("\"/none\" cannot be read"), "{missing}");
}

/// The metadata of an instance says it in texts, and as a time.
#[test]
fn the_end_of_a_token_is_read_as_it_comes() {
    for (text, good) in [
        (r#"{"access_token": "t", "expires_in": "3599", "expires_on": "1"}"#, true),
        (r#"{"access_token": "t", "expires_on": "99999999999"}"#, true),
        (r#"{"access_token": "t", "expires_in": 60}"#, false),
    ] {
        let keys = AzureKeys::new(Credentials::default(), String::new(), String::new());
        assert_eq!(keys.is_good(&parse(text.as_bytes()).unwrap()), good, "{text}");
    }
    for text in ["", "{}", r#"{"access_token": "t"}"#, r#"{"expires_in": 1}"#] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn a_section_says_what_it_lacks() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("keys");
    let said = |text: &str| {
        std::fs::write(&file, format!("[azure://walsafe1]\n{text}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).unwrap();
        let from = Credentials { file: Some(file.clone()), data_directory: None };
        let at = "azure://walsafe1/wal/p".to_owned();
        let keys = AzureKeys::new(from, at, "walsafe1".to_owned());
        searching(|search| keys.find(search)).map_err(|unsigned| unsigned.refusal.text)
    };
    assert!(matches!(said("azure_storage_key = aGk="), Ok(Credential::Key(key)) if key == b"hi"));
    for (text, lacks) in [
        ("", "lacks azure_storage_key or azure_storage_sas_token"),
        ("azure_tenant_id = t", "lacks azure_client_id"),
        (
            "azure_tenant_id = t\nazure_client_id = c",
            "lacks azure_client_secret or azure_federated_token_file",
        ),
        ("aws_access_key_id = hunter2", "has a key that is not known"),
    ] {
        let said = said(text).unwrap_err();
        assert!(said.ends_with(lacks), "{said}");
    }
}

fn identity(at: &str) -> Identity {
    Identity::new(&|name| match name {
        "IDENTITY_ENDPOINT" => Some(format!("{at}/token")),
        "IDENTITY_HEADER" => Some("h".to_owned()),
        _ => None,
    })
}

/// A machine's metadata that were being updated ended a recovery, and were called credentials that are not there.
#[test]
fn what_the_metadata_do_not_give_now_is_told_from_what_they_never_give() {
    use Does::{Answer, Cut};
    let invalid = r#"{"error": "invalid_request", "error_description": "hunter2"}"#;
    let busy = |status| (Answer(status, ""), true, ErrorKind::StorageBusy);
    for (does, passes, kind) in [
        busy(404),
        busy(408),
        busy(410),
        busy(429),
        busy(500),
        busy(503),
        (Cut, true, ErrorKind::Unreachable),
        (Answer(400, invalid), false, ErrorKind::CredentialsRefused),
        (Answer(200, "{}"), false, ErrorKind::CredentialsRefused),
    ] {
        let (at, asked) = server(vec![does]);
        let unsigned = searching(|search| identity(&at).token(Some("c/1"), search)).unwrap_err();
        let Unsigned { refusal, .. } = &unsigned;
        assert_eq!((unsigned.passes, refusal.kind), (passes, kind), "{does:?} {}", refusal.text);
        assert!(!refusal.text.contains("hunter2"), "{}", refusal.text);
        let asked = asked.join().unwrap();
        let path = "GET /token?api-version=2019-08-01&resource=https%3A%2F%2Fstorage.azure.com%2F";
        assert!(asked[0].starts_with(&format!("{path}&client_id=c%2F1 ")), "{}", asked[0]);
        assert!(asked[0].contains("x-identity-header: h\r\n"), "{}", asked[0]);
    }
    // Metadata of another cloud, and then none.
    let (at, asked) = server(vec![Answer(403, "<html>")]);
    let token = |at: &str| searching(|search| identity(at).token(None, search));
    assert!(token(&at).unwrap().is_none());
    asked.join().unwrap();
    assert!(token(&at).unwrap().is_none());
}

#[test]
fn azure_arc_is_named_where_nothing_else_gives_a_token() {
    let arc = Identity::new(&|name| (name == "IDENTITY_ENDPOINT").then(|| "http://x".to_owned()));
    assert!(arc.is_arc && arc.url.starts_with(INSTANCE), "{}", arc.url);
    let (at, asked) = server(vec![Does::Answer(403, "")]);
    let arc = Identity { is_arc: true, ..identity(&at) };
    let unsigned = searching(|search| arc.token(None, search)).unwrap_err();
    assert!(unsigned.refusal.text.contains("as by Azure Arc"), "{}", unsigned.refusal.text);
    asked.join().unwrap();
    assert!(!Identity::new(&|_| None).is_arc);
}

/// With `allow_http=true`, whoever was on the way had a token, or a signature that is good for a year.
#[test]
fn what_others_could_use_is_not_sent_in_clear() {
    let keys = AzureKeys::new(Credentials::default(), String::new(), "walsafe1".to_owned());
    let sign = |credential: &Credential, uri: &str| {
        let mut parts = parts(uri);
        keys.sign(credential, &mut parts, Some(7)).map_err(|refusal| refusal.text)
    };
    let token = Credential::Token("hunter2".to_owned(), SystemTime::now());
    let sas = Credential::Sas("sig=hunter2".to_owned());
    let key = Credential::Key(b"hunter2".to_vec());
    for (credential, what) in [(&token, "a token is"), (&sas, "a shared access signature is")] {
        let said = sign(credential, "http://store.test/wal/x").unwrap_err();
        assert!(said.starts_with(&format!("{what} not sent to store.test")), "{said}");
        assert!(said.ends_with("use https, or the account's key, which only signs"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
        for good in ["https://store.test/wal/x", "http://127.0.0.1:1/wal/x", "http://[::1]/wal"] {
            sign(credential, good).unwrap();
        }
    }
    sign(&key, "http://store.test/wal/x").unwrap();
}

#[test]
fn a_token_is_used_to_its_end_where_there_is_no_other() {
    let keys = AzureKeys::new(Credentials::default(), String::new(), String::new());
    let in_seconds = |left| {
        let token = parse(format!(r#"{{"access_token": "t", "expires_in": {left}}}"#).as_bytes());
        token.unwrap()
    };
    for (left, good, valid) in [(200, true, true), (100, false, true), (0, false, false)] {
        let token = in_seconds(left);
        assert_eq!((keys.is_good(&token), keys.is_valid(&token)), (good, valid), "{left}");
    }
}
