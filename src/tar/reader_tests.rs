//! What the reader makes of archives by other people's tools, and of hostile ones.

use super::*;
use crate::tar::entry::{Entry, Kind};
use crate::tar::writer::{TarWriter, encode};

/// One line per entry: type, name, owner, mode, time, xattrs, content.
fn dump(bytes: &[u8], whiteouts: Whiteouts) -> Result<Vec<String>, TarError> {
    let mut lines = Vec::new();
    read(bytes, whiteouts, &mut |entry, content| {
        let mut text = Vec::new();
        content.read_to_end(&mut text)?;
        let kind = match &entry.kind {
            RawKind::File(size) => format!("file[{size}]"),
            other => format!("{other:?}"),
        };
        let text =
            if text.len() > 40 { format!("{} bytes", text.len()) } else { String::from_utf8_lossy(&text).into() };
        let m = &entry.meta;
        lines.push(format!("{} {kind} {}:{} {:o} {} {:?} {text}", entry.path, m.uid, m.gid, m.mode, m.mtime, m.xattrs));
        Ok::<_, TarError>(())
    })?;
    Ok(lines)
}

fn header(name: &str, flag: u8, size: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkflag[0] = flag;
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn member(name: &str, flag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, flag, content.len() as u64);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let one =
            std::collections::BTreeMap::from([(key.as_bytes().to_vec(), std::borrow::Cow::Borrowed(value.as_bytes()))]);
        body.extend_from_slice(&crate::tar::pax::encode(&one));
    }
    member("pax", b'x', &body)
}

/// As Go has it: what follows the header of a directory is the next header, whatever size it claims. Found by fuzzing.
#[test]
fn a_directory_by_its_slash_has_no_content() {
    let bytes = [header("d/", 0, 512), member("f", b'0', b"a")].concat();
    let lines = dump(&bytes, Whiteouts::Interpret).expect("valid");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("/d Directory ") && lines[1].starts_with("/f file[1] "), "{lines:?}");
}

#[test]
fn names_land_below_the_root() {
    let bytes = [member("../../etc/x", b'0', b"a"), member("/abs/./y//", b'5', b""), member("./", b'5', b"")].concat();
    assert_eq!(
        dump(&bytes, Whiteouts::Interpret).expect("valid"),
        ["/etc/x file[1] 1:2 644 3 {} a", "/abs/y Directory 1:2 644 3 {} ", "/ Directory 1:2 644 3 {} "]
    );
}

#[test]
fn deletions_are_understood_only_in_layers() {
    let bytes =
        [member("a/.wh.b", b'0', b""), member("a/.wh..wh..opq", b'0', b""), member(".wh..wh.plnk/1.2", b'0', b"")];
    assert_eq!(
        dump(&bytes.concat(), Whiteouts::Interpret).expect("valid"),
        ["/a/b Whiteout 1:2 644 3 {} ", "/a Opaque 1:2 644 3 {} "]
    );
    assert_eq!(dump(&bytes[0], Whiteouts::Literal).expect("valid"), ["/a/.wh.b file[0] 1:2 644 3 {} "]);
    for bad in [".wh.", ".wh..", "a/.wh..."] {
        assert!(dump(&member(bad, b'0', b""), Whiteouts::Interpret).is_err(), "{bad}");
    }
}

#[test]
fn what_stands_for_the_root_is_passed_over_in_added_archives() {
    let bytes = [member("", b'0', b"content"), member(".", b'6', b""), member("x", b'0', b"a")].concat();
    assert_eq!(dump(&bytes, Whiteouts::Literal).expect("valid"), ["/x file[1] 1:2 644 3 {} a"]);
    assert!(dump(&bytes, Whiteouts::Interpret).is_err());
}

#[test]
fn extensions_override_headers() {
    let long = "n".repeat(150);
    let bytes = [
        pax(&[
            ("path", "from/pax"),
            ("size", "3"),
            ("uid", "3000000"),
            ("mtime", "9.75"),
            ("SCHILY.xattr.user.a", "v"),
        ]),
        member("x", b'0', b"abc"),
        member("././@LongLink", b'L', [long.as_bytes(), b"\0"].concat().as_slice()),
        member("y", b'0', b""),
        member("glob", b'g', b"16 path=ignored\n"),
        member("z", b'0', b"tail"),
    ];
    assert_eq!(
        dump(&bytes.concat(), Whiteouts::Interpret).expect("valid"),
        [
            r"/from/pax file[3] 3000000:2 644 9 {[117, 115, 101, 114, 46, 97]: [118]} abc".to_owned(),
            format!("/{long} file[0] 1:2 644 3 {{}} "),
            "/z file[4] 1:2 644 3 {} tail".to_owned(),
        ]
    );
}

