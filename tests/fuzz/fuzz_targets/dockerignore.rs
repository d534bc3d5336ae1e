//! Any ignore file is read or refused; a path's verdict does not depend on how it is asked: from the top at once, or handed down
//! directory by directory as a walk does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::context::Ignore;
use rbuild::transfer::{State, Verdict};

fuzz_target!(|bytes: &[u8]| {
    let (paths, file) = bytes.split_at(bytes.len().min(64).min(bytes.len() / 2));
    let Ok(ignore) = Ignore::parse(".dockerignore", file) else { return };
    for path in paths.split(|byte| *byte == 0) {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        if parts.is_empty() || parts.iter().any(|part| *part == b"." || *part == b"..") {
            continue;
        }
        let clean = parts.join(&b'/');
        let out = ignore.patterns().matches(&clean);
        let (mut verdict, mut state) = (Verdict::Keep, State::default());
        for end in (1..=clean.len()).filter(|end| clean.get(*end).is_none_or(|byte| *byte == b'/')) {
            (verdict, state) = ignore.filter().judge(&clean[..end], &state);
        }
        assert_eq!(out, verdict != Verdict::Keep, "{:?}", String::from_utf8_lossy(&clean));
    }
});
