//! stub
use super::*;
pub(super) fn usage(_: &args_store::DuArgs, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn prune(_: &args_store::PruneArgs, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn cache(_: &args_store::CacheCommand, _: &StoreRequest) -> Done {
    unimplemented!()
}
