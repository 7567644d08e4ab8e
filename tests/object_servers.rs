//! The servers of object storage that the tests have, and what they do with a conditional PUT: why the module
//! trusts some and refuses others.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use harness::command::run_within;
use harness::object::server::ANOTHER;
use harness::object::{Answer, Bucket, Fault, Kind, ObjectServer, Proxy};
use harness::wait::poll;
use harness::{TIMEOUT, dose, require};

/// Bodies that differ from their first byte on.
fn bodies(count: u8, size: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| vec![i; size]).collect()
}

/// Which of the answers say that the object was stored.
fn winners(answers: &[Answer]) -> Vec<usize> {
    (0..answers.len()).filter(|&i| [200, 201].contains(&answers[i].status)).collect()
}

/// Rounds of conditional PUTs to one new name at the same moment, for three sizes. Exactly one may win, and its
/// body is the object's.
fn one_wins(bucket: &Bucket, racers: u8, rounds: [usize; 3]) {
    for (size, rounds) in [1000, 1 << 20, 16 << 20].into_iter().zip(rounds) {
        let bodies = bodies(racers, size);
        for round in 0..rounds {
            let key = format!("{size}/{round}");
            let answers = bucket.race(&key, &bodies).unwrap();
            let winners = winners(&answers);
            assert_eq!(winners.len(), 1, "{key}: {answers:?}");
            let lost = answers.iter().filter(|answer| answer.status != bucket.good());
            for answer in lost {
                let is_told = matches!(
                    (answer.status, answer.code().as_str()),
                    (412, "PreconditionFailed" | "conditionNotMet")
                        | (409, "ConditionalRequestConflict" | "BlobAlreadyExists")
                );
                assert!(is_told, "{key}: {answer:?}");
            }
            assert!(bucket.get(&key).unwrap() == bodies[winners[0]], "{key}");
        }
    }
}

/// What the tests see in a bucket: all of it, also beyond the first page, and nothing made up.
fn a_bucket_can_be_looked_into(bucket: &Bucket) {
    assert_eq!(bucket.get("wal/none"), None);
    assert!(bucket.names("").is_empty());
    bucket.put("wal/one", b"first");
    bucket.put("wal/one", b"second");
    let taken = bucket.put_new("wal/one", b"third").unwrap();
    assert_eq!((taken.status, taken.code().as_str()), (412, "PreconditionFailed"));
    assert_eq!(bucket.put_new("wal/two & \"three\"+%/é", b"new").unwrap().status, 200);
    assert_eq!(bucket.get("wal/one").unwrap(), b"second");
    let header = [("x-amz-meta-walsafe", "digest")];
    assert_eq!(bucket.request("PUT", "wal/meta", &[], &header, b"m").unwrap().status, 200);
    assert_eq!(bucket.metadata("wal/meta").header("x-amz-meta-walsafe"), Some("digest"));
    assert_eq!(bucket.names("wal/"), ["wal/meta", "wal/one", "wal/two & \"three\"+%/é"]);
    bucket.delete("wal/one");
    assert_eq!(bucket.get("wal/one"), None);
    let mut stranger = bucket.keys.clone();
    stranger.secret.push('x');
    let refused = bucket.with(stranger).request("GET", "wal/meta", &[], &[], b"").unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (403, "SignatureDoesNotMatch"));
}

/// More than a page of a listing has.
fn a_listing_has_pages(bucket: &Bucket) {
    let count = 250;
    thread::scope(|scope| {
        for part in 0..8 {
            scope.spawn(move || {
                (part..count).step_by(8).for_each(|i| bucket.put(&format!("many/{i:08}"), b"x"));
            });
        }
    });
    let names: Vec<String> = (0..count).map(|i| format!("many/{i:08}")).collect();
    assert_eq!(bucket.names("many/"), names);
}

/// What counts as stored is there after a kill in the middle of more.
fn acknowledged_objects_survive_a_kill(server: &Arc<ObjectServer>) {
    let bucket = server.bucket();
    // The first may take a second, and all others wait for it.
    bucket.put("first", b"x");
    let body = |writer: usize, i: usize| vec![(16 * writer + i % 16) as u8; 100_000 + i];
    let key = |writer: usize, i: usize| format!("{writer}/{i:06}");
    let sum = AtomicUsize::new(0);
    let stored = thread::scope(|scope| {
        let writers = [0, 1, 2, 3].map(|writer| {
            let (bucket, sum) = (&bucket, &sum);
            // Each until the first that fails.
            scope.spawn(move || {
                let mut stored = 0;
                let put = |i| bucket.put_new(&key(writer, i), &body(writer, i));
                while put(stored).is_ok_and(|answer| answer.status == 200) {
                    stored += 1;
                    sum.fetch_add(1, Ordering::Relaxed);
                }
                stored
            })
        });
        // Not wait_until, whose panic would leave the writers to go on for ever.
        let enough = poll(TIMEOUT, || (sum.load(Ordering::Relaxed) >= 40).then_some(()));
        server.kill();
        assert!(enough.is_some(), "{sum:?}");
        writers.map(|writer| writer.join().unwrap())
    });
    assert!(bucket.put_new("down", b"x").is_err());
    server.restart();
    for (writer, count) in stored.into_iter().enumerate() {
        for i in 0..count {
            let object = bucket.get(&key(writer, i));
            assert!(object == Some(body(writer, i)), "{writer}: {i} of {count} is lost");
        }
        // At most the one that the writer was at was stored without a word.
        let names = bucket.names(&format!("{writer}/"));
        assert!(names.len() <= count + 1, "{count} of {}", names.len());
    }
    assert_eq!(bucket.put_new("first", b"y").unwrap().status, 412);
}

