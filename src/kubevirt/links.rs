//! The links of a volume, read anew whenever a transfer breaks.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use url::Url;

use super::{
    Session,
    forward::Forward,
    reach::Way,
    session::State,
    types::{ExportLinks, VmExport},
};
use crate::{
    error::{Error, ErrorKind, Result},
    secret::Secret,
    source::{BoxFuture, Broken, Endpoint, Links, SourceIdentity},
};

/// One volume of a [`Session`].
pub struct VolumeLinks {
    session: Arc<Session>,
    claim: String,
    identity: SourceIdentity,
}

impl fmt::Debug for VolumeLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeLinks").field("session", &self.session).field("claim", &self.claim).finish()
    }
}

impl Session {
    /// The links of the volume with this claim.
    ///
    /// # Errors
    /// The claim does not exist, or the cluster cannot be asked.
    pub async fn links(self: &Arc<Self>, claim: &str) -> Result<VolumeLinks> {
        let identity = self.identity_of(claim).await?;
        Ok(VolumeLinks { session: Arc::clone(self), claim: claim.to_owned(), identity })
    }

    /// Where a volume is now; waits until it is somewhere.
    async fn endpoint(&self, claim: &str, broken: bool) -> Result<Endpoint> {
        let mut guard = self.state.lock().await;
        self.check_open()?;
        let state = &mut *guard;
        if broken && state.begun {
            self.check_source().await?;
        }
        let mut export = self.wait_ready(state).await?;
        if state.way == Some(Way::External) && export.status.links.external.is_none() {
            export = self.wait_external(state, export).await?;
        }
        if broken || state.token.is_none() {
            state.token = Some(self.read_token(&export).await?);
        }
        let offer = self.offer(state, &export, claim).await?;
        let generation = match state.offers.get(claim) {
            Some((generation, last)) if *last == offer => *generation,
            Some((generation, _)) => generation + 1,
            None => 0,
        };
        let endpoint = offer.endpoint(generation);
        state.offers.insert(claim.to_owned(), (generation, offer));
        Ok(endpoint)
    }

    async fn offer(&self, state: &mut State, export: &VmExport, claim: &str) -> Result<Offer> {
        let name = format!("{}/{}", self.namespace(), export.metadata.name);
        let way = state.way.unwrap_or(Way::Internal);
        let links = &export.status.links;
        let links = if way == Way::External { links.external.as_ref() } else { links.internal.as_ref() };
        let links = links.ok_or_else(|| {
            Error::new(ErrorKind::Cluster, format!("the export {name} has no {} link", way.link_name()))
                .with_hint(way.hint_if_absent())
        })?;
        let (raw, gzip) = urls(links, claim, &name)?;
        let token = state.token.clone().unwrap_or_else(|| Secret::new(""));
        let beside = (!links.cert.trim().is_empty()).then(|| links.cert.clone().into_bytes());
        let authorities = self.options.authorities.clone().or(beside);
        let mut offer =
            Offer { raw, gzip, authorities, insecure: self.options.insecure, connect_to: None, token };
        match way {
            Way::External | Way::Internal => {}
            Way::Forward => {
                let service =
                    export.status.service_name.clone().or_else(|| offer.service()).ok_or_else(|| {
                        Error::failed(format!("the export {name} does not name its service"))
                    })?;
                let forward = match state.forward.take().filter(|forward| forward.service() == service) {
                    Some(forward) => forward,
                    None => Arc::new(Forward::start(&self.cluster, &service).await?),
                };
                offer.connect_to = Some(forward.address());
                state.forward = Some(forward);
            }
            Way::Service => self.redirect(&mut offer).await?,
        }
        Ok(offer)
    }

    /// Sends requests to the address that the user named. TLS verifies the service's own name; with a
    /// CA of the user's own, the name that the user gave.
    async fn redirect(&self, offer: &mut Offer) -> Result<()> {
        let Some(service) = &self.options.service_url else { return Ok(()) };
        let (Some(host), Some(port)) = (service.host_str(), service.port_or_known_default()) else {
            return Err(Error::usage(format!("--service-url {service} names no host")));
        };
        if self.options.authorities.is_some() {
            for url in [&mut offer.raw, &mut offer.gzip].into_iter().flatten() {
                // Neither fails for an https:// URL.
                let _ = url.set_host(Some(host));
                let _ = url.set_port(Some(port));
            }
            return Ok(());
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((bare, port)).await.map_err(|error| {
            Error::new(ErrorKind::Network, format!("cannot find {host}, which --service-url names"))
                .with_source(error)
        })?;
        // Always the same one: another address counts as another link, and gets the patience of one.
        offer.connect_to = found.min();
        Ok(())
    }

    /// The link from outside appears with the Ingress or Route, or never.
    async fn wait_external(&self, state: &mut State, mut export: VmExport) -> Result<VmExport> {
        let start = tokio::time::Instant::now();
        while export.status.links.external.is_none() {
            let left = EXTERNAL_WAIT.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            let (name, version) = (&export.metadata.name, &export.metadata.resource_version);
            self.pause_until(self.cluster.changed(&self.exports, name, version, left)).await;
            export = self.wait_ready(state).await?;
        }
        Ok(export)
    }
}

/// Where a volume is, without a number.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Offer {
    raw: Option<Url>,
    gzip: Option<Url>,
    authorities: Option<Vec<u8>>,
    insecure: bool,
    connect_to: Option<SocketAddr>,
    token: Secret,
}

