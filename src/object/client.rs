//! What `object_store` has no call for: the parts of an upload, unfinished uploads, the metadata of an
//! object by which a run knows it again.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use object_store::multipart::PartId;
use reqwest::{
    Method, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use super::{
    Access, Act, Answer, ObjectLocation, RUN_METADATA, Scheme, Store,
    xml::{Answers, records},
};
use crate::{
    error::{Error, Result},
    source::{Answered, Ask, Authority, BoxFuture, HttpOptions, Refusal, SignedClient},
};

/// Asks a store about uploads and objects of one bucket.
#[derive(Debug)]
pub(crate) struct ObjectClient {
    access: Arc<Access>,
    client: SignedClient,
}

/// A part that a store holds for an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredPart {
    /// Number, from 1 on.
    pub(crate) number: u32,
    /// Bytes.
    pub(crate) size: u64,
    /// ETag as the store gave it when the part was sent, quotes included; empty if it lists none.
    pub(crate) etag: String,
    /// CRC-64/NVME in base64, if the store keeps one.
    pub(crate) crc64: Option<String>,
    /// When it was written, in seconds since 1970, if the store says so.
    pub(crate) written: Option<u64>,
}

/// An upload that is neither completed nor given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenUpload {
    /// Key of the object to be.
    pub(crate) key: String,
    /// The store's id.
    pub(crate) id: String,
    /// When it was begun, in seconds since 1970, if the store says so.
    pub(crate) begun: Option<u64>,
}

/// What a store says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectHead {
    /// Bytes.
    pub(crate) size: u64,
    /// ETag, quotes included.
    pub(crate) etag: Option<String>,
    /// The run that wrote it.
    pub(crate) run: Option<String>,
}

impl ObjectClient {
    /// A client for the bucket of `location`, which `store` was opened for.
    ///
    /// # Errors
    /// The CA file of the options cannot be used, or the endpoint is no URL.
    pub(crate) async fn new(store: &Store, location: &ObjectLocation) -> Result<Self> {
        let options = store.options();
        let options = HttpOptions {
            ca_file: options.ca_file.clone(),
            stall_timeout: options.stall_timeout,
            retry_for: options.retry_for,
            ..HttpOptions::default()
        };
        let access = Arc::clone(&store.access);
        let authority = Arc::new(Signing::new(Arc::clone(&access), location.clone(), Act::Read));
        let client =
            SignedClient::new(access.url("", &[])?, location.to_string(), authority, &options).await?;
        Ok(Self { access, client })
    }

