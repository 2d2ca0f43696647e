//! Recorded requests and answers, read from their files.

use std::{collections::BTreeMap, path::Path};

use reqwest::{Method, Response};
use serde_json::Value;

/// Of large bodies this much is looked at, as in the recordings.
const BODY: usize = 1 << 20;

/// A request and its answer, recorded or just made.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) request_headers: Vec<(String, String)>,
    pub(super) request_body: String,
    pub(super) status: u16,
    headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Recorded {
    pub(super) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        let (request, answer) = text.split_once("\n\n").expect("a request and an answer");
        let request: Vec<&str> = request.lines().map(|line| line.strip_prefix("> ").unwrap_or("")).collect();
        let (first, rest) = request.split_first().expect("a request line");
        let (head, body) = answer.split_once("\n\n").unwrap_or((answer, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let (method, path, mut request_headers) = parse_request(first);
        let mut is_body = false;
        let mut request_body = String::new();
        for line in rest {
            if is_body {
                request_body.push_str(line);
            } else if line.is_empty() {
                is_body = true;
            } else if let Some((name, value)) = line.split_once(": ") {
                request_headers.push((name.to_owned(), value.to_owned()));
            }
        }
        Self {
            method,
            path,
            request_headers,
            request_body,
            status: status.expect("a status"),
            headers: lines.filter_map(|line| line.split_once(": ")).map(lower).collect(),
            body: body.to_owned(),
        }
    }

    pub(super) async fn from_answer(mut response: Response) -> Self {
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| lower((name.as_str(), value.to_str().expect("a plain header"))))
            .collect();
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while body.len() < BODY
            && let Some(piece) = response.chunk().await.expect("a body")
        {
            body.extend_from_slice(&piece);
        }
        let body = String::from_utf8_lossy(&body).replace("\r\n", "\n");
        Self {
            method: Method::GET,
            path: String::new(),
            request_headers: Vec::new(),
            request_body: String::new(),
            status,
            headers,
            body,
        }
    }

    /// A header that matters. Lengths of JSON and of empty answers say nothing, and boundaries vary.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?;
        let is_data = self.headers.contains_key("accept-ranges");
        match name {
            "content-length" if !is_data => None,
            "content-type" => Some(value.split("boundary=").next().unwrap_or_default().to_owned()),
            _ => Some(value.clone()),
        }
    }

    /// Changes a JSON body.
    pub(super) fn change(&mut self, work: impl FnOnce(&mut Value)) {
        let mut body = self.json();
        work(&mut body);
        self.body = body.to_string();
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// A JSON manifest that is cut at its first certificate, closed there.
pub(super) fn closed(body: &str) -> String {
    let (start, _) = body.split_once("-----BEGIN").expect("a certificate");
    format!("{start}\"}}}}]}}")
}

/// What [`closed`] leaves of a whole manifest.
pub(super) fn first_item(list: &mut Value) {
    list["items"].as_array_mut().expect("items").truncate(1);
    list["items"][0]["data"]["ca.pem"] = "".into();
}

fn lower((name, value): (&str, &str)) -> (String, String) {
    (name.to_ascii_lowercase(), value.to_owned())
}

/// `METHOD PATH`, or `curl [-I] [-H NAME: VALUE]… [-r RANGE] URL`.
fn parse_request(line: &str) -> (Method, String, Vec<(String, String)>) {
    let Some(rest) = line.strip_prefix("curl ") else {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        return (method.parse().expect("a method"), path.to_owned(), Vec::new());
    };
    let (options, url) = rest.rsplit_once(' ').unwrap_or(("", rest));
    let method = if options.starts_with("-I") { Method::HEAD } else { Method::GET };
    let headers = options.split("-H ").skip(1).filter_map(|option| {
        let option = option.split(" -r ").next().unwrap_or_default().trim();
        option.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()))
    });
    (method, url.to_owned(), headers.collect())
}

/// What is comparable of an answer of the data path.
pub(super) fn without_disk_bytes(name: &str, body: &str) -> String {
    match name {
        "head-raw" | "head-gzip" | "if-range" | "range-raw" | "range-suffix" => String::new(),
        // The heads of the parts.
        "range-multi" => {
            body.lines().filter(|line| line.starts_with("Content-")).collect::<Vec<_>>().join("\n")
        }
        // Up to the certificate, where the recording is cut.
        "manifest-yaml" => {
            body.split("-----BEGIN").next().unwrap_or_default().trim_end_matches(['\n', ' ', '"']).to_owned()
        }
        _ => body.to_owned(),
    }
}

/// An event of a watch.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) kind: String,
    pub(super) object: Value,
}

pub(super) fn events(text: &str) -> Vec<Event> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .map(|event| Event {
            kind: event["type"].as_str().unwrap_or_default().to_owned(),
            object: event["object"].clone(),
        })
        .collect()
}

/// The states that an object went through, as type, phase and reason of Ready; a repeated one counts once.
pub(super) fn states(events: &[Event], name: &str) -> Vec<String> {
    let mine = events.iter().filter(|event| event.object["metadata"]["name"] == name);
    let mut states: Vec<String> = mine
        .map(|event| {
            let status = &event.object["status"];
            format!("{} {} {}", event.kind, status["phase"], status["conditions"][0]["reason"])
        })
        .collect();
    states.dedup();
    states
}

/// The objects of an export in a watch, one a state.
pub(super) fn objects(text: &str, name: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = events(text)
        .into_iter()
        .map(|event| event.object)
        .filter(|object| object["metadata"]["name"] == name)
        .collect();
    objects.dedup_by_key(|object| object["status"]["conditions"][0]["reason"].clone());
    objects
}
