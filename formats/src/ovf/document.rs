//! An XML document in memory, bounded on all sides. It is built without recursion, and nothing in it
//! is expanded: a DOCTYPE is refused, and only the five entities of XML itself are known.

use quick_xml::{
    NsReader, XmlVersion,
    escape::resolve_xml_entity,
    events::{BytesRef, BytesStart, Event},
    name::{Namespace, ResolveResult},
};

use super::{
    NS_OVF, NS_OVF_0_9, NS_OVF_2, NS_VMW, NS_XSI,
    text::{is_xml_char, shortened},
};
use crate::{
    error::{Error, Result},
    num::to_u64,
};

/// The namespaces that matter; prefixes do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// None: attributes without a prefix.
    None,
    /// One that does not matter.
    Other,
    /// OVF 1.x.
    Ovf,
    /// OVF 0.9.
    Ovf0,
    /// OVF 2.x.
    Ovf2,
    /// Resource allocation settings.
    Rasd,
    /// VMware's extensions.
    Vmw,
    /// Virtual system settings.
    Vssd,
    /// XML Schema instance.
    Xsi,
}

/// Elements by number; the first is the root.
#[derive(Debug)]
pub(super) struct Document {
    elements: Vec<Element>,
}

/// An element.
#[derive(Debug)]
pub(super) struct Element {
    pub(super) space: Space,
    pub(super) name: String,
    attributes: Vec<(Space, String, String)>,
    pub(super) text: String,
    children: Vec<usize>,
    /// Where it begins, in bytes.
    pub(super) offset: u64,
}

