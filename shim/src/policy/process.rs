//! The container process: what runs, as whom, with which rights and limits.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;

use super::{Caller, c_string, check_count, ids, is_beneath, is_clean};
use crate::config::{self, quoted};
use crate::error::Error;
use crate::plan::{Capabilities, Mode, Process, Rlimit, TerminalSize};
use crate::rules::{Rule, active};

/// Most arguments and environment variables together.
pub const MAX_STRINGS: usize = 4096;
/// Most supplementary groups.
pub const MAX_GROUPS: usize = 256;

/// Capabilities by their numbers (capabilities(7)).
#[rustfmt::skip]
const CAPABILITIES: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a process in mapped mode may hold, over its own user namespace only: CHOWN, DAC_OVERRIDE,
/// FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, SETFCAP.
pub const ALLOWED_CAPABILITIES: u64 =
    1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18 | 1 << 31;

/// Resource limits by their numbers (setrlimit(2)).
#[rustfmt::skip]
const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC",
    "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
];

/// Decides what runs in the container.
pub(super) fn make_process(
    process: config::Process,
    init: bool,
    mode: &Mode,
    caller: &Caller,
) -> Result<Process, Error> {
    check_oom_score(process.oom_score_adj, caller)?;
    check_count(
        "process.args and process.env",
        process.args.len() + process.env.len(),
        MAX_STRINGS,
    )?;
    let groups = make_groups(process.user.additional_gids, mode)?;
    check_user(process.user.uid, process.user.gid, groups.as_deref(), mode, caller)?;
    let terminal = process
        .terminal
        .then(|| process.console_size.map(|(rows, columns)| TerminalSize { rows, columns }));
    Ok(Process {
        args: make_args(process.args)?,
        env: make_env(process.env)?,
        cwd: make_cwd(process.cwd)?,
        uid: process.user.uid,
        gid: process.user.gid,
        groups,
        umask: make_umask(process.user.umask)?,
        terminal,
        capabilities: make_capabilities(&process.capabilities, mode)?,
        rlimits: make_rlimits(&process.rlimits, caller)?,
        init,
    })
}

fn make_args(args: Vec<Vec<u8>>) -> Result<Vec<CString>, Error> {
    if args.first().is_none_or(Vec::is_empty) {
        let why = "process.args names no program";
        return Err(Error::refused("process.args", why, "write the program and its arguments"));
    }
    args.into_iter().map(c_string).collect()
}

fn make_env(env: Vec<Vec<u8>>) -> Result<Vec<CString>, Error> {
    if let Some(entry) =
        env.iter().find(|entry| !matches!(entry.iter().position(|&byte| byte == b'='), Some(1..)))
    {
        let why = format!("process.env holds {}", quoted(entry));
        return Err(Error::refused("process.env", why, "write NAME=value"));
    }
    env.into_iter().map(c_string).collect()
}

fn make_cwd(cwd: Vec<u8>) -> Result<CString, Error> {
    // /dev/fd is a link to /proc/self/fd.
    let descriptor = is_beneath(&cwd, b"/proc") || is_beneath(&cwd, b"/dev/fd");
    let allowed = is_clean(&cwd) && !descriptor;
    if active(Rule::WorkingDirectory) && !allowed {
        let why = format!("process.cwd is {}", quoted(&cwd));
        let hint =
            "use an absolute path without `.`, `..` or a final `/`, not below /proc or /dev/fd";
        return Err(Error::refused("process.cwd", why, hint));
    }
    c_string(cwd)
}

fn make_umask(umask: Option<u32>) -> Result<u32, Error> {
    match umask.unwrap_or(0o022) {
        mask @ 0..=0o777 => Ok(mask),
        mask => {
            let why = format!("process.user.umask is {mask}");
            Err(Error::refused("user.umask", why, "use a number from 0 to 511 (octal 777)"))
        }
    }
}

/// Supplementary groups change only where root granted the caller gids: else a process could drop a
/// group by which a file is closed to it (CVE-2014-8989).
fn make_groups(groups: Vec<u32>, mode: &Mode) -> Result<Option<Vec<u32>>, Error> {
    check_count("process.user.additionalGids", groups.len(), MAX_GROUPS)?;
    match mode {
        Mode::Mapped { setgroups: true, .. } => Ok(Some(groups)),
        _ if groups.is_empty() => Ok(None),
        _ if !active(Rule::Groups) => Ok(Some(groups)),
        _ => {
            let why = "process.user.additionalGids needs a user namespace and subordinate gids";
            let hint =
                "remove this member: your own groups are kept; or ask for a line in /etc/subgid";
            Err(Error::refused("user.groups", why, hint))
        }
    }
}

