//! Reads /etc/subuid and /etc/subgid (subuid(5)) for one user, from bytes.
//!
//! A line is `OWNER:START:COUNT`, the owner a login name or a decimal uid. Both files name the owner
//! by *user*, also the one of gids. A malformed line of somebody else must not break the caller; one
//! of his own is refused, because passing over it would shift the ids of all his files. What the
//! ranges may not hold is the business of `policy`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::accounts::{is_name, parse_id};
use crate::error::Error;
use crate::rules::{Rule, active};

/// More ranges than a map can hold are refused before they are kept.
pub const MAX_RANGES: usize = 340;

/// Subordinate ids that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First id on the host.
    pub start: u32,
    /// How many; never 0.
    pub count: u32,
}

impl Range {
    /// The id after the last one; may lie beyond 32 bits.
    pub fn end(&self) -> u64 {
        u64::from(self.start) + u64::from(self.count)
    }
}

/// Returns the ranges that `table` grants to the user, in the order of its lines.
///
/// `name` is his login name (`accounts::find_user_name`), if he has one. A line that grants nothing
/// (count 0) is passed over, the same range twice counts once.
///
/// # Errors
/// `subids.malformed` for a malformed line of his own, `subids.too-many` beyond [`MAX_RANGES`].
pub fn parse(table: &[u8], name: Option<&[u8]>, uid: u32) -> Result<Vec<Range>, Error> {
    let name = name.filter(|name| is_name(name));
    let mut ranges = Vec::new();
    for line in table.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let owner = fields.next().unwrap_or_default();
        if !(Some(owner) == name || parse_id(owner) == Some(uid)) {
            continue;
        }
        let start = fields.next().and_then(parse_id);
        let count = fields.next().and_then(parse_id);
        match (start, count, fields.next()) {
            (Some(_), Some(0), None) => continue,
            (Some(start), Some(count), None) => {
                let range = Range { start, count };
                // Granted by name and by uid alike: harmless, and newuidmap takes it too.
                if !ranges.contains(&range) {
                    ranges.push(range);
                }
            }
            _ if !active(Rule::SubordinateLine) => continue,
            _ => {
                let owner = String::from_utf8_lossy(owner);
                let why = format!("a line of {owner} in /etc/subuid or /etc/subgid is malformed");
                let hint = "an administrator mends it: NAME:START:COUNT, as `usermod --add-subuids` writes it";
                return Err(Error::refused("subids.malformed", why, hint));
            }
        }
        if active(Rule::Extents) && ranges.len() > MAX_RANGES {
            let why = format!("more than {MAX_RANGES} ranges of subordinate ids are granted");
            let hint = "an administrator merges the ranges in /etc/subuid and /etc/subgid";
            return Err(Error::refused("subids.too-many", why, hint));
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(table: &str, name: Option<&str>, uid: u32) -> Result<Vec<(u32, u32)>, &'static str> {
        let ranges =
            parse(table.as_bytes(), name.map(str::as_bytes), uid).map_err(|error| error.code)?;
        Ok(ranges.iter().map(|range| (range.start, range.count)).collect())
    }

    #[test]
    fn lines_count_by_name_and_by_uid_in_their_order() {
        let table = "bob:1:1\nann:300000:10\n1000:200000:5\nannabel:7:7\nann:100:0\nann:500:1";
        assert_eq!(
            ranges(table, Some("ann"), 1000),
            Ok(vec![(300_000, 10), (200_000, 5), (500, 1)])
        );
        assert_eq!(ranges(table, None, 1000), Ok(vec![(200_000, 5)]));
        assert_eq!(ranges(table, Some("eve"), 1001), Ok(vec![]));
        assert_eq!(ranges("", Some("ann"), 1000), Ok(vec![]));
        assert_eq!(ranges("ann:9:9\n1000:9:9", Some("ann"), 1000), Ok(vec![(9, 9)]));
    }

    #[test]
    fn an_all_digit_login_name_owns_nothing() {
        // The user named "1000" has uid 2000; what uid 1000 was granted is not his.
        assert_eq!(ranges("1000:100000:65536", Some("1000"), 2000), Ok(vec![]));
        #[cfg(locald_mutants)]
        {
            assert!(crate::rules::disable_from(b"28-name"));
            assert_eq!(
                ranges("1000:100000:65536", Some("1000"), 2000),
                Ok(vec![(100_000, 65_536)])
            );
        }
    }

    const MALFORMED: &[&str] = &[
        "ann",
        "ann:",
        "ann:1",
        "ann:1:",
        "ann::1",
        "ann:1:1:1",
        "ann:1:1:",
        "ann:x:1",
        "ann:1:-1",
        "ann:0x10:1",
        "ann: 1:1",
        "ann:1:1 ",
        "ann:1:1\r",
        "ann:4294967295:1",
        "ann:1:4294967296",
        "ann:99999999999999999999:1",
        "1000:1",
    ];

    #[test]
    fn a_malformed_line_of_the_caller_is_refused() {
        for line in MALFORMED {
            assert_eq!(ranges(line, Some("ann"), 1000), Err("subids.malformed"), "{line:?}");
        }
    }

    #[test]
    fn a_malformed_line_of_another_is_passed_over() {
        for line in MALFORMED {
            let table = format!("{line}\n:\n\n#\neve:9:9\n{line}");
            assert_eq!(ranges(&table, Some("eve"), 1001), Ok(vec![(9, 9)]), "{line:?}");
        }
    }

    #[test]
    fn ranges_are_counted() {
        let lines =
            |count: u32| (0..count).map(|n| format!("ann:{}:1\n", n * 2 + 9)).collect::<String>();
        assert_eq!(ranges(&lines(340), Some("ann"), 1000).map(|found| found.len()), Ok(340));
        assert_eq!(ranges(&lines(341), Some("ann"), 1000), Err("subids.too-many"));
    }

    #[test]
    #[cfg(locald_mutants)]
    fn without_their_rules_both_pass() {
        assert!(crate::rules::disable_from(b"28-line,54-extents"));
        assert_eq!(ranges("ann:1\nann:2:2", Some("ann"), 1000), Ok(vec![(2, 2)]));
        let lines: String = (0..341).map(|n| format!("ann:{}:1\n", n * 2 + 9)).collect();
        assert_eq!(ranges(&lines, Some("ann"), 1000).map(|found| found.len()), Ok(341));
    }
}
