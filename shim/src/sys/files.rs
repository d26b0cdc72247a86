//! Files and directories: open, read, write, look, make, remove.

use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem;

use super::{At, Fd, Result, call, fd_result, number, scalar};

/// Do not follow /proc's magic links.
pub const NO_MAGICLINKS: u64 = libc::RESOLVE_NO_MAGICLINKS;
/// Do not follow any symbolic link.
pub const NO_SYMLINKS: u64 = libc::RESOLVE_NO_SYMLINKS;
/// Treat the directory as `/`: nothing leads outside.
pub const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT;
/// Whatever would lead outside is an error.
pub const BENEATH: u64 = libc::RESOLVE_BENEATH;
/// Do not cross a mount.
pub const NO_XDEV: u64 = libc::RESOLVE_NO_XDEV;

/// PATH_MAX of limits.h: longer paths the kernel neither takes nor gives.
const MAX_PATH_BYTES: usize = 4096;

/// What stat(2) says of an object.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the inode.
    pub links: u64,
    /// Bytes.
    pub size: u64,
    /// File system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl Stat {
    /// The S_IFMT part of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
}

impl From<libc::stat> for Stat {
    fn from(raw: libc::stat) -> Self {
        Self {
            mode: raw.st_mode,
            uid: raw.st_uid,
            gid: raw.st_gid,
            links: raw.st_nlink,
            size: u64::try_from(raw.st_size).unwrap_or(0),
            device: raw.st_dev,
            inode: raw.st_ino,
        }
    }
}

/// openat2(2): `flags` are O_*, `resolve` RESOLVE_*; close-on-exec always.
pub fn open(at: At<'_>, path: &CStr, flags: i32, mode: u32, resolve: u64) -> Result<Fd> {
    // SAFETY: open_how is three integers, for which all zeroes is a valid value.
    let mut how: libc::open_how = unsafe { mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC) as u32);
    how.mode = u64::from(mode);
    how.resolve = resolve;
    let size = mem::size_of_val(&how);
    // SAFETY: the kernel reads `path` up to its NUL and `size` bytes of `how`, writes to neither and
    // keeps no pointer; both outlive the call. The descriptor, if any, is borrowed and stays open.
    fd_result(unsafe {
        call(
            libc::SYS_openat2,
            [at.raw(), path.as_ptr() as usize, &raw const how as usize, size, 0, 0],
        )
    })
}

/// read(2): how many bytes were put into `buffer`; 0 at the end.
pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes to the exclusively borrowed buffer.
    unsafe {
        call(libc::SYS_read, [number(fd), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0])
    }
}

/// Lets a call write to the room that `buffer` has left, and makes what it wrote content; how much that was.
///
/// Nothing is zeroed beforehand: memory that the kernel does not write to costs no page.
fn append(buffer: &mut Vec<u8>, call: impl FnOnce(usize, usize) -> Result<usize>) -> Result<usize> {
    let (length, room) = (buffer.len(), buffer.spare_capacity_mut());
    let most = room.len();
    let got = call(room.as_mut_ptr() as usize, most)?.min(most);
    // SAFETY: the kernel has written `got` bytes behind the content, no more than the room there.
    unsafe { buffer.set_len(length + got) };
    Ok(got)
}

/// read(2), once: at most `limit` bytes.
pub fn read_once(fd: i32, limit: usize) -> Result<Vec<u8>> {
    let mut content = Vec::with_capacity(limit);
    read_more(fd, &mut content)?;
    Ok(content)
}

/// read(2) behind what `buffer` holds, as much as it has room for.
fn read_more(fd: i32, buffer: &mut Vec<u8>) -> Result<usize> {
    append(buffer, |at, room| {
        // SAFETY: the kernel writes at most `room` bytes to the exclusively borrowed room.
        unsafe { call(libc::SYS_read, [number(fd), at, room, 0, 0, 0]) }
    })
}

/// write(2): how many bytes were taken from `buffer`.
pub fn write(fd: i32, buffer: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads at most `len` bytes of the borrowed buffer.
    unsafe { call(libc::SYS_write, [number(fd), buffer.as_ptr() as usize, buffer.len(), 0, 0, 0]) }
}

