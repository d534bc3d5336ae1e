//! `rbuild registry`, `manifest` and `copy`: what is done in registries without a build and, but for the indexes that
//! `manifest create` notes down, without the store.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::args_registry::{
    CopyArgs, ManifestCommand, ManifestCreateArgs, ManifestInspectArgs, ManifestPushArgs, RegistryArgs, RegistryCommand,
};
use super::env::Env;
use super::records::Records;
use super::request::{RegistryRequest, StoreRequest, add_annotation, parse_platform, registry_host};
use super::world::Line;
use super::{Done, Failure, print, registries, screen};
use crate::catalog::pull::Source;
use crate::catalog::record::platform_of;
use crate::catalog::{Named, Origin};
use crate::event::{Outcome, Progress, Vertex};
use crate::exec::Host;
use crate::export::output::Annotations;
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{self, Descriptor, Document, Family, Index, MAX_CONFIG, Parsed};
use crate::oci::platform::Platform;
use crate::oci::reference::{DEFAULT_TAG, Reference};
use crate::registry::copy::Copier;
use crate::registry::{Client, Destination, Error, Layout, Remote, Selector, small_blob};

fn client(args: &RegistryArgs, env: &Env, progress: &Progress) -> Result<Client, Failure> {
    let request = RegistryRequest::new(args, env)?;
    Ok(Client::new(registries::options(env, &request, progress, &Arc::new(Host::here()))?))
}

/// `rbuild registry`
pub(super) fn registry(command: &RegistryCommand, env: &Env) -> Done {
    let line = Line::new()?;
    let silent = Progress::silent();
    let list = match command {
        RegistryCommand::Ls(args) => {
            let host = registry_host("registry ls", &args.host)?;
            let client = client(&args.registries, env, &silent)?;
            line.wait(client.catalog(&host)).map_err(|error| no_catalog(&host, error))?
        }
        RegistryCommand::Tags(args) => {
            let name = Reference::parse(&args.name).map_err(|e| Failure::of(&e).named(&format!("{:?}", args.name)))?;
            let repository = client(&args.registries, env, &silent)?.repository(&name);
            line.wait(repository.tags())?
        }
    };
    print(list.iter().fold(String::new(), |text, entry| text + entry + "\n").as_bytes())
}

/// Public registries do not let everybody list everything.
fn no_catalog(host: &str, failure: Failure) -> Failure {
    let help = format!("not every registry tells what it has; {host} may want a login, or never tell");
    if failure.before.is_empty() { failure.helped(Some(help)) } else { failure }
}

/// `rbuild manifest`
pub(super) fn manifest(command: &ManifestCommand, env: &Env, place: &StoreRequest) -> Done {
    match command {
        ManifestCommand::Inspect(args) => inspect(args, env, place),
        ManifestCommand::Create(args) => create(args, env, place),
        ManifestCommand::Push(args) => push(args, env, place),
    }
}

fn reference(text: &str) -> Result<Reference, Failure> {
    Reference::parse_tagged(text).map_err(|e| Failure::of(&e).named(&format!("{text:?}")))
}

fn selector(name: &Reference) -> Selector {
    match (name.digest(), name.tag()) {
        (Some(digest), _) => Selector::Digest(digest),
        (None, tag) => Selector::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
    }
}

/// An index that was made here, and where its members are.
type Created = (Document, BTreeMap<String, Origin>);

/// The index of that name that was created here.
fn created(place: &StoreRequest, name: &Reference) -> Result<Option<Created>, Failure> {
    let named = Records::open(place)?.catalog.named(name).map_err(|e| Failure::of(&e))?;
    Ok(named.filter(|named| !named.members.is_empty()).and_then(|named| Some((named.index?, named.members))))
}

