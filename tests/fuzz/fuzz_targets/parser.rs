//! Any bytes give a Dockerfile or diagnostics; both can be shown, linted and planned.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::diagnostic::{Diagnostic, headline, render_all};
use rbuild::dockerfile::advice::advice;
use rbuild::dockerfile::lint::lint;
use rbuild::dockerfile::{parse_trigger, read};
use rbuild::oci::platform::Platform;
use rbuild::plan::{Facts, PlanOptions, all_faults, check, doubtful_images, plan, wanted_for_certain};
use rbuild::source::Source;

fn show(faults: &[Diagnostic]) {
    assert!(!faults.is_empty(), "refused without a reason");
    assert!(!render_all(faults).is_empty());
    assert!(headline(faults).is_some_and(|fault| !fault.message().is_empty()));
    faults.iter().for_each(|fault| drop(fault.excerpt()));
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Err(faults) = parse_trigger(&text) {
        show(&faults);
    }
    let options = PlanOptions::new(Platform::new("linux", "amd64", ""));
    let reading = read(Source::new("Dockerfile", text));
    drop(wanted_for_certain(&reading.file, reading.lost, &options));
    if !reading.faults.is_empty() {
        drop(doubtful_images(&reading, &options));
        return show(&all_faults(&reading, &options));
    }
    let file = reading.file;
    drop(lint(&file));
    drop(advice(&file, None, &|_| true));
    if let Err(faults) = plan(&file, &options, &Facts::new()) {
        show(&faults);
    }
    drop(check(&file, &options, &Facts::new()));
});
