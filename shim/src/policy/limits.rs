//! Limits of the runtime specification, which speaks of cgroup v1, as the files of cgroup v2 want them.
//!
//! Sources: runtime-spec 1.2 config-linux.md; the table "cgroup v2" of crun(1); cgroups(7) and the
//! kernel's admin-guide/cgroup-v2.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::config::Resources;
use crate::error::Error;
use crate::plan::{Controller, Limit};
use crate::rules::{Rule, active};

/// The kernel's bounds of cpu.max, in microseconds: no quota below, no period outside.
const CPU_TIME_US: core::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// What the kernel takes where no period is given, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;
/// The bounds of cpu.shares of cgroup v1.
const SHARES: core::ops::RangeInclusive<u64> = 2..=262_144;
/// The bounds of cpu.weight of cgroup v2.
const WEIGHTS: core::ops::RangeInclusive<u64> = 1..=10_000;
/// Tasks that the kernel can count (PID_MAX_LIMIT).
const MAX_PIDS: u64 = 4_194_304;
/// Fraction bits of a logarithm.
const FRACTION_BITS: u32 = 32;
/// What the fraction bits that are cut off can make of a comparison; a weight's neighbour is much farther.
const ROUNDING: u128 = 64;
/// log2(10), with that many fraction bits.
const LOG2_OF_10: u128 = 14_267_572_527;

/// Decides what the leaf limits. "No limit" (-1) needs no word: a new cgroup has none.
///
/// # Errors
/// `resources.range`.
pub fn make_limits(resources: &Resources) -> Result<Vec<Limit>, Error> {
    let mut limits = Vec::new();
    let mut add = |controller, file, value: String| {
        limits.push(Limit { controller, file, value: value.into_bytes() });
    };
    let memory = amount("memory.limit", resources.memory, i64::MAX as u64)?;
    if let Some(bytes) = memory {
        add(Controller::Memory, c"memory.max", format!("{bytes}"));
    }
    if let Some(both) = amount("memory.swap", resources.memory_and_swap, i64::MAX as u64)? {
        // v1 counts memory and swap together, v2 swap alone.
        match memory.and_then(|memory| both.checked_sub(memory)) {
            Some(swap) => add(Controller::Memory, c"memory.swap.max", format!("{swap}")),
            None if active(Rule::ResourceValues) => {
                return Err(out_of_range(
                    "memory.swap is memory and swap together, so it needs a memory.limit not above it",
                ));
            }
            None => {}
        }
    }
    if let Some(tasks) = amount("pids.limit", resources.pids, MAX_PIDS)? {
        add(Controller::Pids, c"pids.max", format!("{tasks}"));
    }
    if let Some(value) = cpu_max(resources)? {
        add(Controller::Cpu, c"cpu.max", value);
    }
    // 0 is how podman and docker write "none given".
    if let Some(shares) = resources.shares.filter(|&shares| shares != 0) {
        if active(Rule::ResourceValues) && !SHARES.contains(&shares) {
            return Err(out_of_range("cpu.shares is 2 to 262144"));
        }
        add(Controller::Cpu, c"cpu.weight", format!("{}", weight_of(shares)));
    }
    Ok(limits)
}

fn cpu_max(resources: &Resources) -> Result<Option<String>, Error> {
    // 0 is how podman and docker write "none given", of both.
    let period = resources.period.filter(|&period| period != 0);
    let quota = amount("cpu.quota", resources.quota.filter(|&quota| quota != 0), i64::MAX as u64)?;
    let judged = active(Rule::ResourceValues);
    if judged && period.is_some_and(|period| !CPU_TIME_US.contains(&period)) {
        return Err(out_of_range("cpu.period is 1000 to 1000000 microseconds"));
    }
    if judged && quota.is_some_and(|quota| quota < *CPU_TIME_US.start()) {
        return Err(out_of_range("cpu.quota is 1000 microseconds or more"));
    }
    // A period alone limits nothing.
    Ok(quota.map(|quota| format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD_US))))
}

/// A limit that is a number: `None` where it is absent or -1.
fn amount(name: &str, value: Option<i64>, most: u64) -> Result<Option<u64>, Error> {
    match value {
        None | Some(-1) => Ok(None),
        Some(number) => match u64::try_from(number) {
            Ok(number @ 1..) if number <= most => Ok(Some(number)),
            _ if !active(Rule::ResourceValues) => Ok(None),
            _ => Err(out_of_range(&format!("{name} is -1, for none, or 1 to {most}"))),
        },
    }
}

fn out_of_range(why: &str) -> Error {
    Error::refused(
        "resources.range",
        format!("linux.resources.{why}"),
        "give a value in that range, or remove the member",
    )
}

