use std::{
    fs::File,
    io::{Seek as _, Write as _},
    path::Path,
};

use vmferry_formats::{
    WriterSpec, testkit,
    vmdk::{Subformat, VmdkOptions},
};

use super::*;
use crate::source::FileStore;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A pipe that another thread fills, a few bytes at a time.
fn pipe(bytes: &[u8]) -> Box<dyn Input> {
    let (read, write) = std::io::pipe().unwrap();
    let bytes = bytes.to_vec();
    std::thread::spawn(move || {
        let mut write = write;
        for part in bytes.chunks(3001) {
            // The reader may have seen enough.
            if write.write_all(part).is_err() {
                break;
            }
        }
    });
    Box::new(FileInput::pipe(File::from(std::os::fd::OwnedFd::from(read)), "stdin"))
}

fn file(path: &Path, bytes: &[u8]) -> Box<dyn Input> {
    std::fs::write(path, bytes).unwrap();
    Box::new(FileInput::file(&FileStore::open(path).unwrap()).unwrap())
}

/// All bytes, in buffers of `step`.
fn drain<U: Unpack>(stream: &mut DiskStream<U>, step: usize) -> Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0xaa; step]);
    loop {
        match stream.next_chunk(&mut buffer)? {
            StreamChunk::Data { len, holes } => {
                assert!(len > 0 && holes.is_empty());
                all.extend_from_slice(&buffer[..len]);
            }
            StreamChunk::End => {
                assert_eq!(stream.next_chunk(&mut buffer).unwrap(), StreamChunk::End);
                return Ok(all);
            }
            StreamChunk::Zero { .. } => unreachable!("streams do not look for zeros"),
        }
    }
}

const STEPS: [usize; 3] = [777, 65_536, 1 << 20];

#[test]
fn raw_streams_come_through_whole_with_and_without_a_size() {
    let disk = testkit::disk(1, 300_001);
    for step in STEPS {
        for size in [None, Some(300_001)] {
            let mut stream = DiskStream::new(pipe(&disk), Raw, size);
            assert_eq!(stream.peek(512).unwrap(), &disk[..512]);
            assert_eq!(drain(&mut stream, step).unwrap(), disk);
            assert_eq!(stream.bytes_read(), 300_001);
            assert_eq!((stream.size(), stream.restart(), stream.identity()), (size, Restart::Never, None));
        }
    }
}

#[test]
fn short_and_long_streams_name_both_sizes() {
    let disk = testkit::disk(2, 100_000);
    let packed = gzip(&disk);
    for step in STEPS {
        for (size, words) in
            [(100_001, ["after 100000 bytes", "100001"]), (99_999, ["at least 100000", "99999"])]
        {
            let errors = [
                drain(&mut DiskStream::new(pipe(&disk), Raw, Some(size)), step).unwrap_err(),
                drain(&mut DiskStream::new(pipe(&packed), Gzip::default(), Some(size)), step).unwrap_err(),
                drain(&mut DiskStream::new(pipe(&zst(&disk)), Zstd::new(None).unwrap(), Some(size)), step)
                    .unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), ErrorKind::SourceChanged);
                assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
            }
        }
    }
}

#[test]
fn members_and_frames_follow_each_other() {
    let parts = [testkit::disk(3, 100_000), Vec::new(), testkit::disk(4, 3), testkit::disk(5, 200_000)];
    let disk = parts.concat();
    let mut members: Vec<u8> = parts.iter().flat_map(|part| gzip(part)).collect();
    members.resize(members.len() + 700, 0);
    let mut frames: Vec<u8> = parts.iter().flat_map(|part| zst(part)).collect();
    frames.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    for step in STEPS {
        for size in [None, Some(to_u64(disk.len()))] {
            let mut stream = DiskStream::new(pipe(&members), Gzip::default(), size);
            assert_eq!(stream.peek(512).unwrap(), &disk[..512]);
            assert_eq!(stream.peek(512).unwrap(), &disk[..512]);
            assert_eq!(drain(&mut stream, step).unwrap(), disk);
            assert_eq!(stream.bytes_read(), to_u64(members.len()));
            let mut stream = DiskStream::new(pipe(&frames), Zstd::new(None).unwrap(), size);
            assert_eq!(drain(&mut stream, step).unwrap(), disk);
            assert_eq!(stream.bytes_read(), to_u64(frames.len()));
        }
    }
}

