//! Setting an export up.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vmferry_formats::{Format, WriterSpec};

use super::{Export, ExportEvent, ExportOf, ExportOptions, ExportTarget, Listener};
use crate::kubevirt::Cluster;

/// Sets an [`Export`] up. What is not said has the default of the command line.
#[must_use = "an export that is not built and run does nothing"]
pub struct ExportBuilder {
    cluster: Cluster,
    of: ExportOf,
    target: ExportTarget,
    spec: WriterSpec,
    options: ExportOptions,
    listener: Listener,
    cancel: CancellationToken,
}

impl std::fmt::Debug for ExportBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportBuilder")
            .field("of", &self.of)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl ExportBuilder {
    pub(super) fn new(cluster: Cluster, of: ExportOf, target: ExportTarget) -> Self {
        Self {
            cluster,
            of,
            target,
            spec: Format::Qcow2.into(),
            options: ExportOptions::default(),
            listener: Arc::new(|_| {}),
            cancel: CancellationToken::new(),
        }
    }

    /// Format and parameters of the outputs, instead of QCOW2.
    pub fn spec(mut self, spec: WriterSpec) -> Self {
        self.spec = spec;
        self
    }

    /// How it is done.
    pub fn options(mut self, options: ExportOptions) -> Self {
        self.options = options;
        self
    }

    /// Who is told what happens meanwhile. Called from the run itself: it must not block.
    pub fn on_event(mut self, listener: impl Fn(ExportEvent) + Send + Sync + 'static) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    /// Ends the run when it is cancelled.
    pub fn cancel_token(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// The export. Nothing is asked or made before it runs.
    pub fn build(self) -> Export {
        let Self { cluster, of, target, spec, options, listener, cancel } = self;
        Export { cluster, of, target, spec, options, listener, warnings: Arc::default(), cancel }
    }
}
