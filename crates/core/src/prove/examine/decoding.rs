//! The stored bytes on their way to the contents.

use super::contents::Stop;
use super::digests::Hashed;
use super::problems::read_problem;
use crate::encoding::codec::{Codec, Decoder};
use crate::encoding::digest::{Digest, Hasher};
use crate::prove::finding::Problem;
use crate::sys::pipeline::Pipeline;
use crate::sys::read_full;
use crate::sys::slice::part;

/// One stored file being read and decoded.
pub(super) struct Decoding<'r, 'a> {
    raw: &'r mut Hashed<'a>,
    codec: Codec,
    hasher: Hasher,
    len: u64,
    /// Why it was not read to its end.
    pub(super) trouble: Option<Problem>,
    /// The decoder failed, and not the system.
    pub(super) undecodable: bool,
}

impl<'r, 'a> Decoding<'r, 'a> {
    pub(super) fn new(raw: &'r mut Hashed<'a>, codec: Codec) -> Self {
        Self { raw, codec, hasher: Hasher::default(), len: 0, trouble: None, undecodable: false }
    }

    /// Returns the digest of the contents that were handed over.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.digest()
    }

    /// Reads to the end, and returns whether it got there. Hands over whole chunks, and at last one that is
    /// not, though it be empty.
    pub(super) fn run<'s>(
        &mut self,
        mut pipeline: Pipeline<'s, Stop>,
    ) -> Result<(bool, Pipeline<'s, Stop>), Stop> {
        let mut decoder = match Decoder::new(self.codec, &mut *self.raw) {
            Ok(decoder) => decoder,
            Err(e) => {
                self.trouble = Some(read_problem(&e, 0));
                return Ok((false, pipeline));
            }
        };
        loop {
            let chunk = pipeline.piece();
            let room = chunk.len();
            let got = match read_full(&mut decoder, chunk) {
                Ok(got) => got,
                Err(e) => {
                    self.undecodable = e.raw_os_error().is_none();
                    self.trouble = Some(read_problem(&e, self.len));
                    return Ok((false, pipeline));
                }
            };
            self.len += got as u64;
            self.hasher.update(part(chunk, ..got));
            pipeline = pipeline.put(got)?;
            if got < room {
                break;
            }
        }
        if let Err(e) = decoder.finish() {
            self.trouble = Some(read_problem(&e, self.len));
            return Ok((false, pipeline));
        }
        Ok((true, pipeline))
    }
}
