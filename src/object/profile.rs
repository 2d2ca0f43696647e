//! Profiles of the AWS command line: `~/.aws/credentials` and `~/.aws/config`.
//!
//! Static keys, the region and the endpoint of a profile are read. Profiles that get their keys in
//! another way (a role to assume, single sign-on, a process) are refused by name: `aws configure
//! export-credentials` turns these into what the environment can carry.

use std::{
    collections::BTreeMap,
    env,
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    secret::Secret,
};

/// What a profile says.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// Key id, secret key and session token.
    pub(super) keys: Option<(String, Secret, Option<Secret>)>,
    /// Region.
    pub(super) region: Option<String>,
    /// URL of the store.
    pub(super) endpoint: Option<String>,
}

impl Profile {
    /// The profile that is `named`, or the one that is used where nothing is named; then it need not
    /// be there. Blocks.
    ///
    /// # Errors
    /// A profile that was asked for is not there, holds no keys that can be used, or its files cannot
    /// be read.
    pub(super) fn read(named: Option<&str>) -> Result<Self> {
        let from_environment = env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
        let asked = named.map(str::to_owned).or(from_environment);
        let name = asked.as_deref().unwrap_or("default");
        let credentials = section(&file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), name, name)?;
        let heading = if name == "default" { name.to_owned() } else { format!("profile {name}") };
        let config = section(&file("AWS_CONFIG_FILE", "config"), &heading, name)?;
        if asked.is_some() && credentials.is_none() && config.is_none() {
            return Err(Error::usage(format!("there is no profile {name:?} in the AWS configuration files"))
                .with_hint("'aws configure list-profiles' lists them"));
        }
        Self::of(name, &credentials.unwrap_or_default(), &config.unwrap_or_default(), asked.is_some())
    }

    fn of(name: &str, credentials: &Settings, config: &Settings, asked: bool) -> Result<Self> {
        let setting = |key: &str| credentials.get(key).or_else(|| config.get(key)).cloned();
        let keys = match (setting("aws_access_key_id"), setting("aws_secret_access_key")) {
            (Some(id), Some(key)) => {
                Some((id, Secret::new(key), setting("aws_session_token").map(Secret::new)))
            }
            (None, None) => None,
            _ => {
                return Err(Error::usage(format!("profile {name:?} has one half of a pair of keys"))
                    .with_hint("it needs aws_access_key_id and aws_secret_access_key"));
            }
        };
        let other = OTHER_WAYS.iter().find(|key| setting(key).is_some());
        if keys.is_none()
            && asked
            && let Some(other) = other
        {
            return Err(Error::usage(format!("profile {name:?} gets its keys by {other}, which is not supported"))
                .with_hint(format!(
                    "put its keys into the environment: eval \"$(aws configure export-credentials --profile {name} \
                     --format env)\""
                )));
        }
        Ok(Self { keys, region: setting("region"), endpoint: setting("endpoint_url") })
    }
}

type Settings = BTreeMap<String, String>;

/// Where a configuration file lies.
fn file(variable: &str, name: &str) -> PathBuf {
    match env::var_os(variable).filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".aws").join(name),
    }
}

/// The settings below `[heading]` of a file; `None` if there is no such section, or no file.
fn section(path: &Path, heading: &str, name: &str) -> Result<Option<Settings>> {
    let mut text = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => {
            file.take(MAX_FILE_LEN).read_to_end(&mut text).map_err(|error| Error::io("read", path, error))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    }
    let text = String::from_utf8_lossy(&text);
    let found = settings(&text, heading);
    // Older files have it without the word.
    Ok(found.or_else(|| if heading == name { None } else { settings(&text, name) }))
}

/// The settings of one section. Lines that are indented belong to a setting that is a group, of which
/// none is used here.
fn settings(text: &str, heading: &str) -> Option<Settings> {
    let mut found: Option<Settings> = None;
    let mut inside = false;
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = bare.strip_prefix('[') {
            let title = title.split(']').next().unwrap_or_default();
            inside = title.split_whitespace().eq(heading.split_whitespace());
            if inside {
                found.get_or_insert_default();
            }
        } else if inside
            && !line.starts_with([' ', '\t'])
            && let Some((key, value)) = bare.split_once('=')
            && let Some(found) = &mut found
        {
            found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

/// Settings by which a profile gets its keys from elsewhere.
const OTHER_WAYS: [&str; 6] = [
    "role_arn",
    "sso_session",
    "sso_start_url",
    "credential_process",
    "web_identity_token_file",
    "login_session",
];

/// Such files have some lines a profile.
const MAX_FILE_LEN: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
# comment
[default]
aws_access_key_id = DEFAULT
aws_secret_access_key=s3cret/=+
[ backup ]
AWS_ACCESS_KEY_ID = BACKUP
aws_secret_access_key = other
aws_session_token = token
; another
[half]
aws_access_key_id = x
";
    const CONFIG: &str = "\
[default]
region = eu-west-1
s3 =
    addressing_style = path
    region = nowhere
[profile backup]
endpoint_url = https://minio.example:9000
[profile role]
role_arn = arn:aws:iam::1:role/x
source_profile = default
";

    fn profile(name: &str, heading: &str, asked: bool) -> Result<Profile> {
        let credentials = settings(CREDENTIALS, name).unwrap_or_default();
        Profile::of(name, &credentials, &settings(CONFIG, heading).unwrap_or_default(), asked)
    }

    #[test]
    fn profiles_are_read() {
        let found = profile("default", "default", false).unwrap();
        let (id, key, token) = found.keys.unwrap();
        assert_eq!((id.as_str(), key.reveal(), token.is_none()), ("DEFAULT", "s3cret/=+", true));
        assert_eq!((found.region.as_deref(), found.endpoint), (Some("eu-west-1"), None));
        let found = profile("backup", "profile backup", true).unwrap();
        let (id, key, token) = found.keys.unwrap();
        assert_eq!((id.as_str(), key.reveal(), token.unwrap().reveal()), ("BACKUP", "other", "token"));
        assert_eq!(found.endpoint.as_deref(), Some("https://minio.example:9000"));
        assert!(settings(CREDENTIALS, "nobody").is_none() && settings("", "default").is_none());
    }

    #[test]
    fn what_is_not_supported_is_said() {
        let error = profile("role", "profile role", true).unwrap_err();
        assert!(
            error.to_string().contains("role_arn") && error.hint().unwrap().contains("export-credentials")
        );
        assert!(profile("role", "profile role", false).unwrap().keys.is_none());
        let error = profile("half", "profile half", true).unwrap_err();
        assert!(error.to_string().contains("one half"), "{error}");
    }

    #[test]
    fn keys_are_not_shown() {
        let shown = format!("{:?}", profile("backup", "profile backup", true).unwrap());
        assert!(!shown.contains("other") && !shown.contains("token"), "{shown}");
    }
}
