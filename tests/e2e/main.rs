//! End to end: the real binary, real base images, real clients. Most tests run twice: in a module `root` as root and in a module
//! `rootless` as an ordinary user (made by `tests/setup.sh`). With `CI` set they fail, rather than skip, when they cannot run.
//! `net_*` builds from the package mirrors this machine is configured for, and says so when they do not answer.

mod agents;
mod builds;
mod cases;
mod commands;
mod contained;
mod corporate;
mod crash;
mod debian;
mod engines;
mod forms;
mod full;
mod image;
mod keys;
mod limits;
mod oci_runtimes;
mod outputs;
mod platforms;
mod reaching;
mod registry;
mod remote;
mod rig;
mod runs;
mod sharing;
mod shells;
mod single;
mod store;
mod traces;
