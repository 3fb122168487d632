//! Tests of roles of two accounts: which caller may give which role to microVMs and builds.

use hearth_host::roles::RoleError;
use hearth_proto::microvms::v1 as proto;

use super::*;
use crate::driver::record as records_of;
use crate::records;

const OTHER: &str = "999999999999";
const BASE: &str = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";
/// Static keys for the roles of any account, a role that both accounts may use, and a role without credentials.
const ROLES: &str = r#"
    [rules."arn:aws:iam::*:role/*".static]
    access_key_id = "AKIA"
    secret_access_key = "hush"
    [rules."arn:aws:iam::555555555555:role/shared"]
    accounts = ["123456789012", "999999999999"]
    static = { access_key_id = "SHARED", secret_access_key = "hush" }
    [rules]
    "arn:aws:iam::123456789012:role/none" = "none"
"#;
const SHARED: &str = "arn:aws:iam::555555555555:role/shared";

fn role(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:role/{name}")
}

/// A host on which two accounts have an image `demo` each, and a caller in each account that may do everything.
async fn two_accounts() -> (Host, [Caller; 2]) {
    let host = with_roles(Profile::Default, Limits::default(), toml::from_str(ROLES).unwrap()).await;
    std::fs::create_dir(host.bases.path().join("1")).unwrap();
    let everybody = [ACCOUNT, OTHER].map(|account| caller(account, [Policy::everything()].into()));
    let create = create("demo", &role(OTHER, "build"));
    host.service.call_as(&everybody[1], create).await.unwrap();
    host.daemon.idle().await;
    (host, everybody)
}

fn run(role_arn: &str) -> proto::RunMicrovmRequest {
    proto::RunMicrovmRequest { execution_role_arn: Some(role_arn.into()), ..request("demo") }
}

fn artifact() -> Option<proto::CodeArtifact> {
    let uri = proto::code_artifact::Artifact::Uri("s3://bucket/app.zip".into());
    Some(proto::CodeArtifact { artifact: Some(uri) })
}

fn create(name: &str, role_arn: &str) -> proto::CreateMicrovmImageRequest {
    proto::CreateMicrovmImageRequest {
        name: Some(name.into()),
        base_image_arn: Some(BASE.into()),
        build_role_arn: Some(role_arn.into()),
        code_artifact: artifact(),
        ..Default::default()
    }
}

fn update(name: &str, role_arn: &str) -> proto::UpdateMicrovmImageRequest {
    proto::UpdateMicrovmImageRequest {
        image_identifier: Some(name.into()),
        base_image_arn: Some(BASE.into()),
        build_role_arn: Some(role_arn.into()),
        code_artifact: artifact(),
        ..Default::default()
    }
}

/// Checks the refusal to pass a role, as clients of AWS receive it.
fn assert_refused<T: std::fmt::Debug>(result: Result<T, ServiceError>, role_arn: &str, why: &str) {
    let error = result.unwrap_err();
    let exception = error.exception();
    assert_eq!((exception.name, exception.http_status), ("AccessDeniedException", 403));
    let head =
        format!("User: key is not authorized to perform: iam:PassRole on resource: {role_arn} because ");
    let text = error.to_string();
    assert!(text.starts_with(&head) && text.contains(why), "{text}");
}

/// The number of an account's microVMs and versions.
async fn counted(host: &Host, caller: &Caller) -> (usize, usize) {
    let microvms = host.service.call_as(caller, proto::ListMicrovmsRequest::default()).await.unwrap();
    let versions = proto::ListMicrovmImageVersionsRequest {
        image_identifier: Some("demo".into()),
        ..Default::default()
    };
    let versions = host.service.call_as(caller, versions).await.unwrap();
    (microvms.items.len(), versions.items.len())
}

#[tokio::test]
async fn an_account_runs_and_builds_with_its_own_roles_and_never_with_anothers() {
    let (host, everybody) = two_accounts().await;
    for (index, caller) in everybody.iter().enumerate() {
        let others = &everybody[1 - index].account;
        let before = counted(&host, caller).await;
        // A role of the other account is refused alike whether it has keys, no credentials, or no rule of its own.
        for name in ["app", "none"] {
            let foreign = role(others, name);
            let why = format!("the account {} may not use the role {foreign}", caller.account);
            assert_refused(host.service.call_as(caller, run(&foreign)).await, &foreign, &why);
            let created = host.service.call_as(caller, create("new", &foreign)).await;
            assert_refused(created, &foreign, &why);
            let updated = host.service.call_as(caller, update("demo", &foreign)).await;
            assert_refused(updated, &foreign, &why);
        }
        assert_eq!(counted(&host, caller).await, before, "nothing came of it");
        for own in [role(&caller.account, "app"), SHARED.to_owned()] {
            let microvm = host.service.call_as(caller, run(&own)).await.unwrap();
            assert_eq!(microvm.execution_role_arn.as_deref(), Some(own.as_str()));
            host.service.call_as(caller, update("demo", &own)).await.unwrap();
            host.daemon.idle().await;
        }
        host.service.call_as(caller, create("new", &role(&caller.account, "b"))).await.unwrap();
        host.daemon.idle().await;
    }
}

