//! Reading a stream from its front to its end, as it comes through a pipe; contract 3.3 and 3.4.

use crate::{
    Error, Result,
    chunk::SECTOR_LEN,
    num::{to_u64, to_usize},
    plan::Codec,
    vmdk::{
        descriptor::Parsed,
        header::{FLAG_COMPRESSED, FLAG_MARKERS, GD_AT_END, HEADER_LEN, Header},
        marker::{MARKER_LEN, Marker, padded_grain_len},
    },
};

/// Reads a streamOptimized VMDK in order. It is told the bytes it asks for and says what they are;
/// grains come in ascending order, and everything between them is zero.
///
/// Tables and the directory are skipped: they say again what the order of the grains says. That the
/// stream is complete is known once [`StreamEvent::End`] has come.
#[derive(Debug)]
pub struct StreamParser {
    stage: Stage,
    /// Bytes taken.
    at: u64,
    header: Option<Header>,
    /// First guest sector that a grain may still hold.
    next_sector: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Descriptor,
    /// So many bytes mean nothing.
    Skip(u64),
    Marker,
    /// The footer, which repeats the header.
    Footer,
    /// Nothing may follow.
    End,
}

/// What the bytes that were supplied are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// The stream is complete; nothing may follow.
    End,
    /// The front of a grain: its first sector. With `rest` more bytes it is what `codec` decodes;
    /// these are to be taken from the stream before the parser is asked again.
    Grain {
        /// First guest byte.
        guest_offset: u64,
        /// Guest bytes; the last grain may reach past the end of the disk.
        len: usize,
        /// How to decode it.
        codec: Codec,
        /// Bytes of the stream that belong to it behind those supplied.
        rest: usize,
    },
    /// Nothing that matters.
    Other,
}

impl Default for StreamParser {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamParser {
    /// A parser at the start of a stream.
    pub fn new() -> Self {
        Self { stage: Stage::Start, at: 0, header: None, next_sector: 0 }
    }

    /// Bytes of the guest disk, once the header was supplied.
    pub fn virtual_size(&self) -> Option<u64> {
        self.header.as_ref().map(Header::virtual_size)
    }

    /// Bytes of the largest grain, once the header was supplied.
    pub fn grain_len(&self) -> Option<u64> {
        self.header.as_ref().map(Header::grain_len)
    }

    /// Number of bytes to supply next: 64 KiB at most, 0 behind the end.
    pub fn wants(&self) -> usize {
        match self.stage {
            Stage::Start => HEADER_LEN,
            Stage::Descriptor => {
                let size = self.header.as_ref().map_or(0, |header| header.descriptor_size);
                to_usize(size.min(MAX_DESCRIPTOR_SECTORS) * SECTOR_LEN)
            }
            Stage::Skip(len) => to_usize(len.min(MAX_SKIP)),
            Stage::Marker | Stage::Footer => MARKER_LEN,
            Stage::End => 0,
        }
    }

    /// Takes the next bytes of the stream, as many as [`wants`](Self::wants) says.
    ///
    /// # Errors
    /// They are not those of a stream that can be read in order.
    pub fn supply(&mut self, bytes: &[u8]) -> Result<StreamEvent> {
        if bytes.len() != self.wants() || bytes.is_empty() {
            return Err(Error::invalid_input(format!("{} bytes instead of {}", bytes.len(), self.wants())));
        }
        let at = self.at;
        self.at += to_u64(bytes.len());
        match self.stage {
            Stage::Start => self.take_header(bytes)?,
            Stage::Descriptor => self.take_descriptor(bytes)?,
            Stage::Skip(len) => self.skip(len - to_u64(bytes.len())),
            Stage::Footer => {
                let footer = Header::parse(bytes, at)?;
                let agrees = self
                    .header
                    .as_ref()
                    .is_some_and(|header| Header { gd_offset: header.gd_offset, ..footer } == *header);
                if !agrees {
                    return Err(Error::corrupt("the footer contradicts the header").at(at));
                }
                self.stage = Stage::Marker;
            }
            Stage::Marker => return self.take_marker(bytes, at),
            Stage::End => {}
        }
        Ok(StreamEvent::Other)
    }

