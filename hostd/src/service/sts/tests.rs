//! Sessions, from `AssumeRole` to the calls that are made with them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hearth_host::roles::RolesConfig;
use serde_json::json;

use super::*;
use crate::access::sigv4::SignatureError;
use crate::access::sigv4::tests::{Signed, Signer};
use crate::access::{Access, AccessConfig};
use crate::operation::Operation;
use crate::service::ServiceConfig;
use crate::service::quota::{Limits, Rate};
use crate::service::tests::{Host, configured};
use crate::tokens::Tokens;

const APP: &str = "arn:aws:iam::111122223333:role/team/app";
const OTHER: &str = "arn:aws:iam::444455556666:role/app";
const CONFIG: &str = r#"
    [[keys]]
    id = "AKIDEVELOPER"
    secret = "a long enough secret"
    account = "111122223333"
    policies = [
        { actions = ["Get*", "RunMicrovm"], images = ["web-*"] },
        { actions = ["PassRole"], roles = ["arn:aws:iam::*"] },
    ]
    [[keys]]
    id = "AKIREADER"
    secret = "another long secret"
    account = "111122223333"
    policies = [{ actions = ["Get*"] }, { actions = ["PassRole"], images = ["web-*"], roles = ["*"] }]
    [roles."arn:aws:iam::111122223333:role/team/app"]
    policies = [
        { actions = ["Get*", "TerminateMicrovm"] },
        { actions = ["PassRole"], images = ["*"], roles = ["arn:aws:iam::111122223333:role/other"] },
    ]
    [roles."arn:aws:iam::444455556666:role/app"]
    policies = [{ actions = ["*"] }]
"#;

fn access(host: &Host, config: &str) -> Access {
    access_with(host, host.service.parts().tokens.clone(), config)
}

fn access_with(host: &Host, tokens: Tokens, config: &str) -> Access {
    let config: AccessConfig = toml::from_str(config).unwrap();
    let sessions = crate::access::Sessions::new(
        "us-east-1",
        tokens,
        host.service.parts().roles.clone(),
        config.role_policies(),
    );
    Access::new(&config, "us-east-1").unwrap().with_sessions(sessions)
}

async fn host_with(limits: Limits, roles: RolesConfig) -> Host {
    let config: AccessConfig = toml::from_str(CONFIG).unwrap();
    let role_policies = config.role_policies();
    let profile = crate::service::Profile::Default;
    configured(ServiceConfig { limits, role_policies, ..ServiceConfig::new("us-east-1", profile) }, roles)
        .await
}

async fn host() -> Host {
    host_with(Limits::default(), RolesConfig::default()).await
}

fn incoming(caller: &Caller) -> Incoming {
    Incoming {
        caller: Ok(caller.clone()),
        request_id: "id".into(),
        address: "192.0.2.1".into(),
        user_agent: String::new(),
        since: std::time::Instant::now(),
    }
}

fn key(access: &Access, id: &str, secret: &str) -> Caller {
    let now = SystemTime::now();
    let signed = Signer { key: id, secret, time: now, service: "sts", ..Signer::default() }.sign(
        "POST",
        "/",
        &[],
        b"",
    );
    signed.verified_by(access, now, false).unwrap()
}

fn developer(access: &Access) -> Caller {
    key(access, "AKIDEVELOPER", "a long enough secret")
}

fn request(parameters: &[(&str, &str)]) -> Request {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Request::AssumeRole(AssumeRole(parameters.iter().map(owned).collect::<BTreeMap<_, _>>()))
}

async fn assume(host: &Host, caller: &Caller, role: &str) -> Result<TemporaryCredentials, StsError> {
    let request = request(&[("RoleArn", role), ("RoleSessionName", "me@work"), ("DurationSeconds", "900")]);
    match host.service.sts(&incoming(caller), &request).await? {
        Answer::Assumed { credentials, .. } => Ok(credentials),
        other => panic!("{other:?}"),
    }
}

fn signed(credentials: &TemporaryCredentials, time: SystemTime) -> Signed {
    let (secret, token) = (credentials.secret.expose(), Some(credentials.token.expose()));
    let key = credentials.access_key_id.as_str();
    Signer { key, secret, token, time, ..Signer::default() }.sign("GET", "/2025-09-09/microvms", &[], b"")
}

