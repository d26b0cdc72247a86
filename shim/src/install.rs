//! `install`: real root gives a fresh copy of this very file its place and its set-user-id bit.
//!
//! Never in place: package managers hard-link installed files to their caches, and a running
//! container keeps the old inode. At no instant is there no shim, or a set-user-id file that somebody
//! else can write.

use alloc::format;
use alloc::vec::Vec;

use crate::accounts;
use crate::bundle::{c_string, shown};
use crate::caller::Entry;
use crate::error::{Context, Error};
use crate::reply::Object;
use crate::sys::{self, At, Fd};

const CODE: &str = "install.failed";
/// The shim's name where `locald` looks for it.
const NAME: &core::ffi::CStr = c"locald-shim";
/// What a draft's name starts with; the writer's pid follows.
const DRAFT: &[u8] = b".locald-shim.";
/// Types of statfs(2) whose server decides about owners: NFS, CIFS, SMB2, AFS, Coda, 9p, Ceph, FUSE.
const NETWORK_FILE_SYSTEMS: [i64; 9] = [
    0x6969,
    0xff53_4d42,
    0xfe53_4d42,
    0x5346_414f,
    0x7375_7245,
    0x0102_1997,
    0x00c3_6400,
    0x6573_5546,
    0x517b,
];
/// ST_NOSUID of statfs(2).
const ST_NOSUID: u64 = 2;
/// Most bytes of the shim's own file.
const MAX_BYTES: usize = 64 << 20;

/// Installs, and gives the line that says what was done.
///
/// # Errors
/// `install.not-root`, `install.nosuid`, `install.network-fs`, `install.failed`.
pub fn run(entry: &Entry) -> Result<Vec<u8>, Error> {
    if entry.caller.uid != 0 || !entry.privileged {
        let why = "only root can install the shim";
        return Err(Error::refused("install.not-root", why, "sudo locald admin setup"));
    }
    let mut path = sys::read_link(At::Cwd, c"/proc/self/exe").or_fail(CODE, "/proc/self/exe")?;
    let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else {
        return Err(Error::failed(CODE, "this file has no directory", "install locald again"));
    };
    path.truncate(slash.max(1));
    let path = c_string(path);
    let dir = sys::open(At::Cwd, &path, libc::O_RDONLY | libc::O_DIRECTORY, 0, sys::NO_MAGICLINKS)
        .or_fail(CODE, &shown(&path))?;
    require_suitable(&dir, &shown(&path))?;

    let own =
        sys::open(At::Cwd, c"/proc/self/exe", libc::O_RDONLY, 0, 0).or_fail(CODE, "itself")?;
    let content = sys::read_all(&own, MAX_BYTES).or_fail(CODE, "reading itself")?;
    remove_drafts_of_the_dead(&dir);
    let replaced = sys::stat_at(At::Dir(&dir), NAME).is_ok();
    let draft = c_string([DRAFT, format!("{}", sys::own_pid()).as_bytes()].concat());
    let written = write_draft(&dir, &draft, &content)
        .and_then(|()| sys::rename(&dir, &draft, NAME, true).or_fail(CODE, "rename"))
        .and_then(|()| sys::sync(&dir).or_fail(CODE, "fsync of the directory"));
    if let Err(error) = written {
        let _ = sys::unlink(At::Dir(&dir), &draft, false);
        return Err(error);
    }
    let place = [path.to_bytes(), b"/", NAME.to_bytes()].concat();
    Ok(Object::new()
        .string("installed", place)
        .boolean("replaced", replaced)
        .string("build", crate::BUILD)
        .line())
}

fn require_suitable(dir: &Fd, path: &str) -> Result<(), Error> {
    let (kind, flags) = sys::statfs(dir).or_fail(CODE, path)?;
    if NETWORK_FILE_SYSTEMS.contains(&kind) {
        return Err(Error::refused(
            "install.network-fs",
            format!("{path} lies on a network file system, whose server decides who owns a file"),
            "install locald on a local file system, for example in /opt/locald",
        ));
    }
    if flags & ST_NOSUID != 0 {
        return Err(Error::refused(
            "install.nosuid",
            format!("{path} is mounted nosuid, where the set-user-id bit has no effect"),
            "install locald elsewhere, for example in /opt/locald",
        ));
    }
    Ok(())
}

/// Removes what an installation that was killed half-way left: nothing uses it, and it may be set-user-id
/// already. In a directory of somebody else's the names may be his; unlink(2) takes a name, no more.
fn remove_drafts_of_the_dead(dir: &Fd) {
    let mut drafts = Vec::new();
    let _ = sys::read_dir(dir, |name, _| {
        let pid = name.to_bytes().strip_prefix(DRAFT).and_then(accounts::parse_id);
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        // Another error says nothing of whether somebody still writes it.
        let is_gone = |pid| sys::kill(pid, 0).is_err_and(|error| error.0 == libc::ESRCH);
        if pid.is_some_and(is_gone) {
            drafts.push(alloc::ffi::CString::from(name));
        }
    });
    for draft in drafts {
        let _ = sys::unlink(At::Dir(dir), &draft, false);
    }
}

/// A complete, durable, root-owned file beside the final name; set-user-id only once all of it is on
/// the disk: after a power cut there is no such file with a part of its content.
fn write_draft(dir: &Fd, draft: &core::ffi::CStr, content: &[u8]) -> Result<(), Error> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let file = sys::open(At::Dir(dir), draft, flags, 0o600, 0).or_fail(CODE, "a new file")?;
    let mut rest = content;
    while !rest.is_empty() {
        let count = sys::write(file.number(), rest).or_fail(CODE, "writing")?;
        rest = &rest[count..];
    }
    sys::change_owner(&file, 0, 0).or_fail(CODE, "chown")?;
    sys::sync(&file).or_fail(CODE, "fsync")?;
    // After chown, which clears the bit.
    sys::change_mode(&file, 0o4755).or_fail(CODE, "chmod")?;
    sys::sync(&file).or_fail(CODE, "fsync")
}