impl Document {
    /// Reads a document.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        if to_u64(bytes.len()) > MAX_DESCRIPTOR_LEN {
            return Err(Error::limit(format!(
                "the descriptor has {} bytes, more than {MAX_DESCRIPTOR_LEN}",
                bytes.len()
            )));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            Error::unsupported("the descriptor is not UTF-8")
                .at(to_u64(error.valid_up_to()))
                .with_source(error)
        })?;
        if let Some((at, c)) = text.char_indices().find(|&(_, c)| !is_xml_char(c)) {
            let message =
                format!("the descriptor holds the character U+{:04X}, which XML forbids", u32::from(c));
            return Err(Error::corrupt(message).at(to_u64(at)));
        }
        let mut builder = Builder { elements: Vec::new(), open: Vec::new(), attributes: 0 };
        let mut reader = NsReader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
        reader.resolver_mut().set_max_declarations_per_element(MAX_DECLARATIONS);
        loop {
            let offset = reader.buffer_position();
            let event = reader.read_event().map_err(|error| malformed(error).at(reader.error_position()))?;
            match event {
                Event::Start(tag) => builder.start(&reader, &tag).map_err(|error| error.at(offset))?,
                Event::Empty(tag) => {
                    builder.start(&reader, &tag).map_err(|error| error.at(offset))?;
                    builder.open.pop();
                }
                Event::End(_) => {
                    builder.open.pop();
                }
                Event::Text(text) => {
                    let text = text.xml10_content().map_err(|error| malformed(error).at(offset))?;
                    builder.text(&text).map_err(|error| error.at(offset))?;
                }
                Event::CData(text) => {
                    let text = text.xml10_content().map_err(|error| malformed(error).at(offset))?;
                    builder.text(&text).map_err(|error| error.at(offset))?;
                }
                Event::GeneralRef(reference) => {
                    let text = resolved(&reference).map_err(|error| error.at(offset))?;
                    builder.text(&text).map_err(|error| error.at(offset))?;
                }
                Event::DocType(_) => {
                    return Err(Error::refused(
                        "the descriptor has a DOCTYPE: a descriptor needs none, and entities are not expanded",
                    )
                    .at(offset));
                }
                Event::Decl(declaration) => {
                    let encoding = declaration.encoding().transpose();
                    let encoding = encoding.map_err(|error| malformed(error).at(offset))?;
                    if encoding.is_some_and(|name| {
                        !name.eq_ignore_ascii_case(b"utf-8") && !name.eq_ignore_ascii_case(b"us-ascii")
                    }) {
                        return Err(
                            Error::unsupported("the descriptor is in another encoding than UTF-8").at(offset)
                        );
                    }
                }
                Event::Comment(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        if !builder.open.is_empty() {
            return Err(
                Error::truncated("the descriptor ends before its last element does").at(to_u64(bytes.len()))
            );
        }
        if builder.elements.is_empty() {
            return Err(Error::corrupt("the descriptor has no element"));
        }
        Ok(Self { elements: builder.elements })
    }

    /// The root.
    pub(super) fn root(&self) -> &Element {
        &self.elements[0]
    }

    /// The children of an element, in order.
    pub(super) fn children<'a>(&'a self, element: &'a Element) -> impl Iterator<Item = &'a Element> {
        element.children.iter().map(|&index| &self.elements[index])
    }
}

impl Element {
    /// Whether it is this one.
    pub(super) fn is(&self, space: Space, name: &str) -> bool {
        self.space == space && self.name == name
    }

    /// The value of an attribute; one without a prefix counts, since some writers forget it.
    pub(super) fn attribute(&self, space: Space, name: &str) -> Option<&str> {
        let find = |wanted: Space| {
            self.attributes.iter().find(|(space, known, _)| *space == wanted && known == name)
        };
        find(space).or_else(|| find(Space::None)).map(|(_, _, value)| value.as_str())
    }

    /// The same; `None` if it is empty.
    pub(super) fn value(&self, space: Space, name: &str) -> Option<String> {
        self.attribute(space, name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Its text; `None` if it is empty or `xsi:nil`.
    pub(super) fn content(&self) -> Option<String> {
        let is_nil = self.attributes.iter().any(|(space, name, value)| {
            *space == Space::Xsi && name == "nil" && matches!(value.as_str(), "true" | "1")
        });
        (!is_nil && !self.text.is_empty()).then(|| self.text.clone())
    }
}

/// A document that is being built.
struct Builder {
    elements: Vec<Element>,
    /// The elements that are open, outermost first.
    open: Vec<usize>,
    /// All attributes so far.
    attributes: usize,
}

impl Builder {
    fn start(&mut self, reader: &NsReader<&[u8]>, tag: &BytesStart<'_>) -> Result<()> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Error::limit(format!("elements are nested deeper than {MAX_DEPTH}")));
        }
        if self.elements.len() >= MAX_ELEMENTS {
            return Err(Error::limit(format!("the descriptor has more than {MAX_ELEMENTS} elements")));
        }
        if self.open.is_empty() && !self.elements.is_empty() {
            return Err(Error::corrupt("the descriptor has a second root element"));
        }
        let (space, name) = reader.resolver().resolve_element(tag.name());
        let (space, name) = (space_of(&space)?, name_of(name.as_ref())?);
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(malformed)?;
            self.attributes += 1;
            if attributes.len() >= MAX_ATTRIBUTES || self.attributes > MAX_ALL_ATTRIBUTES {
                return Err(Error::limit(format!(
                    "an element has more than {MAX_ATTRIBUTES} attributes, or the descriptor more than {MAX_ALL_ATTRIBUTES}"
                )));
            }
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            let (space, name) = reader.resolver().resolve_attribute(attribute.key);
            let (space, name) = (space_of(&space)?, name_of(name.as_ref())?);
            let value = attribute.normalized_value(XmlVersion::Explicit1_0).map_err(malformed)?;
            if value.len() > MAX_VALUE_LEN {
                return Err(Error::limit(format!("an attribute has more than {MAX_VALUE_LEN} bytes")));
            }
            if !value.chars().all(is_xml_char) {
                return Err(Error::corrupt("an attribute refers to a character that XML forbids"));
            }
            attributes.push((space, name, value.into_owned()));
        }
        let index = self.elements.len();
        if let Some(&parent) = self.open.last() {
            self.elements[parent].children.push(index);
        }
        let offset = reader.buffer_position();
        self.elements.push(Element {
            space,
            name,
            attributes,
            text: String::new(),
            children: Vec::new(),
            offset,
        });
        self.open.push(index);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let Some(&open) = self.open.last() else {
            if text.chars().all(char::is_whitespace) {
                return Ok(());
            }
            return Err(Error::corrupt("there is text outside of the root element"));
        };
        let held = &mut self.elements[open].text;
        if held.len() + text.len() > MAX_TEXT_LEN {
            return Err(Error::limit(format!("an element has more than {MAX_TEXT_LEN} bytes of text")));
        }
        held.push_str(text);
        Ok(())
    }
}

/// What a reference in the text stands for.
fn resolved(reference: &BytesRef<'_>) -> Result<String> {
    if let Some(c) = reference.resolve_char_ref().map_err(malformed)? {
        return if is_xml_char(c) {
            Ok(c.into())
        } else {
            Err(Error::corrupt("a reference to a character that XML forbids"))
        };
    }
    let name = reference.decode().map_err(malformed)?;
    resolve_xml_entity(&name).map(str::to_owned).ok_or_else(|| {
        Error::refused(format!(
            "the entity {:?} is not one of XML's own, and others are not expanded",
            shortened(&name)
        ))
    })
}

fn space_of(resolved: &ResolveResult<'_>) -> Result<Space> {
    match resolved {
        ResolveResult::Unbound => Ok(Space::None),
        ResolveResult::Bound(Namespace(uri)) => Ok(known_space(uri)),
        ResolveResult::Unknown(prefix) => {
            let prefix = String::from_utf8_lossy(prefix);
            Err(Error::corrupt(format!("the prefix {:?} is not bound to a namespace", shortened(&prefix))))
        }
    }
}

fn known_space(uri: &[u8]) -> Space {
    let is = |namespace: &str| uri == namespace.as_bytes();
    if is(NS_OVF) {
        Space::Ovf
    } else if is(NS_VMW) {
        Space::Vmw
    } else if is(NS_XSI) {
        Space::Xsi
    } else if uri.ends_with(b"/CIM_ResourceAllocationSettingData") {
        Space::Rasd
    } else if uri.ends_with(b"/CIM_VirtualSystemSettingData") {
        Space::Vssd
    } else if is(NS_OVF_0_9) {
        Space::Ovf0
    } else if is(NS_OVF_2) {
        Space::Ovf2
    } else {
        Space::Other
    }
}

fn name_of(name: &[u8]) -> Result<String> {
    if name.len() > MAX_NAME_LEN {
        return Err(Error::limit(format!("a name has more than {MAX_NAME_LEN} bytes")));
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn malformed(error: impl Into<quick_xml::Error>) -> Error {
    Error::corrupt("the descriptor is not well-formed XML").with_source(error.into())
}

/// Longest descriptor that is read, in bytes. Those of big appliances have some 100 KiB.
pub const MAX_DESCRIPTOR_LEN: u64 = 4 << 20;

/// Elements in one another; a descriptor has 6.
const MAX_DEPTH: usize = 32;
/// All elements.
const MAX_ELEMENTS: usize = 65_536;
/// Attributes of one element.
const MAX_ATTRIBUTES: usize = 64;
/// All attributes.
const MAX_ALL_ATTRIBUTES: usize = 131_072;
/// Namespaces that one element declares: each is looked at for every name inside.
const MAX_DECLARATIONS: usize = 32;
/// Longest name in bytes.
const MAX_NAME_LEN: usize = 256;
/// Longest value of an attribute in bytes.
const MAX_VALUE_LEN: usize = 64 << 10;
/// Longest text of an element in bytes; licences have tens of KiB.
const MAX_TEXT_LEN: usize = 1 << 20;
