//! Generates messages, client and server of the chain, of the greeter and of the sagas' branches, as a user
//! without the framework would.

use std::{env, fs, path::Path};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure().compile_fds(protox::compile(["proto/chain.proto"], ["proto"])?)?;
    tonic_prost_build::configure().compile_fds(protox::compile(["proto/busi.proto"], ["proto"])?)?;
    let greeter = protox::compile(["proto/greeter.proto"], ["proto"])?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("greeter.bin"), greeter.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(greeter)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
