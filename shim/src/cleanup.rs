//! `cleanup`: what the caller's own dead containers left, removed with his own authority.
//!
//! A container in mapped mode leaves files that belong to the caller's subordinate ids, which he alone
//! cannot remove. The work is done in a user namespace with his own map, by descriptors, never through
//! a link and never across a mount (attack 44): whatever is not his stays.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;
use core::ffi::CStr;

use crate::caller::{Entry, SLOW_FILES, bounded};
use crate::error::{Context, Error};
use crate::plan::IdRange;
use crate::policy;
use crate::request::Target;
use crate::rules::{Rule, active};
use crate::state;
use crate::status::StatusFd;
use crate::sys::{self, At, Fd, Side};
use crate::{bundle, execute, host};

/// The code of what goes wrong here.
const CODE: &str = "cleanup.failed";
/// How many directories are open below each other at a time, two descriptors each. What lies deeper
/// is moved to the top first: a payload can nest directories until no number of descriptors suffices.
const MAX_DEPTH: usize = 16;
/// How long the removal may say nothing, in milliseconds: a root file system may be large, but a directory of
/// it that takes this long lies on a file system that does not answer. Test builds wait for less.
const SILENCE_MS: u64 = if cfg!(locald_mutants) { 3_000 } else { 60_000 };
/// How long a process may take to end that was killed, or has closed its side, in milliseconds.
const ENDING_MS: u64 = 5_000;
/// After how many names of one directory the removal speaks.
const NAMES_A_WORD: usize = 256;

/// Removes dead state entries with their leaves, and the root file system of one bundle if `target` names it.
///
/// # Errors
/// `cleanup.failed`, `bundle.open`, `setup.timeout`, and what [`execute::run`] refuses about caller and policy.
pub fn run(entry: &Entry, target: &Target) -> Result<(), Error> {
    entry.require_privilege()?;
    host::require_single_link()?;
    host::permit(&entry.caller)?;
    if let Target::Bundle(path) = target {
        let rootfs = bounded(&StatusFd(None), || entry.act(|| open_rootfs(entry, path)))?;
        if let Some(rootfs) = rootfs {
            remove_tree(entry, rootfs)?;
        }
    }
    sys::set_group_ids(sys::KEEP, 0, 0).or_fail("host.kernel-call", "setegid")?;
    let directory = state::Directory::open(entry)?;
    match target {
        Target::Id(id) => {
            if !directory.remove_dead(id.as_c_str()) {
                let why = "that container is running";
                return Err(Error::refused("id.in-use", why, "end it first"));
            }
            Ok(())
        }
        Target::All | Target::Bundle(_) => directory.sweep(None).map(drop),
    }
}

/// The directory `rootfs` of the bundle, as the caller finds it; none if there is none.
fn open_rootfs(entry: &Entry, path: &CStr) -> Result<Option<Fd>, Error> {
    let at = entry.cwd.as_ref().map_or(At::Cwd, At::Dir);
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let dir = match sys::open(at, path, flags, 0, sys::NO_MAGICLINKS) {
        Ok(dir) => dir,
        Err(error) if error.0 == libc::ENOENT => return Ok(None),
        Err(error) => {
            let why = format!("the bundle {}: {error}", bundle::shown(path));
            return Err(Error::refused("bundle.open", why, "name a directory that you can reach"));
        }
    };
    match sys::open(At::Dir(&dir), c"rootfs", flags, 0, beneath()) {
        Ok(rootfs) => Ok(Some(rootfs)),
        Err(error) if error.0 == libc::ENOENT => Ok(None),
        Err(error) => {
            let why = format!("rootfs in the bundle: {error}");
            Err(Error::refused("bundle.open", why, "let rootfs be a directory, without a link"))
        }
    }
}

fn beneath() -> u64 {
    let strict = if active(Rule::CleanupBeneath) { sys::NO_XDEV } else { 0 };
    sys::BENEATH | sys::NO_SYMLINKS | sys::NO_MAGICLINKS | strict
}

