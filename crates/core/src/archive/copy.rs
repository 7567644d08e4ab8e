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
use crate::sys::pipeline::{Pipeline, overlap};
use crate::sys::slice::{part, part_mut};
use crate::wal::{SegmentChecker, SegmentReport, SegmentSpec};

/// A file of at most so many chunks is written in place: a thread would cost more than it gains.
const IN_PLACE: u64 = 2;

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
        let in_place = self.source.len() <= IN_PLACE * buffer.piece_len() as u64;
        let mut pieces = buffer.pieces();
        let mut write = |chunks: &[&[u8]]| draft.put_all(chunks);
        if self.plan.compression.codec == Codec::None {
            let pieces = pieces.take(if in_place { 1 } else { usize::MAX });
            let read = overlap(pieces, &mut write, |mut pipeline| {
                let mut pass = self.pass();
                while let Some(len) = pass.next(pipeline.piece())? {
                    pipeline = pipeline.put(len)?;
                }
                Ok((pass.finish()?, pipeline))
            })?;
            let digests = Digests { stored: read.content, content: read.content };
            return Ok(Copied { digests, records: read.records });
        }
        let chunk = pieces.next().unwrap_or_default();
        let pieces = pieces.take(if in_place { 1 } else { usize::MAX });
        let (read, stored) = overlap(pieces, &mut write, |pipeline| {
            let gather = Gather::new(pipeline);
            let mut encoder = Encoder::new(self.plan.compression, self.source.len(), gather)
                .map_err(|e| self.encode_failed(e))?;
            let read = self
                .read(chunk, |chunk| encoder.write_all(chunk).map_err(|e| self.encode_failed(e)))?;
            let gather = encoder.finish().map_err(|e| self.encode_failed(e))?;
            let (stored, pipeline) = gather.finish().map_err(|e| self.encode_failed(e))?;
            Ok(((read, stored), pipeline))
        })?;
        let digests = Digests { stored, content: read.content };
        Ok(Copied { digests, records: read.records })
    }

    /// Reads the server's file chunk by chunk: hashes each, checks its records where that is asked
    /// for, and passes it on.
    ///
    /// # Errors The file could not be read, or its length is no longer what it was when it was opened; or
    /// what `take` returns.
    pub(super) fn read(
        &self,
        chunk: &mut [u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Read, Error> {
        let mut pass = self.pass();
        while let Some(len) = pass.next(chunk)? {
            take(part(chunk, ..len))?;
        }
        pass.finish()
    }

    fn pass(&self) -> Pass<'_> {
        let checker = self.record_checker();
        Pass { reader: self, hasher: Hasher::default(), checker, read: 0, ended: false }
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

/// One pass over the server's file.
struct Pass<'a> {
    reader: &'a Reader<'a>,
    hasher: Hasher,
    checker: Option<SegmentChecker>,
    read: u64,
    ended: bool,
}

impl Pass<'_> {
    /// Reads the next chunk, hashes it and checks its records. Returns its length; `None` at the end.
    fn next(&mut self, chunk: &mut [u8]) -> Result<Option<usize>, Error> {
        if self.ended {
            return Ok(None);
        }
        let len = self.reader.source.read_at(chunk, self.read)?;
        self.ended = len < chunk.len();
        let chunk = part(chunk, ..len);
        self.hasher.update(chunk);
        if let Some(checker) = &mut self.checker {
            checker.feed(chunk);
        }
        self.read += len as u64;
        self.reader.progress.tick();
        Ok((len > 0).then_some(len))
    }

    fn finish(self) -> Result<Read, Error> {
        let source = self.reader.source;
        if self.read != source.len() {
            return Err(source.changed(self.read));
        }
        let records = self.checker.map(|checker| Box::new(checker.finish()));
        Ok(Read { content: self.hasher.digest(), records })
    }
}

/// Gathers an encoder's output into chunks, hashes it, and has it written.
struct Gather<'s> {
    /// `None` once a write has failed.
    pipeline: Option<Pipeline<'s, Error>>,
    filled: usize,
    hasher: Hasher,
}

impl<'s> Gather<'s> {
    fn new(pipeline: Pipeline<'s, Error>) -> Self {
        Self { pipeline: Some(pipeline), filled: 0, hasher: Hasher::default() }
    }

    /// Hands over what is gathered.
    fn put(&mut self) -> io::Result<()> {
        let mut pipeline = self.pipeline.take().ok_or_else(ended)?;
        self.hasher.update(part(pipeline.piece(), ..self.filled));
        self.pipeline = Some(pipeline.put(self.filled).map_err(io::Error::other)?);
        self.filled = 0;
        Ok(())
    }

    /// Hands over what is left and returns the digest of all that was gathered.
    fn finish(mut self) -> io::Result<(Digest, Pipeline<'s, Error>)> {
        self.put()?;
        Ok((self.hasher.digest(), self.pipeline.ok_or_else(ended)?))
    }
}

/// An encoder that is dropped after an error may try to write its end all the same.
fn ended() -> io::Error {
    io::Error::other("an earlier write has failed")
}

impl Write for Gather<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let pipeline = self.pipeline.as_mut().ok_or_else(ended)?;
        let room = part_mut(pipeline.piece(), self.filled..);
        let (n, is_full) = (room.len().min(bytes.len()), room.len() <= bytes.len());
        part_mut(room, ..n).copy_from_slice(part(bytes, ..n));
        self.filled += n;
        if is_full {
            self.put()?;
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
            let mut content = Vec::new();
            let digest = overlap(buffer.pieces(), |chunks: &[&[u8]]| draft.put_all(chunks), |pipeline| {
                let mut gather = Gather::new(pipeline);
                for (i, len) in pieces.iter().enumerate() {
                    let piece = vec![i as u8; *len];
                    gather.write_all(&piece).unwrap();
                    content.extend(piece);
                }
                Ok(gather.finish().unwrap())
            }).unwrap();
            prop_assert_eq!(digest, Digest::of(&content));
            let seal = Seal { digests: None, checked: None, mode: 0o600, flush: false, verify: false };
            draft.seal(&seal).unwrap().publish(&progress).unwrap();
            let written = std::fs::read(temp.path().join(FinalName::Identity.to_string())).unwrap();
            prop_assert!(written == content);
        }
    }
}