/// The caller of a request that is signed with temporary credentials.
fn caller(
    access: &Access,
    credentials: &TemporaryCredentials,
    now: SystemTime,
) -> Result<Caller, SignatureError> {
    signed(credentials, now).verified_by(access, now, false)
}

#[tokio::test]
async fn a_session_may_do_what_its_maker_and_its_role_both_may() {
    let host = host().await;
    let access = access(&host, CONFIG);
    let credentials = assume(&host, &developer(&access), APP).await.unwrap();
    assert!(credentials.access_key_id.starts_with("ASIA") && credentials.access_key_id.len() == 20);
    let session = caller(&access, &credentials, SystemTime::now()).unwrap();
    assert_eq!(session.account, "111122223333");
    assert_eq!(session.principal, "arn:aws:sts::111122223333:assumed-role/app/me@work");
    let may = |operation| session.may(operation, Some("web-1"));
    assert!(may(Operation::GetMicrovm));
    assert!(!may(Operation::RunMicrovm), "the role may not");
    assert!(!may(Operation::TerminateMicrovm), "the maker may not");
    assert!(!session.may(Operation::GetMicrovm, Some("db")), "the maker may not for this image");
    assert!(session.may_pass("web-1", "arn:aws:iam::111122223333:role/other"));
    assert!(!session.may_pass("web-1", APP), "the role may not pass itself");

    let Answer::Identity { account, identity } =
        host.service.sts(&incoming(&session), &Request::GetCallerIdentity).await.unwrap()
    else {
        panic!("another answer");
    };
    assert_eq!((account.as_str(), identity.arn), ("111122223333", session.principal));
    assert!(identity.id.starts_with("AROA") && identity.id.ends_with(":me@work"), "{}", identity.id);
}

#[tokio::test]
async fn a_session_ends_with_its_time() {
    let host = host().await;
    let access = access(&host, CONFIG);
    let credentials = assume(&host, &developer(&access), APP).await.unwrap();
    let end = credentials.expiration;
    caller(&access, &credentials, end - Duration::from_secs(1)).unwrap();
    assert_eq!(caller(&access, &credentials, end).unwrap_err(), SignatureError::ExpiredToken);
    assert!(end <= SystemTime::now() + Duration::from_secs(900));
}

#[tokio::test]
async fn a_session_ends_as_soon_as_the_configuration_does_not_know_its_maker_or_its_role() {
    let host = host().await;
    let credentials = assume(&host, &developer(&access(&host, CONFIG)), APP).await.unwrap();
    let with = |from: &str, to: &str| {
        assert!(CONFIG.contains(from), "{from}");
        caller(&access(&host, &CONFIG.replacen(from, to, 1)), &credentials, SystemTime::now())
    };
    with("a long enough secret", "a changed secret is no matter").unwrap();
    for (from, to) in [
        ("AKIDEVELOPER", "AKISOMEBODY"),
        ("account = \"111122223333\"", "account = \"444455556666\""),
        ("roles = [\"arn:aws:iam::*\"]", "roles = [\"arn:aws:iam::4*\"]"),
        ("111122223333:role/team/app", "111122223333:role/team/another"),
    ] {
        assert_eq!(with(from, to).unwrap_err(), SignatureError::UnknownKey, "{to}");
    }
    let now_less =
        with("{ actions = [\"Get*\", \"TerminateMicrovm\"] }", "{ actions = [\"List*\"] }").unwrap();
    assert!(!now_less.may(Operation::GetMicrovm, Some("web-1")));
    let without = Access::new(&toml::from_str(CONFIG).unwrap(), "us-east-1").unwrap();
    assert_eq!(caller(&without, &credentials, SystemTime::now()).unwrap_err(), SignatureError::UnknownKey);
}

#[tokio::test]
async fn a_session_outlives_a_restart() {
    let host = host().await;
    let credentials = assume(&host, &developer(&access(&host, CONFIG)), APP).await.unwrap();
    let tokens = Tokens::open(&host.daemon.db, host.clock, "us-east-1").await.unwrap();
    let again = access_with(&host, tokens, CONFIG);
    caller(&again, &credentials, SystemTime::now()).unwrap();
}

