//! Who called, and what he left for us to trip over: everything inherited over execve(2).
//!
//! Nothing here trusts the caller's descriptors, limits, signals, directory or environment
//! (attacks 1-10, 48 and 49 of the security manual).

use alloc::boxed::Box;
use alloc::format;

use crate::error::{Context, Error};
use crate::policy::Caller;
use crate::rules::{Rule, active};
use crate::status::StatusFd;
use crate::sys::{self, At, Fd, SignalSet};

/// The inode of the initial user namespace: PROC_USER_INIT_INO of the kernel.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
/// PROC_SUPER_MAGIC of statfs(2).
const PROC_MAGIC: i64 = 0x9fa0;
/// Limits below which the shim itself cannot work, by RLIMIT_* number; bytes or descriptors.
const FLOORS: [(u32, u64); 4] = [
    (libc::RLIMIT_FSIZE, 1 << 20),
    (libc::RLIMIT_DATA, 8 << 20),
    (libc::RLIMIT_AS, 16 << 20),
    (libc::RLIMIT_NOFILE, 64),
];
/// How long opening and reading the caller's own files may take: a FUSE server that does not answer holds
/// only its owner's call, and not for ever (attack 50). Test builds wait for less.
const OPENING_MS: u64 = if cfg!(locald_mutants) { 3_000 } else { 30_000 };

/// What mends a wait that is at its end.
pub const SLOW_FILES: &str = "see whether a file system of yours (FUSE, NFS) does not answer";

/// capabilities(7): namespaces are made with it.
const CAP_SYS_ADMIN: u32 = 21;

/// The calling process, as it was at entry.
pub struct Entry {
    /// Who called: the policy's view of him.
    pub caller: Caller,
    /// Whether the effective uid is 0, by the set-user-id bit or because root called.
    pub privileged: bool,
    /// Where he stood, if he may look there.
    pub cwd: Option<Fd>,
}

/// The signals that reach the payload through the shim.
pub const FORWARDED: SignalSet = sys::signal_set(&[
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGCONT,
    libc::SIGTSTP,
]);

/// Puts the process into a known state and says who called. Runs before any file is opened.
///
/// `status_fd` is the one descriptor above 2 that stays open.
///
/// # Errors
/// `host.kernel-call` if the kernel refuses what it never refuses.
pub fn enter(status_fd: Option<i32>) -> Result<Entry, Error> {
    let broken = |what: &str, error| {
        Error::failed("host.kernel-call", format!("{what}: {error}"), "report this host's kernel")
    };
    open_standard_streams();
    close_strays(status_fd).map_err(|error| broken("close_range", error))?;
    let ids = sys::user_ids().map_err(|error| broken("getresuid", error))?;
    let group = sys::group_ids().map_err(|error| broken("getresgid", error))?;
    let groups = sys::groups().map_err(|error| broken("getgroups", error))?;
    let cwd = as_ids(ids.real, group.real, || {
        sys::open(At::Cwd, c".", libc::O_PATH | libc::O_DIRECTORY, 0, 0).ok()
    });
    if active(Rule::OwnSignals) {
        sys::stop_timers();
        sys::reset_signal_actions();
    }
    // Blocked at once and for good: they are taken by the supervisor when there is a payload, and
    // whoever sends SIGKILL instead meets PDEATHSIG.
    // SIGPIPE too: a reader that went away must not end a container.
    sys::set_signal_mask(FORWARDED | sys::signal_set(&[libc::SIGPIPE]))
        .map_err(|error| broken("rt_sigprocmask", error))?;
    if active(Rule::OwnUmask) {
        sys::set_umask(0o077);
    }
    if active(Rule::OwnDirectory) {
        sys::change_dir(c"/").map_err(|error| broken("chdir", error))?;
    }
    if active(Rule::NotDumpable) {
        sys::control(libc::PR_SET_DUMPABLE, 0).map_err(|error| broken("dumpable", error))?;
    }
    if active(Rule::Attributes) {
        let _ = sys::control(libc::PR_SET_PDEATHSIG, 0);
        let _ = sys::control(libc::PR_SET_CHILD_SUBREAPER, 0);
        let _ = sys::control(libc::PR_SET_TSC, libc::PR_TSC_ENABLE as u64);
        let _ = sys::control(libc::PR_SET_TIMERSLACK, 0);
        sys::reset_personality();
    }
    // Unknown limits would be taken for none, and given to the payload.
    let rlimits = take_limits().map_err(|error| broken("prlimit", error))?;
    let oom_score_adj = 0;
    Ok(Entry {
        caller: Caller { uid: ids.real, gid: group.real, groups, rlimits, oom_score_adj },
        privileged: ids.effective == 0,
        cwd,
    })
}

