//! What object storage must be for us, whoever serves it: a fake server, or a real one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::fake::{self, Fake};
use super::tests::{World, contents, look, name, publish, world};
use super::{Credentials, ObjectStore, ObjectUrl, Patience};
use crate::error::ErrorKind;
use crate::store::{Progress, Publication, Seal, Store, conformance};

#[test]
fn a_bucket_keeps_the_promises_of_a_store() {
    let fake = Fake::new();
    let (mut places, mut keys) = (0, Vec::new());
    conformance::conforms_anew(&mut || {
        places += 1;
        let prefix = format!("/place-{places}");
        let World { store, keys: kept } = world(&fake.url(&prefix), Duration::from_secs(10));
        keys.push(kept);
        Box::new(store)
    });
}

/// A certificate of an unknown authority, or for another name, is what somebody in between shows.
#[test]
fn the_server_must_show_a_certificate_of_its_own() {
    let fake = Fake::tls();
    let temp = tempfile::tempdir().unwrap();
    let authority = temp.path().join("authority.pem");
    std::fs::write(&authority, fake::AUTHORITY).unwrap();
    let url = |host: &str, more: &str| {
        format!("s3://bucket/p?endpoint=https://{host}:{}{more}", fake.port())
    };
    let named = format!("&style=path&ca_file={}", authority.display());
    let good = world(&url("localhost", &named), Duration::from_secs(5));
    assert_eq!(publish(&good).unwrap(), Publication::Published);
    assert_eq!(look(&good).unwrap().unwrap(), contents());
    std::fs::write(temp.path().join("none"), "").unwrap();
    let empty = format!("&ca_file={}", temp.path().join("none").display());
    for (host, more, says) in [
        ("localhost", "", "UnknownIssuer"),
        ("127.0.0.1", named.as_str(), "not valid for"),
        ("localhost", empty.as_str(), "holds no certificate"),
    ] {
        let error = look(&world(&url(host, more), Duration::from_secs(5))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CertificateRefused, "{}", error.detail());
        assert!(error.detail().contains(says), "{}", error.detail());
    }
}

#[test]
fn a_proxy_forwards_requests_and_lets_tls_through() {
    let fake = Fake::new();
    let url = format!(
        "s3://bucket/p?endpoint=http://store.test&allow_http=true&style=path&proxy=http://127.0.0.1:{}",
        fake.port()
    );
    assert_eq!(publish(&world(&url, Duration::from_secs(5))).unwrap(), Publication::Published);
    assert_eq!(fake.count("PUT", "http://store.test/bucket/p/"), 1);

    let secure = Fake::tls();
    let temp = tempfile::tempdir().unwrap();
    let authority = temp.path().join("authority.pem");
    std::fs::write(&authority, fake::AUTHORITY).unwrap();
    let proxy = tunnel(secure.port());
    let url = format!(
        "s3://bucket/p?endpoint=https://store.test&style=path&ca_file={}&proxy=http://127.0.0.1:{proxy}",
        authority.display()
    );
    assert_eq!(publish(&world(&url, Duration::from_secs(5))).unwrap(), Publication::Published);
    let refusing =
        format!("s3://bucket/p?endpoint=https://store.test&proxy=http://127.0.0.1:{}", fake.port());
    let error = look(&world(&refusing, Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.detail().contains("the proxy 127.0.0.1:"), "{}", error.detail());
}

/// A proxy that connects to a port of this machine, whatever name it is given.
pub(super) fn tunnel(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pass = move |client: TcpStream| {
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        assert!(head.starts_with("CONNECT store.test:443 HTTP/1.1\r\n"), "{head}");
        (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let mut back = (server.try_clone().unwrap(), client);
        thread::spawn(move || std::io::copy(&mut back.0, &mut back.1));
        let _ = std::io::copy(&mut reader, &mut &server);
        let _ = server.shutdown(Shutdown::Write);
    };
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || pass(client));
        }
    });
    port
}

/// Two servers with one history up to a point: the original, and a clone. Who finds a name taken by the other
/// has left the archive's history, and must add nothing behind that.
pub(super) fn rivals_stop_at_the_first_name_that_is_taken(make: &dyn Fn() -> ObjectStore) {
    const BODIES: u32 = 8;
    let rival = |who: u8, store: &ObjectStore| {
        let progress = Progress::default();
        let visit = store.visit(&progress).unwrap();
        let bytes = vec![who; 50_000];
        let seal = Seal { digests: None, checked: None, mode: 0o600, flush: true, verify: false };
        let begin = |n| {
            let mut draft = visit.stage(name(n)).unwrap();
            draft.put(&bytes).unwrap();
            draft.seal(&seal).unwrap()
        };
        let held: Vec<_> = (0..BODIES).map(begin).collect();
        let mut came = held.into_iter().map(|sealed| sealed.publish(&progress).unwrap());
        // The first refusal ends it, and drops what is held.
        came.position(|came| came == Publication::NameTaken)
    };
    let (one, two) = (make(), make());
    let stopped = thread::scope(|scope| {
        let one = scope.spawn(|| rival(1, &one));
        let two = scope.spawn(|| rival(2, &two));
        [one.join().unwrap(), two.join().unwrap()]
    });
    thread::sleep(Duration::from_millis(50));
    let progress = Progress::default();
    let visit = one.visit(&progress).unwrap();
    let mut first = Vec::new();
    for n in 0..BODIES {
        let Some(found) = visit.find(&name(n)).unwrap() else { break };
        let mut bytes = Vec::new();
        found.read(true).unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == vec![bytes[0]; 50_000]);
        first.push(bytes[0]);
    }
    for (who, stopped) in [1, 2].into_iter().zip(stopped) {
        let last = first.iter().rposition(|by| *by == who);
        assert!(last < stopped || stopped.is_none(), "{who} stopped at {stopped:?}: {first:?}");
    }
}

#[test]
fn a_clone_adds_nothing_behind_a_name_that_it_did_not_get() {
    let fake = Fake::new();
    for round in 0..20 {
        let keys = std::sync::Mutex::new(Vec::new());
        rivals_stop_at_the_first_name_that_is_taken(&|| {
            let World { store, keys: kept } =
                world(&fake.url(&format!("/round-{round}")), Duration::from_secs(10));
            keys.lock().unwrap().push(kept);
            store
        });
    }
}

/// `WALSAFE_TEST_S3` is the URL of an empty place on a real server, and `WALSAFE_TEST_S3_KEYS` the file of its
/// keys.
#[test]
#[ignore = "needs a server of object storage"]
fn a_real_server_keeps_the_promises_of_a_store() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let url: ObjectUrl = variable("WALSAFE_TEST_S3").parse().unwrap();
    let file = Some(variable("WALSAFE_TEST_S3_KEYS").into());
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let mut places = 0;
    conformance::conforms_anew(&mut || {
        places += 1;
        let mut url = url.clone();
        url.prefix = format!("{now}/place-{places}");
        let from = Credentials { file: file.clone(), data_directory: None };
        let patience = Patience::within(Some(Duration::from_secs(60)));
        Box::new(ObjectStore::new(url, from, patience).unwrap())
    });
    for round in 0..20 {
        rivals_stop_at_the_first_name_that_is_taken(&|| {
            let mut url = url.clone();
            url.prefix = format!("{now}/round-{round}");
            let from = Credentials { file: file.clone(), data_directory: None };
            ObjectStore::new(url, from, Patience::within(None)).unwrap()
        });
    }
}
