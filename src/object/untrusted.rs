//! The parsers of what stores answer with, by themselves: for the fuzz target, and no API.

use super::{Act, Answer, ObjectLocation, marker, xml};

/// Number of records in a list of parts or uploads; `None` if it is no such list.
pub fn list(answer: &[u8]) -> Option<usize> {
    xml::records(answer, &["Part", "Upload"]).ok().map(|answers| answers.records.len())
}

/// What is told of a refusal with this body.
pub fn refusal(body: &str) -> String {
    let Ok(Some(location)) = ObjectLocation::parse("s3://bucket/key") else { return String::new() };
    let error = Answer::read(400, body).explain(&location, Act::Read);
    format!("{error} {}", error.hint().unwrap_or_default())
}

/// The keys that a marker below `base` is believed about.
pub fn marker(text: &[u8], base: &str) -> Vec<String> {
    match marker::read(text, base, "r1") {
        Ok(marker) => marker.uploads.into_iter().map(|upload| upload.key).collect(),
        Err(_) => Vec::new(),
    }
}