fn inspect(args: &ManifestInspectArgs, env: &Env, place: &StoreRequest) -> Done {
    let name = reference(&args.name)?;
    let platform = args.platform.as_deref().map(parse_platform).transpose()?;
    let line = Line::new()?;
    let client = client(&args.registries, env, &Progress::silent())?;
    let (mut document, members) = match created(place, &name)? {
        Some((document, members)) => (document, members),
        None => (line.wait(client.repository(&name).manifest(&selector(&name)))?, BTreeMap::new()),
    };
    if let Some(platform) = &platform {
        let malformed = |e: manifest::ManifestError| Failure::of(&e).named(&name.to_string());
        if let Parsed::Index(index) = document.parse().map_err(malformed)? {
            let digest = index.select(platform).map_err(malformed)?.digest;
            let home = match members.get(&digest.to_string()) {
                Some(Origin::Registry(home)) => home.clone(),
                Some(Origin::Layout(_) | Origin::Bucket(_)) | None => name.clone(),
            };
            document = line.wait(client.repository(&home).manifest(&Selector::Digest(digest)))?;
        }
    }
    if args.digest {
        return print(format!("{}\n", document.digest()).as_bytes());
    }
    let mut bytes = document.bytes().to_vec();
    if !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    print(&bytes)
}

fn create(args: &ManifestCreateArgs, env: &Env, place: &StoreRequest) -> Done {
    let name = reference(&args.name)?;
    if name.digest().is_some() {
        return Err(Failure::text("an index that is yet to be made has no digest"));
    }
    let mut annotations = Annotations::default();
    for text in &args.annotation {
        add_annotation(text, "index", &mut annotations)?;
    }
    if !annotations.manifest.is_empty() || !annotations.index_descriptor.is_empty() {
        return Err(Failure::text(
            "--annotation: only index and manifest-descriptor are made here; manifests stay as they are",
        ));
    }
    let line = Line::new()?;
    let (display, progress) = screen::open(true, env)?;
    let client = client(&args.registries, env, &progress)?;
    let (mut entries, mut members) = (Vec::new(), BTreeMap::new());
    if args.amend {
        let (document, known) = created(place, &name)?
            .ok_or_else(|| Failure::text(format!("{}: no index of that name was created here", name.familiar())))?;
        if let Ok(Parsed::Index(index)) = document.parse() {
            entries = index.manifests;
            annotations.index = index.annotations.into_iter().chain(annotations.index).collect();
        }
        members = known;
    }
    for given in &args.members {
        let (text, platform) = match given.rsplit_once('=') {
            Some((text, platform)) => (text, Some(parse_platform(platform)?)),
            None => (given.as_str(), None),
        };
        let member = match text.strip_prefix('@').unwrap_or(text) {
            digest if digest.starts_with("sha256:") => {
                name.name_only().with_digest(digest.parse().map_err(|e| Failure::of(&e).named(given))?)
            }
            _ => reference(text)?,
        };
        let found = line.wait(descriptors(&client, &member, platform.as_ref()))?;
        for entry in found {
            join(&mut entries, entry, &mut members, &member)?;
        }
    }
    display.close();
    for entry in &mut entries {
        let Some(platform) = entry.platform.clone() else { continue };
        for (wanted, key, value) in &annotations.manifest_descriptor {
            let meant = wanted.as_deref().map(parse_platform).transpose()?;
            if meant.is_none_or(|meant| meant.normalize() == platform.normalize()) {
                entry.annotations.insert(key.clone(), value.clone());
            }
        }
    }
    let docker = entries.iter().all(|entry| entry.media_type == Family::Docker.manifest());
    let family = if docker && annotations.is_empty() { Family::Docker } else { Family::Oci };
    let index = Document::of_index(&Index::new(family, entries, annotations.index));
    if args.dry_run {
        return print(format!("{}\n", String::from_utf8_lossy(index.bytes())).as_bytes());
    }
    let named = Named { digest: Some(index.digest()), index: Some(index.clone()), members, ..Named::default() };
    Records::open(place)?.catalog.tag(&name, &named).map_err(|e| Failure::of(&e))?;
    if args.push {
        let registries = args.registries.clone();
        return push(
            &ManifestPushArgs { name: args.name.clone(), registries, ..ManifestPushArgs::default() },
            env,
            place,
        );
    }
    print(format!("Created manifest list {name}\n").as_bytes())
}

