//! A sink that keeps nothing: it hashes the files of an archive and follows the VMDKs among them,
//! as the archive's bytes come by.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use vmferry_formats::{
    Error as FormatError, ReaderPolicy,
    ova::SumAlgorithm,
    plan::Slot,
    vmdk::{StreamParser, StreamStep},
    zero::is_zero,
};

use crate::{
    error::{Error, Result},
    sink::{DataSync, Sink},
};

/// A hash being computed.
pub(super) struct Hash(Context);

impl Hash {
    /// A hash by `algorithm`; `None` where that is not supported any more.
    pub(super) fn new(algorithm: SumAlgorithm) -> Option<Self> {
        let algorithm = match algorithm {
            SumAlgorithm::Md5 => return None,
            SumAlgorithm::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
            SumAlgorithm::Sha256 => &SHA256,
            SumAlgorithm::Sha512 => &SHA512,
        };
        Some(Self(Context::new(algorithm)))
    }
}

/// A range of the bytes that come by.
pub(super) struct Body {
    range: Range<u64>,
    /// The file that they are; `None` for headers.
    name: Option<String>,
    hash: Option<Hash>,
    stream: Option<StreamCheck>,
}

impl Body {
    /// The bytes of the file `name`, which may be a VMDK.
    pub(super) fn new(range: Range<u64>, name: &str, hash: Option<Hash>, is_disk: bool) -> Self {
        let stream = is_disk.then(StreamCheck::new);
        Self { range, name: Some(name.to_owned()), hash, stream }
    }

    /// Bytes that do not matter.
    pub(super) fn ignored(range: Range<u64>) -> Self {
        Self { range, name: None, hash: None, stream: None }
    }

    fn take(&mut self, bytes: &[u8]) {
        if let Some(Hash(context)) = &mut self.hash {
            context.update(bytes);
        }
        if let Some(stream) = &mut self.stream {
            stream.take(bytes);
        }
    }
}

/// What was found of a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its hash, if one was asked for.
    pub(super) hash: Option<Vec<u8>>,
    /// Whether a disk's file is a proper VMDK stream.
    pub(super) stream: Option<Result<(), FormatError>>,
}

/// What is left when all bytes have come by.
#[derive(Debug, Default)]
pub(super) struct End {
    /// By the name of the file.
    pub(super) found: HashMap<String, Found>,
    /// The first byte that belongs to nothing and is not zero.
    pub(super) stray: Option<u64>,
}

/// The sink.
pub(super) struct Bodies {
    position: u64,
    /// In order, without overlaps.
    bodies: Vec<Body>,
    next: usize,
    stray: Option<u64>,
    end: Arc<Mutex<Option<End>>>,
}

impl Bodies {
    /// A sink for `bodies`, which are in order; in the end there is something in `end`.
    pub(super) fn new(bodies: Vec<Body>, end: Arc<Mutex<Option<End>>>) -> Self {
        Self { position: 0, bodies, next: 0, stray: None, end }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            while self.bodies.get(self.next).is_some_and(|body| body.range.end <= self.position) {
                self.next += 1;
            }
            let body = self.bodies.get_mut(self.next);
            let (start, end) =
                body.as_ref().map_or((u64::MAX, u64::MAX), |body| (body.range.start, body.range.end));
            let is_inside = start <= self.position;
            let room = if is_inside { end } else { start } - self.position;
            let len = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            let (now, rest) = bytes.split_at(len);
            match body {
                Some(body) if is_inside => body.take(now),
                _ if self.stray.is_none() && !is_zero(now) => {
                    let at = now.iter().position(|&byte| byte != 0).unwrap_or_default();
                    self.stray = Some(self.position + at as u64);
                }
                _ => {}
            }
            self.position += len as u64;
            bytes = rest;
        }
    }
}

impl Sink for Bodies {
    fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        pieces.iter().for_each(|piece| self.take(piece));
        Ok(())
    }

    fn skip(&mut self, mut len: u64) -> Result<()> {
        while len > 0 {
            let step = usize::try_from(len).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
            self.take(&ZEROS[..step]);
            len -= step as u64;
        }
        Ok(())
    }

    fn reserve(&mut self, _slot: Slot, _len: u64) -> Result<()> {
        Err(Error::failed("nothing is reserved where nothing is kept"))
    }

    fn fill(&mut self, _slot: Slot, _at: u64, _bytes: &Bytes) -> Result<()> {
        Err(Error::failed("nothing is filled where nothing is kept"))
    }

    fn finish(&mut self) -> Result<()> {
        let mut found = HashMap::new();
        for body in std::mem::take(&mut self.bodies) {
            let Some(name) = body.name else { continue };
            let hash = body.hash.map(|Hash(context)| context.finish().as_ref().to_vec());
            found.insert(name, Found { hash, stream: body.stream.map(StreamCheck::finish) });
        }
        let end = End { found, stray: self.stray };
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        Ok(())
    }

    fn data_sync(&self) -> Option<Arc<dyn DataSync>> {
        None
    }
}