#[tokio::test]
async fn a_token_belongs_to_its_key_and_its_secret() {
    let host = host().await;
    let access = access(&host, CONFIG);
    let developer = developer(&access);
    let one = assume(&host, &developer, APP).await.unwrap();
    let other = assume(&host, &developer, APP).await.unwrap();
    assert_ne!(one.secret, other.secret);
    let now = SystemTime::now();
    let signed = |key: &str, secret: &str, token: Option<&str>| {
        let signer = Signer { key, secret, token, time: now, ..Signer::default() };
        signer.sign("GET", "/", &[], b"").verified_by(&access, now, false).unwrap_err()
    };
    let (key, secret, token) = (one.access_key_id.as_str(), one.secret.expose(), one.token.expose());
    assert_eq!(signed(key, other.secret.expose(), Some(token)), SignatureError::Mismatch);
    assert_eq!(signed(key, secret, Some(other.token.expose())), SignatureError::UnknownKey);
    assert_eq!(signed(key, secret, None), SignatureError::UnknownKey);
    assert_eq!(signed("AKIDEVELOPER", "a long enough secret", Some(token)), SignatureError::UnknownKey);
    let mut changed = token.to_owned();
    changed.replace_range(token.len() - 2.., "AA");
    assert_eq!(signed(key, secret, Some(&changed)), SignatureError::UnknownKey);
    for wrong in ["x", "a.b.c.d.e", "....", &"x".repeat(9000)] {
        assert_eq!(signed(key, secret, Some(wrong)), SignatureError::UnknownKey);
    }
    // In a presigned URL the token is in the query.
    let presigning = Signer { key, secret, token: Some(token), time: now, ..Signer::presigning(60) };
    let presigned = presigning.sign("GET", "/?Action=GetCallerIdentity&Version=2011-06-15", &[], b"");
    assert!(presigned.parts.uri.query().unwrap().contains("X-Amz-Security-Token"));
    presigned.verified_by(&access, now, false).unwrap();
}

#[tokio::test]
async fn who_may_not_assume_a_role_is_told_so() {
    let host = host().await;
    let access = access(&host, CONFIG);
    let developer = developer(&access);
    let session = caller(&access, &assume(&host, &developer, APP).await.unwrap(), SystemTime::now()).unwrap();
    let local = Caller { principal: "uid:0".into(), ..developer.clone() };
    let reader = key(&access, "AKIREADER", "another long secret");
    for (caller, role, why) in [
        (
            &reader,
            APP,
            "no identity-based policy allows the iam:PassRole action for this role with all images",
        ),
        (&developer, OTHER, "the role is not for the account of the caller ([roles.rules])"),
        (
            &developer,
            "arn:aws:iam::111122223333:role/none",
            "the role has no policies of its own ([access.roles])",
        ),
        (&session, "arn:aws:iam::111122223333:role/other", "a session of a role cannot assume another role"),
        (&local, APP, "only an access key of the configuration can assume a role"),
    ] {
        let error = assume(&host, caller, role).await.unwrap_err();
        assert_eq!(error.code(), ("AccessDenied", 403));
        let principal = &caller.principal;
        let expected = format!(
            "User: {principal} is not authorized to perform: sts:AssumeRole on resource: {role} because {why}"
        );
        assert_eq!(error.to_string(), expected);
    }
}

/// A rule may let an account use another one's role; its sessions stay in the account of their makers.
#[tokio::test]
async fn a_role_of_another_account_gives_nothing_in_that_account() {
    let rules = json!({"rules": {OTHER: {"accounts": ["111122223333"]}}});
    let host = host_with(Limits::default(), serde_json::from_value(rules).unwrap()).await;
    let access = access(&host, CONFIG);
    let credentials = assume(&host, &developer(&access), OTHER).await.unwrap();
    let session = caller(&access, &credentials, SystemTime::now()).unwrap();
    assert_eq!(session.account, "111122223333");
    assert!(session.may(Operation::RunMicrovm, Some("web-1")));
    assert!(!session.may(Operation::TerminateMicrovm, Some("web-1")));
}

