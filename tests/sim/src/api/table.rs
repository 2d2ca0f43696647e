//! Tables, as `kubectl get` asks for them.

use serde_json::{Value, json};

use super::resources::Resource;
use crate::clock;

/// What the real server says about the column of names.
const NAME_HELP: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
    resources may allow a client to request the generation of an appropriate name automatically. Name is primarily \
    intended for creation idempotence and configuration definition. Cannot be updated. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

/// A column: its name, type and description, and where its cell comes from.
struct Column {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    cell: fn(&Value) -> Value,
}

/// A list or a single object as a table.
pub(super) fn table(resource: &Resource, value: &Value) -> Value {
    let columns = columns(&resource.plural);
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({
                "name": column.name, "type": column.kind, "format": format, "description": column.help,
                "priority": 0,
            })
        })
        .collect();
    let row = |object: &Value| {
        let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(object)).collect();
        json!({"cells": cells, "object": {
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
        }})
    };
    let rows: Vec<Value> = match value["items"].as_array() {
        Some(items) => items.iter().map(row).collect(),
        None => vec![row(value)],
    };
    let mut metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
    for key in ["continue", "remainingItemCount"] {
        match &value["metadata"][key] {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            other => metadata[key] = other.clone(),
        }
    }
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// A bookmark as a table without cells.
pub(super) fn bookmark(object: &Value) -> Value {
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": object["metadata"]["resourceVersion"]}, "columnDefinitions": null,
        "rows": [{"cells": [], "object": {
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
        }}],
    })
}

fn columns(plural: &str) -> Vec<Column> {
    let name = Column {
        name: "Name",
        kind: "string",
        help: NAME_HELP,
        cell: |object| object["metadata"]["name"].clone(),
    };
    let age = Column {
        name: "Age",
        kind: "date",
        help: "Custom resource definition column (in JSONPath format): .metadata.creationTimestamp",
        cell: age,
    };
    match plural {
        "virtualmachines" => vec![
            name,
            age,
            text("Status", "Human Readable Status", |object| object["status"]["printableStatus"].clone()),
            text(
                "Ready",
                "Custom resource definition column (in JSONPath format): .status.conditions[?(@.type=='Ready')].status",
                ready,
            ),
        ],
        "virtualmachineinstances" => vec![
            name,
            age,
            phase(),
            text(
                "Ready",
                "Custom resource definition column (in JSONPath format): .status.conditions[?(@.type=='Ready')].status",
                ready,
            ),
        ],
        "virtualmachineexports" => of_source(name),
        "virtualmachinesnapshots" => {
            let mut columns = of_source(name);
            columns.push(Column {
                name: "ReadyToUse",
                kind: "boolean",
                help: "Custom resource definition column (in JSONPath format): .status.readyToUse",
                cell: |object| object["status"]["readyToUse"].clone(),
            });
            columns
        }
        "persistentvolumeclaims" | "pods" | "namespaces" | "kubevirts" | "datavolumes" => vec![
            name,
            text("Status", "The state of the object.", |object| object["status"]["phase"].clone()),
            age,
        ],
        _ => vec![name, age],
    }
}

/// The columns of what has a source.
fn of_source(name: Column) -> Vec<Column> {
    vec![
        name,
        text(
            "SourceKind",
            "Custom resource definition column (in JSONPath format): .spec.source.kind",
            |object| object["spec"]["source"]["kind"].clone(),
        ),
        text(
            "SourceName",
            "Custom resource definition column (in JSONPath format): .spec.source.name",
            |object| object["spec"]["source"]["name"].clone(),
        ),
        phase(),
    ]
}

fn text(name: &'static str, help: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, kind: "string", help, cell }
}

fn phase() -> Column {
    text("Phase", "Custom resource definition column (in JSONPath format): .status.phase", |object| {
        object["status"]["phase"].clone()
    })
}

fn age(object: &Value) -> Value {
    let created = object["metadata"]["creationTimestamp"].as_str().and_then(clock::parse_rfc3339);
    created.map_or_else(
        || Value::from("<unknown>"),
        |created| clock::age(clock::now().saturating_sub(created)).into(),
    )
}

fn ready(object: &Value) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    ready.map_or(Value::Null, |condition| condition["status"].clone())
}
