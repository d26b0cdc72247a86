//! Where libcontainer works: a tree of root's in a mount namespace of the twin's own.
//!
//! libcontainer takes paths. Each that it is given here lies in a tmpfs of root's; what is mounted there was
//! opened with the caller's ids. Below the root file system the names are the caller's nevertheless.

use std::env;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;

use locald_shim::bundle::Sources;
use locald_shim::error::{Context, Error};
use locald_shim::plan::Plan;
use locald_shim::sys::{self, At, Fd, Parameter};

use crate::maps;

/// Covered by the tmpfs; made by root, where there is none yet.
pub const PLACE: &str = "/run/locald-twin";
const CODE: &str = "twin.place";

/// What was opened as the caller, as mounts that are in no namespace yet.
pub struct Mounts {
    root: Fd,
    binds: Vec<Option<(Fd, bool)>>,
}

impl Mounts {
    /// Copies them, before the mount namespace changes: later the kernel would refuse.
    pub fn copy(plan: &Plan, sources: Sources) -> Result<Self, Error> {
        let root = copy(&sources.root, plan.root.readonly, false)?;
        let binds = plan.mounts.iter().zip(sources.binds).map(|(mount, bind)| {
            bind.map(|bind| {
                copy(&bind.object, mount.readonly, mount.noexec).map(|tree| (tree, bind.is_dir))
            })
            .transpose()
        });
        Ok(Self { root, binds: binds.collect::<Result<_, _>>()? })
    }

    /// Enters a mount namespace of its own and puts them into the tree.
    pub fn put_in_place(self, config: &str) -> Result<(), Error> {
        sys::unshare(libc_newns()).or_fail(CODE, "a mount namespace")?;
        sys::make_all_private().or_fail(CODE, "private mounts")?;
        // It may be there from an earlier call.
        let _ = fs::create_dir(PLACE);
        // Root of the container passes through as the caller; he may look and change nothing.
        let mode = Parameter::Text(c"mode", c"0755");
        let tree = sys::new_mount(c"tmpfs", &[mode], 0).or_fail(CODE, "a tmpfs")?;
        attach(&tree, PLACE)?;
        for name in ["bundle", "bundle/rootfs", "binds", "state", "bin"] {
            make(fs::create_dir(format!("{PLACE}/{name}")), name)?;
        }
        make(fs::write(format!("{PLACE}/bundle/config.json"), config), "config.json")?;
        let own = env::current_exe();
        for name in maps::names() {
            let linked =
                own.as_ref().is_ok_and(|own| symlink(own, format!("{PLACE}/bin/{name}")).is_ok());
            make(linked.then_some(()).ok_or_else(std::io::Error::last_os_error), name)?;
        }
        attach(&self.root, &format!("{PLACE}/bundle/rootfs"))?;
        for (number, bind) in self.binds.into_iter().enumerate() {
            let Some((tree, is_dir)) = bind else { continue };
            let target = bind_path(number);
            make(if is_dir { fs::create_dir(&target) } else { fs::write(&target, "") }, &target)?;
            attach(&tree, &target)?;
        }
        Ok(())
    }
}

/// Where the bind of the plan's mount `number` is.
pub fn bind_path(number: usize) -> String {
    format!("{PLACE}/binds/{number}")
}

fn copy(object: &Fd, readonly: bool, noexec: bool) -> Result<Fd, Error> {
    let tree = sys::clone_mount(object, true).or_fail(CODE, "open_tree")?;
    let mut flags = sys::NOSUID | sys::NODEV;
    flags |= if readonly { sys::RDONLY } else { 0 };
    flags |= if noexec { sys::NOEXEC } else { 0 };
    sys::restrict_mount(&tree, flags, true).or_fail(CODE, "mount_setattr")?;
    Ok(tree)
}

fn attach(tree: &Fd, target: &str) -> Result<(), Error> {
    let path = CString::new(target).unwrap_or_default();
    // O_PATH: it names the directory and grants nothing.
    let flags = 0o10_000_000;
    let place = sys::open(At::Cwd, &path, flags, 0, 0).or_fail(CODE, "the target of a mount")?;
    sys::attach(tree, &place).or_fail(CODE, "move_mount")
}

fn make(done: std::io::Result<()>, name: &str) -> Result<(), Error> {
    let hint = "look at /run on this host";
    done.map_err(|error| Error::failed(CODE, format!("{name}: {error}"), hint))
}

/// CLONE_NEWNS of clone(2).
const fn libc_newns() -> i32 {
    0x0002_0000
}
