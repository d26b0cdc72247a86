//! Where a container's leaf may lie, and what becomes of it. Everything here is done as the caller.
//!
//! The leaf is a cgroup (v2) below the nearest cgroup above the shim's own that the caller owns: by the
//! kernel's delegation that subtree is his to divide, and nothing he does in it gets more than it has.
//! Root could put a process anywhere; so no step here has root's rights, and the kernel judges each
//! (attack 29). The shim changes nothing but the leaf: which controllers a cgroup has for those below it
//! is decided by whoever manages it (systemd, an administrator, the caller himself).

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;

use crate::bundle::c_string;
use crate::caller::Entry;
use crate::error::{Context, Error};
use crate::host;
use crate::plan::{Controller, Limit};
use crate::request::Id;
use crate::rules::{Rule, active};
use crate::sys::{self, At, Fd};

/// How long a leaf is tried whose last process is still ending, in milliseconds: at the container's end,
/// and at a later call.
const ENDING_MS: u32 = 100;
const LATER_MS: u32 = 20;
/// Most bytes of a file of a cgroup, and of /proc/self/cgroup.
const MAX_FILE_BYTES: usize = 64 << 10;
/// Longest path that the kernel takes.
const MAX_PATH_BYTES: usize = 4095;

const SCOPE: &str = "systemd-run --user --scope -p MemoryAccounting=yes -p TasksAccounting=yes -p CPUWeight=100 COMMAND; `locald doctor` shows whether limits work";
const V2: &str =
    "boot with cgroup v2 alone (systemd.unified_cgroup_hierarchy=1), or run without limits";

/// The cgroup below which a leaf can be made.
pub struct Place {
    dir: Fd,
    /// Below the hierarchy's root, with a leading `/`.
    path: Vec<u8>,
}

/// A container's own cgroup.
pub struct Leaf {
    parent: Fd,
    name: CString,
    dir: Fd,
}

impl Place {
    /// Finds the nearest cgroup above this process's that is the caller's.
    ///
    /// # Errors
    /// `resources.hierarchy`, `resources.delegation`.
    pub fn find(entry: &Entry) -> Result<Self, Error> {
        let own = own_path()?;
        as_caller(entry, || Self::above(&own, entry.caller.uid))
    }

    fn above(own: &[u8], uid: u32) -> Result<Self, Error> {
        let root = hierarchy()?;
        let mut path = own;
        while let Some(end) = path.iter().rposition(|&byte| byte == b'/').filter(|_| path != b"/") {
            path = &path[..end];
            // A name may mean another cgroup by now; whose it is, is looked at on what was opened.
            let dir = sys::open(At::Dir(&root), &relative(path), DIRECTORY, 0, beneath())
                .map_err(|error| not_delegated(own, &format!(": {error}")))?;
            let owner = sys::stat(dir.number()).or_fail("resources.delegation", "a cgroup")?.uid;
            if active(Rule::CgroupOwner) && owner != uid {
                continue;
            }
            // Who may write here may put processes below: the kernel's own question at the clone.
            sys::open(At::Dir(&dir), c"cgroup.procs", libc::O_WRONLY, 0, beneath()).map_err(
                |error| {
                    let path = String::from_utf8_lossy(path);
                    not_delegated(own, &format!("; {path} is, but not its cgroup.procs: {error}"))
                },
            )?;
            return Ok(Self { dir, path: path.to_vec() });
        }
        Err(not_delegated(own, ""))
    }

    /// Checks that a cgroup below this one can have the limits of `controller`.
    ///
    /// # Errors
    /// `resources.controller`.
    pub fn require(&self, controller: Controller) -> Result<(), Error> {
        if !active(Rule::CgroupController)
            || lists(&self.dir, c"cgroup.subtree_control", controller)
        {
            return Ok(());
        }
        let (name, path) = (controller.name(), String::from_utf8_lossy(&self.path));
        if lists(&self.dir, c"cgroup.controllers", controller) {
            let why = format!("{path} does not give the controller {name} to the cgroups below it");
            return Err(Error::refused("resources.controller", why, SCOPE));
        }
        let there = hierarchy().is_ok_and(|root| lists(&root, c"cgroup.controllers", controller));
        let (why, hint) = if there {
            (format!("{path} was not given the controller {name}"), SCOPE)
        } else {
            (format!("this host's cgroup v2 hierarchy has no controller {name}"), V2)
        };
        Err(Error::refused("resources.controller", why, hint))
    }