/// Reads to the end, at most `limit` + 1 bytes, so that the caller can tell "too long".
pub fn read_all(fd: &Fd, limit: usize) -> Result<Vec<u8>> {
    let mut content = Vec::with_capacity(limit.min(4096) + 1);
    loop {
        let got = match read_more(fd.number(), &mut content) {
            Err(error) if error.0 == libc::EINTR => continue,
            other => other?,
        };
        if got == 0 || content.len() > limit {
            // What is not used is the next one's: it lies in a page that is there already.
            content.shrink_to_fit();
            return Ok(content);
        }
        if content.len() == content.capacity() {
            content.reserve_exact(content.len().min(limit + 1 - content.len()));
        }
    }
}

/// fstat(2).
pub fn stat(fd: i32) -> Result<Stat> {
    // SAFETY: libc::stat is made of integers, for which all zeroes is a valid value.
    let mut raw: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one struct stat to `raw`, which has that layout on x86_64.
    unsafe { call(libc::SYS_fstat, [number(fd), &raw mut raw as usize, 0, 0, 0, 0]) }?;
    Ok(raw.into())
}

/// newfstatat(2) on the name itself: a symbolic link is not followed.
pub fn stat_at(at: At<'_>, path: &CStr) -> Result<Stat> {
    // SAFETY: as in `stat`.
    let mut raw: libc::stat = unsafe { mem::zeroed() };
    let flags = number(libc::AT_SYMLINK_NOFOLLOW);
    // SAFETY: the kernel reads `path` up to its NUL and writes one struct stat to `raw`.
    unsafe {
        call(
            libc::SYS_newfstatat,
            [at.raw(), path.as_ptr() as usize, &raw mut raw as usize, flags, 0, 0],
        )
    }?;
    Ok(raw.into())
}

/// fstatfs(2): the type of the file system (statfs(2) lists the numbers) and its mount's ST_* flags.
pub fn statfs(fd: &Fd) -> Result<(i64, u64)> {
    // struct statfs of x86_64 is fifteen words: the type is the first, the flags are the eleventh.
    let mut words = [0_u64; 15];
    // SAFETY: the kernel writes one struct statfs, 120 bytes, to `words`.
    unsafe { call(libc::SYS_fstatfs, [number(fd.0), words.as_mut_ptr() as usize, 0, 0, 0, 0]) }?;
    Ok((words[0] as i64, words[10]))
}

/// readlinkat(2): the target of a link, at most 4,096 bytes.
pub fn read_link(at: At<'_>, path: &CStr) -> Result<Vec<u8>> {
    let mut target = Vec::with_capacity(MAX_PATH_BYTES);
    append(&mut target, |to, room| {
        // SAFETY: the kernel reads `path` up to its NUL and writes at most `room` bytes.
        unsafe { call(libc::SYS_readlinkat, [at.raw(), path.as_ptr() as usize, to, room, 0, 0]) }
    })?;
    target.shrink_to_fit();
    Ok(target)
}

/// mkdirat(2).
pub fn make_dir(at: At<'_>, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the kernel reads `path` up to its NUL.
    unsafe { call(libc::SYS_mkdirat, [at.raw(), path.as_ptr() as usize, mode as usize, 0, 0, 0]) }
        .map(drop)
}

/// mknodat(2): a character device `major`:`minor`.
pub fn make_char_device(at: At<'_>, path: &CStr, mode: u32, major: u32, minor: u32) -> Result<()> {
    // The old 16-bit encoding, enough for the six fixed nodes.
    let device = (major << 8 | minor) as usize;
    let mode = (libc::S_IFCHR | mode) as usize;
    // SAFETY: the kernel reads `path` up to its NUL.
    unsafe { call(libc::SYS_mknodat, [at.raw(), path.as_ptr() as usize, mode, device, 0, 0]) }
        .map(drop)
}

