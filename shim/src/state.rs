//! Which containers run: one locked file each, in a directory that only root can enter.
//!
//! /run/locald-shim/<uid>/<id>, directories 0700. The lock lives as long as the supervisor, however it
//! ends; an entry that nobody locks is dead and goes away at the caller's next call (attacks 40, 43), and
//! with it the leaf that its text names, a path in the cgroup v2 hierarchy.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;
use core::ffi::CStr;

use crate::accounts;
use crate::caller::Entry as Caller;
use crate::cgroup;
use crate::error::{Context, Error};
use crate::request::Id;
use crate::rules::{Rule, active};
use crate::sys::{self, At, Fd};

/// How often a new entry is tried when another call of the same caller removes it half-made.
const ATTEMPTS: u32 = 16;

/// Longest path of a leaf that is recorded.
const MAX_RECORD_BYTES: usize = 8192;

/// One caller's directory.
pub struct Directory<'a> {
    dir: Fd,
    caller: &'a Caller,
}

/// A running container; gone with [`Entry::remove`] or, later, with the process.
pub struct Entry<'a> {
    directory: Directory<'a>,
    name: CString,
    // Its lock is what says that the container lives.
    file: Fd,
}

impl<'a> Directory<'a> {
    /// Opens the directory of `caller`, making it if need be. Call it as root.
    ///
    /// # Errors
    /// `state.failed`.
    pub fn open(caller: &'a Caller) -> Result<Self, Error> {
        let run = enter(At::Cwd, c"/run/locald-shim")?;
        let own = CString::new(format!("{}", caller.caller.uid)).unwrap_or_default();
        Ok(Self { dir: enter(At::Dir(&run), &own)?, caller })
    }

    /// Removes every entry that nobody locks; how many are left, and whether `wanted` is among them.
    ///
    /// # Errors
    /// `state.failed`.
    pub fn sweep(&self, wanted: Option<&CStr>) -> Result<(u32, bool), Error> {
        let (mut alive, mut taken) = (0, false);
        for name in self.names()? {
            // A draft is its maker's as long as he lives: to look at its lock would take it from him.
            if is_draft_of_the_living(&name) {
                continue;
            }
            if !self.remove_dead(&name) {
                alive += 1;
                taken |= wanted == Some(name.as_c_str());
            }
        }
        Ok((alive, taken))
    }

    fn names(&self) -> Result<Vec<CString>, Error> {
        let mut names: Vec<CString> = Vec::new();
        let list = sys::open(At::Dir(&self.dir), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0, 0)
            .or_fail("state.failed", "the state directory")?;
        sys::read_dir(&list, |name, _| names.push(name.into()))
            .or_fail("state.failed", "the state directory")?;
        Ok(names)
    }

    /// How many containers there are, dead ones included; drafts have no id yet.
    fn count(&self) -> Result<u32, Error> {
        let names = self.names()?;
        Ok(names.iter().filter(|name| !name.to_bytes().starts_with(b".")).count() as u32)
    }

    /// Removes the entry `name`, and its leaf, if nobody locks it; whether it is gone.
    pub fn remove_dead(&self, name: &CStr) -> bool {
        let Ok(file) = sys::open(At::Dir(&self.dir), name, libc::O_RDONLY | libc::O_NOFOLLOW, 0, 0)
        else {
            return true;
        };
        if sys::try_lock(&file).is_err() {
            return false;
        }
        // The name may belong to a younger entry by now; whoever removes the one that is locked here
        // would need this lock, so the answer stays true until the name is gone.
        let same = match (sys::stat(file.number()), sys::stat_at(At::Dir(&self.dir), name)) {
            (Ok(held), Ok(named)) => held.inode == named.inode,
            _ => false,
        };
        // A process in the leaf is one that outlived its supervisor: the container still runs.
        let leaf = sys::read_all(&file, MAX_RECORD_BYTES).unwrap_or_default();
        if same && !leaf.is_empty() && !cgroup::remove_recorded(self.caller, &leaf) {
            return false;
        }
        same && sys::unlink(At::Dir(&self.dir), name, false).is_ok()
    }

