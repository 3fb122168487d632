//! The daemon's address and the caller's credentials: from options, the environment, and a profile of the configuration file.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fmt, fs, io};

use serde::Deserialize;
use tonic::transport::Uri;

use crate::error::Failure;
use crate::options::Global;

/// Default address of hearthd.
const SOCKET: &str = "unix:/run/hearth/hearthd.sock";
/// Default timeout of a request, in seconds.
const TIMEOUT: u64 = 60;
/// The default profile.
const PROFILE: &str = "default";

/// Settings of a connection.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) ca: Option<PathBuf>,
    /// Certificate and key of the client.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// Id and secret of the access key.
    pub(crate) credentials: Option<(String, Secret)>,
    pub(crate) timeout: Duration,
}

/// Address of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `unix:PATH`
    Unix(String),
    /// `http://`, on this machine only
    Plain(String),
    /// `https://`
    Tls(String),
}

/// A string that must not be shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    default_profile: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    endpoint: Option<String>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    access_key_id: Option<String>,
    secret_access_key: Option<Secret>,
    timeout_seconds: Option<u64>,
}

impl Settings {
    /// Reads options (which clap has filled from the environment), access keys in the environment, and the file.
    pub(crate) fn find(global: &Global) -> Result<Self, Failure> {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let key = (variable("HEARTH_ACCESS_KEY_ID"), variable("HEARTH_SECRET_ACCESS_KEY"));
        Self::merge(global, key, profile(global)?)
    }

    fn merge(
        global: &Global,
        key: (Option<String>, Option<String>),
        profile: Profile,
    ) -> Result<Self, Failure> {
        let text = global.endpoint.clone().or(profile.endpoint).unwrap_or_else(|| SOCKET.to_owned());
        let endpoint = Endpoint::parse(&text)?;
        let identity = match (global.cert.clone().or(profile.certificate), global.key.clone().or(profile.key))
        {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, Some(_)) => return Err(Failure::usage("a key needs its certificate: --cert FILE")),
            (Some(_), None) => return Err(Failure::usage("a certificate needs its key: --key FILE")),
        };
        // Id and secret of a key are always taken from the same source.
        let credentials = match key {
            (Some(id), Some(secret)) => Some((id, Secret(secret))),
            (None, None) => match (profile.access_key_id, profile.secret_access_key) {
                (Some(id), Some(secret)) => Some((id, secret)),
                (None, None) => None,
                _ => return Err(Failure::usage("a profile needs both access_key_id and secret_access_key")),
            },
            _ => {
                let text = "HEARTH_ACCESS_KEY_ID and HEARTH_SECRET_ACCESS_KEY belong together: set both";
                return Err(Failure::usage(text));
            }
        };
        let timeout = Duration::from_secs(global.timeout.or(profile.timeout_seconds).unwrap_or(TIMEOUT));
        Ok(Self { endpoint, ca: global.ca.clone().or(profile.ca), identity, credentials, timeout })
    }
}

/// The requested profile; an empty one if there is no file and none was requested.
fn profile(global: &Global) -> Result<Profile, Failure> {
    let Some(path) = global.config.clone().or_else(default_path) else {
        return missing(global, "there is no home folder");
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && global.config.is_none() => {
            return missing(global, &format!("{} does not exist", path.display()));
        }
        Err(error) => return Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
    };
    let mut file: ConfigFile = toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Failure::usage(format!("{} line {line}: {}", path.display(), error.message()))
    })?;
    let named = global.profile.clone().or(file.default_profile);
    let name = named.clone().unwrap_or_else(|| PROFILE.to_owned());
    let profile = match file.profiles.remove(&name) {
        Some(profile) => profile,
        None if named.is_none() => Profile::default(),
        None => {
            let known: Vec<_> = file.profiles.into_keys().collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let text = format!("{} has no profile {name}; it has: {known}", path.display());
            return Err(Failure::usage(text));
        }
    };
    if profile.secret_access_key.is_some() {
        private(&path)?;
    }
    Ok(profile)
}

fn missing(global: &Global, why: &str) -> Result<Profile, Failure> {
    match &global.profile {
        None => Ok(Profile::default()),
        Some(name) => Err(Failure::usage(format!("there is no profile {name}: {why}"))),
    }
}

fn default_path() -> Option<PathBuf> {
    let folder = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = folder.or_else(|| Some(env::home_dir()?.join(".config")))?;
    Some(folder.join("hearth/config.toml"))
}