/// symlinkat(2).
pub fn make_symlink(target: &CStr, at: At<'_>, path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads both strings up to their NUL.
    unsafe {
        call(
            libc::SYS_symlinkat,
            [target.as_ptr() as usize, at.raw(), path.as_ptr() as usize, 0, 0, 0],
        )
    }
    .map(drop)
}

/// unlinkat(2); `directory` removes an empty directory.
pub fn unlink(at: At<'_>, path: &CStr, directory: bool) -> Result<()> {
    let flags = if directory { number(libc::AT_REMOVEDIR) } else { 0 };
    // SAFETY: the kernel reads `path` up to its NUL.
    unsafe { call(libc::SYS_unlinkat, [at.raw(), path.as_ptr() as usize, flags, 0, 0, 0]) }
        .map(drop)
}

/// renameat2(2) within one directory; `replace` false fails with EEXIST.
pub fn rename(dir: &Fd, from: &CStr, to: &CStr, replace: bool) -> Result<()> {
    let flags = if replace { 0 } else { libc::RENAME_NOREPLACE as usize };
    let at = number(dir.0);
    // SAFETY: the kernel reads both names up to their NUL.
    unsafe {
        call(libc::SYS_renameat2, [at, from.as_ptr() as usize, at, to.as_ptr() as usize, flags, 0])
    }
    .map(drop)
}

/// renameat2(2) from one directory to another; fails with EEXIST where there is such a name.
pub fn move_name(from_dir: &Fd, from: &CStr, to_dir: &Fd, to: &CStr) -> Result<()> {
    let (from_at, to_at) = (number(from_dir.0), number(to_dir.0));
    let flags = libc::RENAME_NOREPLACE as usize;
    // SAFETY: the kernel reads both names up to their NUL.
    unsafe {
        call(
            libc::SYS_renameat2,
            [from_at, from.as_ptr() as usize, to_at, to.as_ptr() as usize, flags, 0],
        )
    }
    .map(drop)
}

/// fchmod(2).
pub fn change_mode(fd: &Fd, mode: u32) -> Result<()> {
    scalar(libc::SYS_fchmod, [number(fd.0), mode as usize, 0, 0, 0]).map(drop)
}

/// chmod(2) by path, for what an O_PATH descriptor names through /proc/self/fd.
pub fn change_mode_at(path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the kernel reads `path` up to its NUL.
    unsafe { call(libc::SYS_chmod, [path.as_ptr() as usize, mode as usize, 0, 0, 0, 0]) }.map(drop)
}

/// fchown(2).
pub fn change_owner(fd: &Fd, uid: u32, gid: u32) -> Result<()> {
    scalar(libc::SYS_fchown, [number(fd.0), uid as usize, gid as usize, 0, 0]).map(drop)
}

/// fsync(2).
pub fn sync(fd: &Fd) -> Result<()> {
    scalar(libc::SYS_fsync, [number(fd.0), 0, 0, 0, 0]).map(drop)
}

/// flock(2), exclusive, never waiting: EWOULDBLOCK when someone else holds it.
pub fn try_lock(fd: &Fd) -> Result<()> {
    scalar(libc::SYS_flock, [number(fd.0), number(libc::LOCK_EX | libc::LOCK_NB), 0, 0, 0])
        .map(drop)
}

/// getdents64(2): calls `entry` with each name and d_type, `.` and `..` left out.
pub fn read_dir(fd: &Fd, mut entry: impl FnMut(&CStr, u8)) -> Result<()> {
    // Offsets in struct linux_dirent64: u64 inode, i64 offset, u16 length, u8 type, name.
    const LENGTH: usize = 16;
    const TYPE: usize = 18;
    const NAME: usize = 19;
    let mut buffer = [0_u8; 4096];
    loop {
        // SAFETY: the kernel writes at most `len` bytes to the buffer.
        let filled = unsafe {
            call(
                libc::SYS_getdents64,
                [number(fd.0), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0],
            )
        }?;
        if filled == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..filled];
        while rest.len() > NAME {
            let length = usize::from(u16::from_ne_bytes([rest[LENGTH], rest[LENGTH + 1]]));
            let Some(record) = rest.get(..length).filter(|record| record.len() > NAME) else {
                break;
            };
            if let Ok(name) = CStr::from_bytes_until_nul(&record[NAME..]) {
                if !matches!(name.to_bytes(), b"." | b"..") {
                    entry(name, record[TYPE]);
                }
            }
            rest = &rest[length..];
        }
    }
}

