//! streamOptimized read front to back, as it comes through a pipe; contract 3.3 and 3.4.

use crate::{
    Error, ImageInfo, ReaderPolicy, Result,
    chunk::SECTOR_LEN,
    num::{to_u64, to_usize},
    plan::Codec,
    vmdk::{
        check::TableCheck,
        descriptor::{Descriptor, MAX_DESCRIPTOR_LEN},
        header::{AT_END, COWD_MAGIC, Header, MAGIC},
        marker::{self, Marker},
        reader,
        tables::entry_count,
    },
};

/// Finds the grains in a streamOptimized VMDK that comes in order.
///
/// The caller shows the parser the bytes at hand and does what [`step`](Self::step) answers: gets
/// more, drops some, or inflates a grain. What lies between the grains it is told of is zeros.
/// Tables are not needed, but they must agree with the grains, so that a stream which is complete
/// and right shows as such.
///
/// ```
/// use vmferry_formats::{ReaderPolicy, vmdk::{StreamParser, StreamStep}};
///
/// let mut parser = StreamParser::new(&ReaderPolicy::default());
/// assert_eq!(parser.step(&[], false)?, StreamStep::Need(512));
/// # Ok::<(), vmferry_formats::Error>(())
/// ```
#[derive(Debug)]
pub struct StreamParser {
    max_virtual_size: u64,
    stage: Stage,
    head: Option<Head>,
    /// Bytes of the stream dealt with.
    position: u64,
    /// First grain that may come.
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The header is next.
    Header,
    /// The descriptor.
    Descriptor,
    /// A marker.
    Body,
    /// So many sectors of the directory.
    Directory(u64),
    /// Markers, but no grain any more: the footer has come.
    Footed,
    /// Nothing.
    Ended,
}

#[derive(Debug)]
struct Head {
    header: Header,
    info: Option<ImageInfo>,
    check: TableCheck,
    /// Entries of the directory that have come.
    listed: u64,
    /// The stream is to be dropped up to here.
    drop_to: u64,
}

/// What to do with the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStep {
    /// Drop this many of them; not 0.
    Drop(usize),
    /// The stream has ended, properly.
    End,
    /// Their first `encoded_len` are a grain. Inflate it with a [`Decoder`](crate::codec::Decoder)
    /// and drop them.
    Grain(StreamGrain),
    /// At least so many of them are needed, from the first on.
    Need(usize),
}

/// A grain of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamGrain {
    /// First guest byte. It grows from grain to grain.
    pub guest_offset: u64,
    /// Bytes of the stream that it takes.
    pub encoded_len: usize,
    /// How it is packed. It inflates to [`ImageInfo::cluster_len`] bytes, of which those behind the
    /// end of the disk do not count.
    pub codec: Codec,
}

impl StreamParser {
    /// A parser at the start of a stream.
    pub fn new(policy: &ReaderPolicy) -> Self {
        Self {
            max_virtual_size: policy.max_virtual_size.min(1 << 60),
            stage: Stage::Header,
            head: None,
            position: 0,
            next: 0,
        }
    }

    /// What the image says of itself, as soon as its descriptor has come.
    pub fn info(&self) -> Option<&ImageInfo> {
        self.head.as_ref()?.info.as_ref()
    }

    /// What to do next, with `input` at hand; `at_end` says that nothing follows `input`.
    ///
    /// # Errors
    /// The stream is corrupt, cut short, or of a kind that cannot be read in order.
    pub fn step(&mut self, input: &[u8], at_end: bool) -> Result<StreamStep> {
        if let Some(head) = &self.head
            && self.position < head.drop_to
        {
            let left = head.drop_to - self.position;
            return match to_usize(left.min(to_u64(input.len()))) {
                0 if at_end => Err(self.cut_short()),
                0 => Ok(StreamStep::Need(1)),
                len => Ok(self.drop_some(len)),
            };
        }
        let need = match self.stage {
            Stage::Header | Stage::Directory(_) => to_usize(SECTOR_LEN),
            Stage::Descriptor => self.descriptor_len(),
            Stage::Body | Stage::Footed => Marker::LEN,
            Stage::Ended => 1,
        };
        if input.len() < need {
            return match (at_end, self.stage) {
                (true, Stage::Ended) => Ok(StreamStep::End),
                (true, _) => Err(self.cut_short()),
                (false, _) => Ok(StreamStep::Need(need)),
            };
        }
        match self.stage {
            Stage::Header => self.header(input),
            Stage::Descriptor => self.descriptor(&input[..need]),
            Stage::Directory(left) => self.directory(&input[..need], left),
            Stage::Body | Stage::Footed => self.marker(input, at_end),
            Stage::Ended => Err(self.corrupt("bytes follow the end of the stream")),
        }
    }

