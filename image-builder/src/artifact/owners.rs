//! Whose a source of artifacts is: the accounts of buckets, registries, files and keys.
//!
//! A source without a list of accounts is everybody's. A daemon for which several accounts are configured refuses such a
//! configuration; whoever builds by hand is the operator, and uses all sources ([`ArtifactConfig::for_everybody`]).

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use hearth_host::roles::StaticKeys;
use hearth_model::account::is_account;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::config::{ArtifactConfig, RegistryConfig};

/// What stands for all accounts in a list.
const EVERYBODY: &str = "*";

/// What stands for all registries that are not named.
pub(super) const ALL: &str = "*";

/// The accounts that may use a source; without a list, all.
pub(super) type Owners = Option<Vec<String>>;

/// Whether a source is for an account.
fn is_for(owners: &Owners, account: &str) -> bool {
    owners.as_ref().is_none_or(|owners| owners.iter().any(|owner| owner == EVERYBODY || owner == account))
}

/// Checks a list of accounts. The error is what is wrong with it.
fn check(owners: &Owners) -> Result<(), String> {
    let Some(owners) = owners else { return Ok(()) };
    if owners.is_empty() {
        return Err("accounts is empty, so that nobody could use it: list accounts, or remove it".to_owned());
    }
    match owners.iter().find(|owner| *owner != EVERYBODY && !is_account(owner)) {
        Some(wrong) => Err(format!("accounts: \"{wrong}\" is no account: 12 digits, or \"*\" for all")),
        None => Ok(()),
    }
}

/// A bucket that is a folder of this host. In a file, a path in the place of the table is the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketConfig {
    /// The folder.
    pub folder: PathBuf,
    /// The accounts that may use the bucket.
    pub accounts: Option<Vec<String>>,
}

impl From<PathBuf> for BucketConfig {
    fn from(folder: PathBuf) -> Self {
        Self { folder, accounts: None }
    }
}

/// A bucket that is a folder of this host; a path in the place of the table is the folder.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename = "bucket", deny_unknown_fields)]
struct BucketTable {
    /// The folder. An object's key is its path below it.
    folder: PathBuf,
    /// Accounts (12 digits) whose builds may read it; `["*"]` for all. Needed as soon as several accounts are configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accounts: Option<Vec<String>>,
}

impl JsonSchema for BucketConfig {
    fn schema_name() -> Cow<'static, str> {
        BucketTable::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        BucketTable::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BucketTable::json_schema(generator)
    }
}

impl Serialize for BucketConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { folder, accounts } = self.clone();
        match accounts {
            None => folder.serialize(serializer),
            accounts => BucketTable { folder, accounts }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for BucketConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BucketForms)
    }
}

/// Deserializes both forms of a bucket.
struct BucketForms;

impl<'de> Visitor<'de> for BucketForms {
    type Value = BucketConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"/FOLDER\", or a table with folder and accounts")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<BucketConfig, E> {
        Ok(PathBuf::from(text).into())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BucketConfig, A::Error> {
        let BucketTable { folder, accounts } = BucketTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(BucketConfig { folder, accounts })
    }
}

/// A registry as accounts have it: one entry, or several for different accounts. In a file, a table or a list of tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registries(Vec<RegistryConfig>);

impl From<RegistryConfig> for Registries {
    fn from(registry: RegistryConfig) -> Self {
        Self(vec![registry])
    }
}

impl From<Vec<RegistryConfig>> for Registries {
    fn from(entries: Vec<RegistryConfig>) -> Self {
        Self(entries)
    }
}

impl Registries {
    /// The entries.
    pub fn iter(&self) -> impl Iterator<Item = &RegistryConfig> {
        self.0.iter()
    }

    /// The entry for an account: one that lists the account before one that is for all.
    #[must_use]
    pub fn of(&self, account: &str) -> Option<&RegistryConfig> {
        let listed = |entry: &&RegistryConfig| entry.accounts.iter().flatten().any(|owner| owner == account);
        self.0.iter().find(listed).or_else(|| self.0.iter().find(|entry| is_for(&entry.accounts, account)))
    }

    /// Whether the registry is spoken to without TLS.
    fn is_plain(&self) -> bool {
        self.0.iter().any(|entry| entry.plain_http)
    }

