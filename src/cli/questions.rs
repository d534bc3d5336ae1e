//! Questions about a build instead of a build: `rbuild plan`, `graph`, `explain`.
//!
//! Runs nothing; only configs of base images may have to be fetched.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use super::agents::Agents;
use super::args_build::{BuildArgs, GraphArgs, GraphFormat, PlanArgs};
use super::args_store::ExplainArgs;
use super::contexts::Inputs;
use super::env::Env;
use super::request::{BuildRequest, StoreRequest};
use super::world::{Opened, enter, now};
use super::{Done, Failure, build, command_explain, print, screen};
use crate::engine::Options;
use crate::engine::slots::Limit;
use crate::exchange::Form;
use crate::layers::Wanted;
use crate::oci::platform::Platform;
use crate::pipeline::{self, Spec, World};
use crate::plan::dump;
use crate::plan::graph::Plan;
use crate::snapshot::Copied;

/// `rbuild plan`
pub(super) fn plan(args: PlanArgs, env: &Env, place: &StoreRequest) -> Done {
    planned(args.source.into(), env, place, dump::dump)
}

/// `rbuild graph`
pub(super) fn graph(args: GraphArgs, env: &Env, place: &StoreRequest) -> Done {
    let format = match args.format {
        GraphFormat::Dot => dump::GraphFormat::Dot,
        GraphFormat::Mermaid => dump::GraphFormat::Mermaid,
        GraphFormat::Svg => dump::GraphFormat::Svg,
        GraphFormat::Json => dump::GraphFormat::Json,
    };
    planned(args.source.into(), env, place, |plan| dump::graph(plan, format))
}

/// Plans and prints what `show` makes of it.
fn planned(args: BuildArgs, env: &Env, place: &StoreRequest, show: impl Fn(&Plan) -> String) -> Done {
    let request = BuildRequest::new(&args, env)?;
    if let [_, _, ..] = request.platforms.as_slice() {
        let names: Vec<_> = request.platforms.iter().map(Platform::short).collect();
        return Err(Failure::text(format!("a plan is for one platform, not several: {}", names.join(", "))));
    }
    let opened = Opened::new(enter(false)?, place)?;
    // The answer is what is wanted; how it is come by is shown only when it takes a registry to go wrong.
    let (display, progress) = screen::open(true, env)?;
    let time = now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let fetcher = super::far::fetcher(&request, env, &opened, &Agents::start(&request, &opened)?);
    let inputs = Inputs::open(&request, &opened, &fetcher, &progress, time as i64)?;
    let puller = opened.puller(env, &request.registries, &progress)?;
    let scratch = opened.scratch()?;
    let snapshots = opened.snapshots(scratch.path());
    let world = World {
        store: &opened.store,
        layers: &opened.layers,
        puller: &puller,
        fetcher: &fetcher,
        executor: opened.session.executor.as_ref(),
        snapshots: snapshots.as_ref(),
        seeds: Copied { xattrs: opened.session.overlay_xattrs },
        runtime: opened.runtime.handle(),
        progress: &progress,
        cancel: &opened.cancel,
    };
    let options = Options {
        jobs: Limit::Fixed(1),
        project: String::new(),
        flattened: false,
        now: time,
        explain: false,
        allow_host_network: false,
        allow_insecure: false,
        keep_failed: false,
    };
    let (secrets, agents) = (BTreeMap::new(), BTreeMap::new());
    let spec = Spec {
        source: inputs.source.clone(),
        plan: &inputs.plan,
        contexts: &inputs.trees,
        at_hand: &inputs.at_hand,
        pull: build::policy(request.pull),
        secrets: &secrets,
        agents: &agents,
        options: &options,
        cache_from: &[],
        form: Form::Names,
        inline_cache: false,
        compressed: Wanted::default(),
        threads: opened.threads,
    };
    let resolved =
        pipeline::parse(&world, &spec).and_then(|file| pipeline::resolve_plan(&world, &spec, spec.plan, &file));
    display.close();
    let (plan, _, _) = resolved.map_err(|error| build::explained(&error, String::new()))?;
    print(show(&plan).as_bytes())
}

/// `rbuild explain`
pub(super) fn explain(args: &ExplainArgs, place: &StoreRequest) -> Done {
    let records = super::records::Records::open(place)?;
    let Some(steps) = pipeline::last_build(&records.store).map_err(|e| Failure::of(&e))? else {
        return Err(Failure::text(format!("nothing was built yet with the store in {}", place.root.display())));
    };
    match command_explain::render(&steps, args.step.as_deref()) {
        Some(text) => print(text.as_bytes()),
        None => {
            let wanted = args.step.as_deref().unwrap_or_default();
            Err(Failure::text(format!("no step of the last build has {wanted:?} in its name")))
        }
    }
}