#[tokio::test]
async fn constraints_are_said_as_aws_says_them() {
    let host = host().await;
    let developer = developer(&access(&host, CONFIG));
    let failed = async |parameters: &[(&str, &str)]| {
        let error = host.service.sts(&incoming(&developer), &request(parameters)).await.unwrap_err();
        (error.code().0, error.to_string())
    };
    let (role, name) = (("RoleArn", APP), ("RoleSessionName", "me"));
    let validation = |message: &str| ("ValidationError", message.to_owned());
    assert_eq!(
        failed(&[]).await,
        validation(
            "2 validation errors detected: Value null at 'roleArn' failed to satisfy constraint: Member must not be null; \
             Value null at 'roleSessionName' failed to satisfy constraint: Member must not be null"
        )
    );
    assert_eq!(
        failed(&[role, ("RoleSessionName", "not me")]).await,
        validation(
            "1 validation error detected: Value 'not me' at 'roleSessionName' failed to satisfy constraint: Member must \
             satisfy regular expression pattern: [\\w+=,.@-]*"
        )
    );
    for (seconds, constraint) in [
        ("899", "Member must have value greater than or equal to 900"),
        ("-1", "Member must have value greater than or equal to 900"),
        ("43201", "Member must have value less than or equal to 43200"),
    ] {
        let expected = format!(
            "1 validation error detected: Value '{seconds}' at 'durationSeconds' failed to satisfy constraint: {constraint}"
        );
        assert_eq!(failed(&[role, name, ("DurationSeconds", seconds)]).await, validation(&expected));
    }
    assert_eq!(failed(&[role, name, ("DurationSeconds", "an hour")]).await.0, "MalformedInput");
    let arn = "arn:aws:iam::111122223333:user/app";
    assert_eq!(failed(&[("RoleArn", arn), name]).await, validation(&format!("{arn} is invalid")));
    for parameter in
        ["Policy", "PolicyArns.member.1.arn", "Tags.member.1.Key", "SerialNumber", "SourceIdentity"]
    {
        let (code, message) = failed(&[role, name, (parameter, "x")]).await;
        let known = parameter.split('.').next().unwrap();
        assert_eq!(code, "ValidationError");
        assert!(
            message.contains(&format!("The parameter {known} of AssumeRole is not supported")),
            "{message}"
        );
    }
    let request = request(&[role, name, ("DurationSeconds", "43200"), ("ExternalId", "any")]);
    host.service.sts(&incoming(&developer), &request).await.unwrap();
}

#[tokio::test]
async fn every_call_is_observed_and_counted() {
    let limits = Limits { sts: Rate::new(1, 2), ..Limits::default() };
    let host = host_with(limits, RolesConfig::default()).await;
    let developer = developer(&access(&host, CONFIG));
    let credentials = assume(&host, &developer, APP).await.unwrap();
    host.service.sts(&incoming(&developer), &Request::GetCallerIdentity).await.unwrap();
    let error = assume(&host, &developer, APP).await.unwrap_err();
    assert_eq!(error.code(), ("Throttling", 400));
    assert!(error.retry_after().unwrap() <= Duration::from_secs(1));
    let unknown = Incoming { caller: Err(crate::access::UnknownCaller::Invalid), ..incoming(&developer) };
    host.service.sts(&unknown, &Request::GetCallerIdentity).await.unwrap_err();

    let seen = host.outside.observed.sts.lock().unwrap().clone();
    let calls: Vec<_> = seen.iter().map(|call| (call.action, call.code)).collect();
    assert_eq!(
        calls,
        [
            ("AssumeRole", None),
            ("GetCallerIdentity", None),
            ("AssumeRole", Some("Throttling")),
            ("GetCallerIdentity", Some("InvalidClientTokenId")),
        ]
    );
    let expected = json!({"roleArn": APP, "roleSessionName": "me@work", "durationSeconds": "900"});
    assert_eq!(seen[0].request, expected);
    assert_eq!(seen[0].response["credentials"]["accessKeyId"], credentials.access_key_id.as_str());
    assert_eq!((seen[0].caller.as_deref(), &seen[3].caller), (Some("AKIDEVELOPER"), &None));
    let mut redacted = seen[0].response.clone();
    crate::audit::redact(&mut redacted);
    let redacted = redacted.to_string();
    for secret in [credentials.secret.expose(), credentials.token.expose()] {
        assert!(!redacted.contains(secret), "{redacted}");
    }
}
