//! What a store's refusal means, and what to do about it.

use std::fmt;

use super::{ObjectLocation, Scheme};
use crate::error::{Error, ErrorKind, cause};

/// What was asked of a store; each needs a right of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Give up an upload.
    Abort,
    /// Make the parts of an upload an object.
    Complete,
    /// Begin an upload.
    Create,
    /// Remove an object.
    Delete,
    /// List objects.
    List,
    /// List unfinished uploads, or their parts.
    ListUploads,
    /// Read an object, or ask what it is.
    Read,
    /// Write an object, or a part of it.
    Write,
}

impl Act {
    /// Behind "cannot".
    const fn verb(self) -> &'static str {
        match self {
            Self::Abort => "give up the upload of",
            Self::Complete => "complete the upload of",
            Self::Create => "begin the upload of",
            Self::Delete => "remove",
            Self::List => "list what is below",
            Self::ListUploads => "list the unfinished uploads of",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// The rights that it takes.
    fn rights(self, location: &ObjectLocation) -> String {
        let bucket = location.bucket();
        match location.scheme() {
            Scheme::Azure => {
                let role = if matches!(self, Self::List | Self::Read) { "Reader" } else { "Contributor" };
                format!(
                    "it takes the role 'Storage Blob Data {role}' for the container {bucket:?}, or a SAS token with these rights"
                )
            }
            Scheme::Gcs => {
                let right = match self {
                    Self::Abort => "storage.multipartUploads.abort",
                    Self::Complete | Self::Create | Self::Write => {
                        "storage.objects.create, storage.multipartUploads.create, and storage.objects.delete where an object is replaced,"
                    }
                    Self::Delete => "storage.objects.delete",
                    Self::List => "storage.objects.list",
                    Self::ListUploads => {
                        "storage.multipartUploads.list and storage.multipartUploads.listParts"
                    }
                    Self::Read => "storage.objects.get",
                };
                format!("it takes {right} in the bucket {bucket:?}")
            }
            Scheme::S3 => {
                let objects = format!("arn:aws:s3:::{bucket}/{}", location.key());
                match self {
                    Self::Abort => format!("it takes s3:AbortMultipartUpload for {objects}"),
                    Self::Complete | Self::Create | Self::Write => format!(
                        "it takes s3:PutObject for {objects} (with tags s3:PutObjectTagging, with a KMS key \
                         kms:GenerateDataKey and kms:Decrypt)"
                    ),
                    Self::Delete => format!("it takes s3:DeleteObject for {objects}"),
                    Self::List => format!("it takes s3:ListBucket for arn:aws:s3:::{bucket}"),
                    Self::ListUploads => format!(
                        "it takes s3:ListBucketMultipartUploads for arn:aws:s3:::{bucket} and \
                         s3:ListMultipartUploadParts for {objects}"
                    ),
                    Self::Read => format!(
                        "it takes s3:GetObject for {objects}; without s3:ListBucket for the bucket {bucket:?} an object \
                         that is not there is forbidden, too"
                    ),
                }
            }
        }
    }
}

/// A store's refusal: its status and what its body says, without anything else of the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// HTTP status; 200 where an error came after all.
    pub(crate) status: u16,
    /// The store's name for the error.
    pub(crate) code: Option<String>,
    /// The store's sentence about it.
    message: Option<String>,
    /// Where an S3 bucket is, if the store says so.
    region: Option<String>,
}

impl Answer {
    /// What the beginning of an error's body says.
    pub(crate) fn read(status: u16, body: &str) -> Self {
        let text = |tag: &str| element(body, tag);
        Self { status, code: text("Code"), message: text("Message"), region: text("Region") }
    }

    /// The same, with what stands in the header instead.
    pub(crate) fn or(mut self, code: Option<&str>, region: Option<&str>) -> Self {
        self.code = self.code.or_else(|| code.map(shown));
        self.region = self.region.or_else(|| region.map(shown));
        self
    }