/// The entries an image or index contributes: for a platform, if one is given.
async fn descriptors(client: &Client, member: &Reference, wanted: Option<&Platform>) -> Result<Vec<Descriptor>, Error> {
    let repository = client.repository(member);
    let document = repository.manifest(&selector(member)).await?;
    let malformed = |message: String| Error::Protocol { what: member.to_string(), message };
    match document.parse().map_err(|e| malformed(e.to_string()))? {
        Parsed::Index(index) => match wanted {
            Some(platform) => {
                let found = index.select(platform).map_err(|e| malformed(e.to_string()))?.clone();
                Ok(vec![Descriptor { platform: Some(found.platform.unwrap_or_else(|| platform.clone())), ..found }])
            }
            None => Ok(index.manifests),
        },
        Parsed::Manifest(parsed) => {
            if let Some(platform) = wanted {
                return Ok(vec![Descriptor { platform: Some(platform.clone()), ..document.descriptor() }]);
            }
            let config = small_blob(&repository, &parsed.config, MAX_CONFIG).await?;
            let config: ImageConfig = manifest::read("image config", &config).map_err(|e| malformed(e.to_string()))?;
            if config.os.is_empty() || config.architecture.is_empty() {
                return Err(malformed(format!(
                    "its config names no platform: say it as {}=OS/ARCH",
                    member.familiar()
                )));
            }
            Ok(vec![Descriptor { platform: Some(platform_of(&config)), ..document.descriptor() }])
        }
    }
}

/// Puts an entry in. Two images for one platform would leave it to chance which one is run.
fn join(
    entries: &mut Vec<Descriptor>,
    entry: Descriptor,
    members: &mut BTreeMap<String, Origin>,
    from: &Reference,
) -> Result<(), Failure> {
    let real = |platform: &Platform| platform.os != "unknown";
    if let Some(platform) = entry.platform.as_ref().filter(|platform| real(platform)) {
        let same = |old: &&Descriptor| old.platform.as_ref().is_some_and(|p| p.normalize() == platform.normalize());
        if let Some(old) = entries.iter().find(same).filter(|old| old.digest != entry.digest) {
            let (first, second) = (old.digest, entry.digest);
            return Err(Failure::text(format!("two images for {}: {first} and {second}", platform.short())));
        }
    }
    members.entry(entry.digest.to_string()).or_insert_with(|| Origin::Registry(from.name_only()));
    if !entries.iter().any(|old| old.digest == entry.digest) {
        entries.push(entry);
    }
    Ok(())
}

fn push(args: &ManifestPushArgs, env: &Env, place: &StoreRequest) -> Done {
    let name = reference(&args.name)?;
    let missing =
        || Failure::text(format!("{}: no index of that name was created here (manifest create)", name.familiar()));
    let (index, members) = created(place, &name)?.ok_or_else(missing)?;
    let line = Line::new()?;
    let (display, progress) = screen::open(args.quiet, env)?;
    let client = client(&args.registries, env, &progress)?;
    let vertex = progress.vertex(format!("pushing manifest list {name}"), &[]);
    vertex.start();
    let sent = line.wait(async {
        let to = Arc::new(client.repository(&name));
        for (digest, origin) in &members {
            let Origin::Registry(home) = origin else { continue };
            let digest = digest.parse().map_err(|_| Error::NotFound(format!("{name}@{digest}")))?;
            let from = Arc::new(client.repository(home));
            let document = from.manifest(&Selector::Digest(digest)).await?;
            if home.repository() == name.repository() {
                continue;
            }
            let copier = Copier {
                from,
                from_name: Some(home.repository()),
                to: to.clone(),
                vertex: vertex.clone(),
                cancel: line.cancel.clone(),
            };
            copier.copy(&document, None).await?;
        }
        to.push_manifest(&index, name.tag()).await
    });
    ended(&vertex, &line, &sent);
    display.close();
    sent?;
    if args.purge {
        Records::open(place)?.catalog.untag(&name).map_err(|e| Failure::of(&e))?;
    }
    let text = if args.quiet { String::new() } else { format!("{}\n", index.digest()) };
    print(text.as_bytes())
}

