//! Images in Debian's registry.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use hearth_host::roles::Secret;
use hearth_image_builder::artifact::{Artifact, ArtifactConfig, RegistryConfig};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{ImageIndexEntry, OciImageIndex, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::servers::{DockerRegistry, scripted};
use crate::{fetch_into, fetcher, reason, tar_of};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn client() -> Client {
    hearth_host::http::install_tls();
    Client::try_from(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() }).unwrap()
}

fn config(registry: &str) -> ArtifactConfig {
    let plain = RegistryConfig { plain_http: true, ..RegistryConfig::default() };
    ArtifactConfig { registries: [(registry.to_owned(), plain.into())].into(), ..ArtifactConfig::default() }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// Layers as the registry stores them; their content does not matter here.
fn layers() -> Vec<ImageLayer> {
    vec![
        ImageLayer::oci_v1_gzip(b"the first layer".to_vec(), None),
        ImageLayer::new(
            b"the second layer".to_vec(),
            "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
            None,
        ),
    ]
}

fn image_config(architecture: &str) -> Config {
    let json = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["/app"]}});
    Config::oci_v1(json.to_string().into_bytes(), None)
}

/// Pushes an image and returns its manifest's digest.
async fn push(registry: &str, name: &str, architecture: &str, auth: &RegistryAuth) -> String {
    let image: Reference = format!("{registry}/{name}").parse().unwrap();
    let (client, config) = (client(), image_config(architecture));
    let mut manifest = OciImageManifest::build(&layers(), &config, None);
    manifest.media_type = Some(OCI_MANIFEST.to_owned());
    client.push(&image, &layers(), config, auth, Some(manifest)).await.unwrap();
    client.fetch_manifest_digest(&image, auth).await.unwrap()
}

/// Everything in a layout's tar.
fn files_of(layout: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(layout).unwrap();
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().to_str().unwrap().to_owned(), content);
    }
    files
}

async fn pulled(config: ArtifactConfig, uri: &str) -> (tempfile::TempDir, PathBuf, String) {
    let work = tempfile::tempdir().unwrap();
    match fetch_into(config, uri, work.path()).await.0.unwrap() {
        Artifact::Image { tar, digest } => (work, tar, digest),
        other => panic!("{other:?}"),
    }
}

fn is_whole(layout: &Path, manifest: &str) {
    let files = files_of(layout);
    let blob = |digest: &str| files.get(&format!("blobs/sha256/{}", &digest[7..])).unwrap();
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["digest"], manifest);
    assert_eq!(index["manifests"][0]["size"], blob(manifest).len());
    assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    let manifest: Value = serde_json::from_slice(blob(manifest)).unwrap();
    let of = |layer: usize| blob(manifest["layers"][layer]["digest"].as_str().unwrap()).as_slice();
    assert_eq!((of(0), of(1)), (b"the first layer".as_slice(), b"the second layer".as_slice()));
    let config: Value = serde_json::from_slice(blob(manifest["config"]["digest"].as_str().unwrap())).unwrap();
    assert_eq!(config["architecture"], "arm64");
    for (name, content) in files.iter().filter(|(name, _)| name.starts_with("blobs/sha256/")) {
        if let Some(hex) = name.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
            assert_eq!(format!("sha256:{hex}"), digest(content));
        }
    }
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_by_digest_and_by_both() {
    let root = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(root.path(), None);
    let name = &registry.name;
    let manifest = push(name, "team/app:1", "arm64", &RegistryAuth::Anonymous).await;
    let mut tars = Vec::new();
    for uri in [
        format!("oci://{name}/team/app:1"),
        format!("oci://{name}/team/app@{manifest}"),
        format!("oci://{name}/team/app:gone@{manifest}"),
    ] {
        let (_work, layout, digest) = pulled(config(name), &uri).await;
        assert_eq!(digest, manifest, "{uri}");
        is_whole(&layout, &manifest);
        let artifact = Artifact::Image { tar: layout.clone(), digest };
        let tar = tar_of(&fetcher(config(name)), &artifact, layout.parent().unwrap()).await.unwrap();
        assert_eq!(tar, std::fs::read(&layout).unwrap());
        tars.push(tar);
    }
    assert!(tars.windows(2).all(|pair| pair[0] == pair[1]), "the same image gives the same bytes");
}

#[tokio::test]
async fn of_an_index_the_image_for_arm64_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(root.path(), None);
    let name = &registry.name;
    let arm64 = push(name, "app:arm64", "arm64", &RegistryAuth::Anonymous).await;
    let amd64 = push(name, "app:amd64", "amd64", &RegistryAuth::Anonymous).await;
    let entry = |digest: &str, architecture: &str| -> ImageIndexEntry {
        serde_json::from_value(json!({
            "mediaType": OCI_MANIFEST, "digest": digest, "size": 1,
            "platform": {"os": "linux", "architecture": architecture},
        }))
        .unwrap()
    };
    for (tag, entries) in [
        ("both", vec![entry(&amd64, "amd64"), entry(&arm64, "arm64")]),
        ("other", vec![entry(&amd64, "amd64")]),
    ] {
        let index = OciImageIndex {
            schema_version: 2,
            media_type: Some(OCI_INDEX.to_owned()),
            manifests: entries,
            artifact_type: None,
            annotations: None,
        };
        let image: Reference = format!("{name}/app:{tag}").parse().unwrap();
        client().push_manifest_list(&image, &RegistryAuth::Anonymous, index).await.unwrap();
    }
    let (_work, layout, digest) = pulled(config(name), &format!("oci://{name}/app:both")).await;
    assert_eq!(digest, arm64);
    is_whole(&layout, &arm64);
    assert_eq!(
        reason(config(name), &format!("oci://{name}/app:other")).await,
        format!("CONTAINER_BUILD_FAILED: The image {name}/app:other has no variant for linux/arm64.")
    );
    assert_eq!(
        reason(config(name), &format!("oci://{name}/app:amd64")).await,
        format!(
            "CONTAINER_BUILD_FAILED: The image {name}/app:amd64 is for linux/amd64, not for linux/arm64."
        )
    );
}

