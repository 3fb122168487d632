//! A container image from a registry instead of a Dockerfile.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hearth_host::network::Egress;
use hearth_image_builder::artifact::RegistryConfig;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::OciImageManifest;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::support::{RecordedEvents, Site, ask};

/// Debian's registry, on a free port of the loopback.
struct Registry {
    process: Child,
    name: String,
}

impl Registry {
    fn start(folder: &Path) -> Self {
        let store = folder.join("store");
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n",
            store.display()
        );
        let path = folder.join("registry.yml");
        fs::write(&path, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("docker-registry, of Debian's package docker-registry");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        // The registry logs the port that it listens on.
        let name = lines.find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.chars().take_while(|it| it.is_ascii_digit() || matches!(it, '.' | ':')).collect())
        });
        // Drains the pipe, which would fill up otherwise.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, name: name.unwrap() }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill(); // the process may have exited by itself
        let _ = self.process.wait();
    }
}

/// Pushes an image with this program as its only file.
async fn push(registry: &str, program: &Path) {
    hearth_host::http::install_tls();
    let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
    let client = Client::try_from(config).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_path_with_name(program, "counter").unwrap();
    let tar = tar.into_inner().unwrap();
    let config = json!({
        "architecture": "arm64",
        "os": "linux",
        "config": { "Entrypoint": ["/counter"], "Env": ["FROM_REGISTRY=yes"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{:x}", Sha256::digest(&tar))] },
        "history": [{ "created_by": "a test" }],
    });
    let layers = [ImageLayer::new(tar, "application/vnd.oci.image.layer.v1.tar".into(), None)];
    let config = Config::oci_v1(config.to_string().into_bytes(), None);
    let mut manifest = OciImageManifest::build(&layers, &config, None);
    manifest.media_type = Some("application/vnd.oci.image.manifest.v1+json".into());
    let image: Reference = format!("{registry}/team/counter:1").parse().unwrap();
    client.push(&image, &layers, config, &RegistryAuth::Anonymous, Some(manifest)).await.unwrap();
}

#[tokio::test]
async fn a_container_image_of_a_registry_becomes_an_image() {
    let Some(mut site) = Site::alone() else { return };
    let registry = Registry::start(site.folder.path());
    let counter = site.metal.examples.join("counter");
    push(&registry.name, &counter.join("counter")).await;
    let plain = RegistryConfig { plain_http: true, ..RegistryConfig::default() };
    site.artifacts.registries.insert(registry.name.clone(), plain.into());
    let mut request = site.request(&counter, "pulled");
    request.artifact = format!("oci://{}/team/counter:1", registry.name);
    request.egress = Egress::None;
    let (built, _) = site.build(&request).await;
    let image = built.unwrap();
    assert_eq!(image.manifest().app.arguments, ["/counter"]);
    assert!(image.manifest().origin.digest.starts_with("sha256:"), "{:?}", image.manifest().origin);
    let trial = site.try_out(&image, "", &RecordedEvents::default()).await;
    assert!(ask(&trial, "GET /").await.1.starts_with("request 1 of"));
    assert!(ask(&trial, "GET /environment").await.1.contains("FROM_REGISTRY=yes"));
}
