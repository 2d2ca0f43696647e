//! The fuzz targets' seeds, replayed on stable Rust: each once was, or is like, an input that matters.

#![expect(unreachable_pub, clippy::cast_possible_truncation, reason = "shared with the fuzz targets")]
#![expect(clippy::print_stdout, reason = "names the seed that failed")]

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use std::{fs, io::Read as _, path::Path};

/// Feeds a target with its seeds, and with each of them cut short: parsers break at edges.
fn replay(name: &str) {
    let (_, body) = bodies::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    body(&[]);
    for path in seeds {
        println!("{}", path.display());
        let mut seed = fs::read(&path).expect("a seed");
        if path.extension().is_some_and(|extension| extension == "gz") {
            let packed = std::mem::take(&mut seed);
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut seed).expect("a packed seed");
        }
        body(&seed);
        for eighth in 1..8 {
            body(&seed[..seed.len() * eighth / 8]);
        }
    }
}

#[test]
fn detect() {
    replay("detect");
}

#[test]
fn gzip_stream() {
    replay("gzip_stream");
}

#[test]
fn journal() {
    replay("journal");
}

#[test]
fn manifest() {
    replay("manifest");
}

#[test]
fn ova_reader() {
    replay("ova_reader");
}

#[test]
fn ovf_parser() {
    replay("ovf_parser");
}

#[test]
fn qcow2_reader() {
    replay("qcow2_reader");
}

#[test]
fn qcow2_writer() {
    replay("qcow2_writer");
}

#[test]
#[cfg(feature = "cloud")]
fn store_answer() {
    replay("store_answer");
}

#[test]
fn vmdk_reader() {
    replay("vmdk_reader");
}

#[test]
fn vmdk_stream() {
    replay("vmdk_stream");
}

#[test]
fn vmdk_writer() {
    replay("vmdk_writer");
}

#[test]
fn every_target_is_replayed_and_built() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (tests, manifest) = (include_str!("fuzz_seeds.rs"), root.join("fuzz/Cargo.toml"));
    let manifest = fs::read_to_string(manifest).expect("fuzz/Cargo.toml");
    for (name, _) in bodies::TARGETS {
        assert!(tests.contains(&format!("replay(\"{name}\")")), "{name} is not replayed");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not built");
        assert!(root.join(format!("fuzz/targets/{name}.rs")).exists(), "{name} has no target");
        assert!(root.join(format!("fuzz/seeds/{name}")).is_dir(), "{name} has no seeds");
    }
}