    /// What there is at `location`; `None` if nothing is.
    ///
    /// # Errors
    /// The store refuses, or cannot be asked.
    pub(crate) async fn head(&self, location: &ObjectLocation) -> Result<Option<ObjectHead>> {
        let answered = self.ask(location, Act::Read, Method::HEAD, &[], &[404]).await?;
        if answered.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let text = |name: &str| answered.headers.get(name)?.to_str().ok();
        let size = text("content-length")
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| Error::failed(format!("the store does not say how large {location} is")))?;
        let run = text(&format!("{}{RUN_METADATA}", metadata_prefix(location.scheme())));
        Ok(Some(ObjectHead { size, etag: text("etag").map(str::to_owned), run: run.map(str::to_owned) }))
    }

    /// The parts that the store holds for the upload `id` of `location`, by number; `None` if there is
    /// no such upload.
    ///
    /// # Errors
    /// The store refuses, or cannot be asked, or it is Azure, which knows no uploads.
    pub(crate) async fn list_parts(
        &self,
        location: &ObjectLocation,
        id: &str,
    ) -> Result<Option<Vec<StoredPart>>> {
        self.knows_uploads(location)?;
        let mut parts: BTreeMap<u32, StoredPart> = BTreeMap::new();
        let mut marker = 0_u32;
        loop {
            let after = marker.to_string();
            let query = [("max-parts", "1000"), ("part-number-marker", after.as_str()), ("uploadId", id)];
            // The first page needs no marker, and some stores do not like one.
            let query: Vec<_> =
                query.into_iter().filter(|(name, _)| marker > 0 || *name != "part-number-marker").collect();
            let answered = self.ask(location, Act::ListUploads, Method::GET, &query, &[404]).await?;
            if answered.status == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let found = self.read(location, &answered.body, &["Part"])?;
            for record in &found.records {
                let part =
                    part(record).ok_or_else(|| not_understood(location, "a part without number or size"))?;
                parts.insert(part.number, part);
            }
            if !found.is_truncated() {
                break;
            }
            let next = found.text("NextPartNumberMarker").and_then(|next| next.parse().ok());
            match next.filter(|next| *next > marker && parts.len() <= MAX_PARTS) {
                Some(next) => marker = next,
                None => return Err(not_understood(location, "a list of parts that does not end")),
            }
        }
        Ok(Some(parts.into_values().collect()))
    }

    /// Unfinished uploads of `location`; `None` if the store has no such list.
    ///
    /// # Errors
    /// As for [`list_parts`](Self::list_parts).
    pub(crate) async fn list_uploads(&self, location: &ObjectLocation) -> Result<Option<Vec<OpenUpload>>> {
        self.knows_uploads(location)?;
        let bucket = location.with_key("");
        let mut uploads: Vec<OpenUpload> = Vec::new();
        let mut marker: Option<(String, String)> = None;
        loop {
            let mut query = vec![("max-uploads", "1000"), ("prefix", location.key()), ("uploads", "")];
            if let Some((key, id)) = &marker {
                query.push(("key-marker", key));
                query.push(("upload-id-marker", id));
            }
            query.sort_unstable();
            let answered = self.ask(&bucket, Act::ListUploads, Method::GET, &query, &NO_SUCH_CALL).await?;
            if NO_SUCH_CALL.contains(&answered.status.as_u16()) {
                return Ok(None);
            }
            let found = self.read(location, &answered.body, &["Upload"])?;
            for record in &found.records {
                let (Some(key), Some(id)) = (record.get("Key"), record.get("UploadId")) else {
                    return Err(not_understood(location, "an upload without key or id"));
                };
                let begun = record.get("Initiated").and_then(|time| seconds(time));
                uploads.push(OpenUpload { key: key.clone(), id: id.clone(), begun });
            }
            if !found.is_truncated() {
                break;
            }
            let text = |name: &str| found.text(name).map(str::to_owned).unwrap_or_default();
            let next = (text("NextKeyMarker"), text("NextUploadIdMarker"));
            if next.0.is_empty() || marker.as_ref() == Some(&next) || uploads.len() > MAX_UPLOADS {
                return Err(not_understood(location, "a list of uploads that does not end"));
            }
            marker = Some(next);
        }
        // Those of longer keys are listed too.
        uploads.retain(|upload| upload.key == location.key());
        Ok(Some(uploads))
    }

    /// Gives the upload `id` of `location` up; whether there was one.
    ///
    /// # Errors
    /// As for [`list_parts`](Self::list_parts).
    pub(crate) async fn abort(&self, location: &ObjectLocation, id: &str) -> Result<bool> {
        self.knows_uploads(location)?;
        let answered = self.ask(location, Act::Abort, Method::DELETE, &[("uploadId", id)], &[404]).await?;
        Ok(answered.status != StatusCode::NOT_FOUND)
    }

    /// Makes the blocks `parts` the blob `location` of Azure, with metadata: `object_store` can give it
    /// none. With `only_new`, only if there is no such blob; whether it was made.
    ///
    /// # Errors
    /// The store refuses, or cannot be asked.
    pub(crate) async fn commit_blocks(
        &self,
        location: &ObjectLocation,
        parts: &[PartId],
        metadata: &[(String, String)],
        only_new: bool,
    ) -> Result<bool> {
        let mut body = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for PartId { content_id } in parts {
            // They come from a journal.
            if !content_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte)) {
                return Err(Error::failed(format!("{content_id:?} is no id of a block of {location}")));
            }
            // As the block was sent: `object_store` names it by the base64 of its id.
            body.extend(["<Uncommitted>", &BASE64_STANDARD.encode(content_id), "</Uncommitted>"]);
        }
        body.push_str("</BlockList>");
        let body = Bytes::from(body);
        let mut ask = Ask::new(Method::PUT, self.access.url(location.key(), &[("comp", "blocklist")])?);
        ask.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        for (name, value) in metadata {
            let name = HeaderName::try_from(format!("{}{name}", metadata_prefix(Scheme::Azure)));
            match (name, HeaderValue::from_str(value)) {
                (Ok(name), Ok(value)) => ask.headers.insert(name, value),
                _ => {
                    return Err(Error::usage(format!("the metadata of {location} do not fit into a header")));
                }
            };
        }
        ask.body = body;
        let mut accepted = [].as_slice();
        if only_new {
            ask.headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
            accepted = &CONFLICTS;
        }
        let answered = self.send(location, Act::Complete, &ask, accepted).await?;
        Ok(answered.status.is_success())
    }

    async fn ask(
        &self,
        location: &ObjectLocation,
        act: Act,
        method: Method,
        query: &[(&str, &str)],
        accepted: &[u16],
    ) -> Result<Answered> {
        let ask = Ask::new(method, self.access.url(location.key(), query)?);
        self.send(location, act, &ask, accepted).await
    }

    async fn send(
        &self,
        location: &ObjectLocation,
        act: Act,
        ask: &Ask,
        accepted: &[u16],
    ) -> Result<Answered> {
        let authority = Arc::new(Signing::new(Arc::clone(&self.access), location.clone(), act));
        self.client.about(location.to_string(), authority).ask(ask, accepted, MAX_ANSWER_LEN).await
    }

    fn read(&self, location: &ObjectLocation, body: &[u8], names: &[&str]) -> Result<Answers> {
        records(body, names)
            .map_err(|error| not_understood(location, "XML that is broken").with_source(error))
    }

    fn knows_uploads(&self, location: &ObjectLocation) -> Result<()> {
        match self.access.scheme() {
            Scheme::Azure => {
                Err(Error::failed(format!("Azure does not tell of uploads, so not of that of {location}")))
            }
            Scheme::Gcs | Scheme::S3 => Ok(()),
        }
    }
}