    /// Checks the entries. The error is what is wrong with them.
    fn check(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err("the list has no entry: remove it".to_owned());
        }
        let mut seen: Vec<&str> = Vec::new();
        for entry in &self.0 {
            check(&entry.accounts)?;
            let owners = entry
                .accounts
                .as_deref()
                .map_or(vec![EVERYBODY], |owners| owners.iter().map(String::as_str).collect());
            for owner in owners {
                if seen.contains(&owner) {
                    return Err(format!(
                        "two entries are for the account {owner}: each needs accounts of its own"
                    ));
                }
                seen.push(owner);
            }
        }
        Ok(())
    }
}

/// Whether two names are of one registry, however they are spelled: capitals, and the port that is meant without one, make no other
/// registry. `plain`: whether it is spoken to without TLS.
fn is_same(one: &str, other: &str, plain: bool) -> bool {
    let canonical = |name: &str| {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix(if plain { ":80" } else { ":443" }).map(str::to_owned).unwrap_or(name);
        // The parser of image names makes the one of the other.
        if name == "index.docker.io" { "docker.io".to_owned() } else { name }
    };
    canonical(one) == canonical(other)
}

/// The schema is that of an entry.
impl JsonSchema for Registries {
    fn schema_name() -> Cow<'static, str> {
        RegistryConfig::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        RegistryConfig::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        RegistryConfig::json_schema(generator)
    }
}

impl Serialize for Registries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [entry] => entry.serialize(serializer),
            entries => entries.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Registries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RegistryForms)
    }
}

/// Deserializes both forms of a registry.
struct RegistryForms;

impl<'de> Visitor<'de> for RegistryForms {
    type Value = Registries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, or a list of tables for different accounts")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Registries, A::Error> {
        RegistryConfig::deserialize(MapAccessDeserializer::new(map)).map(Registries::from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<Registries, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(entries)).map(Registries)
    }
}

impl ArtifactConfig {
    /// Whether builds of an account may read the bucket, if it is a folder of this host.
    pub(super) fn may_use_bucket(&self, bucket: &str, account: &str) -> bool {
        self.buckets.get(bucket).is_none_or(|bucket| is_for(&bucket.accounts, account))
    }

    /// Whether an account may name files of this host.
    pub(super) fn may_use_files(&self, account: &str) -> bool {
        self.allow_files && is_for(&self.files_accounts, account)
    }

    /// The object store's keys of the configuration, for an account whose build role stands for none.
    pub(super) fn s3_keys(&self, account: &str) -> Option<&StaticKeys> {
        self.s3.credentials.as_ref().filter(|_| is_for(&self.s3.accounts, account))
    }

    /// The configuration of a registry for an account: its own, or that of `*` for registries that are not named.
    pub(super) fn registry(&self, registry: &str, account: &str) -> Option<&RegistryConfig> {
        self.named(registry).or_else(|| self.registries.get(ALL))?.of(account)
    }

    /// Whether the operator has named a registry, instead of allowing all.
    pub(super) fn is_named(&self, registry: &str) -> bool {
        self.named(registry).is_some()
    }

    fn named(&self, registry: &str) -> Option<&Registries> {
        let mut named = self.registries.iter().filter(|(host, _)| *host != ALL);
        named.find(|(host, entries)| is_same(host, registry, entries.is_plain())).map(|(_, entries)| entries)
    }

    /// Whether an account may use any registry.
    pub(super) fn has_registries(&self, account: &str) -> bool {
        self.registries.values().any(|registry| registry.of(account).is_some())
    }

    /// Checks the lists of accounts. The error is the key, and what is wrong.
    pub(super) fn check_owners(&self) -> Result<(), (String, String)> {
        let of = |key: String| move |why: String| (key, why);
        for (name, bucket) in &self.buckets {
            check(&bucket.accounts).map_err(of(format!("buckets.{name}")))?;
        }
        for (host, registry) in &self.registries {
            let key = format!("registries.\"{host}\"");
            registry.check().map_err(of(key.clone()))?;
            let mut before = self.registries.range::<String, _>(..host);
            if let Some((other, _)) = before.find(|(other, _)| is_same(other, host, registry.is_plain())) {
                return Err((key, format!("it is the same registry as \"{other}\": write one entry")));
            }
        }
        check(&self.s3.accounts).map_err(of("s3".to_owned()))?;
        check(&self.files_accounts).map_err(of("files_accounts".to_owned()))
    }

