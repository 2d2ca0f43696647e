//! Lists that stores answer with: records of texts, in XML. It is read without recursion and with
//! bounds, and nothing in it is expanded but characters.

use std::collections::BTreeMap;

use quick_xml::{
    Reader,
    escape::resolve_xml_entity,
    events::{BytesRef, Event},
};

use crate::error::{Error, Result};

/// A list.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The texts of each record, by the names of their elements.
    pub(super) records: Vec<BTreeMap<String, String>>,
    /// Texts beside the records.
    texts: BTreeMap<String, String>,
}

impl Answers {
    /// A text beside the records.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// Whether there is another page.
    pub(super) fn is_truncated(&self) -> bool {
        self.text("IsTruncated").is_some_and(|text| text.trim() == "true")
    }
}

/// The records in an answer: children of the root with one of these `names`.
///
/// # Errors
/// It is no XML, or exceeds the bounds.
pub(super) fn records(body: &[u8], names: &[&str]) -> Result<Answers> {
    let text =
        std::str::from_utf8(body).map_err(|error| Error::failed("it is not UTF-8").with_source(error))?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    let mut answers = Answers::default();
    // Names of the elements that are open, the root first, and the text of the innermost.
    let (mut open, mut content): (Vec<String>, String) = (Vec::new(), String::new());
    loop {
        match reader.read_event().map_err(broken)? {
            Event::Start(tag) => {
                if open.len() >= MAX_DEPTH {
                    return Err(Error::failed("it is nested too deep"));
                }
                let name = String::from_utf8_lossy(tag.local_name().as_ref()).into_owned();
                if open.len() == 1 && names.contains(&name.as_str()) {
                    if answers.records.len() >= MAX_RECORDS {
                        return Err(Error::failed(format!("it has more than {MAX_RECORDS} records")));
                    }
                    answers.records.push(BTreeMap::new());
                }
                open.push(name);
                content.clear();
            }
            Event::End(_) => {
                let Some(name) = open.pop() else {
                    return Err(Error::failed("an element ends that was not begun"));
                };
                let inside = open.get(1).is_some_and(|parent| names.contains(&parent.as_str()));
                let texts = match open.len() {
                    1 if !names.contains(&name.as_str()) => Some(&mut answers.texts),
                    2 if inside => answers.records.last_mut(),
                    _ => None,
                };
                if let Some(texts) = texts
                    && texts.len() < MAX_TEXTS
                {
                    texts.insert(name, std::mem::take(&mut content));
                }
                content.clear();
            }
            Event::Text(text) => content.push_str(&text.xml10_content().map_err(broken)?),
            Event::CData(text) => content.push_str(&text.xml10_content().map_err(broken)?),
            Event::GeneralRef(reference) => content.push_str(&resolved(&reference)?),
            Event::DocType(_) => return Err(Error::failed("it has a DOCTYPE")),
            Event::Eof if open.is_empty() => return Ok(answers),
            Event::Eof => return Err(Error::failed("it is cut short")),
            Event::Comment(_) | Event::Decl(_) | Event::Empty(_) | Event::PI(_) => {}
        }
    }
}

/// A character that is written by number, or one of XML's own entities.
fn resolved(reference: &BytesRef<'_>) -> Result<String> {
    if let Some(char) = reference.resolve_char_ref().map_err(broken)? {
        return Ok(char.to_string());
    }
    let name = reference.decode().map_err(broken)?;
    resolve_xml_entity(&name)
        .map(str::to_owned)
        .ok_or_else(|| Error::failed("it has an entity that is not known"))
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::failed("it is not well-formed").with_source(error)
}

/// Elements inside each other; records need three, with owners four.
const MAX_DEPTH: usize = 16;

/// A page has a thousand.
const MAX_RECORDS: usize = 10_000;

/// Texts of one record.
const MAX_TEXTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_what_stands_beside_them_are_read() {
        let body = "<?xml version=\"1.0\"?>\n<ListPartsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">
            <Bucket>b</Bucket><Owner><ID>x</ID></Owner><IsTruncated>true</IsTruncated><Empty/>
            <Part><PartNumber>1</PartNumber><ETag>&quot;a&#98;&quot;</ETag><Size>5</Size><Owner><ID>y</ID></Owner></Part>
            <Part><PartNumber>2</PartNumber><ETag><![CDATA[\"c\"]]></ETag></Part></ListPartsResult>";
        let answers = records(body.as_bytes(), &["Part"]).unwrap();
        assert_eq!(
            (answers.records.len(), answers.text("Bucket"), answers.is_truncated()),
            (2, Some("b"), true)
        );
        assert_eq!(answers.records[0]["ETag"], "\"ab\"");
        assert_eq!(
            (answers.records[0]["Size"].as_str(), answers.records[1]["ETag"].as_str()),
            ("5", "\"c\"")
        );
        assert!(!answers.records[0].contains_key("ID") && answers.text("ID").is_none());
    }

    #[test]
    fn hostile_answers_are_refused() {
        for body in [
            "<a><b>",
            "</a>",
            "<a></b>",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
            "<a>&x;</a>",
            "<a><Part><b>&#xFFFFFFFF;</b></Part></a>",
            &"<a>".repeat(1000),
            &format!("<a>{}</a>", "<Part></Part>".repeat(MAX_RECORDS + 1)),
        ] {
            assert!(records(body.as_bytes(), &["Part"]).is_err(), "{}", &body[..body.len().min(60)]);
        }
        assert!(records(b"\xff", &["Part"]).is_err());
        assert!(records(b"", &["Part"]).unwrap().records.is_empty());
        assert!(records(b"no XML", &["Part"]).unwrap().records.is_empty());
    }
}
