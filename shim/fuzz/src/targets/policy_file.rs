//! /etc/locald/policy: it fails closed, and permits only whom a line of it names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use locald_shim::policy_file::{Mode, Policy};

use super::accounts::{caller, number};
use super::{check_error, expand, split};

const MAX_BYTES: usize = 64 * 1024;
const PASSWD: &[u8] = b"root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n";
/// The two usual ones first, then those that would stand before somebody else's, or before everybody's.
const ADDRESSES: [IpAddr; 7] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
];
const GROUP: &[u8] = b"root:x:0:\ndev:x:50:\n";

/// The input: `UID GROUP…`, a line `%`, the file.
pub fn run(data: &[u8]) {
    let data = expand(data);
    let (head, text) = split(&data);
    let mut ids = head.split(|&byte| byte == b' ').filter_map(number);
    let mut caller = caller(ids.next().unwrap_or(1000));
    caller.groups = ids.take(8).collect();
    let lines = read_lines(text);
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(error) => {
            assert_eq!(error.code, "shim.policy");
            return check_error(&error);
        }
    };
    assert!(text.len() <= MAX_BYTES, "a policy of {} bytes", text.len());
    assert_eq!(values(&lines, b"version"), [b"1"], "a policy without its one version");
    let single: [&[u8]; 5] =
        [b"min-shim", b"max-containers", b"modes", b"bind-ports", b"bind-addresses"];
    for once in single {
        assert!(values(&lines, once).len() <= 1, "{} twice", String::from_utf8_lossy(once));
    }
    assert!(lines.iter().all(|line| line.1.is_some()), "a line that is not `key = value`");
    check_lists(&policy, &lines);
    match policy.permits(&caller, PASSWD, GROUP) {
        Err(error) => check_error(&error),
        Ok(()) => {
            let user =
                |value: &&[u8]| is_account(value, caller.uid, &[(b"ann", 1000), (b"root", 0)]);
            let group = |value: &&[u8]| {
                let mut gids = caller.groups.iter().chain([&caller.gid]);
                gids.any(|gid| is_account(value, *gid, &[(b"dev", 50), (b"root", 0)]))
            };
            let named = values(&lines, b"allow-user").iter().any(user)
                || values(&lines, b"allow-group").iter().any(group);
            assert!(named, "uid {} is permitted and no line names him", caller.uid);
            for least in values(&lines, b"min-shim") {
                assert!(!is_newer(least), "a shim older than the minimum goes on");
            }
        }
    }
    // A comment and an empty line say nothing.
    let longer = [text, b"\n# x = y\n\n"].concat();
    if longer.len() <= MAX_BYTES {
        assert_eq!(Policy::parse(&longer).as_ref(), Ok(&policy), "a comment changes the policy");
    }
    // What is not known is never passed over.
    assert!(Policy::parse(&[text, b"\nallow-users = 1000\n"].concat()).is_err());
}

/// Nothing is given that no line names; where no line does, the defaults alone are.
fn check_lists(policy: &Policy, lines: &[Line<'_>]) {
    let words = |key: &[u8]| {
        let value = values(lines, key).first().copied()?;
        Some(value.split(u8::is_ascii_whitespace).collect::<Vec<_>>())
    };
    let port_listed = |port: u16| match words(b"bind-ports") {
        Some(words) => words.iter().any(|word| number(word) == Some(u32::from(port))),
        None => matches!(port, 80 | 443),
    };
    let address_listed = |address: IpAddr| match words(b"bind-addresses") {
        Some(words) => words.iter().any(|word| read_address(word) == Some(address)),
        None => address.is_loopback() && !ADDRESSES[2..].contains(&address),
    };
    for port in [1, 22, 80, 443, 8443, 65_535] {
        for address in ADDRESSES {
            let given = policy.permits_bind(address, port).is_ok();
            let listed = port_listed(port) && address_listed(address);
            assert_eq!(given, listed, "port {port} of {address}: given, listed");
        }
    }
    for (mode, name) in [(Mode::Mapped, &b"mapped"[..]), (Mode::Direct, b"direct")] {
        let listed = words(b"modes").is_none_or(|words| words.contains(&name));
        assert_eq!(policy.permits_mode(mode).is_ok(), listed, "{mode:?}");
    }
}

fn read_address(word: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn is_account(value: &[u8], id: u32, names: &[(&[u8], u32)]) -> bool {
    number(value) == Some(id) || names.contains(&(value, id))
}

type Line<'a> = (&'a [u8], Option<&'a [u8]>);

fn read_lines(text: &[u8]) -> Vec<Line<'_>> {
    let lines = text.split(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.splitn(2, |&byte| byte == b'#').next().unwrap_or(line));
    let lines = lines.map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut halves = line.splitn(2, |&byte| byte == b'=').map(<[u8]>::trim_ascii);
            (halves.next().unwrap_or_default(), halves.next())
        })
        .collect()
}

fn values<'a>(lines: &[Line<'a>], key: &[u8]) -> Vec<&'a [u8]> {
    lines.iter().filter(|line| line.0 == key).filter_map(|line| line.1).collect()
}

/// Whether `least` is above this shim's version.
fn is_newer(least: &[u8]) -> bool {
    let parts =
        |text: &[u8]| -> Vec<u32> { text.split(|&byte| byte == b'.').filter_map(number).collect() };
    parts(least) > parts(version().as_bytes())
}

/// The shim's version, as it tells it: the harness is built with another package's.
fn version() -> String {
    let own = locald_shim::policy_file::Version::own().expect("the shim has a version");
    format!("{}.{}.{}", own.0, own.1, own.2)
}
