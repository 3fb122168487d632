//! Configuration of endpoints.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shares::config::EndpointConnections;
use crate::service::Profile;
use crate::setting::Problem;

/// Greatest length of the domain: a name below it begins with a UUID, and has 253 characters at most.
const MAX_DOMAIN: usize = 200;
/// Greatest length of a label, which is a part of a name between dots.
const MAX_LABEL: usize = 63;

/// Endpoints of microVMs: `https://UUID.DOMAIN` ([endpoints.md](endpoints.md)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointConfig {
    /// Whether microVMs can be reached at their endpoints at all.
    pub enabled: bool,
    /// Where requests to endpoints come in.
    pub address: SocketAddr,
    /// What names of endpoints end with; `lambda-microvm.REGION.localhost` unless given.
    pub domain: Option<String>,
    /// PEM file with a certificate for `*.DOMAIN`, then those of intermediate authorities; read again when it changes.
    /// Unless given, an authority of this host's own signs one.
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's key; nobody but root may read it.
    pub key: Option<PathBuf>,
    /// `"ADDRESS:PORT"` where questions about the domain are answered, over UDP and TCP; nowhere unless given.
    pub dns: Option<SocketAddr>,
    /// Addresses that names of endpoints resolve to; the IP address of `address` unless given.
    pub dns_answer: Vec<IpAddr>,
    /// Whether `?x-aws-proxy-auth=TOKEN` in a link sets a cookie, so that browsers can log in.
    pub browser_login: bool,
    /// Whether apps receive the client's address (`X-Forwarded-For`); in AWS they do not.
    pub forwarded_for: bool,
    /// Requests that wait for one microVM to wake up; more are refused.
    pub held_requests: u32,
    /// How long requests wait for it, beside the timeout of the resume hook, in seconds.
    pub hold_seconds: u64,
    /// How long a suspend waits for requests that are under way, in seconds.
    pub drain_seconds: u64,
    /// Seconds without a request after which a connection is closed, and without a byte after which a WebSocket or shell is.
    #[schemars(range(min = 1))]
    pub idle_connection_seconds: u64,
    /// Whether connections, requests per second and bandwidth are limited by memory class; the profile's unless given:
    /// `default` does not, `aws-strict` does.
    pub limits: Option<bool>,
    /// What connections may take up: `[endpoint.connections]`.
    pub connections: EndpointConnections,
    /// A certificate from an ACME authority: `[endpoint.acme]`.
    pub acme: Option<AcmeConfig>,
}

/// An ACME authority, like Let's Encrypt. With this section you agree to its terms of service. It needs a `domain` of
/// your own and `dns` ([endpoints.md](endpoints.md#a-certificate-from-lets-encrypt-or-another-acme-authority)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// URL of the authority's directory, like `https://acme-v02.api.letsencrypt.org/directory`.
    pub directory: String,
    /// The address that the authority writes to: `mailto:ADDRESS`. The authority gets it when the account is made.
    pub contact: Option<String>,
    /// PEM file with the authority that signs the directory's own certificate; those of the system unless given.
    pub ca_file: Option<PathBuf>,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            address: (Ipv4Addr::LOCALHOST, 443).into(),
            domain: None,
            certificate: None,
            key: None,
            dns: None,
            dns_answer: Vec::new(),
            browser_login: false,
            forwarded_for: false,
            held_requests: 100,
            hold_seconds: 30,
            drain_seconds: 5,
            idle_connection_seconds: 3600,
            limits: None,
            connections: EndpointConnections::default(),
            acme: None,
        }
    }
}