    /// Whether asking again may help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.status, 408 | 429 | 500 | 502..=504)
            || matches!(
                self.code(),
                "InternalError" | "OperationTimedOut" | "RequestTimeout" | "ServerBusy" | "SlowDown"
            )
    }

    /// Whether a request that demanded something was refused because the store does not know that demand.
    pub(crate) fn is_unknown_demand(&self) -> bool {
        self.status == 501 || self.code() == "NotImplemented"
    }

    /// Whether a request was refused because of what is there, or is being made.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self.status, 409 | 412)
            || matches!(self.code(), "ConditionalRequestConflict" | "PreconditionFailed")
    }

    fn code(&self) -> &str {
        self.code.as_deref().unwrap_or_default()
    }

    /// The error for what was asked.
    pub(crate) fn explain(&self, location: &ObjectLocation, act: Act) -> Error {
        let (place, bucket, verb) = (location.scheme().place(), location.bucket(), act.verb());
        let error =
            |kind, what: String, hint: String| Error::new(kind, format!("{what} ({self})")).with_hint(hint);
        let failed = |what: String, hint: String| error(ErrorKind::Failed, what, hint);
        let cannot = || format!("cannot {verb} {location}");
        match (self.status, self.code()) {
            (_, "NoSuchBucket" | "ContainerNotFound") => failed(
                format!("there is no {place} {bucket:?}"),
                format!(
                    "check its name, and that the endpoint is that of the store it is in; vmferry makes no {place}s"
                ),
            ),
            (_, "NoSuchUpload") => failed(
                format!("the upload of {location} is gone"),
                "it was completed or given up in the meantime".to_owned(),
            ),
            (
                _,
                "AuthorizationHeaderMalformed"
                | "PermanentRedirect"
                | "TemporaryRedirect"
                | "IllegalLocationConstraintException",
            )
            | (301 | 307 | 308, _) => failed(
                format!("{place} {bucket:?} is in another region or at another endpoint"),
                match &self.region {
                    Some(region) => format!("say --store-region {region}"),
                    None => "name the right one with --store-region or --store-endpoint".to_owned(),
                },
            ),
            (_, "RequestTimeTooSkewed") => failed(
                cannot(),
                "this machine's clock is wrong: requests are signed with the time".to_owned(),
            ),
            (_, "InvalidPart" | "InvalidBlockList") => failed(
                format!("{}: parts of it are gone, or another run has replaced them", cannot()),
                "start again with --restart; Azure drops blocks that nobody has committed for a week"
                    .to_owned(),
            ),
            (404, _) => failed(
                format!("there is no object {location}"),
                "check its name; upper and lower case are different".to_owned(),
            ),
            (412, _) => error(
                ErrorKind::SourceChanged,
                format!("{location} is another object by now"),
                "start again with what is there now".to_owned(),
            ),
            (
                _,
                "AuthenticationFailed"
                | "ExpiredToken"
                | "InvalidAccessKeyId"
                | "InvalidToken"
                | "SignatureDoesNotMatch"
                | "InvalidSecurity"
                | "NoAuthenticationInformation",
            )
            | (401, _) => failed(
                format!("the store of {location} does not accept the credentials"),
                credentials_hint(location.scheme()).to_owned(),
            ),
            (403, _) => failed(format!("it is not allowed to {verb} {location}"), act.rights(location)),
            (409, _) => error(
                ErrorKind::Refused,
                cannot(),
                "something else is at work on that object, or it is locked: try again later".to_owned(),
            ),
            _ if self.is_transient() => error(
                ErrorKind::Network,
                format!("{}: the store is busy or has failed", cannot()),
                "run the same command again to go on from here; fewer requests at once may help".to_owned(),
            ),
            _ => failed(cannot(), "the store's answer says why".to_owned()),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

/// The error for what `object_store` could not do: its texts are not repeated, since they may have a
/// signed URL or a refused token in them.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn object_error(location: &ObjectLocation, act: Act, error: object_store::Error) -> Error {
    let answer = answer_of(&error);
    if answer.status != 0 {
        return answer.explain(location, act);
    }
    let cannot = format!("cannot {} {location}", act.verb());
    if let Some(transport) = cause::<reqwest::Error>(&error) {
        return transport_error(&cannot, transport);
    }
    if let Some(own) = cause::<Error>(&error) {
        // Of our own credential provider; its texts are safe.
        let told = Error::new(own.kind(), format!("{cannot}: {own}"));
        return match own.hint() {
            Some(hint) => told.with_hint(hint),
            None => told,
        };
    }
    Error::failed(format!("{cannot}: {}", kind_of(&error)))
        .with_hint("VMFERRY_LOG=object_store=debug shows what is asked; its lines may show signed URLs")
}

/// What a store has answered, as far as `object_store` tells; status 0 if it gave no answer.
pub(crate) fn answer_of(error: &object_store::Error) -> Answer {
    use object_store::Error as Store;
    let text = error.to_string();
    let mut answer = Answer::read(status_in(&text).unwrap_or(0), &text);
    if answer.status == 0 {
        answer.status = match error {
            Store::AlreadyExists { .. } => 409,
            Store::NotFound { .. } => 404,
            Store::PermissionDenied { .. } => 403,
            Store::Precondition { .. } => 412,
            Store::Unauthenticated { .. } => 401,
            _ if answer.code.is_some() => 200,
            _ => 0,
        };
    }
    answer
}

/// An error for a request that got no answer: what is below its URL, which may be a signed one.
fn transport_error(cannot: &str, error: &reqwest::Error) -> Error {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    let what = if error.is_timeout() {
        "the store did not answer in time"
    } else if error.is_connect() {
        "cannot connect to the store"
    } else {
        "the connection to the store broke"
    };
    let is_tls = cause::<rustls::Error>(error).is_some();
    let told =
        Error::new(if is_tls { ErrorKind::Failed } else { ErrorKind::Network }, format!("{cannot}: {what}"))
            .with_hint(if is_tls {
                "name the CA of the store with --store-ca-file"
            } else {
                "check the endpoint and the network; run the same command again to go on from here"
            });
    if causes.is_empty() { told } else { told.with_source(Causes(causes.join(": "))) }
}

/// The texts of causes that are not kept.
#[derive(Debug)]
struct Causes(String);

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Causes {}

/// What can be said of an error without its text.
fn kind_of(error: &object_store::Error) -> &'static str {
    match error {
        object_store::Error::InvalidPath { .. } => "its key is not one that the client can ask for",
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
            "such a store cannot do that"
        }
        _ => "the store's client failed, or its answer could not be understood",
    }
}