    /// The lists of accounts that are missing, which are needed where several accounts are configured: the keys below
    /// `artifacts`.
    #[must_use]
    pub fn without_owner(&self) -> Vec<String> {
        let buckets = self.buckets.iter().filter(|(_, bucket)| bucket.accounts.is_none());
        let mut keys: Vec<_> = buckets.map(|(name, _)| format!("buckets.{name}.accounts")).collect();
        let registries = self.registries.iter();
        let registries =
            registries.filter(|(_, entries)| entries.iter().any(|entry| entry.accounts.is_none()));
        keys.extend(registries.map(|(host, _)| format!("registries.\"{host}\".accounts")));
        if self.s3.credentials.is_some() && self.s3.accounts.is_none() {
            keys.push("s3.accounts".to_owned());
        }
        if self.allow_files && self.files_accounts.is_none() {
            keys.push("files_accounts".to_owned());
        }
        keys
    }

    /// Sources without a list of accounts become those of this account: the only one that is configured.
    #[must_use]
    pub fn of_account(mut self, account: &str) -> Self {
        for owners in self.owners() {
            owners.get_or_insert_with(|| vec![account.to_owned()]);
        }
        self
    }

    /// All sources become everybody's: for builds by hand, which are the operator's. Of several entries of a registry the
    /// first is used.
    #[must_use]
    pub fn for_everybody(mut self) -> Self {
        self.owners().into_iter().for_each(|owners| *owners = None);
        self.registries.values_mut().for_each(|registry| registry.0.truncate(1));
        self
    }

