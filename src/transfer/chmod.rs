//! `--chmod` in words: `u=rwX,go=rX`, `+x`, `g=u-w`, as chmod(1) with umask 0.
//!
//! Octal modes are numbers already when they come here. Pure.

use crate::plan::graph::Chmod;

/// A symbolic mode, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbolic(Vec<Change>);

/// One step: which bits may change, how, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    who: u32,
    op: Op,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// These bits, as far as `who` allows.
    Bits(u32),
    /// `X`: execution, if it is a directory or anybody may execute it already.
    ExecuteIfAny,
    /// The permissions of owner (6), group (3) or others (0), by shift.
    CopyOf(u32),
}

/// What a mode becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Keep,
    Octal(u32),
    Symbolic(Symbolic),
}

impl Mode {
    pub(super) fn new(chmod: Option<&Chmod>) -> Result<Self, BadMode> {
        Ok(match chmod {
            None => Self::Keep,
            Some(Chmod::Octal(mode)) => Self::Octal(*mode & 0o7777),
            Some(Chmod::Symbolic(text)) => Self::Symbolic(Symbolic::parse(text)?),
        })
    }

    /// The mode something copied gets.
    pub(super) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Keep => mode,
            Self::Octal(mode) => *mode,
            Self::Symbolic(symbolic) => symbolic.apply(mode, is_dir),
        }
    }

    /// The mode of directories made on the way: only octal modes count, and never their special bits.
    pub(super) fn of_parents(&self) -> u32 {
        match self {
            Self::Octal(mode) => *mode & 0o777,
            Self::Keep | Self::Symbolic(_) => 0o755,
        }
    }
}

/// A text is not a symbolic mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid syntax")]
pub struct BadMode;

const ALL: u32 = 0o777;
const STICKY: u32 = 0o1000;

impl Symbolic {
    /// Parses a comma-separated list of `[ugoa]*([-+=][rwxXstugo]*)+`.
    pub fn parse(text: &str) -> Result<Self, BadMode> {
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let ops = clause.find(['+', '-', '=']).ok_or(BadMode)?;
            let mut who = 0;
            for c in clause[..ops].chars() {
                who |= match c {
                    'a' => ALL | 0o6000,
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o007,
                    _ => return Err(BadMode),
                };
            }
            parse_changes(&clause[ops..], who, &mut changes)?;
        }
        Ok(Self(changes))
    }

    /// The mode that comes out of `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let mut now = mode;
        for change in &self.0 {
            let bits = match change.what {
                What::Bits(bits) => bits,
                What::ExecuteIfAny if is_dir || mode & 0o111 != 0 => 0o111,
                What::ExecuteIfAny => 0,
                What::CopyOf(shift) => {
                    let permissions = now >> shift & 0o7;
                    permissions << 6 | permissions << 3 | permissions
                }
            };
            let bits = bits & change.who;
            match change.op {
                Op::Add => now |= bits,
                Op::Remove => now &= !bits,
                // `=` of permissions leaves the sticky bit alone unless it was named.
                Op::Set => now = now & !change.who | bits,
            }
        }
        now
    }
}

fn parse_changes(mut text: &str, who: u32, changes: &mut Vec<Change>) -> Result<(), BadMode> {
    while let Some(sign) = text.chars().next() {
        let op = match sign {
            '+' => Op::Add,
            '-' => Op::Remove,
            '=' => Op::Set,
            _ => return Err(BadMode),
        };
        let end = text[1..].find(['+', '-', '=']).map_or(text.len(), |i| i + 1);
        let letters = &text[1..end];
        text = &text[end..];
        // Nobody named means everybody, umask 0.
        let mut mask = if who == 0 { ALL | 0o6000 } else { who };
        let only_others = who != 0 && who & !0o007 == 0;
        let (mut bits, mut execute, mut set) = (0, false, false);
        for c in letters.chars() {
            match c {
                'r' => bits |= 0o444,
                'w' => bits |= 0o222,
                'x' => bits |= 0o111,
                'X' if op == Op::Remove => bits |= 0o111,
                'X' => execute = true,
                's' if !only_others => bits |= 0o6000,
                't' if !only_others => {
                    bits |= STICKY;
                    // Where nobody is named the sticky bit stands for all that may change, as in BuildKit.
                    mask = if who == 0 { STICKY } else { mask | STICKY };
                }
                's' | 't' => {}
                'u' | 'g' | 'o' => {
                    if bits != 0 {
                        changes.push(Change { who: mask, op, what: What::Bits(std::mem::take(&mut bits)) });
                    }
                    if std::mem::take(&mut execute) {
                        changes.push(Change { who: mask, op: Op::Add, what: What::ExecuteIfAny });
                    }
                    let shift = match c {
                        'u' => 6,
                        'g' => 3,
                        _ => 0,
                    };
                    // The copied permissions must be read before they are cleared: one change does both.
                    changes.push(Change { who: mask & ALL, op, what: What::CopyOf(shift) });
                    set = true;
                }
                _ => return Err(BadMode),
            }
        }
        if bits != 0 || op == Op::Set && !set {
            changes.push(Change { who: mask, op, what: What::Bits(bits) });
        }
        if execute {
            changes.push(Change { who: mask, op: Op::Add, what: What::ExecuteIfAny });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, mode: u32, is_dir: bool, expected: u32) {
        let got = Symbolic::parse(text).expect("valid").apply(mode, is_dir);
        assert_eq!(format!("{got:04o}"), format!("{expected:04o}"), "{text} on {mode:04o}");
    }

    #[test]
    fn modes_in_words() {
        check("u=rwX,go=rX", 0o600, false, 0o644);
        check("u=rwX,go=rX", 0o700, false, 0o755);
        check("u=rwX,go=rX", 0o600, true, 0o755);
        check("+x", 0o644, false, 0o755);
        check("a-w", 0o666, false, 0o444);
        check("go=", 0o4755, false, 0o4700);
        check("u+s", 0o755, false, 0o4755);
        check("+t", 0o755, true, 0o1755);
        check("+st", 0o755, false, 0o1755);
        check("=t", 0o4755, false, 0o5755);
        check("u=ug", 0o750, false, 0o550);
        check("u=rg", 0o720, false, 0o220);
        check("o+t", 0o755, true, 0o755);
        check("g=u", 0o740, false, 0o770);
        check("g=u-w", 0o760, false, 0o750);
        check("u=r", 0o4755, false, 0o455);
        check("o=g", 0o750, false, 0o755);
        check("=r", 0o1777, true, 0o1444);
        check("u-x+w", 0o500, false, 0o600);
        check("ug+rw,o-rwx", 0o007, false, 0o660);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "x", "u", "u=z", "q+x", "u=r,", "9"] {
            assert_eq!(Symbolic::parse(text), Err(BadMode), "{text:?}");
        }
    }

    #[test]
    fn parents_get_octal_permissions_only() {
        assert_eq!(Mode::Octal(0o4751).of_parents(), 0o751);
        assert_eq!(Mode::new(Some(&Chmod::Symbolic("+x".into()))).expect("valid").of_parents(), 0o755);
    }
}
