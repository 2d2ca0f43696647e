//! Each line is what was done, and what a crash cuts off is not.

use super::*;

fn volume(name: &str) -> VolumeRecord {
    VolumeRecord {
        volume: name.into(),
        claim: name.into(),
        file: format!("{name}.qcow2"),
        archive: None,
        format: "qcow2".into(),
        virtual_size: 1,
        output_size: 2,
        digest_algorithm: None,
        digest: None,
        sha256: None,
        verified: false,
    }
}

fn object() -> Exported {
    let [cluster, namespace, kind, name] = ["https://c", "demo", "VM", "db"].map(str::to_owned);
    Exported { cluster, namespace, kind, name }
}

fn fresh(path: &Path) -> Opened {
    match open(path).unwrap() {
        Found::Fresh(opened) => opened,
        Found::Left(_, left) => panic!("{left:?}"),
    }
}

fn left(path: &Path) -> (Opened, Left) {
    match open(path).unwrap() {
        Found::Left(opened, left) => (opened, *left),
        Found::Fresh(_) => panic!("nothing is left"),
    }
}

#[test]
fn a_run_is_taken_up_where_it_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut state = fresh(&path).begin("abc".into(), object(), "as qcow2").unwrap();
    state.remember_snapshot("snap").unwrap();
    state.remember_stopped(&serde_json::json!({"running": true})).unwrap();
    state.remember_put_back().unwrap();
    state.remember_begun("root").unwrap();
    state.remember_begun("root").unwrap();
    state.remember(&volume("root")).unwrap();
    drop(state);
    // A line that a crash cut short.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(br#"{"record":"done","volu"#).unwrap();
    drop(file);

    let (opened, found) = left(&path);
    assert_eq!((found.run.as_str(), found.of.as_str()), ("abc", "as qcow2"));
    assert_eq!(found.object, object());
    let mut state = opened.take_up(found).unwrap();
    let memory = &state.memory;
    assert_eq!((memory.snapshot.as_deref(), memory.done.len(), state.is_resumed), (Some("snap"), 1, true));
    assert_eq!((memory.begun.len(), &memory.stopped), (1, &None));
    state.remember(&volume("data")).unwrap();
    drop(state);
    let (opened, found) = left(&path);
    let state = opened.take_up(found).unwrap();
    assert_eq!(state.memory.done, [volume("root"), volume("data")]);
    state.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn two_runs_do_not_work_in_one_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let held = fresh(&path).begin("abc".into(), object(), "x").unwrap();
    assert_eq!(open(&path).unwrap_err().kind(), crate::ErrorKind::Refused);
    drop(held);
    let (opened, found) = left(&path);
    opened.take_up(found).unwrap().remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn only_what_a_crash_left_of_a_state_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    for text in ["", "{", "{\"record\":\"run\",\"ver"] {
        fs::write(&path, text).unwrap();
        drop(fresh(&path));
    }
    for text in ["a letter", OLD, "\n"] {
        fs::write(&path, text).unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), crate::ErrorKind::Refused);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(peek(&path).unwrap_err().kind(), crate::ErrorKind::Refused);
    }
    fs::write(&path, OLD).unwrap();
    assert!(open(&path).unwrap_err().to_string().contains("another release"));
}

#[test]
fn what_is_no_state_counts_as_none() {
    for text in ["", "garbage\n", "{\"record\":\"snapshot\",\"name\":\"x\"}\n", "{\"record\":\"run\"}\n"] {
        assert!(parse(text).is_none(), "{text}");
    }
    assert!(parse(OLD).is_none());
}

/// As the first release wrote it.
const OLD: &str = "{\"record\":\"run\",\"version\":1,\"id\":\"a\",\"of\":\"b\"}\n";
