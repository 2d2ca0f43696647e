//! What object stores answer with: lists in XML, refusals, markers.

use vmferry::object::untrusted;

/// An answer, taken for each of the things that it could be.
pub fn store_answer(data: &[u8]) {
    if let Some(records) = untrusted::list(data) {
        // Each takes a dozen bytes at least.
        assert!(records <= data.len() / 10, "{records} records in {} bytes", data.len());
    }
    let told = untrusted::refusal(&String::from_utf8_lossy(data));
    assert!(told.chars().count() < 4096 && !told.chars().any(char::is_control), "{told:?}");
    for key in untrusted::marker(data, "vms/") {
        assert!(key.starts_with("vms/") && key.len() > 4, "{key:?}");
    }
}
