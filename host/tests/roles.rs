//! Roles that stand for keys, for nothing, and for credentials of an STS. The STS is on the loopback interface, and verifies the
//! requests' signatures with another implementation of SigV4 than the one that makes them (the crate `s3s`).

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use hearth_host::roles::{
    AssumeRole, Provider, RoleError, RoleProvider, RolesConfig, Rule, Secret, Source, StaticKeys,
};
use hearth_model::role::RoleUse;
use hyper::http::Extensions;
use hyper::{HeaderMap, Method, Uri};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::route::S3Route;
use s3s::service::S3ServiceBuilder;
use s3s::{Body, S3Request, S3Response, S3Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;

const ACCOUNT: &str = "123456789012";
const OTHER: &str = "999999999999";
const ROLE: &str = "arn:aws:iam::123456789012:role/builder";

/// A role, used by the account in its ARN.
fn own(role_arn: &str) -> RoleUse {
    RoleUse::new(ACCOUNT, role_arn)
}

/// The STS's next behaviour, and the requests that it received.
#[derive(Default)]
struct Script {
    /// Validity of the credentials that it issues; `None`: it refuses.
    validity: Option<Duration>,
    /// Status and body to answer with instead.
    verbatim: Option<(u16, String)>,
    asked: Vec<HashMap<String, String>>,
}

#[derive(Clone)]
struct Sts(Arc<Mutex<Script>>);

#[async_trait::async_trait]
impl S3Route for Sts {
    fn is_match(&self, method: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        method == Method::POST && uri.path() == "/"
    }

    // Requests that get here are signed with the right key: the server checks that by default.
    async fn call(&self, mut request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let body = request.input.store_all_limited(10_000).await.unwrap();
        let mut script = self.0.lock().unwrap();
        let mut asked: HashMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
        if let Some(token) = request.headers.get("x-amz-security-token") {
            asked.insert("token".to_owned(), token.to_str().unwrap().to_owned());
        }
        script.asked.push(asked);
        let (status, body) = match (&script.verbatim, script.validity) {
            (Some((status, body)), _) => (*status, body.clone()),
            (None, Some(validity)) => (200, granted(validity, script.asked.len())),
            (None, None) => (403, REFUSED.to_owned()),
        };
        let mut response = S3Response::new(Body::from(body));
        response.status = Some(status.try_into().unwrap());
        Ok(response)
    }
}

fn granted(validity: Duration, number: usize) -> String {
    let expiration = OffsetDateTime::from(SystemTime::now() + validity).format(&Rfc3339).unwrap();
    format!(
        r#"<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleResult>
    <AssumedRoleUser><Arn>arn</Arn><AssumedRoleId>id</AssumedRoleId></AssumedRoleUser>
    <Credentials>
      <AccessKeyId>ASIA{number}</AccessKeyId>
      <SecretAccessKey>hush/+&amp;</SecretAccessKey>
      <SessionToken>token==</SessionToken>
      <Expiration>{expiration}</Expiration>
    </Credentials>
  </AssumeRoleResult>
  <ResponseMetadata><RequestId>c6104cbe</RequestId></ResponseMetadata>
</AssumeRoleResponse>"#
    )
}

const REFUSED: &str = r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>AccessDenied</Code><Message>User is not authorized to perform: sts:AssumeRole</Message></Error>
<RequestId>r</RequestId></ErrorResponse>"#;

/// An STS that knows one caller, on the loopback interface.
async fn sts(script: Script) -> (String, Sts) {
    let sts = Sts(Arc::new(Mutex::new(script)));
    let root = tempfile::tempdir().unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
    builder.set_auth(SimpleAuth::from_single("AKIDHOST", "right"));
    builder.set_route(sts.clone());
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let _root = root;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service.clone());
            tokio::spawn(async move {
                let _ = connection.await;
            });
        }
    });
    (format!("http://{address}"), sts)
}

fn keys(secret: &str) -> StaticKeys {
    StaticKeys {
        access_key_id: "AKIDHOST".to_owned(),
        secret_access_key: Secret::new(secret),
        session_token: None,
    }
}

