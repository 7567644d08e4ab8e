//! How a cluster is to be set up.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::log::LINE_PREFIX;
use crate::sandbox::{Adopts, Denied};
use crate::scratch::{self, Scratch};
use crate::server::Server;
use crate::template;

/// Settings for a test that needs nothing else. `fsync` is off as the tests kill processes and cut the
/// power of archives, never that of the cluster; a test that is about it sets it.
const DEFAULTS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("fsync", "off"),
    ("autovacuum", "off"),
    ("shared_buffers", "16MB"),
    ("max_connections", "20"),
    ("min_wal_size", "8MB"),
    ("max_wal_size", "64MB"),
    ("checkpoint_timeout", "1h"),
    ("log_checkpoints", "off"),
    ("log_line_prefix", LINE_PREFIX),
    ("log_timezone", "UTC"),
    // In the data directory: what a killed server leaves goes with it.
    ("dynamic_shared_memory_type", "mmap"),
    // How long a standby waits before it asks the archive again. The default of 5 s is long for a test.
    ("wal_retrieve_retry_interval", "200ms"),
];

/// Sets up a [`Cluster`].
#[derive(Debug)]
pub struct ClusterBuilder {
    pub(crate) server: Server,
    source: Source,
    settings: Vec<(String, String)>,
    initdb_arguments: Vec<String>,
    home_in: Option<PathBuf>,
    pub(crate) denied: Vec<Denied>,
    pub(crate) adopts: Option<Adopts>,
}

#[derive(Debug)]
enum Source {
    /// A new cluster, with WAL segments of this many megabytes.
    Initdb { segment_mb: u32 },
    /// A directory of our own that holds `data`.
    Existing(Scratch),
}

impl ClusterBuilder {
    pub(crate) fn new() -> Self {
        Self::with(Source::Initdb { segment_mb: 1 })
    }

    /// A cluster whose data directory, `data` in that directory, is there already.
    #[must_use]
    pub fn existing(home: Scratch) -> Self {
        Self::with(Source::Existing(home))
    }

    /// A cluster whose directory, made with [`ClusterBuilder::home_in`], came up on another disk.
    #[must_use]
    pub fn come_up(home: &Path) -> Self {
        Self::existing(Scratch::adopt(home))
    }

    fn with(source: Source) -> Self {
        Self {
            server: Server::under_test().clone(),
            source,
            settings: Vec::new(),
            initdb_arguments: Vec::new(),
            home_in: None,
            denied: Vec::new(),
            adopts: None,
        }
    }

    /// Another installation than the one under test.
    #[must_use]
    pub fn server(mut self, server: &Server) -> Self {
        self.server = server.clone();
        self
    }

    /// A setting in postgresql.conf; the last one of a name counts.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Archives with the module under test.
    #[must_use]
    pub fn archive_to(self, destination: &Path) -> Self {
        let destination = destination.to_str().expect("a path of ours").to_owned();
        self.set("archive_mode", "on")
            .set("archive_command", "")
            .set("archive_library", "walsafe_archive")
            .set("walsafe_archive.destination", &destination)
    }

    /// Archives with a shell command.
    #[must_use]
    pub fn archive_command(self, command: &str) -> Self {
        self.set("archive_mode", "on").set("archive_library", "").set("archive_command", command)
    }

    /// The size of a WAL segment. The default is 1 MB, so that tests are quick.
    #[must_use]
    pub fn segment_mb(mut self, megabytes: u32) -> Self {
        match &mut self.source {
            Source::Initdb { segment_mb } => *segment_mb = megabytes,
            Source::Existing(_) => panic!("the segment size of a backup is fixed"),
        }
        self
    }

    /// Where the cluster is made, as `cluster`: on a disk of the test's own, for example.
    #[must_use]
    pub fn home_in(mut self, dir: &Path) -> Self {
        self.home_in = Some(dir.to_owned());
        self
    }

