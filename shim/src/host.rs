//! Root's own files and the kernel's tables: the policy, the accounts, the ranges, the mounts.
//!
//! Everything here is named by a constant path and written by root alone; it is read with root's
//! rights before anything of the caller's is touched.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;
use core::ffi::CStr;

use crate::accounts;
use crate::error::{Context, Error};
use crate::policy::{Caller, Host};
use crate::policy_file::{self, Policy};
use crate::rules::{Rule, active};
use crate::subids;
use crate::sys::{self, At, Fd};

/// Most bytes that are read of a table in /etc.
const MAX_TABLE_BYTES: usize = 16 << 20;
/// Most bytes of /proc/self/mountinfo: some hundred thousand mounts.
const MAX_MOUNTINFO_BYTES: usize = 64 << 20;
/// NET_NS_INIT_INO of <linux/nsfs.h>.
const INITIAL_NETWORK_NAMESPACE: u64 = 0xEFFF_FFF9;

/// Directories that the kernel keeps empty for mounts: what is mounted there hides nothing.
const MOUNT_POINTS: [&str; 13] = [
    "/proc/sys/fs/binfmt_misc",
    "/proc/fs/nfsd",
    "/sys/fs/cgroup",
    "/sys/fs/bpf",
    "/sys/fs/fuse/connections",
    "/sys/fs/pstore",
    "/sys/fs/resctrl",
    "/sys/fs/selinux",
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
    "/sys/firmware/efi/efivars",
];

/// Checks that root's policy lets `caller` use this shim, and returns it.
///
/// # Errors
/// `shim.policy` if it is absent, malformed, not root's alone, or does not name him;
/// `shim.outdated` if it wants a newer shim.
pub fn permit(caller: &Caller) -> Result<Policy, Error> {
    let refused = |why: &str| {
        Error::refused(
            "shim.policy",
            format!("/etc/locald/policy {why}"),
            "sudo locald admin setup",
        )
    };
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let dir = sys::open(At::Cwd, c"/etc/locald", flags, 0, sys::NO_SYMLINKS)
        .map_err(|_| refused("is absent"))?;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let file = sys::open(At::Dir(&dir), c"policy", flags, 0, sys::NO_SYMLINKS | sys::BENEATH)
        .map_err(|_| refused("is absent"))?;
    for (object, kind) in [(&dir, libc::S_IFDIR), (&file, libc::S_IFREG)] {
        let status = sys::stat(object.number()).map_err(|_| refused("cannot be looked at"))?;
        let owned = status.uid == 0 && status.mode & 0o022 == 0 || !active(Rule::PolicyOwner);
        if status.kind() != kind || !owned {
            return Err(refused("or its directory is not root's alone"));
        }
    }
    let text =
        sys::read_all(&file, policy_file::MAX_BYTES).map_err(|_| refused("cannot be read"))?;
    let policy = Policy::parse(&text)?;
    let (passwd, group) = if policy.names_accounts() {
        (read_table(c"/etc/passwd")?, read_table(c"/etc/group")?)
    } else {
        (Vec::new(), Vec::new())
    };
    policy.permits(caller, &passwd, &group)?;
    Ok(policy)
}

/// Refuses to work from a file that has a second name: an old copy kept by the caller with link(2)
/// before an upgrade has the old faults (attack 8).
///
/// # Errors
/// `shim.linked`.
pub fn require_single_link() -> Result<(), Error> {
    let own = sys::open(At::Cwd, c"/proc/self/exe", libc::O_PATH, 0, 0)
        .and_then(|file| sys::stat(file.number()))
        .or_fail("host.proc", "/proc/self/exe")?;
    if active(Rule::SingleLink) && own.links > 1 {
        return Err(Error::refused(
            "shim.linked",
            format!("this shim's file has {} names", own.links),
            "sudo locald admin setup",
        ));
    }
    Ok(())
}

