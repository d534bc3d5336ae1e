//! Any text is an image name or refused, and a platform or refused; what was read can be shown and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::oci::platform::Platform;
use rbuild::oci::reference::Reference;
use rbuild::plan::allowed::AllowedBases;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    match Reference::parse(&text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(name) => {
            for shown in [name.to_string(), name.familiar()] {
                assert_eq!(Reference::parse(&shown).as_ref(), Ok(&name), "{shown:?}");
            }
            let tagged = name.clone().with_default_tag();
            assert_eq!(Reference::parse_tagged(&text), Ok(tagged.clone()));
            assert!(tagged.tag().is_some() || tagged.digest().is_some());
            assert!(name.to_string().starts_with(&name.repository()));
            assert!(AllowedBases::new([name.to_string()]).allows(&name.to_string()));
        }
    }
    // A pattern beside a name.
    if let Some((pattern, name)) = text.split_once('\n') {
        let pattern = AllowedBases::new([pattern.to_owned()]);
        drop(pattern.allows(name));
    }
    let host = Platform::new("linux", "amd64", "");
    match Platform::parse(&text, &host) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(platform) => {
            let shown = platform.to_string();
            let again = Platform::parse(&shown, &host).unwrap_or_else(|error| panic!("{shown:?}: {error}"));
            assert_eq!(again.to_string(), shown);
            assert!(platform.rank(&platform).is_some(), "{shown:?} does not serve itself");
        }
    }
});
