//! The exit statuses of `walsafe restore` where the archive is in object storage: what can be wrong there only. What
//! is the same for a directory stands in `exit_table.rs`.

#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread;

use common::bucket::Break;
use common::stored::{bucket, command, is_trouble, three_segments};
use common::{Language, Place, Run, SECRET, segments, walsafe};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

const ONE: &str = "000000010000000000000001";
const TWO: &str = "000000010000000000000002";
const FOUR: &str = "000000010000000000000004";

/// An archive with segments 1 to 3 of timeline 1.
fn place() -> Place {
    three_segments(Language::S3)
}

#[test]
fn an_answer_is_told_by_its_code_and_none_but_no_such_key_is_absence() {
    let place = place();
    let answers: [(u16, &'static str, &[&str]); 14] = [
        (404, "NoSuchBucket", &["answered 404 NoSuchBucket", "name of the bucket"]),
        (404, "", &["answered 404 an error without a code"]),
        (403, "InvalidAccessKeyId", &["403 InvalidAccessKeyId", "Check the keys"]),
        (403, "SignatureDoesNotMatch", &["403 SignatureDoesNotMatch", "Check the keys"]),
        (400, "ExpiredToken", &["400 ExpiredToken", "whether they have run out"]),
        (403, "AccessDenied", &["403 AccessDenied", "to list the bucket (s3:ListBucket)"]),
        (403, "InvalidObjectState", &["403 InvalidObjectState", "Bring it back first"]),
        (301, "PermanentRedirect", &["301 PermanentRedirect", "Correct \"region\""]),
        (503, "SlowDown", &["503 SlowDown", "overloaded"]),
        (500, "InternalError", &["500 InternalError", "overloaded"]),
        (429, "TooManyRequests", &["429 TooManyRequests", "overloaded"]),
        (400, "InvalidRequest", &["400 InvalidRequest", "Look for the code"]),
        (405, "MethodNotAllowed", &["405 MethodNotAllowed"]),
        (412, "PreconditionFailed", &["412 PreconditionFailed"]),
    ];
    for (status, code, texts) in answers {
        // The file asked for, which is there and is not; what shows whose archive it is; and the names.
        for (part, file) in
            [(TWO, TWO), (FOUR, FOUR), ("walsafe_archive.id", FOUR), ("list-type", FOUR)]
        {
            // A listing is not asked for by a standby, and an object alone is in a cold class.
            let is_listed = part == "list-type";
            if is_listed && code == "InvalidObjectState" {
                continue;
            }
            bucket(&place).break_all(part, Break::Answer(status, code));
            if is_listed {
                let run = Run::of(&mut command(&place, &bucket(&place).url(), file));
                texts.iter().for_each(|text| run.says(126, text));
            } else if part == FOUR || status < 500 && status != 429 {
                is_trouble(&place, &bucket(&place).url(), file, texts);
            }
        }
    }
    bucket(&place).mend();
    place.restore(TWO).delivers();
}

/// Whose clock it is that is wrong, nobody can tell from one of them.
#[test]
fn a_clock_that_is_wrong_is_named_with_the_other() {
    let place = place();
    bucket(&place).break_all("", Break::Skewed);
    let url = bucket(&place).url();
    let texts =
        ["its clock says 1994-11-06T08:49:37Z, and this machine's 20", "Set this machine's clock"];
    is_trouble(&place, &url, TWO, &texts);
}

/// AWS may find out after it has begun to answer.
#[test]
fn an_error_in_an_answer_of_success_is_none() {
    let place = place();
    let url = bucket(&place).url();
    bucket(&place).break_all(TWO, Break::Answer(200, "InternalError"));
    is_trouble(&place, &url, TWO, &["is damaged or the wrong one"]);
    bucket(&place).break_all("walsafe_archive.id", Break::Answer(200, "InternalError"));
    is_trouble(&place, &url, TWO, &["cannot be understood"]);
    bucket(&place).break_all("list-type", Break::Answer(200, "InternalError"));
    let run = Run::of(&mut command(&place, &url, FOUR));
    run.says(126, "could not list the objects of the archive");
}

#[test]
fn what_does_not_answer_is_trouble_and_is_named() {
    let place = place();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = format!("s3://wal/main?endpoint=http://127.0.0.1:{closed}");
    let texts = [&*format!("127.0.0.1:{closed} cannot be reached"), "Check the network"];
    is_trouble(&place, &refused, TWO, &texts);
    // No DNS is asked for a name that is too long for one.
    let name = format!("{}.test", "x".repeat(80));
    let unknown = format!("s3://wal/main?allow_http=true&endpoint=http://{name}");
    let texts =
        [&*format!("the name of wal.{name} cannot be looked up"), "add style=path to the URL"];
    is_trouble(&place, &unknown, TWO, &texts);
    let run = Run::of(&mut command(&place, &format!("{unknown}&style=path"), TWO));
    run.says(126, &format!("the name of {name} cannot be looked up"));
    assert!(!run.err.contains("style=path"), "{run:?}");
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused() {
    let place = place();
    let authority = place.path("authority.pem");
    fs::write(&authority, AUTHORITY).unwrap();
    let ca_file = format!("ca_file={}", authority.display());
    let url = format!("s3://wal/main?endpoint=https://127.0.0.1:{}&{ca_file}", tls_server());
    is_trouble(&place, &url, TWO, &["the certificate of 127.0.0.1:", "\"ca_file\" in the URL"]);
    fs::remove_file(&authority).unwrap();
    is_trouble(&place, &url, TWO, &["authority.pem\" cannot be read"]);
}

/// Returns the port of a server whose certificate nobody has signed.
fn tls_server() -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap(),
        )
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
            // What the client says of the certificate is read, so that it is not cut off.
            let _ = stream.read(&mut [0; 64]);
        }
    });
    port
}

