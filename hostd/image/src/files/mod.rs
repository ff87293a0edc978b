//! Files of a container, read and written from outside: `docker cp`.
//!
//! Everything here works below a descriptor of the container's root directory, and counts on a container that changes
//! what lies there at the same time. Paths are resolved by the kernel within that root ([`lookup`]); from a directory on,
//! names are opened one by one without following links. What is opened to be read is first pinned by a descriptor that
//! reads nothing, and looked at: no device or FIFO of the container is ever opened.

mod error;
mod extract;
mod lookup;
mod pack;
mod replaced;

pub use error::FilesError;
pub use extract::{ExtractOptions, extract};
pub use lookup::{PathStat, stat, stat_filesystem};
#[cfg(test)]
pub(crate) use pack::WriteSink;
pub use pack::{Pack, Sink, pack_all, pack_path};
pub(crate) use pack::{Packer, names, shift};

/// What the functions of this module return.
pub type Result<T> = std::result::Result<T, FilesError>;
