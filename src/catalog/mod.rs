//! The images in the store: records by ID, names, and what was learned about names of registries.
//!
//! ```text
//! images-v1/sha256:…                        an Image: config, layers, manifest if it came with one
//! names-v1/docker.io/library/app:1.0        a Named: given by the user; names are what GC keeps things for
//! facts-v1/image docker.io/library/alpine:3 a Named: what a registry said when a build asked; may vanish
//! ```
//! Knows layers only by their ids; `pull` makes them come. Nothing here talks to a network or prints.

mod fetch;
pub mod load;
pub mod pull;
pub mod record;

use rbuild_cache::{Kind, ObjectRef, Store, StoreError};

use crate::oci::manifest::ManifestError;
use crate::oci::reference::Reference;

pub use record::{Image, ImageId, ImageLayer, Named, NamedImage, Origin};

/// Facts of this sort begin with it.
const FACT: &str = "image ";
/// What is found by a prefix of an ID must have at least as many digits.
const MIN_PREFIX: usize = 4;

/// The catalog cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Neither a name nor an ID we know.
    #[error("No such image: {0}")]
    Unknown(String),
    /// A prefix of several IDs.
    #[error("image ID {0:?} is ambiguous: it begins {1} images")]
    Ambiguous(String, usize),
    /// Removing by ID what has several names.
    #[error("unable to delete {id} (must be forced) - image is referenced in multiple repositories: {}", .names.iter().map(Reference::familiar).collect::<Vec<_>>().join(", "))]
    ManyNames {
        /// The image.
        id: ImageId,
        /// Its names.
        names: Vec<Reference>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A config that is kept here cannot be read.
    #[error("image {0}: {1}")]
    Config(ImageId, ManifestError),
}

/// Images by name and ID. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalog {
    store: Store,
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<Reference>,
    /// Images that are gone because nothing names them any more.
    pub deleted: Vec<ImageId>,
}

impl Catalog {
    /// The catalog of a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Records an image; what an earlier record knew besides (descriptors, the pulled manifest) stays known.
    pub fn put(&self, mut image: Image) -> Result<ImageId, CatalogError> {
        let id = image.id();
        if let Some(older) = self.get(&id)? {
            if older == image {
                return Ok(id);
            }
            image.complete(older);
        }
        self.write(Kind::Image, &id.to_string(), &image)?;
        Ok(id)
    }

    /// An image by its full ID, marked as used.
    pub fn get(&self, id: &ImageId) -> Result<Option<Image>, CatalogError> {
        let name = id.to_string();
        let image: Option<Image> = self.read(Kind::Image, &name)?;
        if image.is_some() {
            self.store.touch(Kind::Image, &name)?;
        }
        Ok(image)
    }

    /// An image by its full ID, not marked as used: for lists.
    pub fn peek(&self, id: &ImageId) -> Result<Option<Image>, CatalogError> {
        self.read(Kind::Image, &id.to_string())
    }

    /// Gives a name (with a tag or a digest) to something, taking it from whatever had it.
    pub fn tag(&self, name: &Reference, named: &Named) -> Result<(), CatalogError> {
        self.write(Kind::Name, &key(name), named)
    }

    /// What a name means.
    pub fn named(&self, name: &Reference) -> Result<Option<Named>, CatalogError> {
        self.read(Kind::Name, &key(name))
    }

    /// Takes a name away; false if there was none.
    pub fn untag(&self, name: &Reference) -> Result<bool, CatalogError> {
        Ok(self.store.remove(Kind::Name, &key(name))?)
    }

    /// Remembers what a registry said about a name without giving that name to anything.
    pub fn remember(&self, name: &Reference, named: &Named) -> Result<(), CatalogError> {
        self.write(Kind::Fact, &format!("{FACT}{}", key(name)), named)
    }

    /// What was remembered.
    pub fn remembered(&self, name: &Reference) -> Result<Option<Named>, CatalogError> {
        let fact = format!("{FACT}{}", key(name));
        let named = self.read(Kind::Fact, &fact)?;
        if named.is_some() {
            self.store.touch(Kind::Fact, &fact)?;
        }
        Ok(named)
    }

