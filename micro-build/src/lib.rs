//! For a user's `build.rs`: messages, server, client and typed events from proto files, without
//! protoc.
//!
//! ```no_run
//! // build.rs
//! fn main() -> Result<(), micro_build::Error> {
//!     micro_build::compile(&["proto/order.proto"])
//! }
//! ```
//!
//! For the proto package `go.micro.service` that writes `go.micro.service.rs` to `OUT_DIR`, beside
//! `descriptors.bin`, the file descriptor set that server reflection wants:
//!
//! ```ignore
//! pub mod proto {
//!     tonic::include_proto!("go.micro.service");
//!     pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");
//! }
//! ```
//!
//! A crate that includes such code depends on `prost`, `tonic` and `tonic-prost`, and on
//! `prost-types` where its protos use the well-known types. Names are prost's: the field
//! `OutTradeNo` becomes `out_trade_no`, its number stays.
//!
//! # Events
//!
//! A message with the option `micro.event` gets an implementation of `micro_core::event::Event`:
//!
//! ```proto
//! import "micro/event.proto"; // comes with micro-build, no file on disk
//!
//! message OnPaymentSuccess {
//!   option (.micro.event) = { topic: "OrderEvent" type: "OnPaymentSuccess" key: "OrderId" };
//!   int64 OrderId = 1;
//! }
//! ```
//!
//! The dot before `micro` is needed where the file's package has a part of that name (`go.micro.…`),
//! for protobuf looks names up from the inside. `type` is the message's name where nothing is said;
//! `schema_version` may be given too.

mod error;
mod event;
mod source;

use std::{
    fs,
    path::{Path, PathBuf},
};

use protox::Compiler;

pub use error::Error;

/// The lints of the including crate are about what people write.
const ALLOW: &str = "#[allow(missing_docs, unreachable_pub, clippy::all)]";

/// Compiles proto files with the default options; see [`Builder`].
///
/// Imports are looked up in the folders of the given files.
///
/// # Errors
///
/// Names file, line and what is wrong with a proto.
pub fn compile(protos: &[impl AsRef<Path>]) -> Result<(), Error> {
    Builder::new().compile(protos)
}

/// What is generated, and where from and to.
#[derive(Clone, Debug)]
pub struct Builder {
    includes: Vec<PathBuf>,
    out_dir: Option<PathBuf>,
    core_path: String,
    descriptors: String,
    modules: Option<String>,
    server: bool,
    client: bool,
    type_attributes: Vec<(String, String)>,
    extern_paths: Vec<(String, String)>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            includes: Vec::new(),
            out_dir: None,
            core_path: "::micro_rs::core".to_owned(),
            descriptors: "descriptors".to_owned(),
            modules: None,
            server: true,
            client: true,
            type_attributes: Vec::new(),
            extern_paths: Vec::new(),
        }
    }
}

impl Builder {
    /// Server, client and events, for a crate that depends on `micro-rs`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder in which files and imports are looked up; default: the folder of each file.
    #[must_use]
    pub fn include(mut self, folder: impl Into<PathBuf>) -> Self {
        self.includes.push(folder.into());
        self
    }

