//! What comes in order, and the length that others announce of it.

use vmferry_formats::{Detected, Format, HEAD_LEN, detect};

use super::{
    OpenedSource, SourceFormat, SourceOptions, blocking,
    choose::{Rest, choose, describe, may_be_raw},
};
use crate::{
    error::{Error, ErrorKind, Result},
    source::{
        ByteStream, Source,
        stream::{DiskStream, Gzip, Input, Raw, Unpack, Zstd, vmdk_stream},
    },
};

/// What a stream's length must be, as others say.
#[derive(Clone, Copy, Debug)]
pub(super) enum Announced {
    Nothing,
    Http {
        /// Length of the body.
        body: Option<u64>,
        /// Length of the disk, from the link beside.
        raw_link: Option<u64>,
    },
}

/// Opens what comes in order.
pub(super) async fn open_stream(
    mut input: Box<dyn Input>,
    options: &SourceOptions,
    announced: Announced,
) -> Result<OpenedSource> {
    let options = options.clone();
    blocking(move || {
        let name = input.origin().name.clone();
        let head = input.peek(HEAD_LEN)?;
        let rest = Rest { raw_likely: may_be_raw(&name, true), name: name.clone() };
        let format = choose(options.format, detect(&head[..head.len().min(HEAD_LEN)], &[]), &rest)?;
        let stream = match format {
            SourceFormat::Image(Format::Raw) => {
                let body = match announced {
                    Announced::Http { body, .. } => body,
                    Announced::Nothing => None,
                };
                agree(&name, options.size, body)?;
                if head.is_empty() && options.size.or(body).is_none() {
                    return Err(Error::new(
                        ErrorKind::SourceChanged,
                        format!("nothing came from {name}: it ended before its first byte"),
                    )
                    .with_hint("look at what feeds it; if the disk is empty indeed, say '--source-size 0'"));
                }
                Box::new(DiskStream::new(input, Raw, options.size.or(body)))
            }
            SourceFormat::Gzip => {
                let raw_link = match announced {
                    Announced::Http { raw_link, .. } => raw_link,
                    Announced::Nothing => None,
                };
                if matches!(announced, Announced::Http { .. }) && options.size.or(raw_link).is_none() {
                    if options.http.token_file.is_some() {
                        return Err(unproven(&name));
                    }
                    tracing::warn!(
                        source = %name,
                        "the length of the disk is not known: an export whose disk cannot be read to its end sends a \
                         shorter stream that looks complete; give the size to be sure"
                    );
                }
                open_packed(DiskStream::new(input, Gzip::default(), options.size.or(raw_link)), format)?
            }
            SourceFormat::Zstd => open_packed(DiskStream::new(input, Zstd::new(options.memory)?, options.size), format)?,
            SourceFormat::Image(Format::Vmdk) => vmdk_stream(input, options.size)?,
            SourceFormat::Image(_) => return Err(unordered(&name, format)),
        };
        let source = Source::Stream(stream);
        Ok(OpenedSource { name, format, info: None, warnings: Vec::new(), source })
    })
    .await
}

/// An export's compressed stream proves nothing about its end.
fn unproven(name: &str) -> Error {
    Error::refused(format!(
        "{name} is compressed, and there is no raw link beside it that tells how long the disk is"
    ))
    .with_hint(
        "an export whose disk cannot be read to its end sends a shorter stream that looks complete: take the raw \
         link, or state the length with --source-size",
    )
}

fn agree(name: &str, given: Option<u64>, announced: Option<u64>) -> Result<()> {
    match (given, announced) {
        (Some(given), Some(announced)) if given != announced => Err(Error::new(
            ErrorKind::SourceChanged,
            format!("{name} announces {announced} bytes instead of the {given} given"),
        )),
        _ => Ok(()),
    }
}

/// A compressed disk, unless an image or archive turns out to be inside.
fn open_packed<U: Unpack>(mut stream: DiskStream<U>, format: SourceFormat) -> Result<Box<dyn ByteStream>> {
    let name = stream.name();
    let what = match detect(stream.peek(HEAD_LEN)?, &[]) {
        Detected::Unknown => return Ok(Box::new(stream)),
        inside => describe(inside),
    };
    let tool = if format == SourceFormat::Gzip { "gunzip" } else { "unzstd" };
    Err(Error::refused(format!("{name} is {what} inside {format}, where only a RAW disk is read")).with_hint(
        format!(
            "decompress it first: '{tool} -c FILE > DISK'; if it is a RAW disk that begins so, pipe it: '{tool} -c \
             FILE | vmferry convert -f raw - OUTPUT'"
        ),
    ))
}

/// Formats that need random access are refused before anything is read.
pub(super) fn refuse_unordered(named: Option<SourceFormat>, name: &str) -> Result<()> {
    match named {
        Some(format @ SourceFormat::Image(Format::Qcow2)) => Err(unordered(name, format)),
        _ => Ok(()),
    }
}

fn unordered(name: &str, format: SourceFormat) -> Error {
    Error::refused(format!("{name} can only be read in order, and {format} needs random access"))
        .with_hint("save it to a file and name that; a stream may be RAW, gzip or zstd")
}
