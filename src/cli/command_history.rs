//! `rbuild history`: what the making of an image looks like.

use std::time::SystemTime;

use serde_json::json;

use super::args_image::{HistoryArgs, ListFormat};
use super::table::{ago, json_lines, shown_id, table, timestamp};
use crate::oci::config::{History, ImageConfig};
use crate::ui::short_size;

/// Of an instruction no more than this is shown, unless all of it is asked for.
const SHOWN_INSTRUCTION: usize = 45;

/// One entry.
struct Row<'a> {
    /// The image ID for the last entry.
    id: Option<&'a str>,
    entry: &'a History,
    size: u64,
}

impl Row<'_> {
    fn created(&self) -> Option<SystemTime> {
        let created: jiff::Timestamp = self.entry.created.as_deref()?.parse().ok()?;
        Some(created.into())
    }

    fn instruction(&self, whole: bool) -> String {
        let text = self.entry.created_by.replace(['\t', '\n'], " ");
        if whole || text.chars().count() <= SHOWN_INSTRUCTION {
            return text;
        }
        text.chars().take(SHOWN_INSTRUCTION - 1).chain(['…']).collect()
    }

    fn shown_id(&self, whole: bool) -> String {
        self.id.map_or("<missing>".to_owned(), |id| shown_id(id, whole))
    }
}

/// The history of the image called `id`, last entry first. `sizes` are the uncompressed bytes of its layers from the bottom.
pub fn render(id: &str, config: &ImageConfig, sizes: &[u64], args: &HistoryArgs, now: SystemTime) -> String {
    let mut sizes = sizes.iter().copied();
    let mut rows: Vec<_> = config
        .history
        .iter()
        .map(|entry| {
            let size = if entry.empty_layer { 0 } else { sizes.next().unwrap_or_default() };
            Row { id: None, entry, size }
        })
        .collect();
    if let Some(last) = rows.last_mut() {
        last.id = Some(id);
    }
    rows.reverse();
    match args.format {
        ListFormat::Table => {
            let cells = |row: &Row<'_>| {
                let size = short_size(row.size, 3);
                let instruction = row.instruction(args.no_trunc);
                [row.shown_id(args.no_trunc), ago(row.created(), now), instruction, size, row.entry.comment.clone()]
            };
            let rows: Vec<_> = rows.iter().map(cells).collect();
            table(["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows)
        }
        ListFormat::Json => {
            let object = |row: &Row<'_>| {
                json!({
                    "ID": row.shown_id(args.no_trunc),
                    "CreatedAt": timestamp(row.created()),
                    "CreatedSince": ago(row.created(), now),
                    "CreatedBy": row.instruction(args.no_trunc),
                    "Size": short_size(row.size, 3),
                    "Comment": row.entry.comment,
                })
            };
            json_lines(rows.iter().map(object))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(args: &HistoryArgs) -> String {
        let entry = |created_by: &str, created: Option<&str>, empty_layer| History {
            created: created.map(str::to_owned),
            created_by: created_by.to_owned(),
            comment: "buildkit.dockerfile.v0".to_owned(),
            author: String::new(),
            empty_layer,
        };
        let config = ImageConfig {
            history: vec![
                entry("ADD alpine.tar.gz / # buildkit", Some("2023-08-16T22:13:20Z"), false),
                entry("CMD [\"/bin/sh\"]", Some("2023-08-16T22:13:20.5Z"), true),
                entry("RUN /bin/sh -c apk add\t--no-cache a-very-long-list of packages # buildkit", None, false),
            ],
            ..ImageConfig::default()
        };
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        let id = format!("sha256:{}", "a".repeat(64));
        render(&id, &config, &[7_797_000, 12_000], args, now)
    }

    #[test]
    fn tables() {
        insta::assert_snapshot!(show(&HistoryArgs::default()), @r#"
        IMAGE          CREATED        CREATED BY                                      SIZE      COMMENT
        aaaaaaaaaaaa   N/A            RUN /bin/sh -c apk add --no-cache a-very-lon…   12kB      buildkit.dockerfile.v0
        <missing>      3 months ago   CMD ["/bin/sh"]                                 0B        buildkit.dockerfile.v0
        <missing>      3 months ago   ADD alpine.tar.gz / # buildkit                  7.8MB     buildkit.dockerfile.v0
        "#);
        assert!(show(&HistoryArgs { no_trunc: true, ..HistoryArgs::default() }).contains("of packages # buildkit"));
    }

    #[test]
    fn json_lines() {
        let text = show(&HistoryArgs { format: ListFormat::Json, ..HistoryArgs::default() });
        let want = r#"{"ID":"<missing>","CreatedAt":"2023-08-16T22:13:20.5Z","CreatedSince":"3 months ago","CreatedBy":"CMD [\"/bin/sh\"]","Size":"0B","Comment":"buildkit.dockerfile.v0"}"#;
        assert_eq!(text.lines().nth(1), Some(want));
    }
}