/// Empties `rootfs` in a process that has the caller's own ids and nothing else.
fn remove_tree(entry: &Entry, rootfs: Fd) -> Result<(), Error> {
    let grants = host::grants(&entry.caller, true)?;
    // Container root is the caller: what is his or his ranges' can be removed, nothing else.
    let (uids, gids) = policy::own_map(&entry.caller, &grants)?;
    let mapped = execute::may_map()?;
    // Nothing is to be forwarded here: what ends a program ends this one, but for a child that is gone.
    sys::set_signal_mask(sys::signal_set(&[libc::SIGPIPE])).or_fail(CODE, "sigprocmask")?;
    let (reports, end) = sys::pipe().or_fail(CODE, "pipe")?;
    let (answers, go) = sys::pipe().or_fail(CODE, "pipe")?;
    match sys::clone_process(0).or_fail(CODE, "clone3")? {
        Side::Child => {
            drop((reports, go));
            sys::exit(u8::from(!work_in_map(entry, mapped, &rootfs, &end, &answers)));
        }
        Side::Parent(pid, child) => {
            drop((end, answers));
            let removed = watch_removal(&reports, || {
                if mapped {
                    write_map(pid, "gid_map", &gids)?;
                    write_map(pid, "uid_map", &uids)?;
                    // Without it the child would wait for us, and we for it.
                    sys::write(go.number(), b"g").or_fail(CODE, "write")?;
                }
                Ok(())
            });
            if removed.is_err() {
                let _ = sys::pidfd_kill(&child, libc::SIGKILL);
            }
            let ended = sys::wait_within(&child, ENDING_MS).or_fail(CODE, "wait");
            removed?;
            match ended? {
                Some(0) => Ok(()),
                Some(_) => Err(Error::failed(
                    CODE,
                    "some of the root file system could not be removed",
                    "see what in it is not yours, or is mounted",
                )),
                None => Err(silent()),
            }
        }
    }
}

fn silent() -> Error {
    Error::failed(CODE, "the removal of the root file system does not go on", SLOW_FILES)
}

/// Hears the child out until it closes its side; `begin` answers its first word.
fn watch_removal(reports: &Fd, begin: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let mut begin = Some(begin);
    let mut deadline = sys::now_ms().saturating_add(SILENCE_MS);
    loop {
        let left = deadline.saturating_sub(sys::now_ms());
        let mut wait = [sys::Poll::readable(reports.number())];
        if sys::poll(&mut wait, Some(left)).or_fail(CODE, "ppoll")? == 0 {
            if left == 0 && active(Rule::BoundedWaits) {
                return Err(silent());
            }
            continue;
        }
        if sys::read(reports.number(), &mut [0; 4096]).or_fail(CODE, "read")? == 0 {
            return Ok(());
        }
        if let Some(begin) = begin.take() {
            begin()?;
        }
        deadline = sys::now_ms().saturating_add(SILENCE_MS);
    }
}

fn write_map(pid: i32, name: &str, map: &[IdRange]) -> Result<(), Error> {
    let path = bundle::c_string(format!("/proc/{pid}/{name}"));
    sys::open(At::Cwd, &path, libc::O_WRONLY, 0, 0)
        .and_then(|file| sys::write(file.number(), &policy::render_map(map)))
        .map(drop)
        .or_fail("map.failed", name)
}

/// In the child: the namespace, the drop, the removal. True if everything is gone.
fn work_in_map(entry: &Entry, mapped: bool, rootfs: &Fd, end: &Fd, answers: &Fd) -> bool {
    let (uid, gid) = (entry.caller.uid, entry.caller.gid);
    if mapped {
        let made = entry.become_keeper().is_ok()
            && sys::unshare(libc::CLONE_NEWUSER).is_ok()
            && sys::write(end.number(), b"m") == Ok(1)
            && sys::read(answers.number(), &mut [0]) == Ok(1);
        // Container id 0 is the caller; all capabilities are those of his namespace.
        if !made || sys::set_group_ids(0, 0, 0).is_err() || sys::set_user_ids(0, 0, 0).is_err() {
            return false;
        }
    } else if sys::set_group_ids(gid, gid, gid).is_err()
        || sys::set_user_ids(uid, uid, uid).is_err()
    {
        return false;
    }
    let _ = sys::control(libc::PR_SET_NO_NEW_PRIVS, 1);
    let _ = sys::control(libc::PR_SET_DUMPABLE, 0);
    // After the last change of ids, which clears it; a parent that is gone by now reads no pipe.
    let _ = sys::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
    let orphaned = sys::poll(&mut [sys::Poll::readable(end.number())], Some(0)) != Ok(0);
    !orphaned && Sweep { top: rootfs, moved: 0, reports: end }.run()
}

