//! What is opened as what, and what is refused.

use std::io::Write as _;

use super::*;
use crate::source::{Restart, StreamChunk};

fn with(format: Option<SourceFormat>, size: Option<u64>) -> SourceOptions {
    SourceOptions { format, size, ..SourceOptions::default() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn magic(at: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[at..at + magic.len()].copy_from_slice(magic);
    bytes
}

async fn open_bytes(name: &str, bytes: &[u8], options: &SourceOptions) -> Result<OpenedSource> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    open(path.to_str().unwrap(), options).await
}

async fn open_pipe(bytes: &[u8], options: &SourceOptions) -> Result<OpenedSource> {
    let (read, mut write) = std::io::pipe().unwrap();
    // Small enough for the pipe to hold it.
    write.write_all(bytes).unwrap();
    drop(write);
    let input = FileInput::pipe(std::fs::File::from(std::os::fd::OwnedFd::from(read)), "stdin");
    open_stream(Box::new(input), options, Announced::Nothing).await
}

fn text(error: &Error) -> String {
    format!("{error} ({})", error.hint().unwrap_or_default())
}

const QCOW2: Option<SourceFormat> = Some(SourceFormat::Image(Format::Qcow2));
const RAW: Option<SourceFormat> = Some(SourceFormat::Image(Format::Raw));

#[tokio::test]
async fn raw_is_taken_only_where_nothing_speaks_against_it() {
    for name in ["disk.raw", "disk.img", "disk.IMG", "disk"] {
        let opened = open_bytes(name, &[0; 700], &with(None, None)).await.unwrap();
        assert_eq!(opened.format, SourceFormat::Image(Format::Raw));
        assert!(
            matches!(&opened.source, Source::Random(plan) if plan.size() == 700 && plan.decode_len() == 1)
        );
        assert!(opened.info.is_none() && opened.name.ends_with(name));
    }
    for name in ["disk.qcow2", "disk.vmdk", "disk.gz", "disk.bin"] {
        let error = open_bytes(name, &[0; 700], &with(None, None)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(text(&error).contains("-f raw"), "{}", text(&error));
        open_bytes(name, &[0; 700], &with(RAW, None)).await.unwrap();
    }
    // What the user calls RAW is RAW, and so is an empty file.
    for bytes in [magic(0, b"QFI\xfb"), magic(0, b"KDMV"), gzip(b"x"), Vec::new()] {
        let opened = open_bytes("disk.qcow2", &bytes, &with(RAW, None)).await.unwrap();
        assert_eq!(opened.format, SourceFormat::Image(Format::Raw));
    }
}

#[tokio::test]
async fn a_magic_that_a_guest_may_have_written_does_not_decide() {
    for bytes in [magic(0, b"QFI\xfb"), magic(0, b"KDMV")] {
        let error = open_bytes("disk.raw", &bytes, &with(None, None)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(text(&error).contains("-f raw"), "{}", text(&error));
        open_bytes("disk.raw", &bytes, &with(RAW, None)).await.unwrap();
    }
    let mut options = with(None, None);
    assert_eq!(exported_format("https://host/x/disk.img", &options), None);
    options.http.token_file = Some("token".into());
    for (location, format) in [
        ("https://host/volumes/root/disk.img", SourceFormat::Image(Format::Raw)),
        ("https://host/volumes/root/disk.img.gz", SourceFormat::Gzip),
        ("https://host/volumes/root/disk.img.gz?a=b.img", SourceFormat::Gzip),
        ("https://host/volumes/root/dir/disk.img", SourceFormat::Image(Format::Raw)),
    ] {
        assert_eq!(exported_format(location, &options), Some(format), "{location}");
    }
}

#[tokio::test]
async fn a_named_format_must_be_what_is_there() {
    for (named, bytes, word) in [
        (QCOW2, vec![0; 4096], "none that is known"),
        (QCOW2, magic(0, b"KDMV"), "a VMDK image"),
        (Some(SourceFormat::Image(Format::Vmdk)), magic(0, b"QFI\xfb"), "a QCOW2 image"),
        (Some(SourceFormat::Gzip), vec![0; 10], "none that is known"),
        (Some(SourceFormat::Zstd), gzip(b"x"), "a gzip stream"),
    ] {
        let error = open_bytes("disk.img", &bytes, &with(named, None)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_read_is_named() {
    let mut fixed_vhd = vec![0; 4096];
    fixed_vhd[4096 - 512..4096 - 504].copy_from_slice(b"conectix");
    for (bytes, word) in [
        (magic(257, b"ustar"), "a tar archive"),
        (magic(0, b"conectix"), "a dynamic VHD image"),
        (fixed_vhd, "a fixed VHD image"),
        (magic(0, b"vhdxfile"), "a VHDX image"),
        (magic(64, &[0x7f, 0x10, 0xda, 0xbe]), "a VDI image"),
        (magic(0, &[0xfd, b'7', b'z', b'X', b'Z', 0]), "an xz stream"),
        (magic(0, &[0xbe, 0xba, 0xfe, 0xca]), "a seSparse VMDK image"),
    ] {
        let error = open_bytes("disk.img", &bytes, &with(None, None)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert!(error.to_string().contains(word) && error.hint().is_some(), "{error}");
    }
    for location in ["s3://bucket", "nbd+unix:///x"] {
        assert_eq!(open(location, &with(None, None)).await.unwrap_err().kind(), ErrorKind::Usage);
    }
}

#[tokio::test]
async fn compressed_files_are_streams_that_can_restart() {
    let disk = vec![7; 100_000];
    for (bytes, format) in [
        (gzip(&disk), SourceFormat::Gzip),
        (zstd::stream::encode_all(&disk[..], 1).unwrap(), SourceFormat::Zstd),
    ] {
        for named in [None, Some(format)] {
            let opened = open_bytes("disk.bin", &bytes, &with(named, Some(100_000))).await.unwrap();
            assert_eq!(opened.format, format);
            let Source::Stream(mut stream) = opened.source else { panic!("not a stream") };
            assert_eq!((stream.size(), stream.restart()), (Some(100_000), Restart::FromStart));
            let mut buffer = vec![0; 200_000];
            let chunk = stream.next_chunk(&mut buffer).unwrap();
            assert_eq!(chunk, StreamChunk::Data { len: 100_000, holes: Vec::new() });
            assert_eq!(buffer[..100_000], disk);
            assert_eq!(stream.next_chunk(&mut buffer).unwrap(), StreamChunk::End);
        }
    }
    for (inside, word) in
        [(magic(0, b"QFI\xfb"), "QCOW2"), (magic(257, b"ustar"), "tar"), (gzip(b"x"), "gzip")]
    {
        let error = open_bytes("disk.gz", &gzip(&inside), &with(None, None)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains(word) && text(&error).contains("gunzip -c"), "{}", text(&error));
    }
}

#[tokio::test]
async fn a_size_that_is_given_must_be_right() {
    let error = open_bytes("disk.img", &[0; 700], &with(None, Some(701))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    assert!(error.to_string().contains("700") && error.to_string().contains("701"), "{error}");
    open_bytes("disk.img", &[0; 700], &with(None, Some(700))).await.unwrap();
}

#[tokio::test]
async fn pipes_take_what_can_be_read_in_order() {
    let opened = open_pipe(&[1; 1000], &with(None, None)).await.unwrap();
    assert_eq!((opened.name.as_str(), opened.format), ("stdin", SourceFormat::Image(Format::Raw)));
    let Source::Stream(mut stream) = opened.source else { panic!("not a stream") };
    assert_eq!((stream.size(), stream.restart(), stream.identity()), (None, Restart::Never, None));
    let mut buffer = vec![0; 2000];
    assert_eq!(stream.next_chunk(&mut buffer).unwrap(), StreamChunk::Data { len: 1000, holes: Vec::new() });
    let opened = open_pipe(&gzip(&[1; 1000]), &with(None, None)).await.unwrap();
    assert_eq!(opened.format, SourceFormat::Gzip);
    for bytes in [magic(0, b"QFI\xfb"), magic(0, b"KDMV")] {
        let error = open_pipe(&bytes, &with(None, None)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.hint().unwrap().contains("save it to a file"), "{}", text(&error));
        open_pipe(&bytes, &with(RAW, None)).await.unwrap();
    }
    let error = open_pipe(&[], &with(None, None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    assert!(error.to_string().contains("nothing came"), "{error}");
    open_pipe(&[], &with(None, Some(0))).await.unwrap();
    assert_eq!(open("-", &with(QCOW2, None)).await.unwrap_err().kind(), ErrorKind::Refused);
}
