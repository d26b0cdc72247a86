//! The policy: (config, caller, host) -> plan, or a refusal with a stable code. Pure.
//!
//! A strict allow-list. The bar is that nothing is allowed which a kernel with unprivileged user
//! namespaces would not allow the same caller; the rules have their numbers and reasons in
//! docs/manual/architecture/security.md. What the shim always does whatever the config says (fixed
//! mounts, masks, no_new_privs, private propagation, new pid, ipc, uts, mount and cgroup namespaces)
//! needs no word in a plan.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::config::{Config, Linux, quoted};
use crate::error::Error;
use crate::plan::{IdRange, Mode, Network, Plan, Root};
use crate::rules::{Rule, active};
use crate::subids;

mod ids;
mod limits;
mod mounts;
mod process;

pub use ids::render_map;
pub use mounts::MAX_MOUNTS;
pub use process::{ALLOWED_CAPABILITIES, MAX_GROUPS, MAX_STRINGS};

/// What is masked in every container, whatever the config says (moby 28's list, runc's included).
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What is read-only in every container, whatever the config says.
pub const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Longest path the kernel takes, without its NUL.
const MAX_PATH_BYTES: usize = 4095;
/// Longest host name the kernel takes.
const MAX_HOSTNAME_BYTES: usize = 64;

/// Who called, by the kernel's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Real uid.
    pub uid: u32,
    /// Real gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Soft and hard limits as the caller had them, by RLIMIT_* number.
    pub rlimits: [(u64, u64); 16],
    /// Of the calling process.
    pub oom_score_adj: i32,
}

/// What the host grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The caller's ranges in /etc/subuid, in its order.
    pub subuids: Vec<subids::Range>,
    /// The caller's ranges in /etc/subgid, in its order.
    pub subgids: Vec<subids::Range>,
    /// Memory of the machine.
    pub ram_bytes: u64,
}

/// Decides what will be done for `config`.
///
/// # Errors
/// Every code of docs/manual/reference/shim-config.md that is not one of `json` or `config`.
pub fn make_plan(config: Config, caller: &Caller, host: &Host) -> Result<Plan, Error> {
    let namespaces = Namespaces::of(&config.linux)?;
    check_linux(&config.linux)?;
    let mode = make_mode(namespaces, &config.linux, caller, host)?;
    let root = Root { path: path("root.path", config.root.path)?, readonly: config.root.readonly };
    let hostname = make_hostname(config.hostname)?;
    let mounts = mounts::make_mounts(config.mounts, host.ram_bytes)?;
    let process = process::make_process(config.process, config.init, &mode, caller)?;
    let limits = limits::make_limits(&config.linux.resources)?;
    let network = if namespaces.network { Network::New } else { Network::Host };
    Ok(Plan { mode, network, hostname, root, mounts, process, limits })
}

/// The map in which container root is the caller, for work on what his own containers left.
///
/// # Errors
/// As for a config whose map chooses nothing.
pub fn own_map(caller: &Caller, host: &Host) -> Result<(Vec<IdRange>, Vec<IdRange>), Error> {
    let uids = ids::make_map("uid", caller.uid, &host.subuids, &[])?;
    let gids = ids::make_map("gid", caller.gid, &host.subgids, &[])?;
    Ok((uids, gids))
}

/// The choices that `linux.namespaces` has.
#[derive(Clone, Copy)]
struct Namespaces {
    user: bool,
    network: bool,
}

impl Namespaces {
    fn of(linux: &Linux) -> Result<Self, Error> {
        for (index, namespace) in linux.namespaces.iter().enumerate() {
            let known: &[&[u8]] =
                &[b"pid", b"network", b"mount", b"ipc", b"uts", b"user", b"cgroup"];
            let place = format!("linux.namespaces[{index}]");
            if active(Rule::ForeignFeature) && !known.contains(&namespace.kind.as_slice()) {
                let why = format!("{place}.type is {}", quoted(&namespace.kind));
                let hint = "use pid, network, mount, ipc, uts, user or cgroup";
                return Err(Error::refused("namespace.type", why, hint));
            }
            if active(Rule::NamespacePath) && !namespace.path.is_empty() {
                let why = format!("{place}.path names a namespace to join");
                let hint = "remove `path`: namespaces are always new";
                return Err(Error::refused("namespace.path", why, hint));
            }
            if linux.namespaces[..index].iter().any(|before| before.kind == namespace.kind) {
                let why = format!("{place}.type is there twice");
                return Err(Error::refused("namespace.duplicate", why, "remove one of the two"));
            }
        }
        let holds = |kind: &[u8]| linux.namespaces.iter().any(|namespace| namespace.kind == kind);
        for (kind, rule) in [("mount", Rule::MountNamespace), ("pid", Rule::PidNamespace)] {
            if active(rule) && !holds(kind.as_bytes()) {
                let why = format!("linux.namespaces has no new {kind} namespace");
                let hint = r#"add {"type": "mount"} and {"type": "pid"}"#;
                return Err(Error::refused("namespace.missing", why, hint));
            }
        }
        Ok(Self { user: holds(b"user"), network: holds(b"network") })
    }
}