    fn skip(&mut self, len: u64) {
        self.stage = if len == 0 { Stage::Marker } else { Stage::Skip(len) };
    }

    fn take_header(&mut self, bytes: &[u8]) -> Result<()> {
        let header = Header::parse(bytes, 0)?;
        if !header.has(FLAG_COMPRESSED) || !header.has(FLAG_MARKERS) || header.gd_offset != GD_AT_END {
            return Err(Error::refused(
                "only a streamOptimized vmdk whose directory is at its end can be read in order",
            ));
        }
        let descriptor_end = header.descriptor_offset.checked_add(header.descriptor_size);
        if header.descriptor_offset != 1
            || header.descriptor_size == 0
            || header.descriptor_size > MAX_DESCRIPTOR_SECTORS
            || descriptor_end.is_none_or(|end| end > header.over_head)
            || header.over_head > MAX_OVER_HEAD
        {
            return Err(Error::corrupt("the descriptor is not where a stream has it").at(28));
        }
        self.header = Some(header);
        self.stage = Stage::Descriptor;
        Ok(())
    }

    fn take_descriptor(&mut self, bytes: &[u8]) -> Result<()> {
        let parsed = Parsed::parse(bytes).map_err(|error| error.at(SECTOR_LEN))?;
        if parsed.create_type != "streamOptimized" {
            return Err(Error::corrupt(format!("a stream of type {:?}", parsed.create_type)).at(SECTOR_LEN));
        }
        let over_head = self.header.as_ref().map_or(0, |header| header.over_head);
        self.skip(over_head * SECTOR_LEN - self.at);
        Ok(())
    }

    fn take_marker(&mut self, bytes: &[u8], at: u64) -> Result<StreamEvent> {
        let (Some(header), Some(sector_bytes)) = (&self.header, bytes.first_chunk::<MARKER_LEN>()) else {
            return Err(Error::invalid_input("a marker before the header"));
        };
        match Marker::parse(sector_bytes, at)? {
            Marker::EndOfStream => {
                self.stage = Stage::End;
                return Ok(StreamEvent::End);
            }
            Marker::Footer => self.stage = Stage::Footer,
            Marker::Directory(sectors) | Marker::Table(sectors) => {
                let most = (header.tables() * 4).div_ceil(SECTOR_LEN).max(super::GT_LEN / SECTOR_LEN);
                if sectors > most {
                    return Err(Error::corrupt(format!("a table of {sectors} sectors")).at(at));
                }
                self.skip(sectors * SECTOR_LEN);
            }
            Marker::Other => {}
            Marker::Grain { sector, len } => {
                if !sector.is_multiple_of(header.grain_size) || sector >= header.capacity {
                    return Err(Error::corrupt(format!(
                        "a grain for sector {sector}, which is none of the disk"
                    ))
                    .at(at));
                }
                if sector < self.next_sector {
                    return Err(Error::corrupt(format!(
                        "the grain for sector {sector} comes late: such a stream cannot be read in order"
                    ))
                    .at(at));
                }
                if u64::from(len) > 2 * header.grain_len() {
                    return Err(Error::corrupt(format!("a grain of {len} compressed bytes")).at(at));
                }
                let rest = padded_grain_len(u64::from(len)) - to_u64(MARKER_LEN);
                let least = header.grain_len().min((header.capacity - sector) * SECTOR_LEN);
                let event = StreamEvent::Grain {
                    guest_offset: sector * SECTOR_LEN,
                    len: to_usize(header.grain_len()),
                    codec: Codec::VmdkGrain { sector, least: u32::try_from(least).unwrap_or(u32::MAX) },
                    rest: to_usize(rest),
                };
                self.next_sector = sector + header.grain_size;
                self.at += rest;
                return Ok(event);
            }
        }
        Ok(StreamEvent::Other)
    }
}

/// Sectors of the longest descriptor that is read.
const MAX_DESCRIPTOR_SECTORS: u64 = 128;

/// Sectors before the first grain: more would be a stream of nothing.
const MAX_OVER_HEAD: u64 = 1 << 20;

/// Bytes that are skipped in one step.
const MAX_SKIP: u64 = 64 << 10;