/// The cpu.weight that stands for `shares`.
///
/// The two scales are logarithmic with different ends, and a straight line between the ends would put
/// the default of one (1,024) far from that of the other (100). crun (1.23, its pull request 1767) and
/// runc (1.3.2) take the curve through all three pairs, (2, 1), (1024, 100) and (262144, 10000), rounded
/// up: with l = log2(shares), log10(weight) = (l² + 125 l - 126) / 612.
fn weight_of(shares: u64) -> u64 {
    let one = 1_u128 << FRACTION_BITS;
    let l = log2(shares.clamp(*SHARES.start(), *SHARES.end()));
    let target = (l * l / one + 125 * l - 126 * one) * LOG2_OF_10 / one / 612;
    let (mut low, mut high) = (*WEIGHTS.start(), *WEIGHTS.end());
    while low < high {
        let middle = (low + high) / 2;
        if log2(middle) + ROUNDING >= target {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// log2 of a positive number, with [`FRACTION_BITS`] fraction bits: no floating point is needed for it.
fn log2(number: u64) -> u128 {
    let whole = number.ilog2();
    // 1 ≤ mantissa < 2, with 63 fraction bits; a square of 2 or more is one more bit of the result.
    let mut mantissa = u128::from(number) << (63 - whole);
    let mut result = u128::from(whole);
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        result <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            result |= 1;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(resources: Resources) -> Vec<(&'static str, String)> {
        let made = make_limits(&resources).unwrap();
        made.into_iter()
            .map(|limit| (limit.file.to_str().unwrap(), String::from_utf8(limit.value).unwrap()))
            .collect()
    }

    const NONE: Resources = Resources {
        memory: None,
        memory_and_swap: None,
        pids: None,
        quota: None,
        period: None,
        shares: None,
    };

    #[test]
    fn what_asks_for_no_limit_needs_no_leaf() {
        assert_eq!(limits(NONE), []);
        let unlimited = Resources {
            memory: Some(-1),
            memory_and_swap: Some(-1),
            pids: Some(-1),
            quota: Some(-1),
            period: Some(100_000),
            shares: Some(0),
        };
        assert_eq!(limits(unlimited), []);
    }

    #[test]
    fn limits_become_files() {
        let all = Resources {
            memory: Some(100),
            memory_and_swap: Some(130),
            pids: Some(7),
            quota: Some(50_000),
            period: None,
            shares: Some(1024),
        };
        let expected = [
            ("memory.max", "100"),
            ("memory.swap.max", "30"),
            ("pids.max", "7"),
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "100"),
        ];
        assert_eq!(limits(all), expected.map(|(file, value)| (file, value.into())));
        let same = Resources { memory: Some(9), memory_and_swap: Some(9), ..NONE };
        assert_eq!(limits(same)[1], ("memory.swap.max", "0".into()));
    }

    fn bad() -> Vec<Resources> {
        std::vec![
            Resources { memory: Some(0), ..NONE },
            Resources { memory: Some(-2), ..NONE },
            Resources { memory_and_swap: Some(10), ..NONE },
            Resources { memory: Some(10), memory_and_swap: Some(9), ..NONE },
            Resources { memory: Some(-1), memory_and_swap: Some(9), ..NONE },
            Resources { pids: Some(0), ..NONE },
            Resources { pids: Some(4_194_305), ..NONE },
            Resources { quota: Some(999), ..NONE },
            Resources { quota: Some(-3), ..NONE },
            Resources { period: Some(999), ..NONE },
            Resources { quota: Some(5000), period: Some(1_000_001), ..NONE },
            Resources { shares: Some(1), ..NONE },
            Resources { shares: Some(262_145), ..NONE },
        ]
    }

    #[test]
    fn what_no_controller_knows_is_refused() {
        for resources in bad() {
            let code = make_limits(&resources).unwrap_err().code;
            assert_eq!(code, "resources.range", "{resources:?}");
        }
    }

    #[test]
    fn the_ends_of_each_range_are_in_it() {
        let least = Resources {
            memory: Some(1),
            memory_and_swap: Some(1),
            pids: Some(1),
            quota: Some(1_000),
            period: Some(1_000),
            shares: Some(2),
        };
        let expected = [
            ("memory.max", "1"),
            ("memory.swap.max", "0"),
            ("pids.max", "1"),
            ("cpu.max", "1000 1000"),
            ("cpu.weight", "1"),
        ];
        assert_eq!(limits(least), expected.map(|(file, value)| (file, value.into())));
        let most = Resources {
            memory: Some(i64::MAX),
            memory_and_swap: Some(i64::MAX),
            pids: Some(4_194_304),
            quota: Some(i64::MAX),
            period: Some(1_000_000),
            shares: Some(262_144),
        };
        let expected = [
            ("memory.max", "9223372036854775807"),
            ("memory.swap.max", "0"),
            ("pids.max", "4194304"),
            ("cpu.max", "9223372036854775807 1000000"),
            ("cpu.weight", "10000"),
        ];
        assert_eq!(limits(most), expected.map(|(file, value)| (file, value.into())));
    }

    #[test]
    #[cfg(locald_mutants)]
    fn without_the_rule_it_is_not() {
        assert!(crate::rules::disable_from(b"29-values"));
        for resources in bad() {
            assert!(make_limits(&resources).is_ok(), "{resources:?}");
        }
    }

    #[test]
    fn weights_are_those_of_floating_point() {
        for (shares, weight) in [(2, 1), (1024, 100), (262_144, 10_000)] {
            assert_eq!(weight_of(shares), weight);
        }
        let mut before = 0;
        for shares in SHARES.step_by(37) {
            let l = (shares as f64).log2();
            let exact = 10_f64.powf((l * l + 125.0 * l - 126.0) / 612.0);
            let weight = weight_of(shares);
            assert_eq!(weight, (exact - 1e-6).ceil() as u64, "{shares}: {exact}");
            assert!(weight >= before && WEIGHTS.contains(&weight));
            before = weight;
        }
    }
}