    /// All lists of accounts.
    fn owners(&mut self) -> Vec<&mut Owners> {
        let buckets = self.buckets.values_mut().map(|bucket| &mut bucket.accounts);
        let registries = self.registries.values_mut().flat_map(|registry| &mut registry.0);
        let registries = registries.map(|entry| &mut entry.accounts);
        buckets.chain(registries).chain([&mut self.s3.accounts, &mut self.files_accounts]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "111122223333";
    const B: &str = "444455556666";

    fn config(text: &str) -> ArtifactConfig {
        toml::from_str(text).unwrap()
    }

    const OWNED: &str = r#"
        allow_files = true
        files_accounts = ["111122223333"]
        [buckets]
        all = { folder = "/srv/all", accounts = ["*"] }
        own = { folder = "/srv/own", accounts = ["111122223333"] }
        [[registries."registry.example"]]
        accounts = ["111122223333"]
        username = "a"
        [[registries."registry.example"]]
        accounts = ["*"]
        [registries."own.example"]
        accounts = ["111122223333"]
        [registries."*"]
        accounts = ["444455556666"]
        [s3]
        accounts = ["111122223333"]
        credentials = { access_key_id = "id", secret_access_key = "hush" }
    "#;

    #[test]
    fn a_source_is_for_the_accounts_of_its_list() {
        let config = config(OWNED);
        config.check_owners().unwrap();
        assert_eq!(config.without_owner(), [""; 0]);
        for (account, own) in [(A, true), (B, false)] {
            assert!(config.may_use_bucket("all", account) && config.may_use_bucket("in-the-store", account));
            assert_eq!(config.may_use_bucket("own", account), own);
            assert_eq!(config.may_use_files(account), own);
            assert_eq!(config.s3_keys(account).is_some(), own);
            let registry = config.registry("registry.example", account).unwrap();
            assert_eq!(registry.username.is_some(), own, "an entry for the account goes before one for all");
            // A registry that is named is not one of "all others".
            assert_eq!(config.registry("own.example", account).is_some(), own);
            assert_eq!(config.registry("other.example", account).is_some(), !own);
        }
    }

    #[test]
    fn a_registry_is_the_same_however_it_is_spelled() {
        let config = config(
            "[registries.\"Own.example:443\"]\naccounts = [\"111122223333\"]\n\
             [registries.\"plain.example\"]\nplain_http = true\naccounts = [\"111122223333\"]\n\
             [registries.\"index.docker.io\"]\naccounts = [\"111122223333\"]\n\
             [registries.\"*\"]\naccounts = [\"444455556666\"]\n",
        );
        config.check_owners().unwrap();
        let same = [
            "own.example",
            "OWN.example",
            "own.example:443",
            "plain.example:80",
            "PLAIN.example",
            "docker.io",
        ];
        for registry in same {
            assert!(
                config.registry(registry, A).is_some() && config.registry(registry, B).is_none(),
                "{registry}"
            );
        }
        for other in ["own.example:80", "own.example:5000", "plain.example:443", "example"] {
            assert!(config.registry(other, A).is_none() && config.registry(other, B).is_some(), "{other}");
        }
        for other in ["own.example", "OWN.EXAMPLE:443"] {
            let mut twice = config.clone();
            twice.registries.insert(other.to_owned(), twice.registries["Own.example:443"].clone());
            let (key, why) = twice.check_owners().unwrap_err();
            assert!(
                key.starts_with("registries.") && why.starts_with("it is the same registry as"),
                "{key}: {why}"
            );
        }
    }

    #[test]
    fn what_has_no_list_is_everybodys_or_the_only_accounts() {
        let text = "allow_files = true\n[buckets]\nlocal = \"/srv\"\n[registries.\"*\"]\n\
                    [s3.credentials]\naccess_key_id = \"id\"\nsecret_access_key = \"hush\"\n";
        let open = config(text);
        assert_eq!(
            open.without_owner(),
            ["buckets.local.accounts", "registries.\"*\".accounts", "s3.accounts", "files_accounts"]
        );
        let may = |config: &ArtifactConfig, account: &str| {
            let registry = config.registry("r.example", account).is_some();
            [
                config.may_use_bucket("local", account),
                config.may_use_files(account),
                config.s3_keys(account).is_some(),
                registry && config.has_registries(account),
            ]
        };
        assert_eq!((may(&open, A), may(&open, B)), ([true; 4], [true; 4]));
        let of_one = open.of_account(A);
        assert_eq!((may(&of_one, A), may(&of_one, B)), ([true; 4], [false; 4]));
        assert_eq!(may(&of_one.for_everybody(), B), [true; 4]);
        let by_hand = config(OWNED).for_everybody();
        assert_eq!(by_hand.registry("registry.example", B).unwrap().username.as_deref(), Some("a"));
    }

    #[test]
    fn both_forms_are_read_and_written() {
        for text in [OWNED, "[buckets]\nlocal = \"/srv\"\n[registries.\"r.example\"]\nplain_http = true\n"] {
            let mut config = config(text);
            config.s3.credentials = None; // secrets are not written
            let written = serde_json::to_value(&config).unwrap();
            assert_eq!(serde_json::from_value::<ArtifactConfig>(written).unwrap(), config);
        }
        for (wrong, word) in [
            ("[buckets]\nlocal = 1", "/FOLDER"),
            ("[buckets]\nlocal = { path = \"/srv\" }", "path"),
            ("[registries]\nr = \"x\"", "list of tables"),
            ("[registries.r]\naccount = \"1\"", "account"),
        ] {
            let error = toml::from_str::<ArtifactConfig>(wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_meant_is_refused_with_its_key() {
        for (text, key, word) in [
            ("[buckets]\nb = { folder = \"/b\", accounts = [] }", "buckets.b", "nobody"),
            ("[buckets]\nb = { folder = \"/b\", accounts = [\"1\"] }", "buckets.b", "\"1\""),
            ("[registries.r]\naccounts = [\"all\"]", "registries.\"r\"", "12 digits"),
            ("[[registries.r]]\n[[registries.r]]\n", "registries.\"r\"", "two entries"),
            (
                "[[registries.r]]\naccounts = [\"111122223333\"]\n[[registries.r]]\naccounts = [\"111122223333\"]",
                "registries.\"r\"",
                "two entries are for the account 111122223333",
            ),
            ("[registries]\nr = []", "registries.\"r\"", "no entry"),
            ("[s3]\naccounts = []", "s3", "nobody"),
            ("files_accounts = [\"x\"]", "files_accounts", "\"x\""),
        ] {
            let (at, why) = config(text).check_owners().unwrap_err();
            assert_eq!(at, key);
            assert!(why.contains(word), "{why}");
        }
    }
}
