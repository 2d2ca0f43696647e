//! The engine's parts, one by one, on disks that are really written.

#![expect(clippy::unwrap_used, reason = "a bench that fails may panic")]

use std::{hint::black_box, path::Path};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vmferry::{
    Conversion,
    formats::{
        Compression, Format, WriterSpec,
        chunk::LEAF_LEN,
        deflate::Level,
        digest::{Algorithm, ChunkHasher},
        qcow2::Qcow2Options,
        testkit::Rng,
        vmdk::VmdkOptions,
        zero::is_zero,
    },
};

const LEN: usize = 4 << 20;

/// A chunk of which so many percent of the 64 KiB units are zero, the rest half text, half noise.
fn chunk(zero_percent: u64) -> Vec<u8> {
    let mut rng = Rng::new(zero_percent);
    let mut bytes = vec![0; LEN];
    rng.fill(&mut bytes);
    for unit in bytes.chunks_mut(LEAF_LEN) {
        if rng.below(100) < zero_percent {
            unit.fill(0);
        } else {
            unit.iter_mut()
                .skip(LEAF_LEN / 2)
                .for_each(|byte| *byte = b"etaoin shrdlu.\n"[usize::from(*byte % 15)]);
        }
    }
    bytes
}

fn zeros(c: &mut Criterion) {
    let mut group = c.benchmark_group("zero");
    group.throughput(Throughput::Bytes(LEN as u64));
    let bytes = chunk(100);
    group.bench_function("ours/4MiB", |b| b.iter(|| is_zero(black_box(&bytes))));
    group.bench_function("naive/4MiB", |b| b.iter(|| black_box(&bytes).iter().all(|&byte| byte == 0)));
    group.finish();
}

fn digests(c: &mut Criterion) {
    let mut group = c.benchmark_group("digest");
    group.throughput(Throughput::Bytes(LEN as u64));
    let bytes = chunk(0);
    let leaves: Vec<&[u8]> = bytes.chunks(LEAF_LEN).collect();
    for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
        let hasher = ChunkHasher::new(algorithm);
        let id = |how| BenchmarkId::new(format!("{algorithm}-{how}"), "4MiB");
        group.bench_function(id("leaf-by-leaf"), |b| {
            b.iter(|| leaves.iter().map(|leaf| hasher.leaf(leaf)).collect::<Vec<_>>());
        });
        group.bench_function(id("four-at-a-time"), |b| {
            b.iter(|| leaves.chunks(4).flat_map(|leaves| hasher.leaves(leaves)).collect::<Vec<_>>());
        });
    }
    group.finish();
}

fn encoders(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Bytes(LEN as u64));
    let bytes = chunk(0);
    let qcow2 = |compression| {
        WriterSpec::Qcow2(Qcow2Options { compression, level: Level::Default, ..Qcow2Options::default() })
    };
    for (name, spec) in [
        ("qcow2-deflate", qcow2(Compression::Deflate)),
        ("qcow2-zstd", qcow2(Compression::Zstd)),
        ("vmdk", WriterSpec::Vmdk(VmdkOptions::default())),
    ] {
        let writer = spec.writer(Some(LEN as u64), "disk").unwrap();
        let (unit_len, mut encoder) = (writer.unit_len(), writer.encoder().unwrap().unwrap());
        let mut out = vec![0; encoder.max_encoded_len()];
        group.bench_function(BenchmarkId::new(name, "4MiB"), |b| {
            b.iter(|| {
                for (index, unit) in bytes.chunks(unit_len).enumerate() {
                    black_box(encoder.encode((index * unit_len) as u64, unit, &mut out).unwrap());
                }
            });
        });
    }
    group.finish();
}

fn pipeline(c: &mut Criterion) {
    let in_memory = Path::new("/dev/shm");
    let directory =
        tempfile::tempdir_in(if in_memory.is_dir() { in_memory } else { Path::new("/tmp") }).unwrap();
    let disk = directory.path().join("disk.raw");
    std::fs::write(&disk, [chunk(0), chunk(50), chunk(100)].concat().repeat(8)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Bytes(24 * LEN as u64)).sample_size(10);
    for format in [Format::Raw, Format::Qcow2, Format::Vmdk] {
        let output = directory.path().join(format!("out.{format}"));
        group.bench_function(BenchmarkId::new(format!("raw-{format}"), "96MiB"), |b| {
            b.iter(|| {
                let conversion = Conversion::builder(disk.to_str().unwrap(), output.as_path())
                    .spec(WriterSpec::from(format))
                    .force(true)
                    .build()
                    .unwrap();
                runtime.block_on(conversion.run()).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, zeros, digests, encoders, pipeline);
criterion_main!(benches);
