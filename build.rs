//! Tells the binary which commit it was built from, for `--version`.
//!
//! `VMFERRY_COMMIT` decides if it is set (builds from a tarball or without git); else git is asked
//! for the commit of this very checkout; else it is `unknown`. Nothing here can fail a build.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=VMFERRY_COMMIT");
    let commit = from_environment().or_else(from_git).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=VMFERRY_BUILD_COMMIT={commit}");
}

fn from_environment() -> Option<String> {
    word(&env::var("VMFERRY_COMMIT").ok()?)
}

fn from_git() -> Option<String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    // A tarball unpacked inside another repository must not report that repository's commit.
    // `.git` is a file in linked work trees.
    if !root.join(".git").exists() {
        return None;
    }
    let commit = word(&git(&root, &["rev-parse", "--short=12", "HEAD"])?)?;

    // What a commit, a checkout or a rebase changes. A path that does not exist would make cargo
    // run this script every time, so the packed form stands in for a ref without a file.
    let reference = git(&root, &["symbolic-ref", "--quiet", "HEAD"]).and_then(|name| git_path(&root, &name));
    let watched = [git_path(&root, "HEAD"), git_path(&root, "logs/HEAD"), reference];
    for path in watched.into_iter().flatten().chain(git_path(&root, "packed-refs")) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    Some(commit)
}

/// A file of the repository's, wherever a linked work tree keeps it; `None` if there is none.
fn git_path(root: &Path, name: &str) -> Option<PathBuf> {
    let path = root.join(git(root, &["rev-parse", "--git-path", name])?);
    path.exists().then_some(path)
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// The first word of `text`: a line break would end cargo's directive.
fn word(text: &str) -> Option<String> {
    text.split_whitespace().next().map(str::to_owned)
}
