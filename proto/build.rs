//! Generates Rust types from the protobuf sources, with a compiler that is a crate: no `protoc` needed.

#![forbid(unsafe_code)]

use std::error::Error;
use std::{env, fs, path::Path};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let sources = ["hearth/vmm/v1/control.proto", "hearth/vmm/v1/state.proto", "hearth/guest/v1/agent.proto"];
    let files = protox::compile(sources, ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    if env::var_os("CARGO_FEATURE_CONTROL_PLANE").is_some() {
        control_plane()?;
    }
    Ok(())
}

/// The services of the daemon, and what it stores. Their descriptors are kept: reflection and validation read them.
fn control_plane() -> Result<(), Box<dyn Error>> {
    let services = ["hearth/microvms/v1/microvms.proto", "hearth/host/v1/host.proto"];
    let described = protox::compile(services, ["proto"])?;
    let descriptors = Path::new(&env::var("OUT_DIR")?).join("control_plane.bin");
    fs::write(descriptors, described.encode_to_vec())?;
    let all = services.into_iter().chain(["hearth/store/v1/records.proto"]);
    let files = protox::compile(all, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.btree_map(["."]).enable_type_names();
    // They hold payloads, environment values or tokens: src/secret.rs shows them without.
    config.skip_debug([
        ".hearth.store.v1.MicrovmRecord",
        ".hearth.store.v1.ClientTokenRecord",
        ".hearth.microvms.v1.RunMicrovmRequest",
        ".hearth.microvms.v1.CreateMicrovmImageRequest",
        ".hearth.microvms.v1.UpdateMicrovmImageRequest",
        ".hearth.microvms.v1.MicrovmImageDetails",
        ".hearth.microvms.v1.MicrovmImageVersion",
        ".hearth.microvms.v1.CreateMicrovmAuthTokenResponse",
        ".hearth.microvms.v1.CreateMicrovmShellAuthTokenResponse",
    ]);
    tonic_prost_build::configure().compile_fds_with_config(files, config)?;
    Ok(())
}
