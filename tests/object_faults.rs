//! What happens between the archiver and object storage, request by request: which answers count, what is tried
//! again, what is reported, and what stands in the bucket afterwards.

use std::fs;
use std::time::{Duration, Instant};

use harness::object::bucket::Language;
use harness::object::{Answer, Fault, Kind, ObjectServer, Proxy, Seen, google};
use harness::process::children;
use harness::{Cluster, ClusterBuilder, Mark, Report, Scratch, require, scratch};

use crate::hung_storage::SLACK;
use crate::support::bucket::Objects;
use crate::support::extension;
use crate::support::recovery::{path, walsafe_in};

/// A cluster that archives through a proxy which breaks requests.
struct World {
    cluster: Cluster,
    proxy: Proxy,
    objects: Objects,
}

impl World {
    /// On return, the identity and a first segment are in the archive.
    fn new(kind: Kind, setup: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Self {
        let bucket = ObjectServer::shared(kind).bucket();
        let proxy = Proxy::in_front_of(bucket.address);
        let objects = Objects::new(bucket).behind(proxy.address());
        let builder = Cluster::builder().set("wal_keep_size", "1GB");
        let cluster = extension::start(setup(objects.archiving(builder)));
        let world = Self { cluster, proxy, objects };
        world.cluster.wait_archived(&world.cluster.switch_wal());
        world
    }

    /// The method of the request that stores a file, and what its target contains.
    fn put_of(&self, name: &str) -> (&'static str, String) {
        self.objects.bucket.upload_of(&format!("wal/{name}"))
    }

    /// What the requests to store a file were answered, as the client saw it.
    fn answered(&self, name: &str) -> Vec<Option<u16>> {
        let (method, part) = self.put_of(name);
        let requests = self.proxy.requests(method, &part);
        requests.iter().map(|request| request.answered).collect()
    }

    fn is_google(&self) -> bool {
        matches!(self.objects.bucket.language, Language::Google { .. })
    }

    fn is_azure(&self) -> bool {
        self.objects.bucket.language == Language::Azure
    }

    /// The status of an answer to who stores a file: it was done, or the name is taken.
    fn good_and_taken(&self) -> [Option<u16>; 2] {
        let bucket = &self.objects.bucket;
        [Some(bucket.good()), Some(bucket.taken().0)]
    }

    /// The status and the code by which this storage says what S3 says by these.
    fn words(&self, status: u16, code: &'static str) -> (u16, &'static str) {
        if self.is_azure() {
            return match code {
                "SlowDown" | "ServiceUnavailable" => (503, "ServerBusy"),
                "InternalError" => (if status == 200 { 201 } else { status }, code),
                "RequestTimeout" => (500, "OperationTimedOut"),
                "TooManyRequests" => (429, code),
                "AccessDenied" => (403, "AuthorizationPermissionMismatch"),
                "SignatureDoesNotMatch" => (403, "AuthenticationFailed"),
                "NoSuchBucket" => (404, "ContainerNotFound"),
                "InvalidObjectState" => (409, "BlobArchived"),
                // There is none: a second request waits.
                "ConditionalRequestConflict" => (503, "ServerBusy"),
                other => panic!("what is {other}?"),
            };
        }
        if !self.is_google() {
            return (status, code);
        }
        match code {
            "ServiceUnavailable" | "SlowDown" => (503, "backendError"),
            "InternalError" => (status, "internalError"),
            "ConditionalRequestConflict" | "TooManyRequests" => (429, "rateLimitExceeded"),
            "RequestTimeout" => (408, "uploadBrokenConnection"),
            "AccessDenied" => (403, "forbidden"),
            "SignatureDoesNotMatch" => (401, "authError"),
            "NoSuchBucket" => (404, "notFound"),
            other => panic!("what is {other}?"),
        }
    }

    /// An error in these words, as the answer to who stores something.
    fn error(&self, status: u16, code: &'static str) -> Answer {
        let (status, code) = self.words(status, code);
        if self.is_google() { google::error(status, code) } else { Answer::error(status, code) }
    }

    fn reports(&self, mark: Mark) -> Vec<Report> {
        self.cluster.log().archiver_reports(mark)
    }

    /// Archives a segment whose next PUT meets the fault. It is archived all the same, without a word, after
    /// PUTs that were answered so. Returns the broken one.
    #[track_caller]
    fn archived_in_spite_of(&self, what: &str, fault: Fault, answers: &[Option<u16>]) -> Seen {
        let (cluster, mark) = (&self.cluster, self.cluster.mark());
        let failed = cluster.stat_archiver().failed_count;
        let name = cluster.current_segment();
        let (method, part) = self.put_of(&name);
        let broken = self.proxy.break_next(method, &part, fault);
        assert_eq!(cluster.switch_wal(), name, "{what}");
        let seen = broken.done();
        cluster.wait_archived(&name);
        assert_eq!(self.reports(mark), [], "{what}");
        assert_eq!(cluster.stat_archiver().failed_count, failed, "{what}");
        assert_eq!(self.answered(&name), answers, "{what}");
        self.objects.assert_holds(cluster, &name);
        seen
    }

    /// Hands over a segment all of whose requests of this kind meet the fault. It is reported with these words,
    /// and nothing is there; without the fault it is archived.
    #[track_caller]
    fn reported(&self, what: &str, method: &str, fault: Fault, (state, says): (&str, &str)) {
        let (cluster, mark) = (&self.cluster, self.cluster.mark());
        let name = cluster.current_segment();
        let failed = cluster.stat_archiver().failed_count;
        let broken = self.proxy.break_each(method, &name, fault);
        assert_eq!(cluster.switch_wal(), name, "{what}");
        broken.done();
        cluster.wait_failures(failed + 1);
        let report = cluster.wait_for_report(mark, state);
        report.assert_explains(&name);
        assert!(report.detail.contains(says), "{what}: {report:?}");
        assert!(!cluster.is_archived(&name), "{what}");
        assert_eq!(self.objects.get(&name), None, "{what}");
        self.mend(&name);
        self.objects.assert_holds(cluster, &name);
    }

    /// No more faults: the file is archived.
    #[track_caller]
    fn mend(&self, name: &str) {
        self.proxy.mend();
        self.cluster.wait_until(&format!("{name} to be archived"), || {
            self.cluster.wake_archiver();
            self.cluster.is_archived(name).then_some(())
        });
    }

    /// What our view says, by column.
    #[track_caller]
    fn view(&self, column: &str) -> String {
        self.cluster.sql(&format!("SELECT {column} FROM walsafe_archive_status"))
    }

    /// What the archive holds is what the server has, all of it, and nothing else.
    #[track_caller]
    fn assert_whole(&self) {
        self.cluster.wait_all_archived();
        let names = self.objects.names();
        for name in names.iter().filter(|name| *name != "walsafe_archive.id") {
            self.objects.assert_holds(&self.cluster, name);
        }
        assert!(names.contains(&"walsafe_archive.id".to_owned()), "{names:?}");
        self.objects.assert_clean();
    }
}

/// Answers and the lack of one after which it is not known whether the object is there, and those that say that
/// it is not: each is settled within the call.
fn what_may_pass_is_tried_again(world: &World) {
    let error = |status, code| Fault::Answer(world.error(status, code));
    let committed = |status, code| Fault::CommitThenAnswer(world.error(status, code));
    let status = |status, code| Some(world.words(status, code).0);
    let [good, exists] = world.good_and_taken();
    let early = Fault::AnswerEarly(world.error(503, "SlowDown").with("Connection", "close"));
    for (what, fault, answers) in [
        ("done, and called busy", committed(503, "ServiceUnavailable"), [Some(503), exists]),
        ("done, and called broken", committed(500, "InternalError"), [Some(500), exists]),
        ("done, with an error in a success", committed(200, "InternalError"), [good, exists]),
        ("done, without an answer", Fault::CommitThenCut, [None, exists]),
        ("busy", error(503, "SlowDown"), [Some(503), good]),
        ("busy at once", early, [Some(503), good]),
        ("a gateway's error", Fault::Answer(Answer::new(502)), [Some(502), good]),
        ("an error in a success", error(200, "InternalError"), [good, good]),
        (
            "a conflict with another PUT",
            error(409, "ConditionalRequestConflict"),
            [status(409, "ConditionalRequestConflict"), good],
        ),
        (
            "too slow for the storage",
            error(400, "RequestTimeout"),
            [status(400, "RequestTimeout"), good],
        ),
        ("cut at the start", Fault::CutRequest { after: 0 }, [None, good]),
        ("cut half-way", Fault::CutRequest { after: 500_000 }, [None, good]),
        ("cut before the last byte", Fault::CutRequest { after: u64::MAX }, [None, good]),
    ] {
        world.archived_in_spite_of(what, fault, &answers);
    }
}

/// The server can ask to be left alone, and is. What is slow and moves is no failure.
fn slowness_is_borne(world: &World) {
    let [good, _] = world.good_and_taken();
    let before = world.view("throttled");
    let busy = world.error(429, "TooManyRequests").with("Retry-After", "2");
    let seen = world.archived_in_spite_of("429", Fault::Answer(busy), &[Some(429), good]);
    let puts = world.proxy.requests(&seen.method, &seen.target);
    assert!(puts[1].began - seen.came.unwrap() >= Duration::from_secs(2), "{puts:?}");
    let throttled = world.view("throttled");
    assert_ne!(throttled, before);

    let late = Fault::Late(Duration::from_secs(1));
    world.archived_in_spite_of("a late answer", late, &[good]);
    let drip = Fault::DripRequest { bytes_a_second: 500_000 };
    world.archived_in_spite_of("a slow network", drip, &[good]);
}

/// Every other answer is trouble, reported as what it is: no success, no absence, and not followed.
fn what_does_not_pass_is_reported(world: &World) {
    let error = |status, code| Fault::Answer(world.error(status, code));
    let says = |status, code| world.words(status, code).1;
    let put = world.put_of("").0;
    let elsewhere = Proxy::in_front_of(world.objects.bucket.address);
    let redirect = Answer::redirect(307, &format!("http://{}/wal/x", elsewhere.address()));
    // At S3 it is the bucket's region that is wrong.
    let state = if world.is_google() { "58030" } else { "55000" };
    world.reported("a redirect", put, Fault::Answer(redirect), (state, "307"));
    assert!(elsewhere.seen().is_empty(), "the redirect was followed");
    for (what, method, fault, says) in [
        ("forbidden", put, error(403, "AccessDenied"), ("42501", says(403, "AccessDenied"))),
        (
            "a wrong key",
            put,
            error(403, "SignatureDoesNotMatch"),
            ("28000", says(403, "SignatureDoesNotMatch")),
        ),
        ("no bucket", put, error(404, "NoSuchBucket"), ("58P01", says(404, "NoSuchBucket"))),
        ("a proxy's 412", put, Fault::Answer(Answer::new(412)), ("58030", "412")),
        ("a success that is none", put, Fault::Answer(Answer::new(204)), ("58030", "204")),
        ("a listing that is forbidden", "GET", error(403, "AccessDenied"), ("42501", "403")),
        ("a listing that is none", "GET", Fault::Answer(Answer::new(200)), ("58030", "listing")),
    ] {
        world.reported(what, method, fault, says);
    }
    if !world.is_google() {
        let never = Fault::Answer(Answer::error(501, "NotImplemented"));
        world.reported("no conditions", put, never, ("0A000", "501"));
    }
}

/// A request that stands still for `stall_timeout`, before or after the object came to be: reported, and settled
/// by the next call.
fn hangs_are_reported_and_settled_later(world: &World) {
    let World { cluster, proxy, .. } = world;
    cluster.reconfigure("walsafe_archive.stall_timeout", "4s");
    cluster.wait_archived(&cluster.switch_wal());
    for (fault, is_there) in
        [(Fault::Hang { after: 100_000 }, false), (Fault::CommitThenHang, true)]
    {
        let mark = cluster.mark();
        let name = cluster.current_segment();
        let failed = cluster.stat_archiver().failed_count;
        let (method, part) = world.put_of(&name);
        let broken = proxy.break_each(method, &part, fault);
        let began = Instant::now();
        assert_eq!(cluster.switch_wal(), name);
        broken.begun();
        cluster.wait_failures(failed + 1);
        assert!(began.elapsed() < Duration::from_secs(4) + SLACK, "{:?}", began.elapsed());
        let reports = world.reports(mark);
        let report = reports.first().expect("a report");
        report.assert_explains(&name);
        assert!(matches!(&*report.sqlstate, "08006" | "58030"), "{report:?}");
        match is_there {
            true => cluster.wait_until("the object", || world.objects.get(&name).map(drop)),
            false => assert_eq!(world.objects.get(&name), None),
        }
        world.mend(&name);
        world.objects.assert_holds(cluster, &name);
    }
    cluster.reconfigure("walsafe_archive.stall_timeout", "60s");
    cluster.wait_archived(&cluster.switch_wal());
}

/// What is there is compared, and trouble on the way back is neither a conflict nor a success.
fn a_broken_read_is_no_conflict(world: &World) {
    let World { cluster, proxy, objects } = world;
    // Its PUT is done and its answer lost, so it is compared.
    let begin = |fault, times: usize| {
        let name = cluster.current_segment();
        let (method, part) = world.put_of(&name);
        let put = proxy.break_next(method, &part, Fault::CommitThenCut);
        let part = format!("/wal/{name}");
        let get = match times {
            1 => proxy.break_next("GET", &part, fault),
            _ => proxy.break_each("GET", &part, fault),
        };
        assert_eq!(cluster.switch_wal(), name);
        put.done();
        get.done();
        name
    };
    let cold = || {
        let (status, code) = world.words(403, "InvalidObjectState");
        ("cold", Fault::Answer(Answer::error(status, code)), ("55000", code))
    };
    let mut cases = vec![
        ("cut short", Fault::CutAnswer { after: 400_000 }, ("58030", "")),
        ("forbidden", Fault::Answer(Answer::error(403, "AccessDenied")), ("42501", "403")),
    ];
    // Google brings nothing back first.
    cases.extend((!world.is_google()).then(cold));
    for (what, fault, (state, says)) in cases {
        let mark = cluster.mark();
        let failed = cluster.stat_archiver().failed_count;
        let name = begin(fault, usize::MAX);
        cluster.wait_failures(failed + 1);
        let report = world.reports(mark).into_iter().next().expect("a report");
        report.assert_explains(&name);
        assert_eq!(report.sqlstate, state, "{what}: {report:?}");
        assert!(report.detail.contains(says), "{what}: {report:?}");
        world.mend(&name);
        objects.assert_holds(cluster, &name);
    }
    // It was taken for another server's file, with the advice to move the archived one away.
    let mark = cluster.mark();
    let name = begin(Fault::FlipBit { byte: 700_000 }, 1);
    cluster.wait_archived(&name);
    assert_eq!(world.reports(mark), [], "a bit that flipped on the way");
    objects.assert_holds(cluster, &name);
}

/// What storage gave back is compared before success. A copy that differs is reported, and stays for a person to
/// judge; here it was the way back that was at fault.
fn a_copy_is_read_back(world: &World) {
    let World { cluster, proxy, .. } = world;
    cluster.reconfigure("walsafe_archive.verify", "on");
    cluster.wait_archived(&cluster.switch_wal());
    let (mark, name) = (cluster.mark(), cluster.current_segment());
    let flip = Fault::FlipBit { byte: 700_000 };
    let broken = proxy.break_next("GET", &format!("/wal/{name}"), flip);
    assert_eq!(cluster.switch_wal(), name);
    broken.done();
    let report = cluster.wait_for_report(mark, "XX001");
    report.assert_explains(&name);
    assert!(report.detail.contains("BLAKE3"), "{report:?}");
    world.mend(&name);
    world.objects.assert_holds(cluster, &name);
    cluster.reconfigure("walsafe_archive.verify", "off");
    cluster.wait_archived(&cluster.switch_wal());
}

/// `walsafe restore` delivers the file whole, or nothing and with a status that stops recovery.
fn a_restore_delivers_the_whole_or_nothing(world: &World) {
    let World { cluster, proxy, objects } = world;
    let target = Scratch::new("target");
    let (wanted, credentials) = (target.join("file"), objects.credentials());
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    let restore = || {
        let arguments = [
            "restore",
            "--stall-timeout",
            "4",
            "--from",
            objects.url(),
            "--credentials-file",
            path(&credentials),
            &name,
            path(&wanted),
        ];
        let run = walsafe_in(cluster.data(), &arguments);
        let delivered = wanted.exists().then(|| scratch::read(&wanted));
        drop(fs::remove_file(&wanted));
        (run, delivered)
    };
    let error = |status, code| Fault::Answer(Answer::error(status, code));
    for (what, fault, status) in [
        ("busy", error(503, "SlowDown"), 126),
        ("forbidden", error(403, "AccessDenied"), 126),
        ("elsewhere", Fault::Answer(Answer::redirect(307, "http://127.0.0.9/")), 126),
        ("cut short", Fault::CutAnswer { after: 400_000 }, 126),
        ("a flipped bit", Fault::FlipBit { byte: 700_000 }, 126),
        ("hangs", Fault::Hang { after: 0 }, 126),
        ("slow", Fault::DripAnswer { bytes_a_second: 500_000 }, 0),
    ] {
        let broken = proxy.break_each("GET", &format!("/wal/{name}"), fault);
        let (run, delivered) = restore();
        broken.begun();
        proxy.mend();
        assert_eq!(run.code, Some(status), "{what}: {run:?}");
        match status {
            0 => assert!(delivered == Some(cluster.read_wal(&name)), "{what}"),
            _ => assert_eq!(delivered, None, "{what}"),
        }
    }
}

fn faults(world: &World) {
    what_may_pass_is_tried_again(world);
    slowness_is_borne(world);
    what_does_not_pass_is_reported(world);
    hangs_are_reported_and_settled_later(world);
    a_broken_read_is_no_conflict(world);
    a_copy_is_read_back(world);
    a_restore_delivers_the_whole_or_nothing(world);
    world.assert_whole();
    // Everything above was one archiver's, and no process of its own.
    assert!(children(world.cluster.wait_archiver()).is_empty());
}

#[test]
fn each_broken_put_is_settled_or_reported_and_the_bucket_holds_the_whole_or_nothing() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    faults(&World::new(Kind::SeaweedFs, |builder| builder));
}

mod full {
    use super::*;

    #[test]
    fn each_broken_put_to_azure_is_settled_or_reported() {
        require!(ObjectServer::is_there(Kind::Azurite));
        faults(&World::new(Kind::Azurite, |builder| builder));
    }

    #[test]
    fn each_broken_upload_to_google_is_settled_or_reported() {
        require!(ObjectServer::is_there(Kind::FakeGcs));
        faults(&World::new(Kind::FakeGcs, |builder| builder));
    }
}