    /// Sets the folder the code is written to; default: the environment's `OUT_DIR`.
    #[must_use]
    pub fn out_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(folder.into());
        self
    }

    /// Sets the path of micro-core in the including crate; default `::micro_rs::core`. A crate that
    /// depends on `micro-rs-core` alone says `::micro_core`.
    #[must_use]
    pub fn core_path(mut self, path: impl Into<String>) -> Self {
        self.core_path = path.into();
        self
    }

    /// Sets the name, without `.bin`, of the file descriptor set; default `descriptors`.
    #[must_use]
    pub fn descriptors(mut self, name: impl Into<String>) -> Self {
        self.descriptors = name.into();
        self
    }

    /// Also writes a file of this name that holds every package in nested modules, for protos of
    /// several packages that use each other: `include!(concat!(env!("OUT_DIR"), "/<name>"));`.
    #[must_use]
    pub fn modules(mut self, name: impl Into<String>) -> Self {
        self.modules = Some(name.into());
        self
    }

    /// Whether to generate servers; default true.
    #[must_use]
    pub fn server(mut self, wanted: bool) -> Self {
        self.server = wanted;
        self
    }

    /// Whether to generate clients; default true.
    #[must_use]
    pub fn client(mut self, wanted: bool) -> Self {
        self.client = wanted;
        self
    }

    /// Adds an attribute to the types a proto path names (`.` is every one):
    /// `type_attribute("go.micro.service.OrderInfo", "#[derive(serde::Serialize)]")`.
    #[must_use]
    pub fn type_attribute(mut self, path: impl Into<String>, attribute: impl Into<String>) -> Self {
        self.type_attributes.push((path.into(), attribute.into()));
        self
    }

    /// Uses existing Rust types for what a proto path (`.common`) names.
    #[must_use]
    pub fn extern_path(mut self, proto: impl Into<String>, rust: impl Into<String>) -> Self {
        self.extern_paths.push((proto.into(), rust.into()));
        self
    }

    /// Compiles proto files and tells Cargo to run the build script again when one of them changes.
    ///
    /// # Errors
    ///
    /// Names file, line and what is wrong with a proto, or the path that cannot be read or written.
    pub fn compile(&self, protos: &[impl AsRef<Path>]) -> Result<(), Error> {
        let out_dir = self.resolve_out_dir()?;
        let mut compiler = Compiler::with_file_resolver(source::resolver(&self.folders(protos)));
        compiler.include_imports(true).include_source_info(true);
        for proto in protos {
            compiler.open_file(proto).map_err(|error| Error::proto(proto.as_ref(), &error))?;
        }
        let events = event::find(&compiler.descriptor_pool())?;

        self.write_code(&compiler, &out_dir)?;
        event::append(&events, &self.core_path, &out_dir)?;
        // Without the comments, which nobody asks a running server for.
        compiler.include_source_info(false);
        let path = out_dir.join(format!("{}.bin", self.descriptors));
        fs::write(&path, compiler.encode_file_descriptor_set()).map_err(|error| Error::write(&path, error))?;

        rerun_if_changed(&compiler);
        Ok(())
    }

    fn resolve_out_dir(&self) -> Result<PathBuf, Error> {
        let from_cargo = || std::env::var_os("OUT_DIR").map(PathBuf::from);
        self.out_dir.clone().or_else(from_cargo).ok_or_else(Error::no_out_dir)
    }

    fn folders(&self, protos: &[impl AsRef<Path>]) -> Vec<PathBuf> {
        let mut folders = self.includes.clone();
        if folders.is_empty() {
            folders = protos.iter().filter_map(|proto| proto.as_ref().parent().map(Path::to_owned)).collect();
            folders.sort();
            folders.dedup();
        }
        folders
    }

    fn write_code(&self, compiler: &Compiler, out_dir: &Path) -> Result<(), Error> {
        let mut files = compiler.file_descriptor_set();
        // Google's files stay: prost looks their types up, and writes nothing for them.
        files.file.retain(|file| !source::is_built_in(file.name()));
        let mut generator = tonic_prost_build::configure()
            .out_dir(out_dir)
            .build_server(self.server)
            .build_client(self.client)
            .emit_rerun_if_changed(false)
            .type_attribute(".", ALLOW)
            .client_mod_attribute(".", ALLOW)
            .server_mod_attribute(".", ALLOW);
        for (path, attribute) in &self.type_attributes {
            generator = generator.type_attribute(path, attribute);
        }
        for (proto, rust) in &self.extern_paths {
            generator = generator.extern_path(proto, rust);
        }
        if let Some(modules) = &self.modules {
            generator = generator.include_file(modules);
        }
        generator.compile_fds(files).map_err(|error| Error::write(out_dir, error))
    }
}

fn rerun_if_changed(compiler: &Compiler) {
    if std::env::var_os("CARGO").is_none() {
        return;
    }
    for path in compiler.files().filter_map(|file| file.path()) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}
