//! Text in XML 1.0: what it can hold, and how it is escaped so that it comes back the same.

use std::borrow::Cow;

use quick_xml::escape::escape;

/// The text with every character that XML 1.0 cannot hold replaced by U+FFFD.
pub fn clean_text(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_xml_char) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_xml_char(c) { c } else { char::REPLACEMENT_CHARACTER }).collect())
}

/// The production `Char` of XML 1.0.
pub(super) fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// An attribute's value: white space would be normalised by readers.
pub(super) fn escaped_value(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in escape(value).chars() {
        match c {
            '\t' => escaped.push_str("&#9;"),
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// An element's text: readers turn a carriage return into a line feed.
pub(super) fn escaped_text(text: &str) -> String {
    escape(text).replace('\r', "&#13;")
}

/// The front of a text from a descriptor, for people; what would steer a terminal is replaced.
pub(super) fn shortened(text: &str) -> String {
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(64).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cleaned_of_what_xml_cannot_hold() {
        assert_eq!(clean_text("a\tb\r\n<ä>\u{1f4be}"), "a\tb\r\n<ä>\u{1f4be}");
        assert_eq!(clean_text("\0\u{1b}[2J\u{ffff}\u{7f}"), "\u{fffd}\u{fffd}[2J\u{fffd}\u{7f}");
    }

    #[test]
    fn nothing_escapes_its_quotes() {
        assert_eq!(escaped_value("\"<&>'\n\t\r "), "&quot;&lt;&amp;&gt;&apos;&#10;&#9;&#13; ");
        assert_eq!(escaped_text("a\r\n]]>"), "a&#13;\n]]&gt;");
    }
}
