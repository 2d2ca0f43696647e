//! What may stand in a configuration file: our own keys, and those of a provider configuration of HyperSDK.

/// A setting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// As the file has it.
    pub(super) name: &'static str,
    /// Variables that set it; the first that is set counts.
    pub(super) variables: &'static [&'static str],
    /// The argument that it is the default of.
    pub(super) argument: &'static str,
    /// As a provider configuration of HyperSDK has it, if it has another name there.
    pub(super) seed: Option<&'static str>,
    /// Whether it is a name, which a number or a boolean is not.
    pub(super) is_name: bool,
}

impl Key {
    const fn new(name: &'static str, variables: &'static [&'static str]) -> Self {
        Self { name, variables, argument: name, seed: None, is_name: false }
    }

    const fn name(self) -> Self {
        Self { is_name: true, ..self }
    }

    const fn seed(self, path: &'static str) -> Self {
        Self { seed: Some(path), ..self }
    }
}

/// All settings, in the order in which they are shown.
pub(super) const KEYS: [Key; 18] = [
    Key::new("kubeconfig", &["KUBECONFIG"]).name().seed("provider.metadata.kubeconfig"),
    Key::new("context", &["VMFERRY_CONTEXT"]).name(),
    Key::new("namespace", &["VMFERRY_NAMESPACE"]).name().seed("provider.metadata.namespace"),
    Key::new("request_timeout", &["VMFERRY_REQUEST_TIMEOUT"]),
    Key::new("timeout", &["VMFERRY_TIMEOUT"]),
    Key::new("quiesce", &["VMFERRY_QUIESCE"]),
    Key::new("transfer", &["VMFERRY_TRANSFER"]),
    Key::new("reach", &["VMFERRY_REACH"]),
    Key::new("connections", &["VMFERRY_CONNECTIONS", "DOWNLOAD_WORKERS"]).seed("download_workers"),
    Key::new("rate", &["VMFERRY_RATE"]),
    Key::new("stall_timeout", &["VMFERRY_STALL_TIMEOUT"]),
    Key::new("retry_for", &["VMFERRY_RETRY_FOR"]),
    Key::new("workers", &["VMFERRY_WORKERS"]),
    Key::new("memory", &["VMFERRY_MEMORY"]),
    Key::new("output_format", &["VMFERRY_OUTPUT_FORMAT"]),
    Key::new("progress", &["VMFERRY_PROGRESS"]),
    Key::new("log_format", &["VMFERRY_LOG_FORMAT"]),
    Key::new("log_level", &["VMFERRY_LOG_LEVEL"]),
];

/// A key of HyperSDK that has no effect here.
#[derive(Debug)]
pub(super) struct Foreign {
    /// The key, parted by dots; everything below it belongs to it.
    pub(super) path: &'static str,
    /// Why it has no effect.
    pub(super) why: &'static str,
    /// Whether it is not for every eye.
    pub(super) is_secret: bool,
}

const fn foreign(path: &'static str, why: &'static str) -> Foreign {
    Foreign { path, why, is_secret: false }
}

const fn secret(path: &'static str, why: &'static str) -> Foreign {
    Foreign { path, why, is_secret: true }
}

const SERVER: &str = "for the server, which is not in this version";
const STORES: &str = "for object stores, which are not in this version";
const RETRIES: &str = "what fails is tried again for retry_for, however often that is";

/// What a provider configuration of HyperSDK holds besides.
pub(super) const FOREIGN: [Foreign; 28] = [
    foreign("provider.metadata.storageClass", "no command here makes volumes of a class of its own"),
    foreign("chunk_size", "ranges are as long as memory and connections allow, and hashes are of 4 MiB"),
    foreign("retry_attempts", RETRIES),
    foreign("retry_delay", RETRIES),
    foreign("daemon_addr", SERVER),
    foreign("database_path", SERVER),
    foreign("metrics.enabled", SERVER),
    foreign("web.disabled", SERVER),
    foreign("security.enable_auth", SERVER),
    secret("security.api_key", SERVER),
    foreign("security.allowed_origins", SERVER),
    foreign("security.max_request_size_mb", SERVER),
    foreign("security.rate_limit_per_min", SERVER),
    foreign("security.trusted_proxies", SERVER),
    foreign("security.block_private_ips", SERVER),
    // Their addresses and headers are as good as passwords.
    secret("webhooks", SERVER),
    foreign("aws.region", STORES),
    secret("aws.access_key", STORES),
    secret("aws.secret_key", STORES),
    foreign("aws.s3_bucket", STORES),
    foreign("azure.storage_account", STORES),
    foreign("azure.container", STORES),
    foreign("azure.tenant_id", STORES),
    foreign("azure.client_id", STORES),
    secret("azure.client_secret", STORES),
    foreign("gcp.project_id", STORES),
    foreign("gcp.gcs_bucket", STORES),
    // The name of a file, not what stands in it.
    foreign("gcp.credentials_json", STORES),
];

/// The key that says whose configuration it is.
pub(super) const PROVIDER_TYPE: &str = "provider.type";

/// The only provider.
pub(super) const PROVIDER: &str = "kubevirt";

/// The word of `known` that is most like `word`, if it is like it at all.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(2);
    let close = known.into_iter().map(|other| (distance(word, other), other)).min()?;
    (close.0 <= limit).then_some(close.1)
}

/// Letters to change, add or leave out.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    // A key of a megabyte is like nothing anyway.
    for (line, letter) in from.chars().take(MAX_WORD).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], line + 1);
        for (at, other) in to.iter().enumerate() {
            let replaced = corner + usize::from(letter != *other);
            corner = row[at + 1];
            row[at + 1] = replaced.min(corner + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}

/// Letters of a word that are looked at.
const MAX_WORD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_are_recognized() {
        let known = || KEYS.iter().map(|key| key.name);
        for (word, meant) in [
            ("namespce", Some("namespace")),
            ("kubeConfig", Some("kubeconfig")),
            ("retryfor", Some("retry_for")),
            ("conections", Some("connections")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known()), meant, "{word}");
        }
        assert_eq!(nearest("x", []), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn every_key_stands_once() {
        let mut names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        names.extend(KEYS.iter().filter_map(|key| key.seed));
        names.extend(FOREIGN.iter().map(|key| key.path));
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
