use super::*;

const RAM: u64 = 8 << 30;

fn mount(destination: &str, kind: &str, source: &str, options: &str) -> config::Mount {
    let options = options.split(',').filter(|option| !option.is_empty());
    config::Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.map(Into::into).collect(),
    }
}

fn make(
    destination: &str,
    kind: &str,
    source: &str,
    options: &str,
) -> Result<Vec<Mount>, &'static str> {
    make_mounts(vec![mount(destination, kind, source, options)], RAM).map_err(|error| error.code)
}

fn tmpfs(options: &str) -> Result<(u64, u64, u32), &'static str> {
    match make("/t", "tmpfs", "", options)?.remove(0).source {
        Source::Tmpfs { size_bytes, inodes, mode } => Ok((size_bytes, inodes, mode)),
        Source::Bind(_) => panic!("a tmpfs is a bind"),
    }
}

#[test]
fn binds_are_made() {
    let bind = |readonly, noexec| {
        let (destination, source) = (c"/data".into(), Source::Bind(c"/srv/data".into()));
        Ok(vec![Mount { destination, source, readonly, noexec }])
    };
    assert_eq!(make("/data", "bind", "/srv/data", ""), bind(false, false));
    assert_eq!(
        make("/data", "bind", "/srv/data", "rbind,rw,rprivate,nosuid,nodev"),
        bind(false, false)
    );
    assert_eq!(make("/data", "none", "/srv/data", "bind,ro"), bind(true, false));
    assert_eq!(make("/data", "", "/srv/data", "rbind,ro,noexec,private"), bind(true, true));
}

#[test]
fn tmpfs_is_capped() {
    assert_eq!(tmpfs(""), Ok((64 << 20, 16_384, 0o1777)));
    assert_eq!(tmpfs("size=65536k,mode=755,nr_inodes=2k"), Ok((64 << 20, 2048, 0o755)));
    assert_eq!(tmpfs("size=4096,mode=0700"), Ok((4096, 1024, 0o700)));
    assert_eq!(tmpfs("size=1G,ro,noexec"), Ok((1 << 30, 262_144, 0o1777)));
    assert_eq!(tmpfs("size=4g"), Ok((4 << 30, 1 << 20, 0o1777)));
    let over =
        ["size=4294967297", "size=5g", "size=0", "size=0k", "nr_inodes=0", "nr_inodes=1048577"];
    for options in over {
        assert_eq!(tmpfs(options), Err("mount.size"), "{options}");
    }
    // A machine whose memory is not known grants a page, not everything: 0 is "no limit" to the kernel.
    let small = make_mounts(vec![mount("/t", "tmpfs", "", "")], 0).unwrap();
    assert_eq!(small[0].source, Source::Tmpfs { size_bytes: 4096, inodes: 1024, mode: 0o1777 });
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"25-size"));
        assert!(over.iter().all(|options| tmpfs(options).is_ok()));
    }
}

#[test]
fn options_that_are_not_known_are_refused() {
    let of_tmpfs = [
        "suid",
        "dev",
        "exec",
        "bind",
        "rbind",
        "shared",
        "slave",
        "unbindable",
        "ro,rw",
        "rw,ro",
        "size=50%",
        "size=",
        "size",
        "size=1t",
        "size=-1",
        "size=1,size=1",
        "size=18446744073709551616",
        "size=18446744073709551615k",
        "mode=4755",
        "mode=2755",
        "mode=8",
        "mode=",
        "mode=000000",
        "mode=755,mode=755",
        "uid=0",
        "gid=0",
        "huge=always",
        "mpol=bind:0",
        "noswap",
        "tmpcopyup",
        "nosuid=1",
        "idmap",
        "nr_blocks=1",
        " ro",
    ];
    for options in of_tmpfs {
        assert_eq!(tmpfs(options), Err("mount.option"), "{options}");
    }
    let of_bind = [
        "suid", "dev", "size=1", "mode=755", "ro,rw", "rshared", "idmap", "ridmap", "rro",
        "remount", "loop",
    ];
    for options in of_bind {
        assert_eq!(make("/d", "bind", "/s", options), Err("mount.option"), "{options}");
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"25-option"));
        assert!(of_tmpfs.iter().all(|options| tmpfs(options).is_ok()));
        assert!(of_bind.iter().all(|options| make("/d", "bind", "/s", options).is_ok()));
    }
}