/// Descriptors 0 to 2 exist from here on, so that no file of ours becomes a standard stream
/// (attack 3: what is opened next takes the lowest free number).
fn open_standard_streams() {
    for stream in 0..3 {
        if active(Rule::StandardStreams) && !sys::is_open(stream) {
            if let Ok(null) = sys::open(At::Cwd, c"/dev/null", libc::O_RDWR, 0, 0) {
                // Opened close-on-exec like everything, but a stream is the payload's too.
                if null.number() == stream && sys::keep_over_exec(stream).is_ok() {
                    null.leak();
                }
            }
        }
    }
}

/// Raises each soft limit to its hard one, the size of core files to nothing; the values before.
fn take_limits() -> sys::Result<[(u64, u64); 16]> {
    let mut before = [(u64::MAX, u64::MAX); 16];
    for (resource, value) in (0_u32..).zip(before.iter_mut()) {
        *value = sys::limit(resource, None)?;
        let own = own_limit(resource, *value);
        if active(Rule::OwnLimits) && own != *value {
            let _ = sys::limit(resource, Some(own));
        }
    }
    Ok(before)
}

/// What the shim works under where the caller has `limit`: no core file, else as much as he may have.
fn own_limit(resource: u32, (_, hard): (u64, u64)) -> (u64, u64) {
    (if resource == libc::RLIMIT_CORE { 0 } else { hard }, hard)
}

/// Gives the payload the limits that its caller has.
pub fn restore_limits(caller: &Caller) {
    for (resource, limit) in (0_u32..).zip(caller.rlimits) {
        if own_limit(resource, limit) != limit {
            let _ = sys::limit(resource, Some(limit));
        }
    }
}

/// Closes whatever else the caller left open, the status descriptor excepted.
fn close_strays(status_fd: Option<i32>) -> sys::Result<()> {
    if !active(Rule::StrayDescriptors) {
        return Ok(());
    }
    sys::close_all_but(status_fd.as_slice())
}

impl Entry {
    /// Checks that the shim has its privilege, from an ordinary user, and that nothing bends it.
    ///
    /// # Errors
    /// `caller.root`, `shim.not-setuid`, `shim.nosuid`, `caller.namespace`, `caller.seccomp`,
    /// `caller.securebits`, `caller.rlimit`, `caller.no-new-privs`.
    pub fn require_privilege(&self) -> Result<(), Error> {
        if active(Rule::NotRoot) && self.caller.uid == 0 {
            return Err(Error::refused(
                "caller.root",
                "the caller is root; containers run as an ordinary user",
                "call it as the user who should own the container",
            ));
        }
        let judged = active(Rule::FullyPrivileged);
        if judged && sys::control(libc::PR_GET_NO_NEW_PRIVS, 0) == Ok(1) {
            return Err(Error::refused(
                "caller.no-new-privs",
                "no_new_privs is set on the caller, so the set-user-id bit has no effect",
                "call it from a session without no_new_privs (systemd: NoNewPrivileges=no)",
            ));
        }
        if judged && !self.privileged {
            return Err(Error::refused(
                "shim.not-setuid",
                "the shim is not running as root: it is not installed set-user-id, or its mount is nosuid",
                "sudo locald admin setup",
            ));
        }
        if active(Rule::InitialUserNamespace) && !in_initial_user_namespace() {
            return Err(Error::refused(
                "caller.namespace",
                "the caller is inside a user namespace of its own, where the shim has no privilege",
                "call it from the host, outside of any container",
            ));
        }
        if active(Rule::ForeignFilter) && sys::control(libc::PR_GET_SECCOMP, 0) != Ok(0) {
            return Err(Error::refused(
                "caller.seccomp",
                "a seccomp filter is in force on the caller and could change what the shim does",
                "call it from a session without a system call filter",
            ));
        }
        // SECBIT_NO_SETUID_FIXUP would leave root's capabilities with the caller's ids.
        if active(Rule::Attributes) && sys::control(libc::PR_GET_SECUREBITS, 0) != Ok(0) {
            return Err(Error::refused(
                "caller.securebits",
                "securebits are set on the caller, so that ids and capabilities do not go together",
                "call it from a session without them (systemd: SecureBits=)",
            ));
        }
        for (resource, floor) in FLOORS {
            let hard = self.caller.rlimits[resource as usize].1;
            if active(Rule::OwnLimits) && hard < floor {
                return Err(Error::refused(
                    "caller.rlimit",
                    format!("hard resource limit number {resource} is {hard}, below {floor}"),
                    "raise the limit (ulimit -H) and run again",
                ));
            }
        }
        Ok(())
    }

