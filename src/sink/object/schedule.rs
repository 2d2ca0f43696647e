//! How long the parts of an upload are: a pure function of their numbers.
//!
//! Stores number parts and allow only so many, so a part of an output that may become very long must
//! be long, and memory must hold it. Parts therefore begin short and grow: what is needed follows the
//! bytes that are written, not what the disk could hold at worst. The parameters stand in the journal:
//! a run that goes on cuts as the one before it did.

use super::Schedule;
use crate::error::{Error, Result};

/// What a kind of store allows (formats contract 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes that every part but the last must have.
    pub(crate) shortest: u64,
    /// Bytes that a part may have.
    pub(crate) longest: u64,
    /// Number of parts that an upload may have.
    pub(crate) parts: u32,
    /// Of these, how many are planned with: some room is left for what nobody thought of.
    pub(crate) planned: u32,
}

impl Limits {
    /// Amazon S3, whoever else speaks its protocol, and the XML API of Google Cloud Storage.
    pub(crate) const S3: Self = Self { shortest: 5 << 20, longest: 5 << 30, parts: 10_000, planned: 9_900 };

    /// Block blobs of Azure.
    pub(crate) const AZURE: Self =
        Self { shortest: 512, longest: 4000 << 20, parts: 50_000, planned: 49_000 };
}

impl Schedule {
    /// Parts of 8 MiB that begin to grow behind the 1,500th, by so much that an output of `worst` bytes
    /// fits; or as long an output as the store takes, if that is shorter.
    pub(crate) fn growing(limits: Limits, worst: u64) -> Self {
        let of = |step| Self {
            first: FIRST,
            equal: EQUAL_PARTS.min(limits.planned),
            step,
            longest: limits.longest / GRANULE * GRANULE,
            parts: limits.planned,
        };
        // The smallest step that covers it; how much is covered never shrinks with the step.
        let (mut low, mut high) = (0, limits.longest / GRANULE);
        while low < high {
            let middle = low + (high - low) / 2;
            if of(middle * GRANULE).covers() >= worst { high = middle } else { low = middle + 1 }
        }
        of(low * GRANULE)
    }

    /// Parts of `len` bytes each, the last one shorter: for stores that want them equal.
    ///
    /// # Errors
    /// The store takes no parts of that length, or it is no multiple of 512.
    pub(crate) fn equal(limits: Limits, len: u64) -> Result<Self> {
        let Limits { shortest, longest, .. } = limits;
        if !len.is_multiple_of(GRANULE) || len < shortest || len > longest {
            return Err(Error::usage(format!("parts of {len} bytes are not possible")).with_hint(format!(
                "--part-size takes a multiple of {GRANULE} from {shortest} to {longest}"
            )));
        }
        Ok(Self { first: len, equal: limits.parts, step: 0, longest: len, parts: limits.parts })
    }

    /// Length of the longest part of an output of `len` bytes.
    pub(crate) fn longest_of(&self, len: u64) -> u64 {
        self.len(self.part_at(len.min(self.covers())))
    }

    /// Whether the parameters can be those of an upload, wherever they come from.
    pub(crate) fn is_sound(&self) -> bool {
        let longest = 1..=LONGEST;
        longest.contains(&self.first)
            && longest.contains(&self.longest)
            && self.step <= LONGEST
            && self.first <= self.longest
            && [self.first, self.step, self.longest].into_iter().all(|len| len.is_multiple_of(GRANULE))
            && (1..=MAX_PARTS).contains(&self.parts)
    }

    /// Bytes of part `number`, which counts from 1.
    pub(crate) fn len(&self, number: u32) -> u64 {
        self.group_len(number.saturating_sub(self.equal).div_ceil(GROUP))
    }

    /// Output offset of the first byte of part `number`.
    pub(crate) fn start(&self, number: u32) -> u64 {
        let before = number.max(1) - 1;
        let mut left = before.saturating_sub(self.equal);
        let (mut total, mut group) = (u64::from(before - left).saturating_mul(self.first), 0);
        while left > 0 {
            let parts = left.min(GROUP);
            group += 1;
            total = total.saturating_add(u64::from(parts).saturating_mul(self.group_len(group)));
            left -= parts;
        }
        total
    }

    /// Bytes of a part of the `group`th hundred that grows.
    fn group_len(&self, group: u32) -> u64 {
        let group = u64::from(group);
        let steps = group * (group + 1) / 2;
        self.first.saturating_add(steps.saturating_mul(self.step)).min(self.longest)
    }

    /// Bytes of the longest output that the parts hold.
    pub(crate) fn covers(&self) -> u64 {
        self.start(self.parts.saturating_add(1))
    }