/// Whether descriptor `fd` is open at all: fcntl(2) F_GETFD.
pub fn is_open(fd: i32) -> bool {
    scalar(libc::SYS_fcntl, [number(fd), number(libc::F_GETFD), 0, 0, 0]).is_ok()
}

/// Sets close-on-exec: fcntl(2) F_SETFD.
pub fn set_cloexec(fd: i32) -> Result<()> {
    let args = [number(fd), number(libc::F_SETFD), number(libc::FD_CLOEXEC), 0, 0];
    scalar(libc::SYS_fcntl, args).map(drop)
}

/// Keeps a descriptor over execve: fcntl(2) F_SETFD.
pub fn keep_over_exec(fd: i32) -> Result<()> {
    scalar(libc::SYS_fcntl, [number(fd), number(libc::F_SETFD), 0, 0, 0]).map(drop)
}

/// The status flags of an open description: fcntl(2) F_GETFL.
pub fn status_flags(fd: i32) -> Result<i32> {
    scalar(libc::SYS_fcntl, [number(fd), number(libc::F_GETFL), 0, 0, 0]).map(|flags| flags as i32)
}

/// dup2(2): `to` names what `from` names, and stays open over execve.
pub fn duplicate_onto(from: i32, to: i32) -> Result<()> {
    scalar(libc::SYS_dup2, [number(from), number(to), 0, 0, 0]).map(drop)
}

/// close_range(2): closes `first` to `last`, both included.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    scalar(libc::SYS_close_range, [first as usize, last as usize, 0, 0, 0]).map(drop)
}

/// Closes every descriptor from 3 on but those in `kept`.
///
/// # Errors
/// The kernel's: some may be open then.
pub fn close_all_but(kept: &[i32]) -> Result<()> {
    let mut first = 3;
    loop {
        // The next one to keep: negative numbers name nothing.
        let next = kept.iter().filter_map(|&fd| u32::try_from(fd).ok()).filter(|fd| *fd >= first);
        let Some(next) = next.min() else {
            return close_range(first, u32::MAX);
        };
        if next > first {
            close_range(first, next - 1)?;
        }
        first = next + 1;
    }
}

/// pipe2(2), close-on-exec: (read end, write end).
pub fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0_i32; 2];
    let at = ends.as_mut_ptr() as usize;
    // SAFETY: the kernel writes two ints to `ends`.
    unsafe { call(libc::SYS_pipe2, [at, number(libc::O_CLOEXEC), 0, 0, 0, 0]) }?;
    Ok((Fd::adopt(ends[0]), Fd::adopt(ends[1])))
}

/// chdir(2).
pub fn change_dir(path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads `path` up to its NUL.
    unsafe { call(libc::SYS_chdir, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// fchdir(2).
pub fn change_dir_to(dir: &Fd) -> Result<()> {
    scalar(libc::SYS_fchdir, [number(dir.0), 0, 0, 0, 0]).map(drop)
}

/// getcwd(2) as bytes without the NUL; a directory outside the root starts with "(unreachable)".
pub fn current_dir() -> Result<Vec<u8>> {
    let mut path = Vec::with_capacity(MAX_PATH_BYTES);
    append(&mut path, |at, room| {
        // SAFETY: the kernel writes at most `room` bytes.
        unsafe { call(libc::SYS_getcwd, [at, room, 0, 0, 0, 0]) }
    })?;
    path.pop();
    path.shrink_to_fit();
    Ok(path)
}

/// umask(2): the mask before.
pub fn set_umask(mask: u32) -> u32 {
    scalar(libc::SYS_umask, [mask as usize, 0, 0, 0, 0]).unwrap_or(0) as u32
}
