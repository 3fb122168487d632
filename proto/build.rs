//! Generates Rust types from the protobuf sources, with a compiler that is a crate: no `protoc` needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let sources = ["hearth/vmm/v1/control.proto", "hearth/vmm/v1/state.proto", "hearth/guest/v1/agent.proto"];
    let files = protox::compile(sources, ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