/// Checks that a file with a secret is accessible only to its owner.
fn private(path: &Path) -> Result<(), Failure> {
    let metadata = fs::metadata(path);
    let metadata =
        metadata.map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    if metadata.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(Failure::usage(format!("{path} holds a secret key and others may read it: chmod 600 {path}")))
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        if text.starts_with('/') {
            return Ok(Self::Unix(format!("unix:{text}")));
        }
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            if !path.starts_with('/') {
                return Err(Failure::usage(format!(
                    "the endpoint {text} is no absolute path: write unix:/PATH"
                )));
            }
            return Ok(Self::Unix(format!("unix:{path}")));
        }
        let wrong = || {
            let text = format!(
                "the endpoint {text:?} is none: write unix:/PATH, http://LOOPBACK:PORT or https://HOST:PORT"
            );
            Failure::usage(text)
        };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?;
        match uri.scheme_str() {
            Some("https") => Ok(Self::Tls(text.to_owned())),
            Some("http") if is_loopback(host) => Ok(Self::Plain(text.to_owned())),
            Some("http") => {
                let text = format!("{text} leaves this machine without encryption: write https://{host}");
                Err(Failure::usage(text))
            }
            _ => Err(wrong()),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Unix(text) | Self::Plain(text) | Self::Tls(text) => text,
        }
    }

    /// Name or address of the machine, without brackets; none if it is reached without a network.
    pub(crate) fn remote_host(&self) -> Option<&str> {
        let Self::Tls(text) = self else { return None };
        let authority = text.strip_prefix("https://")?.split(['/', '?']).next()?;
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match host.strip_prefix('[') {
            Some(address) => address.split(']').next(),
            None => host.split(':').next(),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        global: Global,
    }

    fn global(words: &str) -> Global {
        Line::try_parse_from(format!("hearth {words}").split_whitespace()).unwrap().global
    }

    fn with_file(text: &str, mode: u32, words: &str) -> Result<Profile, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        profile(&global(&format!("--config {} {words}", path.display())))
    }

    #[test]
    fn only_loopback_is_spoken_to_without_encryption() {
        for good in [
            "unix:/run/x",
            "unix:///run/x",
            "/run/x",
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost:1",
        ] {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
        assert_eq!(Endpoint::parse("https://host:7443").unwrap(), Endpoint::Tls("https://host:7443".into()));
        let host = |text: &str| Endpoint::parse(text).unwrap().remote_host().map(str::to_owned);
        assert_eq!(host("https://host:7443/").as_deref(), Some("host"));
        assert_eq!(host("https://[2001:db8::1]:7443").as_deref(), Some("2001:db8::1"));
        assert_eq!((host("http://localhost:1"), host("unix:/run/x")), (None, None));
        for bad in
            ["http://10.0.0.1:1", "http://localhost.example.com", "unix:run/x", "ftp://x", "host:7443", ""]
        {
            assert!(matches!(Endpoint::parse(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn options_come_before_the_profile_and_keys_are_not_mixed() {
        let profile = || Profile {
            endpoint: Some("https://a".into()),
            access_key_id: Some("id".into()),
            secret_access_key: Some(Secret("hidden".into())),
            ..Profile::default()
        };
        let settings = Settings::merge(&global("--endpoint https://b"), (None, None), profile()).unwrap();
        assert_eq!(settings.endpoint.as_str(), "https://b");
        assert_eq!(settings.credentials.as_ref().unwrap().0, "id");
        assert!(!format!("{settings:?}").contains("hidden"));
        assert!(Settings::merge(&global(""), (Some("other".into()), None), profile()).is_err());
    }

    #[test]
    fn an_invalid_file_is_reported_with_its_line() {
        let error = with_file("[profiles.default]\nendpont = \"x\"\n", 0o644, "").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("endpont"), "{error}");
        let error = with_file("[profiles.a]\n", 0o644, "--profile b").unwrap_err().to_string();
        assert!(error.ends_with("has no profile b; it has: a"), "{error}");
        let file =
            "default_profile = \"a\"\n[profiles.a]\naccess_key_id = \"i\"\nsecret_access_key = \"s\"\n";
        assert!(with_file(file, 0o644, "").unwrap_err().to_string().contains("chmod 600"));
        assert_eq!(with_file(file, 0o600, "").unwrap().access_key_id.as_deref(), Some("i"));
    }
}
