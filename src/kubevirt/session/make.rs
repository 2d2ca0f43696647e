//! Making an export and its secret, or taking up what an earlier run left.

use std::sync::PoisonError;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{MOST_EXPORTS, Session, State, Told};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Cluster, MANAGED_BY, RUN_ID, Resource,
        client::{Call, decoded},
        explain::CallError,
        names, time,
        types::{Metadata, VmExport},
    },
    secret::Secret,
};

impl Session {
    /// Makes the next export of this run.
    pub(super) async fn make(&self, state: &mut State) -> Result<()> {
        while state.serial < MOST_EXPORTS {
            self.check_open()?;
            state.serial += 1;
            let after = self.options.named_after.as_deref().unwrap_or_else(|| self.source.name());
            let name = names::numbered(&names::object_name(after, &self.options.run), state.serial);
            let export = match self.create_export(&name).await? {
                Some(export) => export,
                None => match self.left_over(&name).await? {
                    Some(export) => export,
                    None => continue,
                },
            };
            name.clone_into(&mut self.name.lock().unwrap_or_else(PoisonError::into_inner));
            state.token = None;
            if let Err(error) = self.create_secret(&export.metadata).await {
                // Without its secret it is of no use to anybody.
                if let Err(second) = self.cluster.delete(&self.exports, &name).await {
                    tracing::warn!(error = %second, export = %name, "the export cannot be removed");
                }
                return Err(error);
            }
            return Ok(());
        }
        Err(Error::new(ErrorKind::Cluster, "the exports of earlier runs cannot be taken up").with_hint(
            format!("remove them: 'vmferry gc -n {} --run {} --yes'", self.namespace(), self.options.run),
        ))
    }

