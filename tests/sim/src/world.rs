//! The cluster: everything that servers and controllers share.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    api::resources::{Resource, Resources},
    clock,
    config::{Config, Rule},
    disk::Disk,
    fault::Faults,
    link::Link,
    log::Log,
    rng::Rng,
    store::{self, Key, Store},
    tls::{Authority, Identity},
};

/// The namespace that KubeVirt is installed in.
pub(crate) const KUBEVIRT_NAMESPACE: &str = "kubevirt";
/// The storage class that can take snapshots.
pub(crate) const SNAPSHOT_CLASS: &str = "csi-rig";
/// The default storage class, which cannot.
pub(crate) const LOCAL_CLASS: &str = "local-rig";

/// What servers and controllers share.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) resources: Resources,
    pub(crate) log: Log,
    pub(crate) api_address: SocketAddr,
    pub(crate) proxy_address: SocketAddr,
    /// Signs the API server's certificate, and those of users.
    pub(crate) api_ca: Authority,
    pub(crate) api_tls: Arc<ServerConfig>,
    pub(crate) ingress_ca_pem: String,
    pub(crate) ingress: Identity,
    pub(crate) link: Arc<Link>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// Where it runs.
    pub(crate) runtime: Handle,
    /// Ends what outlives a request: port-forwards, services' listeners.
    pub(crate) stop: CancellationToken,
}

/// What changes. Held for short, synchronous pieces of work only.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) users: Vec<User>,
    /// What the members of groups may do; groups are only impersonated.
    pub(crate) groups: HashMap<String, Vec<Rule>>,
    /// Contents of claims, by namespace and claim.
    pub(crate) volumes: HashMap<(String, String), Volume>,
    /// Contents of volume snapshots, by namespace and name.
    pub(crate) snapshots: HashMap<(String, String), Disk>,
    /// Exporters that answer, by namespace and export.
    pub(crate) exporters: BTreeMap<(String, String), Arc<Exporter>>,
    /// What the export controller remembers, by the export's uid.
    pub(crate) exports: HashMap<String, ExportMemo>,
    /// What the VM controller remembers, by namespace and name.
    pub(crate) vms: HashMap<(String, String), VmMemo>,
    pub(crate) internal_ca: Authority,
    /// The CA bundle that links carry: during a rotation the old one too.
    pub(crate) internal_bundle: String,
    pub(crate) has_external_link: bool,
    pub(crate) is_external_cert_empty: bool,
    /// The controllers rest until then, or until somebody begins a watch.
    pub(crate) held_until: Option<Instant>,
    last_event: u64,
}

/// Somebody with a token or a certificate.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) token: String,
    /// His certificate, in DER form.
    pub(crate) certificate: Option<Vec<u8>>,
    pub(crate) rules: Vec<Rule>,
}

/// What a claim holds, and how it is offered.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) disk: Disk,
}

/// A running exporter pod.
pub(crate) struct Exporter {
    pub(crate) pod_uid: String,
    pub(crate) namespace: String,
    pub(crate) export: String,
    pub(crate) service: String,
    pub(crate) secret: String,
    pub(crate) volumes: Vec<ExportedVolume>,
    pub(crate) tls: Arc<ServerConfig>,
    /// Cuts its transfers.
    pub(crate) stop: CancellationToken,
    /// Ends its connections when they are idle.
    pub(crate) drain: CancellationToken,
    /// Whether there was an external host when it started: the manifests for it need one.
    pub(crate) knew_external_host: bool,
    /// Whether the links list a manifest of a VM.
    pub(crate) has_manifest: bool,
    /// The VM of the export, as the manifest shows it; none if it is gone.
    pub(crate) vm: Option<Value>,
    /// The token that was last seen in the secret, which stays mounted when the secret is gone.
    pub(crate) last_token: Mutex<Option<Vec<u8>>>,
}

/// A volume of an export.
#[derive(Clone, Debug)]
pub(crate) struct ExportedVolume {
    /// The name in the links: the source's claim.
    pub(crate) name: String,
    /// The claim that is read, which the paths have.
    pub(crate) claim: String,
    /// Whether it is offered as raw and gzip, or else as a tree.
    pub(crate) is_disk: bool,
    pub(crate) disk: Disk,
}