/// Checks that we are in the network namespace of the host: the policy's ports are those of that one,
/// and whoever made another decides about its ports there (attack 45).
///
/// The host's is the one that the machine started with, which has a number of its own since Linux 6.18,
/// or that of the first process we can see: in older kernels, or where all of us are in a container.
///
/// # Errors
/// `bind.network`.
pub fn require_own_network() -> Result<(), Error> {
    let find = |path| {
        sys::open(At::Cwd, path, libc::O_PATH, 0, 0)
            .and_then(|namespace| sys::stat(namespace.number()))
            .map(|status| (status.device, status.inode))
    };
    let own = find(c"/proc/self/ns/net");
    // Numbers that are given out start above it, so on an older kernel nothing has it.
    let first = matches!(own, Ok((_, INITIAL_NETWORK_NAMESPACE)));
    if first || own.is_ok() && own == find(c"/proc/1/ns/net") || !active(Rule::BindNamespace) {
        return Ok(());
    }
    Err(Error::refused(
        "bind.network",
        "the caller is not seen to be in the host's own network namespace",
        "call it from an ordinary login; who made this network can bind there",
    ))
}

/// What this host grants the caller; `ranges` says whether his subordinate ids are looked up.
///
/// # Errors
/// `host.subids` and what [`subids::parse`] refuses.
pub fn grants(caller: &Caller, ranges: bool) -> Result<Host, Error> {
    let mut host =
        Host { subuids: Vec::new(), subgids: Vec::new(), ram_bytes: sys::memory_bytes() };
    if ranges {
        let passwd = read_table(c"/etc/passwd")?;
        let name = accounts::find_user_name(&passwd, caller.uid);
        host.subuids = subids::parse(&read_table(c"/etc/subuid")?, name, caller.uid)?;
        host.subgids = subids::parse(&read_table(c"/etc/subgid")?, name, caller.uid)?;
    }
    Ok(host)
}

/// The text of a table in /etc; none at all if it does not exist.
fn read_table(path: &CStr) -> Result<Vec<u8>, Error> {
    match sys::open(At::Cwd, path, libc::O_RDONLY | libc::O_NONBLOCK, 0, 0) {
        Err(error) if error.0 == libc::ENOENT => Ok(Vec::new()),
        other => other
            .and_then(|file| sys::read_all(&file, MAX_TABLE_BYTES))
            .or_fail("host.table", "a table in /etc"),
    }
}

/// The caller's OOM score: asked only when a config names one.
pub fn oom_score() -> i32 {
    let read = |file: Fd| sys::read_all(&file, 16);
    let text = sys::open(At::Cwd, c"/proc/self/oom_score_adj", libc::O_RDONLY, 0, 0).and_then(read);
    let text = text.unwrap_or_default();
    core::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// CGROUP2_SUPER_MAGIC of statfs(2).
pub const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Where the whole of the cgroup v2 hierarchy is mounted, as far as this process's cgroup namespace
/// shows it.
///
/// # Errors
/// `host.mounts`.
pub fn cgroup2_mounts() -> Result<Vec<CString>, Error> {
    let text = sys::open(At::Cwd, c"/proc/self/mountinfo", libc::O_RDONLY, 0, 0)
        .and_then(|file| sys::read_all(&file, MAX_MOUNTINFO_BYTES))
        .or_fail("host.mounts", "/proc/self/mountinfo")?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse_cgroup2_mount).collect())
}

/// The mount point of a line of mountinfo, if it is one of a whole cgroup v2 hierarchy.
fn parse_cgroup2_mount(line: &[u8]) -> Option<CString> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    let kind = fields.by_ref().skip_while(|field| *field != b"-").nth(1)?;
    (root == b"/" && kind == b"cgroup2").then(|| CString::new(unescape(point)).ok())?
}

/// Which cgroup hierarchies the host mounts: `v1`, `v2`, `hybrid` or `none`.
pub fn cgroup_kind() -> &'static str {
    let is_v2 = |path: &CStr| {
        sys::open(At::Cwd, path, libc::O_PATH, 0, 0)
            .and_then(|place| sys::statfs(&place))
            .is_ok_and(|(kind, _)| kind == CGROUP2_MAGIC)
    };
    let there = |path: &CStr| sys::open(At::Cwd, path, libc::O_PATH, 0, 0).is_ok();
    if is_v2(c"/sys/fs/cgroup") {
        "v2"
    } else if is_v2(c"/sys/fs/cgroup/unified") {
        "hybrid"
    } else if there(c"/sys/fs/cgroup/memory") || there(c"/sys/fs/cgroup/cpu") {
        "v1"
    } else {
        "none"
    }
}

/// What the host's mounts mean for a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MountView {
    /// Paths below /proc and /sys that something is mounted over (attack 47).
    pub covered: Vec<CString>,
    /// Mounts that cannot be bound: a bind would leave them out and uncover what they hide.
    pub unbindable: Vec<Vec<u8>>,
    /// The host's /proc is read-only.
    pub proc_readonly: bool,
    /// The host shows a sysfs.
    pub has_sys: bool,
}

