use super::*;
use crate::plan::{Capabilities, Source};
use crate::subids::Range;

const BASE: &str = r#"{
    "ociVersion": "1.2.0", @top
    "root": {"path": "rootfs"},
    "process": {"user": {"uid": 0, "gid": 0 @user}, "args": ["/bin/true"], "cwd": "/" @process},
    "mounts": [@mounts],
    "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "user"} @namespaces] @linux}
}"#;

/// Makes the base a direct one.
const DIRECT: &[(&str, &str)] =
    &[(r#", {"type": "user"}"#, ""), (r#""uid": 0, "gid": 0"#, r#""uid": 1000, "gid": 1000"#)];

fn caller() -> Caller {
    Caller { uid: 1000, gid: 1000, groups: vec![27], rlimits: [(1024, 4096); 16], oom_score_adj: 0 }
}

fn host() -> Host {
    let range = |start| vec![Range { start, count: 65_536 }];
    Host { subuids: range(100_000), subgids: range(200_000), ram_bytes: 8 << 30 }
}

fn text(edits: &[(&str, &str)]) -> String {
    let mut text = BASE.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from} is not in {text}");
        text = text.replacen(from, to, 1);
    }
    for mark in ["@top", "@user", "@process", "@mounts", "@namespaces", "@linux"] {
        text = text.replace(mark, "");
    }
    text
}

fn plan(text: &[u8]) -> Result<Plan, Error> {
    make_plan(Config::parse(text)?, &caller(), &host())
}

fn edited(edits: &[(&str, &str)]) -> Result<Plan, Error> {
    plan(text(edits).as_bytes())
}

#[test]
fn a_small_config_has_a_plan_in_both_modes() {
    let mapped = edited(&[]).unwrap();
    let Mode::Mapped { uids, gids, setgroups } = &mapped.mode else { panic!("{mapped:?}") };
    assert_eq!(render_map(uids), b"0 1000 1\n1 100000 65536\n");
    assert_eq!(render_map(gids), b"0 1000 1\n1 200000 65536\n");
    assert!(setgroups);
    assert_eq!(
        (mapped.network, &mapped.hostname, mapped.root.readonly),
        (Network::Host, &None, false)
    );
    let direct = edited(DIRECT).unwrap();
    assert_eq!(
        (direct.mode, direct.process.uid, direct.process.groups),
        (Mode::Direct, 1000, None)
    );
}