#[test]
fn sparse_files_of_all_generations() {
    let old = {
        let mut head = Header::from_byte_slice(&header("old", b'S', 3)).clone();
        let gnu = head.as_gnu_mut().expect("gnu");
        gnu.realsize.copy_from_slice(b"00000000010\0");
        gnu.sparse[0].offset.copy_from_slice(b"00000000002\0");
        gnu.sparse[0].numbytes.copy_from_slice(b"00000000003\0");
        head.set_cksum();
        [head.as_bytes().as_slice(), b"abc", &[0; BLOCK - 3]].concat()
    };
    let v00 = [
        pax(&[
            ("GNU.sparse.size", "8"),
            ("GNU.sparse.offset", "0"),
            ("GNU.sparse.numbytes", "1"),
            ("GNU.sparse.offset", "6"),
            ("GNU.sparse.numbytes", "1"),
        ]),
        member("v00", b'0', b"ab"),
    ]
    .concat();
    let v01 = [pax(&[("GNU.sparse.size", "8"), ("GNU.sparse.map", "0,1,6,1")]), member("v01", b'0', b"ab")].concat();
    let map = [b"2\n0\n1\n6\n1\n".as_slice(), &[0; BLOCK - 10], b"ab"].concat();
    let v10 = [
        pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "v10"),
            ("GNU.sparse.realsize", "8"),
        ]),
        member("GNUSparseFile.0/v10", b'0', &map),
    ]
    .concat();
    let lines = dump(&[old, v00, v01, v10, member("after", b'0', b"z")].concat(), Whiteouts::Interpret).expect("valid");
    let text: Vec<_> = lines.iter().map(|l| l.replace(" 1:2 644 3 {}", "")).collect();
    assert_eq!(
        text,
        [
            "/old file[8] \0\0abc\0\0\0",
            "/v00 file[8] a\0\0\0\0\0b\0",
            "/v01 file[8] a\0\0\0\0\0b\0",
            "/v10 file[8] a\0\0\0\0\0b\0",
            "/after file[1] z"
        ]
    );
}

#[test]
fn hostile_archives_give_errors() {
    let message = |bytes: Vec<u8>| dump(&bytes, Whiteouts::Interpret).expect_err("refused").to_string();
    let huge = header("l", b'L', 1 << 33);
    assert_eq!(message(huge), "tar exceeds a limit at offset 0: size of an extended header (limit 1048576)");
    let mut broken = member("x", b'0', b"");
    broken[0] = b'y';
    assert_eq!(message(broken), "invalid tar at offset 0: header checksum mismatch");
    assert_eq!(message(header("x", b'0', 100)), "the tar ends in the middle of an entry");
    assert_eq!(message(header("x", b'V', 0)), r#"invalid tar at offset 0: unsupported entry type 'V' of "x""#);
    assert_eq!(message(member("/", b'2', b"")), "invalid tar at offset 0: symbolic link without a target");
    let name = "d/".repeat(3000);
    let deep = [pax(&[("path", name.as_str())]), member("x", b'5', b"")].concat();
    assert_eq!(message(deep), "tar exceeds a limit at offset 6656: length of a name (limit 4096)");
    let bomb = [pax(&[("GNU.sparse.size", "9223372036854775000"), ("GNU.sparse.map", "")]), member("x", b'0', b"")];
    assert!(message(bomb.concat()).contains("size of a file"));
    let dangling = pax(&[("path", "x")]);
    assert!(message(dangling).contains("ends after an extended header"));
    assert!(message([vec![0; BLOCK], member("x", b'0', b"")].concat()).contains("lone zero block"));
}

#[test]
fn numbers_in_all_their_forms() {
    assert_eq!(numeric(b" 0000644 "), Some(0o644));
    assert_eq!(numeric(b"\0\0\0"), Some(0));
    assert_eq!(numeric(b"12x"), None);
    assert_eq!(numeric(&[0x80, 0, 1, 0]), Some(256));
    assert_eq!(numeric(&[0xff, 0xff, 0xff, 0xfe]), Some(-2));
    assert_eq!(numeric(&[0xff; 12]), Some(-1));
}

#[test]
fn tars_are_recognised() {
    assert!(looks_like_tar(&member("x", b'0', b"")));
    assert!(!looks_like_tar(&[0; 1024]));
    assert!(!looks_like_tar(b"short"));
}

#[test]
fn own_output_is_read_back() {
    let entry = Entry {
        path: LayerPath::clean(format!("é/{}", "n".repeat(120))),
        kind: Kind::Symlink(vec![b't'; 130]),
        meta: Meta {
            mode: 0o777,
            uid: u32::MAX,
            gid: 5,
            mtime: -7,
            xattrs: [(b"user.x".to_vec(), vec![0, 10, 255])].into(),
        },
    };
    let mut bytes = Vec::new();
    encode(&entry, None, &mut bytes).expect("representable");
    let mut seen = 0;
    read(bytes.as_slice(), Whiteouts::Interpret, &mut |raw, _| {
        seen += 1;
        assert_eq!((&raw.path, &raw.meta), (&entry.path, &entry.meta));
        assert_eq!(raw.kind, RawKind::Symlink(vec![b't'; 130]));
        Ok::<_, TarError>(())
    })
    .expect("valid");
    assert_eq!(seen, 1);
    let (_, length) = TarWriter::new(io::sink()).finish().expect("sink");
    assert_eq!(length, 1024);
}

proptest::proptest! {
    #[test]
    fn damaged_archives_never_panic(seed in proptest::collection::vec((0usize..4096, proptest::prelude::any::<u8>()), 0..20)) {
        let map = [b"2\n0\n1\n6\n1\n".as_slice(), &[0; BLOCK - 10], b"ab"].concat();
        let mut bytes = [
            pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "8")]),
            member("x", b'0', &map),
            member("l", b'L', b"long\0"),
            member("y", b'0', b"abc"),
        ]
        .concat();
        for (at, value) in seed {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        // Make checksums right again so that damage reaches the parsers behind them.
        for block in bytes.chunks_exact_mut(BLOCK) {
            if block[257..262] == *b"ustar" {
                let mut header = Header::from_byte_slice(block).clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        let _any = dump(&bytes, Whiteouts::Interpret);
    }
}
