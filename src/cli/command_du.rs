//! `rbuild du`, `rbuild prune`, `rbuild cache ls`: what the content of the store looks like.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::json;

use super::args_image::ListFormat;
use super::args_store::DuArgs;
use super::table::{ago, json_lines, table, timestamp};
use crate::ui::short_size;

/// An object in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuRow {
    /// What it is called.
    pub id: String,
    /// What it is, e.g. `blob`, `tree`, `cache mount`.
    pub kind: String,
    /// Whether a prune would remove it.
    pub reclaimable: bool,
    /// Bytes on disk.
    pub size: u64,
    /// When it was last used.
    pub last_used: Option<SystemTime>,
}

/// The store's content: by kind, or every object, and its sums.
pub fn render(rows: &[DuRow], args: &DuArgs, now: SystemTime) -> String {
    match args.format {
        ListFormat::Json => json_lines(rows.iter().map(|row| json_object(row, now))),
        ListFormat::Table if args.verbose => objects(rows, now) + &sums(rows),
        ListFormat::Table => kinds(rows) + &sums(rows),
    }
}

/// What a prune removed, or would remove.
pub fn pruned(rows: &[DuRow], now: SystemTime) -> String {
    let total = short_size(rows.iter().map(|row| row.size).sum(), 4);
    if rows.is_empty() { format!("Total: {total}\n") } else { format!("{}Total: {total}\n", objects(rows, now)) }
}

/// The cache mounts; their `kind` is not shown.
pub fn cache_mounts(rows: &[(DuRow, String)], format: ListFormat, now: SystemTime) -> String {
    match format {
        ListFormat::Table => {
            let cells = |(row, name): &(DuRow, String)| {
                [row.id.clone(), name.clone(), short_size(row.size, 4), ago(row.last_used, now)]
            };
            let rows: Vec<_> = rows.iter().map(cells).collect();
            table(["ID", "NAME", "SIZE", "LAST ACCESSED"], &rows)
        }
        ListFormat::Json => {
            let object = |(row, name): &(DuRow, String)| {
                let mut object = json_object(row, now);
                object["Name"] = json!(name);
                object
            };
            json_lines(rows.iter().map(object))
        }
    }
}

fn json_object(row: &DuRow, now: SystemTime) -> serde_json::Value {
    json!({
        "ID": row.id,
        "Type": row.kind,
        "Reclaimable": row.reclaimable,
        "Size": short_size(row.size, 4),
        "Bytes": row.size,
        "LastUsedAt": timestamp(row.last_used),
        "LastUsedSince": ago(row.last_used, now),
    })
}

fn objects(rows: &[DuRow], now: SystemTime) -> String {
    let cells = |row: &DuRow| {
        let reclaimable = row.reclaimable.to_string();
        [row.id.clone(), row.kind.clone(), reclaimable, short_size(row.size, 4), ago(row.last_used, now)]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    table(["ID", "TYPE", "RECLAIMABLE", "SIZE", "LAST ACCESSED"], &rows)
}

fn kinds(rows: &[DuRow]) -> String {
    let mut sums: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
    for row in rows {
        let (count, size, reclaimable) = sums.entry(&row.kind).or_default();
        *count += 1;
        *size += row.size;
        *reclaimable += if row.reclaimable { row.size } else { 0 };
    }
    let cells = |(kind, (count, size, reclaimable)): (&&str, &(usize, u64, u64))| {
        [(*kind).to_owned(), count.to_string(), short_size(*size, 4), short_size(*reclaimable, 4)]
    };
    let rows: Vec<_> = sums.iter().map(cells).collect();
    table(["TYPE", "TOTAL", "SIZE", "RECLAIMABLE"], &rows)
}

fn sums(rows: &[DuRow]) -> String {
    let total: u64 = rows.iter().map(|row| row.size).sum();
    let reclaimable: u64 = rows.iter().filter(|row| row.reclaimable).map(|row| row.size).sum();
    format!("Reclaimable:\t{}\nTotal:\t\t{}\n", short_size(reclaimable, 4), short_size(total, 4))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn rows() -> Vec<DuRow> {
        let row = |id: &str, kind: &str, reclaimable, size, age: Option<u64>| DuRow {
            id: id.to_owned(),
            kind: kind.to_owned(),
            reclaimable,
            size,
            last_used: age.map(|age| now() - Duration::from_secs(age)),
        };
        vec![
            row("0123456789ab", "tree", true, 1_234_567, Some(7200)),
            row("sha256:aa", "blob", false, 999, Some(1)),
            row("sha256:bb", "blob", true, 20_000, None),
        ]
    }

    #[test]
    fn by_kind_and_by_object() {
        insta::assert_snapshot!(render(&rows(), &DuArgs::default(), now()), @"
        TYPE      TOTAL     SIZE      RECLAIMABLE
        blob      2         21kB      20kB
        tree      1         1.235MB   1.235MB
        Reclaimable:	1.255MB
        Total:		1.256MB
        ");
        insta::assert_snapshot!(render(&rows(), &DuArgs { verbose: true, ..DuArgs::default() }, now()), @"
        ID             TYPE      RECLAIMABLE   SIZE      LAST ACCESSED
        0123456789ab   tree      true          1.235MB   2 hours ago
        sha256:aa      blob      false         999B      1 second ago
        sha256:bb      blob      true          20kB      N/A
        Reclaimable:	1.255MB
        Total:		1.256MB
        ");
    }

    #[test]
    fn prune_and_cache_mounts() {
        assert_eq!(pruned(&[], now()), "Total: 0B\n");
        insta::assert_snapshot!(pruned(&rows()[..1], now()), @"
        ID             TYPE      RECLAIMABLE   SIZE      LAST ACCESSED
        0123456789ab   tree      true          1.235MB   2 hours ago
        Total: 1.235MB
        ");
        let mounts: Vec<_> = rows().into_iter().take(1).map(|row| (row, "/root/.cache/go-build".to_owned())).collect();
        insta::assert_snapshot!(cache_mounts(&mounts, ListFormat::Table, now()), @"
        ID             NAME                    SIZE      LAST ACCESSED
        0123456789ab   /root/.cache/go-build   1.235MB   2 hours ago
        ");
        let json = cache_mounts(&mounts, ListFormat::Json, now());
        let parsed: serde_json::Value = serde_json::from_str(&json).expect("one object");
        assert_eq!(parsed["Bytes"], 1_234_567);
        assert_eq!(parsed["Name"], "/root/.cache/go-build");
    }
}
