//! `rbuild images`: what a list of images looks like.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::SystemTime;

use serde_json::json;

use super::args_image::{ImagesArgs, ListFormat};
use super::table::{ago, json_lines, shown_id, table, timestamp};
use crate::oci::reference::Reference;
use crate::ui::short_size;

/// A name of an image, or an image without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// Its name; an image with several is several rows.
    pub name: Option<Reference>,
    /// The image ID, `sha256:…`.
    pub id: String,
    /// When it was built, if its config says.
    pub created: Option<SystemTime>,
    /// Bytes of its layers, uncompressed.
    pub size: u64,
}

impl ImageRow {
    fn repository(&self) -> String {
        self.name.as_ref().map_or_else(none, Reference::familiar_name)
    }

    fn tag(&self) -> String {
        self.name.as_ref().and_then(Reference::tag).map_or_else(none, str::to_owned)
    }

    /// Whether it answers to `NAME[:TAG]`.
    fn is_called(&self, wanted: &Reference) -> bool {
        self.name.as_ref().is_some_and(|name| {
            name.name_only() == wanted.name_only() && (wanted.tag().is_none() || wanted.tag() == name.tag())
        })
    }
}

fn none() -> String {
    "<none>".to_owned()
}

/// The list that was asked for, youngest first. A name in `args` that is no name matches nothing.
pub fn render(mut rows: Vec<ImageRow>, args: &ImagesArgs, now: SystemTime) -> String {
    if let Some(text) = &args.name {
        let wanted = Reference::parse(text).ok();
        rows.retain(|row| wanted.as_ref().is_some_and(|wanted| row.is_called(wanted)));
    }
    rows.sort_by(|a, b| (Reverse(a.created), &a.name, &a.id).cmp(&(Reverse(b.created), &b.name, &b.id)));
    if args.quiet {
        let mut seen = BTreeSet::new();
        rows.retain(|row| seen.insert(row.id.clone()));
        return rows.iter().map(|row| shown_id(&row.id, args.no_trunc) + "\n").collect();
    }
    match args.format {
        ListFormat::Table => {
            let cells = |row: &ImageRow| {
                let id = shown_id(&row.id, args.no_trunc);
                [row.repository(), row.tag(), id, ago(row.created, now), short_size(row.size, 3)]
            };
            let rows: Vec<_> = rows.iter().map(cells).collect();
            table(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows)
        }
        ListFormat::Json => {
            let object = |row: &ImageRow| {
                json!({
                    "Repository": row.repository(),
                    "Tag": row.tag(),
                    "ID": shown_id(&row.id, args.no_trunc),
                    "CreatedAt": timestamp(row.created),
                    "CreatedSince": ago(row.created, now),
                    "Size": short_size(row.size, 3),
                })
            };
            json_lines(rows.iter().map(object))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn show(args: ImagesArgs) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let row = |name: Option<&str>, digit: &str, age: Option<u64>, size| ImageRow {
            name: name.map(|name| Reference::parse(name).expect(name)),
            id: format!("sha256:{}", digit.repeat(64)),
            created: age.map(|age| now - Duration::from_secs(age)),
            size,
        };
        let rows = vec![
            row(Some("alpine:3.20"), "a", Some(90 * 86_400), 7_797_000),
            row(Some("registry.example.org:5000/team/app:1.0"), "b", Some(30), 1_234_567_890),
            row(Some("docker.io/me/app:latest"), "b", Some(30), 1_234_567_890),
            row(None, "c", None, 0),
        ];
        render(rows, &args, now)
    }

    #[test]
    fn tables() {
        insta::assert_snapshot!(show(ImagesArgs::default()), @"
        REPOSITORY                           TAG       IMAGE ID       CREATED          SIZE
        me/app                               latest    bbbbbbbbbbbb   30 seconds ago   1.23GB
        registry.example.org:5000/team/app   1.0       bbbbbbbbbbbb   30 seconds ago   1.23GB
        alpine                               3.20      aaaaaaaaaaaa   3 months ago     7.8MB
        <none>                               <none>    cccccccccccc   N/A              0B
        ");
        let named = |name: &str| show(ImagesArgs { name: Some(name.to_owned()), quiet: true, ..ImagesArgs::default() });
        assert_eq!(named("docker.io/library/alpine"), "aaaaaaaaaaaa\n");
        assert_eq!(named("alpine:3.20"), "aaaaaaaaaaaa\n");
        assert_eq!(named("alpine:3.19"), "");
        assert_eq!(named("No Name"), "");
        assert_eq!(
            show(ImagesArgs { quiet: true, ..ImagesArgs::default() }),
            "bbbbbbbbbbbb\naaaaaaaaaaaa\ncccccccccccc\n"
        );
    }

    #[test]
    fn json_lines() {
        let args = ImagesArgs { format: ListFormat::Json, name: Some("alpine".to_owned()), ..ImagesArgs::default() };
        let want = r#"{"Repository":"alpine","Tag":"3.20","ID":"aaaaaaaaaaaa","CreatedAt":"2023-08-16T22:13:20Z","CreatedSince":"3 months ago","Size":"7.8MB"}"#;
        assert_eq!(show(args), format!("{want}\n"));
    }
}
