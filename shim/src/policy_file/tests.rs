use super::*;

const PASSWD: &[u8] = b"root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\ndevelopers:x:50:eve\n";

fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller {
    Caller { uid, gid, groups: groups.to_vec(), rlimits: [(0, 0); 16], oom_score_adj: 0 }
}

fn permits(text: &str, caller: &Caller) -> Result<(), &'static str> {
    let policy = Policy::parse(text.as_bytes()).map_err(|error| error.code)?;
    policy.permits(caller, PASSWD, GROUP).map_err(|error| error.code)
}

#[test]
fn a_caller_is_permitted_by_user_or_group_by_name_or_number() {
    let ann = caller(1000, 1000, &[]);
    let eve = caller(1001, 1001, &[4, 50]);
    let bob = caller(1002, 50, &[]);
    for allow in [
        "allow-user = 1000",
        "allow-user=ann",
        "allow-group = 1000",
        "allow-user = x\nallow-user = ann # her",
    ] {
        assert_eq!(permits(&format!("version = 1\n{allow}\n"), &ann), Ok(()), "{allow}");
        assert_eq!(
            permits(&format!("version = 1\n{allow}\n"), &eve),
            Err("shim.policy"),
            "{allow}"
        );
    }
    for allow in ["allow-group = developers", "\t allow-group\t=\t50 \r"] {
        for (who, verdict) in [(&ann, Err("shim.policy")), (&eve, Ok(())), (&bob, Ok(()))] {
            assert_eq!(permits(&format!("version = 1\n{allow}\n"), who), verdict, "{allow}");
        }
    }
    assert_eq!(permits("version = 1", &ann), Err("shim.policy"));
}

#[test]
fn numbers_are_judged_without_the_tables_of_accounts() {
    for (allow, names) in [
        ("", false),
        ("allow-user = 1000\nallow-group = 50", false),
        ("allow-user = 1000\nallow-user = ann", true),
        ("allow-user = 1000\nallow-group = developers", true),
    ] {
        assert_eq!(parsed(allow).names_accounts(), names, "{allow}");
    }
}

#[test]
fn membership_counts_only_in_the_credentials() {
    assert_eq!(
        permits("version=1\nallow-group=developers", &caller(1001, 1001, &[])),
        Err("shim.policy")
    );
}

#[test]
fn what_is_not_understood_permits_nobody() {
    let faults = [
        "",
        "allow-user = 1000",
        "version = 2",
        "version = 01",
        "version = ",
        "version = 1\nversion = 1",
        "version 1",
        "version = 1\nallow-users = 1000",
        "version = 1\nAllow-User = 1000",
        "version = 1\nallow-user =",
        "version = 1\nallow-user = ann bob",
        "version = 1\nallow-user = 4294967295",
        "version = 1\nallow-user = -1",
        "version = 1\nallow-group = +",
        "version = 1\nmin-shim = 1",
        "version = 1\nmin-shim = 1.2.3.4",
        "version = 1\nmin-shim = 1.2.3-rc1",
        "version = 1\nmin-shim = 0.1.0\nmin-shim = 0.1.0",
        "version = 1\nmax-containers = many",
        "version = 1\nmax-containers = 1\nmax-containers = 1",
        "= 1",
        "version = 1\n\0",
    ];
    for text in faults {
        assert_eq!(permits(text, &caller(1000, 1000, &[])), Err("shim.policy"), "{text:?}");
    }
    assert_eq!(MAX_BYTES, 65_536);
    let long = format!("version = 1\nallow-user = 1000\n{}", "#".repeat(MAX_BYTES));
    assert_eq!(permits(&long, &caller(1000, 1000, &[])), Err("shim.policy"));
    assert_eq!(permits(&long[..MAX_BYTES], &caller(1000, 1000, &[])), Ok(()));
    let error = Policy::parse(b"version = 1\nport = 80").unwrap_err();
    assert_eq!(error.why, b"/etc/locald/policy: line 2: the key \"port\" is not known");
    assert_eq!(error.hint, "run `sudo locald admin setup`");
}

#[test]
fn an_old_shim_refuses() {
    let wants = |least: &str, own: &str| {
        let policy = Policy::parse(format!("version = 1\nmin-shim = {least}").as_bytes()).unwrap();
        policy.permits_version(Version::parse(own.as_bytes())).map_err(|error| error.code)
    };
    for (least, own) in
        [("0.1.0", "0.1.0"), ("0.1.0", "0.1.1"), ("0.9.9", "0.10.0"), ("1.2.3", "2.0.0")]
    {
        assert_eq!(wants(least, own), Ok(()), "{least} {own}");
    }
    for (least, own) in
        [("0.1.1", "0.1.0"), ("0.10.0", "0.9.9"), ("2.0.0", "1.9.9"), ("0.0.0", "dev")]
    {
        assert_eq!(wants(least, own), Err("shim.outdated"), "{least} {own}");
    }
    assert!(Version::own().is_some());
    assert_eq!(
        permits("version=1\nallow-user=ann\nmin-shim=4000.0.0", &caller(1000, 1, &[])),
        Err("shim.outdated")
    );
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"8-version"));
        assert_eq!(wants("2.0.0", "1.9.9"), Ok(()));
    }
}

#[test]
fn containers_are_counted_by_default() {
    assert_eq!(Policy::parse(b"version = 1").unwrap().max_containers, DEFAULT_MAX_CONTAINERS);
    assert_eq!(Policy::parse(b"version = 1\nmax-containers = 7").unwrap().max_containers, 7);
}