    fn header(&mut self, input: &[u8]) -> Result<StreamStep> {
        if input.starts_with(&COWD_MAGIC) {
            return Err(Error::unsupported("an extent of the old ESX format (COWD)").at(0));
        }
        if !input.starts_with(&MAGIC) {
            return Err(Error::unsupported(
                "a descriptor of other files, or no vmdk at all: only streamOptimized can be read in order",
            )
            .at(0));
        }
        let header = Header::parse(input, 0)?;
        if !header.is_compressed() {
            return Err(Error::unsupported(
                "the grains of a monolithicSparse vmdk come in any order: only streamOptimized can be read in order",
            )
            .at(8));
        }
        if header.directory != AT_END {
            return Err(Error::unsupported(
                "its tables stand in front of the data, which may come in any order: only streams whose directory is \
                 in a footer can be read in order",
            )
            .at(56));
        }
        let size = header.capacity.checked_mul(SECTOR_LEN).filter(|&size| size <= self.max_virtual_size);
        if size.is_none_or(|size| size == 0) {
            return Err(Error::limit(format!(
                "a capacity of {} sectors is not between 1 and {}",
                header.capacity,
                self.max_virtual_size / SECTOR_LEN
            ))
            .at(12));
        }
        let in_front = header.descriptor.checked_add(header.descriptor_len);
        if header.descriptor == 0
            || header.descriptor_len == 0
            || in_front.is_none_or(|end| end > header.overhead)
        {
            return Err(Error::corrupt("the descriptor is not between the header and the grains").at(28));
        }
        if header.descriptor_len > MAX_STREAM_DESCRIPTOR_LEN / SECTOR_LEN {
            return Err(Error::limit(format!(
                "a descriptor of {} sectors is longer than {MAX_STREAM_DESCRIPTOR_LEN} bytes",
                header.descriptor_len
            ))
            .at(36));
        }
        let drop_to = header.descriptor.saturating_mul(SECTOR_LEN);
        let check = TableCheck::new(header.table_entries);
        self.head = Some(Head { header, info: None, check, listed: 0, drop_to });
        self.stage = Stage::Descriptor;
        Ok(self.drop_some(to_usize(SECTOR_LEN)))
    }

    fn descriptor_len(&self) -> usize {
        self.head.as_ref().map_or(0, |head| to_usize(head.header.descriptor_len * SECTOR_LEN))
    }

    fn descriptor(&mut self, text: &[u8]) -> Result<StreamStep> {
        let descriptor = Descriptor::parse(text, self.position)?;
        if !descriptor.create_type.eq_ignore_ascii_case("streamOptimized") {
            return Err(Error::unsupported(format!(
                "createType {:?}: only streamOptimized can be read in order",
                descriptor.create_type
            ))
            .at(self.position));
        }
        if let Some(head) = &mut self.head {
            head.info = Some(reader::info_of_one(&descriptor, &head.header));
            head.drop_to = head.header.overhead.saturating_mul(SECTOR_LEN);
        }
        self.stage = Stage::Body;
        Ok(self.drop_some(text.len()))
    }

    fn marker(&mut self, input: &[u8], at_end: bool) -> Result<StreamStep> {
        let needs = |len: u64| input.len() < to_usize(len);
        let lack = |parser: &Self, len: u64| {
            if at_end { Err(parser.cut_short()) } else { Ok(StreamStep::Need(to_usize(len))) }
        };
        match Marker::parse(input) {
            None => Err(self.cut_short()),
            Some(Marker::Grain { sector, len }) => {
                let grain = self.grain(sector, len)?;
                if input.len() < grain.encoded_len {
                    return lack(self, to_u64(grain.encoded_len));
                }
                let number = grain.guest_offset / self.grain_len();
                self.agree(|check, position| check.grain(number, position))?;
                self.position += to_u64(grain.encoded_len);
                self.next = number + 1;
                Ok(StreamStep::Grain(grain))
            }
            Some(Marker::Metadata { kind: marker::END, .. }) => {
                if needs(SECTOR_LEN) {
                    return lack(self, SECTOR_LEN);
                }
                let sector = &input[..to_usize(SECTOR_LEN)];
                if self.stage != Stage::Footed || sector.iter().any(|&byte| byte != 0) {
                    return Err(self.corrupt("the end of the stream is not what follows a footer"));
                }
                self.stage = Stage::Ended;
                Ok(self.drop_some(sector.len()))
            }
            Some(Marker::Metadata { kind: marker::FOOTER, sectors: 1 }) if self.stage == Stage::Body => {
                if needs(2 * SECTOR_LEN) {
                    return lack(self, 2 * SECTOR_LEN);
                }
                let at = self.position + SECTOR_LEN;
                let footer = Header::parse(&input[to_usize(SECTOR_LEN)..], at)?;
                let listed = self.head.as_ref().map_or(0, |head| head.listed);
                self.agree(|check, _| check.is_complete(listed))?;
                if let Some(head) = &mut self.head {
                    head.header.complete(footer, at)?;
                }
                self.stage = Stage::Footed;
                Ok(self.drop_some(to_usize(2 * SECTOR_LEN)))
            }
            Some(Marker::Metadata { kind: marker::TABLE, sectors }) if self.stage == Stage::Body => {
                let table_len = self.head.as_ref().map_or(0, |head| head.check.table_len());
                if sectors != table_len.div_ceil(SECTOR_LEN) {
                    return Err(self.corrupt(&format!("a grain table of {sectors} sectors")));
                }
                let len = (1 + sectors) * SECTOR_LEN;
                if needs(len) {
                    return lack(self, len);
                }
                let table = &input[to_usize(SECTOR_LEN)..][..to_usize(table_len)];
                self.agree(|check, position| check.table(position + SECTOR_LEN, table))?;
                Ok(self.drop_some(to_usize(len)))
            }
            Some(Marker::Metadata { kind: marker::DIRECTORY, sectors })
                if self.stage == Stage::Body && sectors > 0 =>
            {
                self.stage = Stage::Directory(sectors);
                self.drop_sector_of_marker()
            }
            Some(Marker::Metadata { kind: marker::UNSPECIFIED, .. }) => self.drop_sector_of_marker(),
            Some(Marker::Metadata { .. }) => Err(self.corrupt("an unknown marker")),
        }
    }

