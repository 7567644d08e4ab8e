//! Whether a page header is right for its place. (`XLogReaderValidatePageHeader` in `xlogreader.c`.)

use super::super::bytes::{take, take_u64};
use super::super::damage::DamageKind;
use super::super::edge::Prev;
use super::super::header::{BlockSize, HeaderError, LongPageHeader, PageHeader, WalVersion};
use super::super::lsn::Lsn;
use super::{Place, Walk};

pub(super) enum Verdict {
    /// The header is right, or wrong in a way that was noted and need not stop the walk.
    Good(PageHeader),
    /// Nothing on the page can be relied on.
    Bad(DamageKind),
    /// The pages are of a version whose format is not known here.
    Foreign(u16),
}

impl Walk {
    /// Decides whether a page header is right for its place.
    pub(super) fn judge(&mut self, header: &PageHeader, page: &[u8]) -> Verdict {
        let at = self.address();
        let is_first = self.offset == 0;
        let known = matches!(header.version(), WalVersion::Known(_));
        let placed = header.address == at;
        let magic = HeaderError::Magic { found: header.magic };
        let mut trouble: Option<DamageKind> = None;
        match self.magic {
            Some(expected) if expected == header.magic => {}
            None if known && (is_first || placed) => {
                self.magic = Some(header.magic);
                self.magic_is_new = is_first;
            }
            None if is_first => {
                self.candidate = (header.magic >> 12 == 0xD).then_some(header.magic);
                return Verdict::Bad(magic.into());
            }
            None if placed && self.candidate == Some(header.magic) => {
                return Verdict::Foreign(header.magic);
            }
            // The first two pages disagree: one of the magic numbers is damaged, and the next pages are
            // more likely to agree with this one.
            Some(found) if self.magic_is_new && known && placed && self.offset == self.block => {
                self.magic = Some(header.magic);
                if let Some(head) = &mut self.head {
                    head.magic = header.magic;
                }
                self.found_at(self.spec.start, HeaderError::Magic { found }.into());
            }
            _ => trouble = Some(magic.into()),
        }
        self.magic_is_new &= is_first;
        if !placed {
            let (found, expected) = (header.address, at);
            return Verdict::Bad(
                trouble.unwrap_or_else(|| HeaderError::Address { found, expected }.into()),
            );
        }
        let trouble = trouble.or_else(|| self.header_trouble(header, is_first));
        let Some(kind) = trouble else {
            if is_first {
                self.check_long_header(page);
            }
            return Verdict::Good(*header);
        };
        // The address is right and something else is not. If the contents follow all the same,
        // the header is damaged and the walk need not stop.
        if !self.fits(header, page) {
            return Verdict::Bad(kind);
        }
        self.found_at(at, kind);
        Verdict::Good(*header)
    }

    fn header_trouble(&self, header: &PageHeader, is_first: bool) -> Option<DamageKind> {
        let (found, expected, after) = (header.timeline, self.spec.timeline, self.timeline);
        let info = header.info;
        // A page cannot both continue a record and stand in for its rest.
        let both = info.is_contrecord() && info.is_overwrite_contrecord();
        if info.undefined() != 0 || info.is_long() != is_first || both {
            Some(HeaderError::Info { found: info.0 }.into())
        } else if found == 0 || found > expected {
            Some(HeaderError::Timeline { found, expected }.into())
        } else if found < after {
            Some(DamageKind::TimelineSequence { found, after })
        } else {
            None
        }
    }

    /// Returns whether the page's contents continue the page before.
    fn fits(&self, header: &PageHeader, page: &[u8]) -> bool {
        let remaining = header.info.is_contrecord().then_some(header.remaining);
        match &self.place {
            Place::Start => self.offset == 0,
            Place::Inside(open) => remaining == Some(open.left()),
            Place::Skipping(left) => remaining == Some(*left),
            Place::Boundary => {
                let mut rest = page.get(PageHeader::SIZE..).unwrap_or(&[]);
                let prev = take::<8>(&mut rest).and_then(|_| take_u64(&mut rest)).map(Lsn);
                remaining.is_none() && prev.map(Prev::Known) == Some(self.prev)
            }
            Place::Lost | Place::Over(_) => false,
        }
    }

    /// The fields that only the long header has. The walk does not depend on them.
    fn check_long_header(&mut self, page: &[u8]) {
        let Some(long) = LongPageHeader::read(page) else { return };
        let at = self.address();
        if let Some(expected) = self.system_identifier
            && expected != long.system_identifier
        {
            let found = long.system_identifier;
            self.found_at(at, HeaderError::SystemIdentifier { found, expected }.into());
        }
        let (found, expected) = (long.segment_size, self.spec.segment_size.bytes());
        if found != expected {
            self.found_at(at, HeaderError::SegmentSize { found, expected }.into());
        }
        if let Err(error) = BlockSize::new(long.block_size) {
            self.found_at(at, error.into());
        }
        self.system_identifier.get_or_insert(long.system_identifier);
    }
}