/// The fenced blocks of the manual's page: what follows the word `policy`, and the text.
fn examples() -> Vec<(&'static str, &'static str)> {
    let page = include_str!("../../../docs/manual/reference/policy.md");
    let blocks = page.split("```policy").skip(1);
    blocks
        .map(|block| block.split_once("\n```").unwrap().0.split_once('\n').unwrap())
        .map(|(outcome, text)| (outcome.trim(), text))
        .collect()
}

#[test]
fn the_manuals_examples_are_read_as_it_says() {
    let (mut taken, mut refused) = (0, 0);
    for (outcome, text) in examples() {
        match Policy::parse(text.as_bytes()) {
            Ok(_) if outcome.is_empty() => taken += 1,
            Err(error) if !outcome.is_empty() => {
                let why = String::from_utf8(error.why).unwrap();
                assert_eq!(why, format!("/etc/locald/policy: {outcome}"));
                refused += 1;
            }
            other => panic!("{outcome:?}: {other:?} of {text}"),
        }
    }
    assert!(taken >= 4 && refused >= 13, "{taken} {refused}");
}

fn parsed(lines: &str) -> Policy {
    Policy::parse(format!("version = 1\n{lines}").as_bytes()).unwrap()
}

#[test]
fn modes_are_both_unless_listed() {
    let code = |policy: &Policy, mode| policy.permits_mode(mode).map_err(|error| error.code);
    for (lines, mapped, direct) in [
        ("", true, true),
        ("modes = direct\tmapped", true, true),
        ("modes = mapped", true, false),
        ("modes = direct", false, true),
        ("modes = none", false, false),
    ] {
        let policy = parsed(lines);
        for (mode, allowed) in [(Mode::Mapped, mapped), (Mode::Direct, direct)] {
            let wanted = if allowed { Ok(()) } else { Err("policy.mode") };
            assert_eq!(code(&policy, mode), wanted, "{lines}");
        }
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"55-modes"));
        assert_eq!(code(&parsed("modes = none"), Mode::Direct), Ok(()));
    }
}

#[test]
fn ports_and_addresses_are_those_listed() {
    let code = |policy: &Policy, address: &str, port| {
        let address = parse_address(address.as_bytes()).unwrap();
        policy.permits_bind(address, port).map_err(|error| error.code)
    };
    let usual = parsed("");
    for port in [80, 443] {
        assert_eq!(code(&usual, "127.0.0.1", port), Ok(()));
        assert_eq!(code(&usual, "::1", port), Ok(()));
        for address in ["0.0.0.0", "::", "127.0.0.2", "192.0.2.1", "2001:db8::1"] {
            assert_eq!(code(&usual, address, port), Err("bind.address"), "{address}");
        }
    }
    for port in [1, 22, 79, 81, 444, 1024, 8080, 65535] {
        assert_eq!(code(&usual, "127.0.0.1", port), Err("bind.port"), "{port}");
    }
    let own = parsed("bind-ports = 8443\nbind-addresses = 0.0.0.0 2001:DB8:0::1");
    assert_eq!(code(&own, "0.0.0.0", 8443), Ok(()));
    assert_eq!(code(&own, "2001:db8::1", 8443), Ok(()));
    assert_eq!(code(&own, "127.0.0.1", 8443), Err("bind.address"));
    assert_eq!(code(&own, "0.0.0.0", 80), Err("bind.port"));
    assert_eq!(code(&parsed("bind-ports = none"), "127.0.0.1", 80), Err("bind.port"));
    assert_eq!(code(&parsed("bind-addresses = none"), "127.0.0.1", 80), Err("bind.address"));
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"45-port,45-address"));
        assert_eq!(code(&usual, "192.0.2.1", 22), Ok(()));
    }
}

#[test]
fn lists_are_short_and_hold_no_word_twice() {
    let list = |count: u32| (1..=count).map(|port| port.to_string()).collect::<Vec<_>>().join(" ");
    let parse = |line: String| Policy::parse(format!("version = 1\n{line}").as_bytes());
    assert!(parse(format!("bind-ports = {}", list(64))).is_ok());
    assert!(parse(format!("bind-ports = {}", list(65))).is_err());
    for line in [
        "bind-ports = 80 080",
        "bind-ports = 80 none",
        "bind-ports = 65536",
        "bind-ports = 0",
        "bind-ports = 80\nbind-ports = 443",
        "bind-addresses = ::1 0:0:0:0:0:0:0:1",
        "bind-addresses = ::1%lo",
        "bind-addresses = fe80::1",
        "bind-addresses = ff02::1",
        "bind-addresses = 224.0.0.1",
        "bind-addresses = 255.255.255.255",
        "bind-addresses = ::ffff:127.0.0.1",
        "bind-addresses = 127.0.0.1:80",
        "bind-addresses = 127.1",
        "bind-addresses = 127.0.0.01",
        "modes = mapped mapped",
        "modes = Mapped",
        "modes =",
    ] {
        assert!(parse(line.into()).is_err(), "{line}");
    }
}

#[test]
fn what_holds_is_told() {
    let line = parsed("modes = direct\nmin-shim = 0.1.0\nbind-ports = 80").effective().line();
    let wanted = concat!(
        r#"{"modes":["direct"],"bind-ports":[80],"bind-addresses":["127.0.0.1","::1"],"#,
        r#""max-containers":256,"min-shim":"0.1.0"}"#,
        "\n",
    );
    assert_eq!(String::from_utf8(line).unwrap(), wanted);
}
