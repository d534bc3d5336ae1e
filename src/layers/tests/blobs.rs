//! Layers as tars and compressed blobs: what is written, found again, and made of them.

use super::*;

#[test]
fn a_written_layer_is_its_tar() {
    let f = fixture();
    let record = f.layer(&["d a", "f a/b", "h a/c a/b", "w a/d"]);
    let tar = f.tar(&record.id);
    assert_eq!((Sha256::of(&tar), tar.len() as u64), (record.diff_id.0, record.size));
    assert_eq!(f.layers.record(&record.id).expect("store"), Some(record.clone()));
    assert_eq!(f.layers.by_diff_id(&record.diff_id).expect("store"), Some(record.clone()));
    assert_eq!(record.id, f.layers.index(&record.id).expect("there").layer_id());
    assert!(f.layers.has_form(&record).expect("store"));
    let gone = LayerId(rbuild_cache::digest::Blake3([1; 32]));
    assert_eq!(
        f.layers.index(&gone).expect_err("unknown").to_string(),
        format!("layer {gone} is not in the store any more")
    );
}

#[test]
fn an_empty_layer_has_the_well_known_diff_id() {
    let known = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(fixture().layer(&[]).diff_id.to_string(), known);
}

#[test]
fn a_lost_index_is_read_from_the_bytes() {
    let f = fixture();
    let record = f.layer(&["d a", "f a/b"]);
    let before = f.layers.index(&record.id).expect("there");
    f.layers.store.remove(Kind::Index, &record.id.to_string()).expect("removed");
    let again = Layers::new(f.layers.store.clone(), TreeOptions::ROOT, Cancel::new());
    assert_eq!(again.index(&record.id).expect("from the blob"), before);
    assert!(again.store.contains(Kind::Index, &record.id.to_string()).expect("store"));
}

#[test]
fn compressed_blobs_are_made_once_and_readable() {
    let f = fixture();
    let record = f.layer(&["d a", "f a/b"]);
    let tar = f.tar(&record.id);
    for framing in [Framing::None, Framing::Gzip { level: 3 }, Framing::Zstd { level: 3 }] {
        let one = f.layers.compressed(&record.id, framing, 1).expect("made");
        let blob = f.layers.store.blob(&one.digest).expect("store").expect("there");
        assert_eq!(blob.size, one.size);
        let (mut plain, _) = make::plain(Box::new(fs_err::File::open(blob.path).expect("there"))).expect("readable");
        let mut bytes = Vec::new();
        plain.read_to_end(&mut bytes).expect("valid");
        assert!(bytes == tar, "{framing:?}");
        assert_eq!(f.layers.known_compressed(&record, framing).expect("store"), Some(one));
        if framing != Framing::None {
            f.layers.store.remove_blob(&one.digest).expect("removed");
            assert_eq!(f.layers.compressed(&record.id, framing, 4).expect("made again"), one);
        }
    }
}

#[test]
fn a_layer_that_hardly_differs_is_hardly_compressed() {
    let f = fixture();
    // Eight megabytes in files of 100 KB; one of them changes.
    let layer = |changed: usize| {
        let file = |n: usize| {
            let seed = if n == changed { 1_000_003 } else { n as u32 };
            let bytes: Vec<u8> =
                (0..100_000u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 27) as u8).collect();
            let mut entry = samples::entry(&format!("f file{n:03}"));
            entry.kind =
                EntryKind::File { size: bytes.len() as u64, content: rbuild_cache::digest::Blake3::of(&bytes) };
            (entry, Content::Bytes(bytes))
        };
        f.layers.write((0..80).map(file)).expect("written")
    };
    let framing = Framing::Gzip { level: 3 };
    let (one, other) = (layer(usize::MAX), layer(40));
    let first = f.layers.compressed(&one.id, framing, 2).expect("made");
    let earlier = chunks::Earlier::new(f.layers.store.clone(), "gzip-3-v1".to_owned());
    let name = format!("chunks-{}", first.digest.0.hex());
    let list = f.layers.store.get(Kind::Derived, &name).expect("store").expect("noted");
    let hash = |n: usize| rbuild_cache::digest::Blake3(list[n * 44..][..32].try_into().expect("32 bytes"));
    assert!(list.len() / 44 > 30 && earlier.recall(&hash(7), false).is_none(), "nothing is known before the first");
    assert!(earlier.recall(&hash(0), true).is_some() && earlier.recall(&hash(7), false).is_some());
    let second = f.layers.compressed(&other.id, framing, 2).expect("made");
    assert_ne!(first, second);
    // The same bytes as without a memory.
    let g = fixture();
    let mut blob = Vec::new();
    f.layers.store.open_blob(&second.digest).expect("store").expect("there").read_to_end(&mut blob).expect("read");
    let source = make::Source { media_type: String::new(), digest: None };
    let taken =
        g.layers.import(Box::new(std::io::Cursor::new(blob)), &source, Some(other.diff_id)).expect("the same tar");
    assert_eq!(taken.diff_id, other.diff_id);
    // A memory of what is gone is none.
    f.layers.store.remove_blob(&first.digest).expect("removed");
    let lost = chunks::Earlier::new(f.layers.store.clone(), "gzip-3-v1".to_owned());
    f.layers.store.remove_blob(&second.digest).expect("removed");
    assert!(lost.recall(&hash(0), true).is_none());
    assert_eq!(f.layers.compressed(&other.id, framing, 1).expect("made again"), second);
    let refs = references(Kind::Derived, &name, &list).expect("ours");
    assert_eq!(refs, [rbuild_cache::ObjectRef::RemakableBlob(first.digest)]);
}

