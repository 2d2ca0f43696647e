//! How the exporter is reached: through its Ingress, inside the cluster, or by a port-forward.

use std::{sync::Arc, time::Duration};

use super::{Session, Told, config::in_cluster};
use crate::{
    error::{Error, ErrorKind, Result},
    source::{self, HttpOptions, Links, Source, SourceOptions, Transfer},
};

/// How the user wants the exporter to be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Whichever works, the fastest first.
    #[default]
    Auto,
    /// Through the cluster's Ingress or Route.
    External,
    /// By the service's name, from inside the cluster.
    Internal,
    /// Through the API server, which works wherever it works.
    PortForward,
}

impl Reach {
    /// All of them, with the names they have on the command line.
    pub const ALL: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("external", Self::External),
        ("internal", Self::Internal),
        ("port-forward", Self::PortForward),
    ];

    /// The ways that will be tried, in this order, in words.
    pub fn order(self, service_url: bool) -> Vec<&'static str> {
        self.ways(service_url, in_cluster()).into_iter().map(Way::name).collect()
    }

    /// The ways to try, in this order.
    fn ways(self, service_url: bool, in_cluster: bool) -> Vec<Way> {
        match self {
            _ if service_url => vec![Way::Service],
            Self::External => vec![Way::External],
            Self::Internal => vec![Way::Internal],
            Self::PortForward => vec![Way::Forward],
            Self::Auto if in_cluster => vec![Way::Internal, Way::External, Way::Forward],
            Self::Auto => vec![Way::External, Way::Forward],
        }
    }
}

/// A way to the exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    External,
    Forward,
    Internal,
    Service,
}

impl Way {
    /// What the link is called that is needed for it.
    pub(super) fn link_name(self) -> &'static str {
        if self == Self::External { "external" } else { "internal" }
    }

    pub(super) fn hint_if_absent(self) -> &'static str {
        match self {
            Self::External => {
                "there is no Ingress or Route to virt-exportproxy: take --reach port-forward, or run this in the cluster"
            }
            _ => "its exporter is not ready: 'kubectl describe vmexport'",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::External => "external link",
            Self::Forward => "port-forward through the API server",
            Self::Internal => "internal link",
            Self::Service => "address given by --service-url",
        }
    }
}

/// The way that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachChoice {
    /// What it is called.
    pub way: &'static str,
    /// Size in bytes of the disk that was asked for.
    pub size: Option<u64>,
}

impl Session {
    /// Finds a way to the exporter: asks for the disk of `claim` over one after the other, which
    /// proves size, token, path and TLS at once.
    ///
    /// # Errors
    /// None works; what was wrong with each.
    pub async fn choose(
        self: &Arc<Self>,
        reach: Reach,
        claim: &str,
        http: &HttpOptions,
    ) -> Result<ReachChoice> {
        let ways = reach.ways(self.options.service_url.is_some(), in_cluster());
        let mut failed: Vec<(Way, Error)> = Vec::new();
        for way in ways {
            if way == Way::External
                && reach == Reach::Auto
                && self.ready().await?.status.links.external.is_none()
            {
                tracing::debug!("there is no external link");
                continue;
            }
            self.state.lock().await.way = Some(way);
            match self.size_of(claim, http).await {
                Ok(size) => {
                    self.state.lock().await.begun = true;
                    self.tell(Told::Reached(format!(
                        "{}/{} by {}",
                        self.namespace(),
                        self.name(),
                        way.name()
                    )));
                    return Ok(ReachChoice { way: way.name(), size });
                }
                Err(error) if is_final(error.kind()) => return Err(error),
                Err(error) => {
                    tracing::info!(way = way.name(), %error, "the exporter cannot be reached so");
                    failed.push((way, error));
                }
            }
        }
        Err(unreachable(failed))
    }

    /// Every way that there may be from here.
    pub(super) fn all_ways(&self) -> Vec<Way> {
        let service = self.options.service_url.is_some().then_some(Way::Service);
        service.into_iter().chain(Reach::Auto.ways(false, in_cluster())).collect()
    }

    /// Size of a disk, as the exporter says over this way.
    pub(super) async fn size_by(
        self: &Arc<Self>,
        way: Way,
        claim: &str,
        http: &HttpOptions,
    ) -> Result<Option<u64>> {
        if way == Way::External && self.ready().await?.status.links.external.is_none() {
            return Err(Error::new(ErrorKind::Cluster, "the export has no external link")
                .with_hint(way.hint_if_absent()));
        }
        self.state.lock().await.way = Some(way);
        self.size_of(claim, http).await
    }

    /// Size of a disk, as the exporter says.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn size_of(self: &Arc<Self>, claim: &str, http: &HttpOptions) -> Result<Option<u64>> {
        let links: Arc<dyn Links> = Arc::new(self.links(claim).await?);
        let http = HttpOptions {
            retry_for: http.retry_for.min(PROBE_FOR),
            stall_timeout: http.stall_timeout.min(PROBE_FOR),
            ..http.clone()
        };
        let options = SourceOptions { http, ..SourceOptions::default() };
        let opened = source::open_links(links, Transfer::Raw, true, &options).await?;
        Ok(match opened.source {
            Source::Random(plan) => Some(plan.size()),
            Source::Stream(stream) => stream.size(),
        })
    }
}

/// Errors that no other way would be without.
fn is_final(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Interrupted | ErrorKind::SourceChanged | ErrorKind::TimedOut)
}

fn unreachable(mut failed: Vec<(Way, Error)>) -> Error {
    let Some((way, last)) = failed.pop() else {
        return Error::new(ErrorKind::Cluster, "there is no way to the exporter")
            .with_hint("take --reach port-forward, or run this in the cluster");
    };
    let last = match (way, last.kind()) {
        (Way::Internal, ErrorKind::Network) if !in_cluster() => last.with_further_hint(
            "only in the cluster are its services known by name: run this there, or take --reach port-forward",
        ),
        _ => last,
    };
    let others: Vec<String> = failed.iter().map(|(way, error)| format!("{}: {error}", way.name())).collect();
    if others.is_empty() {
        last
    } else {
        last.with_further_hint(format!("before that: {}", others.join("; ")))
    }
}

/// An exporter that is ready answers within moments.
const PROBE_FOR: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sensible_order() {
        use Way::{External, Forward, Internal, Service};
        for (reach, service, inside, ways) in [
            (Reach::Auto, false, false, &[External, Forward][..]),
            (Reach::Auto, false, true, &[Internal, External, Forward]),
            (Reach::External, false, true, &[External]),
            (Reach::Internal, false, false, &[Internal]),
            (Reach::PortForward, false, true, &[Forward]),
            (Reach::Auto, true, true, &[Service]),
        ] {
            assert_eq!(reach.ways(service, inside), ways, "{reach:?}");
        }
    }

    #[test]
    fn all_that_was_tried_is_told() {
        let failed = vec![
            (Way::External, Error::failed("bad certificate")),
            (Way::Forward, Error::failed("no right")),
        ];
        let error = unreachable(failed);
        assert_eq!(error.to_string(), "no right");
        assert!(error.hint().unwrap().contains("external link: bad certificate"));
        assert_eq!(unreachable(Vec::new()).kind(), ErrorKind::Cluster);
    }
}
