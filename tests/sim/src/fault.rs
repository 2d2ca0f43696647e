//! Faults on request: what goes wrong with which of the next requests, and what happens in the cluster.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something that goes wrong with the next matching requests.
///
/// Without restrictions it matches the next request for the content of any volume. Several faults may meet
/// the same request; all of them act.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Fault {
    /// What goes wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// Only this volume, by the name of its claim: the original one, or for snapshots the restored one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Only this export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
    /// Only this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only this link; `None` is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// Only API requests whose path holds this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Which server: the data path, or the Kubernetes API.
    #[serde(default)]
    pub target: Target,
    /// So many matching requests pass unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// How many requests are hit; 0 is all of them.
    #[serde(default = "one")]
    pub times: u32,
}

impl Fault {
    /// A fault of the next request for a volume's content.
    #[must_use]
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            volume: None,
            export: None,
            namespace: None,
            link: None,
            path: None,
            target: Target::Data,
            skip: 0,
            times: 1,
        }
    }

    /// Only for this volume, by the name of its claim.
    #[must_use]
    pub fn volume(mut self, claim: &str) -> Self {
        self.volume = Some(claim.to_owned());
        self
    }

    /// Only for this export.
    #[must_use]
    pub fn export(mut self, namespace: &str, export: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self.export = Some(export.to_owned());
        self
    }

    /// Only for this link.
    #[must_use]
    pub fn link(mut self, link: Link) -> Self {
        self.link = Some(link);
        self
    }

    /// Requests to the API server, watches included, instead of the data path.
    /// Of the kinds only [`FaultKind::Answer`], [`FaultKind::Delay`], [`FaultKind::Status`], [`FaultKind::Garbage`] and
    /// [`FaultKind::CutAfter`] act there.
    #[must_use]
    pub fn api(mut self) -> Self {
        self.target = Target::Api;
        self
    }

    /// Requests to the API server whose path holds this, as [`Fault::api`].
    #[must_use]
    pub fn api_path(mut self, part: &str) -> Self {
        self.path = Some(part.to_owned());
        self.api()
    }

    /// The first `count` matching requests pass.
    #[must_use]
    pub fn skip(mut self, count: u32) -> Self {
        self.skip = count;
        self
    }

    /// Hits `count` requests; 0 is all.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.times = count;
        self
    }
}

fn one() -> u32 {
    1
}

/// What goes wrong with a request.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultKind {
    /// The API server answers this, whatever it was asked.
    Answer {
        /// The status.
        code: u16,
        /// The body.
        text: String,
    },
    /// One byte of the disk, at this offset, arrives changed (raw and gzip).
    Corrupt {
        /// Offset in the disk.
        offset: u64,
    },
    /// The connection breaks after this many bytes of the body.
    CutAfter {
        /// Bytes of the body that are sent.
        bytes: u64,
    },
    /// The answer comes later.
    Delay {
        /// How much later.
        #[serde(rename = "for_ms", with = "millis")]
        pause: Duration,
    },
    /// One byte of the body, compressed or not, arrives changed.
    Garble {
        /// Offset in the body.
        at: u64,
    },
    /// The API server answers 200 with a page of something else, as a captive proxy does.
    Garbage,
    /// Range is ignored: 200 with the whole disk.
    IgnoreRange,
    /// The gzip stream ends well-formed after this many bytes of the disk.
    ShortGzip {
        /// Bytes of the disk in the stream.
        bytes: u64,
    },
    /// The body comes at this rate.
    Slow {
        /// Bytes a second, for each response by itself.
        bytes_per_second: u64,
    },
    /// The body pauses once.
    Stall {
        /// Bytes of the body before the pause.
        after_bytes: u64,
        /// Length of the pause.
        #[serde(rename = "for_ms", with = "millis")]
        pause: Duration,
    },
    /// Another status with an empty body: 401, 404, 500, 502, 503, 504.
    Status {
        /// The status.
        code: u16,
    },
    /// A 206 whose Content-Range is one byte off, with the bytes that were asked for.
    WrongContentRange,
}

impl FaultKind {
    /// Whether it concerns bodies, which only GET has.
    pub(crate) fn needs_body(&self) -> bool {
        !matches!(self, Self::Delay { .. } | Self::Status { .. })
    }
}

/// A kind of link of a volume.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// `disk.tar.gz`.
    Archive,
    /// `dir`.
    Dir,
    /// `disk.img.gz`.
    Gzip,
    /// `disk.img`.
    Raw,
}

/// Which server a fault is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The Kubernetes API.
    Api,
    /// Export proxy and exporter.
    #[default]
    Data,
}

