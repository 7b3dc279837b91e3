//! The generated code of the protos of the Go peer, of DTM's recorded branches and of the order service,
//! kept beside this file.

#![allow(missing_docs, unreachable_pub)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

pub mod peer {
    include!("generated/peer.rs");
}

pub mod busi {
    include!("generated/busi.rs");
}

pub mod order {
    include!("generated/go.micro.service.rs");
}

/// The peer's proto, which Go's side is generated from as well, those of DTM and of the order service.
const PROTOS: [&str; 3] = ["../interop/go-peer/pb/greeter.proto", "tests/proto/busi.proto", "tests/proto/order.proto"];

/// The descriptors of all.
pub static DESCRIPTORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    compile(folder.path());
    fs::read(folder.path().join("descriptors.bin")).unwrap()
});

fn compile(folder: &Path) {
    let protos = PROTOS.map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    micro_build::Builder::new().core_path("::micro_core").out_dir(folder).compile(&protos).unwrap();
}

/// `MICRO_UPDATE_EXPECTED=1 cargo test -p micro-grpc` writes the files anew.
#[test]
fn the_generated_code_is_that_of_the_protos() {
    let folder = tempfile::tempdir().unwrap();
    compile(folder.path());
    for name in ["peer.rs", "busi.rs", "go.micro.service.rs"] {
        let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/go_micro/generated").join(name);
        let code = fs::read_to_string(folder.path().join(name)).unwrap();
        if env::var_os("MICRO_UPDATE_EXPECTED").is_some() {
            fs::write(&kept, &code).unwrap();
        }
        assert_eq!(code, fs::read_to_string(kept).unwrap());
    }
}