    /// `None` if there is one of that name.
    async fn create_export(&self, name: &str) -> Result<Option<VmExport>> {
        let group = self.source.group();
        let mut source = json!({"kind": self.source.kind(), "name": self.source.name()});
        if !group.is_empty() {
            source["apiGroup"] = json!(group);
        }
        let object = json!({
            "apiVersion": self.exports.api_version(),
            "kind": self.exports.kind,
            "metadata": {"name": name, "namespace": self.namespace(), "labels": self.labels()},
            "spec": {
                "source": source,
                "tokenSecretRef": secret_name(name),
                "ttlDuration": time::go_duration(self.options.time_to_live()),
            },
        });
        let what = self.exports.object(self.namespace(), name);
        match self.create(&self.exports, &object).await {
            Ok(made) => {
                self.tell(Told::Made(what.clone()));
                decoded(&what, made).map(Some)
            }
            Err(CallError::Exists(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The export of that name, if it is of this run and of any use.
    async fn left_over(&self, name: &str) -> Result<Option<VmExport>> {
        let found: Option<VmExport> = self.cluster.find(&self.exports, name).await?;
        Ok(found.filter(|export| {
            let ours = export.metadata.labels.get(RUN_ID) == Some(&self.options.run);
            let same = export.spec.source.kind == self.source.kind()
                && export.spec.source.name == self.source.name();
            let left = export.status.ttl_expiration_time.as_deref().and_then(time::until);
            let lives =
                export.metadata.deletion_timestamp.is_none() && left.is_none_or(|left| !left.is_zero());
            ours && same && lives
        }))
    }

    async fn create_secret(&self, export: &Metadata) -> Result<()> {
        let secrets = Resource::secrets();
        let token = names::token()?;
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": secret_name(&export.name),
                "namespace": self.namespace(),
                "labels": self.labels(),
                "ownerReferences": [{
                    "apiVersion": self.exports.api_version(),
                    "kind": self.exports.kind,
                    "name": export.name,
                    "uid": export.uid,
                    "blockOwnerDeletion": false,
                }],
            },
            "data": {"token": BASE64_STANDARD.encode(token.reveal())},
        });
        match self.create(&secrets, &object).await {
            // One that an earlier run made has the token that counts; it is read when it is needed.
            Ok(_) | Err(CallError::Exists(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates; an answer that got lost is asked for again, and then says that the object exists.
    async fn create(&self, resource: &Resource, object: &Value) -> Result<Value, CallError> {
        let mut tries = 0;
        loop {
            match self.cluster.create(resource, object).await {
                Err(CallError::Transient(error)) if tries < CREATE_TRIES => {
                    tries += 1;
                    tracing::debug!(%error, tries, "the cluster did not answer, asking again");
                    tokio::time::sleep(CREATE_PAUSE * tries).await;
                }
                other => return other,
            }
        }
    }

    fn labels(&self) -> Value {
        json!({ MANAGED_BY.0: MANAGED_BY.1, RUN_ID: self.options.run })
    }

    /// The token, from the secret that the export names.
    pub(in crate::kubevirt) async fn read_token(&self, export: &VmExport) -> Result<Secret> {
        let named = export.status.token_secret_ref.as_ref().or(export.spec.token_secret_ref.as_ref());
        let name = named.ok_or_else(|| {
            Error::failed(format!(
                "the export {} does not say which secret holds its token",
                export.metadata.name
            ))
            .with_hint("it appears in status.tokenSecretRef once the source is available")
        })?;
        let secret: Value = self.cluster.must_find(&Resource::secrets(), name).await?;
        let wrong = |what: &str| {
            Error::failed(format!("the secret {}/{name} {what}", self.namespace()))
                .with_hint("it must hold one line of text under the key 'token'")
        };
        let encoded = secret.pointer("/data/token").and_then(Value::as_str);
        let encoded = encoded.ok_or_else(|| wrong("has no key 'token'"))?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| wrong("is not valid base64"))?;
        let token = String::from_utf8(bytes).map_err(|_| wrong("holds a token that is not text"))?;
        if token.trim() != token {
            return Err(wrong(
                "holds a token with blanks or line ends around it, which no request can carry",
            )
            .with_hint("write it anew without them ('printf', not 'echo'), or export the source itself"));
        }
        Ok(Secret::new(token))
    }
}

impl Cluster {
    /// Removes an export with its secret.
    pub(in crate::kubevirt) async fn remove_export(&self, exports: &Resource, name: &str) -> Result<()> {
        self.delete(exports, name).await?;
        // The cluster collects it with the export, in its own time: no right to do it now is no matter.
        if let Err(error) = self.delete(&Resource::secrets(), &secret_name(name)).await {
            tracing::debug!(%error, export = name, "the secret is left to the cluster");
        }
        Ok(())
    }

    /// Removes what a run made that names its objects after `named_after`, whether it is known to be
    /// there or not.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn remove_run(&self, named_after: &str, run: &str, with_snapshot: bool) -> Result<()> {
        let base = names::object_name(named_after, run);
        let exports = self.export_resource().await?;
        for serial in 1..=SERIALS_TRIED {
            self.remove_export(&exports, &names::numbered(&base, serial)).await?;
        }
        if with_snapshot {
            self.remove_snapshot(&base).await?;
        }
        Ok(())
    }

    /// The last warning about an object.
    pub(in crate::kubevirt) async fn last_warning(&self, name: &str) -> Option<String> {
        let events = Resource::events();
        let call =
            Call { verb: "list", resource: "events", what: "events", namespace: Some(self.namespace()) };
        let selector =
            crate::kubevirt::resource::encoded(&format!("involvedObject.name={name},type=Warning"));
        let path = format!("{}?fieldSelector={selector}", events.path(Some(self.namespace())));
        let answer = self.get(&call, &path).await.ok()?;
        let last = answer.get("items")?.as_array()?.last()?;
        let text = |field: &str| last.get(field).and_then(Value::as_str).unwrap_or_default();
        Some(format!("{} ({})", text("message"), text("reason")))
    }
}

/// As virtctl names it.
fn secret_name(export: &str) -> String {
    format!("secret-{export}")
}

/// Tries of a creation after the first.
const CREATE_TRIES: u32 = 4;

/// More exports than one are made only by runs of many hours.
const SERIALS_TRIED: u32 = 2;

const CREATE_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