/// A recovery stopped at the first connection that broke.
#[test]
fn what_passes_is_tried_again() {
    let place = place();
    for how in [
        Break::Answer(503, "SlowDown"),
        Break::Answer(429, ""),
        Break::Answer(500, "InternalError"),
        // Once, with keys that were read anew.
        Break::Answer(400, "ExpiredToken"),
        Break::Cut(70_000),
    ] {
        bucket(&place).break_next(&format!("{TWO}$"), how, 1);
        place.restore(TWO).delivers();
        assert!(fs::read(place.target()).unwrap() == segments()[1]);
    }
    for part in ["walsafe_archive.id", "list-type"] {
        bucket(&place).break_next(part, Break::Cut(20), 2);
        place.restore(FOUR).says(1, "the last file of timeline 1 there is");
        bucket(&place).break_next(part, Break::Cut(20), 3);
        place.restore(FOUR).says(126, "onnection reset");
    }
}

#[test]
fn an_object_that_breaks_off_or_has_another_bit_is_never_delivered() {
    let place = place();
    let url = bucket(&place).url();
    for len in [0, 1, 70_000, common::MB - 1] {
        bucket(&place).break_all(&format!("{TWO}$"), Break::Cut(len));
        is_trouble(&place, &url, TWO, &["broke off on its way 3 times", "Check the network"]);
    }
    for at in [9, 70_000, common::MB - 1] {
        bucket(&place).break_all(&format!("{TWO}$"), Break::Flip(at));
        is_trouble(&place, &url, TWO, &["digest-mismatch"]);
    }
}

/// Each request is paid for, and each is a round trip.
#[test]
fn a_file_costs_a_request_for_the_identity_and_one_for_each_encoding() {
    let place = place();
    let sorted = || {
        let mut seen = bucket(&place).seen();
        seen.sort();
        seen
    };
    let looks = |name: &str| {
        let extensions = ["", ".gz", ".lz4", ".zst"];
        let mut looks: Vec<_> =
            extensions.iter().map(|extension| format!("/main/{name}{extension}")).collect();
        looks.push("/main/walsafe_archive.id".to_owned());
        looks
    };
    place.restore(TWO).delivers();
    assert_eq!(sorted(), looks(TWO));
    place.restore("00000002.history").says(1, "nor is any WAL of timeline 2");
    let listing = "?delimiter=%2F&encoding-type=url&list-type=2&prefix=main%2F&start-after=main%2F";
    let asked = sorted();
    assert_eq!((asked.len(), &asked[..5]), (6, &looks("00000002.history")[..]));
    assert_eq!(asked[5], format!("{listing}00000002"));
    // A standby that asks again in five seconds does not list.
    fs::write(place.path("data/standby.signal"), "").unwrap();
    place.restore(FOUR).says(1, "is not in the archive");
    assert_eq!(sorted(), looks(FOUR));
}

/// A million objects are a thousand listings, and a recovery asks for several files that are not there.
#[test]
fn what_lies_before_the_file_is_not_listed() {
    let place = place();
    let missing = "000000010000000500000007";
    for (before, listings, text) in [
        (
            "0000000100000003000000",
            1,
            "nor is any WAL of timeline 1 shortly before it or behind it",
        ),
        (
            "0000000100000004000000",
            11,
            "the last file of timeline 1 there is 000000010000000400000013",
        ),
    ] {
        (0..20).for_each(|number| drop(place.put(&format!("{before}{number:02X}"), b"")));
        bucket(&place).seen();
        place.restore(missing).says(1, text);
        let seen = bucket(&place).seen();
        let count = seen.iter().filter(|target| target.contains("list-type")).count();
        assert_eq!(count, listings, "{seen:?}");
    }
    // Here it would be a hole: two names are behind it.
    place.put("000000010000000500000008", b"");
    place.restore(missing).says(126, "000000010000000500000008 is there");
    place.put("00000003.history", b"1\t5/600000\tno reason\n");
    fs::remove_file(place.path("archive/000000010000000500000008")).unwrap();
    place.restore(missing).says(1, "the last file of timeline 1");
}

