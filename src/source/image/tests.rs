use std::sync::{Mutex, atomic::AtomicUsize, atomic::Ordering};

use vmferry_formats::{
    ErrorKind as FormatErrorKind,
    plan::{Codec, Step},
};

use super::*;
use crate::{error::ErrorKind, pipeline::buffer::Buffer, source::Decode};

/// Zeros of any length; counts the reads.
struct Blank {
    size: u64,
    reads: Mutex<Vec<ReadRange>>,
}

impl ByteStore for Blank {
    fn name(&self) -> String {
        "blank".into()
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
        for read in &reads {
            assert!(read.offset + to_u64(read.len) <= self.size);
            buffer[read.at..read.at + read.len].fill(0);
        }
        self.reads.lock().unwrap().extend(reads);
        Box::pin(std::future::ready(Ok(buffer)))
    }

    fn concurrency(&self) -> usize {
        1
    }
}

fn blank(size: u64) -> Arc<Blank> {
    Arc::new(Blank { size, reads: Mutex::new(Vec::new()) })
}

type Lookup = Box<dyn Fn(Range<u64>) -> Vec<Mapping> + Send>;

/// A reader that makes its answers up, and wants 512 bytes of tables before each.
struct Fake {
    info: ImageInfo,
    lookup: Lookup,
    supplied: bool,
    asked: Arc<AtomicUsize>,
    opened: usize,
}

impl FormatReader for Fake {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn plan(&mut self, guest: Range<u64>) -> vmferry_formats::Result<Step<Vec<Mapping>>> {
        assert!(guest.start < guest.end && guest.end <= self.info.virtual_size);
        if !std::mem::replace(&mut self.supplied, false) {
            return Ok(Step::Need(Need { file: 0, offset: 512 * (guest.start / CHUNK_LEN % 64), len: 512 }));
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(Step::Ready((self.lookup)(guest)))
    }

    fn supply(&mut self, need: Need, bytes: &[u8]) -> vmferry_formats::Result<()> {
        assert_eq!(need.len, bytes.len());
        self.supplied = true;
        Ok(())
    }
}

struct Opener(Option<Fake>);

impl OpenReader for Opener {
    fn step(&mut self) -> vmferry_formats::Result<OpenStep> {
        let fake = self.0.as_mut().unwrap();
        fake.opened += 1;
        Ok(match fake.opened {
            1 => OpenStep::Need(Need { file: 0, offset: 0, len: 104 }),
            2 => OpenStep::Need(Need { file: 0, offset: 1000, len: 3000 }),
            _ => OpenStep::Ready(Box::new(self.0.take().unwrap())),
        })
    }

    fn supply(&mut self, need: Need, bytes: &[u8]) -> vmferry_formats::Result<()> {
        assert_eq!(need.len, bytes.len());
        Ok(())
    }