/// A body that is cut short is never to be seen, and what was stored without a word is there: "exists" is then
/// said of one's own.
fn half_is_nothing_and_unanswered_is_whole(server: &Arc<ObjectServer>) {
    let bucket = server.bucket();
    let proxy = Proxy::in_front_of(server.address());
    let through = bucket.through(proxy.address());
    let body = vec![7; 300_000];
    let (method, part) = bucket.upload_of("half");
    let broken = proxy.break_next(method, &part, Fault::CutRequest { after: 299_999 });
    assert!(through.put_new("half", &body).is_err());
    broken.done();
    let fault = Fault::CommitThenAnswer(Answer::error(503, "ServiceUnavailable"));
    let (method, part) = bucket.upload_of("whole");
    let broken = proxy.break_next(method, &part, fault);
    assert_eq!(through.put_new("whole", &body).unwrap().status, 503);
    assert_eq!(broken.done().served, Some(bucket.good()));
    assert_eq!(through.put_new("whole", &body).unwrap().code(), bucket.taken().1);
    assert!(through.get("whole").unwrap() == body);
    assert_eq!(bucket.get("half"), None);
    assert_eq!(bucket.names(""), ["whole"]);
}

#[test]
fn seaweedfs_does_what_the_tests_need() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let server = ObjectServer::shared(Kind::SeaweedFs);
    let bucket = server.bucket();
    a_bucket_can_be_looked_into(&bucket);
    a_listing_has_pages(&bucket);
    // Those that lose look for the lock of the name once a second.
    let (racers, rounds) = dose((4, [4, 2, 0]), (20, [4, 4, 1]));
    one_wins(&bucket, racers, rounds);
    half_is_nothing_and_unanswered_is_whole(&server);

    // Its certificate is good for those who trust the tests' authority.
    let (address, authority) = server.https();
    let ask = |trust: bool, host: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}"]);
        curl.args(["--connect-to", &format!("::{address}")]);
        if trust {
            curl.arg("--cacert").arg(&authority);
        }
        run_within(curl.arg(format!("https://{host}/")), "", TIMEOUT)
    };
    let host = address.ip().to_string();
    assert_eq!(ask(true, &host).stdout, "403");
    assert_eq!(ask(false, &host).code(), Some(60), "no such authority");
    assert_eq!(ask(true, "127.0.0.9").code(), Some(60), "another's certificate");
}

/// It is a witness for uploads with a condition, and for the words that somebody before it gives it.
#[test]
fn fake_gcs_server_does_what_the_tests_need() {
    require!(ObjectServer::is_there(Kind::FakeGcs));
    let server = ObjectServer::shared(Kind::FakeGcs);
    let bucket = server.bucket();
    assert_eq!(bucket.get("wal/none"), None);
    bucket.put("wal/one & \"two\"+%/é", b"first");
    bucket.put("wal/one & \"two\"+%/é", b"second");
    let taken = bucket.put_new("wal/one & \"two\"+%/é", b"third").unwrap();
    assert_eq!((taken.status, taken.code().as_str()), (412, "conditionNotMet"));
    assert_eq!(bucket.get("wal/one & \"two\"+%/é").unwrap(), b"second");
    assert_eq!(bucket.names("wal/"), ["wal/one & \"two\"+%/é"]);
    bucket.delete("wal/one & \"two\"+%/é");
    assert!(bucket.names("").is_empty());
    let mut stranger = bucket.keys.clone();
    stranger.secret.push('x');
    assert_eq!(bucket.with(stranger).put_new("a", b"x").unwrap().code(), "authError");
    let mut elsewhere = bucket.clone();
    elsewhere.name = "none".to_owned();
    let missing = elsewhere.request("GET", "a", &[], &[], b"").unwrap();
    assert_eq!((missing.status, missing.code().as_str()), (404, "NoSuchBucket"));
    a_listing_has_pages(&bucket);
    let (racers, rounds) = dose((4, [4, 2, 0]), (20, [16, 16, 4]));
    one_wins(&bucket, racers, rounds);
    half_is_nothing_and_unanswered_is_whole(&server);
}

/// What only `make test-all` does, with the servers that it gets.
mod full {
    use super::*;

