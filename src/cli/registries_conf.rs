//! containers-registries.conf(5), version 2: which names have mirrors, are elsewhere, insecure or blocked.
//!
//! Read as podman reads it: the user's file instead of the system's, and the drop-in directory of each on top. Short names
//! are Docker's here, so what the file says of those is not looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, TableLike};

use super::Failure;
use super::env::Env;
use crate::registry::{GoodFor, Mirror, Rule};

const SYSTEM: &str = "/etc/containers/registries.conf";

/// The rules that are in force for the user.
pub(super) fn rules(env: &Env) -> Result<Vec<Rule>, Failure> {
    let mut rules = BTreeMap::new();
    for file in files(env, Path::new(SYSTEM)) {
        match fs_err::read_to_string(&file) {
            Ok(text) => parse(&text, &mut rules)
                .map_err(|error| Failure::text(format!("{}: {}", file.display(), error.trim_end())))?,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) => {}
            Err(error) => return Err(Failure::of(&error)),
        }
    }
    Ok(rules.into_values().collect())
}

/// The files in the order they are read; later ones replace rules of earlier ones.
fn files(env: &Env, system: &Path) -> Vec<PathBuf> {
    if let Some(only) = env.filled("CONTAINERS_REGISTRIES_CONF") {
        return vec![env.path(only)];
    }
    let config = env.filled("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(Path::new(&env.filled("HOME")?).join(".config")));
    let user = config.map(|dir| dir.join("containers/registries.conf")).filter(|_| !env.is_root);
    let main = user.clone().filter(|file| file.exists()).unwrap_or_else(|| system.to_owned());
    let mut all = vec![main];
    for of in [Some(system.to_owned()), user].into_iter().flatten() {
        let Ok(entries) = fs_err::read_dir(of.with_extension("conf.d")) else { continue };
        let entries = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut drop_ins: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "conf")).collect();
        drop_ins.sort();
        all.extend(drop_ins);
    }
    all
}

/// Adds the rules of one file, by prefix.
fn parse(text: &str, rules: &mut BTreeMap<String, Rule>) -> Result<(), String> {
    let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.to_string())?;
    for table in tables(document.get("registry")) {
        let text = |name: &str| string(table, name);
        let (prefix, location) = (text("prefix")?, text("location")?);
        let Some(prefix) = prefix.or_else(|| location.clone()).filter(|prefix| !prefix.is_empty()) else {
            return Err("a [[registry]] has neither prefix nor location".to_owned());
        };
        let location = location.filter(|location| *location != prefix).map(|location| trimmed(&location));
        let by_digest_only = flag(table, "mirror-by-digest-only")?;
        let mirrors = tables(table.get("mirror")).into_iter().map(|mirror| self::mirror(mirror, by_digest_only));
        let rule = Rule {
            prefix: trimmed(&prefix),
            location,
            insecure: flag(table, "insecure")?,
            blocked: flag(table, "blocked")?,
            mirrors: mirrors.collect::<Result<_, _>>()?,
        };
        rules.insert(rule.prefix.clone(), rule);
    }
    // Version 1, which is still around, has lists of hosts.
    for (list, set) in [("insecure", insecure as fn(&mut Rule)), ("block", blocked)] {
        let table = document.get("registries").and_then(|item| item.get(list));
        let hosts = table.and_then(|item| item.get("registries")).and_then(Item::as_array);
        for host in hosts.into_iter().flatten().filter_map(toml_edit::Value::as_str) {
            let prefix = trimmed(host);
            set(rules.entry(prefix.clone()).or_insert(Rule { prefix, ..Rule::default() }));
        }
    }
    Ok(())
}

fn insecure(rule: &mut Rule) {
    rule.insecure = true;
}

fn blocked(rule: &mut Rule) {
    rule.blocked = true;
}

fn mirror(table: &dyn TableLike, by_digest_only: bool) -> Result<Mirror, String> {
    let location = string(table, "location")?.filter(|location| !location.is_empty());
    let location = location.ok_or("a [[registry.mirror]] has no location")?;
    let good_for = match string(table, "pull-from-mirror")?.as_deref() {
        None if by_digest_only => GoodFor::Digests,
        None | Some("" | "all") => GoodFor::All,
        Some("digest-only") => GoodFor::Digests,
        Some("tag-only") => GoodFor::Tags,
        Some(other) => return Err(format!("pull-from-mirror {other:?}: expected all, digest-only or tag-only")),
    };
    Ok(Mirror { location: trimmed(&location), insecure: flag(table, "insecure")?, good_for })
}

