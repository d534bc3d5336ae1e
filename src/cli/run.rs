//! stub
use super::*;
pub(super) fn run(_: &args_run::RunArgs, _: &Env, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn doctor(_: &StoreRequest) -> Done {
    unimplemented!()
}
