//! What a parser cannot know: whether values make sense, fit together, and name what is there.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hearth_host::roles::RoleProvider;
use hearth_host::shape::Burst;
use hearth_image_builder::artifact::Fetcher;

use super::Config;
use crate::service::Operation;

/// The longest life of a microVM in seconds.
const MAX_DURATION: i32 = 28_800;
/// The least that a secret may have, in characters: 120 bits, if it is Base64.
const MIN_SECRET: usize = 20;

/// Something that cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, like `listen.address`.
    pub key: String,
    /// What is wrong with its value, and what to do.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.why)
    }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, key: &str, why: impl Into<String>) {
        self.0.push(Problem { key: key.to_owned(), why: why.into() });
    }

    fn unless(&mut self, good: bool, key: &str, why: impl Into<String>) {
        if !good {
            self.add(key, why);
        }
    }
}

impl Config {
    /// What cannot work, as far as the values themselves tell. A daemon does not start with any.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.check_values(&mut problems);
        self.check_listen(&mut problems);
        self.check_access(&mut problems);
        self.check_sections(&mut problems);
        problems.0
    }

    /// What it names and is not there, or may be read by too many.
    #[must_use]
    pub fn missing(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        let listen = &self.listen;
        for (key, path, secret) in [
            ("listen.certificate", &listen.certificate, false),
            ("listen.key", &listen.key, true),
            ("listen.client_ca", &listen.client_ca, false),
            ("artifacts.s3.ca_file", &self.artifacts.s3.ca_file, false),
        ] {
            if let Some(path) = path {
                pem(&mut problems, key, path, secret);
            }
        }
        for (host, registry) in &self.artifacts.registries {
            if let Some(path) = &registry.ca_file {
                pem(&mut problems, &format!("artifacts.registries.{host}.ca_file"), path, false);
            }
        }
        match fs::metadata(&self.paths.vmm) {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {}
            Ok(_) => problems.add("paths.vmm", format!("{} is no program", self.paths.vmm.display())),
            Err(error) => problems.add("paths.vmm", format!("{}: {error}", self.paths.vmm.display())),
        }
        let catalogue = self.catalogue();
        let hint = "make base images with `hearth-image-builder base build`";
        problems.unless(
            catalogue.is_dir(),
            "paths.catalogue",
            format!("{} is no folder; {hint}", catalogue.display()),
        );
        for (name, folder) in &self.artifacts.buckets {
            let why = format!("{} is no folder", folder.display());
            problems.unless(folder.is_dir(), &format!("artifacts.buckets.{name}"), why);
        }
        problems.0
    }

    fn check_values(&self, problems: &mut Problems) {
        let word = |text: &str| {
            let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !text.is_empty() && text.len() <= 32 && text.bytes().all(good)
        };
        problems.unless(word(&self.region), "region", "write 1 to 32 of a-z, 0-9 and -, like us-east-1");
        let domain = |text: &str| text.len() <= 200 && text.split('.').all(word);
        problems.unless(
            self.endpoint_domain.as_deref().is_none_or(domain),
            "endpoint_domain",
            "write a domain in lower case, like microvms.example.com",
        );
        for (key, path) in [
            ("data", Some(&self.data)),
            ("run", Some(&self.run)),
            ("listen.socket", self.listen.socket.as_ref()),
            ("paths.vmm", Some(&self.paths.vmm)),
            ("paths.catalogue", self.paths.catalogue.as_ref()),
            ("paths.work", self.paths.work.as_ref()),
            ("paths.backups", self.paths.backups.as_ref()),
        ] {
            problems.unless(path.is_none_or(|path| path.is_absolute()), key, "write an absolute path");
        }
        problems.unless(self.capacity_mib != Some(0), "capacity_mib", "0 leaves no memory for any microVM");
        if let Err(error) = Burst::try_from(self.burst) {
            problems.add("burst", error.to_string());
        }
        let duration = self.default_maximum_duration_seconds;
        problems.unless(
            (1..=MAX_DURATION).contains(&duration),
            "default_maximum_duration_seconds",
            "write 1 to 28800",
        );
        problems.unless(self.launch_timeout_seconds > 0, "launch_timeout_seconds", "write at least 1");
        let builder = &self.builder;
        problems.unless(builder.memory_mib >= 512, "builder.memory_mib", "write at least 512");
        problems.unless(builder.vcpus > 0, "builder.vcpus", "write at least 1");
        problems.unless(builder.time_seconds > 0, "builder.time_seconds", "write at least 1");
        problems.unless(builder.concurrent > 0, "builder.concurrent", "write at least 1");
        for name in self.quotas.rates.keys() {
            let key = format!("quotas.rates.{name}");
            problems.unless(Operation::named(name).is_some(), &key, "there is no such operation");
        }
    }

    fn check_listen(&self, problems: &mut Problems) {
        let listen = &self.listen;
        let encrypted = listen.certificate.is_some() && listen.key.is_some();
        problems.unless(
            listen.certificate.is_some() == listen.key.is_some(),
            if listen.key.is_some() { "listen.certificate" } else { "listen.key" },
            "certificate and key belong together: give both",
        );
        problems.unless(
            listen.client_ca.is_none() || encrypted,
            "listen.client_ca",
            "certificates of clients need listen.certificate and listen.key",
        );
        let Some(address) = listen.address else { return };
        problems.unless(
            address.ip().is_loopback() || encrypted,
            "listen.address",
            format!("{address} can be reached from outside, so it needs listen.certificate and listen.key"),
        );
        problems.unless(
            !self.access.keys.is_empty(),
            "listen.address",
            "nobody could use it: there are no [access.keys]",
        );
    }

    fn check_access(&self, problems: &mut Problems) {
        let is_account = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
        let account = "write 12 digits";
        problems.unless(is_account(&self.access.local_account), "access.local_account", account);
        for (id, key) in &self.access.keys {
            let name = |member: &str| format!("access.keys.{id}.{member}");
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            let is_id = (1..=128).contains(&id.len()) && id.bytes().all(good);
            problems.unless(is_id, &format!("access.keys.{id}"), "ids are 1 to 128 of a-z A-Z 0-9 - _");
            problems.unless(is_account(&key.account), &name("account"), account);
            let secret = key.secret_access_key.expose();
            problems.unless(
                secret.len() >= MIN_SECRET && secret.bytes().all(|byte| byte.is_ascii_graphic()),
                &name("secret_access_key"),
                format!("write at least {MIN_SECRET} random characters without white space"),
            );
            for policy in &key.policies {
                if let Err(action) = policy.check() {
                    problems.add(&name("policies"), format!("no operation is like {action}"));
                }
            }
        }
    }

    /// Sections that can tell themselves.
    fn check_sections(&self, problems: &mut Problems) {
        // They name their key first.
        let mut tell = |fallback: &str, why: String| match why.split_once([' ', ':']) {
            Some((key, _)) if key.contains('.') => problems.add(key, why.clone()),
            _ => problems.add(fallback, why),
        };
        if let Err(why) = self.host().check() {
            tell("jail", why);
        }
        if let Err(why) = self.logs.check() {
            tell("logs", why);
        }
        if let Err(error) = RoleProvider::new(self.roles.clone()) {
            tell("roles", error.to_string());
        }
        if let Err(error) = Fetcher::new(self.artifacts.clone()) {
            tell("artifacts", error.to_string());
        }
    }
}

