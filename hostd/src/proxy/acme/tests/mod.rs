//! Orders at an authority on this machine, which queries the real DNS server of the domain.

pub(in crate::proxy) mod authority;
mod pebble;

use std::path::Path;

use authority::FakeAuthority;

use super::*;
use crate::proxy::config::EndpointConfig;
use crate::proxy::dns::Dns;

const DOMAIN: &str = "microvms.example.com";

fn open(authority: &FakeAuthority, folder: &Path, challenges: &Challenges) -> Acme {
    let config = AcmeConfig {
        directory: authority.directory(),
        contact: Some("mailto:me@example.com".to_owned()),
        ca_file: Some(authority.ca_file().to_owned()),
    };
    Acme::open(&config, DOMAIN, folder, challenges.clone()).unwrap()
}

/// An authority and the DNS server that it queries, which returns these challenges.
async fn surroundings(folder: &Path, challenges: Challenges) -> FakeAuthority {
    let config = EndpointConfig { dns: Some(([127, 0, 0, 1], 0).into()), ..EndpointConfig::default() };
    let dns = Dns::bind(&config, DOMAIN, challenges).await.unwrap().unwrap();
    let mut authority = FakeAuthority::bind(folder).await;
    authority.ask(dns.address().unwrap());
    tokio::spawn(dns.serve());
    authority
}

#[tokio::test]
async fn who_answers_dns_gets_a_certificate_and_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let challenges = Challenges::default();
    let authority = surroundings(folder.path(), challenges.clone()).await;
    let acme = open(&authority, folder.path(), &challenges);
    let seen = authority.seen();
    tokio::spawn(authority.serve());
    assert!(acme.stored().is_none());
    let first = acme.obtain().await.unwrap();
    assert!(acme.stored().unwrap().is_same(&first));
    assert_eq!(challenges.values(), [""; 0]);
    let second = acme.obtain().await.unwrap();
    assert!(!second.is_same(&first));
    let seen = seen.lock().unwrap().clone();
    assert_eq!((seen.accounts, seen.orders), (1, 2));
    assert_eq!(seen.contacts, ["mailto:me@example.com"]);
}

#[tokio::test]
async fn who_does_not_is_told_what_the_authority_found() {
    let folder = tempfile::tempdir().unwrap();
    // The DNS server of another host.
    let authority = surroundings(folder.path(), Challenges::default()).await;
    let challenges = Challenges::default();
    let acme = open(&authority, folder.path(), &challenges);
    tokio::spawn(authority.serve());
    let error = acme.obtain().await.unwrap_err();
    assert!(matches!(&error, AcmeError::Refused(why) if why.contains("no TXT record")), "{error}");
    assert!(error.to_string().contains("endpoint.dns"), "{error}");
    assert_eq!(challenges.values(), [""; 0]);
}

#[tokio::test]
async fn an_authority_that_cannot_be_reached_or_trusted_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let authority = FakeAuthority::bind(folder.path()).await;
    let acme = open(&authority, folder.path(), &Challenges::default());
    let other = tempfile::tempdir().unwrap();
    let untrusted = Acme {
        config: AcmeConfig {
            ca_file: Some(FakeAuthority::bind(other.path()).await.ca_file().to_owned()),
            ..acme.config.clone()
        },
        domain: DOMAIN.to_owned(),
        folder: other.path().to_owned(),
        challenges: Challenges::default(),
    };
    let serving = tokio::spawn(authority.serve());
    let error = untrusted.obtain().await.unwrap_err().to_string();
    assert!(
        error.starts_with("reaching the ACME authority: ") && error.contains("invalid peer certificate"),
        "{error}"
    );
    serving.abort();
    let _ = serving.await; // the listener is closed after this
    let error = acme.obtain().await.unwrap_err().to_string();
    assert!(error.starts_with("reaching the ACME authority: "), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_domain_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let challenges = Challenges::default();
    let authority = surroundings(folder.path(), challenges.clone()).await;
    let acme = open(&authority, folder.path(), &challenges);
    let moved = Acme::open(&acme.config, "other.example", folder.path(), challenges.clone()).unwrap();
    tokio::spawn(authority.serve());
    acme.obtain().await.unwrap();
    assert!(moved.stored().is_none());
}