    /// Number of the part that output byte `offset` lies in; it may be one too many.
    pub(crate) fn part_at(&self, offset: u64) -> u32 {
        let (mut low, mut high) = (1, self.parts.saturating_add(1));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.start(middle) <= offset { low = middle } else { high = middle - 1 }
        }
        low
    }

    /// Bytes of memory that the upload holds at most while the part at output byte `offset` is filled:
    /// that part, parts on their way, and those that wait for what is written late.
    pub(crate) fn memory_at(&self, offset: u64) -> u64 {
        let len = self.len(self.part_at(offset));
        WINDOW.max(self.first + 3 * len + SLACK)
    }
}

/// Length of the parts that an upload begins with, in bytes.
const FIRST: u64 = 8 << 20;

/// How many of these there are: 12 GiB go by before parts grow.
const EQUAL_PARTS: u32 = 1_500;

/// Parts that have the same length once parts grow.
const GROUP: u32 = 100;

/// Lengths are multiples of this: a sector, and a block of a tar archive, in bytes.
const GRANULE: u64 = 512;

/// No store takes longer parts, in bytes, or more of them.
const LONGEST: u64 = 5 << 30;
const MAX_PARTS: u32 = 50_000;

/// Memory for parts while they are short, in bytes: one that is filled, two that wait for late bytes,
/// four on their way.
pub(crate) const WINDOW: u64 = 7 * FIRST;

/// What may be held on top of whole parts when they are long, in bytes: buffers of which a part uses
/// only some.
pub(crate) const SLACK: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_grow_and_hold_the_worst_case(worst in 0..39_u64 << 40, azure in any::<bool>()) {
            let limits = if azure { Limits::AZURE } else { Limits::S3 };
            let schedule = Schedule::growing(limits, worst);
            prop_assert!(schedule.is_sound());
            prop_assert!(schedule.covers() >= worst);
            prop_assert!(schedule.parts < limits.parts);
            let (mut start, mut before) = (0, 0);
            for number in 1..=schedule.parts {
                let len = schedule.len(number);
                prop_assert!(len >= before && len.is_multiple_of(512), "part {} has {} bytes", number, len);
                prop_assert!((5 << 20..=limits.longest).contains(&len));
                prop_assert_eq!(schedule.start(number), start);
                (start, before) = (start + len, len);
            }
            prop_assert_eq!(schedule.covers(), start);
        }

        #[test]
        fn an_offset_lies_in_its_part(worst in 0..39_u64 << 40, at in any::<u64>()) {
            let schedule = Schedule::growing(Limits::S3, worst);
            let at = at % schedule.covers();
            let number = schedule.part_at(at);
            let start = schedule.start(number);
            prop_assert!(start <= at && at < start + schedule.len(number));
        }

        #[test]
        fn parameters_from_a_damaged_journal_do_no_harm(
            numbers in any::<(u64, u64, u64)>(), equal in any::<u32>(), parts in any::<u32>(), at in any::<u64>(),
        ) {
            let (first, step, longest) = numbers;
            let schedule = Schedule { first, equal, step, longest, parts };
            if schedule.is_sound() {
                let number = schedule.part_at(at);
                prop_assert!(number <= parts + 1 && schedule.start(number) <= at);
            }
        }
    }

    #[test]
    fn short_outputs_have_short_parts_whatever_the_disk() {
        for worst in [0, 1 << 40, 17 << 40, 64 << 40] {
            let schedule = Schedule::growing(Limits::S3, worst);
            assert_eq!(schedule.start(1_501), 12_582_912_000, "12 GB in parts of 8 MiB");
            assert!((1..=1_500).all(|number| schedule.len(number) == 8 << 20));
        }
        // More than S3 takes: as much as grows to its longest part.
        assert!(Schedule::growing(Limits::S3, u64::MAX).covers() > 39 << 40);
    }

    #[test]
    fn an_archive_of_16_tib_that_writes_12_gib_stays_within_192_mib() {
        let schedule = Schedule::growing(Limits::S3, (16 << 40) + (1 << 40));
        let upload = schedule.memory_at((12 << 30) - 1);
        assert_eq!(upload, 56 << 20);
        let engine = crate::ConversionOptions::default().memory;
        assert!(engine + upload <= 192 << 20, "{engine} and {upload}");
    }

    #[test]
    fn equal_parts_are_all_equal() {
        let schedule = Schedule::equal(Limits::S3, 64 << 20).unwrap();
        assert_eq!((schedule.len(1), schedule.len(10_000)), (64 << 20, 64 << 20));
        assert_eq!(schedule.covers(), 10_000 * (64 << 20));
        for wrong in [0, 512, (5 << 20) - 512, (8 << 20) + 1, (5 << 30) + 512] {
            let error = Schedule::equal(Limits::S3, wrong).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage, "{wrong}");
        }
    }
}