/// Signs requests about one object, and explains refusals.
#[derive(Debug)]
pub(crate) struct Signing {
    access: Arc<Access>,
    location: ObjectLocation,
    act: Act,
}

impl Signing {
    /// For requests about `location`.
    pub(crate) fn new(access: Arc<Access>, location: ObjectLocation, act: Act) -> Self {
        Self { access, location, act }
    }
}

impl Authority for Signing {
    fn sign(
        &self,
        request: (Method, url::Url),
        headers: HeaderMap,
        body: Bytes,
    ) -> BoxFuture<'_, Result<(url::Url, HeaderMap)>> {
        Box::pin(
            async move { self.access.authorize(&self.location, self.act, request, headers, &body).await },
        )
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &str) -> Refusal {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let answer =
            Answer::read(status.as_u16(), body).or(text("x-ms-error-code"), text("x-amz-bucket-region"));
        Refusal { is_transient: answer.is_transient(), error: answer.explain(&self.location, self.act) }
    }
}

/// What stands before the name of metadata in headers.
fn metadata_prefix(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Azure => "x-ms-meta-",
        Scheme::Gcs => "x-goog-meta-",
        Scheme::S3 => "x-amz-meta-",
    }
}

fn part(record: &BTreeMap<String, String>) -> Option<StoredPart> {
    Some(StoredPart {
        number: record.get("PartNumber")?.parse().ok()?,
        size: record.get("Size")?.parse().ok()?,
        etag: record.get("ETag").cloned().unwrap_or_default(),
        crc64: record.get("ChecksumCRC64NVME").cloned(),
        written: record.get("LastModified").and_then(|time| seconds(time)),
    })
}

/// A time in seconds since 1970; `None` if it is no time, or an earlier one.
fn seconds(time: &str) -> Option<u64> {
    u64::try_from(time.parse::<jiff::Timestamp>().ok()?.as_second()).ok()
}

fn not_understood(location: &ObjectLocation, what: &str) -> Error {
    Error::failed(format!("the store answers with {what} when it is asked about uploads of {location}"))
        .with_hint("is the endpoint that of an object store?")
}

/// A page of a thousand parts or uploads has some 400 KiB; keys have up to 1 KiB.
const MAX_ANSWER_LEN: usize = 8 << 20;

/// What Azure answers where there is a blob already.
const CONFLICTS: [u16; 2] = [409, 412];

/// What stores answer that have no list of uploads.
const NO_SUCH_CALL: [u16; 2] = [405, 501];

/// Stores take ten thousand parts.
const MAX_PARTS: usize = 10_000;

/// More unfinished uploads than this below one prefix are not listed.
const MAX_UPLOADS: usize = 100_000;
