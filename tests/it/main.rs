//! Black-box tests of the `vmferry` binary, by topic.
//!
//! Test material (a corpus of disks, among them a bootable one) is found only through the
//! environment variable `VMFERRY_TEST_MATERIAL`. What a test lacks (the material, a tool) makes it
//! skip loudly; with `VMFERRY_STRICT=1` it fails instead.

#![expect(clippy::print_stderr, clippy::unwrap_used, reason = "a skipped test says so; a failed one panics")]

mod appliance;
#[cfg(feature = "kubevirt")]
mod completions;
mod config;
#[cfg(feature = "demo")]
mod demo;
mod documents;
mod endings;
#[cfg(feature = "kubevirt")]
mod every_command;
#[cfg(feature = "kubevirt")]
mod export;
#[cfg(feature = "kubevirt")]
mod hypersdk;
#[cfg(feature = "kubevirt")]
mod jobs;
mod judges;
mod kill;
mod man;
mod memory;
#[cfg(feature = "kubevirt")]
mod network;
#[cfg(feature = "cloud")]
mod object;
mod ova;
mod ova_directory;
mod ova_read;
mod ova_resume;
mod pack_vm;
#[cfg(feature = "kubevirt")]
mod plugin;
mod refusals;
#[cfg(feature = "kubevirt")]
mod releases;
#[cfg(feature = "kubevirt")]
mod roles;
mod server;
#[cfg(feature = "kubevirt")]
mod snapshot;
mod sources;
mod support;
#[cfg(feature = "kubevirt")]
mod template;
#[cfg(feature = "kubevirt")]
mod vm;
#[cfg(feature = "kubevirt")]
mod volume;
