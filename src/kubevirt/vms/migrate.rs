//! Live migration: a guest moves to another node while it runs.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{Acting, Vms};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Resource, Told,
        explain::{CallError, told},
        names::run_id,
        pages::{PAGE, Pages},
        resource::{check_name, encoded},
        types::Metadata,
    },
};

/// What became of a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Name of the VirtualMachineInstanceMigration.
    pub migration: String,
    /// The VM, `namespace/name`.
    pub vm: String,
    /// The node it was on.
    pub source_node: Option<String>,
    /// The node it is on.
    pub target_node: Option<String>,
    /// Whether it is complete; not so if it was not waited for, or not carried out.
    pub complete: bool,
}

/// A VirtualMachineInstanceMigration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Migration {
    metadata: Metadata,
    spec: MigrationSpec,
    status: MigrationStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MigrationSpec {
    vmi_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MigrationStatus {
    phase: String,
    migration_state: MigrationState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MigrationState {
    source_node: Option<String>,
    target_node: Option<String>,
    failure_reason: Option<String>,
    abort_status: Option<String>,
}

impl Migration {
    fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// How far it is: `Running, node-1 -> node-2`.
    fn state(&self) -> String {
        let phase = if self.status.phase.is_empty() { "not begun" } else { &self.status.phase };
        let state = &self.status.migration_state;
        match (&state.source_node, &state.target_node) {
            (Some(source), Some(target)) => format!("{phase}, {source} -> {target}"),
            (Some(source), None) => format!("{phase}, from {source}"),
            _ => phase.to_owned(),
        }
    }
}

impl Vms {
    /// Moves the guest of a VM to another node; to `node`, if one is named (KubeVirt 1.6 and newer).
    ///
    /// # Errors
    /// There is no such VM, it does not run, or cannot be migrated; the cluster refuses, cannot be reached,
    /// fails, or is not done in time.
    pub async fn migrate(&self, name: &str, node: Option<&str>, acting: &Acting) -> Result<Migrated> {
        self.find(name).await?;
        let instance = self.instance(name).await?.filter(|instance| !instance.is_over());
        let Some(instance) = instance else {
            return Err(self.unfit(name, "it is not running", "'vmferry vm start' starts it"));
        };
        let conditions = &instance.status.conditions;
        if let Some(why) =
            conditions.iter().find(|found| found.kind == "LiveMigratable" && found.status == "False")
        {
            let why = format!("{}: {}", why.reason, why.message);
            return Err(self.unfit(name, &why, "the storage must be shared between nodes (ReadWriteMany), and no device of a node passed through"));
        }
        let migrations = Resource::migrations();
        let base: String = name.chars().take(MOST_OF_VM).collect();
        let migration = format!("{}-migration-{}", base.trim_end_matches(['-', '.']), run_id()?);
        let mut spec = json!({ "vmiName": name });
        if let Some(node) = node {
            check_name("node", node)?;
            spec["addedNodeSelector"] = json!({ "kubernetes.io/hostname": node });
        }
        let object = json!({
            "apiVersion": migrations.api_version(),
            "kind": migrations.kind,
            "metadata": {"name": migration, "namespace": self.cluster.namespace()},
            "spec": spec,
        });
        self.cluster
            .make(&migrations, &object, acting.dry_run)
            .await
            .map_err(|error| self.refused(name, error))?;
        let begun = Migrated {
            migration: migration.clone(),
            vm: self.called(name),
            source_node: instance.status.node_name,
            ..Migrated::default()
        };
        match acting.wait.filter(|_| !acting.dry_run) {
            Some(wait) => self.until_migrated(begun, wait).await,
            None => Ok(begun),
        }
    }

    /// Gives the migrations of a VM up that are going on; the guest stays where it is. Their names.
    ///
    /// # Errors
    /// There is no such VM, or no migration of it; the cluster refuses, or cannot be reached; it is not given
    /// up in time.
    pub async fn cancel_migration(&self, name: &str, acting: &Acting) -> Result<Vec<String>> {
        self.find(name).await?;
        let mut pages = Pages::new(&self.cluster, Resource::migrations(), false, "");
        let mut running = Vec::new();
        while let Some(page) = pages.next(PAGE).await? {
            for object in page {
                let found: Migration = crate::kubevirt::client::decoded("a migration", object)?;
                if found.spec.vmi_name == name && !found.is_over() {
                    running.push(found.metadata.name);
                }
            }
        }
        if running.is_empty() {
            return Err(Error::new(
                ErrorKind::Cluster,
                format!("VM {} is not being migrated", self.called(name)),
            )
            .with_hint("'kubectl get vmim' lists migrations, those that have ended too"));
        }
        for migration in &running {
            self.delete_migration(migration, acting).await?;
        }
        Ok(running)
    }

    async fn until_migrated(&self, mut migrated: Migrated, wait: Duration) -> Result<Migrated> {
        let (start, mut news) = (Instant::now(), None);
        let migrations = Resource::migrations();
        let (name, vm) = (migrated.migration.clone(), migrated.vm.clone());
        let (cluster, namespace) = (self.cluster.until(start + wait), self.cluster.namespace());
        loop {
            let found: Option<Migration> = cluster.find(&migrations, &name).await?;
            let Some(found) = found else {
                return Err(Error::new(
                    ErrorKind::Cluster,
                    format!("the migration {name} of VM {vm} was given up"),
                ));
            };
            let state = &found.status.migration_state;
            match found.status.phase.as_str() {
                "Succeeded" => {
                    migrated.source_node = state.source_node.clone().or(migrated.source_node);
                    migrated.target_node.clone_from(&state.target_node);
                    migrated.complete = true;
                    return Ok(migrated);
                }
                "Failed" => {
                    let aborted = state.abort_status.as_ref().map(|status| format!("abort {status}"));
                    let why = state.failure_reason.clone().or(aborted).unwrap_or_else(|| found.state());
                    return Err(Error::new(ErrorKind::Cluster, format!("VM {vm} was not migrated: {why}")).with_hint(
                        format!("it runs on where it was; 'kubectl describe vmim {name} -n {namespace}' tells more"),
                    ));
                }
                _ => {}
            }
            self.tell(&mut news, &format!("migration {name}: {}", found.state()));
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("VM {vm} was not migrated within {} s: {}", wait.as_secs_f64(), found.state()),
                )
                .with_hint(
                    "the cluster goes on with it: 'vmferry vm migrate --cancel' gives it up; a target that never comes may \
                     be a node that is full or unknown",
                ));
            }
            self.cluster.changed(&migrations, &name, &found.metadata.resource_version, left.min(LOOK)).await;
        }
    }

    async fn delete_migration(&self, migration: &str, acting: &Acting) -> Result<()> {
        let migrations = Resource::migrations();
        let what = migrations.object(self.cluster.namespace(), migration);
        let call = self.cluster.call("delete", &migrations, &what);
        let path = format!("{}/{}", migrations.path(Some(self.cluster.namespace())), encoded(migration));
        let options = if acting.dry_run { json!({"dryRun": ["All"]}) } else { json!({}) };
        let start = Instant::now();
        loop {
            match self.cluster.send(&call, Method::DELETE, &path, Some(&options)).await {
                Ok(_) => break,
                Err(CallError::NotFound(_)) => return Ok(()),
                Err(CallError::Transient(_)) if start.elapsed() + POLL < self.cluster.retry_for() => {
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(wait) = acting.wait.filter(|_| !acting.dry_run) else { return Ok(()) };
        (self.teller)(Told::Waiting(format!("migration {migration} is being given up")));
        let cluster = self.cluster.until(start + wait);
        loop {
            let found: Option<Migration> = cluster.find(&migrations, migration).await?;
            let Some(found) = found else { return Ok(()) };
            if found.status.phase == "Succeeded" {
                let text = format!("the migration {migration} was complete before it could be given up");
                return Err(Error::new(ErrorKind::Cluster, text)
                    .with_hint("'vmferry vm status' tells which node the VM is on now"));
            }
            if found.is_over() {
                return Ok(());
            }
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                let text = format!(
                    "the migration {migration} was not given up within {} s: {}",
                    wait.as_secs_f64(),
                    found.state()
                );
                return Err(Error::new(ErrorKind::TimedOut, text));
            }
            self.cluster
                .changed(&migrations, migration, &found.metadata.resource_version, left.min(POLL))
                .await;
        }
    }

    fn unfit(&self, name: &str, why: &str, hint: &str) -> Error {
        Error::new(ErrorKind::Cluster, format!("cannot migrate VM {}: {why}", self.called(name)))
            .with_hint(hint)
    }

    /// What the webhook says, in fewer words.
    fn refused(&self, name: &str, error: Error) -> Error {
        let text = told(&error);
        let (why, hint) = match () {
            () if text.contains("in-flight migration") => {
                ("it is being migrated already", "'vmferry vm status -w' shows it; --cancel gives it up")
            }
            () if text.contains("Cannot migrate VMI") => {
                ("the cluster says that it cannot be moved", "'vmferry vm get' tells whether it can")
            }
            () if text.contains("does not exist") => ("it is not running", "'vmferry vm start' starts it"),
            () => return error,
        };
        self.unfit(name, why, hint).with_source(Error::failed(text))
    }
}

/// A watch may miss what happens to other objects.
const LOOK: Duration = Duration::from_secs(5);

/// Between two looks.
const POLL: Duration = Duration::from_secs(1);

/// So that the whole is a name.
const MOST_OF_VM: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubevirt::types::decode;

    #[test]
    fn a_migration_tells_how_far_it_is() {
        for (status, state, is_over) in [
            (json!(null), "not begun", false),
            (
                json!({"phase": "Scheduling", "migrationState": {"sourceNode": "a"}}),
                "Scheduling, from a",
                false,
            ),
            (
                json!({"phase": "Running", "migrationState": {"sourceNode": "a", "targetNode": "b"}}),
                "Running, a -> b",
                false,
            ),
            (json!({"phase": "Failed"}), "Failed", true),
        ] {
            let migration: Migration = decode(json!({ "status": status })).unwrap();
            assert_eq!((migration.state().as_str(), migration.is_over()), (state, is_over));
        }
    }
}
