//! The parser against the writer and the reader.

use super::*;
use crate::{
    codec::Decoder,
    vmdk::{StreamParser, StreamStep},
};

/// Reads a stream whose bytes come `step` at a time.
pub(super) fn parse(image: &[u8], step: usize) -> Result<Vec<u8>> {
    let (mut parser, mut decoder) = (StreamParser::new(&ReaderPolicy::default()), Decoder::new());
    let (mut at, mut have, mut disk) = (0, 0, Vec::new());
    // Each turn takes or asks for something.
    for _ in 0..image.len() * 4 + 1000 {
        let had = have;
        match parser.step(&image[at..have], have == image.len())? {
            StreamStep::Need(len) => {
                assert!(len > have - at && len <= 2 << 20, "it needs what it does not have");
                have = (have + step).min(image.len());
                assert!(have > had, "at the end nothing more is asked for");
            }
            StreamStep::Drop(len) => {
                assert!(len > 0 && len <= have - at);
                at += len;
            }
            StreamStep::Grain(grain) => {
                let info = parser.info().unwrap();
                let start = to_usize(grain.guest_offset);
                assert!(start >= disk.len());
                disk.resize(start, 0);
                let mut out = vec![0xaa; to_usize(info.cluster_len)];
                decoder.decode(grain.codec, &image[at..at + grain.encoded_len], &mut out)?;
                out.truncate(to_usize(info.virtual_size) - start);
                disk.extend_from_slice(&out);
                at += grain.encoded_len;
            }
            StreamStep::End => {
                assert_eq!(at, image.len());
                disk.resize(to_usize(parser.info().unwrap().virtual_size), 0);
                return Ok(disk);
            }
        }
    }
    panic!("the parser never ends");
}

#[test]
fn a_stream_is_read_as_the_file_is() {
    for size in [1, 512, 65_535, 65_537, 4 << 20, (33 << 20) + 700, 64 << 20] {
        let raw = disk(to_u64(size) + 9, size);
        let image = image(Subformat::StreamOptimized, &raw);
        let whole = parse(&image, image.len()).unwrap();
        assert!(whole == read(&image).unwrap(), "{size} bytes");
        assert!(whole == parse(&image, 1000).unwrap(), "{size} bytes");
        if size < 100_000 {
            assert!(whole == parse(&image, 1).unwrap(), "{size} bytes");
        }
    }
}

#[test]
fn info_is_that_of_the_file() {
    let image = image(Subformat::StreamOptimized, &disk(1, 100_000));
    let mut parser = StreamParser::new(&ReaderPolicy::default());
    let mut at = 0;
    while parser.info().is_none() {
        match parser.step(&image[at..], true).unwrap() {
            StreamStep::Drop(len) => at += len,
            other => panic!("{other:?}"),
        }
    }
    let (reader, _) = open_image(Format::Vmdk, &image, &[], &ReaderPolicy::default()).unwrap();
    assert_eq!(parser.info(), Some(reader.info()));
}

#[test]
fn markers_that_mean_nothing_are_passed_over() {
    let raw = disk(2, 1 << 20);
    let image = image(Subformat::StreamOptimized, &raw);
    let mut progress = vec![0; 512];
    progress[12] = 4;
    // Before the first grain, where no offset in a table would become wrong: there are none then.
    let zeros = super::image(Subformat::StreamOptimized, &vec![0; 1 << 20]);
    let with = [&zeros[..65_536], &progress, &progress, &zeros[65_536..]].concat();
    assert!(parse(&with, 999).unwrap() == vec![0; 1 << 20]);
    assert!(parse(&image, 999).unwrap() == raw);
}

#[test]
fn a_cut_anywhere_is_noticed() {
    let image = image(Subformat::StreamOptimized, &disk(3, 300_000));
    let mut cuts: Vec<usize> = (0..image.len()).step_by(97).collect();
    cuts.extend(image.len() - 2048..image.len());
    for cut in cuts {
        assert_eq!(kind(parse(&image[..cut], 4096)), ErrorKind::Truncated, "cut at {cut}");
    }
    let more = [&image[..], &[0; 512]].concat();
    assert_eq!(kind(parse(&more, 4096)), ErrorKind::Corrupt, "something follows");
}

#[test]
fn grains_and_tables_must_agree() {
    let mut raw = vec![0; 70 << 20];
    for at in [3_usize, 4, 5, 700] {
        raw[at << 16] = 1;
    }
    let good = image(Subformat::StreamOptimized, &raw);
    let spoiled = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut image = good.clone();
        edit(&mut image);
        parse(&image, 5000)
    };
    let grain = |number: usize| (128 + number) * 512;
    // A grain that says to be another one, within its table, behind it, and outside of the disk.
    assert_eq!(kind(spoiled(&|image| put64(image, grain(2), 6 * 128))), ErrorKind::Corrupt);
    assert_eq!(kind(spoiled(&|image| put64(image, grain(2), 600 * 128))), ErrorKind::Corrupt);
    assert_eq!(kind(spoiled(&|image| put64(image, grain(0), 4 * 128))), ErrorKind::Corrupt);
    assert_eq!(kind(spoiled(&|image| put64(image, grain(0), 1 << 40))), ErrorKind::Corrupt);
    assert_eq!(kind(spoiled(&|image| put64(image, grain(0), 3 * 128 + 1))), ErrorKind::Corrupt);
    assert_eq!(kind(spoiled(&|image| put32(image, grain(0) + 8, 131_073))), ErrorKind::Corrupt);
    // The lone grain of the second table moves to the third: only the directory knows better.
    assert_eq!(kind(spoiled(&|image| put64(image, grain(8), (700 + 512) * 128))), ErrorKind::Corrupt);
    let (directory, table) = (directory(&good), table(&good));
    assert_eq!(kind(spoiled(&|image| put32(image, directory + 8, 5))), ErrorKind::Corrupt);
    assert_eq!(kind(spoiled(&|image| put32(image, table, 5))), ErrorKind::Corrupt);
    // Without its table, or its footer.
    assert_eq!(kind(spoiled(&|image| drop(image.drain(table - 512..table + 2048)))), ErrorKind::Corrupt);
    let footer = good.len() - 1536;
    assert_eq!(kind(spoiled(&|image| drop(image.drain(footer..footer + 1024)))), ErrorKind::Corrupt);
    assert_eq!(kind(spoiled(&|image| image[footer + 512 + 12] ^= 1)), ErrorKind::Corrupt);
    assert_eq!(kind(spoiled(&|image| image[footer + 1024 + 100] = 1)), ErrorKind::Corrupt);
    assert_eq!(kind(spoiled(&|image| put32(image, table - 500, 9))), ErrorKind::Corrupt);
}

#[test]
fn what_does_not_come_in_order_is_refused_with_the_reason() {
    let raw = disk(4, 100_000);
    let error = parse(&image(Subformat::MonolithicSparse, &raw), 4096).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("monolithicSparse"),
        "{error}"
    );
    let mut fronted = image(Subformat::StreamOptimized, &raw);
    put64(&mut fronted, 56, 21);
    assert!(parse(&fronted, 4096).unwrap_err().to_string().contains("in front"));
    let mut text = b"# Disk DescriptorFile\n".to_vec();
    text.resize(600, b'\n');
    assert!(parse(&text, 4096).unwrap_err().to_string().contains("other files"));
}
