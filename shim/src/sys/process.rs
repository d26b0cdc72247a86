//! Processes: ids, limits, signals, making, watching, replacing.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem;

use super::{Errno, Fd, Result, call, fd_result, number, scalar};

/// Real, effective and saved id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Who started the program.
    pub real: u32,
    /// What the kernel judges by.
    pub effective: u32,
    /// What the effective id may become again.
    pub saved: u32,
}

/// clone3(2); libc's constant is an i32, into which it does not fit.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// "Leave as it is" in setresuid(2) and setresgid(2).
pub const KEEP: u32 = u32::MAX;

fn get_ids(nr: libc::c_long) -> Result<Ids> {
    let mut ids = [0_u32; 3];
    let [real, effective, saved] = &mut ids;
    let (real, effective, saved) =
        (&raw mut *real as usize, &raw mut *effective as usize, &raw mut *saved as usize);
    // SAFETY: the kernel writes one u32 to each of the three places, which are distinct.
    unsafe { call(nr, [real, effective, saved, 0, 0, 0]) }?;
    Ok(Ids { real: ids[0], effective: ids[1], saved: ids[2] })
}

/// getresuid(2).
pub fn user_ids() -> Result<Ids> {
    get_ids(libc::SYS_getresuid)
}

/// getresgid(2).
pub fn group_ids() -> Result<Ids> {
    get_ids(libc::SYS_getresgid)
}

/// setresuid(2): real, effective, saved.
pub fn set_user_ids(real: u32, effective: u32, saved: u32) -> Result<()> {
    let args = [real as usize, effective as usize, saved as usize, 0, 0];
    scalar(libc::SYS_setresuid, args).map(drop)
}

/// setresgid(2): real, effective, saved.
pub fn set_group_ids(real: u32, effective: u32, saved: u32) -> Result<()> {
    let args = [real as usize, effective as usize, saved as usize, 0, 0];
    scalar(libc::SYS_setresgid, args).map(drop)
}

/// setfsuid(2) and setfsgid(2): whose files these are, and nothing else. They cannot say that they
/// failed; what comes back tells.
pub fn set_file_ids(uid: u32, gid: u32) -> Result<()> {
    for (nr, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
        scalar(nr, [id as usize, 0, 0, 0, 0])?;
        // The second call changes nothing: -1 is no id.
        if scalar(nr, [KEEP as usize, 0, 0, 0, 0])? != id as usize {
            return Err(Errno(libc::EPERM));
        }
    }
    Ok(())
}

/// getgroups(2).
pub fn groups() -> Result<Vec<u32>> {
    let mut groups = alloc::vec![0_u32; scalar(libc::SYS_getgroups, [0; 5])?];
    // SAFETY: the kernel writes at most `len` u32 to `groups`.
    let filled = unsafe {
        call(libc::SYS_getgroups, [groups.len(), groups.as_mut_ptr() as usize, 0, 0, 0, 0])
    }?;
    groups.truncate(filled);
    Ok(groups)
}

/// setgroups(2).
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the kernel reads `len` u32 from the slice.
    unsafe { call(libc::SYS_setgroups, [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0]) }
        .map(drop)
}

/// prctl(2) with plain numbers.
pub fn control(option: i32, argument: u64) -> Result<usize> {
    scalar(libc::SYS_prctl, [number(option), argument as usize, 0, 0, 0])
}

/// _LINUX_CAPABILITY_VERSION_3 of <linux/capability.h>.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// prctl(2) PR_CAP_AMBIENT_RAISE.
pub fn raise_ambient(capability: u64) -> Result<()> {
    let option = number(libc::PR_CAP_AMBIENT);
    let raise = number(libc::PR_CAP_AMBIENT_RAISE);
    scalar(libc::SYS_prctl, [option, raise, capability as usize, 0, 0]).map(drop)
}