#[test]
fn an_empty_disk_is_a_disk_but_an_empty_stream_is_not() {
    assert_eq!(drain(&mut DiskStream::new(pipe(&[]), Raw, None), 10).unwrap(), Vec::<u8>::new());
    assert_eq!(
        drain(&mut DiskStream::new(pipe(&gzip(&[])), Gzip::default(), Some(0)), 10).unwrap(),
        Vec::<u8>::new()
    );
    assert_eq!(
        drain(&mut DiskStream::new(pipe(&zst(&[])), Zstd::new(None).unwrap(), None), 10).unwrap(),
        Vec::<u8>::new()
    );
    assert!(drain(&mut DiskStream::new(pipe(&[]), Gzip::default(), None), 10).is_err());
    assert!(drain(&mut DiskStream::new(pipe(&[]), Zstd::new(None).unwrap(), None), 10).is_err());
}

#[test]
fn a_cut_is_an_error_wherever_it_is() {
    let disk = testkit::disk(6, 20_000);
    for (packed, format) in [(gzip(&disk), "gzip"), (zst(&disk), "zstd")] {
        let cuts = (1..40).chain((40..packed.len()).step_by(997));
        for cut in cuts {
            let input = pipe(&packed[..packed.len() - cut]);
            // Right with a size or without: the checksum at the end is part of the proof.
            let size = (cut % 2 == 0).then_some(20_000);
            let error = match format {
                "gzip" => drain(&mut DiskStream::new(input, Gzip::default(), size), 4096),
                _ => drain(&mut DiskStream::new(input, Zstd::new(None).unwrap(), size), 4096),
            }
            .unwrap_err();
            assert!(error.to_string().contains("cut short"), "{format}, {cut} bytes missing: {error}");
        }
    }
}

#[test]
fn damage_is_an_error() {
    let disk = testkit::disk(7, 50_000);
    let mut packed = gzip(&disk);
    let checksum = packed.len() - 8;
    packed[checksum] ^= 1;
    let error = drain(&mut DiskStream::new(pipe(&packed), Gzip::default(), Some(50_000)), 4096).unwrap_err();
    assert!(error.to_string().contains("not a valid gzip stream"), "{error}");
    let mut packed = zst(&disk);
    let checksum = packed.len() - 1;
    packed[checksum] ^= 1;
    let error = drain(&mut DiskStream::new(pipe(&packed), Zstd::new(None).unwrap(), None), 4096).unwrap_err();
    assert!(error.to_string().contains("not a valid zstd stream"), "{error}");
    let mut packed = zst(&disk);
    packed.extend(b"trailing noise");
    assert!(drain(&mut DiskStream::new(pipe(&packed), Zstd::new(None).unwrap(), None), 4096).is_err());
}

#[test]
fn a_file_that_changes_meanwhile_is_noticed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.gz");
    let packed = gzip(&testkit::disk(8, 100_000));
    let mut stream = DiskStream::new(file(&path, &packed), Gzip::default(), None);
    assert_eq!(stream.restart(), Restart::FromStart);
    assert!(stream.identity().is_some());
    stream.peek(512).unwrap();
    let mut writer = File::options().write(true).open(&path).unwrap();
    writer.seek(std::io::SeekFrom::End(0)).unwrap();
    writer.write_all(&[0]).unwrap();
    let error = drain(&mut stream, 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
}

fn vmdk(subformat: Subformat, disk: &[u8]) -> Vec<u8> {
    let options = VmdkOptions { subformat, ..VmdkOptions::default() };
    testkit::write_image(&WriterSpec::Vmdk(options), disk, "disk.vmdk", true).unwrap()
}

