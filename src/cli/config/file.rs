//! The configuration file: found, read, and taken apart into keys.

use std::{
    collections::BTreeMap,
    env,
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use vmferry::Error;

use super::{
    Ignored,
    keys::{FOREIGN, Foreign, KEYS, Key, PROVIDER, PROVIDER_TYPE, nearest},
    of_environment,
};

/// What stands in a file.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) path: PathBuf,
    /// Values by the names of [`KEYS`].
    pub(super) values: BTreeMap<&'static str, String>,
    pub(super) ignored: Vec<Ignored>,
}

/// Where the file is, or would be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    path: PathBuf,
    /// Somebody named it, so it must be there.
    is_named: bool,
}

/// `--config`, then `VMFERRY_CONFIG`, then the usual place.
pub(super) fn find(named: Option<&Path>) -> Option<Place> {
    let named = named.map(Path::to_owned).or_else(|| of_environment("VMFERRY_CONFIG").map(PathBuf::from));
    if let Some(path) = named {
        return Some(Place { path, is_named: true });
    }
    // A relative path there is to be passed over, says the XDG specification.
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".config"));
    let directory = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = directory.or_else(home)?;
    Some(Place { path: directory.join("vmferry/config.yaml"), is_named: false })
}

/// Reads it; `None` if there is none and nobody named it.
pub(super) fn read(place: &Place) -> Result<Option<Contents>, Error> {
    let path = &place.path;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !place.is_named => return Ok(None),
        Err(error) => return Err(Error::io("read the configuration", path, error)),
    };
    let failed = |error| Error::io("read the configuration", path, error);
    // Of the file that is open: whoever replaces it meanwhile gains nothing.
    let metadata = file.metadata().map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_LEN + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > MAX_LEN) {
        let message = format!("the configuration {} has more than {MAX_LEN} bytes", path.display());
        return Err(Error::refused(message));
    }
    let contents = parse(path, &text)?;
    let secrets: Vec<&str> =
        contents.ignored.iter().filter(|key| key.value.is_none()).map(|key| key.path.as_str()).collect();
    if !secrets.is_empty() && is_open_to_others(&metadata) {
        let message = format!(
            "others may change the configuration {}, which holds {}",
            path.display(),
            secrets.join(", ")
        );
        return Err(
            Error::refused(message).with_hint(format!("make it yours alone: chmod 600 {}", path.display()))
        );
    }
    Ok(Some(contents))
}

/// Whether anybody but its owner may write to it, or its owner is neither this user nor root.
fn is_open_to_others(metadata: &Metadata) -> bool {
    let owner = metadata.uid();
    let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    metadata.is_file() && (!is_ours || metadata.mode() & WRITABLE_BY_OTHERS != 0)
}

fn parse(path: &Path, text: &str) -> Result<Contents, Error> {
    let name = path.display();
    // `yes` and `on` are text, as they are to Kubernetes. Lines are not quoted: they may hold secrets.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let root: Value = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| Error::usage(format!("the configuration {name} is no YAML")).with_source(error))?;
    let mut contents = Contents { path: path.to_owned(), values: BTreeMap::new(), ignored: Vec::new() };
    match root {
        Value::Null => Ok(contents),
        Value::Object(fields) => {
            for (field, value) in fields {
                contents.take(&field, value)?;
            }
            Ok(contents)
        }
        _ => Err(Error::usage(format!("the configuration {name} is no list of keys and values"))
            .with_hint("a line of it is 'namespace: demo'")),
    }
}

impl Contents {
    /// Takes what stands at a path of keys. The paths that are known are a few levels deep, so this is too.
    fn take(&mut self, path: &str, value: Value) -> Result<(), Error> {
        if let Some(key) = KEYS.iter().find(|key| key.name == path || key.seed == Some(path)) {
            return self.set(key, path, value);
        }
        if let Some(key) = FOREIGN.iter().find(|key| key.path == path) {
            self.ignore(key, &value);
            return Ok(());
        }
        if path == PROVIDER_TYPE {
            return match value.as_str() {
                Some(PROVIDER) => Ok(()),
                _ => Err(self
                    .wrong(path, &format!("cannot be {value}"))
                    .with_hint(format!("{PROVIDER} is the only provider here"))),
            };
        }
        let below = format!("{path}.");
        if !known().any(|known| known.starts_with(&below)) {
            return Err(self.unknown(path));
        }
        match value {
            Value::Null => Ok(()),
            Value::Object(fields) => {
                fields.into_iter().try_for_each(|(field, value)| self.take(&format!("{below}{field}"), value))
            }
            _ => Err(self.wrong(path, "must hold keys and values")),
        }
    }

    fn set(&mut self, key: &'static Key, path: &str, value: Value) -> Result<(), Error> {
        let text = match value {
            Value::Null => return Ok(()),
            Value::String(text) => text,
            Value::Number(number) if !key.is_name => number.to_string(),
            Value::Number(_) | Value::Bool(_) if key.is_name => {
                return Err(self.wrong(path, "must be text").with_hint("put it in quotes"));
            }
            _ => return Err(self.wrong(path, "must be one value")),
        };
        let text = if key.name == "kubeconfig" { self.located(&text) } else { text };
        match self.values.insert(key.name, text.clone()) {
            Some(other) if other != text => {
                let seed = key.seed.unwrap_or_default();
                Err(self.wrong(key.name, &format!("and {seed} are the same, and say two things")))
            }
            _ => Ok(()),
        }
    }

