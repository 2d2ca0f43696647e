//! Where the objects of a bucket are, and the signature that each request needs.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use object_store::{
    CredentialProvider,
    aws::{AwsAuthorizer, AwsCredentialProvider},
    azure::{AzureAuthorizer, AzureCredential, AzureCredentialProvider},
    client::HttpRequestBody,
    gcp::GcpCredentialProvider,
};
use reqwest::{Method, header};
use url::Url;

use super::{Act, ObjectLocation, Scheme, object_error};
use crate::error::{Error, ErrorKind, Result};

/// A bucket that can be asked.
pub(crate) struct Access {
    /// With the bucket, without a `/` behind it.
    bucket_url: String,
    credentials: Credentials,
}

/// Who asks.
pub(super) enum Credentials {
    /// Nobody.
    Anonymous(Scheme),
    /// By AWS signature version 4.
    Aws {
        /// Keys, which may be renewed.
        provider: AwsCredentialProvider,
        /// Part of the signature.
        region: String,
    },
    /// By shared key, SAS token or bearer token.
    Azure {
        /// The secret, which may be renewed.
        provider: AzureCredentialProvider,
        /// Part of the signature.
        account: String,
    },
    /// By bearer token.
    Gcs(GcpCredentialProvider),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("bucket_url", &self.bucket_url).finish_non_exhaustive()
    }
}

impl Access {
    /// The bucket at `bucket_url`.
    pub(super) fn new(bucket_url: String, credentials: Credentials) -> Self {
        Self { bucket_url, credentials }
    }

    /// Which kind of store it is.
    pub(crate) fn scheme(&self) -> Scheme {
        match &self.credentials {
            Credentials::Anonymous(scheme) => *scheme,
            Credentials::Aws { .. } => Scheme::S3,
            Credentials::Azure { .. } => Scheme::Azure,
            Credentials::Gcs(_) => Scheme::Gcs,
        }
    }

    /// The URL of the object `key`, or of the bucket if that is empty, with parameters; it has no
    /// secret in it.
    ///
    /// # Errors
    /// There is no such URL.
    pub(crate) fn url(&self, key: &str, query: &[(&str, &str)]) -> Result<Url> {
        let mut text = self.bucket_url.clone();
        if !key.is_empty() {
            text.push('/');
            encode(&mut text, key, true);
        }
        for (index, (name, value)) in query.iter().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            encode(&mut text, name, false);
            text.push('=');
            encode(&mut text, value, false);
        }
        Url::parse(&text)
            .map_err(|error| Error::usage("the endpoint of the store is no URL").with_source(error))
    }

    /// What a request must carry to be answered: the URL and the headers to send. `headers` are those
    /// that belong to the signature.
    ///
    /// # Errors
    /// There are no credentials, or they cannot be fetched or used.
    pub(crate) async fn authorize(
        &self,
        location: &ObjectLocation,
        act: Act,
        (method, url): (Method, Url),
        headers: header::HeaderMap,
        body: &Bytes,
    ) -> Result<(Url, header::HeaderMap)> {
        let failed = |error| object_error(location, act, error);
        let mut request = http::Request::new(HttpRequestBody::from(body.clone()));
        *request.method_mut() = method;
        *request.uri_mut() = url
            .as_str()
            .parse()
            .map_err(|error| Error::failed("cannot sign a request").with_source(error))?;
        *request.headers_mut() = headers;
        match &self.credentials {
            Credentials::Anonymous(_) => {}
            Credentials::Aws { provider, region } => {
                let credential = provider.get_credential().await.map_err(failed)?;
                let texts = [&credential.key_id, credential.token.as_ref().unwrap_or(&credential.key_id)];
                texts.into_iter().try_for_each(|text| check_header(text))?;
                AwsAuthorizer::new(&credential, "s3", region)
                    .try_authorize(&mut request, None)
                    .map_err(failed)?;
            }
            Credentials::Azure { provider, account } => {
                let credential = provider.get_credential().await.map_err(failed)?;
                if let AzureCredential::BearerToken(token) = &*credential {
                    check_header(token)?;
                }
                AzureAuthorizer::new(&credential, account).try_authorize(&mut request).map_err(failed)?;
            }
            Credentials::Gcs(provider) => {
                let credential = provider.get_credential().await.map_err(failed)?;
                if !credential.bearer.is_empty() {
                    let value = format!("Bearer {}", credential.bearer);
                    let mut value = header::HeaderValue::from_str(&value).map_err(|_| bad_credential())?;
                    value.set_sensitive(true);
                    request.headers_mut().insert(header::AUTHORIZATION, value);
                }
            }
        }
        let (parts, _) = request.into_parts();
        // A SAS token is part of the URL.
        let url = Url::parse(&parts.uri.to_string())
            .map_err(|error| Error::failed("cannot sign a request").with_source(error))?;
        let mut headers = parts.headers;
        for (name, value) in &mut headers {
            if *name == header::AUTHORIZATION || *name == "x-amz-security-token" {
                value.set_sensitive(true);
            }
        }
        Ok((url, headers))
    }
}

/// Fails for text that no header can carry; the signing code would panic.
pub(super) fn check_header(text: &str) -> Result<()> {
    if text.bytes().all(|byte| matches!(byte, 0x21..=0x7e)) { Ok(()) } else { Err(bad_credential()) }
}

fn bad_credential() -> Error {
    Error::usage("a key or token for the store has characters that no request can carry")
        .with_hint("a line break at its end, or quotes that belong to the shell?")
}

