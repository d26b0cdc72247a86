//! Makes a caller and the text of a config from the bytes of an input: each byte is a choice.
//!
//! Small numbers choose what is usual, so an input of zeroes is a plain config, and each change of a
//! byte departs from it in one place.

use std::fmt::Write;

use locald_shim::policy::{Caller, Host};
use locald_shim::subids::Range;

/// Reads choices; an input that has ended chooses 0.
pub struct Choices<'d> {
    data: &'d [u8],
}

impl<'d> Choices<'d> {
    pub fn new(data: &'d [u8]) -> Self {
        Self { data }
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.data.split_first() else { return 0 };
        self.data = rest;
        *first
    }

    /// True for odd bytes.
    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn pick<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from[usize::from(self.byte()) % from.len()]
    }

    /// One of the numbers at which something happens, or any of 32 bits.
    fn id(&mut self, usual: u32) -> u32 {
        match self.byte() % 16 {
            0..=6 => usual,
            7 => 0,
            8 => 1,
            9 => 1000,
            10 => 65_534,
            11 => 65_535,
            12 => 100_000,
            13 => u32::MAX - 1,
            14 => u32::from(self.byte()),
            // 2³² - 1 is nobody's id.
            _ => u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
                .min(u32::MAX - 1),
        }
    }
}

/// Who calls, and what the host grants him.
pub fn make_caller(choices: &mut Choices) -> (Caller, Host) {
    let uid = choices.id(1000);
    let gid = choices.id(1000);
    let limit = [u64::MAX, 4096, 0][usize::from(choices.byte()) % 3];
    let caller = Caller {
        uid,
        gid,
        groups: if choices.flag() { vec![27] } else { Vec::new() },
        rlimits: [(limit, limit); 16],
        oom_score_adj: if choices.flag() { 500 } else { 0 },
    };
    let subuids = make_ranges(choices, 100_000);
    let subgids = make_ranges(choices, 200_000);
    let ram_bytes = [8 << 30, 1 << 20, 0, u64::MAX][usize::from(choices.byte()) % 4];
    (caller, Host { subuids, subgids, ram_bytes })
}

fn make_ranges(choices: &mut Choices, usual: u32) -> Vec<Range> {
    match choices.byte() % 6 {
        0 => vec![Range { start: usual, count: 65_536 }],
        1 => Vec::new(),
        // As many as it takes to reach the kernel's limits, which are on extents and on bytes.
        2 => {
            let (many, stride) =
                (u32::from(choices.byte()) * 2, choices.id(1000).max(1) % 10_000 + 2);
            (0..many).map(|n| Range { start: usual + n * stride, count: 1 }).collect()
        }
        many => (0..many)
            .map(|n| Range {
                start: choices.id(usual + u32::from(n) * 65_536),
                count: choices.id(65_536),
            })
            // As the parser of the tables has it: a range is never empty.
            .filter(|range| range.count > 0)
            .collect(),
    }
}