    fn supply_extents(&mut self, _: &[u64]) -> vmferry_formats::Result<()> {
        Err(vmferry_formats::Error::new(FormatErrorKind::Unsupported, "no extents"))
    }
}

const CLUSTER: u64 = 64 << 10;

fn fake(
    virtual_size: u64,
    compression: Compression,
    lookup: impl Fn(Range<u64>) -> Vec<Mapping> + Send + 'static,
) -> Fake {
    let info = ImageInfo {
        format: Format::Qcow2,
        variant: "fake".into(),
        virtual_size,
        cluster_len: CLUSTER,
        compression,
        dirty: false,
        details: Vec::new(),
    };
    Fake { info, lookup: Box::new(lookup), supplied: false, asked: Arc::default(), opened: 0 }
}

async fn open(fake: Fake, store: Arc<Blank>) -> ImagePlan {
    ImagePlan::open_with(Box::new(Opener(Some(fake))), store, None).await.unwrap()
}

/// Clusters one by one, as `place` says for the index of each.
fn clusters(place: impl Fn(u64) -> Place + Send + 'static) -> impl Fn(Range<u64>) -> Vec<Mapping> + Send {
    move |guest| {
        let (first, last) = (guest.start / CLUSTER, guest.end.div_ceil(CLUSTER));
        (first..last.min(first + 4096))
            .map(|index| Mapping { guest: index * CLUSTER..(index + 1) * CLUSTER, place: place(index) })
            .collect()
    }
}

fn raw(offset: u64) -> Place {
    Place::Raw { file: 0, offset }
}

fn deflate(offset: u64, len: u32) -> Place {
    Place::Compressed { file: 0, offset, len, codec: Codec::Deflate }
}

#[tokio::test]
async fn neighbours_are_read_together_and_holes_left_out() {
    let reader = fake(
        2 * CHUNK_LEN,
        Compression::Deflate,
        clusters(|index| match index {
            0 | 1 | 4 => raw(CLUSTER * (index + 10)),
            2 => raw(CLUSTER * 3),
            _ => Place::Hole,
        }),
    );
    let mut plan = open(reader, blank(100 * CLUSTER)).await;
    assert_eq!(plan.decode_len(), 65_536);
    let piece = plan.piece_at(0).await.unwrap();
    let read = piece.read.unwrap();
    let at = |offset: u64, at: usize, len: usize| (0, ReadRange { offset, at, len });
    let unit = to_usize(CLUSTER);
    assert_eq!(
        read.reads,
        [at(10 * CLUSTER, 0, 2 * unit), at(3 * CLUSTER, 2 * unit, unit), at(14 * CLUSTER, 4 * unit, unit)]
    );
    assert_eq!(read.holes, [3 * unit..4 * unit, 5 * unit..to_usize(CHUNK_LEN)]);
    assert_eq!((read.encoded_len, read.decodes.len()), (0, 0));
    assert_eq!(
        plan.piece_at(CHUNK_LEN).await.unwrap(),
        Piece { guest_offset: CHUNK_LEN, len: CHUNK_LEN, read: None }
    );
    assert!(plan.piece_at(2 * CHUNK_LEN).await.is_err());
    assert!(plan.piece_at(5).await.is_err());
}

#[tokio::test]
async fn a_hole_of_terabytes_is_one_piece_for_few_questions() {
    const SIZE: u64 = (16 << 40) + 12_345;
    const DATA: u64 = (7 << 40) + 3 * CHUNK_LEN + CLUSTER;
    let reader = fake(SIZE, Compression::None, |guest| {
        let data = DATA..DATA + CLUSTER;
        if data.contains(&guest.start) {
            vec![Mapping { guest: data, place: raw(0) }]
        } else if guest.start < data.start {
            vec![Mapping { guest: guest.start..guest.end.min(data.start), place: Place::Hole }]
        } else {
            vec![Mapping { guest, place: Place::Hole }]
        }
    });
    let asked = Arc::clone(&reader.asked);
    let mut plan = open(reader, blank(8 << 30)).await;
    assert_eq!(plan.decode_len(), 1);
    let (mut at, mut pieces) = (0, Vec::new());
    while at < SIZE {
        let piece = plan.piece_at(at).await.unwrap();
        at += piece.len;
        pieces.push((piece.len, piece.read.is_some()));
    }
    let before = DATA - CLUSTER;
    assert_eq!(pieces, [(before, false), (CHUNK_LEN, true), (SIZE - before - CHUNK_LEN, false)]);
    assert!(asked.load(Ordering::Relaxed) < 60, "{asked:?}");
}

#[tokio::test]
async fn compressed_neighbours_share_their_sectors() {
    // Clusters of 1,000 bytes back to back, their lengths known in sectors only; a far one; gaps.
    let reader = fake(
        CHUNK_LEN,
        Compression::Deflate,
        clusters(|index| match index {
            0..3 => deflate(5000 + 1000 * index, 1024 + 512),
            3 => deflate(9 << 20, 700),
            4 => deflate(5000 + 3000 + 60_000, 512),
            _ => Place::Hole,
        }),
    );
    let mut plan = open(reader, blank(10 << 20)).await;
    let read = plan.piece_at(0).await.unwrap().read.unwrap();
    let unit = to_usize(CLUSTER);
    assert_eq!(
        read.encoded_reads,
        [
            (0, ReadRange { offset: 5000, at: 0, len: 63_512 }),
            (0, ReadRange { offset: 9 << 20, at: 63_512, len: 700 })
        ]
    );
    assert_eq!(read.encoded_len, 64_212);
    let decode = |index: usize, encoded: Range<usize>| Decode {
        chunk: index * unit..(index + 1) * unit,
        encoded,
        codec: Codec::Deflate,
    };
    assert_eq!(
        read.decodes,
        [
            decode(0, 0..1536),
            decode(1, 1000..2536),
            decode(2, 2000..3536),
            decode(3, 63_512..64_212),
            decode(4, 63_000..63_512)
        ]
    );
    assert_eq!(read.holes, [Range { start: 5 * unit, end: 64 * unit }]);
}

#[tokio::test]
async fn the_last_cluster_may_reach_past_the_disk() {
    let reader = fake(CLUSTER + 3, Compression::Deflate, clusters(|index| deflate(index * 512, 512)));
    let mut plan = open(reader, blank(1 << 20)).await;
    let piece = plan.piece_at(0).await.unwrap();
    assert_eq!(piece.len, CLUSTER + 3);
    assert_eq!(piece.read.unwrap().decodes[1].chunk, to_usize(CLUSTER)..2 * to_usize(CLUSTER));
}

#[tokio::test]
async fn spent_gaps_never_exceed_the_bound() {
    // Each cluster takes 2 x 64 KiB, with gaps of 512 bytes between: 8 MiB and little room.
    let reader =
        fake(CHUNK_LEN, Compression::Deflate, clusters(|index| deflate(index * (131_072 + 2048), 131_072)));
    let mut plan = open(reader, blank(10 << 20)).await;
    let read = plan.piece_at(0).await.unwrap().read.unwrap();
    assert!(read.encoded_len <= encoded::MAX_LEN);
    assert_eq!(read.encoded_len, (8 << 20) + 32 * 2048);
    assert_eq!(read.decodes.len(), 64);
    for decode in &read.decodes {
        assert_eq!(decode.encoded.len(), 131_072);
        assert!(decode.encoded.end <= read.encoded_len);
    }
    let reader = fake(CHUNK_LEN, Compression::Deflate, clusters(|index| deflate(index * 200_000, 190_000)));
    let mut plan = open(reader, blank(20 << 20)).await;
    assert_eq!(plan.piece_at(0).await.unwrap_err().kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn an_image_that_maps_one_cluster_everywhere_is_refused() {
    let reader = fake(2 << 40, Compression::Deflate, clusters(|_| raw(0)));
    let mut plan = open(reader, blank(384 << 10)).await;
    let (mut at, mut passes) = (0, 0);
    let error = loop {
        match plan.piece_at(at).await {
            Ok(piece) => at += piece.len,
            Err(error) => break error,
        }
        // A second pass counts anew.
        if at == 32 << 20 && passes < 5 {
            (at, passes) = (0, passes + 1);
        }
    };
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("again and again"), "{error}");
    assert_eq!((at, passes), (64 << 20, 5));

    let reader = fake(2 << 40, Compression::Deflate, clusters(|_| deflate(0, 512)));
    let mut plan = open(reader, blank(384 << 10)).await;
    let mut at = 0;
    while let Ok(piece) = plan.piece_at(at).await {
        at += piece.len;
    }
    assert_eq!(at / CLUSTER, (384 << 10) / 8 + 1024);
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    type Answer = fn(Range<u64>) -> Vec<Mapping>;
    let answers: [Answer; 8] = [
        |_| Vec::new(),
        |guest| vec![Mapping { guest: guest.end..guest.end + 512, place: Place::Hole }],
        |guest| vec![Mapping { guest: guest.start..guest.start, place: Place::Hole }],
        |guest| vec![Mapping { guest, place: Place::Raw { file: 0, offset: u64::MAX - 5 } }],
        |guest| vec![Mapping { guest, place: Place::Raw { file: 1, offset: 0 } }],
        |guest| vec![Mapping { guest, place: deflate(0, 512) }],
        |_| vec![Mapping { guest: 512..512 + CLUSTER, place: deflate(0, 512) }],
        |_| vec![Mapping { guest: 0..CLUSTER, place: deflate((1 << 20) - 1, 512) }],
    ];
    for (index, answer) in answers.into_iter().enumerate() {
        let mut plan = open(fake(2 * CHUNK_LEN, Compression::Deflate, answer), blank(1 << 20)).await;
        let error = plan.piece_at(0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "answer {index}: {error}");
    }
}

#[tokio::test]
async fn tables_come_in_blocks_and_close_ones_cost_one_read() {
    let reader = fake(64 * CHUNK_LEN, Compression::None, clusters(|index| raw(index % 16 * CLUSTER)));
    let store = blank((1 << 20) + 100);
    let mut plan = open(reader, Arc::clone(&store)).await;
    for chunk in 0..16 {
        plan.piece_at(chunk * CHUNK_LEN).await.unwrap();
    }
    let reads = store.reads.lock().unwrap().clone();
    assert_eq!(reads, [ReadRange { offset: 0, at: 0, len: 65_536 }]);
    // Blocks end with the file.
    let mut tables = Tables::new(Arc::clone(&store) as Arc<dyn ByteStore>);
    let bytes = tables.bytes(Need { file: 0, offset: (1 << 20) + 90, len: 10 }).await.unwrap();
    assert_eq!(bytes, [0; 10]);
    for need in [
        Need { file: 0, offset: (1 << 20) + 90, len: 11 },
        Need { file: 1, offset: 0, len: 1 },
        Need { file: 0, offset: u64::MAX, len: 1 },
        Need { file: 0, offset: 0, len: Need::MAX_LEN + 1 },
    ] {
        assert!(tables.bytes(need).await.is_err(), "{need:?}");
    }
}

#[test]
fn extents_are_opened_in_the_directory_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(dir.path().join("secret"), b"secret").unwrap();
    std::fs::write(inside.join("flat"), [0; 1024]).unwrap();
    std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
    let tables = || Tables::new(blank(10) as Arc<dyn ByteStore>);
    let open = |name: &str| extents::open(&inside, &[name.to_owned()], &mut tables());
    assert_eq!(open("flat").unwrap(), [1024]);
    for name in ["../secret", "link", "", ".", "..", "/etc/passwd", "a\0b"] {
        let error = open(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{name}: {error}");
    }
    assert_eq!(open("missing").unwrap_err().kind(), ErrorKind::Failed);
    std::fs::create_dir(inside.join("directory")).unwrap();
    assert!(open("directory").is_err());
}
