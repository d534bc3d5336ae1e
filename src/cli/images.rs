//! `rbuild images`, `inspect`, `history`, `tag`, `rmi`: names and records of images, in Docker's words.
//!
//! Nothing here opens a layer.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

use super::args_image::{HistoryArgs, ImagesArgs, InspectArgs, RmiArgs, TagArgs};
use super::command_images::ImageRow;
use super::command_inspect::Details;
use super::records::Records;
use super::request::StoreRequest;
use super::world::now;
use super::{Done, Failure, command_history, command_images, command_inspect, print};
use crate::catalog::{CatalogError, Image, ImageId, Named};
use crate::oci::config::ImageConfig;
use crate::oci::reference::Reference;

/// `rbuild images`
pub(super) fn list(args: &ImagesArgs, place: &StoreRequest) -> Done {
    let records = Records::open(place)?;
    let mut rows = Vec::new();
    let mut named = BTreeSet::new();
    for (name, meant) in records.catalog.names().map_err(|e| Failure::of(&e))? {
        for image in &meant.images {
            named.insert(image.id);
            if let Some(record) = records.image(&image.id)? {
                rows.push(row(&records, Some(name.clone()), image.id, &record)?);
            }
        }
    }
    for id in records.catalog.ids().map_err(|e| Failure::of(&e))? {
        // What has no name but came from a registry is only there because a build starts from it.
        if !named.contains(&id)
            && let Some(record) = records.image(&id)?.filter(|record| record.manifest.is_none())
        {
            rows.push(row(&records, None, id, &record)?);
        }
    }
    print(command_images::render(rows, args, now()).as_bytes())
}

fn row(records: &Records, name: Option<Reference>, id: ImageId, image: &Image) -> Result<ImageRow, Failure> {
    let size = records.sizes(image)?.iter().sum();
    // A config that cannot be read has no date; `inspect` says what is wrong with it.
    let created = image.parsed().ok().as_ref().and_then(created);
    Ok(ImageRow { name, id: id.to_string(), created, size })
}

fn created(config: &ImageConfig) -> Option<SystemTime> {
    let created: jiff::Timestamp = config.created.as_deref()?.parse().ok()?;
    Some(created.into())
}

fn config_of(id: &ImageId, image: &Image) -> Result<ImageConfig, Failure> {
    image.parsed().map_err(|e| Failure::of(&e).named(&format!("image {id}")))
}

/// `rbuild inspect`
pub(super) fn inspect(args: &InspectArgs, place: &StoreRequest) -> Done {
    let records = Records::open(place)?;
    let names = records.catalog.names().map_err(|e| Failure::of(&e))?;
    let mut found = Vec::new();
    let mut failures = Failures::default();
    for text in &args.images {
        match details(&records, &names, text) {
            Ok(details) => found.push(details),
            Err(failure) => failures.add(failure),
        }
    }
    print(command_inspect::render(&found).as_bytes())?;
    failures.done()
}

fn details(records: &Records, names: &[(Reference, Named)], text: &str) -> Result<Details, Failure> {
    let (id, image) = records.find(text)?;
    let of_this = names.iter().filter(|(_, named)| named.images.iter().any(|image| image.id == id));
    Ok(Details {
        id: id.to_string(),
        names: of_this.map(|(name, named)| (name.clone(), named.digest)).collect(),
        config: config_of(&id, &image)?,
        size: records.sizes(&image)?.iter().sum(),
        manifest: image.manifest.as_ref().map(crate::oci::manifest::Document::descriptor),
    })
}

/// `rbuild history`
pub(super) fn history(args: &HistoryArgs, place: &StoreRequest) -> Done {
    let records = Records::open(place)?;
    let (id, image) = records.find(&args.image)?;
    let config = config_of(&id, &image)?;
    let sizes = records.sizes(&image)?;
    print(command_history::render(&id.to_string(), &config, &sizes, args, now()).as_bytes())
}

/// `rbuild tag`
pub(super) fn tag(args: &TagArgs, place: &StoreRequest) -> Done {
    let records = Records::open(place)?;
    let invalid = |e| Failure::of(&e).named(&format!("{:?} is not a valid repository/tag", args.name));
    let name = Reference::parse_tagged(&args.name).map_err(invalid)?;
    if name.digest().is_some() {
        return Err(Failure::text("refusing to create a tag with a digest reference"));
    }
    let (source, named) = records.catalog.find(&args.image).map_err(|e| Failure::of(&e))?;
    if source.as_ref() != Some(&name) {
        // What a registry said of the old name says nothing about the new one.
        let named = Named { images: named.images, ..Named::default() };
        records.catalog.tag(&name, &named).map_err(|e| Failure::of(&e))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `rbuild rmi`
pub(super) fn remove(args: &RmiArgs, place: &StoreRequest) -> Done {
    let records = Records::open(place)?;
    let mut out = String::new();
    let mut failures = Failures::default();
    for text in &args.images {
        match records.catalog.remove(text, args.force) {
            Ok(removed) => {
                out.extend(removed.untagged.iter().map(|name| format!("Untagged: {}\n", name.familiar())));
                out.extend(removed.deleted.iter().map(|id| format!("Deleted: {id}\n")));
            }
            Err(error @ CatalogError::Unknown(_)) if args.force => {
                // There is nobody left to tell when stderr is gone.
                let _ = writeln!(std::io::stderr(), "WARNING: {error}");
            }
            Err(error) => failures.add(Failure::of(&error)),
        }
    }
    print(out.as_bytes())?;
    failures.done()
}

/// What went wrong with some of several arguments; the others are done all the same.
#[derive(Default)]
pub(super) struct Failures(Vec<Failure>);

impl Failures {
    /// Notes one.
    pub(super) fn add(&mut self, failure: Failure) {
        self.0.push(failure);
    }

    /// Success if there was none; else the last one, below the others.
    pub(super) fn done(mut self) -> Done {
        let Some(last) = self.0.pop() else { return Ok(ExitCode::SUCCESS) };
        let before: String = self.0.iter().map(ToString::to_string).collect();
        Err(last.after(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_failures_are_told() {
        assert!(Failures::default().done().is_ok());
        let mut failures = Failures::default();
        failures.add(Failure::text("one"));
        failures.add(Failure::text("two"));
        assert_eq!(failures.done().expect_err("failed").to_string(), "ERROR: one\nERROR: two\n");
    }
}
