//! Mounts by descriptor: fsopen(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2).

use core::ffi::CStr;
use core::mem;

use super::{At, Errno, Fd, Result, call, fd_result, number, scalar};

// Of <linux/mount.h>; the libc crate names only a part of them.
const FSOPEN_CLOEXEC: usize = 1;
const FSCONFIG_SET_FLAG: usize = 0;
const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_CMD_CREATE: usize = 6;
const FSMOUNT_CLOEXEC: usize = 1;
const OPEN_TREE_CLONE: usize = 1;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: usize = 0x40;

/// Read-only.
pub const RDONLY: u64 = 0x1;
/// Set-user-id bits have no effect.
pub const NOSUID: u64 = 0x2;
/// Device nodes cannot be opened.
pub const NODEV: u64 = 0x4;
/// Nothing can be executed.
pub const NOEXEC: u64 = 0x8;

/// One parameter of a new file system.
pub enum Parameter<'a> {
    /// A bare word.
    Flag(&'a CStr),
    /// `key=value`.
    Text(&'a CStr, &'a CStr),
}

/// Makes a file system and a detached mount of it with the attributes `attributes`.
///
/// It is reachable through the returned descriptor only, until it is attached.
pub fn new_mount(kind: &CStr, parameters: &[Parameter<'_>], attributes: u64) -> Result<Fd> {
    // SAFETY: the kernel reads `kind` up to its NUL.
    let context = fd_result(unsafe {
        call(libc::SYS_fsopen, [kind.as_ptr() as usize, FSOPEN_CLOEXEC, 0, 0, 0, 0])
    })?;
    for parameter in parameters {
        let (command, key, value) = match parameter {
            Parameter::Flag(key) => (FSCONFIG_SET_FLAG, key, 0),
            Parameter::Text(key, value) => (FSCONFIG_SET_STRING, key, value.as_ptr() as usize),
        };
        // SAFETY: the kernel reads `key`, and `value` where there is one, up to their NUL.
        unsafe {
            call(
                libc::SYS_fsconfig,
                [number(context.0), command, key.as_ptr() as usize, value, 0, 0],
            )
        }?;
    }
    scalar(libc::SYS_fsconfig, [number(context.0), FSCONFIG_CMD_CREATE, 0, 0, 0])?;
    let args = [number(context.0), FSMOUNT_CLOEXEC, attributes as usize, 0, 0];
    fd_result(scalar(libc::SYS_fsmount, args))
}

/// A detached copy of what is mounted at `at`, with everything below it if `recursive`.
pub fn clone_mount(at: &Fd, recursive: bool) -> Result<Fd> {
    let mut flags = OPEN_TREE_CLONE | number(libc::AT_EMPTY_PATH | libc::O_CLOEXEC);
    if recursive {
        flags |= number(libc::AT_RECURSIVE);
    }
    // SAFETY: the kernel reads the empty string up to its NUL.
    fd_result(unsafe {
        call(libc::SYS_open_tree, [number(at.0), c"".as_ptr() as usize, flags, 0, 0, 0])
    })
}

/// Sets (never clears) attributes of a mount, of all below it too if `recursive`; private always.
pub fn restrict_mount(mount: &Fd, attributes: u64, recursive: bool) -> Result<()> {
    // SAFETY: mount_attr is four integers, for which all zeroes is a valid value.
    let mut change: libc::mount_attr = unsafe { mem::zeroed() };
    change.attr_set = attributes;
    change.propagation = libc::MS_PRIVATE;
    let mut flags = number(libc::AT_EMPTY_PATH);
    if recursive {
        flags |= number(libc::AT_RECURSIVE);
    }
    let (at, size) = (number(mount.0), mem::size_of_val(&change));
    // SAFETY: the kernel reads the empty string and `size` bytes of `change`.
    unsafe {
        call(
            libc::SYS_mount_setattr,
            [at, c"".as_ptr() as usize, flags, &raw const change as usize, size, 0],
        )
    }
    .map(drop)
}

/// Clears attributes of a mount, and gives it a propagation unless that is 0.
#[cfg(locald_mutants)]
pub fn change_mount(mount: &Fd, clear: u64, propagation: u64) -> Result<()> {
    // SAFETY: mount_attr is four integers, for which all zeroes is a valid value.
    let mut change: libc::mount_attr = unsafe { mem::zeroed() };
    change.attr_clr = clear;
    change.propagation = propagation;
    let flags = number(libc::AT_EMPTY_PATH | libc::AT_RECURSIVE);
    let (at, size) = (number(mount.0), mem::size_of_val(&change));
    // SAFETY: the kernel reads the empty string and `size` bytes of `change`.
    unsafe {
        call(
            libc::SYS_mount_setattr,
            [at, c"".as_ptr() as usize, flags, &raw const change as usize, size, 0],
        )
    }
    .map(drop)
}

/// Cuts every mount of this namespace from its peers, so that nothing done here is seen elsewhere.
pub fn make_all_private() -> Result<()> {
    let flags = (libc::MS_REC | libc::MS_PRIVATE) as usize;
    let root = c"/".as_ptr() as usize;
    // SAFETY: the kernel reads the target up to its NUL and ignores the null pointers for this flag.
    unsafe { call(libc::SYS_mount, [0, root, 0, flags, 0, 0]) }.map(drop)
}

/// Attaches a detached mount on the object that `target` names.
pub fn attach(mount: &Fd, target: &Fd) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr() as usize;
    // SAFETY: the kernel reads the two empty strings up to their NUL.
    unsafe {
        call(libc::SYS_move_mount, [number(mount.0), empty, number(target.0), empty, flags, 0])
    }
    .map(drop)
}

/// Attaches a detached mount over `/` of this namespace.
pub fn attach_over_root(mount: &Fd) -> Result<()> {
    let (empty, root) = (c"".as_ptr() as usize, c"/".as_ptr() as usize);
    let cwd = At::Cwd.raw();
    // SAFETY: the kernel reads both strings up to their NUL.
    unsafe {
        call(libc::SYS_move_mount, [number(mount.0), empty, cwd, root, MOVE_MOUNT_F_EMPTY_PATH, 0])
    }
    .map(drop)
}

/// Makes the mount that the process stands in its root and takes the old one, with all below, away.
///
/// pivot_root(".", ".") stacks the old root on the new one; unmounting "." takes it off (the note
/// in pivot_root(2)). No directory of the container is needed for it.
pub fn pivot_here() -> Result<()> {
    let here = c".".as_ptr() as usize;
    // SAFETY: the kernel reads both strings up to their NUL.
    unsafe { call(libc::SYS_pivot_root, [here, here, 0, 0, 0, 0]) }?;
    // SAFETY: the kernel reads the string up to its NUL.
    unsafe { call(libc::SYS_umount2, [here, number(libc::MNT_DETACH), 0, 0, 0, 0]) }.map(drop)
}

/// Whether the kernel has mount_setattr(2), and so is 5.12 or later.
pub fn has_mount_setattr() -> bool {
    // A bad descriptor is reported only by a kernel that has the call.
    scalar(libc::SYS_mount_setattr, [usize::MAX, 0, 0, 0, 0]) != Err(Errno(libc::ENOSYS))
}
