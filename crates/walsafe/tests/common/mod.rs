//! An archive and a server's directory to try the program on, and WAL made for the purpose.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use walsafe_core::encoding::digest::{
    CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, Digest, STORED_ATTRIBUTE,
};
use walsafe_core::store::identity::Identity;
use walsafe_core::sys;

pub mod bucket;
pub mod stored;

pub use bucket::{Bucket, Language, SECRET};

pub const OURS: u64 = 7_123_456_789_012_345_678;
pub const MB: usize = 1 << 20;
const PAGE: usize = 8192;

/// Writes WAL of segments of 1 MB: records of random lengths that cross pages and segments.
#[derive(Clone)]
pub struct Wal {
    pub system_identifier: u64,
    pub timeline: u32,
    /// All bytes from address 0 on; the first segment is never used.
    bytes: Vec<u8>,
    prev: u64,
    seed: u64,
}

impl Wal {
    pub fn new(system_identifier: u64, timeline: u32) -> Self {
        Self { system_identifier, timeline, bytes: vec![0; MB], prev: 0, seed: 42 }
    }

    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    /// Appends a page's header if a page begins here.
    fn page(&mut self, remaining: u32) {
        let at = self.bytes.len();
        if !at.is_multiple_of(PAGE) {
            return;
        }
        let long = at.is_multiple_of(MB);
        let info = u16::from(remaining > 0) | if long { 2 } else { 0 };
        self.bytes.extend(0xD110_u16.to_ne_bytes());
        self.bytes.extend(info.to_ne_bytes());
        self.bytes.extend(self.timeline.to_ne_bytes());
        self.bytes.extend((at as u64).to_ne_bytes());
        self.bytes.extend(u64::from(remaining).to_ne_bytes());
        if long {
            self.bytes.extend(self.system_identifier.to_ne_bytes());
            self.bytes.extend((MB as u32).to_ne_bytes());
            self.bytes.extend((PAGE as u32).to_ne_bytes());
        }
    }

    /// Appends a record with `len` bytes of data.
    pub fn record(&mut self, len: usize) {
        self.write_record(0x20, len); // XLOG_NOOP
    }

    fn write_record(&mut self, info: u8, len: usize) {
        let data: Vec<u8> = (0..len).map(|_| self.random() as u8).collect();
        self.write(0, info, 0, &data);
    }

    /// Appends a record of these main data. Returns where it begins.
    pub fn record_of(&mut self, rmgr: u8, info: u8, xid: u32, data: &[u8]) -> u64 {
        let data = [&[255, u8::try_from(data.len()).unwrap()], data].concat();
        self.write(rmgr, info, xid, &data)
    }

    /// Appends a checkpoint that replays from there. Returns where it begins.
    pub fn checkpoint(&mut self, redo: u64) -> u64 {
        let mut data = redo.to_ne_bytes().to_vec();
        data.extend(self.timeline.to_ne_bytes());
        data.extend(self.timeline.to_ne_bytes());
        data.resize(88, 0);
        self.record_of(0, 0x10, 0, &data)
    }

    /// Appends the end of the backup that began there.
    pub fn backup_end(&mut self, start: u64) -> u64 {
        self.record_of(0, 0x50, 0, &start.to_ne_bytes())
    }

    /// Appends a commit, so many microseconds after the year 2000 began.
    pub fn commit(&mut self, xid: u32, time: i64) -> u64 {
        self.record_of(1, 0, xid, &time.to_ne_bytes())
    }

