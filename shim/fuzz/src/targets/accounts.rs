//! /etc/passwd, /etc/group, /etc/subuid and /etc/subgid, against a second reading of their manuals.

use locald_shim::accounts::{find_gid, find_uid, find_user_name};
use locald_shim::policy::{self, Caller, Host};
use locald_shim::subids;

use super::plan::check_map;
use super::{check_error, split};

const MAX_RANGES: usize = 340;

/// The input: `NAME UID`, a line `%`, the table. A `-` as name is a user without one.
pub fn run_subids(data: &[u8]) {
    let (head, table) = split(data);
    let (name, uid) = head.split_at(head.iter().position(|&byte| byte == b' ').unwrap_or(0));
    let uid = number(uid.trim_ascii()).unwrap_or(1000);
    let name = (name != b"-").then_some(name);
    let ranges = match subids::parse(table, name, uid) {
        Ok(ranges) => ranges,
        Err(error) => {
            assert!(matches!(error.code, "subids.malformed" | "subids.too-many"), "{}", error.code);
            return check_error(&error);
        }
    };
    assert!(ranges.len() <= MAX_RANGES, "{} ranges", ranges.len());
    let pairs: Vec<(u32, u32)> = ranges.iter().map(|range| (range.start, range.count)).collect();
    assert_eq!(Some(pairs), read_ranges(table, name, uid), "another reader grants other ranges");

    let caller = caller(uid);
    let host = Host { subuids: ranges.clone(), subgids: ranges.clone(), ram_bytes: 1 << 30 };
    match policy::own_map(&caller, &host) {
        Ok((uids, gids)) => {
            check_map(&uids, uid, &ranges, 0);
            check_map(&gids, uid, &ranges, 0);
        }
        Err(error) => check_error(&error),
    }
}

/// The input: a name, a line `%`, the table; it is read as both kinds.
pub fn run_accounts(data: &[u8]) {
    let (name, table) = split(data);
    let users = read_table(table, 7);
    let groups = read_table(table, 4);
    for name in [name].into_iter().chain(users.iter().chain(&groups).map(|entry| entry.0)) {
        let first = |entries: &[(&[u8], u32)]| entries.iter().find(|e| e.0 == name).map(|e| e.1);
        assert_eq!(find_uid(table, name), first(&users), "{:?}", String::from_utf8_lossy(name));
        assert_eq!(find_gid(table, name), first(&groups), "{:?}", String::from_utf8_lossy(name));
    }
    for uid in [0, 1000, u32::MAX].into_iter().chain(users.iter().map(|entry| entry.1)) {
        let first = users.iter().find(|entry| entry.1 == uid).map(|entry| entry.0);
        assert_eq!(find_user_name(table, uid), first, "uid {uid}");
    }
}

pub(super) fn caller(uid: u32) -> Caller {
    Caller { uid, gid: uid, groups: Vec::new(), rlimits: [(0, 0); 16], oom_score_adj: 0 }
}

/// Plain decimal below 2³² - 1, by the standard library's parser, which alone would take a `+`.
pub(super) fn number(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= 10)?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}

/// A login name: printable ASCII without separators, no sign of NIS before it, not all digits.
pub(super) fn is_name(name: &[u8]) -> bool {
    let bad = |byte: &u8| *byte <= b' ' || *byte >= 0x7f || b":,#/".contains(byte);
    let Some(first) = name.first() else { return false };
    !b"+-".contains(first) && !name.iter().any(bad) && !name.iter().all(u8::is_ascii_digit)
}

fn read_table(table: &[u8], fields: usize) -> Vec<(&[u8], u32)> {
    let lines = table.split(|&byte| byte == b'\n').map(|line| line.split(|&byte| byte == b':'));
    let lines = lines.map(Iterator::collect::<Vec<_>>).filter(|line| line.len() == fields);
    lines
        .filter(|line| is_name(line[0]))
        .filter_map(|line| Some((line[0], number(line[2])?)))
        .collect()
}

/// `None` where a line of the user's is malformed.
fn read_ranges(table: &[u8], name: Option<&[u8]>, uid: u32) -> Option<Vec<(u32, u32)>> {
    let mut ranges = Vec::new();
    for line in table.split(|&byte| byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        let by_name = name.is_some_and(|name| is_name(name) && fields[0] == name);
        if by_name || number(fields[0]) == Some(uid) {
            let [_, start, count] = fields[..] else { return None };
            let range = (number(start)?, number(count)?);
            if range.1 > 0 && !ranges.contains(&range) {
                ranges.push(range);
            }
        }
    }
    Some(ranges)
}
