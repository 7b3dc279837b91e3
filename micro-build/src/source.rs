//! Where protos come from: the include folders, Google's own, and the ones micro-build carries.

use std::path::PathBuf;

use protox::{
    Error,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver},
};

const EVENT_PROTO_NAME: &str = "micro/event.proto";
const EVENT_PROTO: &str = include_str!("../proto/micro/event.proto");

pub(crate) fn resolver(folders: &[PathBuf]) -> ChainFileResolver {
    let mut chain = ChainFileResolver::new();
    for folder in folders {
        chain.add(IncludeFileResolver::new(folder.clone()));
    }
    chain.add(BuiltIn);
    chain.add(GoogleFileResolver::new());
    chain
}

/// Whether a file matters to micro-build alone, so that no code is generated for it.
pub(crate) fn is_built_in(name: &str) -> bool {
    name == EVENT_PROTO_NAME
}

struct BuiltIn;

impl FileResolver for BuiltIn {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        match name {
            EVENT_PROTO_NAME => File::from_source(name, EVENT_PROTO),
            _ => Err(Error::file_not_found(name)),
        }
    }
}