/// A bucket is not mounted, and rules delete what is old.
#[test]
fn a_bucket_without_an_identity_is_not_taken_for_a_mount_point() {
    let place = place();
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
    let url = bucket(&place).url();
    is_trouble(&place, &url, TWO, &["has no identity file", "If a lifecycle rule has taken"]);
    common::names(&place.path("archive"))
        .iter()
        .for_each(|name| fs::remove_file(place.path("archive").join(name)).unwrap());
    let run = Run::of(command(&place, &url, TWO).arg("--allow-unmarked"));
    run.says(126, "the archive holds neither WAL nor an identity file");
    run.says(126, "Are the bucket, the path and \"endpoint\" in the URL those of the archive?");
}

#[test]
fn archives_of_both_kinds_are_asked_as_one() {
    let place = place();
    let second = place.path("second");
    fs::create_dir(&second).unwrap();
    fs::copy(place.path("archive/walsafe_archive.id"), second.join("walsafe_archive.id")).unwrap();
    fs::copy(place.path("archive").join(ONE), second.join(ONE)).unwrap();
    let url = bucket(&place).url();
    let run = |file: &str| {
        let mut command = command(&place, &url, file);
        Run::of(command.arg("--from").arg(&second))
    };
    run(TWO).delivers();
    fs::remove_file(place.path("archive").join(ONE)).unwrap();
    run(ONE).delivers();
    run(FOUR).says(1, "is in none of the archives: the last file of timeline 1 there is");
    bucket(&place).break_all("", Break::Answer(404, "NoSuchBucket"));
    let from = run(ONE);
    from.says(0, &format!("from \"{}\" and not from \"{url}\"", second.display()));
    from.says(0, "NoSuchBucket");
    let stops = run(TWO);
    stops.says(126, "the file may be in an archive that cannot be read");
    stops.says(126, &format!("leave \"{url}\" out of --from"));
}

#[test]
fn keys_are_taken_from_a_file_that_is_nobody_elses() {
    let place = place();
    let (file, url) = (place.path("keys"), bucket(&place).url());
    let keys = format!("[s3://wal]\naws_access_key_id = AKID\naws_secret_access_key = {SECRET}\n");
    fs::write(&file, keys).unwrap();
    let allow = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    let keyless = || {
        let mut command = command(&place, &url, TWO);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env_remove(name);
        }
        command.env("HOME", place.path("data")).env("AWS_EC2_METADATA_DISABLED", "true");
        command
    };
    allow(0o600);
    Run::of(keyless().arg("--credentials-file").arg(&file)).delivers();
    Run::of(keyless().env("WALSAFE_CREDENTIALS_FILE", &file)).delivers();
    fs::remove_file(place.target()).unwrap();
    allow(0o644);
    let open = Run::of(keyless().arg("--credentials-file").arg(&file));
    open.says(126, "can be read or written by others (mode 0644)");
    let inside = place.path("data/keys");
    fs::copy(&file, &inside).unwrap();
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o600)).unwrap();
    let inside = Run::of(keyless().arg("--credentials-file").arg(&inside));
    inside.says(126, "lies in the data directory");
    Run::of(keyless().arg("--credentials-file").arg(place.path("none")))
        .says(126, "cannot be read");
    assert_eq!(place.pg_wal(), Vec::<String>::new());
}

