//! A file of the source that is written at the destination while it is read.

use std::cell::RefCell;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use crate::encoding::codec::Codec;
use crate::error::Error;
use crate::server::source::Source;
use crate::store::{Draft, Found};
use crate::sys::buffer::Buffer;
use crate::sys::slice::{part, part_mut};

/// A file whose stored bytes go into a draft as they are read, once.
pub(super) struct Tee<'a> {
    inner: &'a dyn Found,
    out: RefCell<Out<'a>>,
}

/// Where the bytes go.
struct Out<'a> {
    draft: Box<dyn Draft + 'a>,
    buffer: &'a mut Buffer,
    filled: usize,
    len: u64,
    failed: Option<Error>,
}

impl<'a> Tee<'a> {
    pub(super) fn new(
        inner: &'a dyn Found,
        draft: Box<dyn Draft + 'a>,
        buffer: &'a mut Buffer,
    ) -> Self {
        Self { inner, out: RefCell::new(Out { draft, buffer, filled: 0, len: 0, failed: None }) }
    }

    /// Writes what is left. Returns the draft, and how many bytes it has.
    ///
    /// # Errors
    /// A write failed, now or before.
    pub(super) fn finish(self) -> Result<(Box<dyn Draft + 'a>, u64), Error> {
        let mut out = self.out.into_inner();
        if out.failed.is_none() {
            out.put();
        }
        match out.failed {
            None => Ok((out.draft, out.len)),
            Some(error) => Err(error),
        }
    }
}

impl Out<'_> {
    /// Takes bytes, and writes each time that the buffer is full.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() && self.failed.is_none() {
            let room = part_mut(self.buffer.bytes_mut(), self.filled..);
            let n = room.len().min(bytes.len());
            part_mut(room, ..n).copy_from_slice(part(bytes, ..n));
            let is_full = n == room.len();
            bytes = part(bytes, n..);
            self.filled += n;
            self.len += n as u64;
            if is_full {
                self.put();
            }
        }
        match self.failed {
            None => Ok(()),
            // What went wrong is told by `finish`; the reader only has to end.
            Some(_) => Err(io::Error::other("the copy could not be written")),
        }
    }

    fn put(&mut self) {
        if self.filled > 0 {
            self.failed = self.draft.put(self.buffer.filled(self.filled)).err();
            self.filled = 0;
        }
    }
}

/// A reader that hands on what it reads.
struct Both<'t, 'a> {
    inner: Box<dyn Read + 't>,
    out: &'t RefCell<Out<'a>>,
}

impl Read for Both<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.out.borrow_mut().take(part(buf, ..got))?;
        Ok(got)
    }
}

impl Found for Tee<'_> {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn codec(&self) -> Codec {
        self.inner.codec()
    }

    fn stored_len(&self) -> u64 {
        self.inner.stored_len()
    }

    fn stored_bytes(&self) -> u64 {
        self.inner.stored_bytes()
    }

    fn modified(&self) -> Option<SystemTime> {
        self.inner.modified()
    }

    fn attribute(&self, name: &str) -> io::Result<Option<String>> {
        self.inner.attribute(name)
    }

    fn is(&self, source: &Source) -> bool {
        self.inner.is(source)
    }

    fn flush(&self) -> Result<(), Error> {
        self.inner.flush()
    }

    fn read(&self, past_cache: bool) -> io::Result<Box<dyn Read + '_>> {
        if self.out.borrow().len > 0 {
            return Err(io::Error::other("the file is read a second time"));
        }
        Ok(Box::new(Both { inner: self.inner.read(past_cache)?, out: &self.out }))
    }
}
