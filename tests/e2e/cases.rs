//! The Dockerfiles in `testdata/build/`: each is built as root and as ordinary users, its config and files are checked, it is
//! run, and built again without running anything. `case.json` says what is expected; all of it follows from the Dockerfile
//! reference, none of it was taken from our own output.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::as_root_and_rootless;
use crate::image::Image;
use crate::rig::{Rig, Who};

as_root_and_rootless! { every_case }

pub(crate) fn case_dirs() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/build");
    let mut dirs: Vec<_> = std::fs::read_dir(dir).expect("testdata/build").map(|e| e.expect("entry").path()).collect();
    dirs.sort();
    dirs
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp");
    assert!(status.success());
}

pub(crate) fn make_archives(context: &Path, case: &Value) {
    for (name, files) in case["make_tar_gz"].as_object().into_iter().flatten() {
        let out = flate2::write::GzEncoder::new(
            std::fs::File::create(context.join(name)).expect("create"),
            flate2::Compression::default(),
        );
        let mut tar = tar::Builder::new(out);
        for (path, text) in files.as_object().expect("files") {
            let text = text.as_str().expect("text").as_bytes();
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1_600_000_000);
            tar.append_data(&mut header, path, text).expect("append");
        }
        tar.into_inner().expect("finish").finish().expect("finish");
    }
}

pub(crate) fn check_image(name: &str, case: &Value, image: &Image) {
    for (key, want) in case["config"].as_object().into_iter().flatten() {
        let got = image.config["config"].get(key).cloned().unwrap_or(Value::Null);
        assert_eq!(&got, want, "{name}: config.{key}");
    }
    if let Some(author) = case.get("author") {
        assert_eq!(&image.config["author"], author, "{name}: author");
    }
    let first = image.config["history"][0]["comment"].as_str();
    let base = usize::from(first.is_some_and(|comment| comment.starts_with("Imported from")));
    assert_eq!(Some(&image.history()[base..]), case["history"].as_str(), "{name}: history");
    for (path, want) in case["files"].as_object().into_iter().flatten() {
        let file =
            image.files.get(path).unwrap_or_else(|| panic!("{name}: {path} is missing: {:?}", image.files.keys()));
        if let Some(mode) = want["mode"].as_str() {
            assert_eq!(format!("{:04o}", file.mode & 0o7777), mode, "{name}: mode of {path}");
        }
        for (key, got) in [("uid", file.uid), ("gid", file.gid)] {
            if let Some(id) = want[key].as_u64() {
                assert_eq!(got, id, "{name}: {key} of {path}");
            }
        }
        if let Some(text) = want["text"].as_str() {
            assert_eq!(String::from_utf8_lossy(&file.content), text, "{name}: content of {path}");
        }
    }
    for path in case["absent"].as_array().into_iter().flatten() {
        let path = path.as_str().expect("path");
        assert!(!image.files.contains_key(path), "{name}: {path} should not be there");
    }
}

fn every_case(who: Who) {
    let rig = Rig::new(who);
    for dir in case_dirs() {
        let name = dir.file_name().expect("name").to_str().expect("UTF-8").to_owned();
        let case: Value =
            serde_json::from_slice(&std::fs::read(dir.join("case.json")).expect("case.json")).expect("JSON");
        let context = rig.path(&format!("ctx-{name}"));
        copy_tree(&dir, &context);
        make_archives(&context, &case);
        let (context, out) = (context.display().to_string(), rig.path("out.tar"));
        let tag = format!("case-{}:1", name.replace('_', "-"));
        let export = format!("type=oci,dest={}", out.display());
        let extra: Vec<&str> = case["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let build = |more: &[&str]| {
            let mut args = extra.clone();
            args.extend(more);
            args.push(&context);
            rig.build(&args)
        };
        build(&["-o", &export]);
        let first = Image::read(&out);
        check_image(&name, &case, &first);

        let log = build(&["-t", &tag]);
        let ran: Vec<_> = log.lines().filter(|l| l.contains(" DONE") && l.contains("RUN")).collect();
        assert!(ran.is_empty(), "{name}: steps ran again: {ran:?}");
        assert!(!log.contains("] RUN") || log.contains("CACHED"), "{name}: no step was cached:\n{log}");

        for (file, text) in case["change"].as_object().into_iter().flatten() {
            std::fs::write(Path::new(&context).join(file), text.as_str().expect("text")).expect("write");
        }
        if case.get("change").is_some() {
            build(&["-t", &tag]);
            build(&["-o", &export]);
            let second = Image::read(&out);
            for path in case["same_after_change"].as_array().into_iter().flatten() {
                let path = path.as_str().expect("path");
                assert_eq!(first.files[path].content, second.files[path].content, "{name}: {path} was made again");
            }
        }
        if let Some(stdout) = case["run"]["stdout"].as_str() {
            assert_eq!(rig.ok(&["run", "--rm", &tag]).stdout, stdout, "{name}: output of run");
        }
    }
}
