//! Id maps: container id X is the caller, all others are his subordinate ids, in their order.
//!
//! With `sub` the caller's ranges one after the other, container id i is `sub[i]` below X, the
//! caller at X, and `sub[i - 1]` above it. Without ranges only X is mapped.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use crate::config::Mapping;
use crate::error::Error;
use crate::plan::IdRange;
use crate::rules::{Rule, active};
use crate::subids::Range;

/// The kernel's limit (UID_GID_MAP_MAX_EXTENTS, user_namespaces(7)).
const MAX_EXTENTS: usize = 340;
/// A map is written at once and shorter than a page.
const MAX_MAP_BYTES: usize = 4095;
/// Highest container id that can be the caller: `nobody`, as in images.
const MAX_CHOSEN: u32 = 65_534;

/// Makes the map of one kind of id (`uid` or `gid`) for the caller, who is `own` on the host.
///
/// # Errors
/// `map.entry`, `map.host-zero`, `map.extents`, `subids.range`, `subids.overlap`.
pub(super) fn make_map(
    kind: &str,
    own: u32,
    ranges: &[Range],
    entries: &[Mapping],
) -> Result<Vec<IdRange>, Error> {
    let chosen = choose(kind, own, entries)?;
    check_ranges(kind, own, ranges)?;
    let map = lay_out(own, chosen, ranges).ok_or_else(|| range_error(kind))?;
    if active(Rule::Extents) && (map.len() > MAX_EXTENTS || render_map(&map).len() > MAX_MAP_BYTES)
    {
        let why = format!("the {kind} map has {} extents, more than the kernel takes", map.len());
        let hint = "an administrator merges the ranges in /etc/subuid and /etc/subgid";
        return Err(Error::refused("map.extents", why, hint));
    }
    Ok(map)
}

/// The map as the kernel wants it in /proc/PID/uid_map.
pub fn render_map(map: &[IdRange]) -> Vec<u8> {
    let mut text = Vec::new();
    for range in map {
        for (number, end) in [(range.inside, b' '), (range.outside, b' '), (range.count, b'\n')] {
            text.extend_from_slice(number.to_string().as_bytes());
            text.push(end);
        }
    }
    text
}

/// Whether `id` means somebody in the container.
pub(super) fn is_mapped(map: &[IdRange], id: u32) -> bool {
    map.iter().any(|range| id >= range.inside && id - range.inside < range.count)
}

/// Reads X: all that the spec may say about a map.
fn choose(kind: &str, own: u32, entries: &[Mapping]) -> Result<u32, Error> {
    let own_entry =
        |entry: &Mapping| entry.host == own && entry.size == 1 && entry.container <= MAX_CHOSEN;
    match entries {
        [] => Ok(0),
        [entry] if own_entry(entry) => Ok(entry.container),
        [entry, ..] if !active(Rule::SpecMap) => Ok(entry.container.min(MAX_CHOSEN)),
        _ => {
            let why =
                format!("linux.{kind}Mappings is more than one container {kind} for yours, {own}");
            let hint = r#"write one entry with your own id as "hostID" and "size": 1, or remove the member; subordinate ids are added by the shim"#;
            Err(Error::refused("map.entry", why, hint))
        }
    }
}

/// Refuses what an administrator's mistake could grant. Refused rather than dropped: without one
/// range the ids of all files would silently shift.
fn check_ranges(kind: &str, own: u32, ranges: &[Range]) -> Result<(), Error> {
    if !active(Rule::SubordinateRange) {
        return Ok(());
    }
    if own == 0 {
        let why = format!("your {kind} is 0, which no container maps");
        let hint = "use an account with another primary group, or no user namespace";
        return Err(Error::refused("map.host-zero", why, hint));
    }
    let contains = |range: &Range, id: u32| id >= range.start && u64::from(id) < range.end();
    // The last id a map can hold is 2³² - 2.
    let bad = |range: &Range| {
        range.count == 0
            || contains(range, 0)
            || contains(range, own)
            || range.end() > u64::from(u32::MAX)
    };
    if ranges.iter().any(bad) {
        return Err(range_error(kind));
    }
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    if sorted.windows(2).any(|pair| pair[0].end() > u64::from(pair[1].start)) {
        let why = format!("two of your ranges in /etc/sub{kind} overlap");
        let hint = "an administrator corrects /etc/subuid and /etc/subgid";
        return Err(Error::refused("subids.overlap", why, hint));
    }
    Ok(())
}

fn range_error(kind: &str) -> Error {
    let why = format!(
        "a range of yours in /etc/sub{kind} holds 0, your own {kind}, or ids beyond 32 bits"
    );
    Error::refused("subids.range", why, "an administrator corrects /etc/subuid and /etc/subgid")
}

/// `None` if the ids overflow, which checked ranges cannot.
fn lay_out(own: u32, chosen: u32, ranges: &[Range]) -> Option<Vec<IdRange>> {
    let mut map = Vec::new();
    let mut inside = 0u32;
    for &Range { start: mut outside, count: mut left } in ranges {
        if inside <= chosen && chosen - inside < left {
            let below = chosen - inside;
            push(&mut map, IdRange { inside, outside, count: below });
            push(&mut map, IdRange { inside: chosen, outside: own, count: 1 });
            inside = chosen.checked_add(1)?;
            outside = outside.checked_add(below)?;
            left -= below;
        }
        push(&mut map, IdRange { inside, outside, count: left });
        inside = inside.checked_add(left)?;
    }
    if inside <= chosen {
        push(&mut map, IdRange { inside: chosen, outside: own, count: 1 });
    }
    Some(map)
}

/// Appends a range, as part of the one before where it continues it.
fn push(map: &mut Vec<IdRange>, range: IdRange) {
    if range.count == 0 {
        return;
    }
    if let Some(last) = map.last_mut() {
        let follows = |first: u32, next: u32| first.checked_add(last.count) == Some(next);
        if follows(last.inside, range.inside) && follows(last.outside, range.outside) {
            last.count += range.count;
            return;
        }
    }
    map.push(range);
}

#[cfg(test)]
mod tests;
