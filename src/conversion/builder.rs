//! Setting a conversion up.

use tokio_util::sync::CancellationToken;
use vmferry_formats::{Format, WriterSpec, digest::Algorithm};

use super::{Conversion, ConversionOptions, ConversionSource, ResumePolicy, Target};
use crate::{
    error::{Error, Result},
    pipeline::progress::Progress,
    source::SourceOptions,
};

/// Sets a [`Conversion`] up. What is not said has the default of the command line.
#[derive(Clone, Debug)]
#[must_use = "a conversion that is not built and run does nothing"]
pub struct ConversionBuilder {
    source: ConversionSource,
    target: Target,
    spec: Option<WriterSpec>,
    options: ConversionOptions,
    cancel: CancellationToken,
}

impl ConversionBuilder {
    pub(super) fn new(source: ConversionSource, target: Target) -> Self {
        let (options, cancel) = (ConversionOptions::default(), CancellationToken::new());
        Self { source, target, spec: None, options, cancel }
    }

    /// Format and parameters of the output. Without this the extension of its name decides, with the
    /// format's defaults.
    pub fn spec(mut self, spec: WriterSpec) -> Self {
        self.spec = Some(spec);
        self
    }

    /// How the source is read.
    pub fn source_options(mut self, source: SourceOptions) -> Self {
        self.options.source = source;
        self
    }

    /// Hash function of the digest tree; `None` leaves the manifest out too.
    pub fn digest(mut self, algorithm: Option<Algorithm>) -> Self {
        self.options.digest = algorithm;
        self
    }

    /// CPU workers, instead of as many as the process may use cores.
    pub fn workers(mut self, workers: usize) -> Self {
        self.options.workers = Some(workers);
        self
    }

    /// Resident memory of the process in bytes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.options.memory = bytes;
        self
    }

    /// Whether the output is read back from the disk and compared.
    pub fn verify(mut self, verify: bool) -> Self {
        self.options.verify = verify;
        self
    }

    /// Whether an existing output may be overwritten; block devices need it.
    pub fn force(mut self, force: bool) -> Self {
        self.options.force = force;
        self
    }

    /// What to do with a partial output of an earlier run.
    pub fn resume(mut self, policy: ResumePolicy) -> Self {
        self.options.resume = policy;
        self
    }

    /// All options at once, in place of those set before.
    pub fn options(mut self, options: ConversionOptions) -> Self {
        self.options = options;
        self
    }

    /// Ends the run with a resumable partial when it is cancelled.
    pub fn cancel_token(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// The conversion. Nothing is opened or created before it runs.
    ///
    /// # Errors
    /// No format was named and the output's extension tells none.
    pub fn build(self) -> Result<Conversion> {
        let spec = match self.spec {
            Some(spec) => spec,
            None => spec_by_name(&self.target)?,
        };
        Ok(Conversion {
            source: self.source,
            target: self.target,
            spec,
            options: self.options,
            progress: Progress::default(),
            cancel: self.cancel,
            expected: None,
        })
    }
}

fn spec_by_name(target: &Target) -> Result<WriterSpec> {
    let format = match target {
        Target::Path(path) => {
            path.extension().and_then(|extension| extension.to_str()).and_then(Format::from_extension)
        }
        Target::Object(url) => {
            url.rsplit_once('.').and_then(|(_, extension)| Format::from_extension(extension))
        }
        Target::Stdout => None,
    };
    format.map(WriterSpec::from).ok_or_else(|| {
        Error::usage("the format of the output is not known")
            .with_hint("name it, or an output that ends in .raw, .img, .qcow2 or .vmdk")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_decides_unless_a_format_is_named() {
        let format = |builder: ConversionBuilder| builder.build().map(|conversion| conversion.spec.format());
        assert_eq!(format(Conversion::builder("a.raw", "b.qcow2")).unwrap(), Format::Qcow2);
        assert_eq!(format(Conversion::builder("a.raw", "b.IMG")).unwrap(), Format::Raw);
        let named = Conversion::builder("a.raw", "b.img").spec(Format::Vmdk.into());
        assert_eq!(format(named).unwrap(), Format::Vmdk);
        for unknown in ["b", "b.iso"] {
            assert!(format(Conversion::builder("a.raw", unknown)).is_err(), "{unknown}");
        }
        assert!(format(Conversion::builder("a.raw", Target::Stdout)).is_err());
    }
}