impl Offer {
    fn endpoint(&self, generation: u64) -> Endpoint {
        Endpoint {
            generation,
            raw: self.raw.clone(),
            gzip: self.gzip.clone(),
            authorities: self.authorities.clone(),
            insecure: self.insecure,
            connect_to: self.connect_to,
            token: self.token.clone(),
        }
    }

    /// The service that an internal link leads to.
    fn service(&self) -> Option<String> {
        let host = self.raw.as_ref().or(self.gzip.as_ref())?.host_str()?;
        host.split('.').next().map(str::to_owned)
    }
}

/// The links to the disk of a claim and to its compressed form.
fn urls(links: &ExportLinks, claim: &str, export: &str) -> Result<(Option<Url>, Option<Url>)> {
    let volume = links.volumes.iter().find(|volume| volume.name == claim).ok_or_else(|| {
        let names: Vec<&str> = links.volumes.iter().map(|volume| volume.name.as_str()).collect();
        Error::new(ErrorKind::Cluster, format!("the export {export} has no volume {claim}"))
            .with_hint(format!("it has: {}", names.join(", ")))
    })?;
    let parsed = |text: &str| {
        Url::parse(text.trim())
            .ok()
            .filter(|url| url.scheme() == "https" && url.host_str().is_some())
            .ok_or_else(|| {
                Error::failed(format!(
                    "the export {export} has a link for volume {claim} that is no https:// URL"
                ))
            })
    };
    let gzip = volume.url("gzip").map(parsed).transpose()?;
    let raw = match (volume.url("raw"), volume.url("dir")) {
        (Some(raw), _) => Some(parsed(raw)?),
        // A claim that nobody marked as a disk may be one all the same. Without the slash in between
        // the server would answer with a path of its own.
        (None, Some(directory)) if gzip.is_none() => {
            Some(parsed(&format!("{}/{DISK_FILE}", directory.trim().trim_end_matches('/')))?)
        }
        (None, _) => None,
    };
    Ok((raw, gzip))
}

impl Links for VolumeLinks {
    fn name(&self) -> String {
        format!("{}/{}/{}", self.session.namespace(), self.session.name(), self.claim)
    }

    fn endpoint(&self, broken: Option<Broken<'_>>) -> BoxFuture<'_, Result<Endpoint>> {
        if let Some(broken) = broken {
            tracing::debug!(volume = %self.claim, error = %broken.error, "reading the links again");
        }
        Box::pin(self.session.endpoint(&self.claim, broken.is_some()))
    }

    fn identity(&self) -> SourceIdentity {
        self.identity.clone()
    }

    fn check_unchanged(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.session.check_open()?;
            let now = self.session.identity_of(&self.claim).await?;
            if now != self.identity {
                return Err(Error::new(
                    ErrorKind::SourceChanged,
                    format!("the claim {}/{} was made anew or resized", self.session.namespace(), self.claim),
                )
                .with_hint("start again with what is there now: --restart"));
            }
            self.session.check_source().await
        })
    }
}

/// What KubeVirt calls a disk on a file system.
const DISK_FILE: &str = "disk.img";

/// How long a link from outside is waited for once the others are there.
const EXTERNAL_WAIT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubevirt::types::{LinkFormat, LinkVolume};

    fn links(formats: &[(&str, &str)]) -> ExportLinks {
        let formats = formats
            .iter()
            .map(|&(format, url)| LinkFormat { format: format.into(), url: url.into() })
            .collect();
        ExportLinks { cert: String::new(), volumes: vec![LinkVolume { name: "root".into(), formats }] }
    }

    #[test]
    fn links_are_taken_as_they_are() {
        let text = |url: Option<Url>| url.map(String::from);
        let (raw, gzip) = urls(
            &links(&[
                ("gzip", "https://h:8443/volumes/root/disk.img.gz"),
                ("raw", "https://h/volumes/root/disk.img"),
            ]),
            "root",
            "demo/x",
        )
        .unwrap();
        assert_eq!(text(raw).as_deref(), Some("https://h/volumes/root/disk.img"));
        assert_eq!(text(gzip).as_deref(), Some("https://h:8443/volumes/root/disk.img.gz"));
    }

    #[test]
    fn a_claim_without_a_mark_is_looked_for_among_its_files() {
        for directory in ["https://h/volumes/root/dir", "https://h/volumes/root/dir/"] {
            let offered = links(&[("dir", directory), ("tar.gz", "https://h/volumes/root/disk.tar.gz")]);
            let (raw, gzip) = urls(&offered, "root", "demo/x").unwrap();
            assert_eq!(raw.unwrap().as_str(), "https://h/volumes/root/dir/disk.img");
            assert_eq!(gzip, None);
        }
    }

    #[test]
    fn links_that_are_none_are_refused() {
        for wrong in ["", "http://h/x", "file:///etc/passwd", "h/x"] {
            assert!(urls(&links(&[("raw", wrong)]), "root", "demo/x").is_err(), "{wrong}");
        }
        let error = urls(&links(&[]), "data", "demo/x").unwrap_err();
        assert!(error.to_string().contains("data") && error.hint().unwrap().contains("root"), "{error}");
    }
}
