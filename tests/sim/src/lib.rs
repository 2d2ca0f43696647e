//! A KubeVirt simulator: a test tool that plays a cluster to programs that export VMs.
//!
//! It is written from a description of how the real components behave and held against recorded answers of
//! theirs; it knows nothing of the programs that it judges.
//!
//! # What is simulated
//!
//! - **The Kubernetes API**, over HTTPS with a CA of its own: discovery (lists and aggregated); get, list, watch,
//!   create, update, patch (JSON, merge; strategic merge and apply act as merge), delete and deletecollection for
//!   every resource of the discovery; label and field selectors, paging, tables; resource versions with conflicts
//!   and 410; watches with bookmarks; dry run; garbage collection by owner, propagation policies and finalizers;
//!   bearer tokens and client certificates with rules, impersonation of users and groups, reviews of one's own
//!   rights; `pods/portforward` over WebSocket.
//! - **The controllers**: exports (source, service, pod, token, links, TTL, pause, certificates), snapshots,
//!   restores, clones, VMs and their instances, data volumes and claims. They take visible steps, [`Config::delay`] apart.
//! - **The lifecycle** of VMs: start (held still too), stop with grace periods, restart, pause and unpause, with what
//!   each run strategy makes of it and what is said to the others; phases of instances; guests that end, do not react
//!   ([`Vm::deaf`]), cannot run ([`Vm::in_trouble`]), have an agent or none; migrations between three nodes; a screen, and
//!   metrics where there is a server for them ([`Config::metrics_server`]).
//! - **The webhooks'** defaults and refusals for exports, snapshots, restores and migrations.
//! - **The data path**: the export proxy, and exporters that are reached by port-forward or
//!   [`Simulator::service_address`]: raw with ranges, gzip, trees, archives, manifests, the token.
//! - **The link** to the data path: a rate that all transfers share, latency, stalls ([`Action::ShapeLink`]).
//! - **Faults**: [`Fault`] for what goes wrong with requests, [`Action`] for what happens in the cluster; both also
//!   by `POST /simulator/faults` at the API server, for those who may do everything.
//!
//! ```json
//! [
//!   {"kind": "cut-after", "bytes": 1048576, "volume": "web-root", "link": "raw", "skip": 2, "times": 1},
//!   {"kind": "stall", "after_bytes": 4096, "for_ms": 500},
//!   {"kind": "status", "code": 503, "target": "api", "path": "/secrets"},
//!   {"action": "start-vm", "namespace": "demo", "name": "web"},
//!   {"action": "links-vanish", "namespace": "demo", "export": "e", "for_ms": 2000}
//! ]
//! ```
//!
//! # What differs from a real cluster
//!
//! - Links to the proxy have a port, since it listens on a free one.
//! - The proxy calls the exporter directly; there is no second TLS connection. Servers speak HTTP/1.1 only.
//! - No guest runs: a VM that is started has the content that [`Disk::changing_on_start`] says.
//! - Data volumes are blank or what was put in; nothing is imported. Backups and OCI archives are not played.
//! - Fields are only checked for exports; other objects are taken as they come. The OpenAPI
//!   document has no schemas. Bodies are JSON, never protobuf, and port-forward is not SPDY: `kubectl port-forward` and
//!   what `kubectl` sends as protobuf (`auth can-i`, `create secret`) do not work.
//! - `managedFields` are not kept, and apply does not detect conflicts.
//!
//! # Example
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use vmferry_sim::{Config, Disk, Fault, FaultKind, Simulator, Vm};
//!
//! let simulator = Simulator::start(Config::default()).await?;
//! simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::pattern(64 << 20, 1)).container_disk("cd"));
//! simulator.fault(Fault::new(FaultKind::CutAfter { bytes: 1 << 20 }).volume("web-root"));
//! std::fs::write("kubeconfig", simulator.kubeconfig())?;
//! # Ok(())
//! # }
//! ```

mod api;
mod clock;
mod cluster;
mod config;
mod control;
mod data;
mod disk;
mod fault;
mod http;
mod link;
mod log;
mod refusal;
mod rng;
mod simulator;
mod store;
mod tls;
mod vm;
mod world;

pub use config::{Config, Rule};
pub use disk::Disk;
pub use fault::{Action, Fault, FaultKind, Link, Target};
pub use log::{LoggedRequest, Server};
pub use simulator::Simulator;
pub use vm::{PvcKind, Vm};
