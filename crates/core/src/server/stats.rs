//! What the archiver lets other sessions know: a record of fixed length for each destination, in one small file.
//!
//! The archiver is the only writer. It writes all records at once, after each file. A reader that sees half of
//! a write finds a wrong checksum and looks again. The counts continue after a restart. A reset is a second
//! file of the same form, whose counts are subtracted, so that no session ever writes into the archiver's
//! file.
//!
//! Layout, little-endian: `magic` (8 bytes) and the number of records (8 bytes); for each record the fields of
//! [`Stats`] in order, numbers in 8 bytes each, texts in a field of fixed size after a length of 2 bytes; and a
//! CRC-32C of all of that. What follows is left from a longer list, and does not count. Earlier versions had
//! another magic, and other fields.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::server::permission;
use crate::server::settings::MOST_DESTINATIONS;
use crate::sys::{self, Dir};

/// Where the files lie, below the data directory: left out of base backups, kept over restarts.
const DIRECTORY: &str = "pg_stat_tmp";

/// Name of the archiver's file, in `pg_stat_tmp`.
pub const FILE_NAME: &str = "walsafe_archive.stat";
/// Name of the file of the last reset, in `pg_stat_tmp`.
pub const RESET_NAME: &str = "walsafe_archive.reset";

const MAGIC: &[u8; 8] = b"walsafe3";
/// Numbers of a record.
const NUMBERS: usize = 19;
/// Room for each text of a record.
const ROOM: [usize; 6] = [1024, 64, 64, 1024, 64, 64];
const TEXT_LEN: usize = ROOM[0] + ROOM[1] + ROOM[2] + ROOM[3] + ROOM[4] + ROOM[5] + 2 * ROOM.len();
const RECORD_LEN: usize = 8 * NUMBERS + TEXT_LEN;
const HEAD_LEN: usize = MAGIC.len() + 8;
/// How often a reader looks again at a file that is being written.
const TRIES: usize = 5;

/// The archiver's counts for one destination. Times are microseconds since 1970, 0 for never.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// When counting began. Distinguishes one series of counts from another.
    pub since: u64,
    /// Files archived, those already present included.
    pub archived: u64,
    /// How many of them the archive already held.
    pub already_present: u64,
    /// Failed calls.
    pub failed: u64,
    /// Bytes of WAL files archived.
    pub wal_bytes: u64,
    /// What they take in the archive, in bytes: holes do not count.
    pub stored_bytes: u64,
    /// How long the server's calls waited for the destination, in microseconds.
    pub busy_us: u64,
    /// How long the last call did, in microseconds.
    pub last_us: u64,
    /// Files found damaged.
    pub damaged: u64,
    /// When the last file was archived.
    pub archived_at: u64,
    /// When a call last failed.
    pub failed_at: u64,
    /// Whether the last call failed (1), or failed because the destination is not there (2); or whether there
    /// was no call for the destination yet (3).
    pub failing: u64,
    /// Free space of the destination when it was last seen, in bytes.
    pub free_bytes: u64,
    /// Whether `free_bytes` is known (1).
    pub free_known: u64,
    /// In the file of a reset, its time; 0 in the archiver's own file.
    pub reset_at: u64,
    /// Whether the destination is spoken to by requests (1), which the next three count.
    pub by_requests: u64,
    /// Requests.
    pub requests: u64,
    /// Those that were sent once more.
    pub retries: u64,
    /// Those that the storage called too many.
    pub throttled: u64,
    /// The destination.
    pub destination: String,
    /// The last file that was archived.
    pub last_archived: String,
    /// The last file that failed.
    pub last_failed: String,
    /// What the last failure was.
    pub last_error: String,
    /// The first file from which on the destination has all; empty where that is not known.
    pub complete_from: String,
    /// Of the files that wait, the last one that the destination has already, with all before it; empty for
    /// none. It waits for another destination.
    pub has_up_to: String,
}

impl Stats {
    /// The numbers in the order of the record.
    fn numbers_mut(&mut self) -> [&mut u64; NUMBERS] {
        [
            &mut self.since,
            &mut self.archived,
            &mut self.already_present,
            &mut self.failed,
            &mut self.wal_bytes,
            &mut self.stored_bytes,
            &mut self.busy_us,
            &mut self.last_us,
            &mut self.damaged,
            &mut self.archived_at,
            &mut self.failed_at,
            &mut self.failing,
            &mut self.free_bytes,
            &mut self.free_known,
            &mut self.reset_at,
            &mut self.by_requests,
            &mut self.requests,
            &mut self.retries,
            &mut self.throttled,
        ]
    }

