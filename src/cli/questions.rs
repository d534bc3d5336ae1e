//! stub
use super::*;
pub(super) fn plan(_: args_build::PlanArgs, _: &Env, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn graph(_: args_build::GraphArgs, _: &Env, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn explain(_: &args_store::ExplainArgs, _: &StoreRequest) -> Done {
    unimplemented!()
}
pub(super) fn call(
    _: &request::Call,
    _: &crate::pipeline::World<'_>,
    _: &crate::pipeline::Spec<'_>,
    _: &contexts::Inputs,
) -> Result<(String, ExitCode), Failure> {
    unimplemented!()
}
