//! What `pg_receivewal --compress` has written of a segment so far.
//!
//! Such a stream has no end yet (`walmethods.c` writes it when the segment is complete), and stays so if
//! `pg_receivewal` was killed. It is read up to where it ends, and as a segment: the rest is
//! zeros, as in an uncompressed `.partial`. Nothing but the records in it says whether it is sound.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::encoding::codec::{Codec, Decoder};
use crate::sys::slice::part_mut;
use crate::wal::segment::HEADER_LEN;
use crate::wal::{LongPageHeader, SegmentSize};

/// Reads a segment out of a stream that may break off.
pub(super) struct Received<'a> {
    decoder: Decoder<Ending<'a>>,
    /// The stored bytes were read to their end.
    at_end: Rc<Cell<bool>>,
    /// There is nothing more in the stream.
    ended: bool,
    /// The first bytes: the header says how long the segment is.
    header: Vec<u8>,
    given: u64,
}

/// Stored bytes, and whether their end was reached.
struct Ending<'a> {
    inner: Box<dyn Read + 'a>,
    at_end: Rc<Cell<bool>>,
}

impl Read for Ending<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        if got == 0 && !buf.is_empty() {
            self.at_end.set(true);
        }
        Ok(got)
    }
}

impl<'a> Received<'a> {
    pub(super) fn new(codec: Codec, inner: Box<dyn Read + 'a>) -> io::Result<Self> {
        let at_end = Rc::new(Cell::new(false));
        let decoder = Decoder::new(codec, Ending { inner, at_end: Rc::clone(&at_end) })?;
        Ok(Self { decoder, at_end, ended: false, header: Vec::new(), given: 0 })
    }

    fn decode(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = match self.decoder.read(buf) {
            // The decoder wanted more than there is. Any other error is damage, or the system's.
            Err(e) if e.raw_os_error().is_none() && self.at_end.get() => 0,
            result => result?,
        };
        let wanted = HEADER_LEN.saturating_sub(self.header.len());
        self.header.extend(buf.iter().take(got.min(wanted)));
        Ok(got)
    }

    /// Returns how many zeros are missing at the end.
    fn missing(&self) -> u64 {
        let header = LongPageHeader::parse(&self.header).ok();
        let size = header.and_then(|header| SegmentSize::new(header.segment_size.into()).ok());
        size.map_or(0, |size| u64::from(size.bytes()).saturating_sub(self.given))
    }
}

impl Read for Received<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut got = if self.ended { 0 } else { self.decode(buf)? };
        if got == 0 {
            self.ended = true;
            got = usize::try_from(self.missing()).unwrap_or(usize::MAX).min(buf.len());
            part_mut(buf, ..got).fill(0);
        }
        self.given += got as u64;
        Ok(got)
    }
}