#[tokio::test]
async fn an_image_that_is_not_there_is_named() {
    let root = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(root.path(), None);
    let name = &registry.name;
    push(name, "app:1", "arm64", &RegistryAuth::Anonymous).await;
    for missing in
        [format!("{name}/app:2"), format!("{name}/other:1"), format!("{name}/app@{}", digest(b"none"))]
    {
        let expected = format!("CONTAINER_BUILD_FAILED: The image {missing} does not exist.");
        assert_eq!(reason(config(name), &format!("oci://{missing}")).await, expected);
    }
}

/// Path at which the registry stores a blob.
fn stored(root: &Path, digest: &str) -> PathBuf {
    let hex = &digest[7..];
    root.join(format!("store/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

#[tokio::test]
async fn a_blob_or_manifest_that_was_tampered_with_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(root.path(), None);
    let name = &registry.name;
    let manifest = push(name, "app:1", "arm64", &RegistryAuth::Anonymous).await;
    let uri = format!("oci://{name}/app@{manifest}");
    let layer = stored(root.path(), &layers()[0].sha256_digest());
    for tampered in [b"the worst layer".as_slice(), b"the first", b"the first layer and more"] {
        std::fs::write(&layer, tampered).unwrap();
        let reason = reason(config(name), &uri).await;
        assert!(reason.starts_with("CONTAINER_BUILD_FAILED: The image "), "{tampered:?}: {reason}");
        assert!(reason.contains("has a blob that is"), "{tampered:?}: {reason}");
    }
    std::fs::write(&layer, "the first layer").unwrap();
    pulled(config(name), &uri).await;

    let path = stored(root.path(), &manifest);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"layers\"", "\"LAYERS\"")).unwrap();
    // The registry checks its manifests itself. Whether it or the client finds the mistake, nothing is pulled.
    let reason = reason(config(name), &uri).await;
    assert!(reason.starts_with("CONTAINER_BUILD_FAILED: ") || reason.starts_with("INTERNAL_"), "{reason}");
}

#[tokio::test]
async fn a_registry_may_ask_who_is_there() {
    let root = tempfile::tempdir().unwrap();
    let htpasswd = format!("builder:{}\n", HASH);
    let registry = DockerRegistry::start(root.path(), Some(&htpasswd));
    let name = &registry.name;
    let auth = RegistryAuth::Basic("builder".to_owned(), "open sesame".to_owned());
    let manifest = push(name, "app:1", "arm64", &auth).await;
    let uri = format!("oci://{name}/app:1");
    let refused = format!("CONTAINER_BUILD_FAILED: The image {name}/app:1 may not be pulled.");
    assert_eq!(reason(config(name), &uri).await, refused);
    let with = |password: &str| {
        let registry = RegistryConfig {
            plain_http: true,
            username: Some("builder".to_owned()),
            password: Some(Secret::new(password)),
            ..RegistryConfig::default()
        };
        ArtifactConfig { registries: [(name.clone(), registry.into())].into(), ..ArtifactConfig::default() }
    };
    assert_eq!(reason(with("open barley"), &uri).await, refused);
    let (_work, layout, digest) = pulled(with("open sesame"), &uri).await;
    assert_eq!(digest, manifest);
    is_whole(&layout, &manifest);
}

/// bcrypt of "open sesame"
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW";

#[tokio::test]
async fn an_image_beyond_the_limits_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(root.path(), None);
    let name = &registry.name;
    push(name, "app:1", "arm64", &RegistryAuth::Anonymous).await;
    let uri = format!("oci://{name}/app:1");
    let mut small = config(name);
    small.limits.max_image_bytes = 50;
    assert_eq!(reason(small, &uri).await, "ARCHIVE_INVALID: The code artifact is larger than 50 bytes.");
    let mut few = config(name);
    few.limits.max_layers = 1;
    let expected = format!("CONTAINER_BUILD_FAILED: The image {name}/app:1 has more than 1 layers.");
    assert_eq!(reason(few, &uri).await, expected);
}

#[tokio::test]
async fn a_server_that_is_no_registry_is_not_believed() {
    let endless: &'static str = Box::leak("{".repeat(5 << 20).into_boxed_str());
    for (status, body) in [(200, "<html>"), (200, "{}"), (200, endless), (500, "no")] {
        let server = scripted(status, &[], body).await;
        let name = server.strip_prefix("http://").unwrap();
        let reason = reason(config(name), &format!("oci://{name}/app:1")).await;
        assert!(
            reason.starts_with("CONTAINER_BUILD_FAILED: ") || reason.starts_with("INTERNAL_PLATFORM_ERROR: "),
            "{status}: {reason}"
        );
    }
}