    /// Runs `step` with the caller's effective ids and without any capability.
    ///
    /// seteuid, not setfsuid: it clears the effective capabilities too.
    pub fn act<T>(&self, step: impl FnOnce() -> T) -> T {
        as_ids(self.caller.uid, self.caller.gid, step)
    }

    /// Takes an effective uid that is nobody's, and keeps every capability: for making namespaces.
    ///
    /// The kernel charges a namespace to its maker's effective uid, and to the owner of a user
    /// namespace all that is counted in it (processes, inotify, pending signals). Charged to root, one
    /// caller would use up what root's daemons and all other callers live on; charged to the caller, he
    /// would own the user namespace, and with it have every capability there.
    ///
    /// # Errors
    /// The kernel's, from capget, setresuid or capset.
    pub fn become_keeper(&self) -> sys::Result<()> {
        let permitted = sys::permitted_capabilities()?;
        sys::set_user_ids(sys::KEEP, keeper(self.caller.uid), sys::KEEP)?;
        sys::set_capabilities(permitted, permitted, 0)
    }

    /// As [`Entry::become_keeper`], for a clone into a cgroup of the caller's: whether he may put a process
    /// there is asked of the file system ids, which are his, with no capability but that of making
    /// namespaces. [`become_root_again`] ends it, on either side.
    ///
    /// # Errors
    /// The kernel's, from capget, setresuid, setfsuid or capset.
    pub fn become_keeper_of_files(&self) -> sys::Result<()> {
        self.become_keeper()?;
        sys::set_file_ids(self.caller.uid, self.caller.gid)?;
        sys::set_capabilities(1 << CAP_SYS_ADMIN, sys::permitted_capabilities()?, 0)
    }
}

/// Runs `step`, which works on the caller's files between other things: where they block, this process ends.
///
/// # Errors
/// What `step` gives, and `host.kernel-call`. `setup.timeout` is told, but returns to nobody: what is
/// inside a call that does not end can only be ended together with the process.
pub fn bounded<T>(status: &StatusFd, step: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    if !active(Rule::BoundedWaits) {
        return step();
    }
    let error = Error::failed("setup.timeout", "your files did not open in time", SLOW_FILES);
    // Made now: the thread that says it may not allocate.
    let (status, event, line) = (*status, StatusFd::refusal(&error), error.line());
    let expire = move || {
        become_caller();
        status.write_line(&event);
        let _ = sys::write(2, &line);
    };
    let watch = sys::watch(OPENING_MS, Box::new(expire)).or_fail("host.kernel-call", "clone")?;
    let result = step();
    let ended = watch.end().or_fail("host.kernel-call", "futex");
    result.and_then(|value| ended.map(|()| value))
}

/// The uid that `caller`'s namespaces are charged to: in the half of the ids that no system gives out.
fn keeper(caller: u32) -> u32 {
    match caller | 1 << 31 {
        // "Leave as it is" to setresuid(2). A caller in that half keeps his namespaces himself.
        sys::KEEP => caller,
        keeper => keeper,
    }
}

