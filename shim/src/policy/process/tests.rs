use super::*;
use crate::plan::IdRange;

fn caller() -> Caller {
    Caller {
        uid: 1000,
        gid: 1001,
        groups: vec![27],
        rlimits: [(512, 4096); 16],
        oom_score_adj: 100,
    }
}

fn mapped(setgroups: bool) -> Mode {
    let range = |outside| vec![IdRange { inside: 0, outside, count: 10 }];
    Mode::Mapped { uids: range(100_000), gids: range(200_000), setgroups }
}

fn process(uid: u32, gid: u32) -> config::Process {
    config::Process {
        args: vec![b"/bin/true".to_vec()],
        env: vec![],
        cwd: b"/".to_vec(),
        user: config::User { uid, gid, additional_gids: vec![], umask: None },
        terminal: false,
        console_size: None,
        capabilities: config::Capabilities::default(),
        rlimits: vec![],
        oom_score_adj: None,
    }
}

fn direct() -> config::Process {
    process(1000, 1001)
}

fn make(process: config::Process, mode: &Mode) -> Result<Process, &'static str> {
    make_process(process, false, mode, &caller()).map_err(|error| error.code)
}

#[test]
fn a_process_names_a_program() {
    for args in [vec![], vec![vec![]], vec![vec![], b"x".to_vec()]] {
        assert_eq!(make(config::Process { args, ..direct() }, &Mode::Direct), Err("process.args"));
    }
    let args = vec![b"\xff".to_vec(), vec![]];
    assert_eq!(
        make(config::Process { args, ..direct() }, &Mode::Direct).unwrap().args,
        [CString::from(c"\xff"), CString::default()]
    );
}

#[test]
fn environment_entries_have_a_name() {
    for entry in ["", "A", "=", "=A"] {
        let env = vec![b"A=".to_vec(), entry.into()];
        assert_eq!(
            make(config::Process { env, ..direct() }, &Mode::Direct),
            Err("process.env"),
            "{entry}"
        );
    }
    let env = vec![b"A=".to_vec(), b"B=x=\xff".to_vec()];
    assert_eq!(
        make(config::Process { env, ..direct() }, &Mode::Direct).unwrap().env,
        [CString::from(c"A="), c"B=x=\xff".into()]
    );
}

#[test]
fn the_working_directory_is_clean_and_not_below_proc() {
    let refused = [
        "",
        "srv",
        "./srv",
        "/srv/",
        "/srv/../proc",
        "/./proc",
        "//proc/self",
        "/proc",
        "/proc/self/fd/7",
        "/proc/1/cwd",
        "/dev/fd/7",
    ];
    for cwd in refused {
        let process = config::Process { cwd: cwd.into(), ..direct() };
        assert_eq!(make(process, &Mode::Direct), Err("process.cwd"), "{cwd}");
    }
    for cwd in ["/", "/srv", "/process", "/a/proc"] {
        assert!(
            make(config::Process { cwd: cwd.into(), ..direct() }, &Mode::Direct).is_ok(),
            "{cwd}"
        );
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"38-cwd"));
        for cwd in refused {
            assert!(
                make(config::Process { cwd: cwd.into(), ..direct() }, &Mode::Direct).is_ok(),
                "{cwd}"
            );
        }
    }
}

#[test]
fn without_a_user_namespace_the_process_is_the_caller() {
    let made = make(direct(), &Mode::Direct).unwrap();
    assert_eq!((made.uid, made.gid, made.groups, made.umask), (1000, 1001, None, 0o022));
    let others = [(0, 0), (1000, 0), (0, 1001), (1000, 1000), (1001, 1001), (1000, 27)];
    for (uid, gid) in others {
        assert_eq!(make(process(uid, gid), &Mode::Direct), Err("user.unmappable"), "{uid}:{gid}");
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"35-direct"));
        assert!(others.iter().all(|&(uid, gid)| make(process(uid, gid), &Mode::Direct).is_ok()));
    }
}

#[test]
fn in_a_user_namespace_every_id_is_mapped() {
    let with_group = |gid| {
        let mut process = process(9, 9);
        process.user.additional_gids = vec![1, gid];
        process
    };
    assert_eq!(make(with_group(9), &mapped(true)).unwrap().groups, Some(vec![1, 9]));
    let others = [
        process(10, 0),
        process(0, 10),
        process(u32::MAX - 1, 0),
        process(0, u32::MAX - 1),
        with_group(10),
    ];
    for process in &others {
        assert_eq!(
            make(process.clone(), &mapped(true)),
            Err("user.unmapped"),
            "{:?}",
            process.user
        );
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"35-mapped"));
        assert!(others.iter().all(|process| make(process.clone(), &mapped(true)).is_ok()));
    }
}