impl EndpointConfig {
    /// Checks that the values are valid and consistent.
    ///
    /// # Errors
    /// The problem.
    pub fn check(&self) -> Result<(), Problem> {
        if !self.domain.as_deref().is_none_or(is_domain) {
            let why = "write a domain in lower case, like microvms.example.com";
            return Err(Problem::new("endpoint.domain", why));
        }
        match (&self.certificate, &self.key) {
            (Some(_), None) => {
                return Err(Problem::new("endpoint.certificate", "it needs its key: give endpoint.key"));
            }
            (None, Some(_)) => {
                let why = "it needs its certificate: give endpoint.certificate";
                return Err(Problem::new("endpoint.key", why));
            }
            (Some(_), Some(_)) if self.acme.is_some() => {
                let why = "it excludes endpoint.certificate: give one of them";
                return Err(Problem::new("endpoint.acme", why));
            }
            _ => {}
        }
        for (key, path) in [
            ("endpoint.certificate", &self.certificate),
            ("endpoint.key", &self.key),
            ("endpoint.acme.ca_file", &self.acme.as_ref().and_then(|acme| acme.ca_file.clone())),
        ] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(Problem::new(key, "write an absolute path"));
            }
        }
        if self.dns.is_some() && self.answers().is_empty() {
            let why = format!(
                "write the addresses that clients reach this host at; endpoint.address is {}",
                self.address
            );
            return Err(Problem::new("endpoint.dns_answer", why));
        }
        if self.idle_connection_seconds == 0 {
            return Err(Problem::new("endpoint.idle_connection_seconds", "write at least 1"));
        }
        self.acme.as_ref().map_or(Ok(()), |acme| self.check_acme(acme))
    }

    fn check_acme(&self, acme: &AcmeConfig) -> Result<(), Problem> {
        if !acme.directory.starts_with("https://") {
            let why = "write a URL that begins with https://";
            return Err(Problem::new("endpoint.acme.directory", why));
        }
        if acme.contact.as_ref().is_some_and(|contact| !contact.starts_with("mailto:")) {
            return Err(Problem::new("endpoint.acme.contact", "write mailto:ADDRESS"));
        }
        let public = |domain: &str| domain != "localhost" && !domain.ends_with(".localhost");
        if !self.domain.as_deref().is_some_and(public) {
            let why = "write a domain of your own, since nobody certifies localhost";
            return Err(Problem::new("endpoint.domain", why));
        }
        if self.dns.is_none() {
            let why = "write where this host answers DNS: the ACME authority asks it";
            return Err(Problem::new("endpoint.dns", why));
        }
        Ok(())
    }

    /// The addresses that names of endpoints resolve to; empty if they are not known.
    #[must_use]
    pub fn answers(&self) -> Vec<IpAddr> {
        let address = self.address.ip();
        if self.dns_answer.is_empty() && !address.is_unspecified() {
            return vec![address];
        }
        self.dns_answer.clone()
    }

    /// Whether the traffic of endpoints is limited by memory class.
    #[must_use]
    pub fn limited(&self, profile: Profile) -> bool {
        self.limits.unwrap_or(profile == Profile::AwsStrict)
    }

    /// How long requests wait for a microVM to wake up, in addition to the timeout of its resume hook.
    #[must_use]
    pub fn hold(&self) -> Duration {
        bounded(self.hold_seconds)
    }

    /// How long a suspend waits for requests in progress.
    #[must_use]
    pub fn drain(&self) -> Duration {
        bounded(self.drain_seconds)
    }

    /// Time after which an idle connection is closed.
    #[must_use]
    pub fn idle_connection(&self) -> Duration {
        bounded(self.idle_connection_seconds)
    }
}

/// A number of seconds as a duration of at most a year: adding more to a time could overflow.
fn bounded(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(365 * 24 * 3600))
}

/// Whether a text is a domain, in lower case, below which names that begin with a UUID fit.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let inside = !label.starts_with('-') && !label.ends_with('-');
        (1..=MAX_LABEL).contains(&label.len()) && inside && label.bytes().all(good)
    };
    text.len() <= MAX_DOMAIN && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> EndpointConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let acme = "domain = \"a.example\"\ndns = \"0.0.0.0:53\"\n[acme]\n";
        for (text, key) in [
            ("domain = \"A.example\"".to_owned(), "endpoint.domain"),
            ("domain = \"a..example\"".to_owned(), "endpoint.domain"),
            ("domain = \"-a.example\"".to_owned(), "endpoint.domain"),
            ("certificate = \"/c\"".to_owned(), "endpoint.certificate"),
            ("key = \"/k\"".to_owned(), "endpoint.key"),
            ("certificate = \"c\"\nkey = \"/k\"".to_owned(), "endpoint.certificate"),
            ("address = \"0.0.0.0:443\"\ndns = \"0.0.0.0:53\"".to_owned(), "endpoint.dns_answer"),
            ("idle_connection_seconds = 0".to_owned(), "endpoint.idle_connection_seconds"),
            (format!("{acme}directory = \"http://a.example\""), "endpoint.acme.directory"),
            (format!("{acme}directory = \"https://b\"\ncontact = \"me\""), "endpoint.acme.contact"),
            (format!("{acme}directory = \"https://b\"\nca_file = \"c\""), "endpoint.acme.ca_file"),
            ("[acme]\ndirectory = \"https://b\"".to_owned(), "endpoint.domain"),
            ("domain = \"a.b\"\n[acme]\ndirectory = \"https://b\"".to_owned(), "endpoint.dns"),
            (format!("certificate = \"/c\"\nkey = \"/k\"\n{acme}directory = \"https://b\""), "endpoint.acme"),
        ] {
            let error = config(&text).check().unwrap_err();
            assert_eq!(error.key, key, "{text}: {error}");
        }
        config("").check().unwrap();
        config(&format!("{acme}directory = \"https://b\"\ncontact = \"mailto:me@a.example\""))
            .check()
            .unwrap();
    }

    #[test]
    fn names_resolve_to_the_address_unless_told_otherwise() {
        let answers = |text: &str| config(text).answers();
        let some = "192.0.2.1".parse::<IpAddr>().unwrap();
        assert_eq!(answers(""), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert_eq!(answers("dns_answer = [\"192.0.2.1\"]"), [some]);
        assert_eq!(answers("address = \"[::]:443\""), [some; 0]);
    }

    #[test]
    fn limits_are_the_profiles_unless_given() {
        for (text, default, strict) in
            [("", false, true), ("limits = true", true, true), ("limits = false", false, false)]
        {
            let config = config(text);
            assert_eq!(config.limited(Profile::Default), default, "{text}");
            assert_eq!(config.limited(Profile::AwsStrict), strict, "{text}");
        }
    }
}