    /// A further argument of initdb, such as `--allow-group-access` (which makes the server's umask
    /// 027; otherwise it is 077, whatever we start it with).
    #[must_use]
    pub fn initdb_argument(mut self, argument: &str) -> Self {
        self.initdb_arguments.push(argument.to_owned());
        self
    }

    /// A kernel on which a system call fails (see [`crate::sandbox`]).
    #[must_use]
    pub fn without(mut self, denied: Denied) -> Self {
        self.denied.push(denied);
        self
    }

    /// File systems without unnamed temporary files, as most network file systems are.
    #[must_use]
    pub fn without_tmpfile(self) -> Self {
        self.without(Denied::TMPFILE)
    }

    /// A kernel or file system whose rename cannot refuse to replace.
    #[must_use]
    pub fn without_renameat2(self) -> Self {
        self.without(Denied::RENAMEAT2)
    }

    /// File systems without extended attributes.
    #[must_use]
    pub fn without_xattrs(self) -> Self {
        self.without(Denied::SETXATTR).without(Denied::FSETXATTR)
    }

    /// A umask of 000, which takes no permission away: only the server's own care keeps its files private.
    #[must_use]
    pub fn umask_000(self) -> Self {
        self.without(Denied::UMASK)
    }

    /// A postmaster that becomes the parent of orphans.
    #[must_use]
    pub fn adopting(mut self, how: Adopts) -> Self {
        self.adopts = Some(how);
        self
    }

    /// Recovers from an archive at start: puts `recovery.signal`. Set `restore_command` too.
    #[must_use]
    pub fn recovery(self) -> Self {
        self.signal_file("recovery.signal")
    }

    /// Starts as a standby: puts `standby.signal`.
    #[must_use]
    pub fn standby(self) -> Self {
        self.signal_file("standby.signal")
    }

    fn signal_file(self, name: &str) -> Self {
        match &self.source {
            Source::Existing(home) => scratch::write(&home.join("data").join(name), ""),
            Source::Initdb { .. } => panic!("{name} in a new cluster: recover a backup instead"),
        }
        self
    }

    /// Makes the cluster without starting it.
    #[must_use]
    pub fn create(mut self) -> Cluster {
        let home = match std::mem::replace(&mut self.source, Source::Initdb { segment_mb: 0 }) {
            Source::Initdb { segment_mb } => self.initdb(segment_mb),
            Source::Existing(home) => home,
        };
        let conf = home.join("data").join("postgresql.conf");
        let mut text = fs::read_to_string(&conf).unwrap_or_default();
        text.push('\n');
        let sockets = ("unix_socket_directories", home.path().to_str().expect("a path of ours"));
        for (name, value) in DEFAULTS.iter().copied().chain([sockets]) {
            text.push_str(&conf_line(name, value));
        }
        for (name, value) in &self.settings {
            text.push_str(&conf_line(name, value));
        }
        scratch::write(&conf, text);
        Cluster::new(self, home)
    }

    /// Makes the cluster, starts it and waits until it accepts connections.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Cluster {
        let cluster = self.create();
        cluster.start();
        cluster
    }

    fn initdb(&self, segment_mb: u32) -> Scratch {
        let home = match &self.home_in {
            Some(dir) => {
                let home = dir.join("cluster");
                scratch::make_dir(&home);
                Scratch::adopt(&home)
            }
            None => Scratch::new(&format!("pg{}", self.server.major)),
        };
        let data: PathBuf = home.join("data");
        if self.initdb_arguments.is_empty() {
            template::new_cluster(&self.server, segment_mb, &data);
        } else {
            template::initdb(&self.server, segment_mb, &self.initdb_arguments, &data);
        }
        home
    }
}

/// A line of postgresql.conf.
pub(crate) fn conf_line(name: &str, value: &str) -> String {
    let mut line = format!("{name} = '");
    for c in value.chars() {
        match c {
            '\'' => line.push_str("''"),
            '\\' => line.push_str("\\\\"),
            c => line.push(c),
        }
    }
    let _ = writeln!(line, "'");
    line
}