/// capset(2) on ourselves: bit n is capability n.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = [CAPABILITY_VERSION_3, 0];
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [
        [low(effective), low(permitted), low(inheritable)],
        [high(effective), high(permitted), high(inheritable)],
    ];
    let (header, data) = (&raw const header as usize, &raw const data as usize);
    // SAFETY: version 3 reads a header of two and data of six u32; capset does not write with it.
    unsafe { call(libc::SYS_capset, [header, data, 0, 0, 0, 0]) }.map(drop)
}

/// capget(2) on ourselves: the permitted set.
pub fn permitted_capabilities() -> Result<u64> {
    let header = [CAPABILITY_VERSION_3, 0];
    let mut data = [[0_u32; 3]; 2];
    let (header, data_at) = (&raw const header as usize, &raw mut data as usize);
    // SAFETY: version 3 reads a header of two and writes data of six u32; the header is rewritten
    // only where the version is not known.
    unsafe { call(libc::SYS_capget, [header, data_at, 0, 0, 0, 0]) }?;
    Ok(u64::from(data[1][1]) << 32 | u64::from(data[0][1]))
}

/// prlimit(2) on ourselves: (soft, hard) before; sets them if `new` is given.
pub fn limit(resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let mut old = [0_u64; 2];
    let new = new.map(|(soft, hard)| [soft, hard]);
    let new_at = new.as_ref().map_or(0, |pair| &raw const *pair as usize);
    let old_at = old.as_mut_ptr() as usize;
    // SAFETY: the kernel reads two u64 of `new`, if any, and writes two to `old`.
    unsafe { call(libc::SYS_prlimit64, [0, resource as usize, new_at, old_at, 0, 0]) }?;
    Ok((old[0], old[1]))
}

/// A set of signals: bit n-1 is signal n.
pub type SignalSet = u64;

/// The set that holds just `signals`.
pub const fn signal_set(signals: &[i32]) -> SignalSet {
    let mut set = 0;
    let mut at = 0;
    while at < signals.len() {
        set |= 1 << (signals[at] - 1);
        at += 1;
    }
    set
}

/// Whether `signal` waits, blocked: rt_sigpending(2).
pub fn is_pending(signal: i32) -> bool {
    let mut waiting: SignalSet = 0;
    let at = &raw mut waiting as usize;
    // SAFETY: the kernel writes 8 bytes.
    let seen = unsafe { call(libc::SYS_rt_sigpending, [at, 8, 0, 0, 0, 0]) };
    seen.is_ok() && waiting & signal_set(&[signal]) != 0
}

/// rt_sigprocmask(2): blocks exactly `set`; the mask before.
pub fn set_signal_mask(set: SignalSet) -> Result<SignalSet> {
    let mut old: SignalSet = 0;
    let (new_at, old_at) = (&raw const set as usize, &raw mut old as usize);
    let how = number(libc::SIG_SETMASK);
    // SAFETY: the kernel reads 8 bytes of `set` and writes 8 to `old`.
    unsafe { call(libc::SYS_rt_sigprocmask, [how, new_at, old_at, 8, 0, 0]) }?;
    Ok(old)
}

/// Gives every signal its default action.
pub fn reset_signal_actions() {
    // struct kernel_sigaction of zeroes: SIG_DFL, no flags, no restorer, empty mask.
    let default = [0_u64; 4];
    for signal in 1..=64_usize {
        // SAFETY: the kernel reads 32 bytes of `default` and writes nothing: no old action is asked.
        // KILL and STOP give EINVAL, which is as it should be.
        let _ = unsafe {
            call(libc::SYS_rt_sigaction, [signal, default.as_ptr() as usize, 0, 8, 0, 0])
        };
    }
}

/// Stops the three interval timers that execve(2) leaves running.
pub fn stop_timers() {
    for which in 0..3 {
        // struct itimerval of zeroes: no interval, no value.
        let timer = [0_u64; 4];
        // SAFETY: the kernel reads 32 bytes of `timer` and writes nothing: no old value is asked.
        let _ = unsafe { call(libc::SYS_setitimer, [which, timer.as_ptr() as usize, 0, 0, 0, 0]) };
    }
}

