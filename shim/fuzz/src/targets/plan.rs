//! The invariants of a plan: what must hold whatever the config, the caller and the host are.

use locald_shim::plan::{Capabilities, Controller, IdRange, Limit, Mode, Plan, Source};
use locald_shim::policy::{Caller, Host, render_map};
use locald_shim::subids::Range;

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT and
/// SETFCAP, by their numbers in capabilities(7).
const CAPABILITIES: [u32; 11] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31];
const MAX_MOUNTS: usize = 128;
const MAX_STRINGS: usize = 4096;
const MAX_GROUPS: usize = 256;

/// Panics where `plan` could give its caller more than his own.
pub fn check(plan: &Plan, caller: &Caller, host: &Host) {
    assert_ne!(caller.uid, 0, "a plan for root");
    check_mode(plan, caller, host);
    check_capabilities(&plan.process.capabilities, &plan.mode);
    check_mounts(plan, host.ram_bytes);
    check_process(plan, caller);
    check_limits(&plan.limits);
    if let Some(name) = &plan.hostname {
        assert!((1..=64).contains(&name.as_bytes().len()), "the host name {name:?}");
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
        assert!(name.as_bytes().iter().all(plain), "the host name {name:?}");
    }
    assert!((1..4096).contains(&plan.root.path.as_bytes().len()), "the root's path");
}

fn check_mode(plan: &Plan, caller: &Caller, host: &Host) {
    let process = &plan.process;
    match &plan.mode {
        Mode::Direct => {
            assert_eq!((process.uid, process.gid), (caller.uid, caller.gid), "a foreign id");
            assert_eq!(process.groups, None, "groups are set without a user namespace");
        }
        Mode::Mapped { uids, gids, setgroups } => {
            let chosen = |map: &[IdRange], own: u32| {
                let range = map.iter().find(|range| range.outside == own);
                range.expect("the caller is in the map").inside
            };
            check_map(uids, caller.uid, &host.subuids, chosen(uids, caller.uid));
            check_map(gids, caller.gid, &host.subgids, chosen(gids, caller.gid));
            assert!(!setgroups || !host.subgids.is_empty(), "setgroups without a granted gid");
            assert!(find(uids, process.uid).is_some(), "uid {} is not mapped", process.uid);
            let groups = process.groups.as_deref().unwrap_or_default();
            for gid in groups.iter().chain([&process.gid]) {
                assert!(find(gids, *gid).is_some(), "gid {gid} is not mapped");
            }
            assert!(
                *setgroups || process.groups.is_none(),
                "groups are set, the kernel forbids it"
            );
            assert!(groups.len() <= MAX_GROUPS, "{} groups", groups.len());
        }
    }
}

/// The host id of a container id.
fn find(map: &[IdRange], id: u32) -> Option<u64> {
    let offset = |range: &IdRange| id.checked_sub(range.inside).filter(|n| *n < range.count);
    map.iter().find_map(|range| Some(u64::from(range.outside) + u64::from(offset(range)?)))
}

/// A map holds the caller once, his ranges whole, nobody else and never root, as the kernel takes it.
///
/// `chosen` is the container id that is the caller, where his range begins with him.
pub fn check_map(map: &[IdRange], own: u32, grants: &[Range], chosen: u32) {
    assert!((1..=340).contains(&map.len()), "{} extents", map.len());
    let text = String::from_utf8(render_map(map)).expect("a map is text");
    assert!(text.len() < 4096, "a map of {} bytes", text.len());
    assert_eq!(parse_map(&text), map, "parse(render(map)) is not the map");

    let end = |start: u32, count: u32| u64::from(start) + u64::from(count);
    for range in map {
        assert!(range.count > 0, "an empty extent");
        let last = end(range.inside, range.count).max(end(range.outside, range.count));
        assert!(last <= u64::from(u32::MAX), "an extent with the id that means none");
    }
    for pair in map.windows(2) {
        assert!(end(pair[0].inside, pair[0].count) <= u64::from(pair[1].inside), "extents overlap");
    }
    let mut outside: Vec<&IdRange> = map.iter().collect();
    outside.sort_by_key(|range| range.outside);
    for pair in outside.windows(2) {
        let before = end(pair[0].outside, pair[0].count);
        assert!(before <= u64::from(pair[1].outside), "a host id is mapped twice");
    }
    for range in map {
        assert!(range.outside != 0, "host id 0 is mapped");
        // Extents of neighbouring grants may be one: walk from grant to grant.
        let mut at = u64::from(range.outside);
        while at < end(range.outside, range.count) {
            let granted =
                grants.iter().find(|grant| (u64::from(grant.start)..grant.end()).contains(&at));
            at = match granted {
                Some(grant) => grant.end(),
                None if at == u64::from(own) => at + 1,
                None => panic!("host id {at} is not the caller's"),
            };
        }
    }
    let mapped: u64 = map.iter().map(|range| u64::from(range.count)).sum();
    let granted: u64 = grants.iter().map(|range| u64::from(range.count)).sum();
    assert_eq!(mapped, granted + 1, "ids were lost or added");
    assert_eq!(find(map, chosen), Some(u64::from(own)), "the chosen id is not the caller");
}

fn parse_map(text: &str) -> Vec<IdRange> {
    let number =
        |field: Option<&str>| field.and_then(|field| field.parse().ok()).expect("a number");
    text.lines()
        .map(|line| {
            let mut fields = line.split(' ');
            let (inside, outside) = (number(fields.next()), number(fields.next()));
            IdRange { inside, outside, count: number(fields.next()) }
        })
        .collect()
}

