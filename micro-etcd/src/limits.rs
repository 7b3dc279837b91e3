//! How much of what others registered is read: all of the limits, with their reasons. What is above one
//! is left out with a complaint, and the rest is read. Nothing that go-micro's programs register in
//! earnest comes near.

/// The largest answer of etcd's that is taken in: ten thousand instances are some 20 MiB.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How many keys of a service are read.
pub(crate) const INSTANCES_MAX: usize = 10_000;

/// The largest value that is read: etcd itself takes no more than 1.5 MiB where nothing else is set.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 20;

/// How many instances a value tells of; go-micro writes one.
pub(crate) const NODES_MAX: usize = 100;

/// How long a version is. Each instance of a value has it, and takes as much room for it.
pub(crate) const VERSION_BYTES_MAX: usize = 4 << 10;

/// What an instance takes beside its texts, in bytes: about.
pub(crate) const INSTANCE_BYTES: usize = 256;

/// How many pairs of metadata an instance has.
pub(crate) const METADATA_COUNT_MAX: usize = 1_000;

/// How much text its metadata may be, names and values together.
pub(crate) const METADATA_BYTES_MAX: usize = 512 << 10;

/// How many endpoints an instance has.
pub(crate) const ENDPOINTS_MAX: usize = 1_000;

/// How many JSON values an endpoint may be; one of a hundred fields is some 400. Each can become a
/// hundred bytes of memory.
pub(crate) const ENDPOINT_VALUES_MAX: usize = 1 << 16;

/// How deep those may lie in each other. go-micro writes fields of fields three times: ten.
pub(crate) const ENDPOINT_DEPTH_MAX: usize = 32;

/// How many JSON values the endpoints of a service's instances may be together, the same ones counted
/// once.
pub(crate) const TOGETHER_VALUES_MAX: usize = 1 << 20;