    /// Makes the leaf of `id` with its limits, once `record` has noted where it will be.
    ///
    /// # Errors
    /// `resources.controller`, `resources.leaf`, and those of `record`; with whether anything is left.
    pub fn make_leaf(
        self,
        entry: &Entry,
        id: &Id,
        limits: &[Limit],
        record: impl FnOnce(&[u8]) -> Result<(), Error>,
    ) -> Result<Leaf, Unmade> {
        as_caller(entry, || limits.iter().try_for_each(|limit| self.require(limit.controller)))?;
        let name = leaf_name(id);
        record(&[&self.path, b"/".as_slice(), name.to_bytes()].concat())?;
        let made = as_caller(entry, || {
            match sys::make_dir(At::Dir(&self.dir), &name, 0o755) {
                // What a killed call left where another hierarchy's record was lost; never one in use.
                Err(error) if error.0 == libc::EEXIST => {
                    sys::unlink(At::Dir(&self.dir), &name, true)
                        .and_then(|()| sys::make_dir(At::Dir(&self.dir), &name, 0o755))
                }
                other => other,
            }
        });
        made.map_err(|error| leaf_failed("making it", error))?;
        let ready = as_caller(entry, || {
            let dir = sys::open(At::Dir(&self.dir), &name, DIRECTORY, 0, beneath())
                .map_err(|error| leaf_failed("opening it", error))?;
            limits.iter().try_for_each(|limit| set_limit(&dir, limit))?;
            Ok(dir)
        });
        match ready {
            Ok(dir) => Ok(Leaf { parent: self.dir, name, dir }),
            Err(error) => {
                let end = as_caller(entry, || remove_when_empty(&self.dir, &name, ENDING_MS));
                Err(Unmade { error, gone: end == End::Gone })
            }
        }
    }
}

/// Why there is no leaf.
pub struct Unmade {
    /// For the caller.
    pub error: Error,
    /// False where something of it may be there: its record must stay then.
    pub gone: bool,
}

/// What fails before the leaf is made leaves nothing.
impl From<Error> for Unmade {
    fn from(error: Error) -> Self {
        Self { error, gone: true }
    }
}

fn set_limit(leaf: &Fd, limit: &Limit) -> Result<(), Error> {
    let written = sys::open(At::Dir(leaf), limit.file, libc::O_WRONLY, 0, beneath())
        .and_then(|file| sys::write(file.number(), &limit.value));
    match written {
        Err(error) if active(Rule::CgroupController) => {
            Err(leaf_failed(&limit.file.to_string_lossy(), error))
        }
        _ => Ok(()),
    }
}

impl Leaf {
    /// The leaf, for a clone into it.
    pub fn descriptor(&self) -> &Fd {
        &self.dir
    }

    /// Removes the leaf; false where it is there still, with a process of the caller's perhaps.
    pub fn remove(&self, entry: &Entry) -> bool {
        let remove = || remove_when_empty(&self.parent, &self.name, ENDING_MS);
        active(Rule::CgroupGone) && as_caller(entry, remove) == End::Gone
    }
}

/// Removes the leaf that a killed call of the caller's has recorded; false while a process is in it.
pub fn remove_recorded(entry: &Entry, path: &[u8]) -> bool {
    let Some(cut) = path.iter().rposition(|&byte| byte == b'/') else { return true };
    if !active(Rule::CgroupGone) {
        return true;
    }
    as_caller(entry, || {
        let parent = hierarchy().ok().and_then(|root| {
            sys::open(At::Dir(&root), &relative(&path[..cut]), DIRECTORY, 0, beneath()).ok()
        });
        // No such place: gone with its parent, or not for this caller to reach. What the kernel refuses him
        // now it will refuse for ever: an entry that waited for that would hold its id as long.
        let name = c_string(&path[cut + 1..]);
        parent.is_none_or(|parent| remove_when_empty(&parent, &name, LATER_MS) != End::Busy)
    })
}

const DIRECTORY: i32 = libc::O_PATH | libc::O_DIRECTORY;

fn beneath() -> u64 {
    sys::BENEATH | sys::NO_SYMLINKS | sys::NO_MAGICLINKS | sys::NO_XDEV
}

/// With the caller's effective ids: delegation is a matter of them, and root would not be judged.
fn as_caller<T>(entry: &Entry, step: impl FnOnce() -> T) -> T {
    if active(Rule::CgroupAsCaller) { entry.act(step) } else { step() }
}

/// Neither a name of systemd's nor one of a file of the kernel's, whatever the id is.
fn leaf_name(id: &Id) -> CString {
    c_string([b"locald-", id.as_bytes(), b".leaf"].concat())
}