/// What the export controller remembers of an export.
#[derive(Debug, Default)]
pub(crate) struct ExportMemo {
    /// Ends every transfer of the export, of earlier pods too.
    pub(crate) stop: CancellationToken,
    /// The exporter is kept from being ready until then.
    pub(crate) unready_until: Option<Instant>,
    pub(crate) is_ttl_over: bool,
}

/// What the VM controller remembers of a VM.
#[derive(Debug, Default)]
pub(crate) struct VmMemo {
    /// It never gets beyond Starting, as on a node that does not work.
    pub(crate) is_stuck: bool,
    /// Whether a VM that is started by hand (Manual, RerunOnFailure, Once) is to run.
    pub(crate) is_wanted: Option<bool>,
    /// Whether the guest agent answers.
    pub(crate) has_agent: bool,
    /// How long an instance that has ended stays.
    pub(crate) lingers: Duration,
    /// When the instance ended.
    pub(crate) ended: Option<Instant>,
    /// Whether its instance can be migrated.
    pub(crate) is_migratable: bool,
    /// The guest does not end when it is asked to, only when its grace period is over.
    pub(crate) is_deaf: bool,
    /// Since when it has been asked to.
    pub(crate) asked_to_stop: Option<Instant>,
    /// The next guest is held still from the beginning.
    pub(crate) starts_paused: bool,
    /// The instance that is to make room for another one.
    pub(crate) restarted: Option<String>,
    /// The instance that has to be restarted before the description counts.
    pub(crate) must_restart: Option<String>,
    /// The node that a guest has to leave before it gets its networks.
    pub(crate) must_leave: Option<String>,
    /// A volume migration was interrupted.
    pub(crate) needs_recovery: bool,
    /// Why it never gets beyond starting.
    pub(crate) trouble: Option<Trouble>,
}

/// What keeps an instance from running.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    /// The VM's status: `ErrorUnschedulable`, `ErrImagePull`, …
    pub(crate) status: String,
    /// In a sentence.
    pub(crate) message: String,
}

impl Trouble {
    /// The condition of the instance that tells it.
    pub(crate) fn condition(&self, now: &str) -> Value {
        let reason = if self.status == "ErrorUnschedulable" { "Unschedulable" } else { self.status.as_str() };
        json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": self.message,
            "lastProbeTime": null, "lastTransitionTime": now,
        })
    }
}

impl World {
    pub(crate) fn new(
        config: Config,
        api_address: SocketAddr,
        proxy_address: SocketAddr,
    ) -> io::Result<Self> {
        let api_ca = Authority::new("simulated-kubernetes-ca")?;
        let api_names =
            [api_address.ip().to_string(), "localhost".to_owned(), "kubernetes.default.svc".to_owned()];
        let api = api_ca.issue("kube-apiserver", &api_names, Some(&api_ca))?;
        let ingress_ca = Authority::new("simulated-ingress-ca")?;
        let mut ingress_names = vec![proxy_address.ip().to_string(), "localhost".to_owned()];
        ingress_names.extend(config.external_host.clone());
        let ingress = ingress_ca.issue("export-proxy", &ingress_names, None)?;
        let internal_ca = Authority::new("export.kubevirt.io@1")?;
        let internal_bundle = internal_ca.pem().to_owned();
        let resources = Resources::new(&config);
        let mut rng = Rng::new(config.seed);
        let admin = User {
            name: "admin".to_owned(),
            token: rng.text(b"abcdefghijklmnopqrstuvwxyz0123456789", 32),
            certificate: None,
            rules: vec![Rule::everything()],
        };
        let state = State {
            store: Store::new(),
            rng,
            faults: Faults::default(),
            users: vec![admin],
            groups: HashMap::new(),
            volumes: HashMap::new(),
            snapshots: HashMap::new(),
            exporters: BTreeMap::new(),
            exports: HashMap::new(),
            vms: HashMap::new(),
            internal_ca,
            internal_bundle,
            has_external_link: config.external_link,
            is_external_cert_empty: false,
            held_until: None,
            last_event: 0,
        };
        Ok(Self {
            config,
            resources,
            log: Log::default(),
            api_address,
            proxy_address,
            api_ca,
            api_tls: api.config,
            ingress_ca_pem: ingress_ca.pem().to_owned(),
            ingress,
            link: Arc::default(),
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            runtime: Handle::current(),
            stop: CancellationToken::new(),
        })
    }