    /// The texts in the order of the record.
    fn texts_mut(&mut self) -> [&mut String; ROOM.len()] {
        [
            &mut self.destination,
            &mut self.last_archived,
            &mut self.last_failed,
            &mut self.last_error,
            &mut self.complete_from,
            &mut self.has_up_to,
        ]
    }

    /// Appends the record's bytes.
    fn encode(&self, record: &mut Vec<u8>) {
        // Of a copy, so that one list of the fields serves writing and reading.
        let mut stats = self.clone();
        for number in stats.numbers_mut() {
            record.extend(number.to_le_bytes());
        }
        for (text, room) in stats.texts_mut().into_iter().zip(ROOM) {
            let fits = |end: &usize| text.is_char_boundary(*end);
            let cut = (0..=room.min(text.len())).rev().find(fits).unwrap_or(0);
            let (text, _) = text.split_at(cut);
            record.extend(u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
            record.extend(text.as_bytes());
            record.resize(record.len() + room - text.len(), 0);
        }
    }

    /// Reads a record's bytes; `None` if they are no record.
    fn decode(mut rest: &[u8]) -> Option<Self> {
        let mut stats = Self::default();
        for number in stats.numbers_mut() {
            let (bytes, after) = rest.split_first_chunk::<8>()?;
            *number = u64::from_le_bytes(*bytes);
            rest = after;
        }
        for (text, room) in stats.texts_mut().into_iter().zip(ROOM) {
            let (len, after) = rest.split_first_chunk::<2>()?;
            let (field, after) = after.split_at_checked(room)?;
            let field = field.get(..usize::from(u16::from_le_bytes(*len)))?;
            *text = String::from_utf8(field.to_vec()).ok()?;
            rest = after;
        }
        Some(stats)
    }

    /// Returns what has been counted since a reset. A reset of another series of counts has no effect.
    #[must_use]
    pub fn since_reset(mut self, reset: &Self) -> Self {
        if reset.since != self.since {
            return self;
        }
        for (count, before) in [
            (&mut self.archived, reset.archived),
            (&mut self.already_present, reset.already_present),
            (&mut self.failed, reset.failed),
            (&mut self.wal_bytes, reset.wal_bytes),
            (&mut self.stored_bytes, reset.stored_bytes),
            (&mut self.busy_us, reset.busy_us),
            (&mut self.damaged, reset.damaged),
            (&mut self.requests, reset.requests),
            (&mut self.retries, reset.retries),
            (&mut self.throttled, reset.throttled),
        ] {
            *count = count.saturating_sub(before);
        }
        if self.archived_at <= reset.reset_at {
            (self.archived_at, self.last_us) = (0, 0);
            self.last_archived.clear();
        }
        if self.failed_at <= reset.reset_at {
            self.failed_at = 0;
            self.last_failed.clear();
            self.last_error.clear();
        }
        self
    }
}

/// Writes the bytes of a file with these records.
fn encode(records: &[Stats]) -> Vec<u8> {
    let records = records.get(..MOST_DESTINATIONS).unwrap_or(records);
    let mut file = Vec::with_capacity(HEAD_LEN + records.len() * RECORD_LEN + 4);
    file.extend(MAGIC);
    file.extend((records.len() as u64).to_le_bytes());
    records.iter().for_each(|stats| stats.encode(&mut file));
    let crc = crc32c::crc32c(&file);
    file.extend(crc.to_le_bytes());
    file
}

/// Reads the bytes of a file; `None` for anything that is not a whole file of this form.
fn decode(file: &[u8]) -> Option<Vec<Stats>> {
    let (count, _) = file.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
    let len = HEAD_LEN + Some(count).filter(|count| *count <= MOST_DESTINATIONS)? * RECORD_LEN;
    let (body, rest) = file.split_at_checked(len)?;
    let (crc, _) = rest.split_first_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (_, records) = body.split_at_checked(HEAD_LEN)?;
    records.chunks_exact(RECORD_LEN).map(Stats::decode).collect()
}

/// The archiver's file, open for writing.
#[derive(Debug)]
pub struct StatsFile(File);

impl StatsFile {
    /// Opens the archiver's file in a data directory and returns its records; none if it is missing, torn or
    /// not such a file.
    ///
    /// # Errors
    /// The file could not be opened.
    pub fn open(data_directory: &Path) -> io::Result<(Self, Vec<Stats>)> {
        let path = path_of(data_directory, FILE_NAME);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        permission::share(&file, data_directory)?;
        let records = read(&path).unwrap_or_default();
        Ok((Self(file), records))
    }

