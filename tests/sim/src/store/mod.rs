//! The objects of the cluster, and the history that watches read.
//!
//! Objects are JSON values under group, plural, namespace and name, whatever version they came in. Each
//! change gets the next resource version and is kept, so that a watch can go on from where it was; what is
//! older than the history is refused with 410.

pub(crate) mod patch;
pub(crate) mod selector;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{api::resources::Resource, clock, rng::Rng};

/// How many changes are kept.
const HISTORY: usize = 5000;
/// Where resource versions begin; older ones are too old.
const FIRST_REVISION: u64 = 1000;

/// Where an object is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    /// `group/plural`.
    pub(crate) resource: String,
    /// Empty for objects without a namespace.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// A change of an object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) resource: String,
    /// What it was, if it was there.
    pub(crate) before: Option<Arc<Value>>,
    /// What it is, if it is still there.
    pub(crate) after: Option<Arc<Value>>,
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    revision: u64,
    oldest: u64,
    history: VecDeque<Change>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            revision: FIRST_REVISION,
            oldest: FIRST_REVISION,
            history: VecDeque::new(),
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Forgets the history.
    pub(crate) fn forget(&mut self) {
        self.revision += 1;
        self.oldest = self.revision;
        self.history.clear();
    }

    pub(crate) fn find(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// The object at `group/plural`, namespace and name.
    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&Key::new(resource, namespace, name))
    }

    /// All objects, by resource, namespace and name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// The objects of a resource, in one namespace or all, by namespace and name.
    pub(crate) fn list<'a>(
        &'a self,
        resource: &'a str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let start = Key::new(resource, namespace.unwrap_or_default(), "");
        self.objects.range((Bound::Included(start), Bound::Unbounded)).take_while(move |(key, _)| {
            key.resource == resource && namespace.is_none_or(|namespace| key.namespace == namespace)
        })
    }

    /// The changes after a revision, of one resource, with the revision that they lead to.
    pub(crate) fn changes_after(&self, revision: u64, resource: &str) -> Vec<Change> {
        let start = self.history.partition_point(|change| change.revision <= revision);
        self.history.range(start..).filter(|change| change.resource == resource).cloned().collect()
    }

    /// Stores a new object; gives it uid, time, version and, for custom resources, a generation.
    pub(crate) fn create(&mut self, resource: &Resource, mut object: Value, rng: &mut Rng) -> Arc<Value> {
        fill_metadata(resource, &mut object, rng);
        let key = Key::new(
            &resource.key(),
            object["metadata"]["namespace"].as_str().unwrap_or_default(),
            object["metadata"]["name"].as_str().unwrap_or_default(),
        );
        self.put(key, object)
    }

    /// Changes an object in place; nothing happens if it is the same afterwards.
    pub(crate) fn update(&mut self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Arc<Value>> {
        let before = Arc::clone(self.objects.get(key)?);
        let mut after = Value::clone(&before);
        change(&mut after);
        if after == *before {
            return Some(before);
        }
        if let Some(generation) = before["metadata"]["generation"].as_u64()
            && before["spec"] != after["spec"]
        {
            after["metadata"]["generation"] = (generation + 1).into();
        }
        Some(self.put(key.clone(), after))
    }

    /// Stores an object as it is, but for its version.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let resource = key.resource.clone();
        let before = self.objects.insert(key, Arc::clone(&object));
        self.remember(Change { revision: self.revision, resource, before, after: Some(Arc::clone(&object)) });
        object
    }

    /// Removes an object at once.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.revision += 1;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let last = Arc::new(last);
        let resource = key.resource.clone();
        let before = Some(Arc::clone(&last));
        self.remember(Change { revision: self.revision, resource, before, after: None });
        Some(last)
    }

    fn remember(&mut self, change: Change) {
        if self.history.len() >= HISTORY
            && let Some(dropped) = self.history.pop_front()
        {
            self.oldest = dropped.revision;
        }
        self.history.push_back(change);
    }
}

/// What every new object gets.
pub(crate) fn fill_metadata(resource: &Resource, object: &mut Value, rng: &mut Rng) {
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.as_str().into();
    let metadata = &mut object["metadata"];
    if metadata["name"].as_str().unwrap_or_default().is_empty()
        && let Some(prefix) = metadata["generateName"].as_str()
    {
        metadata["name"] = format!("{prefix}{}", rng.name_suffix()).into();
    }
    if let Some(fields) = metadata.as_object_mut() {
        for dropped in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "managedFields",
            "selfLink",
            "resourceVersion",
        ] {
            fields.remove(dropped);
        }
    }
    metadata["uid"] = rng.uid().into();
    metadata["creationTimestamp"] = clock::rfc3339(clock::now()).into();
    if resource.is_custom {
        metadata["generation"] = json!(1);
    }
}

/// The name in an object's metadata.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The namespace in an object's metadata, empty if it has none.
pub(crate) fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// The uid in an object's metadata.
pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// An ownerReference to an object.
pub(crate) fn owner(object: &Value) -> Value {
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "name": name(object), "uid": uid(object),
        "controller": true, "blockOwnerDeletion": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::resources::Resources, config::Config};

    #[test]
    fn changes_are_numbered_and_kept() {
        let resources = Resources::new(&Config::default());
        let secrets = resources.preferred("", "secrets").unwrap();
        let (mut store, mut rng) = (Store::new(), Rng::new(1));
        let start = store.revision();
        store.create(secrets, json!({"metadata": {"name": "a", "namespace": "n"}}), &mut rng);
        let key = Key::new("/secrets", "n", "a");
        store.update(&key, |object| object["data"] = json!({"x": "eA=="}));
        store.update(&key, |object| object["data"] = json!({"x": "eA=="}));
        store.remove(&key);
        let changes = store.changes_after(start, "/secrets");
        assert_eq!(changes.len(), 3);
        assert!(changes[0].before.is_none() && changes[2].after.is_none());
        assert_eq!(store.changes_after(start + 2, "/secrets").len(), 1);
        assert!(store.changes_after(start, "/pods").is_empty());
        assert_eq!(store.list("/secrets", None).count(), 0);
    }
}
