//! AWS's SDK for Rust as a client of a daemon on the metal: from an artifact to an image, a microVM, its endpoint and its end.
//!
//! `cargo xtask test` runs it after `tests/aws/from_outside.py`, whose artifact it builds from, with the environment of AWS's clients and
//! that of the Python test.

#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aws_credential_types::Credentials;
use aws_sdk_lambdamicrovms::Client;
use aws_sdk_lambdamicrovms::config::retry::RetryConfig;
use aws_sdk_lambdamicrovms::config::{BehaviorVersion, Config, Region};
use aws_sdk_lambdamicrovms::error::SdkError;
use aws_sdk_lambdamicrovms::operation::get_microvm::GetMicrovmError;
use aws_sdk_lambdamicrovms::operation::suspend_microvm::SuspendMicrovmError;
use aws_sdk_lambdamicrovms::types::{
    CodeArtifact, HookState, Hooks, IdlePolicy, MicrovmHooks, MicrovmImageHooks, MicrovmImageState,
    MicrovmState, PortSpecification, Resources,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Name of the image.
const NAME: &str = "from-rust";
/// Time for a build on an emulated host.
const BUILD: Duration = Duration::from_secs(900);
/// Time for everything else.
const LIMIT: Duration = Duration::from_secs(300);
/// Interval between looks at a state.
const POLL: Duration = Duration::from_millis(200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let client = client()?;
    let arn = image(&client).await?;
    let idle = IdlePolicy::builder()
        .max_idle_duration_seconds(3600)
        .suspended_duration_seconds(3600)
        .auto_resume_enabled(true);
    let run = client.run_microvm().image_identifier(&arn).run_hook_payload("from Rust");
    let microvm = run.idle_policy(idle.build()?).send().await?;
    let (id, host) = (microvm.microvm_id(), microvm.endpoint());
    reach(&client, id, MicrovmState::Running).await?;
    println!("{id} runs at {host}");

    let port = PortSpecification::Port(8080);
    let token = client.create_microvm_auth_token().microvm_identifier(id).expiration_in_minutes(15);
    let token = token.allowed_ports(port).send().await?;
    let token = token.auth_token().get("X-aws-proxy-auth").context("the answer has no token")?;
    let first = ask(host, token).await?;
    ensure!(first.starts_with("request 1 "), "the app answered {first:?}");

    client.suspend_microvm().microvm_identifier(id).send().await?;
    reach(&client, id, MicrovmState::Suspended).await?;
    let second = ask(host, token).await?;
    ensure!(second.starts_with("request 2 "), "the app answered {second:?} when it was awake again");
    reach(&client, id, MicrovmState::Running).await?;
    println!("a request woke it: {}", second.trim());

    client.terminate_microvm().microvm_identifier(id).send().await?;
    reach(&client, id, MicrovmState::Terminated).await?;
    errors(&client, id).await?;
    pages(&client, &arn).await?;
    client.delete_microvm_image().image_identifier(&arn).send().await?;
    println!("the SDK for Rust has run everything");
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("{name} is not set; `cargo xtask test` runs this program"))
}

/// A client that trusts the daemon's certificate and nothing else, and tries once.
fn client() -> Result<Client> {
    let certificate = fs::read(variable("AWS_CA_BUNDLE")?).context("reading the daemon's certificate")?;
    let tls = TlsContext::builder().with_trust_store(TrustStore::empty().with_pem_certificate(certificate));
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls.build()?)
        .build_https();
    let (id, secret) = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(variable("AWS_ENDPOINT_URL")?)
        .region(Region::new(variable("AWS_REGION")?))
        .credentials_provider(Credentials::new(id, secret, None, None, "environment"))
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .build();
    Ok(Client::from_conf(config))
}