/// The tables of a list, in either of TOML's notations.
fn tables(item: Option<&Item>) -> Vec<&dyn TableLike> {
    match item {
        Some(Item::ArrayOfTables(list)) => list.iter().map(|table| table as &dyn TableLike).collect(),
        Some(Item::Value(toml_edit::Value::Array(list))) => {
            list.iter().filter_map(|value| Some(value.as_inline_table()? as &dyn TableLike)).collect()
        }
        Some(Item::None | Item::Value(_) | Item::Table(_)) | None => Vec::new(),
    }
}

fn string(table: &dyn TableLike, name: &str) -> Result<Option<String>, String> {
    match table.get(name) {
        None => Ok(None),
        Some(item) => item.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| format!("{name} is not a text")),
    }
}

fn flag(table: &dyn TableLike, name: &str) -> Result<bool, String> {
    table.get(name).map_or(Ok(false), |item| item.as_bool().ok_or_else(|| format!("{name} is neither true nor false")))
}

fn trimmed(place: &str) -> String {
    let bare = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
    bare.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Rule>, String> {
        let mut rules = BTreeMap::new();
        parse(text, &mut rules).map(|()| rules.into_values().collect())
    }

    #[test]
    fn all_that_a_rule_can_say() {
        let text = r#"
            unqualified-search-registries = ["docker.io"]
            short-name-mode = "enforcing"
            [[registry]]
            location = "docker.io"
            [[registry.mirror]]
            location = "mirror.example/hub/"
            insecure = true
            [[registry.mirror]]
            location = "second.example"
            pull-from-mirror = "digest-only"
            [[registry]]
            prefix = "*.corp.example"
            blocked = true
            [[registry]]
            prefix = "old.example/team"
            location = "new.example:5000/group/team"
            mirror = [{ location = "inline.example", pull-from-mirror = "tag-only" }]
        "#;
        let rules = read(text).expect("valid");
        let mirror = |location: &str, insecure, good_for| Mirror { location: location.to_owned(), insecure, good_for };
        let hub =
            vec![mirror("mirror.example/hub", true, GoodFor::All), mirror("second.example", false, GoodFor::Digests)];
        let rule = |prefix: &str| Rule { prefix: prefix.to_owned(), ..Rule::default() };
        assert_eq!(
            rules,
            [
                Rule { blocked: true, ..rule("*.corp.example") },
                Rule { mirrors: hub, ..rule("docker.io") },
                Rule {
                    location: Some("new.example:5000/group/team".to_owned()),
                    mirrors: vec![mirror("inline.example", false, GoodFor::Tags)],
                    ..rule("old.example/team")
                },
            ]
        );
    }

    #[test]
    fn the_older_form_and_mistakes() {
        let rules =
            read("[registries.insecure]\nregistries = ['a.example:5000']\n[registries.block]\nregistries = ['b']");
        let rules = rules.expect("valid");
        assert_eq!((rules[0].insecure, rules[1].blocked), (true, true));
        assert!(read("[[registry]]\ninsecure = true").is_err_and(|e| e.contains("neither prefix nor location")));
        assert!(read("[[registry]]\nlocation = 5").is_err_and(|e| e == "location is not a text"));
        assert!(read("[[registry]]\nlocation = 'a'\ninsecure = 'yes'").is_err());
        assert!(read("[[registry").is_err());
    }

    #[test]
    fn the_users_file_replaces_the_systems_and_drop_ins_add() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (system, home) = (dir.path().join("etc/registries.conf"), dir.path().join("home"));
        let user = home.join(".config/containers");
        for path in [system.with_extension("conf.d"), user.join("registries.conf.d")] {
            std::fs::create_dir_all(path).expect("made");
        }
        std::fs::write(system.with_extension("conf.d").join("b.conf"), "").expect("written");
        std::fs::write(user.join("registries.conf.d/a.conf"), "").expect("written");
        let env = Env::test(dir.path(), &[("HOME", home.to_str().expect("text"))]);
        let names = |env: &Env| {
            let below = |path: PathBuf| path.strip_prefix(dir.path()).expect("below").display().to_string();
            files(env, &system).into_iter().map(below).collect::<Vec<_>>()
        };
        let drop_ins = ["etc/registries.conf.d/b.conf", "home/.config/containers/registries.conf.d/a.conf"];
        assert_eq!(names(&env), [&["etc/registries.conf"][..], &drop_ins].concat());
        std::fs::write(user.join("registries.conf"), "").expect("written");
        assert_eq!(names(&env), [&["home/.config/containers/registries.conf"][..], &drop_ins].concat());
        let only = Env::test(dir.path(), &[("CONTAINERS_REGISTRIES_CONF", "x.conf")]);
        assert_eq!(names(&only), ["x.conf"]);
    }
}
