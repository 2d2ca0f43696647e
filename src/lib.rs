//! vmferry: a streaming disk-image conversion engine.

pub mod appliance;
mod conversion;
pub mod error;
#[cfg(feature = "kubevirt")]
mod export;
mod file_name;
pub mod image;
#[cfg(feature = "kubevirt")]
pub mod kubevirt;
#[cfg(feature = "cloud")]
pub mod object;
mod pack;
pub mod pipeline;
pub mod quantity;
pub mod secret;
mod sink;
pub mod source;
mod sys;
mod tls;

#[cfg(feature = "cloud")]
pub use crate::conversion::{ObjectOptions, UploadPlan};
#[cfg(feature = "kubevirt")]
pub use crate::export::{
    ApplianceOptions, ApplianceRecord, Export, ExportBuilder, ExportEvent, ExportOf, ExportOptions,
    ExportPlan, ExportReport, ExportTarget, Packaging, PlannedOutput, SourceChoice, VolumeRecord,
    check_space,
};
pub use crate::{
    conversion::{
        Conversion, ConversionBuilder, ConversionOptions, ConversionReport, ConversionSource, ResumePolicy,
        Target, TreeDigest, is_object_url,
    },
    error::{Error, ErrorKind, Result},
    pack::{
        EarlierPack, Pack, PackBuilder, PackDisk, PackEvent, PackOptions, PackPlan, PackReport, PackTarget,
        PackedDisk, PlannedDisk, Signer,
    },
};
pub use vmferry_formats as formats;

/// The example in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