    /// Looks at the cluster.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the cluster, and wakes watches and controllers.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let (result, revision) = {
            let mut state = self.lock();
            let result = work(&mut state);
            (result, state.store.revision())
        };
        self.changed.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
        result
    }

    /// Wakes the controllers though no object changed.
    pub(crate) fn wake(&self) {
        self.changed.send_modify(|_| {});
    }

    /// Sees every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Runs a task until it is done or the simulator ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// A resource that the controllers handle; all of them are in the table of every release.
    pub(crate) fn resource(&self, group: &str, plural: &str) -> &Resource {
        self.resources.preferred(group, plural).expect("controllers only handle resources of the table")
    }

    /// Creates an object as a controller does.
    pub(crate) fn create(&self, state: &mut State, group: &str, plural: &str, object: Value) -> Arc<Value> {
        let resource = self.resource(group, plural);
        state.store.create(resource, object, &mut state.rng)
    }

    /// Creates a namespace unless it is there.
    pub(crate) fn ensure_namespace(&self, state: &mut State, name: &str) {
        if state.store.get("/namespaces", "", name).is_none() {
            let namespace = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            });
            self.create(state, "", "namespaces", namespace);
        }
    }

    /// Writes an event about an object.
    pub(crate) fn event(
        &self,
        state: &mut State,
        about: &Value,
        component: &str,
        reason: &str,
        message: &str,
    ) {
        let now = clock::rfc3339(clock::now());
        let kind = if reason.contains("Failed") { "Warning" } else { "Normal" };
        let event = json!({
            "metadata": {
                "name": format!("{}.{:016x}", store::name(about), state.next_event()),
                "namespace": store::namespace(about),
            },
            "involvedObject": {
                "kind": about["kind"], "namespace": store::namespace(about), "name": store::name(about),
                "uid": store::uid(about), "apiVersion": about["apiVersion"],
                "resourceVersion": about["metadata"]["resourceVersion"],
            },
            "reason": reason, "message": message, "source": {"component": component},
            "firstTimestamp": now, "lastTimestamp": now, "count": 1, "type": kind, "eventTime": null,
            "reportingComponent": component, "reportingInstance": "",
        });
        self.create(state, "", "events", event);
    }
}

impl State {
    /// Whether the controllers rest.
    pub(crate) fn is_held(&self) -> bool {
        self.held_until.is_some_and(|until| Instant::now() < until)
    }

    /// The number in an event's name: nanoseconds, so that events are listed in their order.
    fn next_event(&mut self) -> u64 {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.last_event = nanos.max(self.last_event + 1);
        self.last_event
    }

    /// The key of an object that was read from the store.
    pub(crate) fn key(group: &str, plural: &str, object: &Value) -> Key {
        Key::new(&format!("{group}/{plural}"), store::namespace(object), store::name(object))
    }

    /// The rules and the name of the user with a token.
    pub(crate) fn user(&self, token: &str) -> Option<&User> {
        self.users.iter().find(|user| user.token == token)
    }

    /// Another user with these rules.
    pub(crate) fn add_user(&mut self, rules: Vec<Rule>) -> User {
        let token = self.rng.text(b"abcdefghijklmnopqrstuvwxyz0123456789", 32);
        let user = User { name: format!("user-{}", self.users.len()), token, certificate: None, rules };
        self.users.push(user.clone());
        user
    }

    /// The user who showed this certificate.
    pub(crate) fn user_of_certificate(&self, certificate: &[u8]) -> Option<&User> {
        self.users.iter().find(|user| user.certificate.as_deref() == Some(certificate))
    }
}