    /// Makes the entry of a new container.
    ///
    /// # Errors
    /// `id.in-use`, `state.quota`, `state.failed`.
    pub fn add(self, id: &Id, quota: u32) -> Result<Entry<'a>, Error> {
        let (alive, taken) = self.sweep(Some(id.as_c_str()))?;
        let in_use = || {
            let why = "a container of yours with this id is running";
            Error::refused("id.in-use", why, "choose another id, or end that container")
        };
        if taken {
            return Err(in_use());
        }
        if active(Rule::StateQuota) && alive >= quota {
            return Err(over_quota(quota));
        }
        for _ in 0..ATTEMPTS {
            // Locked under a name that no id can have, then given its name in one step: an entry
            // that can be seen under an id is a locked one.
            let draft = CString::new(format!(".{}", sys::own_pid())).unwrap_or_default();
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW;
            let file = sys::open(At::Dir(&self.dir), &draft, flags, 0o600, 0)
                .or_fail("state.failed", "a new entry")?;
            if sys::try_lock(&file).is_err() {
                continue;
            }
            match sys::rename(&self.dir, &draft, id.as_c_str(), false) {
                Ok(()) => {}
                Err(error) if error.0 == libc::ENOENT => continue,
                Err(error) => {
                    let _ = sys::unlink(At::Dir(&self.dir), &draft, false);
                    if error.0 == libc::EEXIST {
                        return Err(in_use());
                    }
                    return Err(error).or_fail("state.failed", "a new entry");
                }
            }
            let same =
                match (sys::stat(file.number()), sys::stat_at(At::Dir(&self.dir), id.as_c_str())) {
                    (Ok(held), Ok(named)) => held.inode == named.inode,
                    _ => false,
                };
            if same {
                let entry = Entry { directory: self, name: id.as_c_str().into(), file };
                // Counted again, now that others of the same moment count this one too.
                if active(Rule::StateQuota) && entry.directory.count()? > quota {
                    let (alive, _) = entry.directory.sweep(None)?;
                    if alive > quota {
                        entry.remove();
                        return Err(over_quota(quota));
                    }
                }
                return Ok(entry);
            }
        }
        Err(Error::failed("state.failed", "the state directory is too busy", "try again"))
    }
}

impl Entry<'_> {
    /// Notes where the container's leaf will be, before it is made.
    ///
    /// # Errors
    /// `state.failed`.
    pub fn record(&self, leaf: &[u8]) -> Result<(), Error> {
        match sys::write(self.file.number(), leaf) {
            Ok(length) if length == leaf.len() => Ok(()),
            Ok(_) => {
                Err(Error::failed("state.failed", "the state entry is cut", "free space on /run"))
            }
            Err(error) => Err(error).or_fail("state.failed", "the state entry"),
        }
    }

    /// Takes the entry away: the container has ended.
    pub fn remove(self) {
        let _ = sys::unlink(At::Dir(&self.directory.dir), &self.name, false);
    }
}

fn over_quota(quota: u32) -> Error {
    Error::refused(
        "state.quota",
        format!("{quota} containers of yours are running, which is the limit"),
        "end one, or ask an administrator to raise max-containers in /etc/locald/policy",
    )
}

/// Whether `name` is a draft, `.PID`, of a process that still exists.
fn is_draft_of_the_living(name: &CStr) -> bool {
    let pid = name.to_bytes().strip_prefix(b".").and_then(accounts::parse_id);
    pid.and_then(|pid| i32::try_from(pid).ok()).is_some_and(|pid| sys::kill(pid, 0).is_ok())
}

/// Opens the directory `path`, making it if it is missing: root's own, for root alone.
fn enter(at: At<'_>, path: &CStr) -> Result<Fd, Error> {
    let open = || sys::open(at, path, libc::O_PATH | libc::O_DIRECTORY, 0, sys::NO_SYMLINKS);
    let dir = match open() {
        Err(error) if error.0 == libc::ENOENT => match sys::make_dir(at, path, 0o700) {
            // Another call of the same moment may have made it.
            Err(error) if error.0 != libc::EEXIST => Err(error),
            _ => open(),
        },
        other => other,
    };
    let dir = dir.or_fail("state.failed", "/run/locald-shim")?;
    let status = sys::stat(dir.number()).or_fail("state.failed", "/run/locald-shim")?;
    if active(Rule::StateDirectory) && (status.uid != 0 || status.mode & 0o077 != 0) {
        return Err(Error::failed(
            "state.failed",
            "/run/locald-shim or what is in it is not root's alone",
            "sudo rm -r /run/locald-shim",
        ));
    }
    Ok(dir)
}
