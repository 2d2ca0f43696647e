//! The simulator: starting it, putting things in, making things go wrong, looking at what came.

use std::{io, net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::JoinSet,
};

use crate::{
    api, cluster,
    config::{Config, Rule},
    control::{self, actions, vm as vm_control},
    data,
    disk::Disk,
    fault::{Action, Fault},
    http,
    log::LoggedRequest,
    store::Key,
    vm::{self, PvcKind, Vm},
    world::{SNAPSHOT_CLASS, User, World},
};

/// A simulated cluster, which lives until it is dropped.
///
/// It runs on the tokio runtime it was started on. All methods may be called from any thread.
pub struct Simulator {
    world: Arc<World>,
    _tasks: JoinSet<()>,
    /// Its own, if it was started without one.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("api", &self.api_url()).finish_non_exhaustive()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.world.stop.cancel();
        for exporter in self.world.lock().exporters.values() {
            exporter.stop.cancel();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Simulator {
    /// Starts a cluster without VMs: the API server, the export proxy and the controllers.
    ///
    /// They run on the caller's runtime: nobody may block a thread that it needs (see
    /// [`Simulator::start_blocking`]).
    ///
    /// # Errors
    ///
    /// The address is taken, or certificates cannot be made.
    pub async fn start(config: Config) -> io::Result<Self> {
        let api_listener = TcpListener::bind(config.listen).await?;
        let proxy_listener = TcpListener::bind(SocketAddr::new(config.listen.ip(), 0)).await?;
        let world = Arc::new(World::new(config, api_listener.local_addr()?, proxy_listener.local_addr()?)?);
        world.change(|state| cluster::add_base(&world, state));
        let mut tasks = JoinSet::new();
        let (api_world, api_tls) = (Arc::clone(&world), Arc::clone(&world.api_tls));
        tasks.spawn(http::serve_listener(
            api_listener,
            move || Some(Arc::clone(&api_tls)),
            move |request| api::handle(Arc::clone(&api_world), request),
        ));
        let (proxy_world, proxy_tls) = (Arc::clone(&world), Arc::clone(&world.ingress.config));
        tasks.spawn(http::serve_listener(
            proxy_listener,
            move || Some(Arc::clone(&proxy_tls)),
            move |request| data::proxy::handle(Arc::clone(&proxy_world), request),
        ));
        tasks.spawn(control::run(Arc::clone(&world)));
        Ok(Self { world, _tasks: tasks, runtime: None })
    }

    /// Starts a cluster on a runtime of its own: for tests that are not async, and that block while they run the
    /// program under test.
    ///
    /// # Errors
    ///
    /// As [`Simulator::start`], or no thread can be started.
    ///
    /// # Panics
    ///
    /// On a thread that drives a runtime.
    pub fn start_blocking(config: Config) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut simulator = runtime.block_on(Self::start(config))?;
        simulator.runtime = Some(runtime);
        Ok(simulator)
    }

    /// A kubeconfig with the administrator's token and the CA inlined.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let admin = self.world.lock().users.first().cloned();
        admin.map(|user| self.kubeconfig_by_token(&user)).unwrap_or_default()
    }

    /// A kubeconfig of a new user, who has only these rights. Users are `user-1`, `user-2` and so on.
    #[must_use]
    pub fn kubeconfig_with(&self, rules: Vec<Rule>) -> String {
        let user = self.world.lock().add_user(rules);
        self.kubeconfig_by_token(&user)
    }

    fn kubeconfig_by_token(&self, user: &User) -> String {
        self.kubeconfig_of(&user.name, &format!("token: {}", user.token))
    }

    /// A kubeconfig of a new user with these rights, who logs in by a certificate.
    ///
    /// # Errors
    ///
    /// The certificate cannot be made.
    pub fn kubeconfig_with_certificate(&self, rules: Vec<Rule>) -> io::Result<String> {
        let mut state = self.world.lock();
        let name = state.add_user(rules).name;
        let identity = self.world.api_ca.issue_client(&name)?;
        if let Some(user) = state.users.last_mut() {
            user.certificate = Some(identity.der);
        }
        drop(state);
        let (certificate, key) = (BASE64.encode(identity.pem), BASE64.encode(identity.key_pem));
        Ok(self.kubeconfig_of(
            &name,
            &format!("client-certificate-data: {certificate}\n    client-key-data: {key}"),
        ))
    }

    /// What the members of a group may do. Who impersonates a user and a group has the rights of both.
    pub fn add_group(&self, name: &str, rules: Vec<Rule>) {
        self.world.lock().groups.insert(name.to_owned(), rules);
    }

