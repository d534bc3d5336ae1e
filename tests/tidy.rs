//! Checks on the source tree itself: imports go downward only, every file says what it owns, links in docs resolve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The layer of each module: a module may import itself, and modules of lower layers. Modules of layer 4 (the outside world)
/// never import one another, nor do `engine` and `export`; that follows from "lower" being strict. What is listed in
/// `SAME_LAYER` is the exception, and goes one way only.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["cancel", "diagnostic", "source"]),
    (1, &["dockerfile", "oci", "tar"]),
    (2, &["attributes", "event", "image", "plan", "schedule", "transfer"]),
    (3, &["files", "layers"]),
    (4, &["agent", "context", "docker", "exec", "fetch", "registry", "snapshot"]),
    (5, &["catalog", "engine", "exchange", "export"]),
    (6, &["pipeline"]),
    (7, &["cli", "ui"]),
];

/// Edges inside one layer that are meant: a module that builds on another one.
const SAME_LAYER: &[(&str, &str)] = &[
    ("diagnostic", "source"), // points into its text
    ("image", "plan"),        // assembles the draft that plan made
    ("schedule", "plan"),     // schedules plan's graph
    ("transfer", "plan"),     // carries out plan's Copy and Workdir
    ("layers", "files"),      // opens tree entries beneath a root
    ("exec", "snapshot"),     // a process runs in a root that snapshot described
    ("export", "catalog"),    // an export is of an image
    ("exchange", "catalog"),  // cached layers come and go as images' layers do
    ("exchange", "engine"),   // what travels are its records
    ("cli", "ui"),            // picks a display
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).expect("readable").map(|e| e.expect("entry").path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            files(&path, ending, out);
        } else if name.ends_with(ending) {
            out.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    for dir in ["src", "cache/src"] {
        files(&root().join(dir), ".rs", &mut paths);
    }
    paths
        .into_iter()
        .map(|p| {
            let name = p.strip_prefix(root()).expect("below").display().to_string();
            (name, std::fs::read_to_string(&p).expect("readable"))
        })
        .collect()
}

#[test]
fn the_map_names_every_module() {
    let map = std::fs::read_to_string(root().join("docs/architecture.md")).expect("readable");
    for (layer, modules) in LAYERS {
        let row = map.lines().find(|line| line.starts_with(&format!("| {layer} |"))).unwrap_or_default();
        for module in *modules {
            assert!(row.contains(&format!("`{module}`")), "docs/architecture.md: layer {layer} lacks `{module}`");
        }
    }
}

#[test]
fn imports_go_downward_only() {
    let layers: BTreeMap<&str, u8> = LAYERS.iter().flat_map(|(n, ms)| ms.iter().map(|m| (*m, *n))).collect();
    let mut faults = Vec::new();
    for (file, text) in sources() {
        let Some(rest) = file.strip_prefix("src/") else {
            if text.contains("rbuild::") {
                faults.push(format!("{file}: the store must not know rbuild"));
            }
            continue;
        };
        let module = rest.split(['/', '.']).next().unwrap_or_default();
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(own) = layers.get(module) else {
            faults.push(format!("{file}: module {module} is in no layer"));
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for part in code.split("crate::").skip(1) {
                let target: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(other) = layers.get(target.as_str()) else { continue };
                let allowed = target == module || other < own || SAME_LAYER.contains(&(module, target.as_str()));
                if !allowed {
                    faults.push(format!(
                        "{file}:{}: {module} (layer {own}) imports {target} (layer {other})",
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn edges_inside_a_layer_make_no_circle() {
    for (from, to) in SAME_LAYER {
        assert!(!SAME_LAYER.contains(&(to, from)), "{from} and {to} import one another");
    }
}

#[test]
fn every_file_says_what_it_owns() {
    let faults: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!") || text.starts_with("//! (skeleton"))
        .map(|(file, _)| file)
        .collect();
    assert!(faults.is_empty(), "no //! header: {}", faults.join(", "));
}

#[test]
fn unsafe_code_only_where_it_is_argued() {
    for (file, text) in sources() {
        let uses = text.lines().any(|l| l.split("//").next().unwrap_or_default().contains("unsafe {"));
        let allowed = file.starts_with("src/exec/") || file.starts_with("cache/src/lock");
        assert!(!uses || allowed, "{file}: unsafe outside exec/ and the store's locks");
    }
}

#[test]
fn links_in_documents_resolve() {
    let mut paths = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    paths.retain(|path| path.exists());
    files(&root().join("docs"), ".md", &mut paths);
    let mut faults = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("readable");
        for part in text.split("](").skip(1) {
            let link = part.split([')', '#', ' ']).next().unwrap_or_default();
            if link.is_empty() || link.contains("://") {
                continue;
            }
            if !path.parent().expect("has one").join(link).exists() {
                faults.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_folder_of_testdata_is_read_by_a_test() {
    let mut paths = Vec::new();
    for dir in ["src", "cache", "tests"] {
        files(&root().join(dir), "", &mut paths);
    }
    let code: String = paths.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    let mut forgotten = Vec::new();
    for entry in std::fs::read_dir(root().join("testdata")).expect("testdata") {
        let name = entry.expect("entry").file_name().to_string_lossy().into_owned();
        if !code.contains(&format!("testdata/{name}")) && !code.contains(&format!("\"{name}\"")) {
            forgotten.push(name);
        }
    }
    assert!(forgotten.is_empty(), "no test reads testdata/{{{}}}", forgotten.join(","));
}

#[test]
fn nothing_is_left_over_from_a_test_run() {
    let mut paths = Vec::new();
    for dir in ["src", "cache", "tests", "testdata", "docs", "examples", "benches"] {
        files(&root().join(dir), "", &mut paths);
    }
    let endings = [".pending-snap", ".snap.new", ".orig", ".rej", ".pyc", ".profraw"];
    let faults: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .filter(|path| endings.iter().any(|ending| path.ends_with(ending)) && !path.contains("__pycache__"))
        .collect();
    assert!(faults.is_empty(), "left over: {}", faults.join("\n"));
}
