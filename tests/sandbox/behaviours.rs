//! What every sandbox must do, one function per behaviour.

use crate::bench::{Bench, Setting};

pub const ALL: &[(&str, fn(Setting))] = &[("env_is_exact", env_is_exact), ("exit_codes", exit_codes)];

/// Whether a behaviour can be had in a setting.
pub fn applies(_name: &str, _setting: Setting) -> bool {
    true
}

fn env_is_exact(setting: Setting) {
    let bench = Bench::new(setting);
    let ran = bench.run("env", |process| {
        process.env.push(("GREETING".into(), "hello world".into()));
        process.argv = vec!["env".into()];
    });
    assert_eq!(ran.text(), "PATH=/usr/bin:/bin\nGREETING=hello world");
}

fn exit_codes(setting: Setting) {
    let bench = Bench::new(setting);
    for code in [0, 1, 42, 255] {
        assert_eq!(bench.sh(&format!("exit {code}")).exit.expect("runs").code, code);
    }
}
