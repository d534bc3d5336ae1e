//! `rbuild pull`, `push`, `save`, `load`, `import`: images from and to registries and archives.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::ExitCode;

use super::args_image::{ArchiveFormat, ImportArgs, LoadArgs, PullArgs, PushArgs, SaveArgs};
use super::env::Env;
use super::records::best;
use super::request::{RegistryRequest, StoreRequest, parse_platform};
use super::world::{Opened, enter, now};
use super::{Done, Failure, print, screen};
use crate::catalog::pull::{Policy, PullError, Puller, Source};
use crate::catalog::{Catalog, Image, Named};
use crate::event::{Outcome, Progress};
use crate::export::output::{Dest, Push};
use crate::export::{Exporter, Part, Subject, Surroundings};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::registry::Layout;

/// Standard input or output, where a file may stand.
const STREAM: &str = "-";

/// `rbuild pull`
pub(super) fn pull(args: &PullArgs, env: &Env, place: &StoreRequest) -> Done {
    let name = filed(reference(&args.name)?);
    let platform = platform(args.platform.as_deref())?;
    let registries = RegistryRequest::new(&args.registries, env)?;
    let opened = Opened::new(enter(false)?, place)?;
    let before = opened.catalog().named(&name).map_err(|e| Failure::of(&e))?;
    let (display, progress) = screen::open(args.quiet, env)?;
    let puller = opened.puller(env, &registries, &progress)?;
    let pulled = fetch(&opened, &puller, &name, &platform, Policy::Always, &progress);
    display.close();
    let named = pulled?.named;
    let mut out = String::new();
    if !args.quiet {
        if let Some(digest) = named.digest {
            let _ = writeln!(out, "Digest: {digest}");
        }
        let news = if before.as_ref() == Some(&named) { "Image is up to date" } else { "Downloaded newer image" };
        let _ = writeln!(out, "Status: {news} for {}", name.familiar());
    }
    print(format!("{out}{name}\n").as_bytes())
}

/// What was fetched: the image for one platform, and all its name means.
pub(super) struct Fetched {
    /// The image; its layers are in the store.
    pub(super) image: Image,
    named: Named,
}

/// Gets an image and gives it its name.
pub(super) fn fetch(
    opened: &Opened,
    puller: &Puller,
    name: &Reference,
    platform: &Platform,
    policy: Policy,
    progress: &Progress,
) -> Result<Fetched, Failure> {
    let vertex = progress.vertex(format!("pull {name}"), &[]);
    vertex.start();
    let source = Source::Image(name.clone());
    let fetched = opened.runtime.block_on(async {
        let resolved = puller.resolve(&source, platform, policy, Some(&vertex)).await?;
        puller.ensure_layers(&resolved.image, &vertex, &opened.cancel).await?;
        let catalog = puller.catalog();
        let named = catalog.remembered(name)?.unwrap_or_else(|| Named::one(platform.clone(), resolved.id));
        catalog.tag(name, &named)?;
        Ok::<_, PullError>(Fetched { image: resolved.image, named })
    });
    finish(opened, &vertex, fetched)
}

/// `rbuild push`
pub(super) fn push(args: &PushArgs, env: &Env, place: &StoreRequest) -> Done {
    let name = reference(&args.name)?;
    let registries = RegistryRequest::new(&args.registries, env)?;
    let opened = Opened::new(enter(false)?, place)?;
    let catalog = opened.catalog();
    let Some(named) = catalog.named(&name).map_err(|e| Failure::of(&e))? else {
        return Err(Failure::text(format!("An image does not exist locally with the tag: {}", name.familiar())));
    };
    let subject = Subject { images: images(&catalog, &named)?, names: vec![name.clone()], epoch: None, indexed: false };
    let (display, progress) = screen::open(args.quiet, env)?;
    let puller = opened.puller(env, &registries, &progress)?;
    let mut nowhere = std::io::sink();
    let mut around = Surroundings { progress: &progress, inputs: &[], stream: &mut nowhere };
    let pushed = exporter(&opened, puller).push_names(&subject, &Push::default(), &mut around);
    display.close();
    match pushed.map_err(|e| Failure::of(&e).helped(e.help()))?.descriptor {
        Some(descriptor) if !args.quiet => {
            let tag = name.tag().unwrap_or_default();
            print(format!("{tag}: digest: {} size: {}\n", descriptor.digest, descriptor.size).as_bytes())
        }
        Some(_) | None => Ok(ExitCode::SUCCESS),
    }
}