/// What became of a leaf.
#[derive(PartialEq, Eq)]
enum End {
    Gone,
    /// Something is in it: a process of the caller's, or one that is still ending.
    Busy,
    /// The kernel refused to remove it.
    Refused,
}

fn remove_when_empty(parent: &Fd, name: &CStr, tries_ms: u32) -> End {
    for _ in 0..tries_ms {
        match sys::unlink(At::Dir(parent), name, true) {
            Ok(()) => return End::Gone,
            Err(error) if error.0 == libc::ENOENT => return End::Gone,
            Err(error) if error.0 == libc::EBUSY => {}
            Err(_) => return End::Refused,
        }
        let _ = sys::poll(&mut [], Some(1));
    }
    End::Busy
}

/// Opens the root of the cgroup v2 hierarchy, wherever the host has mounted it.
fn hierarchy() -> Result<Fd, Error> {
    let missing = || Error::refused("resources.hierarchy", "this host mounts no cgroup v2", V2);
    for point in host::cgroup2_mounts()? {
        let Ok(root) = sys::open(At::Cwd, &point, DIRECTORY, 0, sys::NO_SYMLINKS) else { continue };
        // Something else may lie over it by now.
        if matches!(sys::statfs(&root), Ok((host::CGROUP2_MAGIC, _))) {
            return Ok(root);
        }
    }
    Err(missing())
}

/// This process's cgroup: the line `0::` of /proc/self/cgroup.
fn own_path() -> Result<Vec<u8>, Error> {
    let text = sys::open(At::Cwd, c"/proc/self/cgroup", libc::O_RDONLY, 0, 0)
        .and_then(|file| sys::read_all(&file, MAX_FILE_BYTES))
        .or_fail("resources.hierarchy", "/proc/self/cgroup")?;
    parse_own_path(&text).ok_or_else(|| {
        Error::refused(
            "resources.hierarchy",
            "this process is in no cgroup of v2 that it can see",
            V2,
        )
    })
}

fn parse_own_path(text: &[u8]) -> Option<Vec<u8>> {
    let path = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    // Outside of the cgroup namespace it begins with `/..`; a removed one is nobody's to stay in.
    let inside = path.starts_with(b"/") && !path.starts_with(b"/..");
    let usable = inside && path.len() <= MAX_PATH_BYTES && !path.ends_with(b" (deleted)");
    usable.then(|| path.to_vec())
}

fn relative(path: &[u8]) -> CString {
    match path.strip_prefix(b"/").unwrap_or(path) {
        b"" => c".".into(),
        rest => c_string(rest),
    }
}

/// Whether the list in `file` of a cgroup names `controller`.
fn lists(dir: &Fd, file: &CStr, controller: Controller) -> bool {
    let text = sys::open(At::Dir(dir), file, libc::O_RDONLY, 0, beneath())
        .and_then(|file| sys::read_all(&file, MAX_FILE_BYTES));
    text.is_ok_and(|text| {
        text.split(|byte| byte.is_ascii_whitespace())
            .any(|word| word == controller.name().as_bytes())
    })
}

fn not_delegated(own: &[u8], more: &str) -> Error {
    let own = String::from_utf8_lossy(own);
    let why = format!("no cgroup above this process's ({own}) was delegated to you{more}");
    Error::refused("resources.delegation", why, SCOPE)
}

fn leaf_failed(what: &str, error: sys::Errno) -> Error {
    Error::failed("resources.leaf", format!("the container's cgroup: {what}: {error}"), SCOPE)
}

/// What the clone into the leaf says when the kernel refuses it.
pub fn join_refused(error: sys::Errno) -> Error {
    leaf_failed("joining it", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_v2_is_found() {
        let path = |text: &[u8]| parse_own_path(text);
        assert_eq!(path(b"4:memory:/x\n0::/a/b c\n").unwrap(), b"/a/b c");
        assert_eq!(path(b"0::/\n").unwrap(), b"/");
        for text in
            [&b""[..], b"1:name=systemd:/a\n", b"0::/../x\n", b"0::\n", b"0::/a (deleted)\n"]
        {
            assert_eq!(path(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_path_is_taken_below_the_root() {
        assert_eq!(relative(b"").to_bytes(), b".");
        assert_eq!(relative(b"/a/b").to_bytes(), b"a/b");
    }

    #[test]
    fn the_name_is_no_unit_of_systemds() {
        let id = Id::parse(b"x.service").unwrap();
        assert_eq!(leaf_name(&id).to_bytes(), b"locald-x.service.leaf");
    }
}