/// Builds an image from the artifact of the Python test.
async fn image(client: &Client) -> Result<String> {
    let managed = client.list_managed_microvm_images().send().await?;
    let base = managed.items().first().context("there is no base image")?.image_arn().to_owned();
    let hooks = Hooks::builder()
        .port(8080)
        .microvm_image_hooks(
            MicrovmImageHooks::builder().ready(HookState::Enabled).ready_timeout_in_seconds(120).build(),
        )
        .microvm_hooks(MicrovmHooks::builder().run(HookState::Enabled).run_timeout_in_seconds(60).build());
    let created = client
        .create_microvm_image()
        .name(NAME)
        .base_image_arn(base)
        .build_role_arn(variable("HEARTH_AWS_ROLE")?)
        .code_artifact(CodeArtifact::Uri(variable("HEARTH_AWS_ARTIFACT_URI")?))
        .resources(Resources::builder().minimum_memory_in_mib(512).build()?)
        .hooks(hooks.build())
        .tags("made-by", "aws-sdk-rust")
        .send()
        .await?;
    let arn = created.image_arn().to_owned();
    let built = tokio::time::timeout(BUILD, async {
        loop {
            let image = client.get_microvm_image().image_identifier(&arn).send().await?;
            match image.state() {
                MicrovmImageState::Created => return Ok(()),
                MicrovmImageState::Creating => tokio::time::sleep(POLL).await,
                state => bail!("the image is {state}: {image:?}"),
            }
        }
    });
    built.await.context("the image takes too long")??;
    Ok(arn)
}

/// Waits until a microVM is in a state.
async fn reach(client: &Client, id: &str, wanted: MicrovmState) -> Result<()> {
    let reached = async {
        loop {
            let microvm = client.get_microvm().microvm_identifier(id).send().await?;
            if *microvm.state() == wanted {
                return Ok(());
            }
            let ended = *microvm.state() == MicrovmState::Terminated;
            ensure!(!ended, "{id} has ended: {:?}", microvm.state_reason());
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.with_context(|| format!("{id} does not become {wanted}"))?
}

/// Sends a request to the app through its endpoint.
async fn ask(host: &str, token: &str) -> Result<String> {
    let authority = fs::read(variable("HEARTH_ENDPOINT_CA")?).context("reading the endpoints' authority")?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&authority)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let answer = async {
        let stream = TcpStream::connect(variable("HEARTH_ENDPOINTS")?).await?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get("/").header("host", host).header("x-aws-proxy-auth", token);
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let text = String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?;
        ensure!(status == 200, "the endpoint answered {status}: {text}");
        Ok(text)
    };
    tokio::time::timeout(LIMIT, answer).await.context("the endpoint does not answer")?
}

/// Errors arrive as the types of the model.
async fn errors(client: &Client, ended: &str) -> Result<()> {
    let unknown = client.get_microvm().microvm_identifier("microvm-00000000-0000-0000-0000-000000000000");
    match unknown.send().await {
        Err(SdkError::ServiceError(error)) => match error.err() {
            GetMicrovmError::ResourceNotFoundException(error) => {
                ensure!(error.resource_type() == Some("Microvm"), "{error:?}");
            }
            error => bail!("a microVM that does not exist gives {error:?}"),
        },
        answer => bail!("a microVM that does not exist gives {answer:?}"),
    }
    match client.suspend_microvm().microvm_identifier(ended).send().await {
        Err(SdkError::ServiceError(error)) => {
            let invalid = matches!(error.err(), SuspendMicrovmError::ValidationException(_));
            ensure!(invalid, "suspending a microVM that has ended gives {error:?}");
        }
        answer => bail!("suspending a microVM that has ended gives {answer:?}"),
    }
    Ok(())
}

/// The paginators reach everything.
async fn pages(client: &Client, arn: &str) -> Result<()> {
    let mut names = Vec::new();
    let mut pages = client.list_microvm_images().into_paginator().page_size(1).items().send();
    while let Some(image) = pages.next().await {
        names.push(image?.name().to_owned());
    }
    ensure!(names.len() >= 2 && names.iter().any(|name| name == NAME), "the images are {names:?}");
    let builds = client.list_microvm_image_builds().image_identifier(arn).image_version("1.0");
    let builds = builds.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await?;
    ensure!(builds.len() == 1, "the image has the builds {builds:?}");
    Ok(())
}