/// `rbuild save`
pub(super) fn save(args: &SaveArgs, env: &Env, place: &StoreRequest) -> Done {
    let dest = match args.output.as_deref().filter(|path| *path != Path::new(STREAM)) {
        Some(path) => Dest::File(env.path(path)),
        None if env.stdout_is_terminal => {
            return Err(Failure::text("refusing to write an archive to a terminal: use -o FILE or redirect it"));
        }
        None => Dest::Stream,
    };
    let docker = match args.format {
        ArchiveFormat::Docker => true,
        ArchiveFormat::Oci => false,
    };
    let registries = RegistryRequest::new(&args.registries, env)?;
    let opened = Opened::new(enter(false)?, place)?;
    let subjects = subjects(&opened.catalog(), &args.images, docker)?;
    let (display, progress) = screen::open(matches!(dest, Dest::Stream), env)?;
    let puller = opened.puller(env, &registries, &progress)?;
    let mut stdout = std::io::stdout();
    let mut around = Surroundings { progress: &progress, inputs: &[], stream: &mut stdout };
    let saved = exporter(&opened, puller).save(&subjects, docker, &dest, &mut around);
    display.close();
    saved.map_err(|e| Failure::of(&e))?;
    stdout.flush().map_err(|e| Failure::of(&e))?;
    Ok(ExitCode::SUCCESS)
}

/// The images to be saved, each with all the names it was asked for by. Docker's archives hold one platform an image.
fn subjects(catalog: &Catalog, wanted: &[String], docker: bool) -> Result<Vec<Subject>, Failure> {
    let mut subjects: Vec<Subject> = Vec::new();
    for text in wanted {
        let (name, named) = catalog.find(text).map_err(|e| Failure::of(&e))?;
        let mut images = images(catalog, &named)?;
        if let Some(best) = best(&named).filter(|_| docker) {
            images.retain(|part| part.image.id() == best);
        }
        match subjects.iter_mut().find(|subject| subject.images == images) {
            Some(known) => known.names.extend(name.filter(|name| !known.names.contains(name))),
            None => subjects.push(Subject { images, names: name.into_iter().collect(), epoch: None, indexed: false }),
        }
    }
    Ok(subjects)
}

fn images(catalog: &Catalog, named: &Named) -> Result<Vec<Part>, Failure> {
    let mut images = Vec::new();
    for one in &named.images {
        let image = catalog.get(&one.id).map_err(|e| Failure::of(&e))?;
        let image = image.ok_or_else(|| Failure::text(format!("No such image: {}", one.id)))?;
        images.push(Part::finished(one.platform.clone(), image));
    }
    Ok(images)
}

/// `rbuild load`
pub(super) fn load(args: &LoadArgs, env: &Env, place: &StoreRequest) -> Done {
    let input = args.input.as_deref().filter(|path| *path != Path::new(STREAM)).map(|path| env.path(path));
    let what = input.as_ref().map_or_else(|| "stdin".to_owned(), |path| path.display().to_string());
    let archive = match &input {
        Some(path) if path.is_dir() => None,
        Some(path) => Some(open(path)?),
        None => Some(stdin("load")?),
    };
    let opened = Opened::new(enter(false)?, place)?;
    let (display, progress) = screen::open(args.quiet, env)?;
    let puller = opened.puller(env, &RegistryRequest::default(), &progress)?;
    let runtime = opened.runtime.handle();
    let vertex = progress.vertex(format!("load {what}"), &[]);
    vertex.start();
    let loaded = match (archive, &input) {
        (Some(archive), _) => puller.load(archive, &what, runtime, &vertex),
        (None, Some(path)) => {
            let layout = Layout::open(path).map_err(PullError::from);
            layout.and_then(|layout| puller.load_layout(&layout, &what, runtime, &vertex))
        }
        (None, None) => Ok(Vec::new()),
    };
    let loaded = finish(&opened, &vertex, loaded);
    display.close();
    let mut out = String::new();
    for one in loaded? {
        let ids =
            one.named.images.iter().filter(|_| one.names.is_empty()).map(|image| ("image ID", image.id.to_string()));
        let names = one.names.iter().map(|name| ("image", name.familiar()));
        for (kind, text) in names.chain(ids) {
            let _ = if args.quiet { writeln!(out, "{text}") } else { writeln!(out, "Loaded {kind}: {text}") };
        }
    }
    print(out.as_bytes())
}

