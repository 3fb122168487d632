//! Checks that a parser cannot make: whether values are valid, fit together, and name things that exist.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hearth_host::roles::RoleProvider;
use hearth_image_builder::artifact::Fetcher;
use hearth_model::shape::Burst;

use super::Config;
use crate::api::listen::ListenError;
use crate::operation::Operation;
use crate::proxy::tls::{Files, TlsError};
use crate::setting::Problem;

/// The longest life of a microVM in seconds.
pub(super) const MAX_DURATION: i32 = 28_800;
/// Everything in a configuration that cannot work, one problem per line.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot work:{}", .0.iter().map(|problem| format!("\n{problem}")).collect::<String>())]
pub struct Unusable(pub Vec<Problem>);

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, key: &str, why: impl Into<String>) {
        self.0.push(Problem::new(key, why));
    }

    fn unless(&mut self, good: bool, key: &str, why: impl Into<String>) {
        if !good {
            self.add(key, why);
        }
    }
}

impl Config {
    /// The problems that the values themselves show. A daemon does not start with any.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.check_values(&mut problems);
        self.check_listen(&mut problems);
        self.check_sections(&mut problems);
        problems.0
    }

    /// Fails if the configuration has any problem.
    ///
    /// # Errors
    /// All problems.
    pub fn check(&self) -> Result<(), Unusable> {
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(Unusable(problems)) }
    }

    /// Files and folders that the configuration names and that do not exist, or that too many users may read.
    #[must_use]
    pub fn missing(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        let (listen, endpoint) = (&self.listen, &self.endpoint);
        for (key, path, secret) in [
            ("listen.certificate", &listen.certificate, false),
            ("listen.key", &listen.key, true),
            ("listen.client_ca", &listen.client_ca, false),
            ("aws.certificate", &self.aws.certificate, false),
            ("aws.key", &self.aws.key, true),
            ("endpoint.certificate", &endpoint.certificate, false),
            ("endpoint.key", &endpoint.key, true),
            ("endpoint.acme.ca_file", &endpoint.acme.as_ref().and_then(|acme| acme.ca_file.clone()), false),
            ("artifacts.s3.ca_file", &self.artifacts.s3.ca_file, false),
        ] {
            if let Some(path) = path {
                pem(&mut problems, key, path, secret);
            }
        }
        // Files that cannot be read are reported above.
        if let Some(files) = Files::of(endpoint)
            && let Err(error @ TlsError::Files { .. }) = files.read(&self.service().endpoint_domain)
        {
            problems.add("endpoint.certificate", error.to_string());
        }
        for key in &self.access.keys {
            let Some(path) = &key.secret_file else { continue };
            if let Err(error) = key.secret() {
                problems.add("access.keys", error.to_string());
            } else if is_open(path) {
                let path = path.display();
                problems.add("access.keys", format!("others may read {path}: chmod 600 {path}"));
            }
        }
        let registries = self.artifacts.registries.iter();
        for (host, registry) in
            registries.flat_map(|(host, entries)| entries.iter().map(move |it| (host, it)))
        {
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
        for (name, bucket) in &self.artifacts.buckets {
            let why = format!("{} is no folder", bucket.folder.display());
            problems.unless(bucket.folder.is_dir(), &format!("artifacts.buckets.{name}"), why);
        }
        problems.0
    }

    fn check_values(&self, problems: &mut Problems) {
        let word = |text: &str| {
            let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !text.is_empty() && text.len() <= 32 && text.bytes().all(good)
        };
        problems.unless(word(&self.region), "region", "write 1 to 32 of a-z, 0-9 and -, like us-east-1");
        for (key, path) in [
            ("data", Some(&self.data)),
            ("run", Some(&self.run)),
            ("listen.socket", self.listen.socket.as_ref().filter(|path| !path.as_os_str().is_empty())),
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
        problems.unless(
            (1..=3600).contains(&self.suspend_timeout_seconds),
            "suspend_timeout_seconds",
            "write 1 to 3600",
        );
        problems.0.extend(self.scrub.problems());
        let builder = &self.builder;
        problems.unless(builder.memory_mib >= 512, "builder.memory_mib", "write at least 512");
        problems.unless(builder.memory_max_mib >= 512, "builder.memory_max_mib", "write at least 512");
        problems.unless(builder.vcpus > 0, "builder.vcpus", "write at least 1");
        problems.unless(builder.time_seconds > 0, "builder.time_seconds", "write at least 1");
        problems.unless(builder.concurrent > 0, "builder.concurrent", "write at least 1");
        for why in builder.mirrors().filter_map(Result::err) {
            problems.add("builder.registry_mirrors", why);
        }
        for name in self.quotas.rates.keys() {
            let key = format!("quotas.rates.{name}");
            problems.unless(Operation::named(name).is_some(), &key, "there is no such operation");
        }
    }

    /// Checks where requests come in, and from which clients. The errors name the key or the id.
    fn check_listen(&self, problems: &mut Problems) {
        let access = &self.access;
        let knows_somebody = !access.keys.is_empty() || !access.certificates.is_empty();
        if let Err(error) = self.listen.check(knows_somebody) {
            let key = match &error {
                ListenError::HalfCertificate if self.listen.key.is_some() => "listen.key",
                ListenError::HalfCertificate => "listen.certificate",
                ListenError::ClientCaWithoutTls => "listen.client_ca",
                ListenError::Mode(_) => "listen.socket_mode",
                ListenError::Nowhere => "listen.socket",
                _ => "listen.address",
            };
            problems.add(key, error.to_string());
        }
        problems.0.extend(self.listen.connections.problems("listen.connections"));
        problems.0.extend(self.endpoint.connections.problems());
        problems.0.extend(self.aws.connections.problems("aws.connections"));
        if let Err(error) = self.aws.check(!access.keys.is_empty()) {
            problems.add(error.key(), error.to_string());
        }
        if let Err(error) = access.check() {
            problems.add("access", error.to_string());
        }
        for key in &access.keys {
            // A secret in a file of its own is read by `missing`.
            if key.secret.is_some()
                && let Err(error) = key.secret()
            {
                problems.add("access.keys", error.to_string());
            }
        }
    }

    /// Checks the sections that have a check of their own.
    fn check_sections(&self, problems: &mut Problems) {
        // Problems of the paths are reported above.
        let host = if problems.0.is_empty() { self.host().check() } else { Ok(()) };
        let sections = [host, self.endpoint.check(), self.logs.check(), self.audit.check()];
        problems.0.extend(sections.into_iter().filter_map(Result::err));
        if let Err(error) = RoleProvider::new(self.roles.clone()) {
            problems.add("roles", error.to_string());
        }
        if let Err(error) = Fetcher::new(self.artifacts.clone()) {
            problems.add("artifacts", error.to_string());
        }
        for (section, problem) in [("network", self.network.problem()), ("dns", self.dns.problem())] {
            if let Some((key, why)) = problem {
                problems.add(&format!("{section}.{key}"), why);
            }
        }
        self.check_owners(problems);
        problems.unless(
            (1..=1000).contains(&self.store.backups_kept),
            "store.backups_kept",
            "write 1 to 1000",
        );
    }

    /// With several accounts, each source of artifacts has to say whose it is.
    fn check_owners(&self, problems: &mut Problems) {
        let accounts = self.accounts();
        if accounts.len() < 2 {
            return;
        }
        let named: Vec<_> = accounts.iter().map(|(account, whose)| format!("{account} ({whose})")).collect();
        let one = accounts.keys().next_back().map(String::as_str).unwrap_or_default();
        for key in self.artifacts.without_owner() {
            let write = match key.strip_prefix("buckets.").and_then(|key| key.strip_suffix(".accounts")) {
                Some(bucket) => format!("{bucket} = {{ folder = \"/FOLDER\", accounts = [\"{one}\"] }}"),
                None => format!("{} = [\"{one}\"]", key.rsplit('.').next().unwrap_or_default()),
            };
            let why = format!(
                "nobody says whose it is, and there are several accounts: {}. Write {write} with those that may use it, or \
                 [\"*\"] for all; if there is to be one account only, make access.local_account the keys' account",
                named.join(", ")
            );
            problems.add(&format!("artifacts.{key}"), why);
        }
    }
}

/// Checks that a PEM file exists, and that a secret one is readable by its owner only.
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

/// Whether users other than the owner may read a file.
#[must_use]
pub fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::certificates::authority::{Authority, Validity};

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
        let key = "[[access.keys]]\nid = \"HKa\"\nsecret = \"01234567890123456789\"\n";
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
            ("[builder]\nmemory_max_mib = 0", "builder.memory_max_mib"),
            ("[builder]\nregistry_mirrors = [\"mirror.example\"]", "builder.registry_mirrors"),
            ("[quotas.rates]\nRunMicroVM = { per_second = 1 }", "quotas.rates.RunMicroVM"),
            ("[access]\nlocal_account = \"1\"", "access"),
            ("[[access.keys]]\nid = \"HKa\"\nsecret = \"short\"", "access.keys"),
            ("[listen]\nsocket_mode = \"9\"", "listen.socket_mode"),
            ("[endpoint]\ndomain = \"A\"", "endpoint.domain"),
            ("[endpoint]\ncertificate = \"/c\"", "endpoint.certificate"),
            ("[endpoint.acme]\ndirectory = \"a\"", "endpoint.acme.directory"),
            ("[aws]\naddress = \"0.0.0.0:7480\"", "aws.address"),
            ("[aws]\nkey = \"/k\"", "aws.certificate"),
            ("[audit]\nmax_files = 0", "audit.max_files"),
            ("[audit]\nmax_unknown_bytes = 1", "audit.max_unknown_bytes"),
            ("[logs]\nsegment_bytes = 1", "logs.segment_bytes"),
            ("[jail]\noff = [\"moat\"]", "jail.off"),
            ("[limits.network]\nburst_packets = 5000000000", "limits.network.burst_packets"),
            ("[artifacts.registries.\"*\"]\nplain_http = true", "artifacts"),
            ("[artifacts.registries.\"*\"]\nusername = \"u\"\npassword = \"p\"", "artifacts"),
            ("[artifacts.registries.\"r.example\"]\nendpoints = [\"r.example\"]", "artifacts"),
            ("[roles.rules.\"arn:aws:iam::*\"]\naccounts = [\"1\"]", "roles"),
        ] {
            assert_eq!(keys(text), [key], "{text}");
        }
    }

    #[test]
    fn with_several_accounts_every_source_of_artifacts_says_whose_it_is() {
        let sources = "[artifacts]\nallow_files = true\n[artifacts.buckets]\nbuilds = \"/srv/builds\"\n\
                       [artifacts.registries.\"r.example:5000\"]\n\
                       [artifacts.s3.credentials]\naccess_key_id = \"id\"\nsecret_access_key = \"hush\"\n";
        let owned = "[artifacts]\nallow_files = true\nfiles_accounts = [\"000000000000\"]\n\
                     [artifacts.buckets]\nbuilds = { folder = \"/srv/builds\", accounts = [\"*\"] }\n\
                     [artifacts.registries.\"r.example:5000\"]\naccounts = [\"123456789012\"]\n\
                     [artifacts.s3]\naccounts = [\"123456789012\"]\n\
                     [artifacts.s3.credentials]\naccess_key_id = \"id\"\nsecret_access_key = \"hush\"\n";
        let key = "[[access.keys]]\nid = \"HKa\"\nsecret = \"01234567890123456789\"\n";
        let other = format!("{key}account = \"123456789012\"\n");
        let missing = [
            "artifacts.buckets.builds.accounts",
            "artifacts.registries.\"r.example:5000\".accounts",
            "artifacts.s3.accounts",
            "artifacts.files_accounts",
        ];
        for access in ["", key] {
            assert_eq!(keys(&format!("{access}{sources}")), [""; 0], "one account");
            assert_eq!(keys(&format!("{access}{owned}")), [""; 0]);
        }
        assert_eq!(keys(&format!("{other}{sources}")), missing);
        assert_eq!(keys(&format!("{other}{owned}")), [""; 0]);
        // Without a socket the keys' account is the only one; a store without keys is nobody's secret.
        assert_eq!(
            keys(&format!("[listen]\nsocket = \"\"\naddress = \"127.0.0.1:7443\"\n{other}{sources}")),
            [""; 0]
        );
        assert_eq!(keys(&format!("{other}[artifacts.s3]\nendpoint = \"https://s3.example\"\n")), [""; 0]);
        let config = Config::parse(&format!("{other}{sources}")).unwrap();
        let told = config.problems()[0].to_string();
        assert_eq!(
            told,
            "artifacts.buckets.builds.accounts: nobody says whose it is, and there are several accounts: 000000000000 \
             (the Unix socket), 123456789012 (the access key HKa). Write builds = { folder = \"/FOLDER\", accounts = \
             [\"123456789012\"] } with those that may use it, or [\"*\"] for all; if there is to be one account only, make \
             access.local_account the keys' account"
        );
        let one = Config::parse(sources).unwrap().artifacts();
        assert_eq!(one.buckets["builds"].accounts, Some(vec!["000000000000".to_owned()]));
    }

    #[test]
    fn a_certificate_of_endpoints_has_to_be_for_their_domain() {
        let folder = tempfile::tempdir().unwrap();
        let valid = Validity::around(OffsetDateTime::now_utc(), time::Duration::days(30));
        let authority = Authority::new("A", None, valid).unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c.key"));
        for (name, good) in [("*.microvms.example.com", true), ("microvms.example.com", false)] {
            let signed = authority.sign("B", &[name.to_owned()], valid).unwrap();
            fs::write(&certificate, signed.pem).unwrap();
            fs::write(&key, signed.key_pem).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            let text = format!(
                "[endpoint]\ndomain = \"microvms.example.com\"\ncertificate = {certificate:?}\nkey = {key:?}\n"
            );
            let missing = Config::parse(&text).unwrap().missing();
            let told: Vec<_> = missing.iter().filter(|problem| problem.key.starts_with("endpoint")).collect();
            assert_eq!(told.is_empty(), good, "{told:?}");
        }
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
