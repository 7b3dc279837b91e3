//! What a build script reports: one text that names file, line and what is wrong.

use std::{error::Error as StdError, fmt, io, path::Path};

/// Why the protos could not be compiled.
///
/// `Debug` is the same text as `Display`, for that is what Cargo shows of a build script's error.
pub struct Error {
    text: String,
}

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// protox's `Debug` is its text with `file:line:column:` in front.
    pub(crate) fn proto(asked: &Path, error: &protox::Error) -> Self {
        if error.file().is_none() {
            return Self::new(format!(
                "{}: {error} (is it there, and in one of the include folders?)",
                asked.display()
            ));
        }
        let mut text = format!("{error:?}");
        if text.contains("'micro.EventOptions'") {
            text.push_str("; expected the texts topic, type, key and schema_version");
        }
        Self::new(text)
    }

    pub(crate) fn write(path: &Path, error: io::Error) -> Self {
        Self::new(format!("writing {}: {error}", path.display()))
    }

    pub(crate) fn no_out_dir() -> Self {
        Self::new("OUT_DIR is not set: call this from build.rs, or name a folder with Builder::out_dir")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Error {}