/// Members of `linux` that are recognised and replaced by what the shim always does.
fn check_linux(linux: &Linux) -> Result<(), Error> {
    let word = linux.propagation.as_slice();
    let kind = word.strip_prefix(b"r").unwrap_or(word);
    let known =
        word.is_empty() || matches!(kind, b"shared" | b"slave" | b"private" | b"unbindable");
    // All of them become private: rule 36 forces, it does not refuse.
    if active(Rule::Propagation) && !known {
        let why = format!("linux.rootfsPropagation is {}", quoted(word));
        let hint = "remove this member: propagation is always private";
        return Err(Error::refused("config.propagation", why, hint));
    }
    let lists = [
        ("maskedPaths", &linux.masked_paths, MASKED_PATHS),
        ("readonlyPaths", &linux.readonly_paths, READONLY_PATHS),
    ];
    for (name, paths, constant) in lists {
        let unknown =
            paths.iter().find(|path| !constant.iter().any(|known| known.as_bytes() == **path));
        if let (true, Some(path)) = (active(Rule::PathLists), unknown) {
            let why =
                format!("linux.{name} holds {}, which is not in the fixed list", quoted(path));
            let hint = "remove this path from linux.maskedPaths or linux.readonlyPaths: both lists are fixed";
            return Err(Error::refused("config.path-list", why, hint));
        }
    }
    Ok(())
}

fn make_mode(
    namespaces: Namespaces,
    linux: &Linux,
    caller: &Caller,
    host: &Host,
) -> Result<Mode, Error> {
    if caller.uid == 0 && active(Rule::NotRoot) {
        return Err(Error::refused(
            "caller.root",
            "the caller is root",
            "run it as an ordinary user",
        ));
    }
    if namespaces.user {
        let uids = ids::make_map("uid", caller.uid, &host.subuids, &linux.uid_mappings)?;
        let gids = ids::make_map("gid", caller.gid, &host.subgids, &linux.gid_mappings)?;
        let setgroups = !host.subgids.is_empty() || !active(Rule::Groups);
        return Ok(Mode::Mapped { uids, gids, setgroups });
    }
    if active(Rule::SpecMap) && !(linux.uid_mappings.is_empty() && linux.gid_mappings.is_empty()) {
        let why = "linux.uidMappings or linux.gidMappings is there without a user namespace";
        let hint = r#"add {"type": "user"} to linux.namespaces, or remove both members"#;
        return Err(Error::refused("map.mode", why, hint));
    }
    Ok(Mode::Direct)
}

fn make_hostname(hostname: Option<Vec<u8>>) -> Result<Option<CString>, Error> {
    let Some(name) = hostname.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.len() > MAX_HOSTNAME_BYTES || !name.iter().all(plain) {
        let why = format!("hostname is {}", quoted(&name));
        let hint = "use at most 64 letters, digits, `-`, `.` and `_`";
        return Err(Error::refused("config.hostname", why, hint));
    }
    c_string(name).map(Some)
}

/// A path to be opened as the caller: not empty and not longer than the kernel takes.
fn path(place: &str, bytes: Vec<u8>) -> Result<CString, Error> {
    if bytes.is_empty() || bytes.len() > MAX_PATH_BYTES {
        let why = format!("{place} has {} bytes", bytes.len());
        return Err(Error::refused("config.path", why, "give a path of 1 to 4095 bytes"));
    }
    c_string(bytes)
}

/// Whether a path is absolute and holds no empty, `.` or `..` component; `/` alone is clean.
fn is_clean(path: &[u8]) -> bool {
    let plain =
        |component: &[u8]| !matches!(component, b"" | b"." | b"..") && component.len() <= 255;
    path.len() <= MAX_PATH_BYTES
        && (path == b"/"
            || (path.starts_with(b"/") && path[1..].split(|&byte| byte == b'/').all(plain)))
}

/// Whether a clean path is `directory` or lies below it.
fn is_beneath(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// `json` lets no NUL through: what was checked is what the kernel reads.
fn c_string(mut bytes: Vec<u8>) -> Result<CString, Error> {
    if let (false, Some(nul)) = (active(Rule::NulByte), bytes.iter().position(|&byte| byte == 0)) {
        // What a C string would do, so that a mutant build shows what the rule prevents.
        bytes.truncate(nul);
    }
    CString::new(bytes)
        .map_err(|_| Error::refused("json.nul", "a string holds a NUL", "remove the NUL"))
}

/// A cap that keeps memory and time bounded.
fn check_count(place: &str, count: usize, most: usize) -> Result<(), Error> {
    if active(Rule::Counts) && count > most {
        let why: String = format!("{place} holds {count} items, more than {most}");
        return Err(Error::refused("config.too-many", why, "make this list shorter"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
