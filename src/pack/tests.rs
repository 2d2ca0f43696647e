//! Archives that nobody wants to write in a test, and what a run leaves for whoever makes descriptors.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use vmferry_formats::{WriterSpec, plan::Slot, raw::RawOptions, testkit::Rng};

use super::{container::OvaContainer, *};
use crate::{
    conversion::job::Means,
    pipeline::{
        buffer::Buffer,
        converter::{Converter, OpenDisk},
        hash::FileHash,
        layout::Layout,
        output::{CommitPolicy, Output, OutputState},
        stages::Tree,
    },
    sink::{DataSync, Sink},
    source::{BoxFuture, ByteStore, RawPlan, ReadRange, Source, SourceIdentity},
};

/// A disk that repeats a pattern of 4 MiB.
struct Pattern {
    pattern: Vec<u8>,
    size: u64,
}

impl ByteStore for Pattern {
    fn name(&self) -> String {
        "a pattern".into()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn identity(&self) -> Option<SourceIdentity> {
        None
    }

    fn read(
        self: Arc<Self>,
        reads: Vec<ReadRange>,
        mut buffer: Buffer,
    ) -> BoxFuture<'static, Result<Buffer>> {
        for read in reads {
            let start = usize::try_from(read.offset).unwrap() % self.pattern.len();
            buffer[read.at..read.at + read.len].copy_from_slice(&self.pattern[start..start + read.len]);
        }
        Box::pin(std::future::ready(Ok(buffer)))
    }

    fn concurrency(&self) -> usize {
        2
    }
}

/// Counts what it is given and keeps what is small.
#[derive(Clone, Default)]
struct CountingSink {
    shared: Arc<Mutex<Counted>>,
}

#[derive(Default)]
struct Counted {
    position: u64,
    small: Vec<(u64, Vec<u8>)>,
    slots: HashMap<Slot, (u64, u64)>,
    finished: bool,
}

impl Counted {
    /// What stands at `at`, of what was small.
    fn at(&self, at: u64) -> &[u8] {
        &self.small.iter().find(|(start, _)| *start == at).expect("something small").1
    }
}

impl Sink for CountingSink {
    fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        let mut counted = self.shared.lock().unwrap();
        for piece in pieces {
            let at = counted.position;
            counted.position += piece.len() as u64;
            if piece.len() < 4096 {
                counted.small.push((at, piece.to_vec()));
            }
        }
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.shared.lock().unwrap().position += len;
        Ok(())
    }

    fn reserve(&mut self, slot: Slot, len: u64) -> Result<()> {
        let mut counted = self.shared.lock().unwrap();
        let start = counted.position;
        assert!(counted.slots.insert(slot, (start, len)).is_none(), "{slot:?} twice");
        counted.position += len;
        Ok(())
    }

    fn fill(&mut self, slot: Slot, at: u64, bytes: &Bytes) -> Result<()> {
        let mut counted = self.shared.lock().unwrap();
        let (start, len) = counted.slots[&slot];
        assert!(at + bytes.len() as u64 <= len);
        counted.small.push((start + at, bytes.to_vec()));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.shared.lock().unwrap().finished = true;
        Ok(())
    }

    fn data_sync(&self) -> Option<Arc<dyn DataSync>> {
        None
    }
}

fn packed(sizes: &[u64], pattern: &[u8]) -> CountingSink {
    let text: String = (0..sizes.len())
        .map(|index| format!("<vmferry-size-{index:05}> <vmferry-used-{index:05}>\n"))
        .collect();
    let names = Names {
        descriptor: "vm.ovf".into(),
        disks: (0..sizes.len()).map(|index| format!("disk{index}.raw")).collect(),
        manifest: "vm.mf".into(),
        certificate: "vm.cert".into(),
    };
    let tail = container::Tail::new(names.clone(), ManifestHash::Sha256, None);
    let container = OvaContainer::new(names, Template::new(text).unwrap(), 0, tail).unwrap();
    let spec = WriterSpec::Raw(RawOptions {});
    let (options, progress, cancel) =
        (ConversionOptions { digest: None, ..Default::default() }, Progress::default(), Default::default());
    let means = Means { options: &options, progress: &progress, cancel: &cancel };
    let sink = CountingSink::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let policy = CommitPolicy { bytes: 1 << 30, interval: Duration::from_secs(60) };
        let state = OutputState::default();
        let output = Output::start(Box::new(sink.clone()), state, None, policy, progress.clone()).unwrap();
        let mut converter = Converter::new(Layout::new(Some(Box::new(container))), output);
        converter.begin().await.unwrap();
        for (index, &size) in (0..).zip(sizes) {
            let store = Pattern { pattern: pattern.to_vec(), size };
            let mut source = Source::Random(Box::new(RawPlan::new(Arc::new(store))));
            let writer = spec.writer(Some(size), "disk").unwrap();
            let engine = means.engine(&source, Some(&*writer)).unwrap();
            let disk = OpenDisk {
                index: Some(index),
                tree: Tree::default(),
                is_raw: true,
                hash: Some(FileHash::Sha256),
                ..OpenDisk::default()
            };
            converter.begin_disk(disk, writer).await.unwrap();
            assert_eq!(engine.run(&mut source, 0, 0, &mut converter).await.unwrap(), size);
            let end = converter.end_disk(size).await.unwrap();
            assert_eq!((end.len, end.out % 512), (size, 0));
        }
        converter.finish().await.unwrap();
        let (_, written) = converter.end(true).await;
        assert_eq!(written.unwrap(), sink.shared.lock().unwrap().position);
    });
    sink
}

