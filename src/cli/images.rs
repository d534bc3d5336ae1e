//! stub
use super::*;
pub(super) fn list(_: &args_image::ImagesArgs, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn inspect(_: &args_image::InspectArgs, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn history(_: &args_image::HistoryArgs, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn tag(_: &args_image::TagArgs, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn remove(_: &args_image::RmiArgs, _: &StoreRequest) -> Done {
    unimplemented!()
}