/// Follows a VMDK stream from grain to grain, without inflating any: do tables and grains agree, and
/// does it end?
struct StreamCheck {
    parser: StreamParser,
    /// Bytes that the parser wants more of.
    at_hand: Vec<u8>,
    failed: Option<FormatError>,
    ended: bool,
}

impl StreamCheck {
    fn new() -> Self {
        let parser = StreamParser::new(&ReaderPolicy::default());
        Self { parser, at_hand: Vec::new(), failed: None, ended: false }
    }

    fn take(&mut self, bytes: &[u8]) {
        // Pieces, so that what is at hand stays short: a grain and one of these.
        for piece in bytes.chunks(ZEROS.len()) {
            if self.failed.is_some() {
                return;
            }
            self.at_hand.extend_from_slice(piece);
            self.follow(false);
        }
    }

    fn follow(&mut self, at_end: bool) {
        let mut done = 0;
        while let Some(rest) = self.at_hand.get(done..) {
            done += match self.parser.step(rest, at_end) {
                Ok(StreamStep::Drop(len)) => len,
                Ok(StreamStep::Grain(grain)) => grain.encoded_len,
                Ok(StreamStep::Need(_)) => break,
                Ok(StreamStep::End) => {
                    self.ended = true;
                    break;
                }
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            };
        }
        let done = done.min(self.at_hand.len());
        self.at_hand.drain(..done);
    }

    fn finish(mut self) -> Result<(), FormatError> {
        if self.failed.is_none() {
            self.follow(true);
        }
        match self.failed {
            Some(error) => Err(error),
            None if self.ended => Ok(()),
            None => Err(FormatError::truncated("the stream has no end")),
        }
    }
}

/// What holes are hashed from.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

#[cfg(test)]
mod tests {
    use vmferry_formats::{
        Format,
        testkit::{disk, write_image},
    };

    use super::*;

    fn sha256(bytes: &[u8]) -> Vec<u8> {
        ring::digest::digest(&SHA256, bytes).as_ref().to_vec()
    }

    /// Sends `bytes` in pieces of `step` to `bodies`, zeros as holes.
    fn send(bytes: &[u8], step: usize, bodies: Vec<Body>) -> End {
        let end = Arc::new(Mutex::new(None));
        let mut sink = Bodies::new(bodies, Arc::clone(&end));
        for piece in bytes.chunks(step) {
            if is_zero(piece) {
                sink.skip(piece.len() as u64).unwrap();
            } else {
                sink.append(&[Bytes::copy_from_slice(piece)]).unwrap();
            }
        }
        sink.finish().unwrap();
        let end = end.lock().unwrap().take();
        end.unwrap()
    }

    #[test]
    fn each_body_has_its_own_hash_whatever_the_pieces() {
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let mut with_holes = bytes.clone();
        with_holes[10_000..250_000].fill(0);
        for (bytes, step) in
            [(&bytes, 1), (&bytes, 4096), (&with_holes, 7), (&with_holes, 1000), (&bytes, 1 << 20)]
        {
            let hash = || Hash::new(SumAlgorithm::Sha256);
            let bodies = vec![
                Body::ignored(0..100),
                Body::new(100..20_000, "a", hash(), false),
                Body::new(20_000..20_000, "empty", hash(), false),
                Body::new(20_000..299_000, "b", hash(), false),
                Body::new(299_000..299_001, "c", None, false),
            ];
            let end = send(bytes, step, bodies);
            let of = |name: &str| end.found[name].hash.clone();
            assert_eq!(of("a"), Some(sha256(&bytes[100..20_000])));
            assert_eq!(of("b"), Some(sha256(&bytes[20_000..299_000])));
            assert_eq!(of("empty"), Some(sha256(&[])));
            assert_eq!((of("c"), end.found.len()), (None, 4));
            assert_eq!(end.stray, Some(299_001));
        }
    }

    #[test]
    fn streams_are_followed_to_their_end() {
        let image = write_image(&Format::Vmdk.into(), &disk(3, 5 << 20), "x.vmdk", true).unwrap();
        let check = |image: &[u8], step| {
            let body = Body::new(0..image.len() as u64, "x", None, true);
            send(image, step, vec![body]).found.remove("x").unwrap().stream.unwrap()
        };
        for step in [512, 100_000, 1 << 20] {
            check(&image, step).unwrap();
        }
        assert!(check(&image[..image.len() - 512], 4096).is_err());
        assert!(check(&[&image[..], &[0; 512]].concat(), 4096).is_err());
        // An entry of the last grain table.
        let mut wrong = image.clone();
        let footer = wrong.len() - 1536;
        wrong[footer - 512 - 512 - 2048] ^= 1;
        assert!(check(&wrong, 4096).is_err());
    }
}