/// signalfd4(2), non-blocking.
pub fn signal_fd(set: SignalSet) -> Result<Fd> {
    let flags = number(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
    // SAFETY: the kernel reads 8 bytes of `set`.
    fd_result(unsafe {
        call(libc::SYS_signalfd4, [number(-1), &raw const set as usize, 8, flags, 0, 0])
    })
}

/// The next signal of a signal descriptor, if one is pending.
pub fn next_signal(fd: &Fd) -> Option<i32> {
    // struct signalfd_siginfo has 128 bytes; the number comes first.
    let mut info = [0_u8; 128];
    match super::read(fd.number(), &mut info) {
        Ok(128) => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
        _ => None,
    }
}

/// getpid(2).
pub fn own_pid() -> i32 {
    scalar(libc::SYS_getpid, [0; 5]).unwrap_or(0) as i32
}

/// kill(2): a process, or a process group if `pid` is negative.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    scalar(libc::SYS_kill, [number(pid), number(signal), 0, 0, 0]).map(drop)
}

/// pidfd_open(2).
pub fn pidfd(pid: i32) -> Result<Fd> {
    fd_result(scalar(libc::SYS_pidfd_open, [number(pid), 0, 0, 0, 0]))
}

/// pidfd_send_signal(2).
pub fn pidfd_kill(process: &Fd, signal: i32) -> Result<()> {
    scalar(libc::SYS_pidfd_send_signal, [number(process.number()), number(signal), 0, 0, 0])
        .map(drop)
}

/// Which side of a clone this is.
pub enum Side {
    /// The new process.
    Child,
    /// The old one: the child's pid in our namespace, and a descriptor of it.
    Parent(i32, Fd),
}

/// clone3(2) without shared memory, in the manner of fork(2), into the namespaces of `flags`.
pub fn clone_process(flags: i32) -> Result<Side> {
    clone_into(flags, None)
}

/// The same, into the cgroup `cgroup` (CLONE_INTO_CGROUP) where there is one.
pub fn clone_into(flags: i32, cgroup: Option<&Fd>) -> Result<Side> {
    let mut pidfd = -1_i32;
    // SAFETY: clone_args is eleven integers, for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = u64::from((flags | libc::CLONE_PIDFD) as u32);
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.number() as u64;
    }
    let size = mem::size_of_val(&args);
    // SAFETY: the kernel reads `size` bytes of `args` and writes one int to `pidfd`. Without
    // CLONE_VM the child goes on with a copy of all memory, the stack included, and of one thread.
    let pid = unsafe { call(libc::SYS_clone3, [&raw const args as usize, size, 0, 0, 0, 0]) }?;
    if pid == 0 {
        return Ok(Side::Child);
    }
    Ok(Side::Parent(pid as i32, Fd::adopt(pidfd)))
}

/// unshare(2).
pub fn unshare(flags: i32) -> Result<()> {
    scalar(libc::SYS_unshare, [number(flags), 0, 0, 0, 0]).map(drop)
}

/// How a child ended: 0 to 255, or 128 + the signal that ended it.
fn exit_status(info: &[i32; 32]) -> u8 {
    // Layout of siginfo_t for SIGCHLD: signo, errno, code, (pad), pid, uid, status.
    let (code, status) = (info[2], info[6]);
    if code == libc::CLD_EXITED { status as u8 } else { 128_u8.wrapping_add(status as u8 & 0x7f) }
}

fn wait_id(kind: u32, id: usize, flags: i32) -> Result<Option<(i32, u8)>> {
    let mut info = [0_i32; 32];
    let at = info.as_mut_ptr() as usize;
    let flags = number(flags | libc::WEXITED);
    // SAFETY: the kernel writes one siginfo_t, 128 bytes, to `info`, and no rusage is asked.
    unsafe { call(libc::SYS_waitid, [kind as usize, id, at, flags, 0, 0]) }?;
    Ok((info[4] != 0).then(|| (info[4], exit_status(&info))))
}

