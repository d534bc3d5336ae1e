//! Any word expands or is refused, in every way a word is expanded; so do mount options.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::mount;
use rbuild::dockerfile::words::{expand, expand_for_show, expand_heredoc, expand_list};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let env = |name: &str| match name {
        "A" => Some("value".to_owned()),
        "B" => Some("a b  c".to_owned()),
        "E" => Some(String::new()),
        "P" => Some("/usr/local/lib/*.so".to_owned()),
        _ => None,
    };
    for escape in ['\\', '`'] {
        let one = expand(&text, &env, escape);
        let list = expand_list(&text, &env, escape);
        assert_eq!(one.is_err(), list.is_err(), "one way refuses what the other takes");
        drop(expand_for_show(&text, &env, escape));
    }
    drop(expand_heredoc(&text, &env));
    drop(mount::from_of(&text));
    drop(mount::parse(&text, &mut |value| Ok(value.to_owned())));
});
