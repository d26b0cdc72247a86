use super::*;

const BASE: &str = r#"{
    "ociVersion": "1.2.0", @top
    "root": {"path": "rootfs" @root},
    "process": {"user": {"uid": 0, "gid": 0 @user}, "args": ["/bin/true"], "cwd": "/" @process},
    "mounts": [@mounts],
    "linux": {"namespaces": [{"type": "pid"}] @linux}
}"#;

/// A config with one piece of the base replaced; the marks that are left vanish.
fn config(from: &str, to: &str) -> Result<Config, Error> {
    assert!(BASE.contains(from), "{from}");
    let mut text = BASE.replace(from, to);
    for mark in ["@top", "@root", "@user", "@process", "@mounts", "@linux"] {
        text = text.replace(mark, "");
    }
    Config::parse(text.as_bytes())
}

fn code(from: &str, to: &str) -> &'static str {
    match config(from, to) {
        Err(error) => error.code,
        Ok(config) => panic!("{to} is accepted as {config:?}"),
    }
}

#[test]
fn a_small_config_is_understood() {
    let config = config("@top", "").unwrap();
    assert_eq!(config.root, Root { path: b"rootfs".to_vec(), readonly: false });
    assert_eq!(config.process.args, [b"/bin/true"]);
    assert_eq!(config.process.user, User { uid: 0, gid: 0, additional_gids: vec![], umask: None });
    assert_eq!(config.linux.namespaces, [Namespace { kind: b"pid".to_vec(), path: vec![] }]);
    assert!(!config.init && config.mounts.is_empty() && config.hostname.is_none());
}