/// The text of a config.json.
pub fn make_config(choices: &mut Choices, caller: &Caller) -> Vec<u8> {
    let mut text = String::new();
    let mapped = !choices.flag();
    let _ = write!(text, r#"{{"ociVersion": "{}""#, choices.pick(&["1.2.0", "1.0.2", "2.0.0", ""]));
    let path = choices.pick(&["rootfs", "/", "", "a\\u0000b"]);
    let _ = write!(text, r#", "root": {{"path": "{path}", "readonly": {}}}"#, choices.flag());
    let name = choices.pick(&["box", "", "-", "a b", "x.y_z", "\\n", "h\\u0000h"]);
    let _ = write!(text, r#", "hostname": "{name}""#);
    text.push_str(r#", "process": "#);
    make_process(&mut text, choices, caller, mapped);
    text.push_str(r#", "mounts": ["#);
    list(&mut text, choices, make_mount);
    text.push_str(r#"], "linux": "#);
    make_linux(&mut text, choices, caller, mapped);
    if choices.flag() {
        let value = choices.pick(&[r#""true""#, r#""false""#, r#""yes""#, "1"]);
        let _ = write!(text, r#", "annotations": {{"dev.locald.init": {value}, "x": "y"}}"#);
    }
    text.push_str(choices.pick(&[
        "",
        "",
        "",
        "",
        r#", "hooks": {"prestart": [{"path": "/x"}]}"#,
        r#", "hooks": {}"#,
        r#", "domainname": "d""#,
        r#", "windows": {"a": 1}"#,
        r#", "x": 0"#,
    ]));
    text.push('}');
    text.into_bytes()
}

/// Up to 7 items, or one of them up to 255 × 20 times.
fn list(text: &mut String, choices: &mut Choices, make: fn(&mut String, &mut Choices)) {
    let many = choices.byte();
    for index in 0..many % 8 {
        text.push_str(if index == 0 { "" } else { ", " });
        make(text, choices);
    }
    if many >= 248 && many % 8 == 1 {
        let times = usize::from(choices.byte()) * 20;
        let start = text.rfind('[').map_or(0, |at| at + 1);
        let item = format!(", {}", &text[start..]);
        text.push_str(&item.repeat(times));
    }
}

fn make_process(text: &mut String, choices: &mut Choices, caller: &Caller, mapped: bool) {
    let (uid, gid) = if mapped { (0, 0) } else { (caller.uid, caller.gid) };
    let _ = write!(text, r#"{{"user": {{"uid": {}, "gid": {}"#, choices.id(uid), choices.id(gid));
    if choices.flag() {
        text.push_str(r#", "additionalGids": ["#);
        list(text, choices, |text, choices| {
            let _ = write!(text, "{}", choices.id(1));
        });
        text.push(']');
    }
    if choices.flag() {
        let _ = write!(text, r#", "umask": {}"#, choices.id(18));
    }
    let cwd = choices.pick(&[
        "/",
        "/srv",
        "",
        "srv",
        "/a/../b",
        "/proc/self/fd/3",
        "/dev/fd/3",
        "/proc",
        "/a//b",
        "/a/",
        "/process",
        "/a\\u0000/..",
    ]);
    let _ = write!(text, r#"}}, "cwd": "{cwd}", "args": [""#);
    text.push_str(choices.pick(&["/bin/true", "a", "", "\\u0000"]));
    text.push_str(r#""], "env": ["#);
    list(text, choices, |text, choices| {
        text.push_str(choices.pick(&[r#""A=b""#, r#""A=""#, r#""=b""#, r#""A""#, r#""A=\u0000""#]));
    });
    text.push(']');
    if choices.flag() {
        text.push_str(r#", "capabilities": {"#);
        for (index, set) in
            ["bounding", "effective", "permitted", "inheritable", "ambient"].iter().enumerate()
        {
            let _ = write!(text, r#"{}"{set}": ["#, if index == 0 { "" } else { ", " });
            list(text, choices, |text, choices| {
                let name = choices.pick(&[
                    "CAP_KILL",
                    "CAP_CHOWN",
                    "CAP_SYS_ADMIN",
                    "CAP_SETUID",
                    "CAP_NET_ADMIN",
                    "CAP_SETFCAP",
                    "CAP_MKNOD",
                    "CAP_BPF",
                    "CAP_NET_BIND_SERVICE",
                    "KILL",
                    "CAP_X",
                    "CAP_SYS_CHROOT",
                ]);
                let _ = write!(text, r#""{name}""#);
            });
            text.push(']');
        }
        text.push('}');
    }
    if choices.flag() {
        text.push_str(r#", "rlimits": ["#);
        list(text, choices, |text, choices| {
            let kind = choices.pick(&[
                "RLIMIT_NOFILE",
                "RLIMIT_CORE",
                "RLIMIT_CPU",
                "RLIMIT_RTTIME",
                "NOFILE",
            ]);
            let (soft, hard) = (choices.id(64), choices.id(1024));
            let _ = write!(text, r#"{{"type": "{kind}", "soft": {soft}, "hard": {hard}}}"#);
        });
        text.push(']');
    }
    text.push_str(choices.pick(&[
        "",
        "",
        r#", "terminal": true, "consoleSize": {"height": 24, "width": 80}"#,
        r#", "noNewPrivileges": false"#,
        r#", "oomScoreAdj": 0"#,
        r#", "oomScoreAdj": -1000"#,
        r#", "oomScoreAdj": 500"#,
        r#", "apparmorProfile": "x""#,
        r#", "selinuxLabel": "x""#,
        r#", "scheduler": {"policy": "SCHED_FIFO"}"#,
        r#", "ioPriority": {"class": "x"}"#,
        r#", "y": 1"#,
        r#", "execCPUAffinity": {"initial": "0"}"#,
    ]));
    text.push('}');
}

fn make_mount(text: &mut String, choices: &mut Choices) {
    let destination = choices.pick(&[
        "/a",
        "/b/c",
        "/",
        "/proc",
        "/proc/x",
        "/sys",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys/fs/cgroup",
        "a",
        "/a/../b",
        "/a/",
        "/a//b",
        "/./a",
        "/device",
        "/a\\u0000",
        "/dev/shm/x",
        "",
    ]);
    let kind = choices.pick(&[
        "tmpfs", "bind", "none", "", "proc", "sysfs", "devpts", "mqueue", "cgroup", "ext4",
        "overlay", "cgroup2",
    ]);
    let source = choices.pick(&["tmpfs", "/b", "b", "", "/sys", "proc", "/x\\u0000y"]);
    let _ = write!(
        text,
        r#"{{"destination": "{destination}", "type": "{kind}", "source": "{source}", "options": ["#
    );
    list(text, choices, |text, choices| {
        let option = choices.pick(&[
            "ro",
            "rbind",
            "bind",
            "rw",
            "nosuid",
            "nodev",
            "noexec",
            "private",
            "rprivate",
            "size=1m",
            "mode=755",
            "nr_inodes=10",
            "size=0",
            "size=99999999999g",
            "nr_inodes=0",
            "mode=4755",
            "suid",
            "dev",
            "exec",
            "shared",
            "rshared",
            "strictatime",
            "newinstance",
            "gid=5",
            "size=",
            "size=50%",
            "remount",
            "idmap",
        ]);
        let _ = write!(text, r#""{option}""#);
    });
    text.push(']');
    text.push_str(choices.pick(&[
        "",
        "",
        "",
        r#", "uidMappings": [{"containerID": 0}]"#,
        r#", "z": 1"#,
    ]));
    text.push('}');
}

fn make_linux(text: &mut String, choices: &mut Choices, caller: &Caller, mapped: bool) {
    text.push_str(r#"{"namespaces": ["#);
    text.push_str(choices.pick(&[
        r#"{"type": "pid"}, {"type": "mount"}"#, r#"{"type": "pid"}, {"type": "mount"}, {"type": "network"}"#,
        r#"{"type": "pid"}"#, r#"{"type": "mount"}"#, r#"{"type": "pid"}, {"type": "mount"}, {"type": "time"}"#,
        r#"{"type": "pid"}, {"type": "mount"}, {"type": "pid"}"#,
        r#"{"type": "pid", "path": "/proc/1/ns/pid"}, {"type": "mount"}"#,
        r#"{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}"#,
    ]));
    text.push_str(if mapped { r#", {"type": "user"}]"# } else { "]" });
    for (member, own) in [("uidMappings", caller.uid), ("gidMappings", caller.gid)] {
        for index in 0..choices.byte() % 4 {
            let _ = match index {
                0 => write!(text, r#", "{member}": ["#),
                _ => write!(text, ", "),
            };
            let (inside, host, size) = (choices.id(5), choices.id(own), choices.id(1));
            let _ =
                write!(text, r#"{{"containerID": {inside}, "hostID": {host}, "size": {size}}}"#);
            if index == 2 || choices.flag() {
                text.push(']');
                break;
            }
        }
        if text.ends_with('}') {
            text.push(']');
        }
    }
    text.push_str(choices.pick(&[
        "",
        "",
        "",
        r#", "maskedPaths": ["/proc/kcore"]"#,
        r#", "maskedPaths": ["/etc"]"#,
        r#", "readonlyPaths": ["/proc/sys"]"#,
        r#", "readonlyPaths": ["/home"]"#,
        r#", "rootfsPropagation": "rshared""#,
        r#", "rootfsPropagation": "x""#,
        r#", "devices": [{"path": "/dev/x"}]"#,
        r#", "sysctl": {"a": "b"}"#,
        r#", "cgroupsPath": "/x""#,
        r#", "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}"#,
        r#", "mountLabel": "x""#,
        r#", "intelRdt": {"a": 1}"#,
        r#", "personality": {"domain": "LINUX32"}"#,
        r#", "netDevices": {"eth0": {}}"#,
        r#", "timeOffsets": {"boottime": {}}"#,
        r#", "memoryPolicy": {"mode": "x"}"#,
        r#", "resources": {"devices": [{"allow": false, "access": "rwm"}]}"#,
        r#", "resources": {"devices": [{"allow": true, "access": "rwm"}]}"#,
        r#", "resources": {"unified": {"x": "y"}}"#,
        r#", "devices": []"#,
        r#", "w": []"#,
        r#", "resources": "#,
    ]));
    if text.ends_with(r#""resources": "#) {
        make_resources(text, choices);
    }
    text.push('}');
}

/// Limits of each controller, from what is usual to what none knows.
fn make_resources(text: &mut String, choices: &mut Choices) {
    let amount =
        |choices: &mut Choices| choices.pick(&["1048576", "64", "1", "0", "-1", "-2", "4194305"]);
    let (limit, swap) = (amount(choices), amount(choices));
    let _ = write!(text, r#"{{"memory": {{"limit": {limit}"#);
    if choices.flag() {
        let _ = write!(text, r#", "swap": {swap}"#);
    }
    let _ = write!(text, r#"}}, "pids": {{"limit": {}}}"#, amount(choices));
    let quota = choices.pick(&["50000", "1000", "0", "-1", "999", "-3"]);
    let period = choices.pick(&["100000", "0", "1000000", "999", "1000001"]);
    let shares = choices.pick(&["1024", "2", "0", "262144", "1", "262145"]);
    let _ =
        write!(text, r#", "cpu": {{"quota": {quota}, "period": {period}, "shares": {shares}}}}}"#);
}