/// Whether a PEM file is there, and a secret one its owner's alone.
fn pem(problems: &mut Problems, key: &str, path: &Path, secret: bool) {
    let shown = path.display();
    match fs::read_to_string(path) {
        Err(error) => problems.add(key, format!("{shown}: {error}")),
        Ok(text) if !text.contains("-----BEGIN ") => problems.add(key, format!("{shown} is no PEM file")),
        Ok(_) if secret && is_open(path) => {
            problems.add(key, format!("others may read {shown}: chmod 600 {shown}"));
        }
        Ok(_) => {}
    }
}

/// Whether a file may be read by others than its owner.
#[must_use]
pub fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        Config::parse(text).unwrap().problems().into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn the_defaults_have_no_problem() {
        assert_eq!(Config::default().problems(), []);
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn what_is_reached_from_outside_is_encrypted_and_asks_who_is_there() {
        let key =
            "[access.keys.a]\nsecret_access_key = \"01234567890123456789\"\naccount = \"123456789012\"\n";
        let tls = "certificate = \"/c\"\nkey = \"/k\"\n";
        for (listen, good) in [
            ("address = \"127.0.0.1:7443\"\n".to_owned(), true),
            ("address = \"[::1]:7443\"\n".to_owned(), true),
            ("address = \"0.0.0.0:7443\"\n".to_owned(), false),
            (format!("address = \"0.0.0.0:7443\"\n{tls}"), true),
            ("address = \"10.0.0.1:7443\"\ncertificate = \"/c\"\n".to_owned(), false),
            ("client_ca = \"/c\"\n".to_owned(), false),
        ] {
            let text = format!("[listen]\n{listen}{key}");
            assert_eq!(keys(&text).is_empty(), good, "{text}");
        }
        assert_eq!(keys("[listen]\naddress = \"127.0.0.1:7443\"\n"), ["listen.address"]);
    }

    #[test]
    fn every_problem_names_its_key() {
        for (text, key) in [
            ("region = \"US\"", "region"),
            ("run = \"here\"", "run"),
            ("burst = 5", "burst"),
            ("capacity_mib = 0", "capacity_mib"),
            ("default_maximum_duration_seconds = 28801", "default_maximum_duration_seconds"),
            ("[builder]\nvcpus = 0", "builder.vcpus"),
            ("[quotas.rates]\nRunMicroVM = { per_second = 1 }", "quotas.rates.RunMicroVM"),
            ("[access]\nlocal_account = \"1\"", "access.local_account"),
            ("[logs]\nsegment_bytes = 1", "logs.segment_bytes"),
            ("[jail]\noff = [\"moat\"]", "jail.off"),
            ("[artifacts.registries.\"*\"]\nplain_http = true", "artifacts"),
        ] {
            assert_eq!(keys(text), [key], "{text}");
        }
        let weak = "[access.keys.a]\nsecret_access_key = \"secret\"\naccount = \"x\"\npolicies = [{ actions = [\"Fly\"] }]";
        let names = ["account", "secret_access_key", "policies"].map(|name| format!("access.keys.a.{name}"));
        assert_eq!(keys(weak), names);
    }

    #[test]
    fn what_is_named_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pem");
        fs::write(&key, "-----BEGIN PRIVATE KEY-----\n").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let text = format!(
            "[listen]\ncertificate = {:?}\nkey = {key:?}\n[paths]\nvmm = \"/nowhere/hearth-vmm\"\ncatalogue = {:?}\n",
            folder.path().join("absent.pem"),
            folder.path()
        );
        let config = Config::parse(&text).unwrap();
        let missing: Vec<_> = config.missing().into_iter().map(|problem| problem.key).collect();
        assert_eq!(missing, ["listen.certificate", "listen.key", "paths.vmm"]);
        assert!(config.missing()[1].why.contains("chmod 600"));
    }
}
