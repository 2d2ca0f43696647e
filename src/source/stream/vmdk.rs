//! streamOptimized VMDKs that come in order: the one place where they hook in.

use super::Input;
use crate::{
    error::{Error, Result},
    source::ByteStream,
};

/// The disk in a streamOptimized VMDK that comes through a pipe.
///
/// # Errors
/// It cannot be read in order.
#[expect(clippy::needless_pass_by_value, reason = "the parser will own it")]
pub(in crate::source) fn vmdk_stream(
    input: Box<dyn Input>,
    _size: Option<u64>,
) -> Result<Box<dyn ByteStream>> {
    Err(Error::refused(format!("{} is a VMDK, which cannot be read from a stream", input.origin().name))
        .with_hint("save it to a file and name that, or make it RAW on the way: 'qemu-img convert -O raw'"))
}