#[test]
fn other_types_are_refused() {
    let types = [
        "proc",
        "sysfs",
        "devpts",
        "mqueue",
        "cgroup",
        "cgroup2",
        "overlay",
        "ext4",
        "xfs",
        "fuse",
        "fuse.sshfs",
        "nfs",
        "debugfs",
        "tracefs",
        "securityfs",
        "binfmt_misc",
        "devtmpfs",
        "ramfs",
        "hugetlbfs",
        "none",
        "",
        "Bind",
        "BIND",
        "rbind",
    ];
    for kind in types {
        assert_eq!(make("/m", kind, "/s", ""), Err("mount.type"), "{kind}");
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"20"));
        assert!(types.iter().all(|kind| make("/m", kind, "/s", "").is_ok()));
    }
}

#[test]
fn destinations_are_clean_and_not_over_fixed_mounts() {
    let long = format!("/{}", "a".repeat(256));
    let longer = "/a".repeat(2048);
    let refused = [
        "",
        "/",
        "//",
        "data",
        "./data",
        "/.",
        "/..",
        "/a/..",
        "/a/../b",
        "/a/./b",
        "/a//b",
        "/a/",
        "/proc",
        "/proc/self",
        "/proc/",
        "/sys",
        "/sys/kernel",
        "/dev",
        "/dev/null",
        "/dev/shm",
        "/dev/pts/x",
        "//proc",
        "/x/../proc",
        &long,
        &longer,
    ];
    for destination in refused {
        assert_eq!(make(destination, "bind", "/s", ""), Err("mount.destination"), "{destination}");
        // The standard tmpfs mounts are recognised at their places: see below.
        if destination != "/dev" && destination != "/dev/shm" {
            assert_eq!(
                make(destination, "tmpfs", "", ""),
                Err("mount.destination"),
                "{destination}"
            );
        }
    }
    for destination in [
        "/a",
        "/...",
        "/.a",
        "/process",
        "/procs/x",
        "/devices",
        "/system",
        "/srv/proc",
        &"/a".repeat(2047),
    ] {
        assert!(make(destination, "bind", "/s", "").is_ok(), "{destination}");
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"23-destination"));
        assert!(refused.iter().all(|destination| make(destination, "bind", "/s", "").is_ok()));
    }
}

#[test]
fn a_bind_has_an_absolute_source() {
    for source in ["", "data", "../data", "./data"] {
        assert_eq!(make("/d", "bind", source, ""), Err("mount.source"), "{source}");
    }
    assert_eq!(make("/d", "bind", &"/a".repeat(2048), ""), Err("config.path"));
}

#[test]
fn standard_mounts_are_recognised() {
    for fixed in FIXED {
        let (kind, source) = (fixed.kind, fixed.source);
        assert_eq!(make(fixed.destination, kind, source, &fixed.options.join(",")), Ok(vec![]));
        assert_eq!(make(fixed.destination, kind, source, ""), Ok(vec![]));
        for option in ["rw", "suid", "dev", "size=1g", "hidepid=2", "mode=777", "shared"] {
            assert_eq!(
                make(fixed.destination, kind, source, option),
                Err("mount.option"),
                "{}",
                fixed.destination
            );
        }
        assert_eq!(make(fixed.destination, "bind", "/s", "rbind"), Err("mount.destination"));
        assert!(make("/elsewhere", kind, "/s", "dev").is_err());
    }
}

#[test]
fn mounts_are_counted() {
    let many = |count| {
        make_mounts(vec![mount("/t", "tmpfs", "", ""); count], RAM).map_err(|error| error.code)
    };
    assert_eq!(many(MAX_MOUNTS).map(|made| made.len()), Ok(MAX_MOUNTS));
    assert_eq!(many(MAX_MOUNTS + 1), Err("config.too-many"));
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"54-counts"));
        assert!(many(MAX_MOUNTS + 1).is_ok());
    }
}

#[test]
fn limits_on_text_are_where_they_are_said() {
    // As long as the reader takes, and one digit more.
    assert_eq!(tmpfs("size=9999999999999999999"), Err("mount.size"));
    assert_eq!(tmpfs("size=99999999999999999999"), Err("mount.option"));
    assert_eq!(tmpfs("mode=01777").map(|made| made.2), Ok(0o1777));
    assert_eq!(tmpfs("mode=001777"), Err("mount.option"));
}

#[test]
fn what_is_of_the_other_kind_is_refused() {
    for option in ["size=1m", "nr_inodes=5", "mode=755"] {
        assert_eq!(make("/a", "bind", "/b", option), Err("mount.option"), "{option}");
    }
    // Without a word that says bind there is nothing to mount.
    for options in ["", "ro", "ro,nosuid"] {
        assert_eq!(make("/a", "none", "/b", options), Err("mount.type"), "{options}");
    }
}
