//! A client that follows links which change.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Broken, Endpoint, HttpOptions, Links,
    client::{Client, Trouble},
    retry::Retry,
};
use crate::error::{Error, Result};

/// Which link of an [`Endpoint`] is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// The compressed disk.
    Gzip,
    /// The disk.
    Raw,
}

impl Link {
    fn url(self, endpoint: &Endpoint) -> Option<&url::Url> {
        match self {
            Self::Gzip => endpoint.gzip.as_ref(),
            Self::Raw => endpoint.raw.as_ref(),
        }
    }
}

/// Where a disk is fetched from: one URL, or what [`Links`] say at the moment.
#[derive(Debug)]
pub(super) struct Connection {
    current: Mutex<Arc<Client>>,
    followed: Option<Followed>,
}

#[derive(Debug)]
struct Followed {
    links: Arc<dyn Links>,
    link: Link,
    options: HttpOptions,
    /// Requests fail together; the links are read again once.
    renewing: tokio::sync::Mutex<()>,
}

impl Connection {
    /// One URL that stays.
    pub(super) fn fixed(client: Client) -> Self {
        Self { current: Mutex::new(Arc::new(client)), followed: None }
    }

    /// One of the links that change; `endpoint` is where they are now.
    pub(super) fn followed(
        links: Arc<dyn Links>,
        link: Link,
        endpoint: &Endpoint,
        options: &HttpOptions,
    ) -> Result<Self> {
        let client = connect(&*links, link, endpoint, options)?;
        let renewing = tokio::sync::Mutex::new(());
        let followed = Followed { links, link, options: options.clone(), renewing };
        Ok(Self { current: Mutex::new(Arc::new(client)), followed: Some(followed) })
    }

    /// The client to use now.
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The links, if these are followed.
    pub(super) fn links(&self) -> Option<&Arc<dyn Links>> {
        self.followed.as_ref().map(|followed| &followed.links)
    }

    /// Waits until it is time for the next try, and sees to it that it uses what is right by then.
    ///
    /// # Errors
    /// There is no use in another try.
    pub(super) async fn recover(&self, used: &Client, retry: &mut Retry, trouble: Trouble) -> Result<()> {
        let Some(followed) = &self.followed else { return retry.wait(trouble).await };
        match trouble {
            Trouble::Fatal(error) => Err(error),
            Trouble::Stale(error) => {
                if self.renew(followed, used, &error).await? {
                    retry.renewed();
                    return Ok(());
                }
                // The same links again: a proxy may be behind what the cluster says, for a moment.
                retry.wait(Trouble::Wrong(error)).await
            }
            wrong @ Trouble::Wrong(_) => retry.wait(wrong).await,
            Trouble::Transient { error, retry_after, tries } => {
                let told = Error::new(error.kind(), error.to_string());
                retry.wait(Trouble::Transient { error, retry_after, tries }).await?;
                if self.renew(followed, used, &told).await? {
                    retry.renewed();
                }
                Ok(())
            }
        }
    }

    /// Reads the links again; whether they are others than `used` was made for.
    async fn renew(&self, followed: &Followed, used: &Client, error: &Error) -> Result<bool> {
        let _turn = followed.renewing.lock().await;
        if self.client().generation() != used.generation() {
            return Ok(true);
        }
        let broken = Broken { generation: used.generation(), error };
        let endpoint = followed.links.endpoint(Some(broken)).await?;
        if endpoint.generation == used.generation() {
            return Ok(false);
        }
        let client = connect(&*followed.links, followed.link, &endpoint, &followed.options)?;
        tracing::info!(source = %followed.links.name(), link = %client.name(), "the links have changed");
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(client);
        Ok(true)
    }
}

fn connect(links: &dyn Links, link: Link, endpoint: &Endpoint, options: &HttpOptions) -> Result<Client> {
    let url = link.url(endpoint).ok_or_else(|| {
        Error::failed(format!(
            "{} has no link of format {} any more",
            links.name(),
            if link == Link::Raw { "raw" } else { "gzip" }
        ))
        .with_hint("the exporter's version has changed, or the volume's annotations: export anew")
    })?;
    Client::linked(url, endpoint, options)
}