fn check_capabilities(sets: &Capabilities, mode: &Mode) {
    let all = [sets.bounding, sets.effective, sets.permitted, sets.inheritable, sets.ambient];
    let allowed = match mode {
        Mode::Direct => 0,
        Mode::Mapped { .. } => CAPABILITIES.iter().fold(0, |set, number| set | 1_u64 << number),
    };
    for set in all {
        assert_eq!(set & !allowed, 0, "a capability that nobody may have");
        assert_eq!(set & !sets.bounding, 0, "a capability above the bounding set");
    }
    assert_eq!(sets.effective & !sets.permitted, 0, "effective, not permitted");
    assert_eq!(sets.ambient & !(sets.permitted & sets.inheritable), 0, "ambient, not inheritable");
}

/// nosuid and nodev are no members of a mount: a plan cannot leave them out.
fn check_mounts(plan: &Plan, ram_bytes: u64) {
    assert!(plan.mounts.len() <= MAX_MOUNTS, "{} mounts", plan.mounts.len());
    for mount in &plan.mounts {
        let destination = mount.destination.as_bytes();
        check_clean(destination);
        assert_ne!(destination, b"/", "a mount over the root");
        for fixed in [&b"/proc"[..], b"/sys", b"/dev"] {
            assert!(!is_beneath(destination, fixed), "a mount over {:?}", mount.destination);
        }
        match &mount.source {
            Source::Bind(source) => {
                let source = source.as_bytes();
                assert!(source.starts_with(b"/") && source.len() < 4096, "a bind of {source:?}");
            }
            Source::Tmpfs { size_bytes, inodes, mode } => {
                // 0 is no limit; a page where half of the memory is less than one.
                let most = (ram_bytes / 2).max(4096);
                assert!((1..=most).contains(size_bytes), "a tmpfs of {size_bytes} bytes");
                assert!((1..=(most / 4096).max(1024)).contains(inodes), "{inodes} inodes");
                assert_eq!(mode & !0o1777, 0, "mode {mode:o}");
            }
        }
    }
}

fn check_process(plan: &Plan, caller: &Caller) {
    let process = &plan.process;
    assert!(process.args.first().is_some_and(|program| !program.is_empty()), "no program");
    assert!(process.args.len() + process.env.len() <= MAX_STRINGS, "too many strings");
    for entry in &process.env {
        let equals = entry.as_bytes().iter().position(|&byte| byte == b'=');
        assert!(equals.is_some_and(|at| at > 0), "the environment holds {entry:?}");
    }
    check_clean(process.cwd.as_bytes());
    for descriptor in [&b"/proc"[..], b"/dev/fd"] {
        assert!(!is_beneath(process.cwd.as_bytes(), descriptor), "the directory {:?}", process.cwd);
    }
    assert!(process.umask <= 0o777, "umask {:o}", process.umask);
    for (index, limit) in process.rlimits.iter().enumerate() {
        let hard = caller.rlimits[limit.resource as usize].1;
        assert!(
            limit.soft <= limit.hard && limit.hard <= hard,
            "{limit:?} where {hard} is allowed"
        );
        let twice = process.rlimits[..index].iter().any(|other| other.resource == limit.resource);
        assert!(!twice, "{limit:?} twice");
    }
}

/// The files of cgroup v2 that a leaf's limits are in, who keeps them, and what may be written there.
const LIMITS: [(&str, Controller, u64, u64); 5] = [
    ("memory.max", Controller::Memory, 1, i64::MAX as u64),
    ("memory.swap.max", Controller::Memory, 0, i64::MAX as u64),
    ("pids.max", Controller::Pids, 1, 4_194_304),
    ("cpu.max", Controller::Cpu, 1_000, i64::MAX as u64),
    ("cpu.weight", Controller::Cpu, 1, 10_000),
];

/// Nothing is written but a number that its file knows: no path, no word, no file twice.
fn check_limits(limits: &[Limit]) {
    for (index, limit) in limits.iter().enumerate() {
        let file = limit.file.to_str().expect("a file of cgroup v2");
        let known = LIMITS.iter().find(|known| known.0 == file);
        let (_, controller, least, most) = known.unwrap_or_else(|| panic!("the file {file}"));
        assert_eq!(limit.controller, *controller, "who keeps {file}");
        let text = std::str::from_utf8(&limit.value).expect("a limit is text");
        let mut words = text.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let value = number();
        assert!(value.is_some_and(|n| (*least..=*most).contains(&n)), "{file}: {text:?}");
        if file == "cpu.max" {
            let period = number();
            assert!(period.is_some_and(|n| (1_000..=1_000_000).contains(&n)), "{file}: {text:?}");
        }
        assert_eq!(words.next(), None, "{file}: {text:?}");
        assert!(!limits[..index].iter().any(|other| other.file == limit.file), "{file} twice");
    }
}

/// The number in the leaf's `file`; none where it is not limited.
pub fn limit_of(limits: &[Limit], file: &str) -> Option<i128> {
    let limit = limits.iter().find(|limit| limit.file.to_bytes() == file.as_bytes())?;
    let text = std::str::from_utf8(&limit.value).expect("a limit is text");
    text.split(' ').next().and_then(|word| word.parse().ok())
}

fn check_clean(path: &[u8]) {
    let shown = String::from_utf8_lossy(path);
    assert!(path.starts_with(b"/") && path.len() < 4096, "the path {shown:?}");
    if path != b"/" {
        for part in path[1..].split(|&byte| byte == b'/') {
            assert!(!matches!(part, b"" | b"." | b".."), "the path {shown:?}");
        }
    }
}

fn is_beneath(path: &[u8], directory: &[u8]) -> bool {
    path == directory || path.starts_with(&[directory, b"/"].concat())
}
