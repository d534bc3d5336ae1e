//! Limits of steps: `--resource`, `--cgroup-parent`, and the flags of `docker build` that came before them.

use super::{RequestError, usage};
use crate::cli::args_build::LimitArgs;
use crate::cli::fields;
use crate::exec::Limits;

/// Decides on all of them; of two that say the same thing the last `--resource` counts.
pub(super) fn limits(args: &LimitArgs) -> Result<Limits, RequestError> {
    let flags = [
        ("memory", &args.memory),
        ("memory-swap", &args.memory_swap),
        ("cpu-shares", &args.cpu_shares),
        ("cpu-period", &args.cpu_period),
        ("cpu-quota", &args.cpu_quota),
        ("cpuset-cpus", &args.cpuset_cpus),
        ("cpuset-mems", &args.cpuset_mems),
    ];
    let parent = args.cgroup_parent.clone().filter(|parent| !parent.is_empty());
    let mut limits = Limits { parent, ..Limits::default() };
    for (name, value) in flags {
        if let Some(value) = value {
            set(&mut limits, name, value).map_err(|why| RequestError::Usage(format!("--{name}: {why}")))?;
        }
    }
    for text in &args.resource {
        for field in fields::csv(text).map_err(RequestError::Usage)? {
            let Some((name, value)) = field.split_once('=') else {
                return usage(format!("invalid field '{field}' must be a key=value pair"));
            };
            set(&mut limits, name, value).map_err(|why| RequestError::Usage(format!("--resource {name}: {why}")))?;
        }
    }
    match (limits.memory, limits.memory_swap) {
        (None, Some(0..)) => usage("You should always set the Memory limit when using Memoryswap limit, see usage"),
        (Some(memory), Some(swap)) if u64::try_from(swap).is_ok_and(|swap| swap < memory) => {
            usage("Minimum memoryswap limit should be larger than memory limit, see usage")
        }
        _ => Ok(limits),
    }
}

fn set(limits: &mut Limits, name: &str, value: &str) -> Result<(), String> {
    let number = |value: &str| value.parse::<u64>().map_err(|_| format!("invalid number: '{value}'"));
    let signed = |value: &str| value.parse::<i64>().map_err(|_| format!("invalid number: '{value}'"));
    // Docker takes 0 for "no limit".
    let some = |number: u64| (number > 0).then_some(number);
    match name {
        "memory" => limits.memory = some(fields::memory(value)?),
        "memory-swap" if value == "-1" => limits.memory_swap = Some(-1),
        "memory-swap" => limits.memory_swap = some(fields::memory(value)?).and_then(|bytes| i64::try_from(bytes).ok()),
        "cpu-shares" => limits.cpu_shares = some(number(value)?),
        "cpu-period" => limits.cpu_period = some(number(value)?),
        "cpu-quota" => limits.cpu_quota = Some(signed(value)?).filter(|quota| *quota != 0),
        "cpuset-cpus" => limits.cpuset_cpus = Some(list(value)?),
        "cpuset-mems" => limits.cpuset_mems = Some(list(value)?),
        _ => {
            return Err(
                "unknown resource; use memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus or \
                        cpuset-mems"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// `0-2,4`
fn list(text: &str) -> Result<String, String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_range = |text: &str| text.split_once('-').map_or(is_number(text), |(a, b)| is_number(a) && is_number(b));
    if text.split(',').all(is_range) { Ok(text.to_owned()) } else { Err(format!("invalid list: '{text}'")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &LimitArgs, expected: Result<Limits, &str>) {
        let found = limits(args).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    fn resource(text: &str) -> LimitArgs {
        LimitArgs { resource: vec![text.to_owned()], ..LimitArgs::default() }
    }

    #[test]
    fn flags_and_resources_say_the_same() {
        let expected = Limits {
            memory: Some(64 << 20),
            memory_swap: Some(-1),
            cpu_quota: Some(50_000),
            cpuset_cpus: Some("0-1,3".into()),
            ..Limits::default()
        };
        check(&resource("memory=64m,memory-swap=-1,cpu-quota=50000,\"cpuset-cpus=0-1,3\""), Ok(expected.clone()));
        let flags = LimitArgs {
            memory: Some("64m".into()),
            memory_swap: Some("-1".into()),
            cpu_quota: Some("50000".into()),
            cpuset_cpus: Some("0-1,3".into()),
            ..LimitArgs::default()
        };
        check(&flags, Ok(expected));
        check(&LimitArgs { memory: Some("0".into()), ..LimitArgs::default() }, Ok(Limits::default()));
    }

    #[test]
    fn faults_name_the_flag() {
        check(
            &resource("disk=1"),
            Err(
                "--resource disk: unknown resource; use memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus or cpuset-mems",
            ),
        );
        check(&resource("memory"), Err("invalid field 'memory' must be a key=value pair"));
        check(&resource("cpuset-cpus=a"), Err("--resource cpuset-cpus: invalid list: 'a'"));
        check(
            &resource("memory=4m,memory-swap=3m"),
            Err("Minimum memoryswap limit should be larger than memory limit, see usage"),
        );
        check(
            &resource("memory-swap=3m"),
            Err("You should always set the Memory limit when using Memoryswap limit, see usage"),
        );
        check(
            &LimitArgs { cpu_shares: Some("x".into()), ..LimitArgs::default() },
            Err("--cpu-shares: invalid number: 'x'"),
        );
    }
}