fn credentials_hint(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Azure => {
            "look at AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or the identity \
             of this machine; a SAS token may have run out"
        }
        Scheme::Gcs => {
            "look at GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS, or the identity of this machine"
        }
        Scheme::S3 => {
            "look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile; temporary keys may \
             have run out"
        }
    }
}

/// The text of the first element `tag`: one line of it, of bounded length.
fn element(body: &str, tag: &str) -> Option<String> {
    let (_, from) = body.split_once(&format!("<{tag}>"))?;
    let (text, _) = from.split_once("</")?;
    Some(shown(text.lines().next().unwrap_or_default().trim())).filter(|text| !text.is_empty())
}

/// Foreign text for a line of ours.
fn shown(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(MAX_SHOWN).collect()
}

/// The status in a text of `object_store`.
fn status_in(text: &str) -> Option<u16> {
    let (_, from) = text.split_once("status code: ")?;
    from.get(..3)?.parse().ok()
}

/// Characters of a store's sentence that are shown.
const MAX_SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn location(text: &str) -> ObjectLocation {
        ObjectLocation::parse(text).unwrap().unwrap()
    }

    fn text(error: &Error) -> String {
        format!("{error} | {} | {error:?}", error.hint().unwrap_or_default())
    }

    #[test]
    fn refusals_name_bucket_and_right() {
        let body =
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        for (url, act, words) in [
            ("s3://b/d", Act::Read, ["s3:GetObject", "arn:aws:s3:::b/d"]),
            ("s3://b/d", Act::ListUploads, ["s3:ListBucketMultipartUploads", "arn:aws:s3:::b"]),
            ("gs://b/d", Act::Write, ["storage.multipartUploads.create", "\"b\""]),
            ("az://b/d", Act::Read, ["Storage Blob Data Reader", "\"b\""]),
        ] {
            let error = Answer::read(403, body).explain(&location(url), act);
            let text = text(&error);
            assert!(
                words.iter().all(|word| text.contains(word)) && text.contains("AccessDenied: Access Denied"),
                "{text}"
            );
            assert_eq!(error.kind(), ErrorKind::Failed);
        }
    }

    #[test]
    fn the_token_that_a_store_repeats_is_not_shown() {
        let body = "<Error><Code>InvalidToken</Code><Message>The provided token is malformed.\nx</Message>\
                    <Token-0>t0p-s3cret</Token-0></Error>";
        let source = format!("Server returned non-2xx status code: 400 Bad Request: {body}");
        let error = object_store::Error::Generic { store: "S3", source: source.into() };
        let error = object_error(&location("s3://b/d"), Act::Write, error);
        let text = text(&error);
        assert!(text.contains("400 InvalidToken: The provided token is malformed.)"), "{text}");
        assert!(!text.contains("t0p-s3cret"), "{text}");
    }

    #[test]
    fn kinds_tell_what_is_worth_another_run() {
        let explain = |status, code: &str| {
            Answer::read(status, &format!("<Code>{code}</Code>"))
                .explain(&location("s3://b/d"), Act::Write)
                .kind()
        };
        for (status, code) in [(503, "SlowDown"), (429, ""), (500, "InternalError"), (400, "RequestTimeout")]
        {
            assert_eq!(explain(status, code), ErrorKind::Network, "{status} {code}");
        }
        assert_eq!(explain(412, "PreconditionFailed"), ErrorKind::SourceChanged);
        assert_eq!(explain(404, "NoSuchBucket"), ErrorKind::Failed);
        let moved = Answer::read(301, "<Code>PermanentRedirect</Code>").or(None, Some("eu-north-1"));
        let error = moved.explain(&location("s3://b/d"), Act::Read);
        assert!(error.hint().unwrap().contains("--store-region eu-north-1"));
    }

    #[test]
    fn an_upload_that_can_never_be_completed_is_begun_anew() {
        for (url, code) in [("s3://b/d", "InvalidPart"), ("az://b/d", "InvalidBlockList")] {
            let error =
                Answer::read(400, &format!("<Code>{code}</Code>")).explain(&location(url), Act::Complete);
            assert!(error.hint().unwrap().contains("--restart"), "{}", text(&error));
        }
    }

    #[test]
    fn any_body_is_read() {
        for body in [
            "",
            "<Code>",
            "<Code></Code>",
            "</Code><Code>",
            "<Message>\u{1b}[31mred</Message>",
            "{\"error\":{}}",
        ] {
            let answer = Answer::read(418, body);
            assert!(!answer.to_string().contains('\u{1b}') && answer.code.is_none(), "{answer}");
        }
        assert!(
            Answer::read(400, &format!("<Message>{}</Message>", "x".repeat(5000))).to_string().len() < 300
        );
    }
}
