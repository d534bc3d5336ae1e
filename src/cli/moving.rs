//! stub
use super::*;
pub(super) fn pull(_: &args_image::PullArgs, _: &Env, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn push(_: &args_image::PushArgs, _: &Env, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn save(_: &args_image::SaveArgs, _: &Env, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn load(_: &args_image::LoadArgs, _: &Env, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn import(_: &args_image::ImportArgs, _: &Env, _: &StoreRequest) -> Done {
    unimplemented!()
}