/// waitid(2) for the child behind a pidfd: blocks until it ended; its exit status.
pub fn wait_for(process: &Fd) -> Result<u8> {
    const P_PIDFD: u32 = 3;
    loop {
        match wait_id(P_PIDFD, number(process.number()), 0) {
            Err(Errno(libc::EINTR)) | Ok(None) => {}
            Ok(Some((_, status))) => return Ok(status),
            Err(error) => return Err(error),
        }
    }
}

/// As [`wait_for`], but for no longer than `milliseconds`; none if the child lives on.
pub fn wait_within(process: &Fd, milliseconds: u64) -> Result<Option<u8>> {
    let deadline = now_ms().saturating_add(milliseconds);
    loop {
        let left = deadline.saturating_sub(now_ms());
        if poll(&mut [Poll::readable(process.number())], Some(left))? > 0 {
            return wait_for(process).map(Some);
        }
        if left == 0 {
            return Ok(None);
        }
    }
}

/// waitid(2) for any child that has ended: its pid and exit status; never blocks.
pub fn reap_any() -> Result<Option<(i32, u8)>> {
    wait_id(libc::P_ALL, 0, libc::WNOHANG)
}

/// One descriptor to wait for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    fd: i32,
    events: i16,
    happened: i16,
}

impl Poll {
    /// Waits until `fd` can be read, or has ended.
    pub fn readable(fd: i32) -> Self {
        Self { fd, events: libc::POLLIN, happened: 0 }
    }

    /// Waits until `fd` can be written.
    pub fn writable(fd: i32) -> Self {
        Self { fd, events: libc::POLLOUT, happened: 0 }
    }

    /// Waits until the other side of `fd` is gone.
    pub fn end(fd: i32) -> Self {
        Self { fd, events: 0, happened: 0 }
    }

    /// Keeps a place in the list without waiting for anything.
    pub fn nothing() -> Self {
        Self { fd: -1, events: 0, happened: 0 }
    }

    /// Whether anything, an error and the end included, was seen.
    pub fn ready(self) -> bool {
        self.happened != 0
    }
}

/// ppoll(2): waits until one of `fds` is ready, at most `milliseconds`; how many are.
pub fn poll(fds: &mut [Poll], milliseconds: Option<u64>) -> Result<usize> {
    let timeout = milliseconds.map(|ms| [ms / 1000, ms % 1000 * 1_000_000]);
    let timeout_at = timeout.as_ref().map_or(0, |pair| &raw const *pair as usize);
    // SAFETY: struct pollfd is {int, short, short}, as `Poll` is; the kernel writes `happened` of
    // `len` of them, and reads (may update) the 16 bytes of the timeout, which nobody reads after.
    let result = unsafe {
        call(libc::SYS_ppoll, [fds.as_mut_ptr() as usize, fds.len(), timeout_at, 0, 8, 0])
    };
    match result {
        Err(Errno(libc::EINTR)) => Ok(0),
        other => other,
    }
}

/// clock_gettime(2), CLOCK_MONOTONIC, in milliseconds.
pub fn now_ms() -> u64 {
    let mut time = [0_i64; 2];
    let at = time.as_mut_ptr() as usize;
    // SAFETY: the kernel writes one timespec, 16 bytes, to `time`.
    let _ =
        unsafe { call(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, at, 0, 0, 0, 0]) };
    time[0] as u64 * 1000 + time[1] as u64 / 1_000_000
}

/// setsid(2).
pub fn new_session() -> Result<()> {
    scalar(libc::SYS_setsid, [0; 5]).map(drop)
}

/// setpgid(2) of ourselves: a process group of our own.
pub fn new_process_group() -> Result<()> {
    scalar(libc::SYS_setpgid, [0; 5]).map(drop)
}

