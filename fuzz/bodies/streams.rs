//! Streams and first bytes.

use vmferry_formats::{
    Detected, Format, HEAD_LEN, TAIL_LEN, deflate::gzip::GzipDecoder, detect as detect_format,
};

/// Most bytes that are inflated of one stream.
const MAX_INFLATED: usize = 4 << 20;

/// A gzip stream: whatever pieces it comes in, the same comes out.
pub fn gzip_stream(data: &[u8]) {
    let Some((&first, stream)) = data.split_first() else { return };
    let whole = inflate(stream, stream.len().max(1), 64 << 10);
    let pieces = inflate(stream, 1 + usize::from(first), 1 + usize::from(first.rotate_left(4)) * 37);
    if whole != Outcome::Endless && pieces != Outcome::Endless {
        assert!(whole == pieces, "the outcome depends on the pieces");
    }
}

#[derive(PartialEq)]
enum Outcome {
    /// Not valid; how much comes out before that is seen may differ.
    Damaged,
    /// More than anybody wants to see here.
    Endless,
    /// Content, and whether it is complete.
    Read(Vec<u8>, bool),
}

fn inflate(stream: &[u8], step_in: usize, step_out: usize) -> Outcome {
    let (mut decoder, mut all, mut out) = (GzipDecoder::new(), Vec::new(), vec![0xaa; step_out]);
    let mut window = 0..step_in.min(stream.len());
    loop {
        let Ok(done) = decoder.inflate(&stream[window.clone()], &mut out) else { return Outcome::Damaged };
        assert!(done.consumed <= window.len() && done.produced <= out.len());
        all.extend_from_slice(&out[..done.produced]);
        if all.len() > MAX_INFLATED {
            return Outcome::Endless;
        }
        window.start += done.consumed;
        if done.consumed == 0 && done.produced == 0 {
            // Like a caller who waits for more input before asking again.
            if window.end == stream.len() {
                return Outcome::Read(all, decoder.is_complete());
            }
            window.end = (window.end + step_in).min(stream.len());
        }
    }
}

/// First and last bytes of a file.
pub fn detect(data: &[u8]) {
    let (head, tail) = (&data[..data.len().min(HEAD_LEN)], &data[data.len().saturating_sub(TAIL_LEN)..]);
    let found = detect_format(head, tail);
    assert_ne!(found, Detected::Image(Format::Raw), "raw is never concluded from content");
    assert_eq!(found, detect_format(data, data), "only the first and the last bytes count");
}