fn as_ids<T>(uid: u32, gid: u32, step: impl FnOnce() -> T) -> T {
    let before = (sys::user_ids(), sys::group_ids());
    let (Ok(users), Ok(groups)) = before else { give_up() };
    if users.effective == uid && groups.effective == gid {
        return step();
    }
    // A failure here would leave root's rights where the caller's are meant: better no process.
    let switched = sys::set_group_ids(sys::KEEP, gid, sys::KEEP)
        .and_then(|()| sys::set_user_ids(sys::KEEP, uid, sys::KEEP));
    if switched.is_err() {
        give_up();
    }
    let result = step();
    let back = sys::set_user_ids(sys::KEEP, users.effective, sys::KEEP)
        .and_then(|()| sys::set_group_ids(sys::KEEP, groups.effective, sys::KEEP));
    if back.is_err() {
        give_up();
    }
    result
}

/// Ends what [`Entry::become_keeper`] began, or with `of_files` [`Entry::become_keeper_of_files`], on
/// either side of a clone.
pub fn become_root_again(of_files: bool) {
    let mut back = sys::set_user_ids(sys::KEEP, 0, sys::KEEP);
    if of_files {
        // The file system's uid has followed the effective one, whose gid was 0 all along.
        back = back.and_then(|()| sys::set_file_ids(0, 0));
    }
    if back.is_err() {
        give_up();
    }
}

/// Ends this process where its ids are not what the next step needs.
///
/// With a line, if the ids for writing it can be had; what makes the container leaves that to its
/// supervisor, which hears of its end.
fn give_up() -> ! {
    if sys::own_pid() != 1 {
        become_caller();
        let why = "the kernel refused to change this process's ids";
        let hint = "run again; if it stays so, report this host's kernel";
        let _ = sys::write(2, &Error::failed("credentials.failed", why, hint).line());
    }
    sys::exit(125)
}

/// Gives every privilege up for good: real, effective and saved ids are the caller's. Where that cannot
/// be, this process ends, without a word: it has no ids to say one with.
pub fn become_caller() {
    if become_caller_with(0).is_err() {
        sys::exit(125);
    }
}

/// As [`become_caller`], but for the capabilities `permitted`, none of which is in effect yet.
///
/// # Errors
/// The kernel's. Some of root's ids may be there still: the process must go on to [`become_caller`].
pub fn become_caller_with(permitted: u64) -> sys::Result<()> {
    let (users, groups) = (sys::user_ids()?, sys::group_ids()?);
    let _ = sys::set_user_ids(sys::KEEP, users.saved, sys::KEEP);
    // Where fs.suid_dumpable is 1 the change of ids makes us traceable; until that is undone, the
    // capabilities that are kept over it are what the caller lacks.
    let _ = sys::control(libc::PR_SET_KEEPCAPS, 1);
    sys::set_group_ids(groups.real, groups.real, groups.real)?;
    sys::set_user_ids(users.real, users.real, users.real)?;
    sys::control(libc::PR_SET_DUMPABLE, 0)?;
    sys::set_capabilities(0, permitted, 0)
}

/// Whether this process is in the user namespace that the machine started with.
fn in_initial_user_namespace() -> bool {
    // The caller may have his own mounts only inside a user namespace of his own, where the
    // set-user-id bit of a root-owned file has no effect; still, a look at the type costs nothing.
    let flags = libc::O_RDONLY;
    let Ok(namespace) = sys::open(At::Cwd, c"/proc/self/ns/user", flags, 0, 0) else {
        return false;
    };
    let Ok(proc) = sys::open(At::Cwd, c"/proc/self", libc::O_PATH | libc::O_DIRECTORY, 0, 0) else {
        return false;
    };
    matches!(sys::statfs(&proc), Ok((PROC_MAGIC, _)))
        && sys::stat(namespace.number()).is_ok_and(|status| status.inode == INITIAL_USER_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keeper_is_nobody_who_exists() {
        assert_eq!(keeper(1000), 0x8000_03e8);
        // Neither "leave as it is" nor a second caller's.
        assert_eq!(keeper(i32::MAX as u32), i32::MAX as u32);
        assert_eq!(keeper(0x8000_03e8), 0x8000_03e8);
    }
}