/// personality(2): Linux, nothing randomised less than usual.
pub fn reset_personality() {
    let _ = scalar(libc::SYS_personality, [0; 5]);
}

/// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING: a new, empty, anonymous session keyring.
pub fn new_session_keyring() -> Result<()> {
    const JOIN_SESSION_KEYRING: usize = 1;
    scalar(libc::SYS_keyctl, [JOIN_SESSION_KEYRING, 0, 0, 0, 0]).map(drop)
}

/// sethostname(2).
pub fn set_host_name(name: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads `len` bytes of `name`.
    unsafe { call(libc::SYS_sethostname, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]) }
        .map(drop)
}

/// One instruction of classic BPF, as seccomp(2) takes it.
pub type Instruction = libc::sock_filter;

/// seccomp(2) SECCOMP_SET_MODE_FILTER. Needs no_new_privs.
pub fn install_filter(program: &[Instruction]) -> Result<()> {
    let program =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
    // SAFETY: the kernel reads the header and `len` instructions behind it, and copies them.
    unsafe { call(libc::SYS_seccomp, [mode, 0, &raw const program as usize, 0, 0, 0]) }.map(drop)
}

/// Pointers to C strings with a null at the end, as execve(2) wants them.
pub struct StringTable(Vec<usize>);

impl StringTable {
    /// The table of `strings`, which must outlive it.
    pub fn new(strings: &[CString]) -> Self {
        Self(strings.iter().map(|string| string.as_ptr() as usize).chain([0]).collect())
    }
}

/// execve(2): returns only if it failed.
pub fn execute(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let (args, env) = (StringTable::new(args), StringTable::new(env));
    let (args_at, env_at) = (args.0.as_ptr() as usize, env.0.as_ptr() as usize);
    // SAFETY: the kernel reads `path`, both null-terminated tables and each string in them.
    match unsafe { call(libc::SYS_execve, [path.as_ptr() as usize, args_at, env_at, 0, 0, 0]) } {
        Err(error) => error,
        Ok(_) => Errno(libc::EIO),
    }
}

/// exit_group(2).
pub fn exit(status: u8) -> ! {
    loop {
        let _ = scalar(libc::SYS_exit_group, [usize::from(status), 0, 0, 0, 0]);
    }
}

/// The kernel's release, as uname(2) gives it: `6.1.0-28-amd64`.
pub fn kernel_release() -> Vec<u8> {
    // struct utsname is six fields of 65 bytes; the release is the third.
    let mut names = [0_u8; 6 * 65];
    // SAFETY: the kernel writes one struct utsname, 390 bytes.
    let _ = unsafe { call(libc::SYS_uname, [names.as_mut_ptr() as usize, 0, 0, 0, 0, 0]) };
    CStr::from_bytes_until_nul(&names[130..195]).map_or(Vec::new(), |name| name.to_bytes().into())
}

/// The machine's memory in bytes: sysinfo(2).
pub fn memory_bytes() -> u64 {
    // SAFETY: libc::sysinfo is made of integers, for which all zeroes is a valid value.
    let mut info: libc::sysinfo = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one struct sysinfo.
    let _ = unsafe { call(libc::SYS_sysinfo, [&raw mut info as usize, 0, 0, 0, 0, 0]) };
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// mmap(2): fresh zeroed memory, at a page boundary.
pub fn map_memory(length: usize) -> Result<usize> {
    let protection = number(libc::PROT_READ | libc::PROT_WRITE);
    let flags = number(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new private mapping where the kernel chooses replaces nothing that exists.
    unsafe { call(libc::SYS_mmap, [0, length, protection, flags, number(-1), 0]) }
}

/// mprotect(2) to read-only; what cannot be protected is no worse than before.
pub fn make_read_only(start: usize, length: usize) {
    let _ = scalar(libc::SYS_mprotect, [start, length, number(libc::PROT_READ), 0, 0]);
}
