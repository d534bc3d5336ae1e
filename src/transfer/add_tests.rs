//! The ADD part of the table: archives and downloads.

use super::*;

/// A tar with an entry of each kind, as in the oracle's `add` cases.
fn archive() -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: ::tar::EntryType, owner: (u64, u64), mode, link: &str, data: &str| {
        let mut header = ::tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).expect("memory");
    };
    use ::tar::EntryType as E;
    add("./", E::Directory, (9, 9), 0o700, "", "");
    add("top/", E::Directory, (21, 22), 0o750, "", "");
    add("top/file", E::Regular, (31, 32), 0o4640, "", "payload");
    add("top/hard", E::Link, (31, 32), 0o4640, "top/file", "");
    add("top/sym", E::Symlink, (0, 0), 0o777, "file", "");
    add("fifo", E::Fifo, (0, 0), 0o644, "", "");
    add("implicit/dir/x", E::Regular, (0, 0), 0o644, "", "x");
    add("../../escape", E::Regular, (0, 0), 0o644, "", "e");
    add("/abs/file", E::Regular, (0, 0), 0o644, "", "e");
    builder.into_inner().expect("memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub(super) fn bytes(t: &mut Memory, path: &str, content: Vec<u8>) {
    let kind = Kind::File { size: content.len() as u64, content: Blake3::of(&content) };
    t.put(path, kind, Meta { mode: 0o644, ..Meta::default() }, content, None);
}

const UNPACKED: &str = "/t d 755 0:0 @99
    /t/abs d 755 0:0 @99\n/t/abs/file f e 644 0:0 @1000000000\n/t/escape f e 644 0:0 @1000000000
    /t/fifo p 644 0:0 @1000000000\n/t/implicit d 755 0:0 @99\n/t/implicit/dir d 755 0:0 @99
    /t/implicit/dir/x f x 644 0:0 @1000000000\n/t/top d 750 21:22 @1000000000
    /t/top/file f payload 4640 31:32 @1000000000\n/t/top/hard h /t/top/file\n/t/top/sym l file 777 0:0 @1000000000";

#[test]
fn observed_36_archives_are_known_by_content() {
    let plain = archive();
    let zstd = zstd::encode_all(plain.as_slice(), 1).expect("memory");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&plain).expect("memory");
    let bzip2 = bzip2.finish().expect("memory");
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).expect("good options");
    xz.write_all(&plain).expect("memory");
    let xz = xz.finish().expect("memory");
    for packed in [plain.clone(), gzip(&plain), zstd, bzip2, xz] {
        case(&["a.any"], "/t", |t| bytes(t, "a.any", packed)).add().gives(UNPACKED);
    }
    let linked = |t: &mut Memory| {
        bytes(t, "a.any", archive());
        t.symlink("link", "a.any");
    };
    case(&["link"], "/t", linked).add().gives(UNPACKED);
    case(&["a*"], "/t", linked).add().gives(UNPACKED);
    // Not what is in a directory, nor with COPY or --unpack=false.
    let inside = |t: &mut Memory| bytes(t, "d/a.tgz", gzip(b"text"));
    assert!(case(&["d"], "/t", inside).add().text().contains("/t/a.tgz f "));
    let mut copied = case(&["a.any"], "/t", linked).text();
    copied.truncate(10);
    assert_eq!(copied, "/t f ./\\0\\");
    let others = |t: &mut Memory| {
        t.file("a.tar", "not a tar at all", 0o644).file("e.tar", "", 0o644);
        bytes(t, "b.gz", gzip(b"text"));
        bytes(t, "zeros.tar", vec![0; 1024]);
    };
    let text = case(&["a.tar", "e.tar", "b.gz", "zeros.tar"], "/t/", others).add().text();
    let paths: Vec<_> = text.lines().map(|l| l.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(paths, ["/t d", "/t/a.tar f", "/t/b.gz f", "/t/e.tar f", "/t/zeros.tar f"]);
}

#[test]
fn observed_36_a_damaged_archive_is_an_error() {
    let mut cut = archive();
    cut.truncate(512 * 4 + 3);
    let error = case(&["a"], "/t", |t| bytes(t, "a", cut.clone())).add().run().expect_err("damaged");
    assert!(error.to_string().starts_with("failed to unpack /a: "), "{error}");
    let mut packed = gzip(&archive());
    packed.truncate(packed.len() / 2);
    let error = case(&["a"], "/t", |t| bytes(t, "a", packed.clone())).add().run().expect_err("damaged");
    assert_eq!(error.source_index(), Some(0));
}

#[test]
fn observed_37_owners_and_modes_are_the_archive_s() {
    let packed = |t: &mut Memory| bytes(t, "a", archive());
    let text = case(&["a"], "/t", packed)
        .add()
        .op(|op| (op.chown, op.chmod) = (Some("7:8".to_owned()), Some(Chmod::Octal(0o600))))
        .text();
    for line in ["/t d 755 7:8", "/t/implicit d 755 0:0", "/t/top d 750 7:8", "/t/top/file f payload 4640 7:8"] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line} in\n{text}");
    }
}

#[test]
fn observed_37_unpacking_is_confined_to_the_destination() {
    let packed = |t: &mut Memory| bytes(t, "a", archive());
    // An absolute link below the destination has the destination as its root.
    let text = case(&["a"], "/t", packed)
        .add()
        .onto(|t| _ = t.symlink("t/abs", "/sub").symlink("t/escape", "/etc/passwd").dir("sub", 0o700, 1, 1))
        .text();
    assert!(text.contains("/t/sub d 755 0:0 @99\n/t/sub/file f e "), "{text}");
    assert!(text.contains("/t/escape f e "), "{text}");
    assert!(!text.contains("\n/sub") && !text.contains("/etc"), "{text}");
}

#[test]
fn archives_replace_what_is_of_another_kind_and_merge_directories() {
    let packed = |t: &mut Memory| bytes(t, "a", archive());
    let text = case(&["a"], "/t", packed)
        .add()
        .onto(|t| {
            t.dir("t", 0o700, 5, 5).file("t/top", "", 0o644).dir("t/fifo/x", 0o755, 0, 0);
            t.dir("t/implicit", 0o711, 6, 6);
        })
        .text();
    for line in ["=/t d 700 5:5", "/t/top d 750 21:22", "/t/fifo p 644", "=/t/implicit d 711 6:6"] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line} in\n{text}");
    }
}

#[test]
fn observed_38_downloads() {
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(b"remote".to_vec()))) };
    let source = Source::Download {
        name: "file.txt",
        size: 6,
        content: Blake3::of(b"remote"),
        mtime: 1_445_412_480,
        unpack: false,
        open: &open,
    };
    let op = case(&[], "/u/", |_| {}).add().op;
    let selection = select(&op, 0, &source).expect("selected");
    let copied = copy(&op, &[source], vec![selection], &EMPTY, 99, &mut Vec::new()).expect("copied");
    let entry = &copied.entries[1].entry;
    assert_eq!(
        (entry.path.to_string(), entry.meta.mode, entry.meta.mtime),
        ("/u/file.txt".to_owned(), 0o600, 1_445_412_480)
    );
    let nothing = |_, _| Err(io::ErrorKind::NotFound.into());
    let reader = copied.entries[1].open(&[source], &EMPTY, &nothing).expect("opens").expect("file");
    assert_eq!(hash_content(reader).expect("reads"), (6, Blake3::of(b"remote")));
}