#[test]
fn zstd_bytes_do_not_depend_on_threads() {
    let f = fixture();
    let mut big = samples::entry("f big");
    let bytes: Vec<u8> = (0..9_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
    big.kind = EntryKind::File { size: bytes.len() as u64, content: rbuild_cache::digest::Blake3::of(&bytes) };
    let record = f.layers.write([(big, Content::Bytes(bytes))].into_iter()).expect("written");
    let make = |threads| {
        let made = f.layers.compressed(&record.id, Framing::Zstd { level: 3 }, threads).expect("made");
        f.layers.store.remove_blob(&made.digest).expect("removed");
        made
    };
    assert_eq!(make(1), make(3));
}

#[test]
fn what_a_record_needs() {
    let f = fixture();
    let record = f.layer(&["f a"]);
    let json = f.layers.store.get(Kind::Layer, &record.id.to_string()).expect("store").expect("there");
    let refs = references(Kind::Layer, &record.id.to_string(), &json).expect("ours");
    assert_eq!(
        refs,
        [
            ObjectRef::Small(Kind::Index, record.id.to_string()),
            ObjectRef::Blob(BlobDigest(record.diff_id.0)),
            ObjectRef::RemakableTree(record.id)
        ]
    );
    let by_diff = references(Kind::Layer, &diff_name(&record.diff_id), record.id.to_string().as_bytes());
    assert_eq!(by_diff, Some(vec![ObjectRef::Small(Kind::Layer, record.id.to_string())]));
}

#[test]
fn clamping_lowers_later_times_only() {
    let f = fixture();
    let mut old = samples::entry("f b");
    old.meta.mtime = 5;
    let files = vec![(samples::entry("f a"), b"a".to_vec()), (old, b"b".to_vec())];
    let record = f.layers.write(contents(files)).expect("written");
    let clamped = f.layers.clamp(&record.id, 1000).expect("written");
    let times: Vec<_> = f.layers.index(&clamped.id).expect("there").entries().iter().map(|e| e.meta.mtime).collect();
    assert_eq!(times, [1000, 5]);
    assert_eq!(clamped.tree_id, record.tree_id);
    assert_ne!(clamped.diff_id, record.diff_id);
    assert_eq!(f.layers.clamp(&clamped.id, 1000).expect("same"), clamped);
}

#[test]
fn finished_layers_are_compressed_ahead_with_the_same_bytes() {
    let text = |n: usize| format!("line {n} of some text\n").repeat(20_000).into_bytes();
    let made = |f: &Fixture, n: usize| {
        let mut entry = samples::entry(&format!("f file{n}"));
        let kind = EntryKind::File { size: text(n).len() as u64, content: rbuild_cache::digest::Blake3::of(&text(n)) };
        entry.kind = kind;
        f.layers.write([(entry, Content::Bytes(text(n)))].into_iter()).expect("written")
    };
    let (gzip, zstd) = (Framing::Gzip { level: 3 }, Framing::Zstd { level: 3 });
    let wanted = Wanted { result: [gzip].into(), every: [zstd].into() };
    let (f, plain) = (fixture(), fixture());
    let records: Vec<Record> = (0..3).map(|n| made(&f, n)).collect();
    let ahead = Ahead::new(&f.layers, wanted, 2);
    ahead.finished(records[0].id, true);
    ahead.finished(records[0].id, true);
    ahead.finished(records[1].id, false);
    let known = |record: &Record, framing| f.layers.known_compressed(record, framing).expect("store");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while known(&records[1], zstd).is_none() {
        assert!(std::time::Instant::now() < until, "nothing is compressed");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(known(&records[1], gzip), None, "not of the result");
    for (n, framing) in [(0, gzip), (0, zstd), (1, zstd)] {
        let other = made(&plain, n);
        let there = known(&records[n], framing).expect("made ahead");
        assert_eq!(plain.layers.compressed(&other.id, framing, 1).expect("made"), there);
        assert!(f.layers.store.blob(&there.digest).expect("store").is_some());
    }
    ahead.close();
    ahead.finished(records[2].id, true);
    drop(ahead);
    assert_eq!(known(&records[2], gzip), None, "the steps are over");
}

#[test]
fn what_is_compressed_ahead_stops_with_the_build() {
    let f = fixture();
    let bytes: Vec<u8> = (0..64_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
    let mut entry = samples::entry("f big");
    entry.kind = EntryKind::File { size: bytes.len() as u64, content: rbuild_cache::digest::Blake3::of(&bytes) };
    let record = f.layers.write([(entry, Content::Bytes(bytes))].into_iter()).expect("written");
    let slow = Framing::Gzip { level: 9 };
    let ahead = Ahead::new(&f.layers, Wanted { result: [slow].into(), every: [].into() }, 1);
    ahead.finished(record.id, true);
    drop(ahead);
    // Dropping waits for the thread: had it gone on, the blob would be there.
    assert_eq!(f.layers.known_compressed(&record, slow).expect("store"), None);
    assert!(f.layers.tree(&record.id).is_ok() || !root(), "the layer itself is not locked");
}