/// The removal of everything below one directory.
struct Sweep<'a> {
    top: &'a Fd,
    /// How many directories were moved to the top in this round.
    moved: u32,
    /// Where it says that it goes on.
    reports: &'a Fd,
}

impl Sweep<'_> {
    /// True if nothing is left.
    fn run(&mut self) -> bool {
        loop {
            self.moved = 0;
            let clean = self.empty(self.top, 0);
            if self.moved == 0 {
                return clean;
            }
        }
    }

    /// Removes everything below `dir`, an O_PATH descriptor. True if it is empty now.
    fn empty(&mut self, dir: &Fd, depth: usize) -> bool {
        let Some(list) = open_list(dir) else { return false };
        let mut names: Vec<(CString, u8)> = Vec::new();
        if sys::read_dir(&list, |name, kind| names.push((name.into(), kind))).is_err() {
            return false;
        }
        let mut clean = true;
        for (number, (name, kind)) in names.into_iter().enumerate() {
            if number % NAMES_A_WORD == 0 {
                let _ = sys::write(self.reports.number(), b".");
            }
            let is_dir = kind == libc::DT_DIR
                || kind == libc::DT_UNKNOWN && sys::unlink(At::Dir(&list), &name, false).is_err();
            if is_dir {
                clean &= self.remove_dir(&list, &name, depth);
            } else if kind != libc::DT_UNKNOWN {
                clean &= sys::unlink(At::Dir(&list), &name, false).is_ok();
            }
        }
        clean
    }

    fn remove_dir(&mut self, parent: &Fd, name: &CStr, depth: usize) -> bool {
        // An empty one needs no look inside; a mount is busy, one that is not empty says so.
        if sys::unlink(At::Dir(parent), name, true).is_ok() {
            return true;
        }
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let Ok(inner) = sys::open(At::Dir(parent), name, flags, 0, beneath()) else {
            return false;
        };
        if depth + 1 < MAX_DEPTH {
            return self.empty(&inner, depth + 1)
                && sys::unlink(At::Dir(parent), name, true).is_ok();
        }
        // Moving a directory writes its `..`.
        permit(&inner);
        self.move_to_top(parent, name)
    }

    fn move_to_top(&mut self, parent: &Fd, name: &CStr) -> bool {
        for number in 0..=u32::MAX {
            let free = bundle::c_string(format!(".locald-cleanup.{number}"));
            match sys::move_name(parent, name, self.top, &free) {
                Ok(()) => {
                    self.moved += 1;
                    return true;
                }
                Err(error) if error.0 == libc::EEXIST => {}
                Err(_) => return false,
            }
        }
        false
    }
}

/// Opens a directory for reading; permission for that, and for removing what is in it, can be given
/// where it is ours.
fn open_list(dir: &Fd) -> Option<Fd> {
    let open = || sys::open(At::Dir(dir), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0, beneath());
    let list = open().or_else(|_| {
        permit(dir);
        open()
    });
    let list = list.ok()?;
    let _ = sys::change_mode(&list, 0o700);
    Some(list)
}

/// Gives the owner of `dir`, an O_PATH descriptor, every permission. The kernel judges by our ids.
fn permit(dir: &Fd) {
    let link = bundle::c_string(format!("/proc/self/fd/{}", dir.number()));
    let _ = sys::change_mode_at(&link, 0o700);
}
