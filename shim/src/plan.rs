//! What will be done: the closed result of the policy step. Nothing here is a path to be trusted.
//!
//! A [`Plan`] is data. Whoever carries it out opens every path in it *with the caller's ids*; the
//! argument why each privileged step is safe stands beside its type.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::CStr;

/// A contiguous run of ids: `inside` in the container, `outside` on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the container.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many; never 0, and neither side overflows.
    pub count: u32,
}

/// With or without a user namespace. The shim never changes one for the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A new user namespace. Safe: every host id in the maps is the caller's own, by the kernel's
    /// credentials or by root's /etc/subuid and /etc/subgid; host id 0 is never among them.
    Mapped {
        /// Sorted by `inside`, no overlap.
        uids: Vec<IdRange>,
        /// Sorted by `inside`, no overlap.
        gids: Vec<IdRange>,
        /// Whether setgroups(2) stays possible: only with an authorised gid range, as newgidmap does,
        /// else dropping a group would beat a negative access list (CVE-2014-8989).
        setgroups: bool,
    },
    /// No user namespace: everything runs as the caller, without any capability.
    Direct,
}

/// Which network the container sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The caller's.
    Host,
    /// A new namespace with loopback up.
    New,
}

/// The container's root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// As the spec has it: relative to the bundle, or absolute. Opened once, as the caller.
    pub path: CString,
    /// Mounted read-only, submounts included.
    pub readonly: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A recursive bind. Safe: opened as the caller; the flags of the source's mount stay.
    Bind(CString),
    /// Memory, made by root, so that it can be capped.
    Tmpfs {
        /// Upper bound of its content, in bytes.
        size_bytes: u64,
        /// Upper bound of its inodes.
        inodes: u64,
        /// Permission bits of its root, at most 0o1777.
        mode: u32,
    },
}

/// One mount that the spec asks for. nosuid and nodev are always set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute and clean: no `.`, `..`, empty component; not below /proc, /sys or /dev, not `/`.
    pub destination: CString,
    /// What appears there.
    pub source: Source,
    /// Read-only.
    pub readonly: bool,
    /// No execution.
    pub noexec: bool,
}

/// Capability sets, a bit a capability (capabilities(7) numbers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Upper bound of what execve can gain.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept over execve of files that inherit.
    pub inheritable: u64,
    /// Kept over execve of any file.
    pub ambient: u64,
}

/// One resource limit; never above what the caller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// RLIMIT_* of setrlimit(2).
    pub resource: u32,
    /// In the resource's unit; u64::MAX is no limit.
    pub soft: u64,
    /// In the resource's unit; u64::MAX is no limit.
    pub hard: u64,
}

/// The size of a terminal, in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// Who keeps a limit: a controller of cgroup v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// Tasks.
    Pids,
    /// Processor time.
    Cpu,
}

impl Controller {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// As cgroup.controllers has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// One limit of the container's leaf. Safe: written with the caller's ids, into a cgroup that he has
/// just made below one that is his; nothing above it gets more than it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Who keeps it.
    pub controller: Controller,
    /// The file in the leaf.
    pub file: &'static CStr,
    /// What is written there.
    pub value: Vec<u8>,
}

/// The container process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Never empty.
    pub args: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    /// Absolute, clean, not below /proc.
    pub cwd: CString,
    /// Id in the container (mapped mode) or the caller's (direct mode).
    pub uid: u32,
    /// Id in the container (mapped mode) or the caller's (direct mode).
    pub gid: u32,
    /// Supplementary groups to set; `None` keeps those of the caller.
    pub groups: Option<Vec<u32>>,
    /// File mode creation mask.
    pub umask: u32,
    /// A terminal of the container's own, with a first size where the spec gives one.
    pub terminal: Option<Option<TerminalSize>>,
    /// All empty in direct mode.
    pub capabilities: Capabilities,
    /// In the order of the spec.
    pub rlimits: Vec<Rlimit>,
    /// PID 1 is a stage of the shim that reaps and forwards signals.
    pub init: bool,
}

/// All that will be done for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// With or without a user namespace.
    pub mode: Mode,
    /// Which network.
    pub network: Network,
    /// Of the new UTS namespace; `None` keeps the host's.
    pub hostname: Option<CString>,
    /// The root file system.
    pub root: Root,
    /// In the order of the spec.
    pub mounts: Vec<Mount>,
    /// What runs.
    pub process: Process,
    /// What its leaf limits; without any there is no leaf.
    pub limits: Vec<Limit>,
}
