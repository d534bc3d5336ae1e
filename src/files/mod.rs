//! Files beneath a root: the only place that opens paths named by users, images or archives.
//!
//! A path from outside is a [`LayerPath`](crate::tar::entry::LayerPath) and is only ever opened through [`Root`], which the
//! kernel (`openat2`) or a walk by components keeps beneath it. Knows no context, no layer and no rule of COPY.

mod dir;
mod root;

pub use dir::{Dir, FileKind, Name, Stat, Time};
pub use root::Root;
pub(crate) use root::is_absence;