fn ended<T>(vertex: &Vertex, line: &Line, result: &Result<T, Failure>) {
    vertex.finish(match result {
        Ok(_) => Outcome::Done,
        Err(_) if line.cancel.is_cancelled() => Outcome::Canceled,
        Err(failure) => Outcome::Error(failure.last.clone()),
    });
}

/// `rbuild copy`
pub(super) fn copy(args: &CopyArgs, env: &Env) -> Done {
    let platform = args.platform.as_deref().map(parse_platform).transpose()?;
    let (source, dest) = (end(&args.source)?, end(&args.dest)?);
    let line = Line::new()?;
    let (display, progress) = screen::open(args.quiet, env)?;
    let client = client(&args.registries, env, &progress)?;
    let (from, from_name, selector): (Arc<dyn Remote>, _, _) = match &source {
        Source::Image(name) => (Arc::new(client.repository(name)), Some(name.repository()), selector(name)),
        Source::Layout(name) => {
            let layout = Layout::open(&env.path(&name.path)).map_err(|e| Failure::of(&e))?;
            (Arc::new(layout), None, name.selector())
        }
    };
    let (to, given): (Arc<dyn Destination>, _) = match &dest {
        Source::Image(name) if name.digest().is_some() => {
            return Err(Failure::text("a copy cannot be given a digest: it has the source's"));
        }
        Source::Image(name) => (Arc::new(client.repository(name)), name.tag().map(str::to_owned)),
        Source::Layout(name) => {
            let layout = Layout::create(&env.path(&name.path)).map_err(|e| Failure::of(&e))?;
            (Arc::new(layout), name.tag.clone())
        }
    };
    let tag = given.or_else(|| match &selector {
        Selector::Tag(tag) => Some(tag.clone()),
        // What is asked for by digest is found by digest.
        Selector::Digest(_) => None,
    });
    let vertex = progress.vertex(format!("copying {} to {}", args.source, args.dest), &[]);
    vertex.start();
    let copier = Copier { from, from_name, to, vertex: vertex.clone(), cancel: line.cancel.clone() };
    let copied = line.wait(async {
        let mut document = copier.from.manifest(&selector).await?;
        if let Some(platform) = &platform
            && let Ok(Parsed::Index(index)) = document.parse()
        {
            let none = |e: manifest::ManifestError| Error::Manifest { what: args.source.clone(), source: e };
            let digest = index.select(platform).map_err(none)?.digest;
            document = copier.from.manifest(&Selector::Digest(digest)).await?;
        }
        copier.copy(&document, tag.as_deref()).await?;
        Ok(document.digest())
    });
    ended(&vertex, &line, &copied);
    display.close();
    let digest = copied?;
    if let Some(path) = &args.digestfile {
        super::outputs::replace(&env.path(path), digest.to_string().as_bytes())?;
    }
    let mut text = String::new();
    if !args.quiet {
        let _ = writeln!(text, "{digest}");
    }
    print(text.as_bytes())
}

const ELSEWHERE: [&str; 6] = ["oci-archive", "docker-archive", "docker-daemon", "containers-storage", "dir", "tarball"];

/// One end of a copy; a name without tag and digest stays so.
fn end(text: &str) -> Result<Source, Failure> {
    let text = text.strip_prefix("docker://").unwrap_or(text);
    let layout = text.strip_prefix("oci:").map(|rest| format!("oci-layout://{rest}"));
    let text = layout.as_deref().unwrap_or(text);
    if text.starts_with("oci-layout://") {
        return Source::parse(text).map_err(|e| Failure::of(&e));
    }
    // Places of skopeo that are no registries.
    if let Some((place, _)) = text.split_once(':').filter(|(place, _)| ELSEWHERE.contains(place)) {
        let words = format!("{place}: is no place to copy from or to: names in registries and oci-layout://DIR are");
        let help = "archives and engines go by way of the store: `rbuild load`, `rbuild save`, `rbuild build --load`";
        return Err(Failure::text(words).helped(Some(help.to_owned())));
    }
    let name = Reference::parse(text).map_err(|e| Failure::of(&e).named(&format!("{text:?}")))?;
    Ok(Source::Image(name))
}
