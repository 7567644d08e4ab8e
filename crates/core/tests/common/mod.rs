//! What the core's tests share: a data directory with WAL, an archive, and ways to look at both.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(missing_docs, unreachable_pub, reason = "the names say it")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use walsafe_core::archive::{Job, Plan, Receipt, Seam, archive_file};
use walsafe_core::encoding::codec::{Codec, Compression};
use walsafe_core::encoding::digest::{CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use walsafe_core::error::Error;
use walsafe_core::server::control::ControlFile;
use walsafe_core::server::known::KnownDestinations;
use walsafe_core::server::settings::{CheckWal, Destination, FileMode, FsyncPolicy};
use walsafe_core::store::Progress;
use walsafe_core::store::directory::Staging;
use walsafe_core::store::directory::temporary::Owner;
use walsafe_core::store::location::Access;
use walsafe_core::sys;
use walsafe_core::sys::buffer::Buffer;
use walsafe_core::wal::SegmentSize;
use walsafe_core::wal::name::FileName;
use walsafe_core::wal::segment::Cluster;

/// Segments of the tests: the smallest there are.
pub const SEGMENT: usize = 1 << 20;
/// The system identifier of the tests' own cluster.
pub const OURS: u64 = 7_300_000_000_000_000_001;
/// The system identifier of another cluster.
pub const THEIRS: u64 = 7_300_000_000_000_000_002;

pub const STAGINGS: [Staging; 2] = [Staging::Unnamed, Staging::Named];
pub const CODECS: [&str; 4] = ["none", "lz4", "zstd", "gzip"];

/// A data directory with `pg_wal`, and an archive that is empty at first.
pub struct World {
    pub root: TempDir,
    pub archive: PathBuf,
    pub pg_wal: PathBuf,
    pub plan: Plan,
}

/// Makes a directory for a test on a real file system that every user can reach.
pub fn scratch() -> TempDir {
    let dir = tempfile::Builder::new().prefix("walsafe-core-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Archives a file that nobody watches.
pub fn run(plan: &Plan, job: &Job) -> Result<Receipt, Error> {
    let (seam, progress) = (Seam::default(), Progress::default());
    archive_file(plan, &*plan.store(), &seam, job, &mut Buffer::new().unwrap(), &progress)
}

impl World {
    pub fn new() -> Self {
        Self::at(scratch())
    }

    pub fn at(root: TempDir) -> Self {
        let (archive, data) = (root.path().join("archive"), root.path().join("data"));
        let pg_wal = data.join("pg_wal");
        fs::create_dir_all(&archive).unwrap();
        fs::create_dir_all(&pg_wal).unwrap();
        let plan = plan(&archive, &data, OURS);
        Self { root, archive, pg_wal, plan }
    }

    /// Puts a file into `pg_wal`.
    pub fn wal(&self, name: &str, content: &[u8]) -> Job {
        let source = self.pg_wal.join(name);
        fs::write(&source, content).unwrap();
        Job { name: FileName::new(name).unwrap(), source }
    }

    /// Writes a control file as PostgreSQL 15 does, of a server that is on this timeline.
    pub fn be_on(&self, timeline: u32) {
        let mut bytes = vec![0; 8192];
        bytes[..8].copy_from_slice(&self.plan.cluster.system_identifier.to_ne_bytes());
        bytes[8..12].copy_from_slice(&1300_u32.to_ne_bytes());
        bytes[48..52].copy_from_slice(&1_u32.to_ne_bytes()); // checkPointCopy.ThisTimeLineID
        bytes[144..148].copy_from_slice(&timeline.to_ne_bytes()); // minRecoveryPointTLI
        bytes[228..232].copy_from_slice(&(SEGMENT as u32).to_ne_bytes());
        let crc = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&crc.to_ne_bytes());
        let data = self.root.path().join("data");
        fs::create_dir_all(data.join("global")).unwrap();
        fs::write(data.join("global/pg_control"), bytes).unwrap();
        assert_eq!(ControlFile::read(&data).unwrap().timeline, Some(timeline));
    }

    /// Puts the `n`th segment of timeline 1 into `pg_wal`, with contents that `seed` decides.
    pub fn segment(&self, n: u32, seed: u64) -> Job {
        self.wal(&segment_name(1, n), &segment(1, n, seed))
    }

    pub fn run(&self, job: &Job) -> Result<Receipt, Error> {
        run(&self.plan, job)
    }

    /// The path under which the archive holds a file in one encoding.
    pub fn stored(&self, job: &Job, codec: Codec) -> PathBuf {
        self.archive.join(job.name.stored(codec))
    }

    /// The path under which the archive holds a file in the plan's encoding.
    pub fn path(&self, job: &Job) -> PathBuf {
        self.stored(job, self.plan.compression.codec)
    }

    /// Every name in the archive, sorted, hidden ones too.
    pub fn names(&self) -> Vec<String> {
        names(&self.archive)
    }

    /// Puts this cluster's identity file into the archive.
    pub fn init(&self) {
        init(&self.plan).unwrap();
    }
}

/// Puts the identity file of a plan's cluster into its archive; returns whether there was none.
pub fn init(plan: &Plan) -> Result<bool, Error> {
    let (store, progress) = (plan.store(), Progress::default());
    let visit = store.visit(&progress)?;
    walsafe_core::store::admission::init(&*visit, &plan.cluster, plan.file_mode.bits())
}

pub fn plan(archive: &Path, data: &Path, system_identifier: u64) -> Plan {
    Plan {
        destination: Destination::new(archive.to_str().unwrap(), data).unwrap(),
        fsync_policy: FsyncPolicy::Full,
        file_mode: FileMode::PRIVATE,
        compression: Compression::NONE,
        check_wal: CheckWal::Header,
        verify: false,
        cluster: Cluster {
            system_identifier,
            segment_size: SegmentSize::new(SEGMENT as u64).unwrap(),
        },
        known: KnownDestinations::of(data),
        owner: Owner::this_process(),
        staging: Staging::Unnamed,
        access: Access::default(),
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

/// The name of the `n`th segment of a timeline, for segments of 1 MB.
pub fn segment_name(timeline: u32, n: u32) -> String {
    format!("{timeline:08X}{:08X}{:08X}", n / 4096, n % 4096)
}

/// The first page header of a segment, as PostgreSQL 15 writes it.
pub fn header(system_identifier: u64, timeline: u32, n: u32) -> [u8; 40] {
    let mut header = [0; 40];
    let mut rest = &mut header[..];
    rest.write_all(&0xD110_u16.to_ne_bytes()).unwrap(); // xlp_magic
    rest.write_all(&0x0002_u16.to_ne_bytes()).unwrap(); // xlp_info: the long header
    rest.write_all(&timeline.to_ne_bytes()).unwrap(); // xlp_tli
    rest.write_all(&(u64::from(n) * SEGMENT as u64).to_ne_bytes()).unwrap(); // xlp_pageaddr
    rest.write_all(&[0; 8]).unwrap(); // xlp_rem_len, padding
    rest.write_all(&system_identifier.to_ne_bytes()).unwrap(); // xlp_sysid
    rest.write_all(&(SEGMENT as u32).to_ne_bytes()).unwrap(); // xlp_seg_size
    rest.write_all(&8192_u32.to_ne_bytes()).unwrap(); // xlp_xlog_blcksz
    header
}

/// A whole segment of our cluster: its header, then bytes that compress to about a half.
pub fn segment(timeline: u32, n: u32, seed: u64) -> Vec<u8> {
    let mut content = random(SEGMENT, seed);
    content[..40].copy_from_slice(&header(OURS, timeline, n));
    content
}

/// Bytes that look random and that `seed` decides, eight of sixteen zero.
pub fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(16) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let n = chunk.len().min(8);
        chunk[..n].copy_from_slice(&state.to_ne_bytes()[..n]);
    }
    bytes
}

pub fn compression(text: &str) -> Compression {
    text.parse().unwrap()
}

/// What a file takes on disk, in bytes.
pub fn taken(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// What must not change about a file that is in an archive.
#[derive(Debug, PartialEq, Eq)]
pub struct Still {
    pub inode: u64,
    mode: u32,
    pub len: u64,
    mtime: (i64, i64),
    links: u64,
    pub content: Option<blake3::Hash>,
}

pub fn still(path: &Path) -> Still {
    let metadata = fs::symlink_metadata(path).unwrap();
    Still {
        inode: metadata.ino(),
        mode: metadata.mode(),
        len: metadata.len(),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        links: metadata.nlink(),
        content: metadata.is_file().then(|| blake3::hash(&fs::read(path).unwrap())),
    }
}

/// The two digests that a file in an archive carries.
pub fn attributes(path: &Path) -> [Option<String>; 2] {
    let file = fs::File::open(path).unwrap();
    [STORED_ATTRIBUTE, CONTENT_ATTRIBUTE].map(|name| sys::attribute(&file, name).unwrap())
}

pub fn hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// What the stock tool for an encoding makes of a file; `None` without that tool.
pub fn decoded(path: &Path, codec: Codec) -> Option<Vec<u8>> {
    let (tool, arguments) = match codec {
        Codec::None => return Some(fs::read(path).unwrap()),
        Codec::Lz4 => ("lz4", ["-d", "-c"]),
        Codec::Zstd => ("zstd", ["-d", "-c"]),
        Codec::Gzip => ("gunzip", ["-k", "-c"]),
    };
    let Ok(output) = Command::new(tool).args(arguments).arg(path).output() else {
        skip(&format!("decoding with the stock tools: {tool} is not installed"));
        return None;
    };
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Reports to the test runner that something could not be tested here, and why.
pub fn skip(what: &str) {
    eprintln!("skipped: {what}");
    if let Some(path) = std::env::var_os("WALSAFE_SKIPS") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{what}").unwrap();
    }
}

/// Runs one test of this test program in another process, as another user. Returns what it said.
pub fn as_user(user: u32, test: &str, variable: (&str, &Path)) -> std::process::Output {
    use std::os::unix::process::CommandExt;
    let dir = scratch();
    // The program may lie where that user cannot reach it. Copied by another process: a file that is
    // open for writing here, when another test forks, is open there, and cannot be run ("text file busy").
    let program = dir.path().join("test");
    let copy = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
    assert!(copy.unwrap().success());
    Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env(variable.0, variable.1)
        .env_remove("WALSAFE_SKIPS")
        .current_dir(dir.path())
        .uid(user)
        .gid(user)
        .output()
        .unwrap()
}

/// A file system of its own on a loop device; only root can have that.
pub struct Mount(TempDir);

impl Mount {
    pub fn new(make: &str) -> Option<Self> {
        Self::with(make, "loop")
    }

    pub fn with(make: &str, options: &str) -> Option<Self> {
        let dir = scratch();
        let (image, at) = (dir.path().join("image"), dir.path().join("mnt"));
        fs::create_dir(&at).ok()?;
        fs::File::create(&image).ok()?.set_len(512 << 20).ok()?;
        let ran = |command: &mut Command| command.output().is_ok_and(|out| out.status.success());
        let mounted = is_root()
            && ran(Command::new(make).arg("-q").arg(&image))
            && ran(Command::new("mount").args(["-o", options]).arg(&image).arg(&at));
        mounted.then_some(Self(dir))
    }

    /// Mounts it anew, so that everything is at its final place on the disk.
    pub fn again(&self, options: &str) {
        let at = self.0.path().join("mnt");
        let umount = Command::new("umount").arg(&at).status().unwrap();
        assert!(umount.success());
        let mount = Command::new("mount").args(["-o", options]).arg(self.image()).arg(&at).status();
        assert!(mount.unwrap().success());
    }

    /// What the file system's disk is made of.
    pub fn image(&self) -> PathBuf {
        self.0.path().join("image")
    }

    pub fn tempdir(&self) -> TempDir {
        tempfile::tempdir_in(self.0.path().join("mnt")).unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path().join("mnt")).status();
    }
}