fn rule(endpoint: &str, caller: StaticKeys) -> AssumeRole {
    AssumeRole {
        endpoint: endpoint.to_owned(),
        region: "eu-west-1".to_owned(),
        credentials: Source::Static(caller),
        role_arn: None,
        external_id: None,
        session_name_prefix: "Lambda-microvmsExecutor-".to_owned(),
        duration_seconds: 1800,
        ca_file: None,
    }
}

fn provider(default: AssumeRole) -> RoleProvider {
    RoleProvider::new(RolesConfig { default: Provider::AssumeRole(default), ..RolesConfig::default() })
        .unwrap()
}

fn valid_for(minutes: u64) -> Script {
    Script { validity: Some(Duration::from_secs(minutes * 60)), ..Script::default() }
}

#[tokio::test]
async fn an_sts_is_asked_with_a_signature_and_gives_credentials() {
    let (endpoint, sts) = sts(valid_for(30)).await;
    let mut rule = rule(&endpoint, keys("right"));
    rule.external_id = Some("with spaces & more".to_owned());
    let found = provider(rule).credentials(&own(ROLE)).await.unwrap().unwrap();
    assert_eq!(found.access_key_id, "ASIA1");
    assert_eq!(found.secret_access_key.expose(), "hush/+&");
    assert_eq!(found.session_token.unwrap().expose(), "token==");
    let left = found.expiration.duration_since(found.last_updated).unwrap();
    assert!(left > Duration::from_secs(25 * 60) && left <= Duration::from_secs(30 * 60), "{left:?}");
    let asked = sts.0.lock().unwrap().asked[0].clone();
    let of = |name: &str| asked[name].as_str();
    assert_eq!((of("Action"), of("Version"), of("RoleArn")), ("AssumeRole", "2011-06-15", ROLE));
    assert_eq!((of("DurationSeconds"), of("ExternalId")), ("1800", "with spaces & more"));
    assert!(
        of("RoleSessionName").starts_with("Lambda-microvmsExecutor-") && of("RoleSessionName").len() <= 64
    );
}

#[tokio::test]
async fn a_caller_with_temporary_keys_sends_its_token_and_may_ask_for_another_role() {
    let (endpoint, sts) = sts(valid_for(30)).await;
    let caller = StaticKeys { session_token: Some(Secret::new("a-token")), ..keys("right") };
    let other = "arn:aws:iam::999999999999:role/real";
    let rule = AssumeRole { role_arn: Some(other.to_owned()), ..rule(&endpoint, caller) };
    provider(rule).credentials(&own(ROLE)).await.unwrap().unwrap();
    let asked = sts.0.lock().unwrap().asked[0].clone();
    assert_eq!((asked["token"].as_str(), asked["RoleArn"].as_str()), ("a-token", other));
}

#[tokio::test]
async fn a_wrong_key_and_a_refusal_are_told() {
    let (endpoint, sts) = sts(Script::default()).await;
    let error = provider(rule(&endpoint, keys("wrong"))).credentials(&own(ROLE)).await.unwrap_err();
    assert!(matches!(&error, RoleError::Refused { code, .. } if code == "SignatureDoesNotMatch"), "{error}");
    assert!(sts.0.lock().unwrap().asked.is_empty());
    let error = provider(rule(&endpoint, keys("right"))).credentials(&own(ROLE)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the role {ROLE} cannot be assumed: AccessDenied: User is not authorized to perform: sts:AssumeRole"
        )
    );
}

#[tokio::test]
async fn an_answer_is_remembered_and_many_askers_ask_once() {
    let (endpoint, sts) = sts(valid_for(30)).await;
    let provider = provider(rule(&endpoint, keys("right")));
    let role = own(ROLE);
    let (one, two, three) =
        tokio::join!(provider.credentials(&role), provider.credentials(&role), provider.credentials(&role));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(three.unwrap(), provider.credentials(&own(ROLE)).await.unwrap());
    assert_eq!(sts.0.lock().unwrap().asked.len(), 1);
    provider.credentials(&own("arn:aws:iam::123456789012:role/other")).await.unwrap();
    assert_eq!(sts.0.lock().unwrap().asked.len(), 2, "another role is asked for by itself");
}