/// All bytes of a stream that knows holes, in buffers of `step`, and how many were never touched.
fn drain_sparse(stream: &mut dyn ByteStream, step: usize) -> Result<(Vec<u8>, usize)> {
    let (mut all, mut holes_len) = (Vec::new(), 0);
    let size = to_usize(stream.size().unwrap());
    loop {
        let mut buffer = vec![0xaa; step];
        match stream.next_chunk(&mut buffer)? {
            StreamChunk::Data { len, holes } => {
                assert!(len == step || all.len() + len == size);
                let mut at = 0;
                for hole in holes {
                    assert!(at <= hole.start && hole.start < hole.end && hole.end <= len);
                    assert!(buffer[hole.clone()].iter().all(|&byte| byte == 0xaa), "a hole is left alone");
                    buffer[hole.clone()].fill(0);
                    holes_len += hole.len();
                    at = hole.end;
                }
                all.extend_from_slice(&buffer[..len]);
            }
            StreamChunk::Zero { len } => {
                let len = to_usize(len);
                assert!(len.is_multiple_of(step) || all.len() + len == size);
                all.resize(all.len() + len, 0);
                holes_len += len;
            }
            StreamChunk::End => return Ok((all, holes_len)),
        }
    }
}

#[test]
fn a_stream_optimized_vmdk_is_read_from_a_pipe() {
    for size in [512, 65_536, 65_536 + 512, (5 << 20) + 1024, 40 << 20] {
        let mut disk = testkit::disk(to_u64(size), size);
        if size > 30 << 20 {
            disk[2 << 20..35 << 20].fill(0);
        }
        let image = vmdk(Subformat::StreamOptimized, &disk);
        for step in [777, 65_536, 100_000, 4 << 20] {
            if step < 1000 && size > 1 << 20 {
                continue;
            }
            for announced in [None, Some(to_u64(size)), Some(to_u64(size) - 1)] {
                let mut stream = vmdk_stream(pipe(&image), announced).unwrap();
                assert_eq!((stream.size(), stream.restart()), (Some(to_u64(size)), Restart::Never));
                let (read, holes) = drain_sparse(stream.as_mut(), step).unwrap();
                assert!(read == disk, "{size} bytes in steps of {step}");
                assert!(holes >= 32 << 20 || size < 30 << 20);
                assert_eq!(stream.bytes_read(), to_u64(image.len()));
                assert_eq!(stream.next_chunk(&mut [0]).unwrap(), StreamChunk::End);
            }
        }
    }
}

#[test]
fn a_vmdk_of_another_size_is_noticed_at_once() {
    let image = vmdk(Subformat::StreamOptimized, &testkit::disk(9, 100_000));
    for size in [0, 100_353, 99_840, u64::MAX] {
        let error = vmdk_stream(pipe(&image), Some(size)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{size}");
    }
}

#[test]
fn a_vmdk_that_is_cut_damaged_or_followed_by_something_is_an_error() {
    let image = vmdk(Subformat::StreamOptimized, &testkit::disk(10, 300_000));
    let read = |image: &[u8]| {
        vmdk_stream(pipe(image), None)
            .and_then(|mut stream| drain_sparse(stream.as_mut(), 65_536))
            .map(|_| ())
    };
    read(&image).unwrap();
    for cut in (0..image.len()).step_by(4001).chain([image.len() - 1]) {
        let error = read(&image[..cut]).unwrap_err();
        assert!(error.to_string().contains("cut short"), "{cut} bytes: {error}");
    }
    let error = read(&[&image[..], &[0; 512]].concat()).unwrap_err();
    assert!(error.to_string().contains("not a valid VMDK"), "{error}");
    let mut damaged = image.clone();
    damaged[65_536 + 14] ^= 1;
    assert!(read(&damaged).unwrap_err().to_string().contains("not a valid VMDK"));
}

#[test]
fn a_vmdk_that_does_not_come_in_order_is_refused_with_the_alternative() {
    let sparse = vmdk(Subformat::MonolithicSparse, &testkit::disk(11, 100_000));
    let mut text = b"# Disk DescriptorFile\nversion=1\n".to_vec();
    text.resize(1000, b'\n');
    for image in [sparse, text] {
        let error = vmdk_stream(pipe(&image), None).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("save it to a file")), "{error}");
    }
}
