//! Contents of known length: ranges, conditions, multipart bodies.

use std::sync::Arc;

use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{
        ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    body::{self, Shape},
    exporter::Inquiry,
    range::{self, Ranges},
};
use crate::{
    clock,
    disk::Disk,
    fault::FaultKind,
    http::{self, Body},
    log::Entry,
};

/// Something of known length, served as Go's `http.ServeContent` does.
pub(super) struct Content {
    pub(super) disk: Disk,
    pub(super) modified: Option<u64>,
    pub(super) kind: &'static str,
}

impl Content {
    /// Answers a request for it, faults included.
    pub(super) fn serve(
        self,
        inquiry: &Inquiry<'_>,
        shape: Shape,
        faults: &[FaultKind],
        stop: CancellationToken,
        entry: &Arc<Entry>,
    ) -> Response<Body> {
        if let Some(status) = self.precondition(inquiry) {
            return http::empty(status);
        }
        let size = self.disk.len_bytes();
        let is_ignored = faults.contains(&FaultKind::IgnoreRange) || !self.if_range_holds(inquiry);
        let ranges = match inquiry.header(&RANGE) {
            Some(header) if !is_ignored => range::parse(header, size),
            _ => Ranges::All,
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        if let Some(modified) = self.modified {
            headers.extend(value(&clock::http_date(modified)).map(|value| (LAST_MODIFIED, value)));
        }
        let (status, len, pieces) = match ranges {
            Ranges::Invalid => return http::text(StatusCode::RANGE_NOT_SATISFIABLE, "invalid range\n"),
            Ranges::NoOverlap => {
                let mut response =
                    http::text(StatusCode::RANGE_NOT_SATISFIABLE, "invalid range: failed to overlap\n");
                let unsatisfied = value(&format!("bytes */{size}"));
                response.headers_mut().extend(unsatisfied.map(|value| (CONTENT_RANGE, value)));
                return response;
            }
            Ranges::All => (StatusCode::OK, size, body::disk(self.disk, 0, size, shape.corrupt.clone())),
            Ranges::Some(ranges) => match ranges.as_slice() {
                &[(start, len)] => {
                    let off = u64::from(faults.contains(&FaultKind::WrongContentRange));
                    headers.extend(
                        value(&content_range(start + off, len, size)).map(|value| (CONTENT_RANGE, value)),
                    );
                    (
                        StatusCode::PARTIAL_CONTENT,
                        len,
                        body::disk(self.disk, start, len, shape.corrupt.clone()),
                    )
                }
                _ => {
                    let multipart = Multipart::new(&ranges, size, self.kind);
                    if let Some(kind) = value(&multipart.content_type) {
                        headers.insert(CONTENT_TYPE, kind);
                    }
                    let len = multipart.len_bytes;
                    let pieces =
                        body::parts(self.disk, multipart.parts, multipart.end, shape.corrupt.clone());
                    (StatusCode::PARTIAL_CONTENT, len, pieces)
                }
            },
        };
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
        let mut response = Response::new(body::shaped(pieces, shape, stop, Arc::clone(entry)));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// Conditions that are not met, for a content without an ETag.
    fn precondition(&self, inquiry: &Inquiry<'_>) -> Option<StatusCode> {
        let is_read = matches!(*inquiry.method, Method::GET | Method::HEAD);
        if inquiry.header(&IF_MATCH).is_some_and(|value| value.trim() != "*") {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
        match inquiry.header(&IF_NONE_MATCH) {
            Some(value) if value.trim() == "*" => {
                return Some(if is_read {
                    StatusCode::NOT_MODIFIED
                } else {
                    StatusCode::PRECONDITION_FAILED
                });
            }
            Some(_) => return None,
            None => {}
        }
        let since = inquiry.header(&IF_MODIFIED_SINCE)?;
        let is_same = self.modified.is_some_and(|modified| clock::http_date(modified) == since);
        (is_same && is_read).then_some(StatusCode::NOT_MODIFIED)
    }

    /// If-Range only ever holds for the date of a file that has one.
    fn if_range_holds(&self, inquiry: &Inquiry<'_>) -> bool {
        inquiry
            .header(&IF_RANGE)
            .is_none_or(|header| self.modified.is_some_and(|modified| clock::http_date(modified) == header))
    }
}

/// A multipart/byteranges body.
struct Multipart {
    content_type: String,
    len_bytes: u64,
    parts: Vec<(String, u64, u64)>,
    end: String,
}

impl Multipart {
    fn new(ranges: &[(u64, u64)], size: u64, kind: &str) -> Self {
        let boundary = format!("{:060x}", size ^ 0x5eed_b0da_0000_0000);
        let end = format!("\r\n--{boundary}--\r\n");
        let mut parts = Vec::new();
        let mut len_bytes = text_len(&end);
        for &(start, len) in ranges {
            let before = if parts.is_empty() { "" } else { "\r\n" };
            let range = content_range(start, len, size);
            let head =
                format!("{before}--{boundary}\r\nContent-Range: {range}\r\nContent-Type: {kind}\r\n\r\n");
            len_bytes += text_len(&head) + len;
            parts.push((head, start, len));
        }
        Self { content_type: format!("multipart/byteranges; boundary={boundary}"), len_bytes, parts, end }
    }
}

fn text_len(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn content_range(start: u64, len: u64, size: u64) -> String {
    format!("bytes {start}-{}/{size}", (start + len).saturating_sub(1))
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multipart_body_is_as_long_as_it_says() {
        let multipart = Multipart::new(&[(0, 4), (100, 4)], 1 << 30, "application/x-raw-disk-image");
        let written: usize = multipart.parts.iter().map(|(head, ..)| head.len() + 4).sum();
        assert_eq!(multipart.len_bytes, u64::try_from(written + multipart.end.len()).unwrap());
        // The real one's answer to the same request, whose boundary is of the same length.
        assert_eq!(multipart.len_bytes, 376);
    }
}