#[tokio::test]
async fn a_listed_role_is_nobody_elses() {
    let (host, _) = two_accounts().await;
    let owner = caller("555555555555", [Policy::everything()].into());
    let created = host.service.call_as(&owner, create("new", SHARED)).await;
    assert_refused(created, SHARED, "the account 555555555555 may not use the role");
}

#[tokio::test]
async fn a_key_passes_the_roles_that_its_policies_list() {
    let (host, _) = two_accounts().await;
    host.build("web-1").await;
    let key = |policies: &str| {
        let config: crate::access::AccessConfig = toml::from_str(&format!(
            "[[keys]]\nid = \"AKI\"\nsecret = \"0123456789abcdef\"\npolicies = [{policies}]"
        ))
        .unwrap();
        config.check().unwrap();
        caller(ACCOUNT, config.keys[0].policies.clone().into())
    };
    let run = |image: &str, role_arn: &str| proto::RunMicrovmRequest {
        execution_role_arn: Some(role_arn.into()),
        ..request(image)
    };
    let (admin, web) = (role(ACCOUNT, "admin"), role(ACCOUNT, "web-shop"));
    let why = "no identity-based policy allows the iam:PassRole action";

    // A caller that may only run web-* may give no role to a microVM.
    let runner = key(r#"{ actions = ["RunMicrovm"], images = ["web-*"] }"#);
    host.service.call_as(&runner, request("web-1")).await.unwrap();
    for role_arn in [&admin, &web] {
        let ran = host.service.call_as(&runner, run("web-1", role_arn)).await;
        assert_refused(ran, role_arn, why);
    }
    // A caller that may do everything with web-* may give no role either, not even one without credentials.
    let all = key(r#"{ actions = ["*"], images = ["web-*"] }"#);
    let none = role(ACCOUNT, "none");
    assert_refused(host.service.call_as(&all, run("web-1", &none)).await, &none, why);
    assert_refused(host.service.call_as(&all, update("web-1", &admin)).await, &admin, why);
    assert_refused(host.service.call_as(&all, create("web-2", &admin)).await, &admin, why);

    // A caller whose policy lists roles may give these roles to what the policy covers.
    let passer = key(r#"{ actions = ["*"], images = ["web-*"], roles = ["arn:aws:iam::*:role/web-*"] },
           { actions = ["RunMicrovm"], images = ["*"] }"#);
    host.service.call_as(&passer, run("web-1", &web)).await.unwrap();
    host.service.call_as(&passer, update("web-1", &web)).await.unwrap();
    host.daemon.idle().await;
    host.service.call_as(&passer, create("web-2", &web)).await.unwrap();
    host.daemon.idle().await;
    assert_refused(host.service.call_as(&passer, run("web-1", &admin)).await, &admin, why);
    assert_refused(host.service.call_as(&passer, run("demo", &web)).await, &web, why);
    // A policy limits the roles, but not the account that they belong to.
    let foreign = role(OTHER, "web-shop");
    let ran = host.service.call_as(&passer, run("web-1", &foreign)).await;
    assert_refused(ran, &foreign, "may not use the role");
}

/// Records that were stored before the account of roles was checked, or before the configuration changed.
#[tokio::test]
async fn a_stored_microvm_and_version_ask_for_their_role_as_their_account() {
    let (host, everybody) = two_accounts().await;
    let microvm = host.service.call_as(&everybody[0], run(&role(ACCOUNT, "app"))).await.unwrap();
    let key = records::microvm(ACCOUNT, &microvm.microvm_id);
    let mut record: MicrovmRecord = host.daemon.db.get(Table::Microvms, &key).unwrap().unwrap();
    let ids = records_of::Ids::of(&record).unwrap();
    let roles = &host.service.parts().roles;
    let wanted = records_of::spec(&record, &ids).execution_role().unwrap();
    assert_eq!(roles.credentials(&wanted).await.unwrap().unwrap().access_key_id, "AKIA");
    record.microvm.as_mut().unwrap().execution_role_arn = Some(role(OTHER, "app"));
    let wanted = records_of::spec(&record, &ids).execution_role().unwrap();
    let error = roles.credentials(&wanted).await.unwrap_err();
    assert!(matches!(error, RoleError::NotForAccount { .. }), "{error}");

    host.configure("demo", 1, |version| version.build_role_arn = role(OTHER, "build")).await;
    let version = host.daemon.version("demo", 1).unwrap();
    let request =
        crate::builds::request::build_request(&version, "us-east-1", hearth_model::shape::Burst::NONE);
    let error = roles.credentials(&request.build_role.unwrap()).await.unwrap_err();
    assert!(matches!(error, RoleError::NotForAccount { .. }), "{error}");
}