    /// Takes a sector of the directory, of which so many are left.
    fn directory(&mut self, sector: &[u8], left: u64) -> Result<StreamStep> {
        let first = self.head.as_ref().map_or(0, |head| head.listed);
        self.agree(|check, _| check.directory(first, sector))?;
        if let Some(head) = &mut self.head {
            head.listed += entry_count(sector);
        }
        self.stage = if left <= 1 { Stage::Body } else { Stage::Directory(left.saturating_sub(1)) };
        Ok(self.drop_some(sector.len()))
    }

    /// Asks the check about what stands at the position.
    fn agree(&mut self, ask: impl FnOnce(&mut TableCheck, u64) -> bool) -> Result<()> {
        let agree = self.head.as_mut().is_some_and(|head| ask(&mut head.check, self.position));
        if agree {
            return Ok(());
        }
        Err(self.corrupt(
            "grains and tables contradict each other, or come in an unusual order: if the image is good, save it to a \
             file and name that",
        ))
    }

    /// Drops the sector of a marker, of which the front is at hand.
    fn drop_sector_of_marker(&mut self) -> Result<StreamStep> {
        let Some(head) = &mut self.head else { return Err(self.cut_short()) };
        head.drop_to = self.position.saturating_add(SECTOR_LEN);
        Ok(self.drop_some(Marker::LEN))
    }

    /// The grain whose marker is next.
    fn grain(&self, sector: u64, len: u32) -> Result<StreamGrain> {
        let Some(head) = &self.head else { return Err(self.cut_short()) };
        let header = &head.header;
        if self.stage == Stage::Footed {
            return Err(self.corrupt("a grain follows the footer"));
        }
        if !sector.is_multiple_of(header.grain) || sector >= header.capacity {
            return Err(self.corrupt(&format!("no grain begins at sector {sector} of {}", header.capacity)));
        }
        if sector / header.grain < self.next {
            return Err(self.corrupt(&format!(
                "the grain of sector {sector} comes behind later ones: save the image to a file and name that"
            )));
        }
        let encoded_len = to_u64(marker::GRAIN_LEN) + u64::from(len);
        if encoded_len > to_u64(marker::GRAIN_LEN) + 2 * self.grain_len() {
            return Err(self.corrupt(&format!("{len} compressed bytes are more than two grains")));
        }
        let guest_offset = sector * SECTOR_LEN;
        let content = self.grain_len().min(header.capacity * SECTOR_LEN - guest_offset);
        let content = u32::try_from(content).map_err(|_| self.corrupt("a grain of 4 GiB"))?;
        Ok(StreamGrain {
            guest_offset,
            encoded_len: to_usize(encoded_len.next_multiple_of(SECTOR_LEN)),
            codec: Codec::VmdkGrain { sector, content },
        })
    }

    fn grain_len(&self) -> u64 {
        self.head.as_ref().map_or(1, |head| head.header.grain * SECTOR_LEN)
    }

    fn drop_some(&mut self, len: usize) -> StreamStep {
        self.position += to_u64(len);
        StreamStep::Drop(len)
    }

    fn corrupt(&self, message: &str) -> Error {
        Error::corrupt(message).at(self.position)
    }

    fn cut_short(&self) -> Error {
        Error::truncated("the stream is cut short: it has no footer and no end").at(self.position)
    }
}

/// Longest descriptor of a stream, in bytes: it is looked at in one piece.
const MAX_STREAM_DESCRIPTOR_LEN: u64 = 64 << 10;
const _: () = assert!(MAX_STREAM_DESCRIPTOR_LEN <= MAX_DESCRIPTOR_LEN);
