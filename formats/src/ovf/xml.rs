//! A thin layer over the XML writer: elements, attributes, checked and escaped.

use std::io;

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event, attributes::Attribute},
};

use super::text::{escaped_text, escaped_value, is_xml_char, shortened};
use crate::error::{Error, Result};

/// XML that is being written to memory, indented.
pub(super) struct Xml {
    writer: Writer<Vec<u8>>,
}

/// The attributes of an element, in the order in which they are written.
#[derive(Default)]
pub(super) struct Attributes(Vec<(&'static str, String)>);

impl Attributes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds an attribute.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Result<Self> {
        check(name, value)?;
        self.0.push((name, escaped_value(value)));
        Ok(self)
    }

    /// Adds an attribute if it has a value.
    pub(super) fn maybe(self, name: &'static str, value: Option<&str>) -> Result<Self> {
        match value.filter(|value| !value.is_empty()) {
            Some(value) => self.with(name, value),
            None => Ok(self),
        }
    }

    /// Adds an attribute whose value is written as it is.
    pub(super) fn raw(mut self, name: &'static str, value: String) -> Self {
        self.0.push((name, value));
        self
    }
}

impl Xml {
    /// The declaration.
    pub(super) fn new() -> Result<Self> {
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None))).map_err(failed)?;
        Ok(Self { writer })
    }

    pub(super) fn start(&mut self, name: &str, attributes: &Attributes) -> Result<()> {
        self.writer.write_event(Event::Start(tag(name, attributes))).map_err(failed)
    }

    pub(super) fn end(&mut self, name: &str) -> Result<()> {
        self.writer.write_event(Event::End(BytesEnd::new(name))).map_err(failed)
    }

    pub(super) fn empty(&mut self, name: &str, attributes: &Attributes) -> Result<()> {
        self.writer.write_event(Event::Empty(tag(name, attributes))).map_err(failed)
    }

    /// An element that holds text only.
    pub(super) fn leaf(&mut self, name: &str, text: &str) -> Result<()> {
        self.leaf_with(name, &Attributes::new(), text)
    }

    /// The same with attributes.
    pub(super) fn leaf_with(&mut self, name: &str, attributes: &Attributes, text: &str) -> Result<()> {
        check(name, text)?;
        self.start(name, attributes)?;
        self.writer.write_event(Event::Text(BytesText::from_escaped(escaped_text(text)))).map_err(failed)?;
        self.end(name)
    }

    /// An element that holds text only, if there is any.
    pub(super) fn maybe_leaf(&mut self, name: &str, text: Option<&str>) -> Result<()> {
        text.filter(|text| !text.is_empty()).map_or(Ok(()), |text| self.leaf(name, text))
    }

    /// The whole, ending in a line feed.
    pub(super) fn finish(self) -> Result<String> {
        let mut bytes = self.writer.into_inner();
        bytes.push(b'\n');
        String::from_utf8(bytes)
            .map_err(|error| Error::invalid_input("the descriptor is not UTF-8").with_source(error))
    }
}

fn tag<'a>(name: &'a str, attributes: &'a Attributes) -> BytesStart<'a> {
    let pairs = attributes.0.iter();
    BytesStart::new(name)
        .with_attributes(pairs.map(|(name, value)| Attribute::from((name.as_bytes(), value.as_bytes()))))
}

fn check(name: &str, text: &str) -> Result<()> {
    match text.chars().find(|&c| !is_xml_char(c)) {
        None => Ok(()),
        Some(c) => Err(Error::invalid_input(format!(
            "{name} is to be {:?}, but XML cannot hold the character U+{:04X}",
            shortened(text),
            u32::from(c)
        ))),
    }
}

fn failed(error: io::Error) -> Error {
    Error::invalid_input("the descriptor cannot be written").with_source(error)
}