    /// All names, in order.
    pub fn names(&self) -> Result<Vec<(Reference, Named)>, CatalogError> {
        let mut out = Vec::new();
        for text in self.store.list(Kind::Name)? {
            // A name that is none was not written by us; one that vanished meanwhile is no longer a name.
            if let Ok(name) = Reference::parse(&text)
                && let Some(named) = self.named(&name)?
            {
                out.push((name, named));
            }
        }
        out.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(out)
    }

    /// All images, named or not.
    pub fn ids(&self) -> Result<Vec<ImageId>, CatalogError> {
        Ok(self.store.list(Kind::Image)?.iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// The names of one image.
    pub fn names_of(&self, id: &ImageId) -> Result<Vec<Reference>, CatalogError> {
        let names = self.names()?.into_iter();
        let has = |named: &Named| named.images.iter().any(|image| image.id == *id);
        Ok(names.filter(|(_, named)| has(named)).map(|(name, _)| name).collect())
    }

    /// What a user means by `text`: a name, else an ID or the beginning of one, with or without `sha256:`.
    pub fn find(&self, text: &str) -> Result<(Option<Reference>, Named), CatalogError> {
        if let Ok(name) = Reference::parse_tagged(text)
            && let Some(named) = self.named(&name)?
        {
            return Ok((Some(name), named));
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let unknown = || CatalogError::Unknown(text.to_owned());
        let hex = prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hex || prefix.len() < MIN_PREFIX {
            return Err(unknown());
        }
        let ids: Vec<_> = self.ids()?.into_iter().filter(|id| id.0.0.hex().starts_with(prefix)).collect();
        match ids.as_slice() {
            [] => Err(unknown()),
            [id] => {
                let image = self.get(id)?.ok_or_else(unknown)?;
                let platform = image.platform().map_err(|error| CatalogError::Config(*id, error))?;
                Ok((None, Named::one(platform, *id)))
            }
            several => Err(CatalogError::Ambiguous(text.to_owned(), several.len())),
        }
    }

    /// Removes what `text` means: a name, and its images if that was their last one; or an image by ID with its name.
    /// `force` also removes several names at once.
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed, CatalogError> {
        let (name, named) = self.find(text)?;
        let mut removed = Removed::default();
        match name {
            Some(name) => {
                self.untag(&name)?;
                removed.untagged.push(name);
            }
            None => {
                for image in &named.images {
                    let names = self.names_of(&image.id)?;
                    if names.len() > 1 && !force {
                        return Err(CatalogError::ManyNames { id: image.id, names });
                    }
                    for name in names {
                        self.untag(&name)?;
                        removed.untagged.push(name);
                    }
                }
            }
        }
        for image in &named.images {
            if self.names_of(&image.id)?.is_empty() && self.store.remove(Kind::Image, &image.id.to_string())? {
                removed.deleted.push(image.id);
            }
        }
        Ok(removed)
    }

    fn write(&self, kind: Kind, name: &str, value: &impl serde::Serialize) -> Result<(), CatalogError> {
        let bytes = serde_json::to_vec(value).expect("records have text keys and plain values");
        Ok(self.store.put(kind, name, &bytes)?)
    }

    /// A record that cannot be read is as good as none: it will be written anew.
    fn read<T: serde::de::DeserializeOwned>(&self, kind: Kind, name: &str) -> Result<Option<T>, CatalogError> {
        Ok(self.store.get(kind, name)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

/// The full name in the form records are filed under.
fn key(name: &Reference) -> String {
    name.clone().with_default_tag().to_string()
}

/// What a small file of the catalog refers to, for the store's GC; `None` if it is of another kind.
pub fn references(kind: Kind, _name: &str, bytes: &[u8]) -> Option<Vec<ObjectRef>> {
    match kind {
        Kind::Image => {
            let image = serde_json::from_slice::<Image>(bytes);
            Some(image.map(|image| image.references()).unwrap_or_default())
        }
        Kind::Name => {
            let named = serde_json::from_slice::<Named>(bytes).unwrap_or_default();
            Some(named.images.iter().map(|image| ObjectRef::Small(Kind::Image, image.id.to_string())).collect())
        }
        Kind::Record | Kind::Alias | Kind::Layer | Kind::Index | Kind::Fact | Kind::History | Kind::Derived => None,
    }
}

#[cfg(test)]
mod tests {
    use rbuild_cache::StoreOptions;

    use super::*;
    use crate::oci::platform::Platform;

    fn catalog() -> (tempfile::TempDir, Catalog) {
        let directory = tempfile::tempdir().expect("temp dir");
        let store = Store::open(&directory.path().join("store"), StoreOptions::default()).expect("opened");
        (directory, Catalog::new(store))
    }

    fn name(text: &str) -> Reference {
        Reference::parse_tagged(text).expect("valid")
    }

    fn image(os: &str) -> Image {
        Image { config: format!("{{\"os\":\"{os}\",\"architecture\":\"amd64\"}}"), ..Image::default() }
    }

    fn put(catalog: &Catalog, os: &str, names: &[&str]) -> ImageId {
        let id = catalog.put(image(os)).expect("written");
        for text in names {
            catalog.tag(&name(text), &Named::one(Platform::host(), id)).expect("written");
        }
        id
    }

    #[test]
    fn images_are_found_by_name_and_by_the_beginning_of_the_id() {
        let (_directory, catalog) = catalog();
        let id = put(&catalog, "linux", &["app", "me/app:2"]);
        let found = |text: &str| catalog.find(text).map(|(_, named)| named.images[0].id).map_err(|e| e.to_string());
        for text in ["app", "app:latest", "docker.io/library/app", "me/app:2", &id.to_string(), &id.0.0.hex()[..12]] {
            assert_eq!(found(text), Ok(id), "{text}");
        }
        for text in ["app:2", "me/app", "abc", "ffffffffffff", "UPPER"] {
            assert_eq!(found(text), Err(format!("No such image: {text}")));
        }
        let names: Vec<_> = catalog.names().expect("listed").into_iter().map(|(name, _)| name.familiar()).collect();
        assert_eq!(names, ["app:latest", "me/app:2"]);
    }

    #[test]
    fn the_last_name_takes_the_image_along() {
        let (_directory, catalog) = catalog();
        let id = put(&catalog, "linux", &["a", "b"]);
        let first = catalog.remove("a", false).expect("removed");
        assert_eq!((first.untagged, first.deleted), (vec![name("a")], vec![]));
        let last = catalog.remove("b", false).expect("removed");
        assert_eq!((last.untagged, last.deleted), (vec![name("b")], vec![id]));
        assert!(catalog.get(&id).expect("read").is_none());
    }

    #[test]
    fn removing_by_id_several_names_needs_force() {
        let (_directory, catalog) = catalog();
        let id = put(&catalog, "linux", &["a", "b"]);
        let error = catalog.remove(&id.to_string(), false).expect_err("two names").to_string();
        assert!(error.contains("(must be forced)") && error.ends_with("a:latest, b:latest"), "{error}");
        let removed = catalog.remove(&id.to_string(), true).expect("removed");
        assert_eq!((removed.untagged.len(), removed.deleted), (2, vec![id]));
        assert!(catalog.names().expect("listed").is_empty());
    }

    #[test]
    fn what_a_registry_said_is_no_name() {
        let (_directory, catalog) = catalog();
        let id = catalog.put(image("linux")).expect("written");
        let named = Named::one(Platform::host(), id);
        catalog.remember(&name("alpine"), &named).expect("written");
        assert_eq!(catalog.remembered(&name("alpine")).expect("read"), Some(named));
        assert_eq!(catalog.named(&name("alpine")).expect("read"), None);
        assert!(catalog.find("alpine").is_err());
    }

    #[test]
    fn gc_is_told_what_names_and_images_need() {
        let (_directory, catalog) = catalog();
        let id = put(&catalog, "linux", &[]);
        let bytes = serde_json::to_vec(&Named::one(Platform::host(), id)).expect("json");
        let wanted = vec![ObjectRef::Small(Kind::Image, id.to_string())];
        assert_eq!(references(Kind::Name, "x", &bytes), Some(wanted));
        assert_eq!(references(Kind::Image, "x", b"damaged"), Some(Vec::new()));
        assert_eq!(references(Kind::Record, "x", b""), None);
    }
}
