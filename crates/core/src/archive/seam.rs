//! The first segment of a pool, matched with the archived one before it.
//!
//! A server that has left the history in the archive (a clone, a data directory that was put back to a
//! snapshot) adds nothing behind the point where it left (guarantee G13). While a pool archives in the
//! server's order, each segment stands behind one that is known to be the server's. For the first one, and
//! for one whose predecessor this pool has not seen, the archived predecessor is read once.
//!
//! Refused is only what is proved: both segments are sound, and the one was not written behind the other.
//! Whatever cannot be decided is archived, and one line in the log says why.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::notice::{Level, Notice};
use super::pair::{Pair, buffers};
use super::plan::{Job, Plan};
use crate::encoding::codec::Codec;
use crate::encoding::digest::CONTENT_ATTRIBUTE;
use crate::error::Error;
use crate::server::lineage;
use crate::server::settings::CheckWal;
use crate::server::source::Source;
use crate::store::{Found, Progress, StoredName, Visit};
use crate::sys::buffer::CHUNK;
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::{Doubt, Fit, Parting, SegmentChecker, SegmentReport, SegmentSize, SegmentSpec};

/// The last segment that a pool has found or put in the archive. A new pool knows of none.
#[derive(Debug, Default)]
pub struct Seam(Mutex<Option<SegmentName>>);

/// A segment that the archive does not have, on its way there.
#[derive(Clone, Copy)]
pub(super) struct Newcomer<'a> {
    pub(super) plan: &'a Plan,
    pub(super) job: &'a Job,
    pub(super) source: &'a Source,
    pub(super) visit: &'a dyn Visit,
    pub(super) progress: &'a Progress,
}

impl Seam {
    /// Makes sure that a segment may stand behind what the archive holds; called before it is published.
    /// Returns the line for the log where that could not be decided.
    ///
    /// # Errors
    /// The archived segment before it is another history's. Or one of the server's files could not be read.
    pub(super) fn check(&self, newcomer: Newcomer<'_>) -> Result<Option<Notice>, Error> {
        let FileKind::Segment(name) = newcomer.job.name.kind() else { return Ok(None) };
        let size = newcomer.plan.cluster.segment_size;
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some_and(|known| known == name || leads_to(known, name, size)) {
            return Ok(None);
        }
        let pg_wal = newcomer.source.path().parent();
        let before = pg_wal.and_then(|pg_wal| lineage::before(pg_wal, name, size));
        let Some(before) = before.filter(|at| known != Some(*at)) else {
            return Ok(None);
        };
        match newcomer.compare(name, before)? {
            Verdict::Continues | Verdict::Nothing => Ok(None),
            Verdict::Unknown(reason) => Ok(Some(Notice {
                level: Level::Log,
                sqlstate: "00000",
                message: format!(
                    "could not match WAL file \"{name}\" with the archived file before it, \"{before}\": {reason}"
                ),
                detail: String::new(),
                hint: String::new(),
            })),
            Verdict::Breaks { path, reason } => {
                newcomer.source.check_not_moved()?;
                Err(Error::NotContinued { path, reason })
            }
        }
    }

    /// A file failed, or a call hung: the path may lead to another archive from here on.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The archive holds this file with the server's contents: what comes behind it needs no look.
    pub(super) fn confirm(&self, name: &FileName) {
        if let FileKind::Segment(segment) = name.kind() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(segment);
        }
    }
}

/// Returns whether a segment is the next one after another, on the same timeline.
fn leads_to(before: SegmentName, name: SegmentName, size: SegmentSize) -> bool {
    let next = before.start(size).map(|start| start.advanced(size.bytes().into()));
    before.timeline == name.timeline && next == name.start(size)
}

/// What came of a comparison.
enum Verdict {
    Continues,
    /// There is nothing to compare with: the archive holds no segment.
    Nothing,
    Unknown(String),
    Breaks {
        path: PathBuf,
        reason: String,
    },
}

