//! Disk images with random access.

/// A disk image over one or several stores.
#[derive(Debug)]
pub struct ImagePlan {}
