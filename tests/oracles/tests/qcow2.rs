//! QCOW2 images that we write, read by other Rust implementations: imago and qcow2-rs. Both read
//! version 3 without zstd and extended L2.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use imago::{FormatAccess, FormatDriverBuilder as _, PermissiveImplicitOpenGate, file::File, qcow2::Qcow2};
use qcow2_rs::{dev::Qcow2DevParams, helpers::Qcow2IoBuf, utils::qcow2_setup_dev_tokio};
use vmferry_formats::{
    Compression, WriterSpec,
    qcow2::Qcow2Options,
    testkit::{disk, write_image},
};

/// Disks of several sizes in every variant that the oracles read, in files.
fn each_image(mut judge: impl FnMut(&Path, &[u8], &str)) {
    let directory = tempfile::tempdir().unwrap();
    // Both read whole sectors only.
    for (seed, size) in [(1, 512), (2, 65_536), (3, 3 << 20), (4, (9 << 20) + 1536)] {
        let disk = disk(seed, size);
        for (cluster_bits, compression) in [
            (16, Compression::None),
            (16, Compression::Deflate),
            (12, Compression::None),
            (12, Compression::Deflate),
            (21, Compression::Deflate),
        ] {
            let options = Qcow2Options { cluster_bits, compression, ..Qcow2Options::default() };
            let image = write_image(&WriterSpec::Qcow2(options), &disk, "disk.qcow2", true).unwrap();
            let path = directory.path().join("disk.qcow2");
            std::fs::write(&path, image).unwrap();
            judge(&path, &disk, &format!("{size} bytes, clusters of 2^{cluster_bits}, {compression}"));
        }
    }
}

#[test]
fn imago_reads_what_we_write() {
    each_image(|path, disk, what| {
        let image = Qcow2::<File>::builder_path(path).open(PermissiveImplicitOpenGate::default()).unwrap();
        let image = FormatAccess::new(image);
        assert_eq!(image.size(), disk.len() as u64, "{what}");
        let mut read = vec![0xaa; disk.len()];
        image.read(&mut read[..], 0).unwrap();
        assert!(read == disk, "{what}");
    });
}

#[test]
fn qcow2_rs_reads_what_we_write_and_finds_every_cluster_accounted_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    each_image(|path, disk, what| {
        runtime.block_on(async {
            let params = Qcow2DevParams::new(9, None, None, true, false);
            let image = qcow2_setup_dev_tokio(path, &params).await.unwrap();
            assert_eq!(image.info.virtual_size(), disk.len() as u64, "{what}");
            // It looks at each entry of a refcount block; at 2 MiB clusters these are a million.
            if image.info.cluster_bits() < 21 {
                image.check().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            }
            let mut buffer = Qcow2IoBuf::<u8>::new(2 << 20);
            for (index, expected) in disk.chunks(buffer.len()).enumerate() {
                let at = index * buffer.len();
                let read = image.read_at(&mut buffer[..expected.len()], at as u64).await.unwrap();
                assert!(read == expected.len() && buffer[..read] == *expected, "{what}, byte {at}");
            }
        });
    });
}
