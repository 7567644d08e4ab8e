//! Archives in object storage, as a cluster uses them and as the tests see them.

use std::net::SocketAddr;
use std::path::PathBuf;

use harness::object::Bucket;
use harness::{Cluster, ClusterBuilder, Scratch, scratch};

use super::recovery::{Run, walsafe};

pub const CREDENTIALS: &str = "walsafe_archive.credentials_file";

/// An archive in a bucket, and the file with the keys to it.
pub struct Objects {
    pub bucket: Bucket,
    prefix: String,
    url: String,
    keys: Scratch,
}

impl Objects {
    pub fn new(bucket: Bucket) -> Self {
        Self::at(bucket, "wal")
    }

    /// One of several in the bucket.
    pub fn at(bucket: Bucket, prefix: &str) -> Self {
        let keys = Scratch::new("keys");
        scratch::write(&keys.join("keys"), bucket.credentials());
        scratch::chmod(&keys.join("keys"), 0o600);
        Self { prefix: prefix.to_owned(), url: bucket.url(prefix), bucket, keys }
    }

    /// The same, which clients reach through something in front of the server.
    pub fn behind(self, front: SocketAddr) -> Self {
        let url = self.bucket.through(front).url(&self.prefix);
        Self { url, ..self }
    }

    /// The same under TLS, with a certificate of the tests' own authority.
    pub fn secured(self, (address, authority): (SocketAddr, PathBuf)) -> Self {
        let plain = format!("http://{}", self.bucket.address);
        let url = self.url.replace(&plain, &format!("https://{address}"));
        Self { url: format!("{url}&ca_file={}", authority.display()), ..self }
    }

    /// What a setting or a command names it by.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn credentials(&self) -> PathBuf {
        self.keys.join("keys")
    }

    /// Has a cluster archive here.
    pub fn archiving(&self, builder: ClusterBuilder) -> ClusterBuilder {
        let credentials = self.credentials().display().to_string();
        builder.archive_to(self.url().as_ref()).set(CREDENTIALS, &credentials)
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// A file of the archive as it is stored; `None` if it has none of that name.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.bucket.get(&self.key(name))
    }

    /// The names in the archive, sorted.
    pub fn names(&self) -> Vec<String> {
        let begin = self.key("");
        let names = self.bucket.names(&begin).into_iter();
        names.map(|key| key[begin.len()..].to_owned()).collect()
    }

    /// The names of segments in the archive, sorted.
    pub fn segments(&self) -> Vec<String> {
        let mut names = self.names();
        names.retain(|name| name.len() == 24);
        names
    }

    /// Checks that the archive holds a file whole, as the server has it.
    #[track_caller]
    pub fn assert_holds(&self, cluster: &Cluster, name: &str) {
        let there = self.get(name).unwrap_or_else(|| panic!("{name} is not in the archive"));
        assert!(there == cluster.read_wal(name), "{name} differs, with {} bytes", there.len());
    }

    /// The `restore_command` that reaches the archive.
    pub fn restore_command(&self) -> String {
        self.restore_command_with("")
    }

    /// The same, with further options.
    pub fn restore_command_with(&self, options: &str) -> String {
        let program = harness::Server::under_test().walsafe();
        format!(
            "{} restore {options} --from '{}' --credentials-file '{}' %f \"%p\"",
            program.display(),
            self.url,
            self.credentials().display()
        )
    }

    /// Runs `walsafe COMMAND URL`.
    pub fn walsafe(&self, command: &str, more: &[&str]) -> Run {
        let credentials = self.credentials().display().to_string();
        let arguments = [&[command, "--credentials-file", &credentials], more, &[self.url()]];
        walsafe(&arguments.concat())
    }

    /// Checks that `walsafe verify` finds nothing.
    #[track_caller]
    pub fn assert_clean(&self) {
        let run = self.walsafe("verify", &[]);
        assert_eq!(run.code, Some(0), "{run:?}");
    }
}