/// Something that happens in the cluster, at once.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// `links.external.cert` is empty from now on, or no longer.
    EmptyExternalCert {
        /// Whether it is empty.
        empty: bool,
    },
    /// The TTL of an export is over now: it is deleted and its transfers are cut.
    ExpireTtl {
        /// Where the export is.
        namespace: String,
        /// The export.
        export: String,
    },
    /// The Ingress to the export proxy goes or comes. Exporters that ran before it came do not know it, and
    /// answer 404 to `/external/manifests/*`.
    ExternalLink {
        /// Whether there is one.
        present: bool,
    },
    /// The migrations of a VM that are going on fail.
    FailMigration {
        /// Where the VM is.
        namespace: String,
        /// The VM.
        name: String,
        /// Why.
        reason: String,
    },
    /// The exporter pod fails, as when its memory runs out: its transfers are cut, the export is Terminated for a
    /// moment, and the controller makes a new pod.
    FailPod {
        /// Where the export is.
        namespace: String,
        /// The export.
        export: String,
    },
    /// The guest of a VM ends by itself: what follows is up to the run strategy.
    EndGuest {
        /// Where the VM is.
        namespace: String,
        /// The VM.
        name: String,
        /// Whether it fails, or shuts down.
        failed: bool,
    },
    /// Old resource versions are forgotten: watches that go on from them get 410.
    ForgetHistory,
    /// The exporter is not ready for a while: links go, the proxy answers 503, transfers go on.
    LinksVanish {
        /// Where the export is.
        namespace: String,
        /// The export.
        export: String,
        /// For how long.
        #[serde(rename = "for_ms", with = "millis")]
        pause: Duration,
    },
    /// The exporter pod is killed, its transfers are cut, and the controller makes a new one.
    ReplacePod {
        /// Where the export is.
        namespace: String,
        /// The export.
        export: String,
    },
    /// A new internal CA, and new exporter pods with new certificates. Running transfers finish, as they do
    /// when an exporter reaches its deadline.
    RotateCertificate,
    /// The link to the data path gets a rate that all transfers share, a latency that each request has, and a
    /// stall each second. Zeros take them away.
    ShapeLink {
        /// Bytes a second; 0 is no limit.
        bytes_per_second: u64,
        /// What each request takes at least.
        #[serde(default, rename = "latency_ms", with = "millis")]
        latency: Duration,
        /// How long nothing moves, once a second.
        #[serde(default, rename = "stall_ms", with = "millis")]
        stall: Duration,
    },
    /// The VM starts.
    StartVm {
        /// Where the VM is.
        namespace: String,
        /// The VM.
        name: String,
    },
    /// The VM stops.
    StopVm {
        /// Where the VM is.
        namespace: String,
        /// The VM.
        name: String,
    },
    /// The token in the export's secret gets junk around it, as a careless `echo` does: every request is 401.
    TokenJunk {
        /// Where the export is.
        namespace: String,
        /// The export.
        export: String,
        /// Put before the token.
        #[serde(default)]
        before: String,
        /// Put behind the token.
        #[serde(default)]
        after: String,
    },
}

mod millis {
    //! Durations as whole milliseconds.

    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// What a request of the data path is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) export: &'a str,
    /// The claim that is read, and the name in the links.
    pub(crate) volume: [&'a str; 2],
    pub(crate) link: Link,
    pub(crate) has_body: bool,
}

/// The faults that have been ordered and not yet used up.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes what hits a request for a volume.
    pub(crate) fn for_data(&mut self, subject: &Subject<'_>) -> Vec<FaultKind> {
        self.take(|fault| {
            let matches = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
            fault.target == Target::Data
                && matches(&fault.namespace, subject.namespace)
                && matches(&fault.export, subject.export)
                && subject.volume.iter().any(|volume| matches(&fault.volume, volume))
                && fault.link.is_none_or(|link| link == subject.link)
                && (subject.has_body || !fault.kind.needs_body())
                && is_for_link(&fault.kind, subject.link)
        })
    }

    /// Takes what hits a request to the API server.
    pub(crate) fn for_api(&mut self, path: &str) -> Vec<FaultKind> {
        self.take(|fault| {
            fault.target == Target::Api && fault.path.as_deref().is_none_or(|part| path.contains(part))
        })
    }

    fn take(&mut self, is_hit: impl Fn(&Fault) -> bool) -> Vec<FaultKind> {
        let mut taken = Vec::new();
        self.0.retain_mut(|fault| {
            if !is_hit(fault) {
                return true;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return true;
            }
            taken.push(fault.kind.clone());
            if fault.times == 0 {
                return true;
            }
            fault.times -= 1;
            fault.times > 0
        });
        taken
    }
}

/// A fault that makes no sense on a link waits for one where it does.
fn is_for_link(kind: &FaultKind, link: Link) -> bool {
    match kind {
        FaultKind::ShortGzip { .. } => link == Link::Gzip,
        FaultKind::IgnoreRange | FaultKind::WrongContentRange => matches!(link, Link::Raw | Link::Dir),
        FaultKind::Corrupt { .. } => link != Link::Archive,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(volume: &str, link: Link) -> Subject<'_> {
        Subject { namespace: "ns", export: "e", volume: [volume, "named"], link, has_body: true }
    }

    #[test]
    fn a_fault_hits_as_often_as_it_says() {
        let mut faults = Faults::default();
        faults.add(Fault::new(FaultKind::CutAfter { bytes: 3 }).volume("a").skip(1).times(2));
        let mut hits = |volume| faults.for_data(&subject(volume, Link::Raw)).len();
        assert_eq!([hits("b"), hits("a"), hits("a"), hits("b"), hits("a"), hits("a")], [0, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn a_fault_waits_for_a_link_it_makes_sense_on() {
        let mut faults = Faults::default();
        faults.add(Fault::new(FaultKind::ShortGzip { bytes: 3 }));
        assert!(faults.for_data(&subject("a", Link::Raw)).is_empty());
        assert_eq!(faults.for_data(&subject("a", Link::Gzip)).len(), 1);
    }

    #[test]
    fn faults_are_json() {
        let fault: Fault = serde_json::from_str(
            r#"{"kind": "stall", "after_bytes": 5, "for_ms": 250, "volume": "root", "link": "raw"}"#,
        )
        .unwrap();
        let pause = Duration::from_millis(250);
        assert_eq!(
            fault,
            Fault::new(FaultKind::Stall { after_bytes: 5, pause }).volume("root").link(Link::Raw)
        );
        let action: Action = serde_json::from_str(r#"{"action": "rotate-certificate"}"#).unwrap();
        assert_eq!(action, Action::RotateCertificate);
    }
}