#[test]
fn a_new_network_is_asked_for() {
    assert_eq!(
        edited(&[("@namespaces", r#", {"type": "network"}"#)]).unwrap().network,
        Network::New
    );
}

#[test]
fn without_granted_gids_groups_stay() {
    let none = Host { subuids: vec![], subgids: vec![], ram_bytes: 1 << 30 };
    let plan = make_plan(Config::parse(text(&[]).as_bytes()).unwrap(), &caller(), &none).unwrap();
    let Mode::Mapped { uids, setgroups, .. } = plan.mode else { panic!("{plan:?}") };
    assert_eq!(
        (render_map(&uids).as_slice(), setgroups, plan.process.groups),
        (&b"0 1000 1\n"[..], false, None)
    );
}

type Edits = &'static [(&'static str, &'static str)];

/// Rule, code, edits: refused with the code, and accepted where the rule is switched off.
#[rustfmt::skip]
const REFUSED: &[(&str, &str, Edits)] = &[
    ("27-mount", "namespace.missing", &[(r#", {"type": "mount"}"#, "")]),
    ("24-pid", "namespace.missing", &[(r#"{"type": "pid"}, "#, "")]),
    ("27-path", "namespace.path", &[("@namespaces", r#", {"type": "network", "path": "/proc/1/ns/net"}"#)]),
    ("27-path", "namespace.path", &[(r#"{"type": "pid"}"#, r#"{"type": "pid", "path": "/proc/1/ns/pid"}"#)]),
    ("27-path", "namespace.path", &[(r#"{"type": "user"}"#, r#"{"type": "user", "path": "/proc/1/ns/user"}"#)]),
    ("26", "namespace.type", &[("@namespaces", r#", {"type": "time"}"#)]),
    ("26", "namespace.type", &[("@namespaces", r#", {"type": ""}"#)]),
    ("28-map", "map.entry", &[("@linux", r#", "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]"#)]),
    ("28-map", "map.entry", &[("@linux", r#", "gidMappings": [{"containerID": 0, "hostID": 0, "size": 65536}]"#)]),
    ("28-map", "map.mode", &[DIRECT[0], DIRECT[1], ("@linux", r#", "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]"#)]),
    ("36", "config.propagation", &[("@linux", r#", "rootfsPropagation": "public""#)]),
    ("37-lists", "config.path-list", &[("@linux", r#", "maskedPaths": ["/etc"]"#)]),
    ("37-lists", "config.path-list", &[("@linux", r#", "readonlyPaths": ["/proc/kcore"]"#)]),
    ("37-lists", "config.path-list", &[("@linux", r#", "readonlyPaths": ["/dev/../etc"]"#)]),
    ("35-direct", "user.unmappable", &[DIRECT[0]]),
    ("35-mapped", "user.unmapped", &[(r#""uid": 0"#, r#""uid": 65537"#)]),
    ("20", "mount.type", &[("@mounts", r#"{"destination": "/a", "type": "ext4", "source": "/dev/sda1"}"#)]),
    ("38-cwd", "process.cwd", &[(r#""cwd": "/""#, r#""cwd": "/proc/self/fd/7""#)]),
    ("18", "config.hooks", &[("@top", r#""hooks": {"prestart": [{"path": "/bin/sh"}]},"#)]),
    ("13-duplicate", "json.duplicate", &[(r#""cwd": "/""#, r#""cwd": "/", "cwd": "/""#)]),
    ("52", "json.nul", &[(r#""cwd": "/""#, r#""cwd": "/tmp\u0000x""#)]),
    ("", "namespace.duplicate", &[("@namespaces", r#", {"type": "pid"}"#)]),
    ("", "config.path", &[(r#""rootfs""#, r#""""#)]),
    ("", "config.hostname", &[("@top", r#""hostname": "a b","#)]),
    ("", "config.hostname", &[("@top", r#""hostname": "é","#)]),
    ("", "config.hostname", &[("@top", r#""hostname": "a123456789b123456789c123456789d123456789e123456789f123456789g1234","#)]),
];

#[test]
fn what_a_rule_forbids_is_refused() {
    for (_rule, code, edits) in REFUSED {
        assert_eq!(edited(edits).expect_err(code).code, *code, "{edits:?}");
        #[cfg(locald_mutants)]
        if !_rule.is_empty() {
            assert!(crate::rules::disable_from(_rule.as_bytes()));
            assert!(edited(edits).is_ok(), "{_rule}: {edits:?}");
            assert!(crate::rules::disable_from(b""));
        }
    }
}

#[test]
fn root_as_the_caller_is_refused() {
    let root = Caller { uid: 0, ..caller() };
    let config = Config::parse(text(&[]).as_bytes()).unwrap();
    assert_eq!(make_plan(config, &root, &host()).unwrap_err().code, "caller.root");
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"9-root,35-direct"));
        let config = Config::parse(text(DIRECT).as_bytes()).unwrap();
        assert!(make_plan(config, &root, &host()).is_ok());
    }
}

#[test]
fn a_group_that_is_zero_is_not_mapped() {
    let wheel = Caller { gid: 0, ..caller() };
    let config = Config::parse(text(&[]).as_bytes()).unwrap();
    assert_eq!(make_plan(config, &wheel, &host()).unwrap_err().code, "map.host-zero");
}

#[test]
fn any_known_propagation_becomes_private() {
    for word in ["shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", ""] {
        let member = format!(r#", "rootfsPropagation": "{word}""#);
        assert!(edited(&[("@linux", member.as_str())]).is_ok(), "{word}");
    }
}

// --- What runc 1.1.5 and crun 1.8.1 write, as uid 1000 -------------------------------------------

const RUNC: &str = include_str!("../../tests/data/runc-spec.json");
const RUNC_ROOTLESS: &str = include_str!("../../tests/data/runc-spec-rootless.json");
const CRUN: &str = include_str!("../../tests/data/crun-spec.json");
const CRUN_ROOTLESS: &str = include_str!("../../tests/data/crun-spec-rootless.json");

#[test]
fn rootless_specs_run_unmodified() {
    for (spec, network) in [(RUNC_ROOTLESS, Network::Host), (CRUN_ROOTLESS, Network::New)] {
        let plan = plan(spec.as_bytes()).unwrap();
        assert!(matches!(plan.mode, Mode::Mapped { .. }));
        assert_eq!(
            (plan.network, plan.mounts.len(), plan.process.terminal),
            (network, 0, Some(None))
        );
        let kept = 1 << 5 | 1 << 10;
        let expected = Capabilities {
            bounding: kept,
            effective: kept,
            permitted: kept,
            inheritable: 0,
            ambient: 0,
        };
        assert_eq!(plan.process.capabilities, expected);
    }
}

#[test]
fn rootful_specs_run_with_one_line_changed() {
    for spec in [RUNC, CRUN] {
        // Root without a user namespace is nobody an ordinary user can be.
        assert_eq!(plan(spec.as_bytes()).unwrap_err().code, "user.unmappable");
        let own =
            spec.replace(r#""uid": 0"#, r#""uid": 1000"#).replace(r#""gid": 0"#, r#""gid": 1000"#);
        let direct = plan(own.as_bytes()).unwrap();
        assert_eq!(
            (direct.mode, direct.network, direct.mounts.len()),
            (Mode::Direct, Network::New, 0)
        );
        assert_eq!(direct.process.capabilities, Capabilities::default());
        let mapped = spec.replace(r#""namespaces": ["#, r#""namespaces": [{"type": "user"},"#);
        assert!(matches!(plan(mapped.as_bytes()).unwrap().mode, Mode::Mapped { .. }));
    }
}

#[test]
fn the_constant_lists_cover_what_runc_writes() {
    for (member, constant) in [("maskedPaths", MASKED_PATHS), ("readonlyPaths", READONLY_PATHS)] {
        let list = RUNC.split(member).nth(1).unwrap().split(']').next().unwrap();
        let written: Vec<&str> = list.split('"').filter(|piece| piece.starts_with('/')).collect();
        assert!(
            written.len() >= 5 && written.iter().all(|path| constant.contains(path)),
            "{written:?}"
        );
    }
}

// --- What holds for every plan ---------------------------------------------------------------------

/// Pieces that are fine; with those of [`REFUSED`] they are what random configs are made of.
#[rustfmt::skip]
const FINE: &[(&str, &str)] = &[
    ("@user", r#", "additionalGids": [1, 5]"#),
    ("@user", r#", "umask": 511"#),
    ("@process", r#", "capabilities": {"bounding": ["CAP_SYS_ADMIN", "CAP_KILL"], "permitted": ["CAP_KILL", "CAP_BPF"], "effective": ["CAP_KILL"]}"#),
    ("@process", r#", "rlimits": [{"type": "RLIMIT_CPU", "soft": 7, "hard": 4096}]"#),
    ("@process", r#", "env": ["A=b"], "terminal": true"#),
    ("@mounts", r#"{"destination": "/a", "type": "tmpfs", "options": ["size=3g"]}"#),
    ("@mounts", r#"{"destination": "/a/b", "type": "bind", "source": "/", "options": ["rbind", "rw"]}"#),
    ("@mounts", r#"{"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs"}"#),
    ("@namespaces", r#", {"type": "network"}, {"type": "cgroup"}"#),
    ("@linux", r#", "uidMappings": [{"containerID": 999, "hostID": 1000, "size": 1}]"#),
    ("@linux", r#", "gidMappings": [{"containerID": 65534, "hostID": 1000, "size": 1}]"#),
    ("@linux", r#", "rootfsPropagation": "rshared""#),
    (r#""uid": 0"#, r#""uid": 999"#),
    (r#""uid": 0, "gid": 0"#, r#""uid": 1000, "gid": 1000"#),
    (r#""gid": 0"#, r#""gid": 65534"#),
    (r#", {"type": "user"}"#, ""),
];

fn check_map(map: &[crate::plan::IdRange], own: u32, ranges: &[Range]) {
    assert!(map.len() <= 340 && render_map(map).len() < 4096);
    let mut hosts: Vec<(u64, u64)> = Vec::new();
    let mut inside = 0;
    for range in map {
        assert!(range.count > 0 && u64::from(range.inside) >= inside, "sorted, no overlap");
        inside = u64::from(range.inside) + u64::from(range.count);
        let (start, end) =
            (u64::from(range.outside), u64::from(range.outside) + u64::from(range.count));
        assert!(start > 0 && end <= u64::from(u32::MAX) && inside <= u64::from(u32::MAX));
        for id in [start, end - 1] {
            let granted = |range: &Range| (u64::from(range.start)..range.end()).contains(&id);
            assert!(
                id == u64::from(own) || ranges.iter().any(granted),
                "{id} is neither the caller nor granted"
            );
        }
        hosts.push((start, end));
    }
    hosts.sort_unstable();
    assert!(hosts.windows(2).all(|pair| pair[0].1 <= pair[1].0), "a host id twice");
    assert!(hosts.iter().any(|(start, end)| (*start..*end).contains(&u64::from(own))));
}

fn check_plan(plan: &Plan, caller: &Caller, host: &Host) {
    let process = &plan.process;
    let sets = process.capabilities;
    let union = sets.bounding | sets.effective | sets.permitted | sets.inheritable | sets.ambient;
    match &plan.mode {
        Mode::Direct => {
            assert_eq!(
                (process.uid, process.gid, &process.groups),
                (caller.uid, caller.gid, &None)
            );
            assert_eq!(union, 0);
        }
        Mode::Mapped { uids, gids, setgroups } => {
            check_map(uids, caller.uid, &host.subuids);
            check_map(gids, caller.gid, &host.subgids);
            assert_eq!(
                (*setgroups, process.groups.is_some()),
                (!host.subgids.is_empty(), *setgroups)
            );
            assert!(ids::is_mapped(uids, process.uid) && ids::is_mapped(gids, process.gid));
            assert!(process.groups.iter().flatten().all(|gid| ids::is_mapped(gids, *gid)));
            assert_eq!(union & !ALLOWED_CAPABILITIES, 0);
            assert_eq!(sets.effective & !sets.permitted, 0);
            assert_eq!(sets.ambient & !(sets.permitted & sets.inheritable), 0);
        }
    }
    assert!(!process.args.is_empty() && process.umask <= 0o777);
    assert!(is_clean(process.cwd.to_bytes()) && !is_beneath(process.cwd.to_bytes(), b"/proc"));
    for limit in &process.rlimits {
        assert!(
            limit.soft <= limit.hard && limit.hard <= caller.rlimits[limit.resource as usize].1
        );
    }
    for mount in &plan.mounts {
        let destination = mount.destination.to_bytes();
        assert!(is_clean(destination) && destination != b"/");
        assert!(
            [&b"/proc"[..], b"/sys", b"/dev"].iter().all(|fixed| !is_beneath(destination, fixed))
        );
        if let Source::Tmpfs { size_bytes, inodes, mode } = mount.source {
            assert!(
                size_bytes > 0
                    && size_bytes <= (host.ram_bytes / 2).max(4096)
                    && inodes > 0
                    && mode <= 0o1777
            );
        }
    }
}

#[test]
fn every_plan_keeps_within_what_the_caller_may() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let starts = [0, 1, 900, 999, 1001, 100_000, 165_536, 165_535, u32::MAX - 1, u32::MAX - 65_536];
    let counts = [0, 1, 99, 100, 65_536, 65_537, u32::MAX];
    let (mut planned, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut text = BASE.to_owned();
        for _ in 0..random(5) {
            let (from, to) = match random(8) {
                0 => REFUSED[random(REFUSED.len())].2[0],
                _ => FINE[random(FINE.len())],
            };
            text = text.replacen(from, to, 1);
        }
        for mark in ["@top", "@user", "@process", "@mounts", "@namespaces", "@linux"] {
            text = text.replace(mark, "");
        }
        let mut ranges = || {
            let count = random(4);
            (0..count)
                .map(|_| Range { start: starts[random(10)], count: counts[random(7)] })
                .collect::<Vec<_>>()
        };
        let (subuids, subgids) = (ranges(), ranges());
        let host = Host { subuids, subgids, ram_bytes: [0, 1 << 20, 8 << 30][random(3)] };
        let caller = Caller {
            uid: [1, 999, 1000, 0][random(16).min(2)],
            gid: [0, 1000][random(8).min(1)],
            ..caller()
        };
        match Config::parse(text.as_bytes()).and_then(|config| make_plan(config, &caller, &host)) {
            Ok(plan) => {
                planned += 1;
                check_plan(&plan, &caller, &host);
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.exit_status(), 125);
                assert!(!error.code.is_empty() && !error.why.is_empty() && !error.hint.is_empty());
            }
        }
    }
    assert!(planned > 1_000 && refused > 1_000, "{planned} planned, {refused} refused");
}

/// The codes that the parsers and the policy can refuse with, as the sources have them.
fn codes() -> Vec<String> {
    let sources = [
        include_str!("../json.rs"),
        include_str!("../config.rs"),
        include_str!("../config/members.rs"),
        include_str!("../subids.rs"),
        include_str!("../policy_file.rs"),
        include_str!("../request.rs"),
        include_str!("../policy.rs"),
        include_str!("ids.rs"),
        include_str!("limits.rs"),
        include_str!("mounts.rs"),
        include_str!("process.rs"),
    ];
    let quoted = sources.iter().flat_map(|source| source.split("refused(").skip(1));
    let mut codes: Vec<String> = quoted
        .filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next())
        .chain(crate::config::FORBIDDEN.iter().map(|forbidden| forbidden.3))
        .map(str::to_owned)
        .collect();
    // Those of root's policy file speak of no config.
    codes.retain(|code| !code.starts_with("bind.") && !code.starts_with("policy."));
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[test]
fn every_code_is_in_the_manual() {
    let manual = include_str!("../../../docs/manual/reference/shim-config.md");
    let codes = codes();
    assert!(codes.len() > 40, "{codes:?}");
    for code in &codes {
        assert!(manual.contains(&format!("`{code}`")), "{code} is not in the manual");
    }
    let table = manual.split("## Refusal codes").nth(1).unwrap();
    for code in table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()) {
        assert!(codes.iter().any(|known| known == code), "{code} is not in the sources");
    }
}

#[test]
fn names_and_paths_may_be_as_long_as_the_kernel_takes() {
    let named = |length: usize| {
        let name = format!(r#""hostname": "{}","#, "a".repeat(length));
        edited(&[("@top", name.as_str())]).map(|_| ()).map_err(|error| error.code)
    };
    assert_eq!((named(64), named(65)), (Ok(()), Err("config.hostname")));
    let rooted = |length: usize| {
        let path = format!(r#""{}""#, "a".repeat(length));
        edited(&[(r#""rootfs""#, path.as_str())]).map(|_| ()).map_err(|error| error.code)
    };
    assert_eq!((rooted(4095), rooted(4096)), (Ok(()), Err("config.path")));
}