    fn write(&mut self, rmgr: u8, info: u8, xid: u32, data: &[u8]) -> u64 {
        self.page(0);
        let at = self.bytes.len() as u64;
        let mut header = Vec::new();
        header.extend((24 + data.len() as u32).to_ne_bytes());
        header.extend(xid.to_ne_bytes());
        header.extend(self.prev.to_ne_bytes());
        header.extend([info, rmgr, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(data), &header);
        header.extend(crc.to_ne_bytes());
        header.extend(data);
        let mut rest = &header[..];
        while !rest.is_empty() {
            self.page(if rest.len() == header.len() { 0 } else { rest.len() as u32 });
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.prev = at;
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        at
    }

    /// Fills whole segments until `count` of them are complete, and returns them: 1, 2, and so on.
    pub fn segments(&mut self, count: usize) -> Vec<Vec<u8>> {
        while self.bytes.len() < (count + 1) * MB {
            let len = self.random() as usize % 9000;
            self.record(len);
        }
        self.bytes[MB..(count + 1) * MB].chunks(MB).map(<[u8]>::to_vec).collect()
    }
}

impl Wal {
    /// Ends the timeline where its WAL is now, and begins another: the first segment of the new
    /// one is a copy of the old one's up to there. Returns the address of the switch.
    pub fn branch(&mut self, timeline: u32) -> u64 {
        let parent = self.timeline;
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        // A page header does not stand alone at the end.
        if self.bytes.len().is_multiple_of(PAGE) {
            self.record(100);
        }
        self.begin_timeline(timeline, parent)
    }

    /// The same where a segment has just ended, with `switch` for example.
    pub fn branch_at_segment(&mut self, timeline: u32) -> u64 {
        assert!(self.bytes.len().is_multiple_of(MB));
        self.begin_timeline(timeline, self.timeline)
    }

    fn begin_timeline(&mut self, timeline: u32, parent: u32) -> u64 {
        self.timeline = timeline;
        let switch = self.bytes.len() as u64;
        // What a server writes first on a new timeline: `XLOG_END_OF_RECOVERY`.
        let mut data = vec![0; 8];
        data.extend(timeline.to_ne_bytes());
        data.extend(parent.to_ne_bytes());
        self.record_of(0, 0x90, 0, &data);
        switch
    }

    /// Fills the segment with records until `room` bytes are left of it, 8 or more.
    pub fn fill_to(&mut self, room: usize) {
        loop {
            self.page(0);
            let (in_page, in_segment) =
                (PAGE - self.bytes.len() % PAGE, MB - self.bytes.len() % MB);
            let keep = if in_page == in_segment { room } else { 0 };
            if in_page < keep + 24 {
                assert!(in_page > 24 || keep == 0, "no record fits");
                self.record(100);
                continue;
            }
            self.record(in_page - keep - 24);
            if keep > 0 {
                return;
            }
        }
    }

    /// Ends the segment early, as `pg_switch_wal` does.
    pub fn switch(&mut self) {
        self.write_record(0x40, 0);
        self.bytes.resize(self.bytes.len().next_multiple_of(MB), 0);
    }

    /// Goes on under another timeline without a copy, as at the end of a segment. Returns the address.
    pub fn begin(&mut self, timeline: u32) -> u64 {
        self.timeline = timeline;
        let switch = self.bytes.len() as u64;
        self.end_of_recovery();
        switch
    }

    /// What a server writes first on a new timeline: `XLOG_END_OF_RECOVERY`.
    fn end_of_recovery(&mut self) {
        self.write_record(0x90, 32);
    }
}

/// Segments 1 to 5 of timeline 1.
pub fn segments() -> Vec<Vec<u8>> {
    Wal::new(OURS, 1).segments(5)
}

pub fn segment_name(timeline: u32, number: u32) -> String {
    format!("{timeline:08X}{:08X}{number:08X}", 0)
}

/// Returns the contents of a control file.
pub fn control(system_identifier: u64) -> Vec<u8> {
    control_on(system_identifier, 1)
}

/// Returns the contents of a control file whose last checkpoint is on a timeline.
pub fn control_on(system_identifier: u64, timeline: u32) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[..8].copy_from_slice(&system_identifier.to_ne_bytes());
    bytes[8..12].copy_from_slice(&1300_u32.to_ne_bytes());
    bytes[48..52].copy_from_slice(&timeline.to_ne_bytes());
    bytes[228..232].copy_from_slice(&(MB as u32).to_ne_bytes());
    let crc = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&crc.to_ne_bytes());
    bytes
}

/// A directory with an archive and a data directory.
pub struct Place {
    root: tempfile::TempDir,
    /// Where the archive is reached, if that is not a directory.
    pub bucket: Option<Bucket>,
}