    /// A file named in the configuration: from there on, or from the home directory on.
    fn located(&self, text: &str) -> String {
        let home = |rest| Some(Path::new(&env::var_os("HOME")?).join(rest));
        let whole = match text.strip_prefix("~/") {
            Some(rest) => home(rest),
            None => self.path.parent().map(|directory| directory.join(text)),
        };
        whole.map_or_else(|| text.to_owned(), |path| path.to_string_lossy().into_owned())
    }

    fn ignore(&mut self, key: &Foreign, value: &Value) {
        let is_empty = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(values) => values.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        // An empty password is no secret.
        let shown = match value {
            _ if key.is_secret && !is_empty => None,
            Value::Null => Some(String::new()),
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        self.ignored.push(Ignored { path: key.path.to_owned(), value: shown, why: key.why });
    }

    fn wrong(&self, path: &str, what: &str) -> Error {
        Error::usage(format!("{path} {what}, in {}", self.path.display()))
    }

    fn unknown(&self, path: &str) -> Error {
        let error = Error::usage(format!("{path:?} is no key of {}", self.path.display()));
        // What is misspelt is the last word as a rule.
        let level = path.rsplit_once('.').map_or("", |(above, _)| above);
        let siblings = known().filter_map(|known| {
            let rest = if level.is_empty() { known } else { known.strip_prefix(level)?.strip_prefix('.')? };
            Some(rest.split('.').next().unwrap_or(rest))
        });
        let last = path.rsplit('.').next().unwrap_or(path);
        error.with_hint(match nearest(last, siblings) {
            Some(meant) => format!("{meant:?} is one"),
            None => "'vmferry config show' lists the keys".to_owned(),
        })
    }
}

/// All paths that are known.
fn known() -> impl Iterator<Item = &'static str> {
    let ours = KEYS.iter().flat_map(|key| [Some(key.name), key.seed]).flatten();
    ours.chain(FOREIGN.iter().map(|key| key.path)).chain([PROVIDER_TYPE])
}

/// Longest file in bytes.
const MAX_LEN: u64 = 1 << 20;

/// Bits of a mode: the group's and the others' right to write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

#[cfg(test)]
mod tests {
    use vmferry::ErrorKind;

    use super::*;

    fn parsed(text: &str) -> Result<Contents, Error> {
        parse(Path::new("/etc/x/config.yaml"), text)
    }

    #[test]
    fn keys_are_ours_or_those_of_a_provider_configuration() {
        let ours = parsed("namespace: on\nmemory: 134217728\nkubeconfig: sub/k\nrate:\n").unwrap();
        let expected = [("kubeconfig", "/etc/x/sub/k"), ("memory", "134217728"), ("namespace", "on")];
        assert!(ours.values.iter().map(|(name, value)| (*name, value.as_str())).eq(expected), "{ours:?}");

        let theirs = parsed(
            "provider:\n  type: kubevirt\n  metadata: {namespace: demo, kubeconfig: /k, storageClass: fast}\n\
             download_workers: 3\nlog_level: info\nretry_delay: 5s\nsecurity: {enable_auth: true, api_key: hush}\n\
             aws: {access_key: '', secret_key: hush}\nwebhooks: [{url: 'https://x/hush'}]\ngcp:\n",
        )
        .unwrap();
        let expected =
            [("connections", "3"), ("kubeconfig", "/k"), ("log_level", "info"), ("namespace", "demo")];
        assert!(theirs.values.iter().map(|(name, value)| (*name, value.as_str())).eq(expected), "{theirs:?}");
        let ignored: Vec<(&str, Option<&str>)> =
            theirs.ignored.iter().map(|key| (key.path.as_str(), key.value.as_deref())).collect();
        for expected in [
            ("provider.metadata.storageClass", Some("fast")),
            ("retry_delay", Some("5s")),
            ("security.enable_auth", Some("true")),
            ("security.api_key", None),
            ("aws.access_key", Some("")),
            ("aws.secret_key", None),
            ("webhooks", None),
        ] {
            assert!(ignored.contains(&expected), "{expected:?}: {ignored:?}");
        }
        assert!(!format!("{theirs:?}").contains("hush"));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, says, hint) in [
            ("namespce: demo", "\"namespce\" is no key of /etc/x/config.yaml", "namespace"),
            ("provider: {metadata: {namespaces: a}}", "provider.metadata.namespaces", "namespace"),
            ("security: {apikey: hush}", "security.apikey", "api_key"),
            ("colour: red", "colour", "config show"),
            ("provider: {type: vsphere}", "provider.type cannot be", "kubevirt"),
            ("provider: kubevirt", "provider must hold keys and values", ""),
            ("namespace: 5", "namespace must be text", "quotes"),
            ("memory: [1]", "memory must be one value", ""),
            ("memory: true", "memory must be one value", ""),
            ("namespace: a\nprovider: {metadata: {namespace: b}}", "two things", ""),
            ("- namespace", "no list of keys and values", "namespace: demo"),
            ("namespace: a\nnamespace: b", "is no YAML", ""),
            ("aws: {secret_key: hush", "is no YAML", ""),
        ] {
            let error = parsed(text).unwrap_err();
            let all = format!("{error:?}");
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert!(error.hint().unwrap_or_default().contains(hint), "{text}: {:?}", error.hint());
            assert!(!all.contains("hush"), "{all}");
        }
        let bomb = "a: &a [x, x, x, x, x, x, x, x]\n".to_owned()
            + &(0..20).map(|n| format!("b{n}: &b{n} [*a, *a, *a, *a]\n")).collect::<String>();
        assert!(parsed(&bomb).is_err());
        assert!(parsed(&format!("a: {}", "[".repeat(100_000))).is_err());
        assert!(parsed("").unwrap().values.is_empty());
    }
}