    /// No witness for what survives a kill: it lost 72 of 396 blobs that it had acknowledged.
    #[test]
    fn azurite_does_what_the_tests_need() {
        require!(ObjectServer::is_there(Kind::Azurite));
        let server = ObjectServer::shared(Kind::Azurite);
        let bucket = server.bucket();
        let name = "wal/one & \"two\"+%/é";
        assert_eq!(bucket.get(name), None);
        bucket.put(name, b"first");
        bucket.put(name, b"second");
        let taken = bucket.put_new(name, b"third").unwrap();
        assert_eq!((taken.status, taken.code().as_str()), (409, "BlobAlreadyExists"));
        assert_eq!(bucket.put_new("wal/two", b"new").unwrap().status, 201);
        assert_eq!(bucket.get(name).unwrap(), b"second");
        let header = [("x-ms-blob-type", "BlockBlob"), ("x-ms-meta-walsafe_x", "digest")];
        assert_eq!(bucket.request("PUT", "wal/meta", &[], &header, b"m").unwrap().status, 201);
        assert_eq!(bucket.metadata("wal/meta").header("x-ms-meta-walsafe_x"), Some("digest"));
        assert_eq!(bucket.names("wal/"), ["wal/meta", name, "wal/two"]);
        bucket.delete(name);
        bucket.delete(name);
        assert_eq!(bucket.get(name), None);
        let mut stranger = bucket.keys.clone();
        stranger.secret = "c3RyYW5nZXI=".to_owned();
        let refused = bucket.with(stranger).request("GET", "wal/meta", &[], &[], b"").unwrap();
        assert_eq!((refused.status, refused.code().as_str()), (403, "AuthorizationFailure"));
        a_listing_has_pages(&bucket);
        one_wins(&bucket, 20, [16, 16, 4]);
        half_is_nothing_and_unanswered_is_whole(&server);
    }

    #[test]
    fn what_seaweedfs_acknowledged_survives_a_kill() {
        require!(ObjectServer::is_there(Kind::SeaweedFs));
        acknowledged_objects_survive_a_kill(&ObjectServer::start(Kind::SeaweedFs));
    }

    #[test]
    fn ceph_does_what_the_tests_need() {
        require!(ObjectServer::is_there(Kind::Ceph));
        let server = ObjectServer::shared(Kind::Ceph);
        a_bucket_can_be_looked_into(&server.bucket());
        a_listing_has_pages(&server.bucket());
        one_wins(&server.bucket(), 20, [16, 16, 4]);
        half_is_nothing_and_unanswered_is_whole(&server);

        // Who may not list a bucket is not told that an object is missing.
        let bucket = server.bucket();
        bucket.put("a", b"x");
        bucket.allow(ANOTHER, &["s3:GetObject", "s3:PutObject"]);
        let other = bucket.with(server.other_keys());
        assert_eq!(other.get("a").unwrap(), b"x");
        assert_eq!(other.put_new("b", b"y").unwrap().status, 200);
        let missing = other.request("GET", "c", &[], &[], b"").unwrap();
        assert_eq!((missing.status, missing.code().as_str()), (403, "AccessDenied"));
    }

    /// Version 16 lets all win in a bucket that keeps versions.
    #[test]
    fn ceph_ignores_the_condition_in_a_bucket_with_versions() {
        require!(ObjectServer::is_there(Kind::Ceph));
        let bucket = ObjectServer::shared(Kind::Ceph).bucket();
        bucket.put("a", b"first");
        assert_eq!(bucket.put_new("a", b"second").unwrap().status, 412);
        bucket.keep_versions();
        assert_eq!(bucket.put_new("a", b"second").unwrap().status, 200);
        assert_eq!(bucket.get("a").unwrap(), b"second");
    }

    #[test]
    fn what_ceph_acknowledged_survives_a_kill() {
        require!(ObjectServer::is_there(Kind::Ceph));
        acknowledged_objects_survive_a_kill(&ObjectServer::start(Kind::Ceph));
    }

    /// The witness for what has to be refused: a good server otherwise.
    #[test]
    fn juicefs_lets_all_win() {
        require!(ObjectServer::is_there(Kind::JuiceFs));
        let bucket = ObjectServer::shared(Kind::JuiceFs).bucket();
        bucket.put("a", b"first");
        assert_eq!(bucket.put_new("a", b"second").unwrap().status, 200);
        assert_eq!(bucket.get("a").unwrap(), b"second");
        let answers = bucket.race("b", &bodies(20, 1000)).unwrap();
        assert_eq!(winners(&answers).len(), 20, "{answers:?}");
    }

    /// It ignores the condition, and shows what was cut short.
    #[test]
    fn s3rver_publishes_half_a_body() {
        require!(ObjectServer::is_there(Kind::S3rver));
        let server = ObjectServer::shared(Kind::S3rver);
        let bucket = server.bucket();
        bucket.put("a", b"first");
        assert_eq!(bucket.put_new("a", b"second").unwrap().status, 200);
        let proxy = Proxy::in_front_of(server.address());
        let broken = proxy.break_next("PUT", "/half", Fault::CutRequest { after: 50_000 });
        assert!(bucket.through(proxy.address()).put_new("half", &[7; 100_000]).is_err());
        broken.done();
        let object = harness::wait_until(TIMEOUT, "the object", || bucket.get("half"));
        assert!(object.len() < 100_000, "{}", object.len());
    }
}
