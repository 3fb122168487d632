//! Generates the gRPC service.

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["counter.proto"], ["proto"])?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("counter.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().build_client(false).compile_fds(files)?;
    Ok(())
}
