//! Archives that are small until they are unpacked, and archives with very many members: memory stays bounded whatever is in
//! them, and disk by `--store-max`.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::as_root_and_rootless;
use crate::outside::Outside;
use crate::raw::{self, file};
use crate::rig::{Output, Rig, Who};
use crate::traces;

as_root_and_rootless! {
    decompression_bombs_meet_the_limit_of_the_store
    bombs_in_headers
    windows_and_dictionaries_of_decompressors
}

/// What rbuild may have in memory, in MiB: entries are kept in memory, contents are not.
const MEMORY: u64 = 400;
/// For each member of an archive, in bytes, on top.
const MEMORY_PER_MEMBER: u64 = 1500;

/// Runs rbuild and gives the most memory it had, in MiB.
fn measured(rig: &Rig, args: &[&str]) -> (Output, u64) {
    let child = crate::rig::start(&mut rig.command(args));
    let pid = child.id();
    let watcher = std::thread::spawn(move || {
        let mut most = 0;
        while let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
            let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) else { break };
            most = line.trim().trim_end_matches(" kB").parse().unwrap_or(most);
            std::thread::sleep(Duration::from_millis(5));
        }
        most / 1024
    });
    let out = crate::rig::finish(child, args);
    (out, watcher.join().expect("watcher"))
}

/// Writes a compressed tar of one file of `size` times the same byte.
fn bomb(path: &Path, size: u64, byte: u8, compression: &str) {
    let out = std::fs::File::create(path).expect("create");
    let mut sink: Box<dyn std::io::Write> = match compression {
        "gz" => Box::new(flate2::write::GzEncoder::new(out, flate2::Compression::fast())),
        "zst" => Box::new(zstd::stream::write::Encoder::new(out, 1).expect("zstd").auto_finish()),
        "bz2" => Box::new(bzip2::write::BzEncoder::new(out, bzip2::Compression::fast())),
        other => panic!("{other}"),
    };
    let mut header = raw::header(&file("bomb", ""), 0);
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    raw::sign(&mut header);
    sink.write_all(&header).expect("write");
    let chunk = vec![byte; 1 << 20];
    for _ in 0..size >> 20 {
        sink.write_all(&chunk).expect("write");
    }
    sink.write_all(&[0; 1024]).expect("write");
}

fn decompression_bombs_meet_the_limit_of_the_store(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let refused = |what: &str, args: &[&str]| {
        let (out, memory) = measured(&rig, args);
        println!("{what}: {} {memory} MiB {}", out.status, out.stderr.trim_end().lines().last().unwrap_or_default());
        assert!(!out.status.success(), "a GiB fits into a store of 100 MB\n{}", out.stderr);
        assert!(out.stderr.contains("store is full: "), "{}", out.stderr);
        assert!(out.stderr.contains(" of 100000000 in use"), "{}", out.stderr);
        assert!(memory < MEMORY, "{memory} MiB");
        outside.safe(&rig, &out);
    };
    for compression in ["gz", "zst", "bz2"] {
        let name = format!("bomb.tar.{compression}");
        let context = rig.context("context", &[("Dockerfile", &format!("FROM busybox\nADD {name} /in/\n"))]);
        for byte in [0, b'x'] {
            bomb(&rig.path("context").join(&name), 1 << 30, byte, compression);
            refused(&name, &["--store-max=100m", "build", "--progress=plain", &context]);
        }
        // Zeros would become holes in a layer's tree, and take no room; anything else takes what it says.
        refused(&name, &["--store-max=100m", "import", &rig.arg(&format!("context/{name}")), "bomb:1"]);
        // As a context on stdin.
        let archive = std::fs::File::open(rig.path("context").join(&name)).expect("open");
        let mut command = rig.command(&["--store-max=100m", "build", "--progress=plain", "-"]);
        let out = command.stdin(archive).output().expect("runs");
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && text.contains("store is full: "), "{text}");
    }
    // And what fits is just a file.
    bomb(&rig.path("context/bomb.tar.gz"), 64 << 20, 0, "gz");
    let context = rig.context(
        "context",
        &[("Dockerfile", "FROM busybox\nADD bomb.tar.gz /in/\nRUN test $(stat -c %s /in/bomb) = 67108864\n")],
    );
    let (out, memory) = measured(&rig, &["build", "--progress=plain", &context]);
    assert!(out.status.success(), "{}", out.stderr);
    assert!(memory < MEMORY, "{memory} MiB");
}