    fn kubeconfig_of(&self, name: &str, login: &str) -> String {
        let ca = BASE64.encode(self.world.api_ca.pem());
        let url = self.api_url();
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: simulator\n  \
               cluster:\n    \
                 server: {url}\n    \
                 certificate-authority-data: {ca}\n\
             users:\n\
             - name: {name}\n  \
               user:\n    \
                 {login}\n\
             contexts:\n\
             - name: simulator\n  \
               context:\n    \
                 cluster: simulator\n    \
                 user: {name}\n    \
                 namespace: default\n\
             current-context: simulator\n"
        )
    }

    /// `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("https://{}", self.world.api_address)
    }

    /// The CA of the API server's certificate.
    #[must_use]
    pub fn api_ca_pem(&self) -> String {
        self.world.api_ca.pem().to_owned()
    }

    /// The CA of the certificate that the export proxy shows.
    #[must_use]
    pub fn ingress_ca_pem(&self) -> String {
        self.world.ingress_ca_pem.clone()
    }

    /// Where the export proxy listens.
    #[must_use]
    pub fn proxy_address(&self) -> SocketAddr {
        self.world.proxy_address
    }

    /// An address that leads to the exporter of an export, as a service of type NodePort would: for clients that
    /// are told a service's address, or that resolve its name to this address. Connections are closed while
    /// there is no exporter. The certificate does not have the address, as on the real thing.
    ///
    /// # Errors
    ///
    /// No port is free.
    pub fn service_address(&self, namespace: &str, export: &str) -> io::Result<SocketAddr> {
        let listener = std::net::TcpListener::bind(SocketAddr::new(self.world.api_address.ip(), 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = {
            let _context = self.world.runtime.enter();
            TcpListener::from_std(listener)?
        };
        let key = (namespace.to_owned(), export.to_owned());
        let world = Arc::clone(&self.world);
        self.world.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                while connections.try_join_next().is_some() {}
                let exporter = world.lock().exporters.get(&key).cloned();
                if let Some(exporter) = exporter {
                    connections.spawn(data::exporter::serve(Arc::clone(&world), exporter, stream));
                }
            }
        });
        Ok(address)
    }

    /// Puts in a VM with its data volumes and claims, and its namespace if need be.
    pub fn add_vm(&self, vm: Vm) {
        self.world.change(|state| vm.add_to(&self.world, state));
    }

    /// Puts in a bound claim, and its namespace if need be.
    pub fn add_pvc(&self, namespace: &str, name: &str, disk: Disk, kind: PvcKind) {
        let owner = Value::Null;
        self.world.change(|state| {
            vm::add_claim(&self.world, state, namespace, name, &disk, kind, SNAPSHOT_CLASS, &owner);
        });
        drop(disk);
    }

    /// Puts in the VMs of the example cluster: `ns1`, `ns2` and `prod-db`.
    pub fn add_example(&self) {
        for vm in cluster::example() {
            self.add_vm(vm);
        }
    }

    /// Puts an object in as it is, without webhooks; it gets uid, version and times. The resource is its plural.
    pub fn add_object(&self, plural: &str, object: Value) {
        self.world.change(|state| {
            if let Some(resource) = self.world.resources.by_plural(plural) {
                if let Some(namespace) = object["metadata"]["namespace"].as_str() {
                    self.world.ensure_namespace(state, namespace);
                }
                state.store.create(resource, object, &mut state.rng);
            }
        });
    }

    /// Writes the status of an object, by its plural, as a controller would.
    pub fn set_status(&self, plural: &str, namespace: &str, name: &str, status: &Value) {
        let Some(resource) = self.world.resources.by_plural(plural) else { return };
        let key = Key::new(&resource.key(), namespace, name);
        self.world.change(|state| state.store.update(&key, |object| object["status"] = status.clone()));
    }

    /// Starts a VM; when this returns it runs.
    pub fn start_vm(&self, namespace: &str, name: &str) {
        self.set_running(namespace, name, true);
    }

    /// Stops a VM; when this returns it has stopped.
    pub fn stop_vm(&self, namespace: &str, name: &str) {
        self.set_running(namespace, name, false);
    }

    fn set_running(&self, namespace: &str, name: &str, is_running: bool) {
        self.world.change(|state| {
            vm_control::set_running(state, namespace, name, is_running);
            vm_control::settle(&self.world, state, namespace, name);
        });
    }

    /// Orders a fault of the next matching requests.
    pub fn fault(&self, fault: Fault) {
        self.world.lock().faults.add(fault);
    }

    /// Withdraws all faults that are not used up.
    pub fn clear_faults(&self) {
        self.world.lock().faults.clear();
    }

    /// Makes something happen in the cluster.
    pub fn act(&self, action: Action) {
        actions::act(&self.world, action);
    }

    /// The objects of a resource, by its plural, in one namespace or all.
    #[must_use]
    pub fn objects(&self, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        let Some(resource) = self.world.resources.by_plural(resource) else { return Vec::new() };
        let state = self.world.lock();
        state.store.list(&resource.key(), namespace).map(|(_, object)| Value::clone(object)).collect()
    }

    /// The requests that came so far, in their order.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.world.log.requests()
    }
}