impl Place {
    /// An archive of cluster [`OURS`] with an identity file, and that cluster's data directory.
    pub fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap(), bucket: None };
        for dir in ["archive", "data/global", "data/pg_wal", "data/pg_stat_tmp"] {
            fs::create_dir_all(place.path(dir)).unwrap();
        }
        fs::write(place.path("data/global/pg_control"), control(OURS)).unwrap();
        place.identity(OURS);
        place
    }

    /// The same in object storage: what lies in the archive's directory is an object.
    pub fn in_bucket() -> Self {
        Self::in_bucket_of(Language::S3)
    }

    /// The same in a language of object storage.
    pub fn in_bucket_of(language: Language) -> Self {
        let place = Self::new();
        let bucket = Some(Bucket::serve_in(language, place.path("archive")));
        Self { bucket, ..place }
    }

    /// Returns the path or the URL of the archive.
    pub fn archive(&self) -> PathBuf {
        self.bucket.as_ref().map_or_else(|| self.path("archive"), |bucket| bucket.url().into())
    }

    pub fn identity(&self, system_identifier: u64) {
        let text = Identity::new(system_identifier).to_string();
        fs::write(self.path("archive/walsafe_archive.id"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Puts a file into the archive, without attributes.
    pub fn put(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.path("archive").join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// Puts a plain file into the archive, with the attributes of what it should hold.
    pub fn put_with_digest(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.put(name, contents);
        set_digests(&path, contents, contents);
        path
    }

    pub fn target(&self) -> PathBuf {
        self.path("data/pg_wal/RECOVERYXLOG")
    }

    /// The call that a server makes.
    pub fn restore_command(&self, file: &str) -> Command {
        self.restore_command_from(&self.archive(), file)
    }

    /// The same, from this archive.
    pub fn restore_command_from(&self, archive: &Path, file: &str) -> Command {
        let mut command = self.walsafe();
        command.arg("restore").arg("--from").arg(archive);
        command.args([file, "pg_wal/RECOVERYXLOG"]).current_dir(self.path("data"));
        command
    }

    /// The program, which finds the credentials for the archive.
    pub fn walsafe(&self) -> Command {
        let mut command = walsafe();
        if let Some(bucket) = &self.bucket {
            bucket.gives_tokens_to(&mut command);
        }
        command
    }

    pub fn verify(&self) -> Verified {
        Verified::of(walsafe().args(["verify", "--json"]).arg(self.path("archive")))
    }

    pub fn restore(&self, file: &str) -> Run {
        Run::of(&mut self.restore_command(file))
    }

    /// The names in `pg_wal`.
    pub fn pg_wal(&self) -> Vec<String> {
        names(&self.path("data/pg_wal"))
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn set_digests(path: &Path, stored: &[u8], content: &[u8]) {
    let file = File::open(path).unwrap();
    let set = |name, bytes| set_attribute(&file, name, &Digest::of(bytes).to_string());
    set(STORED_ATTRIBUTE, stored);
    set(CONTENT_ATTRIBUTE, content);
}

/// Says how a file was checked before it was let in.
pub fn set_checked(path: &Path, how: &str) {
    set_attribute(&File::open(path).unwrap(), CHECKED_ATTRIBUTE, how);
}

fn set_attribute(file: &File, name: &str, value: &str) {
    let refused = sys::offer_attribute(file, name, value).unwrap();
    assert!(refused.is_none(), "the tests need extended attributes: {refused:?}");
}

pub fn walsafe() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walsafe"));
    command.env("AWS_ACCESS_KEY_ID", "AKID").env("AWS_SECRET_ACCESS_KEY", SECRET);
    // In base64, as every account key.
    command.env("AZURE_STORAGE_KEY", format!("{SECRET}AA"));
    for variable in [
        "AZURE_STORAGE_ACCOUNT",
        "AZURE_STORAGE_SAS_TOKEN",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "WALSAFE_CREDENTIALS_FILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "NO_GCE_CHECK",
    ] {
        command.env_remove(variable);
    }
    command
}

/// Returns the names of all commands, as the program's help lists them.
pub fn commands() -> Vec<String> {
    let help = Run::of(walsafe().arg("--help")).out;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    // What does not fit into a line goes on further to the right.
    let names = listed.filter_map(|line| line.strip_prefix("  "));
    names
        .filter(|line| !line.starts_with(' ') && !line.starts_with("help "))
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect()
}

/// The result of a call.
#[derive(Debug)]
pub struct Run {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let run = Self {
            status: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        };
        assert!(!run.out.contains(SECRET) && !run.err.contains(SECRET), "{run:?}");
        run
    }

    /// The call ended with this status, and said why in one line that has this text.
    #[track_caller]
    pub fn says(&self, status: i32, text: &str) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(self.err.contains(text), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert_eq!(self.out, "");
    }

    /// The call ended with this status, and standard output has one JSON object that says so, as the only
    /// thing that was said. Returns the error in it.
    #[track_caller]
    pub fn fails_in_json(&self, status: i32) -> serde_json::Value {
        assert_eq!((self.status, &*self.err), (Some(status), ""), "{self:?}");
        let said: serde_json::Value =
            serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        let error = said["error"].clone();
        assert!(error["message"].is_string(), "{self:?}");
        for part in ["detail", "hint"] {
            assert!(error[part].is_string() || error[part].is_null(), "{self:?}");
        }
        assert_eq!(error["exit_status"], status, "{self:?}");
        error
    }

    /// The call delivered, and said nothing.
    #[track_caller]
    pub fn delivers(&self) {
        assert_eq!((self.status, &*self.out, &*self.err), (Some(0), "", ""), "{self:?}");
    }
}

/// What `walsafe verify --json` said.
#[derive(Debug)]
pub struct Verified {
    pub status: Option<i32>,
    pub report: serde_json::Value,
}

impl Verified {
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let run = Run::of(command);
        let report = serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run:?}"));
        Self { status: run.status, report }
    }

    /// The findings as `file: kind`.
    pub fn findings(&self) -> Vec<String> {
        let findings = self.report["findings"].as_array().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        findings.iter().map(|f| format!("{}: {}", text(&f["file"]), text(&f["kind"]))).collect()
    }

    #[track_caller]
    pub fn finds(&self, expected: &[&str]) {
        assert_eq!(self.findings(), expected, "{self:#?}");
        assert_eq!(self.status, Some(i32::from(!expected.is_empty())));
    }
}