/// A credential provider that does not wait for ever: outside of a cloud nothing answers where a
/// machine's identity is asked for.
pub(super) struct Bounded<T> {
    inner: Arc<dyn CredentialProvider<Credential = T>>,
    /// There have been credentials: what goes wrong now may pass.
    answered: AtomicBool,
}

impl<T> Bounded<T> {
    /// `inner`, for a while.
    pub(super) fn new(inner: Arc<dyn CredentialProvider<Credential = T>>) -> Self {
        Self { inner, answered: AtomicBool::new(false) }
    }
}

impl<T> fmt::Debug for Bounded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bounded(..)")
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> CredentialProvider for Bounded<T> {
    type Credential = T;

    // What the attribute macro of the trait makes of an `async fn`.
    fn get_credential<'life0, 'async_trait>(
        &'life0 self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<T>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let what = match tokio::time::timeout(CREDENTIALS_FOR, self.inner.get_credential()).await {
                Ok(Ok(credential)) => {
                    self.answered.store(true, Relaxed);
                    return Ok(credential);
                }
                // Its text may show an answer with a token in it.
                Ok(Err(_)) => {
                    "cannot get credentials: where they should come from refuses or does not answer"
                }
                Err(_) => "cannot get credentials: where they should come from does not answer",
            };
            let kind = if self.answered.load(Relaxed) { ErrorKind::Network } else { ErrorKind::Failed };
            let error = Error::new(kind, what).with_hint(
                "put keys into the environment, name a --store-profile, or say --store-anonymous for what anybody may \
                 read; the guide to object storage lists the ways",
            );
            Err(object_store::Error::Generic { store: "credentials", source: Box::new(error) })
        })
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters, as signatures want it.
fn encode(out: &mut String, text: &str, is_path: bool) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b'/' if is_path => out.push('/'),
            _ => {
                let digit = |nibble: u8| char::from(HEX.get(usize::from(nibble)).copied().unwrap_or(b'0'));
                out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// A machine's own service for its identity answers in milliseconds, a token service in a second.
const CREDENTIALS_FOR: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use object_store::{StaticCredentialProvider, aws::AwsCredential};

    use super::*;

    fn access(token: Option<&str>) -> Access {
        let credential = AwsCredential {
            key_id: "KEY".into(),
            secret_key: "s3cret".into(),
            token: token.map(str::to_owned),
        };
        let provider = Arc::new(StaticCredentialProvider::new(credential));
        Access::new("https://host/bucket".into(), Credentials::Aws { provider, region: "r-1".into() })
    }

    #[test]
    fn urls_are_encoded_as_signatures_want_it() {
        let url = access(None).url("a b/ü+?#%20", &[("prefix", "x/y z"), ("uploads", "")]).unwrap();
        assert_eq!(url.as_str(), "https://host/bucket/a%20b/%C3%BC%2B%3F%23%2520?prefix=x%2Fy%20z&uploads=");
        assert_eq!(access(None).url("", &[]).unwrap().as_str(), "https://host/bucket");
    }

    #[tokio::test]
    async fn requests_are_signed_and_signatures_are_not_shown() {
        let location = ObjectLocation::parse("s3://bucket/key").unwrap().unwrap();
        let sign = async |access: Access| {
            let url = access.url("key", &[]).unwrap();
            let shown = format!("{access:?}");
            let signed = access
                .authorize(&location, Act::Read, (Method::GET, url), header::HeaderMap::new(), &Bytes::new())
                .await;
            (signed, shown)
        };
        let (signed, shown) = sign(access(Some("t0ken"))).await;
        let (_, headers) = signed.unwrap();
        let authorization = headers.get(header::AUTHORIZATION).unwrap();
        assert!(authorization.to_str().unwrap().starts_with("AWS4-HMAC-SHA256 Credential=KEY/"));
        assert_eq!(headers.get("x-amz-security-token").unwrap(), "t0ken");
        let shown = format!("{shown} {headers:?}");
        assert!(
            !shown.contains("t0ken") && !shown.contains("Signature") && !shown.contains("s3cret"),
            "{shown}"
        );
        let (signed, _) = sign(access(Some("broken\n"))).await;
        assert!(!signed.unwrap_err().to_string().contains("broken"));
    }

    /// Credentials that are refused, come, do not come, and are refused: in this order.
    #[derive(Debug)]
    struct Moody(AtomicU32);

    impl CredentialProvider for Moody {
        type Credential = u32;

        fn get_credential<'life0, 'async_trait>(
            &'life0 self,
        ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<u32>>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async {
                match self.0.fetch_add(1, Relaxed) {
                    1 => Ok(Arc::new(7)),
                    2 => std::future::pending().await,
                    _ => Err(object_store::Error::Generic { store: "x", source: "t0ken".into() }),
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_not_waited_for_for_ever() {
        let location = ObjectLocation::parse("s3://bucket/key").unwrap().unwrap();
        let bounded = Bounded::new(Arc::new(Moody(AtomicU32::new(0))));
        let ask = async || {
            bounded.get_credential().await.map_err(|error| object_error(&location, Act::Read, error))
        };
        let error = ask().await.unwrap_err();
        assert!(error.kind() == ErrorKind::Failed && error.hint().unwrap().contains("--store-anonymous"));
        assert_eq!(*ask().await.unwrap(), 7);
        // There were some: another try may help.
        for _ in 0..2 {
            let error = ask().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Network);
            assert!(!format!("{error:?}").contains("t0ken"), "{error:?}");
        }
    }
}