#[test]
fn groups_change_only_with_an_authorised_range() {
    let grouped = |uid, gid, groups: Vec<u32>| {
        let mut process = process(uid, gid);
        process.user.additional_gids = groups;
        process
    };
    assert_eq!(make(process(0, 0), &mapped(true)).unwrap().groups, Some(vec![]));
    assert_eq!(make(process(0, 0), &mapped(false)).unwrap().groups, None);
    let refused =
        [(grouped(0, 0, vec![0]), mapped(false)), (grouped(1000, 1001, vec![27]), Mode::Direct)];
    for (process, mode) in &refused {
        assert_eq!(make(process.clone(), mode), Err("user.groups"));
    }
    let many = |count| make(grouped(0, 0, vec![0; count]), &mapped(true));
    assert!(many(MAX_GROUPS).is_ok());
    assert_eq!(many(MAX_GROUPS + 1), Err("config.too-many"));
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"35-groups,54-counts"));
        assert!(refused.iter().all(|(process, mode)| make(process.clone(), mode).is_ok()));
        assert!(many(MAX_GROUPS + 1).is_ok());
    }
}

#[test]
fn arguments_and_environment_are_counted() {
    let many = |args: usize, env: usize| {
        let (args, env) = (vec![b"a".to_vec(); args], vec![b"a=b".to_vec(); env]);
        make(config::Process { args, env, ..direct() }, &Mode::Direct)
    };
    assert!(many(1, MAX_STRINGS - 1).is_ok());
    assert_eq!(many(1, MAX_STRINGS), Err("config.too-many"));
    assert_eq!(many(MAX_STRINGS + 1, 0), Err("config.too-many"));
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"54-counts"));
        assert!(many(1, MAX_STRINGS).is_ok());
    }
}

#[test]
fn the_umask_has_nine_bits() {
    for (umask, made) in [
        (0, Ok(0)),
        (0o777, Ok(0o777)),
        (0o1000, Err("user.umask")),
        (u32::MAX - 1, Err("user.umask")),
    ] {
        let mut process = direct();
        process.user.umask = Some(umask);
        assert_eq!(make(process, &Mode::Direct).map(|process| process.umask), made);
    }
}

fn capable(names: &[&str]) -> config::Process {
    let set = || names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
    let capabilities = config::Capabilities {
        bounding: set(),
        effective: set(),
        permitted: set(),
        inheritable: set(),
        ambient: set(),
    };
    config::Process { capabilities, ..direct() }
}

#[test]
fn capabilities_are_those_allowed() {
    let all: Vec<String> = CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
    let process = config::Process {
        user: process(0, 0).user,
        ..capable(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let sets = make(process.clone(), &mapped(true)).unwrap().capabilities;
    let every = ALLOWED_CAPABILITIES;
    let same = Capabilities {
        bounding: every,
        effective: every,
        permitted: every,
        inheritable: every,
        ambient: every,
    };
    assert_eq!(sets, same);
    let direct = config::Process { user: direct().user, ..process.clone() };
    assert_eq!(make(direct.clone(), &Mode::Direct).unwrap().capabilities, Capabilities::default());
    // Absent is empty, never "as they are".
    assert_eq!(
        make(self::process(0, 0), &mapped(true)).unwrap().capabilities,
        Capabilities::default()
    );
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"34-capabilities"));
        assert_eq!(make(process, &mapped(true)).unwrap().capabilities.effective, (1 << 41) - 1);
        assert_eq!(make(direct, &Mode::Direct).unwrap().capabilities.permitted, (1 << 41) - 1);
    }
}

#[test]
fn the_allowed_capabilities_are_the_documented_ones() {
    let names: Vec<&str> = (0..41)
        .filter(|bit| ALLOWED_CAPABILITIES >> bit & 1 == 1)
        .map(|bit| CAPABILITIES[bit])
        .collect();
    let documented = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "SETFCAP",
    ];
    assert_eq!(names, documented);
}

