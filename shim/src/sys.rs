//! Every contact with the kernel: one function per system call, and the only `unsafe` of the shim.
//!
//! No C library is linked, so nothing runs before `main`, nothing caches credentials, and no call
//! looks at the environment. Functions here decide nothing and hold no state. Paths are C strings,
//! descriptors are [`Fd`], failures are [`Errno`].
#![allow(unsafe_code)]

#[cfg(any(locald_coverage, test))]
mod counter;
#[cfg(locald_coverage)]
mod coverage;
mod files;
mod mounts;
mod network;
mod process;
mod terminal;
mod watch;

#[cfg(locald_coverage)]
pub use coverage::share_counters;
pub use files::*;
pub use mounts::*;
pub use network::*;
pub use process::*;
pub use terminal::*;
pub use watch::*;

use core::arch::asm;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the shim speaks the system call convention of x86_64 Linux only");

/// An error number of errno(3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The words of strerror(3) for the numbers that a user may meet, with the symbol.
    pub fn text(self) -> &'static str {
        match self.0 {
            libc::EPERM => "Operation not permitted (EPERM)",
            libc::ENOENT => "No such file or directory (ENOENT)",
            libc::EIO => "Input/output error (EIO)",
            libc::ENXIO => "No such device or address (ENXIO)",
            libc::E2BIG => "Argument list too long (E2BIG)",
            libc::ENOEXEC => "Exec format error (ENOEXEC)",
            libc::EBADF => "Bad file descriptor (EBADF)",
            libc::EAGAIN => "Resource temporarily unavailable (EAGAIN)",
            libc::ENOMEM => "Cannot allocate memory (ENOMEM)",
            libc::EACCES => "Permission denied (EACCES)",
            libc::EBUSY => "Device or resource busy (EBUSY)",
            libc::EEXIST => "File exists (EEXIST)",
            libc::EXDEV => "Crosses a mount or leads outside (EXDEV)",
            libc::ENODEV => "No such device (ENODEV)",
            libc::ENOTDIR => "Not a directory (ENOTDIR)",
            libc::EISDIR => "Is a directory (EISDIR)",
            libc::EINVAL => "Invalid argument (EINVAL)",
            libc::ENFILE => "Too many open files in system (ENFILE)",
            libc::EMFILE => "Too many open files (EMFILE)",
            libc::ETXTBSY => "Text file busy (ETXTBSY)",
            libc::EFBIG => "File too large (EFBIG)",
            libc::ENOSPC => "No space left on device (ENOSPC)",
            libc::EROFS => "Read-only file system (EROFS)",
            libc::ENAMETOOLONG => "File name too long (ENAMETOOLONG)",
            libc::ENOSYS => "Function not implemented (ENOSYS)",
            libc::ENOTEMPTY => "Directory not empty (ENOTEMPTY)",
            libc::ELOOP => "A symbolic link, or too many of them (ELOOP)",
            libc::EUSERS => "Too many users (EUSERS)",
            libc::EDQUOT => "Disk quota exceeded (EDQUOT)",
            libc::EOVERFLOW => "Value too large (EOVERFLOW)",
            libc::ETIMEDOUT => "Timed out (ETIMEDOUT)",
            libc::ESTALE => "Stale file handle (ESTALE)",
            libc::EADDRINUSE => "Address already in use (EADDRINUSE)",
            libc::EADDRNOTAVAIL => "Cannot assign requested address (EADDRNOTAVAIL)",
            libc::EAFNOSUPPORT => "Address family not supported (EAFNOSUPPORT)",
            libc::EPIPE => "Broken pipe (EPIPE)",
            libc::ECONNRESET => "Connection reset by peer (ECONNRESET)",
            libc::ETOOMANYREFS => "Too many references (ETOOMANYREFS)",
            libc::EOPNOTSUPP => "Operation not supported (EOPNOTSUPP)",
            _ => "an error the shim has no words for",
        }
    }
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "errno {}: {}", self.0, self.text())
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.text() {
            "an error the shim has no words for" => write!(out, "error number {}", self.0),
            text => out.write_str(text),
        }
    }
}

/// What a system call gives.
pub type Result<T> = core::result::Result<T, Errno>;

/// An open descriptor that is closed when it goes out of scope.
#[derive(Debug, PartialEq, Eq)]
pub struct Fd(i32);

impl Fd {
    /// Takes over `number`, which nothing else may close.
    pub(crate) fn adopt(number: i32) -> Self {
        Self(number)
    }

    /// The number, for a message, a poll set, or a path below /proc/self/fd.
    pub fn number(&self) -> i32 {
        self.0
    }

    /// Gives up ownership: the descriptor stays open until the process ends.
    pub fn leak(self) -> i32 {
        let number = self.0;
        core::mem::forget(self);
        number
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // An error of close(2) leaves nothing to be done: the descriptor is gone either way.
        let _ = scalar(libc::SYS_close, [number(self.0), 0, 0, 0, 0]);
    }
}

/// Where a path starts: below an open directory, or where the process stands.
#[derive(Clone, Copy)]
pub enum At<'a> {
    /// Relative to this directory.
    Dir(&'a Fd),
    /// Relative to the working directory, or absolute.
    Cwd,
}

impl At<'_> {
    fn raw(self) -> usize {
        match self {
            At::Dir(fd) => number(fd.0),
            At::Cwd => number(libc::AT_FDCWD),
        }
    }
}

/// A C `int` as the register wants it: sign-extended.
fn number(value: i32) -> usize {
    value as isize as usize
}

/// The one place where the processor enters the kernel.
///
/// # Safety
/// Whatever the call `nr` reads or writes through `args` must be valid for that, for the whole call.
unsafe fn call(nr: libc::c_long, args: [usize; 6]) -> Result<usize> {
    let ret: isize;
    // SAFETY: the convention of syscall(2) on x86_64: number in rax, arguments in rdi rsi rdx r10 r8
    // r9, result in rax; the kernel overwrites rcx and r11 and keeps the rest. Memory behind pointers
    // is the promise of whoever calls. The stack is not touched.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => ret,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // The kernel returns -4095..-1 for errors and nothing else in that range.
    if (-4095..0).contains(&ret) { Err(Errno(-ret as i32)) } else { Ok(ret as usize) }
}

/// A system call all of whose arguments are plain numbers: the kernel touches none of our memory.
///
/// Only calls for which that is true may come here; each use names its number in the same line.
fn scalar(nr: libc::c_long, args: [usize; 5]) -> Result<usize> {
    let [a, b, c, d, e] = args;
    // SAFETY: no argument is a pointer (see above), so there is no memory to be valid.
    unsafe { call(nr, [a, b, c, d, e, 0]) }
}

fn fd_result(result: Result<usize>) -> Result<Fd> {
    result.map(|value| Fd::adopt(value as i32))
}
