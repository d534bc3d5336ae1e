//! The same filter in the words of the OCI runtime specification, for runtimes that make the program themselves.
//!
//! Arguments are compared with their high word masked away, as in the program: the kernel ignores it, so a rule that did not
//! could be passed by setting it. What the specification cannot say: that calls newer than the list are ENOSYS (runc adds that
//! by itself).

use serde_json::{Value, json};

use super::table::CALLS;
use super::{ARCHES, Policy, Test, Verdict, verdict};

/// `EPERM`
const REFUSED: u32 = libc::EPERM as u32;
/// Of a first argument, what the kernel looks at.
const LOW_WORD: u64 = 0xffff_ffff;

/// The names of [`super::ARCHES`], with those that share an entry there.
#[cfg(target_arch = "x86_64")]
const NAMES: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const NAMES: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NAMES: &[&str] = &[];

/// `linux.seccomp` for `policy`; `None` where [`super::program`] is empty.
pub(crate) fn profile(policy: Policy) -> Option<Value> {
    if !policy.confined && !policy.pretend_ownership || ARCHES.is_empty() {
        return None;
    }
    let (mut allowed, mut rules) = (Vec::new(), Vec::new());
    for (name, _) in CALLS {
        match verdict(policy, name) {
            Verdict::Allow => allowed.push(*name),
            Verdict::Errno(errno) => {
                rules.push(json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno }));
            }
            Verdict::Narrow(test) => rules.extend(passes(test).into_iter().map(|(mask, value)| {
                let arg = json!({ "index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" });
                json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [arg] })
            })),
        }
    }
    if !policy.confined {
        return Some(json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": NAMES, "syscalls": rules }));
    }
    rules.insert(0, json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" }));
    let default = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": REFUSED });
    let mut profile = default;
    profile["architectures"] = json!(NAMES);
    profile["syscalls"] = json!(rules);
    Some(profile)
}

/// Masks and values of which one must fit.
fn passes(test: Test) -> Vec<(u64, u64)> {
    match test {
        Test::In(values) => values.iter().map(|value| (LOW_WORD, u64::from(*value))).collect(),
        Test::Without(bits) => vec![(u64::from(bits), 0)],
        Test::NotIn(values) => {
            let mut values = values.to_vec();
            values.sort_unstable();
            let (mut first, mut fits) = (0, Vec::new());
            for value in values {
                fits.extend(blocks(first, u64::from(value)));
                first = u64::from(value) + 1;
            }
            fits.extend(blocks(first, LOW_WORD + 1));
            fits
        }
    }
}

/// The numbers from `first` up to but not including `end`, as blocks of powers of two.
fn blocks(mut first: u64, end: u64) -> Vec<(u64, u64)> {
    let mut blocks = Vec::new();
    while first < end {
        let mut size = 1;
        while first.is_multiple_of(size * 2) && first + size * 2 <= end {
            size *= 2;
        }
        blocks.push((LOW_WORD & !(size - 1), first));
        first += size;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_refused_is_covered_by_blocks() {
        let fits = passes(Test::NotIn(&[38, 40]));
        let allowed = |number: u64| fits.iter().filter(|(mask, value)| number & mask == *value).count();
        for number in (0..100).chain([LOW_WORD]) {
            assert_eq!(allowed(number), usize::from(number != 38 && number != 40), "{number}");
        }
        assert_eq!(allowed((1 << 32) + 40), 0, "the high word does not help");
        assert!(fits.len() < 40, "{}", fits.len());
    }

    #[test]
    fn every_policy_has_a_profile_where_it_has_a_program() {
        for (confined, pretend_ownership) in [(false, false), (false, true), (true, false), (true, true)] {
            let policy = Policy { confined, pretend_ownership };
            assert_eq!(profile(policy).is_none(), super::super::program(policy).is_empty(), "{policy:?}");
        }
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn verdicts_have_their_rules() {
        let profile = profile(Policy { confined: true, pretend_ownership: true }).expect("has one");
        let rules = |name: &str| -> Vec<String> {
            let rules = profile["syscalls"].as_array().expect("a list").iter();
            let of_name = rules.filter(|rule| rule["names"].as_array().expect("a list").contains(&json!(name)));
            of_name.map(|rule| format!("{} {} {}", rule["action"], rule["errnoRet"], rule["args"])).collect()
        };
        assert_eq!(rules("read"), ["\"SCMP_ACT_ALLOW\" null null"]);
        assert_eq!(rules("clone3"), ["\"SCMP_ACT_ERRNO\" 38 null"]);
        assert_eq!(rules("fchownat"), ["\"SCMP_ACT_ERRNO\" 0 null"]);
        assert!(rules("mount").is_empty(), "the default is to refuse");
        let expected =
            "\"SCMP_ACT_ALLOW\" null [{\"index\":0,\"value\":2114060288,\"valueTwo\":0,\"op\":\"SCMP_CMP_MASKED_EQ\"}]";
        assert_eq!(rules("clone"), [expected]);
        assert_eq!(rules("personality").len(), 5);
    }
}