#[test]
fn a_disk_above_eight_gib_has_a_header_and_a_hash_like_any_other() {
    let mut pattern = vec![0; 4 << 20];
    Rng::new(8).fill(&mut pattern);
    let sizes = [1000, (8 << 30) + 512, 5 << 20];
    let expected = std::thread::scope(|scope| {
        let hash = |size: u64| {
            let pattern = &pattern;
            scope.spawn(move || {
                let (mut hash, mut left) = (Sha256::default(), usize::try_from(size).unwrap());
                while left > 0 {
                    let step = left.min(pattern.len());
                    hash.update(&pattern[..step]);
                    left -= step;
                }
                hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            })
        };
        let hashes = sizes.map(hash);
        hashes.map(|hash| hash.join().unwrap())
    });
    let sink = packed(&sizes, &pattern);
    let counted = sink.shared.lock().unwrap();
    assert!(counted.finished);
    // Where everything must be, counted by hand.
    let mut at = 512 + (3 * 42_u64).next_multiple_of(512);
    for (index, size) in sizes.into_iter().enumerate() {
        let header = counted.at(at);
        assert!(header.starts_with(format!("disk{index}.raw\0").as_bytes()));
        match index {
            1 => assert_eq!(header[124..136], [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 2, 0]),
            _ => assert_eq!(header[124..136], *format!("{size:011o}\0").as_bytes()),
        }
        at += 512 + size.next_multiple_of(512);
    }
    let manifest = std::str::from_utf8(counted.at(at + 512)).unwrap();
    assert_eq!(manifest.lines().count(), 4);
    for (index, (line, hash)) in manifest.lines().skip(1).zip(expected).enumerate() {
        assert_eq!(line, format!("SHA256(disk{index}.raw)= {hash}"));
    }
    let descriptor = std::str::from_utf8(counted.at(512)).unwrap();
    for (line, size) in descriptor.lines().zip(sizes) {
        assert_eq!(line, format!("{size} {size}"));
    }
    assert_eq!(counted.position, at + 512 + (manifest.len() as u64).next_multiple_of(512) + 1024);
}

/// A descriptor of disks of one size, in files with these names.
fn envelope(names: &[&str], capacity: u64) -> String {
    let files = names.iter().enumerate().map(|(index, name)| {
        format!("ovf:id='{name}' ovf:href='{name}' ovf:size='<vmferry-size-{index:05}>'")
    });
    let disks = names
        .iter()
        .map(|name| format!("ovf:diskId='d-{name}' ovf:fileRef='{name}' ovf:capacity='{capacity}'"));
    let (files, disks): (Vec<String>, Vec<String>) = (files.collect(), disks.collect());
    let [files, disks] = [&files, &disks].map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
    crate::source::sample::descriptor(&files, &disks, "")
}

#[tokio::test]
async fn a_source_that_changes_before_its_turn_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["a.raw", "b.raw"] {
        std::fs::write(path(name), vec![7; 1 << 20]).unwrap();
    }
    for target in [PackTarget::Archive(path("vm.ova")), PackTarget::Directory(path("vm"))] {
        let other = path("b.raw");
        let names = ["vm-disk1.vmdk", "vm-disk2.vmdk"];
        let pack = Pack::builder(envelope(&names, 1 << 20), target)
            .disk(PackDisk::new(path("a.raw").to_str().unwrap()))
            .disk(PackDisk::new(other.to_str().unwrap()))
            .on_event(move |event| {
                if matches!(event, PackEvent::Begun { number: 1, .. }) {
                    std::fs::remove_file(&other).unwrap();
                    std::fs::write(&other, vec![8; 1 << 20]).unwrap();
                }
            });
        let error = pack.build().unwrap().run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
        assert!(error.to_string().contains("b.raw"), "{error}");
    }
}