#[tokio::test]
async fn credentials_that_soon_expire_are_replaced_or_kept_when_the_sts_is_away() {
    let (endpoint, sts) = sts(valid_for(4)).await;
    let provider = provider(rule(&endpoint, keys("right")));
    provider.credentials(&own(ROLE)).await.unwrap();
    let second = provider.credentials(&own(ROLE)).await.unwrap().unwrap();
    assert_eq!(second.access_key_id, "ASIA2");
    sts.0.lock().unwrap().verbatim = Some((503, "<html>".to_owned()));
    assert_eq!(provider.credentials(&own(ROLE)).await.unwrap().unwrap(), second);
    let mut script = Script::default();
    std::mem::swap(&mut script.asked, &mut sts.0.lock().unwrap().asked);
    *sts.0.lock().unwrap() = script;
    let error = provider.credentials(&own(ROLE)).await.unwrap_err();
    assert!(matches!(error, RoleError::Refused { .. }), "what is refused is taken away: {error}");
}

#[tokio::test]
async fn what_is_no_answer_is_not_believed() {
    let (endpoint, sts) = sts(Script::default()).await;
    let provider = provider(rule(&endpoint, keys("right")));
    for body in [
        "",
        "<html>",
        "<AssumeRoleResponse/>",
        &granted(Duration::ZERO, 1).replace('Z', "?"),
        &"x".repeat(70_000),
    ] {
        sts.0.lock().unwrap().verbatim = Some((200, body.to_owned()));
        let error = provider.credentials(&own(ROLE)).await.unwrap_err();
        assert!(matches!(error, RoleError::InvalidResponse { .. }), "{error}");
    }
    sts.0.lock().unwrap().verbatim = Some((302, String::new()));
    let error = provider.credentials(&own(ROLE)).await.unwrap_err();
    assert!(matches!(error, RoleError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn an_sts_that_is_not_there_is_named() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{nobody}");
    let error = provider(rule(&endpoint, keys("right"))).credentials(&own(ROLE)).await.unwrap_err();
    assert!(
        matches!(&error, RoleError::Unreachable { endpoint: named, .. } if *named == endpoint),
        "{error}"
    );
}

#[tokio::test]
async fn keys_are_handed_out_and_roles_without_a_rule_stand_for_nothing() {
    let rules = [("arn:aws:iam::*:role/builder".to_owned(), Provider::Static(keys("right")).into())].into();
    let provider = RoleProvider::new(RolesConfig { rules, ..RolesConfig::default() }).unwrap();
    let found = provider.credentials(&own(ROLE)).await.unwrap().unwrap();
    assert_eq!((found.access_key_id.as_str(), found.secret_access_key.expose()), ("AKIDHOST", "right"));
    assert!(found.expiration > SystemTime::now() + Duration::from_secs(50 * 60));
    assert_eq!(provider.credentials(&own("arn:aws:iam::123456789012:role/other")).await.unwrap(), None);
}

/// The credentials of an account's use of a role: the id of the keys, `none` for a role without credentials, or the refusal's message.
async fn found(provider: &RoleProvider, account: &str, role_arn: &str) -> Result<String, String> {
    match provider.credentials(&RoleUse::new(account, role_arn)).await {
        Ok(credentials) => Ok(credentials.map_or("none".to_owned(), |found| found.access_key_id)),
        Err(error @ RoleError::NotForAccount { .. }) => Err(error.to_string()),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_role_is_for_its_own_account_whatever_it_stands_for() {
    let (endpoint, sts) = sts(valid_for(30)).await;
    let roles = |name: &str| format!("arn:aws:iam::{ACCOUNT}:role/{name}");
    let rules = [
        ("arn:aws:iam::*:role/keys".to_owned(), Provider::Static(keys("right")).into()),
        (roles("none"), Rule::default()),
        (roles("assumed"), Provider::AssumeRole(rule(&endpoint, keys("right"))).into()),
    ];
    for default in [Provider::None, Provider::Static(keys("right"))] {
        let config = RolesConfig { rules: rules.clone().into(), default };
        let provider = RoleProvider::new(config).unwrap();
        for name in ["keys", "none", "assumed", "without-a-rule"] {
            found(&provider, ACCOUNT, &roles(name)).await.unwrap();
            // The refusal is the same when the credentials are cached.
            for _ in 0..2 {
                let refusal = found(&provider, OTHER, &roles(name)).await.unwrap_err();
                assert!(refusal.contains(OTHER) && refusal.contains(&roles(name)), "{refusal}");
                assert!(refusal.contains("`accounts`"), "what to do: {refusal}");
            }
        }
        for nobody in ["", "*", "12345678901", &format!("{ACCOUNT} ")] {
            found(&provider, nobody, &roles("keys")).await.unwrap_err();
        }
        found(&provider, ACCOUNT, "arn:aws:iam:::role/keys").await.unwrap_err();
    }
    assert_eq!(sts.0.lock().unwrap().asked.len(), 2, "the STS is asked for the role's own account only");
}

#[tokio::test]
async fn a_rule_lists_exactly_the_accounts_that_may_use_its_roles() {
    let shared = |accounts: &[&str]| Rule {
        accounts: Some(accounts.iter().map(|account| (*account).to_owned()).collect()),
        provider: Provider::Static(keys("right")),
    };
    let rules = [(ROLE.to_owned(), shared(&[OTHER])), ("arn:minio:*".to_owned(), shared(&[ACCOUNT, OTHER]))];
    let provider = RoleProvider::new(RolesConfig { rules: rules.into(), ..RolesConfig::default() }).unwrap();
    assert_eq!(found(&provider, OTHER, ROLE).await.unwrap(), "AKIDHOST");
    found(&provider, ACCOUNT, ROLE).await.unwrap_err();
    for account in [ACCOUNT, OTHER] {
        assert_eq!(found(&provider, account, "arn:minio:iam:::role/app").await.unwrap(), "AKIDHOST");
    }
    found(&provider, "111111111111", "arn:minio:iam:::role/app").await.unwrap_err();
}

#[tokio::test]
async fn what_an_sts_gave_one_account_is_not_anothers() {
    let (endpoint, sts) = sts(valid_for(30)).await;
    let rule = Rule {
        accounts: Some(vec![ACCOUNT.to_owned(), OTHER.to_owned()]),
        provider: Provider::AssumeRole(rule(&endpoint, keys("right"))),
    };
    let rules = [("arn:aws:iam::*".to_owned(), rule)].into();
    let provider = RoleProvider::new(RolesConfig { rules, ..RolesConfig::default() }).unwrap();
    for (account, id) in [(ACCOUNT, "ASIA1"), (OTHER, "ASIA2"), (ACCOUNT, "ASIA1"), (OTHER, "ASIA2")] {
        assert_eq!(found(&provider, account, ROLE).await.unwrap(), id, "{account}");
    }
    assert_eq!(sts.0.lock().unwrap().asked.len(), 2);
}

#[tokio::test]
async fn an_sts_that_is_asked_too_often_takes_nothing_away() {
    let (endpoint, sts) = sts(valid_for(4)).await;
    let provider = provider(rule(&endpoint, keys("right")));
    let first = provider.credentials(&own(ROLE)).await.unwrap();
    let throttled = REFUSED.replace("AccessDenied", "Throttling");
    for (status, body) in [(429, String::new()), (400, throttled)] {
        sts.0.lock().unwrap().verbatim = Some((status, body));
        assert_eq!(provider.credentials(&own(ROLE)).await.unwrap(), first, "{status}");
    }
}

#[test]
fn a_rule_that_cannot_work_is_refused_at_the_start() {
    let rule = rule("sts.amazonaws.com", keys("right"));
    let config = RolesConfig { default: Provider::AssumeRole(rule), ..RolesConfig::default() };
    let error = RoleProvider::new(config).unwrap_err().to_string();
    assert!(error.contains("\"default\"") && error.contains("https://"), "{error}");
}
