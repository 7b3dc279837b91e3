//! How much of what others registered is read: all of the limits, with their reasons. What is above one
//! is left out with a complaint, and the rest is read. Nothing that go-micro's programs register in
//! earnest comes near.

/// The largest answer of Consul's that is taken in: ten thousand instances are some 20 MiB.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How many entries of an answer are looked at, live or not.
pub(crate) const ENTRIES_MAX: usize = 10_000;

/// How many checks an entry may have: which of more is critical would not be known.
pub(crate) const CHECKS_MAX: usize = 1_000;

/// How many tags of an instance are looked at: more than its metadata and endpoints may need.
pub(crate) const TAGS_MAX: usize = 4_096;

/// The longest tag that is looked at: zlib and hex make of [`UNPACKED_BYTES_MAX`] hardly more than
/// twice as much, however badly it packs.
pub(crate) const TAG_BYTES_MAX: usize = 1 << 20;

/// The most that one tag may hold: an endpoint of thousands of fields has less.
pub(crate) const UNPACKED_BYTES_MAX: usize = 256 << 10;

/// How many pairs of metadata an instance has.
pub(crate) const METADATA_COUNT_MAX: usize = 1_000;

/// How much text its metadata may be, names and values together.
pub(crate) const METADATA_BYTES_MAX: usize = 512 << 10;

/// What the tags of an instance's metadata and version may be unpacked to.
pub(crate) const OWN_BYTES_MAX: usize = 1 << 20;

/// How many endpoints an instance has.
pub(crate) const ENDPOINTS_MAX: usize = 1_000;

/// How many JSON values an endpoint may be; one of a hundred fields is some 400. Each can become a
/// hundred bytes of memory.
pub(crate) const ENDPOINT_VALUES_MAX: usize = 1 << 16;

/// How deep those may lie in each other. go-micro writes fields of fields three times: ten.
pub(crate) const ENDPOINT_DEPTH_MAX: usize = 32;

/// How many complaints an answer gives rise to: no more are remembered, and told.
pub(crate) const COMPLAINTS_MAX: usize = 1_000;

/// What the tags of one answer may hold together, those of the same endpoints counted once: this, less
/// what was read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Bytes that tags are unpacked to.
    pub bytes: usize,
    /// JSON values.
    pub values: usize,
    /// Bytes that tags of metadata and versions are unpacked to: apart from those of endpoints, so that
    /// what one instance registers does not take another one's protocol away.
    pub metadata_bytes: usize,
}

impl Default for Left {
    fn default() -> Self {
        Self { bytes: 16 << 20, values: 1 << 20, metadata_bytes: 16 << 20 }
    }
}