#[tokio::test]
async fn a_capacity_that_is_not_that_of_the_disk_is_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("a.raw"), vec![7; 1000]).unwrap();
    for target in [PackTarget::Archive(path("vm.ova")), PackTarget::Directory(path("vm"))] {
        let build = |capacity| {
            Pack::builder(envelope(&["vm-disk1.vmdk"], capacity), target.clone())
                .disk(PackDisk::new(path("a.raw").to_str().unwrap()))
                .build()
                .unwrap()
        };
        for capacity in [512, 1000, 1536] {
            let error = build(capacity).run().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            assert!(error.to_string().contains("1024"), "{error}");
            assert!(!target.path().exists());
        }
        build(1024).run().await.unwrap();
    }
}

#[tokio::test]
async fn an_interrupted_run_tells_what_it_wrote_and_goes_on_with_that() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut disk = vec![0; 24 << 20];
    Rng::new(9).fill(&mut disk);
    std::fs::write(path("a.raw"), &disk).unwrap();
    for target in [PackTarget::Archive(path("vm.ova")), PackTarget::Directory(path("vm"))] {
        let text = &envelope(&["a.vmdk"], 24 << 20);
        let build = |text: &str, mtime| {
            let options = PackOptions { mtime, ..PackOptions::default() };
            let disk = PackDisk::new(path("a.raw").to_str().unwrap()).named("a.vmdk");
            Pack::builder(text, target.clone()).disk(disk).options(options)
        };
        assert_eq!(Pack::earlier(&target, None, &ConversionOptions::default()).unwrap(), None);
        // Cancelled when its disk begins.
        let cancel = CancellationToken::new();
        let (begun, token) = (Arc::new(Mutex::new(Vec::new())), cancel.clone());
        let told = Arc::clone(&begun);
        let pack = build(text, 7).cancel_token(cancel).on_event(move |event| {
            if let PackEvent::Begun { number, count, name, .. } = event {
                told.lock().unwrap().push((number, count, name));
                token.cancel();
            }
        });
        let error = pack.build().unwrap().run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        assert_eq!(*begun.lock().unwrap(), [(1, 1, "a.vmdk".to_owned())]);
        let earlier = Pack::earlier(&target, None, &ConversionOptions::default()).unwrap().unwrap();
        let expected = EarlierPack {
            descriptor: text.clone(),
            base_name: "vm".into(),
            file_names: vec!["a.vmdk".into()],
            mtime: 7,
        };
        assert_eq!(earlier, expected);
        if matches!(target, PackTarget::Directory(_)) {
            let error = build(&text.replace("Info", "Info "), 7).build().unwrap().run().await.unwrap_err();
            assert_eq!(error.to_string(), "the interrupted run wrote with another descriptor");
        }
        let report = build(&earlier.descriptor, earlier.mtime).build().unwrap().run().await.unwrap();
        assert_eq!((report.disks[0].virtual_size, report.disks[0].file.as_str()), (24 << 20, "a.vmdk"));
        assert_eq!(Pack::earlier(&target, None, &ConversionOptions::default()).unwrap(), None);
    }
}

#[test]
fn given_seeds_make_ids_that_differ_between_disks() {
    let spec = WriterSpec::Vmdk(vmferry_formats::vmdk::VmdkOptions {
        id_seed: Some("seed".into()),
        ..Default::default()
    });
    let pack =
        Pack::builder(envelope(&["vm-disk1.vmdk", "vm-disk2.vmdk"], 0), PackTarget::Archive("vm.ova".into()))
            .disk(PackDisk::new("a"))
            .disk(PackDisk::new("b"))
            .spec(spec.clone())
            .build()
            .unwrap();
    assert_eq!(pack.disk_spec(0), spec);
    assert!(pack.disk_spec(1).to_string().contains("seed/1"), "{}", pack.disk_spec(1));
}

#[test]
fn no_key_is_shown() {
    let error = Signer::from_pem(b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", b"");
    assert!(!format!("{:?}", error.unwrap_err()).contains("c2VjcmV0"));
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let signer = Signer::from_pem(key.serialize_pem().as_bytes(), certificate.pem().as_bytes()).unwrap();
    assert_eq!(format!("{signer:?}"), format!("Signer {{ certificate: {:?}, .. }}", signer.fingerprint()));
    let other = rcgen::KeyPair::generate().unwrap();
    assert!(Signer::from_pem(other.serialize_pem().as_bytes(), certificate.pem().as_bytes()).is_err());
}
