//! Opens the caller's files with the caller's ids, once; from then on only descriptors count.
//!
//! Attacks 10 to 16, 21 and 24 of the security manual: whatever the caller exchanges afterwards, the
//! shim holds the objects it looked at.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;

use crate::caller::Entry;
use crate::error::Error;
use crate::plan::{Mount, Plan, Source};
use crate::rules::{Rule, active};
use crate::sys::{self, At, Errno, Fd};

/// Most bytes of a config.json (attack 12).
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// File systems that tell or rule the kernel: statfs(2) numbers of proc, sysfs, cgroup, cgroup2, nsfs,
/// debugfs, tracefs, securityfs, bpf, binderfs, configfs, selinuxfs, efivarfs, pstore and devpts.
const KERNEL_FILE_SYSTEMS: [i64; 15] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6e73_6673,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6c6f_6f70,
    0x6265_7265,
    0xf97c_ff8c,
    0xde5e_81e4,
    0x6165_676c,
    0x1cd1,
];

/// An open bundle.
pub struct Bundle {
    dir: Fd,
}

/// The caller's objects that a plan names, in its order.
pub struct Sources {
    /// The root file system, a directory.
    pub root: Fd,
    /// One for each mount of the plan; `None` where nothing of the caller's is mounted.
    pub binds: Vec<Option<Bind>>,
}

/// What a bind shows.
pub struct Bind {
    /// The object.
    pub object: Fd,
    /// A directory, or else a file.
    pub is_dir: bool,
}

impl Bundle {
    /// Opens the directory `path`. Call it as the caller.
    ///
    /// # Errors
    /// `bundle.open`.
    pub fn open(path: &CStr, entry: &Entry) -> Result<Self, Error> {
        let at = entry.cwd.as_ref().map_or(At::Cwd, At::Dir);
        if entry.cwd.is_none() && !path.to_bytes().starts_with(b"/") {
            return Err(Error::refused(
                "bundle.open",
                "the bundle's path is relative, and the working directory cannot be searched",
                "give an absolute path",
            ));
        }
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let dir = sys::open(at, path, flags, 0, magic()).map_err(|error| {
            let hint = "name a directory that you can reach, not through /proc";
            Error::refused("bundle.open", told("the bundle", path, error), hint)
        })?;
        Ok(Self { dir })
    }

    /// The text of config.json, read once. Call it as the caller.
    ///
    /// # Errors
    /// `bundle.config`.
    pub fn read_config(&self) -> Result<Vec<u8>, Error> {
        let refused = |why: String| {
            let hint = "write config.json as a regular file of at most 1 MiB";
            Error::refused("bundle.config", why, hint)
        };
        // O_NONBLOCK: neither a FIFO nor a lease makes the open wait.
        let wait = if active(Rule::BoundedWaits) { libc::O_NONBLOCK } else { 0 };
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | wait | libc::O_NOCTTY;
        let resolve = sys::BENEATH | sys::NO_SYMLINKS | magic();
        let name = c"config.json";
        let file = sys::open(At::Dir(&self.dir), name, flags, 0, resolve)
            .map_err(|error| refused(told("the file", name, error)))?;
        let status = sys::stat(file.number()).map_err(|error| refused(told("it", name, error)))?;
        if active(Rule::ConfigRegular) && status.kind() != libc::S_IFREG {
            return Err(refused("config.json is not a regular file".into()));
        }
        let limit = if active(Rule::ConfigSize) { MAX_CONFIG_BYTES } else { 8 * MAX_CONFIG_BYTES };
        let text =
            sys::read_all(&file, limit).map_err(|error| refused(told("the file", name, error)))?;
        if text.len() > limit {
            return Err(refused("config.json has more than 1 MiB".into()));
        }
        Ok(text)
    }

    /// Opens the root file system and every bind source of `plan`. Call it as the caller.
    ///
    /// # Errors
    /// `bundle.rootfs`, `mount.source`.
    pub fn open_sources(&self, plan: &Plan) -> Result<Sources, Error> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let path = &plan.root.path;
        let root = sys::open(At::Dir(&self.dir), path, flags, 0, magic()).map_err(|error| {
            let hint = "let root.path name a directory that you can reach";
            Error::refused("bundle.rootfs", told("root.path", path, error), hint)
        })?;
        check_file_system(&root, "bundle.rootfs", "root.path", path)?;
        let binds =
            plan.mounts.iter().map(|mount| self.open_bind(mount)).collect::<Result<_, _>>()?;
        Ok(Sources { root, binds })
    }

    fn open_bind(&self, mount: &Mount) -> Result<Option<Bind>, Error> {
        let Source::Bind(path) = &mount.source else { return Ok(None) };
        let hint = "name a file, directory or socket that you can reach, not through /proc";
        let object =
            sys::open(At::Dir(&self.dir), path, libc::O_PATH, 0, magic()).map_err(|error| {
                Error::refused("mount.source", told("the source", path, error), hint)
            })?;
        check_file_system(&object, "mount.source", "the source", path)?;
        let status = sys::stat(object.number()).map_err(|error| {
            Error::refused("mount.source", told("the source", path, error), hint)
        })?;
        match status.kind() {
            libc::S_IFDIR => Ok(Some(Bind { object, is_dir: true })),
            libc::S_IFREG | libc::S_IFSOCK => Ok(Some(Bind { object, is_dir: false })),
            _ => Err(Error::refused(
                "mount.source",
                format!("the source {} is a device or a pipe", shown(path)),
                hint,
            )),
        }
    }
}

/// proc, sysfs, cgroup and their like come from the shim alone (attack 24).
fn check_file_system(
    object: &Fd,
    code: &'static str,
    what: &str,
    path: &CStr,
) -> Result<(), Error> {
    let hint = "remove it: /proc and /sys are the container's own";
    match sys::statfs(object) {
        Ok((kind, _)) if active(Rule::BindFileSystem) && KERNEL_FILE_SYSTEMS.contains(&kind) => {
            let why = format!("{what} {} lies on a file system of the kernel", shown(path));
            Err(Error::refused(code, why, hint))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Error::refused(code, told(what, path, error), hint)),
    }
}

fn magic() -> u64 {
    if active(Rule::BundleMagicLinks) { sys::NO_MAGICLINKS } else { 0 }
}

/// A path as a message shows it: it came from the caller, so it tells him nothing new.
pub fn shown(path: &CStr) -> String {
    String::from_utf8_lossy(path.to_bytes()).into_owned()
}

fn told(what: &str, path: &CStr, error: Errno) -> String {
    format!("{what} {}: {error}", shown(path))
}

/// The C string `text`, which a plan has found to be without NUL.
pub fn c_string(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).unwrap_or_default()
}