#[test]
fn every_member_is_understood() {
    let process = config(
        "@process",
        r#", "env": ["A=b"], "terminal": true, "consoleSize": {"height": 24, "width": 65535}, "noNewPrivileges": false,
           "oomScoreAdj": -5, "capabilities": {"bounding": ["CAP_KILL"], "ambient": []},
           "rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 18446744073709551615}]"#,
    );
    let process = process.unwrap().process;
    assert_eq!(process.console_size, Some((24, 65_535)));
    assert_eq!(process.oom_score_adj, Some(-5));
    assert_eq!(process.capabilities.bounding, [b"CAP_KILL"]);
    assert_eq!(process.rlimits, [Rlimit { kind: b"RLIMIT_CPU".to_vec(), soft: 1, hard: u64::MAX }]);
    let user = config("@user", r#", "additionalGids": [1, 4294967294], "umask": 18"#)
        .unwrap()
        .process
        .user;
    assert_eq!((user.additional_gids, user.umask), (vec![1, u32::MAX - 1], Some(18)));
    let mounts = r#"{"destination": "/a", "type": "bind", "source": "/b", "options": ["ro"]}, {"destination": "/c"}"#;
    let mounts = config("@mounts", mounts).unwrap().mounts;
    assert_eq!(
        (mounts.len(), &mounts[0].options, &mounts[1].kind),
        (2, &vec![b"ro".to_vec()], &vec![])
    );
    let linux = r#", "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}], "maskedPaths": ["/x"],
                   "readonlyPaths": [], "rootfsPropagation": "slave", "resources": {"devices": []}, "gidMappings": []"#;
    let linux = config("@linux", linux).unwrap().linux;
    assert_eq!(linux.uid_mappings, [Mapping { container: 0, host: 1000, size: 1 }]);
    assert_eq!((linux.masked_paths.len(), linux.propagation), (1, b"slave".to_vec()));
    let top = config(
        "@top",
        r#""hostname": "web", "annotations": {"dev.locald.init": "true", "x": "y"},"#,
    )
    .unwrap();
    assert_eq!((top.hostname, top.init), (Some(b"web".to_vec()), true));
    assert!(config("@root", r#", "readonly": true"#).unwrap().root.readonly);
}

#[test]
fn every_forbidden_member_is_refused_by_its_code() {
    for (object, name, _rule, expected, _hint) in FORBIDDEN {
        let (mark, before, after) = match *object {
            "" => ("@top", "", ","),
            "process" => ("@process", ",", ""),
            "process.user" => ("@user", ",", ""),
            "linux" => ("@linux", ",", ""),
            "linux.resources" => ("@linux", r#", "resources": {"#, "}"),
            "linux.resources.memory" => ("@linux", r#", "resources": {"memory": {"#, "}}"),
            "linux.resources.cpu" => ("@linux", r#", "resources": {"cpu": {"#, "}}"),
            "mounts" => ("@mounts", r#"{"destination": "/a","#, "}"),
            other => panic!("{other} has no place in the base"),
        };
        let with = |value: &str| format!(r#"{before} "{name}": {value} {after}"#);
        for value in ["1", "null", "true", r#""x""#, "[1]", r#"{"a": 1}"#] {
            assert_eq!(code(mark, &with(value)), *expected, "{object}.{name}: {value}");
        }
        for value in [r#""""#, "[]", "{}"] {
            assert!(config(mark, &with(value)).is_ok(), "{object}.{name}: {value}");
        }
        #[cfg(locald_mutants)]
        {
            let (_, own) = crate::rules::ALL.iter().find(|(rule, _)| rule == _rule).unwrap();
            assert!(crate::rules::disable_from(own.as_bytes()));
            assert!(config(mark, &with(r#"{"a": 1}"#)).is_ok(), "{object}.{name} without {own}");
            assert!(crate::rules::disable_from(b""));
        }
    }
}

const UNKNOWN: &[(&str, &str)] = &[
    ("@top", r#""process2": {},"#),
    ("@top", r#""Hostname": "x","#),
    ("@root", r#", "rw": true"#),
    ("@process", r#", "consoleSize": {"height": 1, "width": 1, "depth": 1}"#),
    ("@process", r#", "capabilities": {"bounds": []}"#),
    ("@process", r#", "rlimits": [{"type": "x", "soft": 1, "hard": 1, "x": 1}]"#),
    ("@process", r#", "no_new_privileges": true"#),
    ("@user", r#", "name": "root""#),
    ("@mounts", r#"{"destination": "/a", "flags": 1}"#),
    ("@linux", r#", "seccompProfile": {}"#),
    ("@linux", r#", "resources": {"devices": [], "disk": {}}"#),
    ("@linux", r#", "resources": {"memory": {"limit": 1, "max": 2}}"#),
    ("@linux", r#", "resources": {"pids": {"limit": 1, "max": 2}}"#),
    ("@linux", r#", "resources": {"cpu": {"weight": 1}}"#),
    ("@linux", r#", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1, "x": 1}]"#),
    (r#"{"type": "pid"}"#, r#"{"type": "pid", "fd": 3}"#),
];

#[test]
fn unknown_members_are_refused_at_every_place() {
    for (from, to) in UNKNOWN {
        assert_eq!(code(from, to), "config.unknown", "{to}");
    }
    let error = config("@mounts", r#"{"destination": "/a", "flags": 1}"#).unwrap_err();
    assert_eq!(error.why, b"the member mounts[0].flags is not known");
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"13-unknown"));
        assert!(UNKNOWN.iter().all(|(from, to)| config(from, to).is_ok()));
    }
}

#[test]
fn wrong_types_are_refused() {
    let cases = [
        (r#"{"path": "rootfs" @root}"#, "[]"),
        (r#""rootfs""#, "1"),
        (r#""1.2.0""#, "1"),
        (r#"["/bin/true"]"#, r#""/bin/true""#),
        (r#"["/bin/true"]"#, r#"["/bin/true", 1]"#),
        (r#"["/bin/true"]"#, "null"),
        (r#""cwd": "/""#, r#""cwd": null"#),
        (r#""uid": 0"#, r#""uid": -1"#),
        (r#""uid": 0"#, r#""uid": 4294967295"#),
        (r#""uid": 0"#, r#""uid": 18446744073709551615"#),
        (r#""uid": 0"#, r#""uid": "0""#),
        (r#""gid": 0"#, r#""gid": 4294967296"#),
        ("@user", r#", "additionalGids": [-1]"#),
        ("@user", r#", "additionalGids": 1"#),
        ("@process", r#", "terminal": 1"#),
        ("@process", r#", "noNewPrivileges": "yes""#),
        ("@process", r#", "consoleSize": {"height": 65536, "width": 1}"#),
        ("@process", r#", "consoleSize": [1, 1]"#),
        ("@process", r#", "oomScoreAdj": "1""#),
        ("@process", r#", "oomScoreAdj": 9223372036854775808"#),
        ("@process", r#", "rlimits": [{"type": "x", "soft": -1, "hard": 1}]"#),
        ("@process", r#", "capabilities": []"#),
        ("[@mounts]", "{}"),
        ("@mounts", "1"),
        (r#"[{"type": "pid"}]"#, r#"["pid"]"#),
        ("@top", r#""annotations": [],"#),
        ("@top", r#""annotations": {"a": 1},"#),
        ("@top", r#""hostname": 1,"#),
        ("@linux", r#", "maskedPaths": null"#),
        ("@linux", r#", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 4294967296}]"#),
    ];
    for (from, to) in cases {
        assert_eq!(code(from, to), "config.type", "{to}");
    }
    for text in ["[]", "1", "null", "\"x\""] {
        let error = Config::parse(text.as_bytes()).unwrap_err();
        assert_eq!(
            (error.code, error.why.as_slice()),
            ("config.type", &b"config.json is not an object"[..])
        );
    }
    assert_eq!(Config::parse(b"").unwrap_err().code, "json.syntax");
}

#[test]
fn missing_members_are_refused() {
    let cases = [
        (r#""ociVersion": "1.2.0","#, "", "ociVersion"),
        (r#""root": {"path": "rootfs" @root},"#, "", "root"),
        (r#"{"path": "rootfs" @root}"#, "{}", "root.path"),
        (r#", "cwd": "/""#, "", "process.cwd"),
        (r#""user": {"uid": 0, "gid": 0 @user},"#, "", "process.user"),
        (r#""uid": 0,"#, "", "process.user.uid"),
        (r#", "gid": 0"#, "", "process.user.gid"),
        ("@process", r#", "consoleSize": {"height": 1}"#, "process.consoleSize.width"),
        ("@process", r#", "rlimits": [{"soft": 1, "hard": 1}]"#, "process.rlimits[0].type"),
        ("@process", r#", "rlimits": [{"type": "x", "hard": 1}]"#, "process.rlimits[0].soft"),
        ("@mounts", r#"{"type": "tmpfs"}"#, "mounts[0].destination"),
        (r#"{"type": "pid"}"#, "{}", "linux.namespaces[0].type"),
        (
            "@linux",
            r#", "gidMappings": [{"containerID": 0, "size": 1}]"#,
            "linux.gidMappings[0].hostID",
        ),
        (r#""mounts": [@mounts],"#, r#""mounts": [], "x": {"#, ""),
    ];
    for (from, to, place) in cases.into_iter().filter(|case| !case.2.is_empty()) {
        let error = config(from, to).expect_err(to);
        assert_eq!(error.code, "config.missing", "{place}");
        assert_eq!(error.why, format!("{place} is missing").into_bytes());
    }
    let empty = Config::parse(br#"{"ociVersion": "1.0.0", "root": {"path": "r"}}"#).unwrap_err();
    assert_eq!((empty.code, empty.why.as_slice()), ("config.missing", &b"process is missing"[..]));
}

#[test]
fn the_version_is_one() {
    for version in ["1.0.0", "1.0.2-dev", "1.3.0", "1.0"] {
        assert!(config("1.2.0", version).is_ok(), "{version}");
    }
    for version in ["", "1", "1.", "1.x", "0.9.0", "2.0.0", "10.0.0", "v1.0.0"] {
        assert_eq!(code("1.2.0", version), "config.version", "{version}");
    }
}

const DEVICES: &[&str] = &[
    r#"{"allow": true, "access": "rwm"}"#,
    r#"{"allow": false}"#,
    r#"{"allow": false, "access": "rwm", "type": "c"}"#,
    r#"{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}"#,
    "1",
];

#[test]
fn the_only_device_rule_is_deny_all() {
    let rules = |rules: &str| format!(r#", "resources": {{"devices": [{rules}]}}"#);
    assert!(config("@linux", &rules(r#"{"access": "rwm", "allow": false}"#)).is_ok());
    for devices in DEVICES {
        assert_eq!(code("@linux", &rules(devices)), "config.devices", "{devices}");
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"19-resources"));
        assert!(DEVICES.iter().all(|devices| config("@linux", &rules(devices)).is_ok()));
    }
}

#[test]
fn the_init_annotation_is_true_or_false() {
    let init = |value: &str| {
        config("@top", &format!(r#""annotations": {{"dev.locald.init": "{value}"}},"#))
    };
    assert_eq!(init("false").map(|config| config.init), Ok(false));
    for value in ["", "1", "True", "yes"] {
        assert_eq!(init(value).unwrap_err().code, "config.annotation", "{value}");
    }
}

#[test]
fn the_callers_bytes_are_quoted_and_short() {
    // An escape sequence must not reach a terminal, nor a new line begin in a log.
    let error = config("1.2.0", r"\u001b[31m\n").unwrap_err();
    assert_eq!(error.why, br#"ociVersion is "\u{1b}[31m\n""#);
    let error = config("1.2.0", &"9".repeat(65)).unwrap_err();
    assert_eq!(error.why, format!("ociVersion is \"{}\"", "9".repeat(64)).into_bytes());
    assert_eq!(quoted(b"\xffa"), "\"\u{fffd}a\"");
}
