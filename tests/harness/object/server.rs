//! A server of object storage, with a life of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::bucket::{Bucket, Language};
use super::daemon::{Daemon, Place, programs};
use super::proxy::Proxy;
use super::sign::Keys;
use super::{azurite, ceph, fakegcs, juicefs, s3rver, seaweedfs};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ceph,
    SeaweedFs,
    JuiceFs,
    S3rver,
    FakeGcs,
    Azurite,
}

impl Kind {
    /// Those that let exactly one of several conditional PUTs win.
    pub const GOOD: [Self; 2] = [Self::Ceph, Self::SeaweedFs];
    /// Those that ignore the condition.
    pub const BAD: [Self; 2] = [Self::JuiceFs, Self::S3rver];

    const fn name(self) -> &'static str {
        match self {
            Self::Ceph => "ceph",
            Self::SeaweedFs => "seaweedfs",
            Self::JuiceFs => "juicefs",
            Self::S3rver => "s3rver",
            Self::FakeGcs => "fakegcs",
            Self::Azurite => "azurite",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Ceph => ceph::PORT,
            Self::SeaweedFs => seaweedfs::free_ports(),
            Self::JuiceFs => juicefs::PORT,
            Self::S3rver => s3rver::PORT,
            Self::FakeGcs => fakegcs::PORT,
            Self::Azurite => azurite::PORT,
        }
    }

    fn keys(self) -> Keys {
        let (access, secret) = match self {
            // Its own, which cannot be chosen.
            Self::S3rver => ("S3RVER", "S3RVER"),
            Self::FakeGcs => ("", fakegcs::TOKEN),
            Self::Azurite => (azurite::ACCOUNT, azurite::KEY),
            // With what needs care in a URL, and unlike anything else, for whoever looks for it in logs.
            _ => ("WALSAFETESTKEY", "walsafe/test+secret/0123456789abcdef"),
        };
        Keys {
            access: access.to_owned(),
            secret: secret.to_owned(),
            region: "us-east-1".to_owned(),
        }
    }
}

/// A server on loopback with data of its own. Killed and removed when dropped.
#[derive(Debug)]
pub struct ObjectServer {
    kind: Kind,
    // Before the place, where they work.
    daemons: Mutex<Vec<Daemon>>,
    /// Who speaks for it, if it does not speak well itself.
    front: Option<Proxy>,
    place: Place,
}

impl ObjectServer {
    /// Whether the server is on this machine, for `require!`.
    ///
    /// # Errors
    /// It is not; the reason names the tool that gets it.
    pub fn is_there(kind: Kind) -> Result<(), String> {
        programs(kind.name()).map(|_| ())
    }

    /// A new one, for a test that kills it.
    #[must_use]
    #[track_caller]
    pub fn start(kind: Kind) -> Arc<Self> {
        let place = Place::new(kind.name(), kind.port(), kind.keys());
        let mut front = None;
        match kind {
            Kind::Ceph => ceph::prepare(&place),
            Kind::SeaweedFs => seaweedfs::prepare(&place),
            Kind::JuiceFs => juicefs::prepare(&place),
            Kind::S3rver => s3rver::prepare(&place),
            Kind::FakeGcs => front = Some(fakegcs::prepare(&place)),
            Kind::Azurite => azurite::prepare(&place),
        }
        let server = Self { kind, daemons: Mutex::default(), front, place };
        server.restart();
        if kind == Kind::Ceph {
            ceph::make_users(&server.place);
        }
        Arc::new(server)
    }

    /// The one that all tests of this program share which run at the same time. Each takes a bucket of its own.
    #[must_use]
    #[track_caller]
    pub fn shared(kind: Kind) -> Arc<Self> {
        // Each kind for itself: who wants one waits for no other's start.
        static SHARED: [Mutex<Weak<ObjectServer>>; 6] = [const { Mutex::new(Weak::new()) }; 6];
        let mut shared = SHARED[kind as usize].lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Self::start(kind);
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// Kills all of it, as a crash of its machine's processes.
    pub fn kill(&self) {
        // The last first: those before it are what it stands on.
        let mut daemons = self.daemons();
        while daemons.pop().is_some() {}
    }

    /// Starts it again with the data that it has, and waits until it answers.
    #[track_caller]
    pub fn restart(&self) {
        self.kill();
        let daemons = match self.kind {
            Kind::Ceph => ceph::launch(&self.place),
            Kind::SeaweedFs => seaweedfs::launch(&self.place),
            Kind::JuiceFs => juicefs::launch(&self.place),
            Kind::S3rver => s3rver::launch(&self.place),
            Kind::FakeGcs => fakegcs::launch(&self.place),
            Kind::Azurite => azurite::launch(&self.place),
        };
        *self.daemons() = daemons;
    }

    fn daemons(&self) -> std::sync::MutexGuard<'_, Vec<Daemon>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it speaks http.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.front.as_ref().map_or_else(|| self.place.address(), Proxy::address)
    }

    /// Where it speaks https, and the authority that its certificate is from.
    ///
    /// # Panics
    /// Only Ceph and SeaweedFS do.
    #[must_use]
    pub fn https(&self) -> (SocketAddr, PathBuf) {
        let address = match self.kind {
            Kind::Ceph => ceph::https(&self.place),
            Kind::SeaweedFs => seaweedfs::https(&self.place),
            kind => panic!("{kind:?} speaks http alone"),
        };
        (address, self.place.home.join("ca.pem"))
    }

    /// The keys of a user that may do everything.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.place.keys
    }

    /// The keys of another user of Ceph, whose name is [`ANOTHER`]: it may do what a bucket's policy allows.
    #[must_use]
    pub fn other_keys(&self) -> Keys {
        ceph::other_keys(&self.place.keys)
    }

    /// A new, empty bucket.
    #[must_use]
    #[track_caller]
    pub fn bucket(self: &Arc<Self>) -> Bucket {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("wal-{number}");
        let bucket = Bucket::new(self.address(), self.keys(), &name, Some(Arc::clone(self)));
        let bucket = match self.kind {
            Kind::FakeGcs => {
                bucket.speaking(Language::Google { credentials: fakegcs::credentials(&self.place) })
            }
            Kind::Azurite => bucket.speaking(Language::Azure),
            _ => bucket,
        };
        bucket.create();
        bucket
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        self.kill();
        if self.kind == Kind::SeaweedFs {
            seaweedfs::remove_sockets(&self.place);
        }
    }
}

/// The user with [`ObjectServer::other_keys`].
pub const ANOTHER: &str = ceph::ANOTHER;