/// Bad usage stops a standby too: it would try the same for ever.
#[test]
fn a_url_that_cannot_be_right_is_told_without_what_may_be_secret() {
    let place = place();
    fs::write(place.path("data/standby.signal"), "").unwrap();
    let endpoint = bucket(&place).url();
    let (_, endpoint) = endpoint.split_once('?').unwrap();
    for (url, text) in [
        (format!("s3://AKID:{SECRET}@wal/main?{endpoint}"), "holds credentials, which"),
        (
            format!("s3://wal/main?{endpoint}&secret_access_key={SECRET}"),
            "holds credentials, which",
        ),
        (
            format!("s3://wal/main?endpoint=https://AKID:{SECRET}@store.test"),
            "holds credentials, which",
        ),
        (format!("s3://wal/main?{endpoint}&password_of_mine={SECRET}"), "holds credentials, which"),
        ("s3://wal/main".to_owned(), "add region=... with the bucket's"),
        (
            "s3://wal/main?endpoint=http://store.test".to_owned(),
            "use https, or add allow_http=true",
        ),
        (format!("s3://wal//main?{endpoint}"), "two slashes in a row"),
        (format!("s3://wal/main?{endpoint}&regoin=x"), "option \"regoin\" is not known"),
        (format!("s3://Wal/main?{endpoint}"), "name of its bucket"),
        ("https://wal.s3.eu-central-1.amazonaws.com/main".to_owned(), "not begin with \"s3://\""),
    ] {
        for several in [false, true] {
            let mut command = command(&place, &url, TWO);
            if several {
                command.arg("--from").arg(place.path("archive"));
            }
            let run = Run::of(&mut command);
            run.says(126, text);
            run.says(126, "Correct the location of the archive.");
            assert_eq!(run.err.contains("--from number 1"), several, "{run:?}");
        }
    }
    // The other commands say the same.
    let url = format!("s3://AKID:{SECRET}@wal/main?{endpoint}");
    for (command, status) in [("list", 2), ("verify", 2), ("manifest", 2)] {
        let run = Run::of(walsafe().args([command, &url]));
        run.says(status, "holds credentials, which");
        run.says(status, "Correct the URL.");
    }
    let run = Run::of(walsafe().args(["copy", "/tmp", &url]));
    run.says(2, "Correct the URL.");
    let run = Run::of(walsafe().args(["list", "/tmp", &url]));
    run.says(2, "unexpected argument 's3://...' found");
    // It means the same.
    Run::of(&mut command(&place, &format!("s3://wal/main/?{endpoint}"), TWO)).delivers();
}

const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBsjCCAVegAwIBAgIUdT6LMBV7yuhCvw8icRJoaz+hIYYwCgYIKoZIzj0EAwIw
HzEdMBsGA1UEAwwUd2Fsc2FmZSB0ZXN0cyBzZXJ2ZXIwIBcNMjYxMTI5MTYzODMz
WhgPMjEyNjExMDUxNjM4MzNaMB8xHTAbBgNVBAMMFHdhbHNhZmUgdGVzdHMgc2Vy
dmVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPo6v9AqkB3K7ERMpFoRj+FCq
/RR8+ew/CAp58o2VS5pvFUTOd6RQdYmI4fvmO383ojWtlOWui5l5DItH0jh39aNv
MG0wHQYDVR0OBBYEFNgWA9Sm0ZX9b1KlvBQqFwd2PV0NMB8GA1UdIwQYMBaAFNgW
A9Sm0ZX9b1KlvBQqFwd2PV0NMA8GA1UdEwEB/wQFMAMBAf8wGgYDVR0RBBMwEYcE
fwAAAYIJbG9jYWxob3N0MAoGCCqGSM49BAMCA0kAMEYCIQDwTMoe5u9gs3ZUEMYc
O4H6xcW05psmXDk4C7QLzdl9IgIhAKFm+MODR/H0dtuEKsRbA8p/bRQIp4Ppm2bd
pVyU+VYF
-----END CERTIFICATE-----
";
/// Of this certificate alone, and so no secret.
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgOCcZ3O31UhjbJtMG
I+opO6KDt+IziKo4TmOv3ibNJQShRANCAAQ+jq/0CqQHcrsREykWhGP4UKr9FHz5
7D8ICnnyjZVLmm8VRM53pFB1iYjh++Y7fzeiNa2U5a6LmXkMi0fSOHf1
-----END PRIVATE KEY-----
";
/// An authority that has signed nothing.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBsDCCAVWgAwIBAgIUIjASYonj2bP3kOj2pG4VClbXW74wCgYIKoZIzj0EAwIw
HjEcMBoGA1UEAwwTd2Fsc2FmZSB0ZXN0cyBvdGhlcjAgFw0yNjExMjkxNjM4MzNa
GA8yMTI2MTEwNTE2MzgzM1owHjEcMBoGA1UEAwwTd2Fsc2FmZSB0ZXN0cyBvdGhl
cjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJmXKjbzBoouf09m90AbBncUTtQu
9iIJY0z/FFlAfltyFGspCirUXPe96s5KZ9OWBfrnHLRGEMF6D5SV3WPFP0yjbzBt
MB0GA1UdDgQWBBQHNcRyLYGKH9b1PCnp4T8BZQbEKTAfBgNVHSMEGDAWgBQHNcRy
LYGKH9b1PCnp4T8BZQbEKTAPBgNVHRMBAf8EBTADAQH/MBoGA1UdEQQTMBGHBH8A
AAGCCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNJADBGAiEAzveuvzjVZ1izQn66uBCv
lsZzmu8DFe0yURkXKx34lp4CIQDPa+GN4x6TqSCfF3ja8ztJdOSf6JJf3NCZ6PD5
9iSJHQ==
-----END CERTIFICATE-----
";