fn check_user(
    uid: u32,
    gid: u32,
    groups: Option<&[u32]>,
    mode: &Mode,
    caller: &Caller,
) -> Result<(), Error> {
    match mode {
        Mode::Direct if active(Rule::UserDirect) && (uid, gid) != (caller.uid, caller.gid) => {
            let why = format!(
                "process.user is {uid}:{gid}, which without a user namespace can only be {}:{}",
                caller.uid, caller.gid
            );
            let hint =
                r#"set process.user to your own ids, or add {"type": "user"} to linux.namespaces"#;
            Err(Error::refused("user.unmappable", why, hint))
        }
        Mode::Mapped { uids, gids, .. } if active(Rule::UserMapped) => {
            let gid_missing = core::iter::once(&gid)
                .chain(groups.unwrap_or_default())
                .find(|gid| !ids::is_mapped(gids, **gid));
            let (kind, id) = match (ids::is_mapped(uids, uid), gid_missing) {
                (true, None) => return Ok(()),
                (false, _) => ("uid", uid),
                (true, Some(gid)) => ("gid", *gid),
            };
            let why = format!("process.user holds {kind} {id}, which is not mapped");
            let hint = "choose it as containerID in linux.uidMappings or gidMappings, or ask for lines in /etc/subuid and /etc/subgid";
            Err(Error::refused("user.unmapped", why, hint))
        }
        _ => Ok(()),
    }
}

fn make_capabilities(sets: &config::Capabilities, mode: &Mode) -> Result<Capabilities, Error> {
    let asked = Capabilities {
        bounding: parse_set(&sets.bounding)?,
        effective: parse_set(&sets.effective)?,
        permitted: parse_set(&sets.permitted)?,
        inheritable: parse_set(&sets.inheritable)?,
        ambient: parse_set(&sets.ambient)?,
    };
    let allowed = match mode {
        _ if !active(Rule::CapabilitySets) => return Ok(asked),
        Mode::Direct => 0,
        Mode::Mapped { .. } => ALLOWED_CAPABILITIES,
    };
    // Each set within the one that bounds it, as the kernel wants them.
    let bounding = asked.bounding & allowed;
    let permitted = asked.permitted & bounding;
    let inheritable = asked.inheritable & bounding;
    Ok(Capabilities {
        bounding,
        effective: asked.effective & permitted,
        permitted,
        inheritable,
        ambient: asked.ambient & permitted & inheritable,
    })
}

fn parse_set(names: &[Vec<u8>]) -> Result<u64, Error> {
    names.iter().try_fold(0, |set, name| {
        let plain = name.strip_prefix(b"CAP_").unwrap_or_default();
        match CAPABILITIES.iter().position(|known| known.as_bytes() == plain) {
            Some(number) => Ok(set | 1 << number),
            None => {
                let why = format!("process.capabilities holds {}", quoted(name));
                let hint = "use names of capabilities(7), CAP_KILL for one";
                Err(Error::refused("process.capability", why, hint))
            }
        }
    })
}

fn make_rlimits(rlimits: &[config::Rlimit], caller: &Caller) -> Result<Vec<Rlimit>, Error> {
    let mut made: Vec<Rlimit> = Vec::new();
    for (index, limit) in rlimits.iter().enumerate() {
        let refuse = |what: &str| {
            let why = format!("process.rlimits[{index}]: {} {what}", quoted(&limit.kind));
            Error::refused("process.rlimit", why, "lower the limit, or remove the item")
        };
        let resource = RLIMITS.iter().position(|known| known.as_bytes() == limit.kind);
        let resource = resource.ok_or_else(|| refuse("is not known"))?;
        if made.iter().any(|before| before.resource == resource as u32) {
            return Err(refuse("is there twice"));
        }
        if limit.soft > limit.hard {
            return Err(refuse("has a soft limit above its hard one"));
        }
        if active(Rule::RlimitsDownward) && limit.hard > caller.rlimits[resource].1 {
            return Err(refuse("has a hard limit above yours"));
        }
        made.push(Rlimit { resource: resource as u32, soft: limit.soft, hard: limit.hard });
    }
    Ok(made)
}

/// The score stays the caller's: lowering it takes a capability, raising it is not offered.
fn check_oom_score(score: Option<i64>, caller: &Caller) -> Result<(), Error> {
    match score {
        Some(score) if active(Rule::OomScore) && score != i64::from(caller.oom_score_adj) => {
            let why = format!("process.oomScoreAdj is {score}, yours is {}", caller.oom_score_adj);
            let hint = "remove this member: the container keeps yours";
            Err(Error::refused("process.oom-score", why, hint))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