impl Newcomer<'_> {
    fn compare(&self, name: SegmentName, before: SegmentName) -> Result<Verdict, Error> {
        let mut doubt = None;
        for codec in Codec::ALL {
            match self.find(before, codec) {
                Ok(None) => {}
                Ok(Some(_)) if self.plan.check_wal == CheckWal::Off => {
                    doubt = Some("\"walsafe_archive.check_wal\" is \"off\"".to_owned());
                }
                // Of several encodings, the first that can be read counts.
                Ok(Some(found)) => match self.read(&*found, before) {
                    Ok(pair) => return self.judge(name, before, &*found, pair),
                    Err(e) => doubt = Some(format!("{e}: {}", e.detail())),
                },
                Err(e) => doubt = Some(format!("{e}: {}", e.detail())),
            }
        }
        match doubt {
            Some(reason) => Ok(Verdict::Unknown(reason)),
            None => self.absent(before),
        }
    }

    fn find(
        &self,
        segment: SegmentName,
        codec: Codec,
    ) -> Result<Option<Box<dyn Found + '_>>, Error> {
        let name = segment.to_string();
        let name = FileName::new(&name).map_err(|source| Error::Name { name, source })?;
        self.visit.find(&StoredName::new(name, codec).into())
    }

    /// Reads the archived segment, and beside it the server's own of that name, if it is still there.
    fn read(&self, found: &dyn Found, before: SegmentName) -> Result<Pair, Error> {
        let path = self.source.path().with_file_name(before.to_string());
        let own = Source::open(&path).ok();
        let pair = Pair::read(found, own.as_ref(), self.spec(before), self.progress)?;
        // It may have been recycled meanwhile, and what was read was another segment.
        let stayed = own.is_some_and(|own| own.check_not_moved().is_ok());
        Ok(Pair { ours: pair.ours.filter(|_| stayed), ..pair })
    }

    fn judge(
        &self,
        name: SegmentName,
        before: SegmentName,
        found: &dyn Found,
        pair: Pair,
    ) -> Result<Verdict, Error> {
        let breaks = |reason: String| Verdict::Breaks { path: found.path().to_owned(), reason };
        let Pair { theirs, content, ours } = pair;
        let digest = found.attribute(CONTENT_ATTRIBUTE).ok().flatten();
        if digest.is_some_and(|digest| digest != content.to_string()) {
            return Ok(Verdict::Unknown(Doubt::BeforeDamaged.to_string()));
        }
        let mut same = false;
        if let Some((own, parting)) = ours
            && own.is_sound()
            && theirs.is_sound()
        {
            match parting {
                Some(Parting::AtRecord { lsn, ends: None }) => {
                    return Ok(breaks(format!(
                        "this server's own \"{before}\" holds other WAL from {lsn} on"
                    )));
                }
                Some(Parting::SameRecords) => same = true,
                Some(Parting::AtRecord { .. }) | None => {}
            }
        }
        Ok(match Fit::of(&theirs, &self.own_report(name)?) {
            Fit::Continues => Verdict::Continues,
            // The archived one is the server's own: what does not fit is damage.
            Fit::Breaks(_) if same => Verdict::Unknown(Doubt::AfterDamaged.to_string()),
            Fit::Breaks(damage) => {
                breaks(format!("the WAL of \"{name}\" does not continue it: {damage}"))
            }
            Fit::Unknown(doubt) => Verdict::Unknown(doubt.to_string()),
        })
    }

    /// The archive does not have the segment before this one.
    fn absent(&self, before: SegmentName) -> Result<Verdict, Error> {
        let (mut any, mut partial) = (false, false);
        let listed = self.visit.list(&mut |stored| {
            let Ok(stored) = StoredName::parse(stored) else { return };
            any |= stored.name.segment().is_some() && stored.name != self.job.name;
            partial |= stored.name.kind() == FileKind::Partial(before);
        });
        Ok(match listed {
            Err(e) => Verdict::Unknown(format!("{e}: {}", e.detail())),
            Ok(()) if partial => Verdict::Unknown("only a part of it is in the archive".to_owned()),
            Ok(()) if any => Verdict::Unknown("it is not in the archive".to_owned()),
            Ok(()) => Verdict::Nothing,
        })
    }

    /// Checks the records of the segment itself.
    fn own_report(&self, name: SegmentName) -> Result<SegmentReport, Error> {
        let (mut buffer, _) = buffers(self.source.path())?;
        let (mut checker, mut offset) = (SegmentChecker::new(self.spec(name), None), 0);
        loop {
            let got = self.source.read_at(buffer.bytes_mut(), offset)?;
            checker.feed(buffer.filled(got));
            self.progress.tick();
            offset += got as u64;
            if got < CHUNK {
                return Ok(checker.finish());
            }
        }
    }

    fn spec(&self, segment: SegmentName) -> SegmentSpec {
        let cluster = &self.plan.cluster;
        SegmentSpec {
            timeline: segment.timeline,
            start: segment.start(cluster.segment_size).unwrap_or_default(),
            segment_size: cluster.segment_size,
            system_identifier: Some(cluster.system_identifier),
        }
    }
}
