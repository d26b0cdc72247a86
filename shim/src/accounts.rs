//! Reads /etc/passwd and /etc/group from bytes: no NSS, which would load code into a setuid program.
//!
//! A line that is malformed names nobody and is passed over, as are the `+` and `-` lines of NIS.
//! The first line that fits counts. Accounts that only a directory service knows are not seen: they
//! are named by number in the policy and in /etc/subuid.

use crate::rules::{Rule, active};

/// The login name of `uid`, by /etc/passwd.
pub fn find_user_name(passwd: &[u8], uid: u32) -> Option<&[u8]> {
    entries(passwd, 7).find(|&(_, id)| id == uid).map(|(name, _)| name)
}

/// The uid of the login `name`, by /etc/passwd.
pub fn find_uid(passwd: &[u8], name: &[u8]) -> Option<u32> {
    entries(passwd, 7).find(|&(known, _)| known == name).map(|(_, id)| id)
}

/// The gid of the group `name`, by /etc/group.
pub fn find_gid(group: &[u8], name: &[u8]) -> Option<u32> {
    entries(group, 4).find(|&(known, _)| known == name).map(|(_, id)| id)
}

/// An id in plain decimal: digits only, below 2³² - 1, which means "none" to the kernel.
pub fn parse_id(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text.iter().fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'));
    u32::try_from(number).ok().filter(|&id| id != u32::MAX)
}

/// Whether `text` can be the name of an account. All digits would be taken for an id elsewhere:
/// a user called `1000` must not own what was granted to uid 1000.
pub fn is_name(text: &[u8]) -> bool {
    let digits = active(Rule::DigitName) && text.iter().all(u8::is_ascii_digit);
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b':' | b',' | b'#' | b'/');
    !text.is_empty() && !digits && !matches!(text[0], b'+' | b'-') && text.iter().all(plain)
}

/// Name and id of every well-formed line with `fields` fields; both files have the id third.
fn entries(table: &[u8], fields: usize) -> impl Iterator<Item = (&[u8], u32)> {
    table.split(|&byte| byte == b'\n').filter_map(move |line| {
        let mut parts = line.split(|&byte| byte == b':');
        let (name, _password, id) = (parts.next()?, parts.next()?, parts.next()?);
        let complete = parts.count() == fields - 3;
        Some((name, parse_id(id)?)).filter(|_| complete && is_name(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        \n\
        # comment\n\
        +nis::::::\n\
        1001:x:1005:1005::/:/bin/sh\n\
        ann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\n\
        short:x:1001:1001::/home\n\
        long:x:1001:1001::/home:/bin/sh:more\n\
        minus:x:-1:0::/:/bin/sh\n\
        plus:x:+7:0::/:/bin/sh\n\
        big:x:4294967296:0::/:/bin/sh\n\
        none:x:4294967295:0::/:/bin/sh\n\
        hex:x:0x10:0::/:/bin/sh\n\
        alias:x:1000:1000::/:/bin/sh\n\
        ann:x:2000:2000::/:/bin/sh\n\
        \xff\xfe:x:3000:1::/:/bin/sh\n\
        last:x:4294967294:1::/:/bin/sh";

    #[test]
    fn the_first_well_formed_line_counts() {
        assert_eq!(find_user_name(PASSWD, 1000), Some(&b"ann"[..]));
        assert_eq!(find_uid(PASSWD, b"ann"), Some(1000));
        assert_eq!(find_uid(PASSWD, b"alias"), Some(1000));
        assert_eq!(find_uid(PASSWD, b"last"), Some(u32::MAX - 1));
        assert_eq!(find_user_name(PASSWD, 0), Some(&b"root"[..]));
        for name in
            [&b"short"[..], b"long", b"minus", b"plus", b"big", b"none", b"hex", b"", b"\xff\xfe"]
        {
            assert_eq!(find_uid(PASSWD, name), None, "{name:?}");
        }
        assert_eq!(find_user_name(PASSWD, 1001), None);
        assert_eq!(find_user_name(PASSWD, u32::MAX), None);
    }

    #[test]
    fn an_all_digit_name_is_not_a_name() {
        let refused = find_uid(PASSWD, b"1001").is_none() && find_user_name(PASSWD, 1005).is_none();
        assert!(refused);
        #[cfg(locald_mutants)]
        {
            assert!(crate::rules::disable_from(b"28-name"));
            assert_eq!(find_uid(PASSWD, b"1001"), Some(1005));
        }
    }

    #[test]
    fn groups_have_four_fields() {
        let group = b"root:x:0:\ndev:x:50:ann,bob\nbad:x:51\nworse:x:52::\ndev:x:60:\n";
        assert_eq!(find_gid(group, b"dev"), Some(50));
        assert_eq!(find_gid(group, b"bad"), None);
        assert_eq!(find_gid(group, b"worse"), None);
        assert_eq!(find_gid(b"", b"dev"), None);
    }

    #[test]
    fn ids_are_plain_decimals() {
        assert_eq!(parse_id(b"0"), Some(0));
        assert_eq!(parse_id(b"007"), Some(7));
        assert_eq!(parse_id(b"4294967294"), Some(u32::MAX - 1));
        for text in [
            &b""[..],
            b" 1",
            b"1 ",
            b"-1",
            b"+1",
            b"4294967295",
            b"99999999999",
            b"1e3",
            b"\xd9\xa1",
        ] {
            assert_eq!(parse_id(text), None, "{text:?}");
        }
    }
}