#[test]
fn each_capability_set_lies_within_the_one_that_bounds_it() {
    let names =
        |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
    let mut process = process(0, 0);
    process.capabilities.bounding = names(&["CAP_KILL", "CAP_CHOWN"]);
    process.capabilities.permitted = names(&["CAP_KILL", "CAP_SETUID"]);
    process.capabilities.effective = names(&["CAP_CHOWN", "CAP_KILL"]);
    process.capabilities.ambient = names(&["CAP_KILL"]);
    let sets = make(process, &mapped(true)).unwrap().capabilities;
    let kill = 1 << 5;
    assert_eq!(
        sets,
        Capabilities {
            bounding: kill | 1,
            effective: kill,
            permitted: kill,
            inheritable: 0,
            ambient: 0
        }
    );
}

#[test]
fn a_capability_named_twice_is_there() {
    let sets = make(
        config::Process { user: process(0, 0).user, ..capable(&["CAP_KILL", "CAP_KILL"]) },
        &mapped(true),
    );
    assert_eq!(sets.unwrap().capabilities.bounding, 1 << 5);
}

#[test]
fn unknown_capabilities_are_refused() {
    for name in ["KILL", "cap_kill", "CAP_", "CAP_FOO", "", "CAP_KILL "] {
        assert_eq!(make(capable(&[name]), &Mode::Direct), Err("process.capability"), "{name}");
    }
}

fn limited(limits: &[(&str, u64, u64)]) -> Result<Process, &'static str> {
    let rlimit =
        |&(kind, soft, hard): &(&str, u64, u64)| config::Rlimit { kind: kind.into(), soft, hard };
    make(
        config::Process { rlimits: limits.iter().map(rlimit).collect(), ..direct() },
        &Mode::Direct,
    )
}

#[test]
fn limits_go_downward() {
    let made = limited(&[("RLIMIT_NOFILE", 0, 4096), ("RLIMIT_CPU", 5, 5)]).unwrap().rlimits;
    assert_eq!(
        made,
        [Rlimit { resource: 7, soft: 0, hard: 4096 }, Rlimit { resource: 0, soft: 5, hard: 5 }]
    );
    let malformed: &[&[(&str, u64, u64)]] = &[
        &[("RLIMIT_NOFILE", 2, 1)],
        &[("RLIMIT_FOO", 1, 1)],
        &[("NOFILE", 1, 1)],
        &[("RLIMIT_CPU", 1, 1), ("RLIMIT_CPU", 1, 1)],
    ];
    for limits in malformed {
        assert_eq!(limited(limits), Err("process.rlimit"), "{limits:?}");
    }
    for name in RLIMITS {
        assert!(limited(&[(name, 4096, 4096)]).is_ok());
        assert_eq!(limited(&[(name, 1, 4097)]), Err("process.rlimit"), "{name}");
        assert_eq!(limited(&[(name, u64::MAX, u64::MAX)]), Err("process.rlimit"), "{name}");
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"33-rlimit"));
        assert!(limited(&[("RLIMIT_NOFILE", 1, 4097)]).is_ok());
    }
}

#[test]
fn limits_have_the_numbers_of_the_kernel() {
    let number = |name: &str| RLIMITS.iter().position(|known| *known == name).unwrap() as u32;
    for (name, kernel) in [
        ("RLIMIT_CPU", libc::RLIMIT_CPU),
        ("RLIMIT_CORE", libc::RLIMIT_CORE),
        ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
        ("RLIMIT_AS", libc::RLIMIT_AS),
        ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
        ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
    ] {
        assert_eq!(number(name), kernel, "{name}");
    }
}

#[test]
fn the_oom_score_stays_the_callers() {
    let scored =
        |score| make(config::Process { oom_score_adj: Some(score), ..direct() }, &Mode::Direct);
    assert!(scored(100).is_ok());
    for score in [-1000, 0, 99, 101, 1000, i64::MIN, i64::MAX] {
        assert_eq!(scored(score), Err("process.oom-score"), "{score}");
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"33-oom"));
        assert!(scored(-1000).is_ok());
    }
}

#[test]
fn a_terminal_may_have_a_size() {
    let terminal = |terminal, console_size| {
        make(config::Process { terminal, console_size, ..direct() }, &Mode::Direct)
            .unwrap()
            .terminal
    };
    assert_eq!(terminal(false, Some((24, 80))), None);
    assert_eq!(terminal(true, None), Some(None));
    assert_eq!(terminal(true, Some((24, 80))), Some(Some(TerminalSize { rows: 24, columns: 80 })));
}
