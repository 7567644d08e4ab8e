//! The bytes of one file: read once, hashed, checked, encoded and written on the way.

use std::io::{self, Write};

use super::plan::{Job, Plan};
use crate::encoding::codec::{Codec, Encoder};
use crate::encoding::digest::{Digest, Hasher};
use crate::error::{Action, Error};
use crate::server::settings::CheckWal;
use crate::server::source::Source;
use crate::store::{Digests, Draft, Progress};
use crate::sys::buffer::Buffer;
use crate::sys::slice::{part, part_mut};
use crate::wal::{SegmentChecker, SegmentReport, SegmentSpec};

/// The server's file, being read.
pub(super) struct Reader<'a> {
    pub(super) plan: &'a Plan,
    pub(super) job: &'a Job,
    pub(super) source: &'a Source,
    pub(super) progress: &'a Progress,
}

/// What a copy resulted in.
pub(super) struct Copied {
    pub(super) digests: Digests,
    pub(super) records: Option<Box<SegmentReport>>,
}

/// What one pass over the server's file has shown.
pub(super) struct Read {
    content: Digest,
    pub(super) records: Option<Box<SegmentReport>>,
}

impl Reader<'_> {
    /// Copies the file into a draft, through a buffer, in the plan's encoding.
    ///
    /// # Errors The file could not be read, or the draft could not be written.
    pub(super) fn copy(&self, draft: &mut dyn Draft, buffer: &mut Buffer) -> Result<Copied, Error> {
        if self.plan.compression.codec == Codec::None {
            let read = self.read(buffer.bytes_mut(), |chunk| draft.put(chunk))?;
            let digests = Digests { stored: read.content, content: read.content };
            return Ok(Copied { digests, records: read.records });
        }
        let (chunk, output) = buffer.halves();
        let mut encoder =
            Encoder::new(self.plan.compression, self.source.len(), Gather::new(draft, output))
                .map_err(|e| self.encode_failed(e))?;
        let read =
            self.read(chunk, |chunk| encoder.write_all(chunk).map_err(|e| self.encode_failed(e)))?;
        let gather = encoder.finish().map_err(|e| self.encode_failed(e))?;
        let digests = Digests { stored: gather.finish()?, content: read.content };
        Ok(Copied { digests, records: read.records })
    }

    /// Reads the server's file chunk by chunk: hashes each, checks its records where that is asked
    /// for, and passes it on.
    ///
    /// # Errors The file could not be read, or its length is no longer what it was when it was opened; or
    /// what `take` returns.
    pub(super) fn read(
        &self,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Read, Error> {
        let mut checker = self.record_checker();
        let (mut hasher, mut read) = (Hasher::default(), 0);
        loop {
            let len = self.source.read_at(buffer, read)?;
            let (chunk, rest) = buffer.split_at(len);
            hasher.update(chunk);
            if let Some(checker) = &mut checker {
                checker.feed(chunk);
            }
            take(chunk)?;
            read += len as u64;
            self.progress.tick();
            if !rest.is_empty() {
                break;
            }
        }
        if read != self.source.len() {
            return Err(self.source.changed(read));
        }
        let records = checker.map(|checker| Box::new(checker.finish()));
        Ok(Read { content: hasher.digest(), records })
    }

    /// Returns a checker for the segment's records, where they are to be checked.
    fn record_checker(&self) -> Option<SegmentChecker> {
        let segment = self.job.name.wal_of();
        let segment = segment.filter(|_| self.plan.check_wal == CheckWal::Records)?;
        let segment_size = self.plan.cluster.segment_size;
        let spec = SegmentSpec {
            timeline: segment.timeline,
            start: segment.start(segment_size)?,
            segment_size,
            system_identifier: Some(self.plan.cluster.system_identifier),
        };
        Some(SegmentChecker::new(spec, None))
    }

    /// An encoder passes on what went wrong with its output; what else it reports is its own failure.
    fn encode_failed(&self, error: io::Error) -> Error {
        error.downcast::<Error>().unwrap_or_else(|e| Error::io(Action::Encode, &self.job.source, e))
    }
}

/// Gathers an encoder's output into chunks, hashes it, and puts it into a draft.
struct Gather<'a> {
    draft: &'a mut dyn Draft,
    buffer: &'a mut [u8],
    filled: usize,
    hasher: Hasher,
}

impl<'a> Gather<'a> {
    /// Gathers in a piece of a [`Buffer`].
    fn new(draft: &'a mut dyn Draft, buffer: &'a mut [u8]) -> Self {
        Self { draft, buffer, filled: 0, hasher: Hasher::default() }
    }

    fn put(&mut self) -> Result<(), Error> {
        let chunk = part(self.buffer, ..self.filled);
        self.hasher.update(chunk);
        self.draft.put(chunk)?;
        self.filled = 0;
        Ok(())
    }

    /// Writes what is left and returns the digest of all that was gathered.
    fn finish(mut self) -> Result<Digest, Error> {
        self.put()?;
        Ok(self.hasher.digest())
    }
}

impl Write for Gather<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = part_mut(self.buffer, self.filled..);
        let n = room.len().min(bytes.len());
        part_mut(room, ..n).copy_from_slice(part(bytes, ..n));
        self.filled += n;
        if self.filled == self.buffer.len() {
            self.put().map_err(io::Error::other)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;
    use crate::store::directory::temporary::Owner;
    use crate::store::directory::{Directory, Staging};
    use crate::store::{FinalName, Seal, Store};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn gathered_output_is_written_whole(pieces in proptest::collection::vec(0_usize..300_000, 0..20)) {
            let temp = tempfile::tempdir_in(".").unwrap();
            let store = Directory::new(temp.path(), Owner::this_process(), Staging::Unnamed);
            let progress = Progress::default();
            let visit = store.visit(&progress).unwrap();
            let mut draft = visit.stage(FinalName::Identity).unwrap();
            let mut buffer = Buffer::new().unwrap();
            let mut gather = Gather::new(&mut *draft, buffer.bytes_mut());
            let mut content = Vec::new();
            for (i, len) in pieces.iter().enumerate() {
                let piece = vec![i as u8; *len];
                gather.write_all(&piece).unwrap();
                content.extend(piece);
            }
            let digest = gather.finish().unwrap();
            prop_assert_eq!(digest, Digest::of(&content));
            let seal = Seal { digests: None, checked: None, mode: 0o600, flush: false, verify: false };
            draft.seal(&seal).unwrap().publish(&progress).unwrap();
            let written = std::fs::read(temp.path().join(FinalName::Identity.to_string())).unwrap();
            prop_assert!(written == content);
        }
    }
}
