//! End to end: the real binary, real base images, real clients. Tests named `root_*` need root, `rootless_*` run rbuild as
//! an ordinary user (made by `tests/setup.sh`); both fail, rather than skip, when CI=true and they cannot run.

mod cases;
mod image;
mod rig;
