//! `walsafe_archive.verify`: storage that changes a byte between the write and the read-back is seen.
//!
//! The archive lies on an image, and the byte is changed there, under the mounted file system: its page
//! cache keeps the right one, so only a read past the cache can tell. strace holds the archiver's
//! thread after the flush meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use harness::{
    Cluster, ClusterBuilder, Fs, Mark, Mount, TIMEOUT, Trace, archive, privileged, require, tool,
    wait_until,
};

/// The block size of a small ext4.
const BLOCK: usize = 1024;

/// The copy that the archiver has open for writing, by its `/proc` path.
fn open_copy(archiver: i32, archive: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{archiver}/fd")).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|fd| {
        fs::read_link(fd).is_ok_and(|target| {
            let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            target.starts_with(archive) && (name.starts_with('#') || name.ends_with(".tmp"))
        })
    })
}

/// Where a block lies in the image.
fn find(image: &File, block: &[u8]) -> Option<u64> {
    let mut bytes = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let len = image.read_at(&mut bytes, offset).expect("the image");
        if len == 0 {
            return None;
        }
        if let Some(at) = bytes[..len].chunks(BLOCK).position(|there| there == block) {
            return Some(offset + (at * BLOCK) as u64);
        }
        offset += len as u64;
    }
}

/// Archives one segment whose copy is changed on storage after its flush; returns its name.
fn archive_and_change(cluster: &Cluster, mount: &Mount) -> String {
    let archiver = cluster.wait_archiver();
    let image = mount.path().parent().expect("the mount's home").join("image");
    let image = File::options().read(true).write(true).open(image).expect("the image");
    let trace = Trace::inject(archiver, "fsync", "fsync:delay_exit=60000000:when=1");
    let name = cluster.fill_whole_segments(1).remove(0);
    let copy = wait_until(TIMEOUT, "a copy to be made", || open_copy(archiver, mount.path()));
    // Whole blocks of the middle: the first may be like another file's.
    let (block, at) = wait_until(TIMEOUT, "the copy to be on storage", || {
        let bytes = fs::read(&copy).ok()?;
        let middle = bytes.len() / 2 / BLOCK * BLOCK;
        let block = bytes.get(middle..middle + BLOCK)?.to_vec();
        Some((block.clone(), find(&image, &block)?))
    });
    // The flush is through, or nearly: nothing else is written to the block after it.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(open_copy(archiver, mount.path()).is_some(), "too late");
    image.write_all_at(&[!block[100]], at + 100).expect("the image");
    // The thread continues at once.
    drop(trace);
    wait_until(TIMEOUT, "the archiver to go on", || {
        (cluster.is_archived(&name) || cluster.stat_archiver().failed_count > 0).then_some(())
    });
    name
}

fn cluster(mount: &Mount, verify: &str, codec: &str) -> ClusterBuilder {
    Cluster::archiving_to(mount.path())
        .set("walsafe_archive.workers", "0")
        .set("walsafe_archive.verify", verify)
        .set("walsafe_archive.compression", codec)
        .set("wal_keep_size", "1GB")
}

#[test]
fn a_byte_changed_between_write_and_read_back_is_seen() {
    require!(privileged());
    require!(tool("strace"));
    for (codec, named) in [("none", false), ("none", true), ("zstd", false), ("gzip:1", true)] {
        let mount = Mount::new(Fs::Ext4, 32);
        let builder = cluster(&mount, "on", codec);
        let cluster = if named { builder.without_tmpfile() } else { builder }.start();
        cluster.wait_archived(&cluster.switch_wal());
        let name = archive_and_change(&cluster, &mount);
        let report = cluster.wait_for_report(Mark::default(), "XX001");
        assert!(report.message.contains(&name), "{report:?}");
        assert!(
            report.message.contains("the copy on storage differs from what was written"),
            "{report:?}"
        );
        assert!(report.detail.contains("BLAKE3 of what was written is"), "{report:?}");
        assert!(report.hint.contains("Check the storage of the archive"), "{report:?}");
        // The next try writes it anew.
        cluster.wait_until("the next try", || {
            cluster.wake_archiver();
            cluster.is_archived(&name).then_some(())
        });
        assert_eq!(cluster.stat_archiver().failed_count, 1);
        drop_cached(&mount);
        assert_eq!(archive::contents(mount.path(), &name).unwrap(), cluster.read_wal(&name));
        assert_eq!(archive::temporaries(mount.path()), [""; 0]);
    }
}

/// What the setting is for: with it off, the same change is not noticed, and the archive is damaged.
#[test]
fn without_the_setting_nobody_sees_it() {
    require!(privileged());
    require!(tool("strace"));
    let mount = Mount::new(Fs::Ext4, 32);
    let cluster = cluster(&mount, "off", "none").start();
    cluster.wait_archived(&cluster.switch_wal());
    let name = archive_and_change(&cluster, &mount);
    cluster.wait_archived(&name);
    assert_eq!(cluster.stat_archiver().failed_count, 0);
    drop_cached(&mount);
    let differing = archive::contents(mount.path(), &name)
        .unwrap()
        .iter()
        .zip(cluster.read_wal(&name))
        .filter(|(a, b)| **a != *b)
        .count();
    assert_eq!(differing, 1);
}

/// The file system's own pages go, so that the test reads what storage has. Not all of the machine's:
/// other tests look at what is cached.
fn drop_cached(mount: &Mount) {
    mount.unmount();
    mount.mount();
}