/// `rbuild import`
pub(super) fn import(args: &ImportArgs, env: &Env, place: &StoreRequest) -> Done {
    let name = args.name.as_deref().map(reference).transpose()?;
    if name.as_ref().is_some_and(|name| name.digest().is_some()) {
        return Err(Failure::text("cannot import digest reference"));
    }
    let platform = platform(args.platform.as_deref())?;
    let created = created(env)?;
    let (archive, what) = if args.file == Path::new(STREAM) {
        (stdin("import")?, STREAM.to_owned())
    } else {
        (open(&env.path(&args.file))?, args.file.display().to_string())
    };
    let opened = Opened::new(enter(false)?, place)?;
    let puller = opened.puller(env, &RegistryRequest::default(), &Progress::silent())?;
    let imported = puller.import(archive, &what, name.as_ref(), &platform, &created);
    let id =
        imported.map_err(|e| if opened.cancel.is_cancelled() { Failure::text("canceled") } else { Failure::of(&e) })?;
    print(format!("{id}\n").as_bytes())
}

/// When an imported image was made: now, unless `SOURCE_DATE_EPOCH` says so.
fn created(env: &Env) -> Result<String, Failure> {
    const EPOCH: &str = "SOURCE_DATE_EPOCH";
    let created = match env.filled(EPOCH) {
        Some(text) => {
            let seconds = text.parse().ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
            seconds.ok_or_else(|| Failure::text(format!("invalid {EPOCH}: {text}")))?
        }
        None => jiff::Timestamp::try_from(now()).map_err(|e| Failure::of(&e))?,
    };
    Ok(created.to_string())
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    Ok(Box::new(fs_err::File::open(path).map_err(|e| Failure::of(&e))?))
}

fn stdin(command: &str) -> Result<Box<dyn Read + Send>, Failure> {
    let stdin = std::io::stdin();
    if rustix::termios::isatty(&stdin) {
        return Err(Failure::text(format!("nothing to {command}: name a file or redirect stdin")));
    }
    Ok(Box::new(stdin))
}

fn reference(text: &str) -> Result<Reference, Failure> {
    Reference::parse_tagged(text).map_err(|e| Failure::of(&e).named(&format!("{text:?}")))
}

/// The name an image gets that is pulled: a digest makes the tag meaningless.
fn filed(name: Reference) -> Reference {
    match name.digest() {
        Some(digest) => name.name_only().with_digest(digest),
        None => name,
    }
}

fn platform(text: Option<&str>) -> Result<Platform, Failure> {
    Ok(text.map(parse_platform).transpose()?.unwrap_or_else(Platform::host))
}

fn exporter(opened: &Opened, puller: Puller) -> Exporter {
    Exporter::new(opened.layers.clone(), puller, opened.runtime.handle().clone(), opened.cancel.clone(), opened.threads)
}

/// Ends a vertex as what it stood for ended.
fn finish<T>(opened: &Opened, vertex: &crate::event::Vertex, result: Result<T, PullError>) -> Result<T, Failure> {
    vertex.finish(match &result {
        Ok(_) => Outcome::Done,
        Err(_) if opened.cancel.is_cancelled() => Outcome::Canceled,
        Err(error) => Outcome::Error(error.to_string()),
    });
    let why = |e: PullError| Failure::of(&e).helped(e.help());
    result.map_err(|e| if opened.cancel.is_cancelled() { Failure::text("canceled") } else { why(e) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulled_by_digest_an_image_has_no_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let name = reference(&format!("alpine:3.20@{digest}")).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(filed(name).familiar(), format!("alpine@{digest}"));
        assert!(reference("Not A Name").is_err_and(|failure| failure.to_string().contains("invalid reference format")));
    }

    #[test]
    fn creation_times() {
        let env = |value: &str| Env::test(Path::new("/"), &[("SOURCE_DATE_EPOCH", value)]);
        assert_eq!(created(&env("1700000000")).unwrap_or_default(), "2023-11-14T22:13:20Z");
        assert!(created(&env("soon")).is_err());
        assert!(created(&env("")).is_ok());
    }
}