/// Reads the mounts of the caller's mount namespace.
///
/// # Errors
/// `host.mounts`.
pub fn mount_view() -> Result<MountView, Error> {
    let text = sys::open(At::Cwd, c"/proc/self/mountinfo", libc::O_RDONLY, 0, 0)
        .and_then(|file| sys::read_all(&file, MAX_MOUNTINFO_BYTES))
        .or_fail("host.mounts", "/proc/self/mountinfo")?;
    Ok(parse_mountinfo(&text))
}

/// Parses /proc/PID/mountinfo: proc_pid_mountinfo(5).
fn parse_mountinfo(text: &[u8]) -> MountView {
    let mut view = MountView::default();
    for line in text.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(point), Some(options)) = (fields.nth(4), fields.next()) else { continue };
        let readonly = options.split(|&byte| byte == b',').any(|option| option == b"ro");
        let unbindable =
            fields.by_ref().take_while(|field| *field != b"-").any(|f| f == b"unbindable");
        let kind = if unbindable { b"".as_slice() } else { fields.next().unwrap_or_default() };
        let point = unescape(point);
        match point.as_slice() {
            b"/proc" => view.proc_readonly = readonly,
            b"/sys" => view.has_sys = kind == b"sysfs" || unbindable,
            _ if point.starts_with(b"/proc/") || point.starts_with(b"/sys/") => {
                let is_at = |place: &&str| {
                    point
                        .strip_prefix(place.as_bytes())
                        .is_some_and(|r| matches!(r, [] | [b'/', ..]))
                };
                if !MOUNT_POINTS.iter().any(is_at) {
                    view.covered.extend(CString::new(point.clone()));
                }
            }
            _ => {}
        }
        if unbindable {
            view.unbindable.push(point);
        }
    }
    view
}

/// Undoes the octal escapes of mountinfo: space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    loop {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            [byte, tail @ ..] => {
                plain.push(*byte);
                rest = tail;
            }
            [] => return plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_proc_and_sys_are_found() {
        let view = parse_mountinfo(
            b"22 28 0:20 / /proc ro,relatime - proc proc rw\n\
              23 28 0:21 / /sys rw shared:2 - sysfs sysfs rw\n\
              24 22 0:5 /null /proc/keys rw - devtmpfs dev rw\n\
              25 22 0:30 / /proc/sys/fs/binfmt_misc rw shared:9 - autofs systemd-1 rw\n\
              26 23 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n\
              27 23 0:32 / /sys/fs/cgroups\\040x rw - tmpfs none rw\n\
              29 28 0:33 / /mnt/a\\134b rw unbindable - tmpfs none rw\n",
        );
        let covered: Vec<_> = view.covered.iter().map(|path| path.to_bytes()).collect();
        assert_eq!(covered, [b"/proc/keys".as_slice(), b"/sys/fs/cgroups x"]);
        assert_eq!(view.unbindable, [b"/mnt/a\\b".to_vec()]);
        assert!(view.proc_readonly && view.has_sys);
    }

    #[test]
    fn the_whole_hierarchy_is_found() {
        let mount = |line: &[u8]| parse_cgroup2_mount(line);
        let line = b"41 31 0:38 / /sys/fs/cgroup\\040x rw shared:4 - cgroup2 cgroup2 rw";
        assert_eq!(mount(line).unwrap().to_bytes(), b"/sys/fs/cgroup x");
        for line in [
            &b"41 31 0:38 /user.slice /mnt rw - cgroup2 cgroup2 rw"[..],
            b"41 31 0:38 /../.. /mnt rw - cgroup2 cgroup2 rw",
            b"41 31 0:38 / /mnt rw - tmpfs cgroup2 rw",
            b"41 31 0:38 / /mnt rw - fuse.cgroup2 cgroup2 rw",
            b"41 31 0:38 / /mnt",
            b"",
        ] {
            assert_eq!(mount(line), None);
        }
    }

    #[test]
    fn a_garbled_table_is_no_panic() {
        for text in [&b""[..], b"1 2 3", b"\n\n", b"1 2 3 4 5", b"1 2 3 4 /proc/x ro shared:1"] {
            parse_mountinfo(text);
        }
    }
}
