//! OVF descriptors.

use vmferry_formats::{
    ErrorKind,
    ovf::{MAX_LIST, is_portable_name, parse},
};

/// A descriptor: what is understood of it can be written, and reads back equal.
pub fn ovf_parser(data: &[u8]) {
    let Ok(mut envelope) = parse(data) else { return };
    let lists = [envelope.files.len(), envelope.disks.len(), envelope.networks.len()];
    assert!(lists.into_iter().chain([envelope.system.hardware.items.len()]).all(|len| len <= MAX_LIST));
    for (index, file) in envelope.files.iter_mut().enumerate() {
        if let Ok(name) = file.safe_name() {
            assert!(!name.contains(['/', '\0']) && name != "..");
        }
        if !is_portable_name(&file.href) {
            file.href = format!("file-{index}");
        }
    }
    envelope.unknown.clear();
    let text = envelope.to_template().expect("what XML held, XML can hold");
    match parse(text.as_bytes()) {
        Ok(again) => assert_eq!(again, envelope),
        // Escapes are longer than what they stand for.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Limit, "{error}"),
    }
}
