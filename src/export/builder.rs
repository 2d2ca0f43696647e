//! Setting an export up.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vmferry_formats::{Format, WriterSpec};

use super::{Export, ExportEvent, ExportOf, ExportOptions, ExportTarget};
use crate::kubevirt::Cluster;

/// Sets an [`Export`] up. What is not said has the default of the command line.
#[derive(Debug)]
#[must_use = "an export that is not built and run does nothing"]
pub struct ExportBuilder(Export);

impl ExportBuilder {
    pub(super) fn new(cluster: Cluster, of: ExportOf, target: ExportTarget) -> Self {
        Self(Export {
            cluster,
            of,
            target,
            spec: Format::Qcow2.into(),
            options: ExportOptions::default(),
            listener: Arc::new(|_| {}),
            warnings: Arc::default(),
            cancel: CancellationToken::new(),
        })
    }

    /// Format and parameters of the outputs, instead of QCOW2.
    pub fn spec(mut self, spec: WriterSpec) -> Self {
        self.0.spec = spec;
        self
    }

    /// How it is done.
    pub fn options(mut self, options: ExportOptions) -> Self {
        self.0.options = options;
        self
    }

    /// Who is told what happens meanwhile. Called from the run itself: it must not block.
    pub fn on_event(mut self, listener: impl Fn(ExportEvent) + Send + Sync + 'static) -> Self {
        self.0.listener = Arc::new(listener);
        self
    }

    /// Ends the run when it is cancelled.
    pub fn cancel_token(mut self, cancel: CancellationToken) -> Self {
        self.0.cancel = cancel;
        self
    }

    /// The export. Nothing is asked or made before it runs.
    pub fn build(self) -> Export {
        let export = self.0;
        #[cfg(feature = "cloud")]
        let export = export.telling_objects();
        export
    }
}