/// Without a ceiling a bomb stops before it has filled the file system: others may be using it. As root only, who can mount a
/// small one.
#[test]
fn decompression_bombs_leave_the_disk_to_others() {
    let rig = Rig::new(Who::Root);
    let small = rig.path("small");
    std::fs::create_dir(&small).expect("mkdir");
    let context = rig.context("context", &[("Dockerfile", "FROM scratch\nADD bomb.tar.gz /in/\n")]);
    bomb(&rig.path("context/bomb.tar.gz"), 1 << 30, b'x', "gz");
    let binary = rig.command(&[]).get_program().to_owned();
    let script = "mount -t tmpfs -o size=400m tmpfs \"$S\" || exit 9
        (while sleep 0.02; do df --output=avail -k \"$S\" | tail -1; done) >\"$S.free\" & watch=$!
        \"$RBUILD\" --root \"$S/store\" build --progress=plain \"$C\"; status=$?
        kill $watch; find \"$S/store/tmp\" \"$S/store/blobs-v1\" -type f; sort -n \"$S.free\" | head -1; exit $status";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", script]);
    command.env("S", &small).env("C", context).env("RBUILD", binary).stdin(std::process::Stdio::null());
    let out = crate::rig::finish(crate::rig::start(&mut command), &["small store"]);
    println!("{} {}", out.stdout, out.stderr);
    assert!(!out.status.success());
    assert!(out.stderr.contains("no space left on device (the last "), "{}", out.stderr);
    let left: u64 = out.stdout.trim().parse().expect("nothing is left in the store, and how much was free at least");
    assert!(left >= 20 << 10, "{left} KiB were left free");
}

/// Names, records and sparse maps that would fill the memory.
fn bombs_in_headers(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let extension = |flag: u8, size: u64| {
        let mut bytes = raw::header(&raw::flagged(flag, "x", Vec::new()), size).to_vec();
        bytes.resize(bytes.len() + (64 << 20), b'a');
        bytes
    };
    let records = (0..20_000)
        .map(|n| format!("SCHILY.xattr.user.a{n}=v"))
        .map(|r| format!("{:3} {r}\n", r.len() + 5))
        .collect::<String>();
    let map = (0..2_000_000).map(|n| format!("{n},1,")).collect::<String>();
    let cases = [
        ("a name of 8 GiB", extension(b'L', 0o77_777_777_777)),
        ("a PAX header of 8 GiB", extension(b'x', 0o77_777_777_777)),
        ("a global header of 8 GiB", extension(b'g', 0o77_777_777_777)),
        ("a link of 60 MiB", extension(b'K', 60 << 20)),
        ("very many attributes", raw::tar(&[raw::flagged(b'x', "p", records.into_bytes()), file("f", "")])),
        ("a sparse map of two million parts", raw::tar(&[raw::flagged(b'x', "p", map.into_bytes()), file("f", "")])),
    ];
    for (what, bytes) in cases {
        let context = rig.context("context", &[("Dockerfile", "FROM busybox\nADD a.tar.gz /in/\n")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).expect("gzip");
        std::fs::write(rig.path("context/a.tar.gz"), gzip.finish().expect("gzip")).expect("write");
        let (out, memory) = measured(&rig, &["build", "--progress=plain", &context]);
        println!("{what}: {} {memory} MiB {}", out.status, out.stderr.trim_end().lines().last().unwrap_or_default());
        assert!(memory < MEMORY, "{what}: {memory} MiB");
        outside.safe(&rig, &out);
    }
}

/// Compressed streams that ask for gigabytes of memory to be decompressed with.
fn windows_and_dictionaries_of_decompressors(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    // zstd: a frame header that asks for a window of 2 GiB, and a block of zeros.
    let mut zst = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (21 << 3)];
    zst.extend([0x02 | (128 << 3), 0x04, 0x00, 0x00]);
    zst.extend([0x03, 0x00, 0x00]);
    // lzma: properties, a dictionary of 4 GiB, unknown size.
    let mut lzma = vec![0x5d, 0xff, 0xff, 0xff, 0xff];
    lzma.extend([0xff; 8]);
    lzma.extend([0; 64]);
    // xz: a stream whose block asks for a dictionary of 4 GiB - 1.
    let xz = [
        0xfd, b'7', b'z', b'X', b'Z', 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x00, 0x21, 0x01, 40, 0x00, 0x00,
        0x00, 0x37, 0x27, 0x97, 0xd6, 0x01, 0x00, 0x00, 0x00, 0x00,
    ];
    for (name, bytes) in [("zst", zst), ("lzma", lzma), ("xz", xz.to_vec())] {
        let text = format!("FROM busybox\nADD a.{name} /in/\n");
        let context = rig.context("context", &[("Dockerfile", &text)]);
        std::fs::write(rig.path("context").join(format!("a.{name}")), &bytes).expect("write");
        let (out, memory) = measured(&rig, &["build", "--progress=plain", &context]);
        println!("{name}: {} {memory} MiB {}", out.status, out.stderr.trim_end().lines().last().unwrap_or_default());
        assert!(memory < MEMORY, "{name}: {memory} MiB");
        outside.safe(&rig, &out);
    }
}

/// As root only: as a user it is the same code, and it takes a while.
#[test]
fn a_million_members() {
    const COUNT: u64 = 1_000_000;
    let rig = Rig::new(Who::Root);
    let context = rig.context("context", &[("Dockerfile", "FROM scratch\nADD a.tar.gz /in/\n")]);
    let out = std::fs::File::create(rig.path("context/a.tar.gz")).expect("create");
    let mut gzip = flate2::write::GzEncoder::new(std::io::BufWriter::new(out), flate2::Compression::fast());
    for number in 0..COUNT {
        gzip.write_all(&raw::header(&file(&format!("{}/{number}", number % 1000), ""), 0)).expect("write");
    }
    gzip.write_all(&[0; 1024]).expect("write");
    gzip.finish().expect("gzip").flush().expect("flush");
    let (out, memory) = measured(&rig, &["build", "--progress=plain", &context]);
    println!("a million members: {} {memory} MiB", out.status);
    assert!(out.status.success(), "{}", out.stderr);
    assert!(memory < MEMORY + ((COUNT * MEMORY_PER_MEMBER) >> 20), "{memory} MiB");
    traces::none(&rig);
}