    /// Writes the records, of the first [`MOST_DESTINATIONS`] destinations. Nothing is flushed: if the machine
    /// crashes, the counts of the last seconds may be missing, or the file may be torn, and counting begins
    /// again.
    ///
    /// # Errors
    /// The write failed.
    pub fn write(&self, records: &[Stats]) -> io::Result<()> {
        sys::write_all_at(&self.0, &encode(records), 0)
    }
}

fn path_of(data_directory: &Path, name: &str) -> PathBuf {
    data_directory.join(DIRECTORY).join(name)
}

/// Reads a file; `None` if it is missing, torn or not such a file.
fn read(path: &Path) -> Option<Vec<Stats>> {
    (0..TRIES).find_map(|_| decode(&std::fs::read(path).ok()?))
}

/// Reads the archiver's counts since the last reset for each destination, in the archiver's order, and when that
/// was (0 for never). `None` if there is no valid file.
#[must_use]
pub fn current(data_directory: &Path) -> Option<Vec<(Stats, u64)>> {
    let records = read(&path_of(data_directory, FILE_NAME))?;
    let resets = read(&path_of(data_directory, RESET_NAME)).unwrap_or_default();
    let since_reset = |stats: Stats| {
        let same =
            |reset: &&Stats| (reset.since, &reset.destination) == (stats.since, &stats.destination);
        match resets.iter().find(same) {
            Some(reset) => (stats.since_reset(reset), reset.reset_at),
            None => (stats, 0),
        }
    };
    Some(records.into_iter().map(since_reset).collect())
}

/// Returns when the archiver's file was last written: the archiver that did it uses the destinations in it since
/// then.
#[must_use]
pub fn written_at(data_directory: &Path) -> Option<SystemTime> {
    std::fs::metadata(path_of(data_directory, FILE_NAME)).ok()?.modified().ok()
}

/// Sets the counts to zero, as readers see them.
///
/// # Errors
/// There is no valid file (nothing has been counted), or the file of the reset could not be written.
pub fn reset(data_directory: &Path, now: u64) -> io::Result<()> {
    let records = read(&path_of(data_directory, FILE_NAME)).ok_or(io::ErrorKind::NotFound)?;
    let records = records.into_iter().map(|stats| Stats { reset_at: now, ..stats });
    let records = encode(&records.collect::<Vec<_>>());
    let dir = Dir::open(&data_directory.join(DIRECTORY))?;
    let temporary = format!("{RESET_NAME}.{}", std::process::id());
    // What an earlier process with this number left.
    let _ = dir.unlink(&temporary);
    let file = dir.create_named(&temporary)?;
    permission::share(&file, data_directory)?;
    sys::write_all_at(&file, &records, 0)?;
    dir.replace(&temporary, RESET_NAME)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn sample() -> Stats {
        Stats {
            since: 7,
            archived: 10,
            failed: 2,
            archived_at: 100,
            failed_at: 50,
            destination: "/mnt/archive".to_owned(),
            last_archived: "000000010000000000000003".to_owned(),
            last_error: "é".repeat(2000),
            ..Stats::default()
        }
    }

    #[test]
    fn every_number_and_text_has_a_place_of_its_own_in_the_record() {
        let mut stats = Stats::default();
        for (value, number) in (1..).zip(stats.numbers_mut()) {
            *number = value;
        }
        for (value, text) in (1..).zip(stats.texts_mut()) {
            *text = format!("text {value}");
        }
        let file = encode(&[sample(), stats.clone()]);
        let record = &file[HEAD_LEN + RECORD_LEN..];
        assert_eq!(record[..8], 1_u64.to_le_bytes());
        assert_eq!(record[8 * NUMBERS - 8..8 * NUMBERS], (NUMBERS as u64).to_le_bytes());
        assert_eq!(decode(&file).unwrap()[1], stats);
    }

    #[test]
    fn a_record_reads_back_and_a_long_text_is_cut_at_a_character() {
        let read = decode(&encode(&[sample()])).unwrap().remove(0);
        assert_eq!(read.last_error, "é".repeat(512));
        assert_eq!(Stats { last_error: sample().last_error, ..read }, sample());
    }

    fn data_directory() -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join(DIRECTORY)).unwrap();
        temp
    }

    /// The mode of the records was 0600 or decided by the umask, so a group that may read the data
    /// directory could not read them.
    #[test]
    fn the_records_can_be_read_by_whoever_can_read_the_data_directory() {
        for (directory, record) in [(0o700, 0o600), (0o750, 0o640)] {
            let temp = data_directory();
            std::fs::set_permissions(temp.path(), Permissions::from_mode(directory)).unwrap();
            // One that an earlier version made.
            std::fs::write(path_of(temp.path(), FILE_NAME), "").unwrap();
            let old = Permissions::from_mode(0o600);
            std::fs::set_permissions(path_of(temp.path(), FILE_NAME), old).unwrap();
            let (file, records) = StatsFile::open(temp.path()).unwrap();
            file.write(&records).unwrap();
            reset(temp.path(), 60).unwrap();
            for name in [FILE_NAME, RESET_NAME] {
                let mode = path_of(temp.path(), name).metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o777, record, "{name}");
            }
        }
    }

    #[test]
    fn counts_continue_over_restarts_and_a_reset_sets_them_to_zero() {
        let temp = data_directory();
        let (file, records) = StatsFile::open(temp.path()).unwrap();
        assert_eq!(records, []);
        let other = || Stats { destination: "/mnt/b".to_owned(), since: 8, ..sample() };
        file.write(&[sample(), other()]).unwrap();
        let (file, records) = StatsFile::open(temp.path()).unwrap();
        assert_eq!(records.iter().map(|stats| stats.archived).collect::<Vec<_>>(), [10, 10]);

        reset(temp.path(), 60).unwrap();
        // Each has its own reset, in whatever order; one that came later has none.
        let new = Stats { destination: "/mnt/c".to_owned(), ..sample() };
        let again = Stats { since: 9, ..other() };
        file.write(&[other(), Stats { archived: 11, ..sample() }, new, again]).unwrap();
        let now = current(temp.path()).unwrap();
        let counts: Vec<_> = now.iter().map(|(now, reset_at)| (now.archived, *reset_at)).collect();
        assert_eq!(counts, [(0, 60), (1, 60), (10, 0), (10, 0)]);
        let (now, _) = &now[1];
        assert_eq!((now.failed, now.archived_at, now.failed_at), (0, 100, 0));
        assert_eq!(now.last_error, "");
    }

    /// A destination that was taken out is not shown any more.
    #[test]
    fn a_shorter_list_is_read_as_such() {
        let temp = data_directory();
        let (file, _) = StatsFile::open(temp.path()).unwrap();
        for count in [3, 1, 0, 2] {
            file.write(&vec![sample(); count]).unwrap();
            assert_eq!(current(temp.path()).unwrap().len(), count);
        }
        file.write(&vec![sample(); MOST_DESTINATIONS + 1]).unwrap();
        assert_eq!(current(temp.path()).unwrap().len(), MOST_DESTINATIONS);
    }

    #[test]
    fn a_torn_or_foreign_file_is_unknown() {
        let temp = data_directory();
        assert_eq!(current(temp.path()), None);
        let records = encode(&[sample(), sample()]);
        let mut many = encode(&[]);
        many[8..16].fill(0xFF);
        for contents in [&records[..100], &records[..records.len() - 1], &[0; 5000], b"", &many[..]]
        {
            std::fs::write(path_of(temp.path(), FILE_NAME), contents).unwrap();
            assert_eq!(current(temp.path()), None);
        }
        assert_eq!(StatsFile::open(temp.path()).unwrap().1, []);
    }

    /// What the version before wrote: a single record, without a number before it.
    #[test]
    fn the_record_of_an_earlier_version_is_unknown() {
        let temp = data_directory();
        let mut record = b"walsafe1".to_vec();
        record.resize(8 + 8 * NUMBERS + 1024 + 64 + 64 + 1024 + 8, 0);
        record.extend(crc32c::crc32c(&record).to_le_bytes());
        std::fs::write(path_of(temp.path(), FILE_NAME), &record).unwrap();
        assert_eq!(current(temp.path()), None);
        let (file, records) = StatsFile::open(temp.path()).unwrap();
        assert_eq!(records, []);
        file.write(&[sample()]).unwrap();
        assert_eq!(current(temp.path()).unwrap().len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(dose::dose(64, 256)))]
        #[test]
        fn a_flipped_bit_is_never_taken_for_a_record(at in 0..(HEAD_LEN + RECORD_LEN + 4) * 8) {
            let mut file = encode(&[sample()]);
            file[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(decode(&file), None);
        }
    }
}
