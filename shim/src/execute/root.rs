//! The container's root: detached mounts made by root, attached on targets that the caller resolves.
//!
//! The caller may exchange any name in his root file system at any instant. Nothing here trusts one:
//! a target is a descriptor, resolved inside the clone without following a link, with the caller's ids
//! (attack 16); what root itself fills (/dev) is a tmpfs that nobody else can reach yet.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;
use core::ffi::CStr;

use super::terminal::Terminal;
use crate::bundle::{Sources, c_string, shown};
use crate::caller::Entry;
use crate::error::{Context, Error};
use crate::host::MountView;
use crate::plan::{IdRange, Mode, Mount, Network, Plan, Source};
use crate::policy::{MASKED_PATHS, READONLY_PATHS};
use crate::rules::{Rule, active};
use crate::sys::{self, At, Fd, Parameter};

const CODE: &str = "mount.failed";
/// nosuid and nodev: on everything that comes from the caller.
const CALLERS: u64 = sys::NOSUID | sys::NODEV;
/// On what only holds data.
const DATA: u64 = CALLERS | sys::NOEXEC;
/// Name and minor number of the nodes with major number 1, which every program may expect.
const MEMORY_NODES: [(&CStr, u32); 5] =
    [(c"null", 3), (c"zero", 5), (c"full", 7), (c"random", 8), (c"urandom", 9)];
const LINKS: [(&CStr, &CStr); 6] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
    (c"core", c"/proc/kcore"),
];

/// The first terminal of a new devpts.
const FIRST_TERMINAL: &CStr = c"0";

/// What the parent made ready, each in no namespace yet.
pub struct Mounts {
    root: Fd,
    /// One for each mount of the plan that is a bind.
    binds: Vec<Option<(Fd, bool)>>,
    /// The container's devpts, if it has a terminal.
    pts: Option<Fd>,
    terminal: Option<Terminal>,
}

impl Mounts {
    /// Hands out the terminal, if the plan has one.
    pub fn take_terminal(&mut self) -> Option<Terminal> {
        self.terminal.take()
    }
}

/// Makes missing mount targets where the root is about to become read-only. Call it as the caller.
///
/// # Errors
/// `mount.target`.
pub fn make_targets_early(plan: &Plan, sources: &Sources) -> Result<(), Error> {
    if !plan.root.readonly {
        return Ok(());
    }
    let before = sys::set_umask(0o022);
    let made = (|| {
        for fixed in [c"/proc", c"/sys", c"/dev"] {
            resolve_target(&sources.root, fixed, true)?;
        }
        for (mount, bind) in plan.mounts.iter().zip(&sources.binds) {
            let is_dir = bind.as_ref().is_none_or(|bind| bind.is_dir);
            resolve_target(&sources.root, &mount.destination, is_dir)?;
        }
        Ok(())
    })();
    sys::set_umask(before);
    made
}

/// Clones what the caller gave and makes the terminal's file system. Call it as root, in the parent:
/// a descriptor from another mount namespace cannot be cloned.
///
/// # Errors
/// `mount.failed`, `mount.unbindable`, `terminal.failed`.
pub fn prepare(
    plan: &Plan,
    sources: Sources,
    view: &MountView,
    entry: &Entry,
) -> Result<Mounts, Error> {
    refuse_unbindable(view, &sources.root)?;
    let root = clone(&sources.root, view, plan.root.readonly, false)?;
    let mut binds = Vec::with_capacity(plan.mounts.len());
    for (mount, bind) in plan.mounts.iter().zip(sources.binds) {
        binds.push(match bind {
            None => None,
            Some(bind) => {
                refuse_unbindable(view, &bind.object)?;
                let tree = clone(&bind.object, view, mount.readonly, mount.noexec)?;
                #[cfg(locald_mutants)]
                {
                    crate::plants::lift_flags(&tree);
                    crate::plants::share(&tree);
                }
                Some((tree, bind.is_dir))
            }
        });
    }
    let mut mounts = Mounts { root, binds, pts: None, terminal: None };
    if let Some(size) = plan.process.terminal {
        let pts = make_pts(plan, entry)?;
        mounts.terminal = Some(Terminal::open(&pts, size, entry)?);
        mounts.pts = Some(pts);
    }
    Ok(mounts)
}

/// A detached, private, nosuid and nodev copy of what the caller opened, with all below it.
fn clone(object: &Fd, view: &MountView, readonly: bool, noexec: bool) -> Result<Fd, Error> {
    // Recursive: without its submounts, what they hide would come to light (attack 22).
    let tree = sys::clone_mount(object, active(Rule::BindRecursive));
    if tree.as_ref().is_err_and(|error| error.0 == libc::EINVAL) {
        explain_unbindable(view, object)?;
    }
    let tree = tree.or_fail(CODE, "open_tree")?;
    let mut attributes = CALLERS;
    if readonly {
        attributes |= sys::RDONLY;
    }
    if noexec {
        attributes |= sys::NOEXEC;
    }
    // Attributes are set, never cleared: what the source's mount forbids stays forbidden (attack 53).
    sys::restrict_mount(&tree, attributes, true).or_fail(CODE, "mount_setattr")?;
    Ok(tree)
}

/// A recursive clone leaves unbindable mounts out, and so would uncover what they hide.
fn refuse_unbindable(view: &MountView, object: &Fd) -> Result<(), Error> {
    if view.unbindable.is_empty() || !active(Rule::BindRecursive) {
        return Ok(());
    }
    let path = path_of(object)?;
    match view.unbindable.iter().find(|mount| is_within(mount, &path)) {
        None => Ok(()),
        Some(mount) => Err(Error::refused(
            "mount.unbindable",
            format!("{} is an unbindable mount", shown(&c_string(mount.as_slice()))),
            "bind a directory that does not hold it",
        )),
    }
}

/// Says which unbindable mount `object` lies in, where that is why the kernel will not clone it.
fn explain_unbindable(view: &MountView, object: &Fd) -> Result<(), Error> {
    let path = path_of(object)?;
    let holders = view.unbindable.iter().filter(|mount| is_within(&path, mount));
    match holders.max_by_key(|mount| mount.len()) {
        None => Ok(()),
        Some(mount) => Err(Error::failed(
            "mount.unbindable",
            format!(
                "{} lies in {}, an unbindable mount",
                shown(&c_string(path.clone())),
                shown(&c_string(mount.as_slice()))
            ),
            "keep it elsewhere, or let root call `mount --make-private` on that mount",
        )),
    }
}

fn path_of(object: &Fd) -> Result<Vec<u8>, Error> {
    let link = c_string(format!("/proc/self/fd/{}", object.number()));
    sys::read_link(At::Cwd, &link).or_fail(CODE, "/proc/self/fd")
}

/// Whether `path` is `place` or below it; both are absolute and without a slash at the end.
fn is_within(path: &[u8], place: &[u8]) -> bool {
    place == b"/" || path.strip_prefix(place).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

/// Builds the root of this new mount namespace and moves into it. Call it as root, in the child.
///
/// # Errors
/// `mount.failed`, `mount.target`.
pub fn build(plan: &Plan, mounts: Mounts, view: &MountView, entry: &Entry) -> Result<(), Error> {
    sys::set_umask(0o022);
    sys::make_all_private().or_fail(CODE, "private propagation")?;
    let root = &mounts.root;
    sys::attach_over_root(root).or_fail(CODE, "attaching the root")?;

    let proc = make_proc(view)?;
    if plan.network == Network::New {
        set_network_parameters(&proc);
    }
    let sys_fs = make_sys(view)?;
    let dev = make_dev(plan, entry, mounts.pts)?;
    let null =
        sys::open(At::Dir(&dev.tmpfs), c"null", libc::O_PATH, 0, 0).or_fail(CODE, "/dev/null")?;
    let targets = as_caller(entry, || {
        let target = |path| resolve_target(root, path, true);
        Ok([target(c"/proc")?, target(c"/sys")?, target(c"/dev")?])
    })?;
    for (mount, target) in [&proc, &sys_fs, &dev.tmpfs].into_iter().zip(&targets) {
        sys::attach(mount, target).or_fail(CODE, "attaching /proc, /sys or /dev")?;
    }
    dev.attach()?;
    let owner = root_owner(plan, entry);
    for (mount, bind) in plan.mounts.iter().zip(mounts.binds) {
        attach_mount(root, mount, bind, owner, entry)?;
    }
    mask(&proc, &sys_fs, &null, view)?;

    sys::change_dir_to(root).or_fail(CODE, "entering the root")?;
    sys::pivot_here().or_fail(CODE, "pivot_root")?;
    sys::change_dir(c"/").or_fail(CODE, "entering the root")?;
    sys::set_umask(0o077);
    Ok(())
}

fn attach_mount(
    root: &Fd,
    mount: &Mount,
    bind: Option<(Fd, bool)>,
    owner: (u32, u32),
    entry: &Entry,
) -> Result<(), Error> {
    let (tree, is_dir) = match (bind, &mount.source) {
        (Some(bind), _) => bind,
        (None, Source::Tmpfs { size_bytes, inodes, mode }) => {
            let mut attributes = CALLERS;
            if mount.readonly {
                attributes |= sys::RDONLY;
            }
            if mount.noexec {
                attributes |= sys::NOEXEC;
            }
            (make_tmpfs(*size_bytes, *inodes, *mode, owner, attributes)?, true)
        }
        (None, Source::Bind(_)) => {
            return Err(Error::failed("internal", "a bind without its source", "report this"));
        }
    };
    let target = as_caller(entry, || resolve_target(root, &mount.destination, is_dir))?;
    sys::attach(&tree, &target).or_fail(CODE, &format!("attaching {}", shown(&mount.destination)))
}

/// Runs `step` on the caller's file system, with his ids, and with our end when the supervisor ends:
/// the change of ids has cleared that, and a file system of his (FUSE) may never answer.
fn as_caller<T>(entry: &Entry, step: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    entry.act(|| {
        if active(Rule::DieWithSupervisor) {
            sys::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
                .or_fail("host.kernel-call", "PR_SET_PDEATHSIG")?;
        }
        step()
    })
}

/// Opens the mount target `path`, making what is missing of it. Call it as the caller, umask 022.
fn resolve_target(root: &Fd, path: &CStr, is_dir: bool) -> Result<Fd, Error> {
    let refused = |error: sys::Errno| {
        Error::refused(
            "mount.target",
            format!("the mount target {}: {error}", shown(path)),
            "let the root file system hold that directory or file, without a link on the way",
        )
    };
    #[cfg(locald_mutants)]
    if let Some(target) = crate::plants::resolve_by_name(root, path) {
        return Ok(target);
    }
    let resolve = if active(Rule::MountResolve) {
        sys::IN_ROOT | sys::NO_MAGICLINKS | sys::NO_SYMLINKS
    } else {
        sys::IN_ROOT
    };
    let open = |path: &CStr| sys::open(At::Dir(root), path, libc::O_PATH, 0, resolve);
    match open(path) {
        Err(error) if error.0 == libc::ENOENT => {}
        other => return other.map_err(refused),
    }
    let components = path.to_bytes().split(|&byte| byte == b'/').filter(|part| !part.is_empty());
    let components: Vec<CString> = components.map(c_string).collect();
    let mut at = open(c"/").map_err(refused)?;
    for (index, name) in components.iter().enumerate() {
        let last = index + 1 == components.len();
        let made = if is_dir || !last {
            sys::make_dir(At::Dir(&at), name, 0o755)
        } else {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
            sys::open(At::Dir(&at), name, flags, 0o644, sys::BENEATH | sys::NO_SYMLINKS).map(drop)
        };
        match made {
            Err(error) if error.0 != libc::EEXIST => return Err(refused(error)),
            _ => {}
        }
        let resolve = resolve & !sys::IN_ROOT | sys::BENEATH;
        at = sys::open(At::Dir(&at), name, libc::O_PATH, 0, resolve).map_err(refused)?;
    }
    Ok(at)
}

/// The host ids that own what root makes for the container: its root, where that is an id at all.
fn root_owner(plan: &Plan, entry: &Entry) -> (u32, u32) {
    let (uid, gid) = (entry.caller.uid, entry.caller.gid);
    match &plan.mode {
        Mode::Direct => (uid, gid),
        Mode::Mapped { uids, gids, .. } => {
            (on_host(uids, 0).unwrap_or(uid), on_host(gids, 0).unwrap_or(gid))
        }
    }
}

fn on_host(map: &[IdRange], inside: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.count).then(|| range.outside + offset)
    })
}

fn make_tmpfs(
    size_bytes: u64,
    inodes: u64,
    mode: u32,
    (uid, gid): (u32, u32),
    attributes: u64,
) -> Result<Fd, Error> {
    let size = c_string(format!("{size_bytes}"));
    let inodes = c_string(format!("{inodes}"));
    let mode = c_string(format!("{mode:o}"));
    let (uid, gid) = (c_string(format!("{uid}")), c_string(format!("{gid}")));
    let parameters = [
        Parameter::Text(c"size", &size),
        Parameter::Text(c"nr_inodes", &inodes),
        Parameter::Text(c"mode", &mode),
        Parameter::Text(c"uid", &uid),
        Parameter::Text(c"gid", &gid),
    ];
    sys::new_mount(c"tmpfs", &parameters, attributes).or_fail(CODE, "tmpfs")
}

fn make_proc(view: &MountView) -> Result<Fd, Error> {
    let readonly = if view.proc_readonly { sys::RDONLY } else { 0 };
    sys::new_mount(c"proc", &[], DATA | readonly).or_fail(CODE, "proc")
}

/// A read-only sysfs of the container's network namespace; an empty directory where the host itself
/// shows no sysfs, since the container may not see more.
fn make_sys(view: &MountView) -> Result<Fd, Error> {
    if view.has_sys || !active(Rule::OverMounts) {
        return sys::new_mount(c"sysfs", &[], DATA | sys::RDONLY).or_fail(CODE, "sysfs");
    }
    make_tmpfs(4096, 8, 0o555, (0, 0), DATA | sys::RDONLY)
}

fn make_pts(plan: &Plan, entry: &Entry) -> Result<Fd, Error> {
    let mut parameters = alloc::vec![
        Parameter::Flag(c"newinstance"),
        Parameter::Text(c"ptmxmode", c"0666"),
        Parameter::Text(c"mode", c"0620"),
    ];
    // The process owns its terminal; group 5 is `tty` wherever Linux distributions number it.
    let (uid, gid) = match &plan.mode {
        Mode::Direct => (Some(entry.caller.uid), Some(entry.caller.gid)),
        Mode::Mapped { uids, gids, .. } => (on_host(uids, plan.process.uid), on_host(gids, 5)),
    };
    let (uid, gid) =
        (uid.map(|id| c_string(format!("{id}"))), gid.map(|id| c_string(format!("{id}"))));
    if let Some(uid) = plan.process.terminal.and(uid.as_deref()) {
        parameters.push(Parameter::Text(c"uid", uid));
    }
    if let Some(gid) = gid.as_deref() {
        parameters.push(Parameter::Text(c"gid", gid));
    }
    sys::new_mount(c"devpts", &parameters, sys::NOSUID | sys::NOEXEC).or_fail(CODE, "devpts")
}

/// The container's /dev and what is mounted in it.
struct Dev {
    tmpfs: Fd,
    inner: [(&'static CStr, Fd); 3],
    /// Whether the first terminal is the console too.
    console: bool,
}

/// Fills a /dev that only we can reach. Not nodev: its nodes are the six that every user may open.
fn make_dev(plan: &Plan, entry: &Entry, pts: Option<Fd>) -> Result<Dev, Error> {
    let owner = match plan.mode {
        // The caller himself gets nothing to write here: root's it stays.
        Mode::Direct => (0, 0),
        Mode::Mapped { .. } => root_owner(plan, entry),
    };
    let tmpfs = make_tmpfs(64 << 10, 1024, 0o755, owner, sys::NOSUID | sys::NOEXEC)?;
    let at = At::Dir(&tmpfs);
    sys::set_umask(0);
    for (name, minor) in MEMORY_NODES {
        sys::make_char_device(at, name, 0o666, 1, minor).or_fail(CODE, "a node in /dev")?;
    }
    sys::make_char_device(at, c"tty", 0o666, 5, 0).or_fail(CODE, "/dev/tty")?;
    sys::set_umask(0o022);
    for (name, target) in LINKS {
        sys::make_symlink(target, at, name).or_fail(CODE, "a link in /dev")?;
    }
    for name in [c"pts", c"shm", c"mqueue"] {
        sys::make_dir(at, name, 0o755).or_fail(CODE, "a directory in /dev")?;
    }
    let console = pts.is_some();
    let pts = match pts {
        Some(pts) => pts,
        None => make_pts(plan, entry)?,
    };
    if console {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        sys::open(at, c"console", flags, 0o620, 0).or_fail(CODE, "/dev/console")?;
    }
    let shm = make_tmpfs(64 << 20, 65_536, 0o1777, root_owner(plan, entry), DATA)?;
    let mqueue = sys::new_mount(c"mqueue", &[], DATA).or_fail(CODE, "mqueue")?;
    Ok(Dev { tmpfs, inner: [(c"pts", pts), (c"shm", shm), (c"mqueue", mqueue)], console })
}

impl Dev {
    /// Attaches what belongs into /dev, once /dev itself is attached.
    fn attach(self) -> Result<(), Error> {
        for (name, mount) in &self.inner {
            self.attach_at(name, mount)?;
        }
        if self.console {
            // Now, not before: until Linux 6.15 only an attached mount can be cloned.
            let (_, pts) = &self.inner[0];
            let node = sys::open(At::Dir(pts), FIRST_TERMINAL, libc::O_PATH, 0, sys::BENEATH)
                .and_then(|node| sys::clone_mount(&node, false))
                .or_fail(CODE, "the terminal's node")?;
            self.attach_at(c"console", &node)?;
        }
        Ok(())
    }

    fn attach_at(&self, name: &CStr, mount: &Fd) -> Result<(), Error> {
        sys::open(At::Dir(&self.tmpfs), name, libc::O_PATH, 0, sys::BENEATH)
            .and_then(|target| sys::attach(mount, &target))
            .or_fail(CODE, "attaching in /dev")
    }
}

/// In a network namespace of the container's own, its processes may use low ports and ping: it
/// belongs to the initial user namespace, so no capability of theirs would let them.
fn set_network_parameters(proc: &Fd) {
    let write = |path: &CStr, value: &[u8]| {
        if let Ok(file) = sys::open(At::Dir(proc), path, libc::O_WRONLY, 0, sys::BENEATH) {
            let _ = sys::write(file.number(), value);
        }
    };
    // Absent where the kernel is built without it; then nothing is lost but the convenience.
    write(c"sys/net/ipv4/ip_unprivileged_port_start", b"0");
    write(c"sys/net/ipv4/ping_group_range", b"0 2147483647");
}

/// Hides what is not for a container: a constant list, and whatever the host hides itself.
fn mask(proc: &Fd, sys_fs: &Fd, null: &Fd, view: &MountView) -> Result<(), Error> {
    let place = |path: &[u8]| match path.strip_prefix(b"/proc/") {
        Some(rest) => (proc, c_string(rest)),
        None => (sys_fs, c_string(path.strip_prefix(b"/sys/").unwrap_or(path))),
    };
    let find = |(mount, path): (&Fd, CString)| {
        let resolve = sys::BENEATH | sys::NO_MAGICLINKS | sys::NO_SYMLINKS;
        match sys::open(At::Dir(mount), &path, libc::O_PATH, 0, resolve) {
            Ok(target) => Ok(Some(target)),
            // What is not there needs no mask.
            Err(error) if matches!(error.0, libc::ENOENT | libc::ENOTDIR) => Ok(None),
            Err(error) => Err(error).or_fail(CODE, "finding what to mask"),
        }
    };
    if active(Rule::PathMasks) {
        for path in READONLY_PATHS {
            let Some(target) = find(place(path.as_bytes()))? else { continue };
            let copy = sys::clone_mount(&target, false).or_fail(CODE, path)?;
            sys::restrict_mount(&copy, DATA | sys::RDONLY, false).or_fail(CODE, path)?;
            sys::attach(&copy, &target).or_fail(CODE, path)?;
        }
    }
    let constant = MASKED_PATHS.iter().filter(|_| active(Rule::PathMasks));
    let covered = view.covered.iter().filter(|_| active(Rule::OverMounts));
    let mut empty: Option<Fd> = None;
    // Bytes: a network interface, for one, may have a name that is not UTF-8, and a place below /proc/sys.
    let covered = covered.map(|path| path.to_bytes());
    for bytes in constant.map(|path| path.as_bytes()).chain(covered) {
        let Some(target) = find(place(bytes))? else { continue };
        let path = core::str::from_utf8(bytes).unwrap_or("a path that is not UTF-8");
        let is_dir = sys::stat(target.number()).is_ok_and(|status| status.kind() == libc::S_IFDIR);
        let cover = match &empty {
            _ if !is_dir => sys::clone_mount(null, false).or_fail(CODE, path)?,
            Some(attached) => sys::clone_mount(attached, false).or_fail(CODE, path)?,
            None => make_tmpfs(4096, 2, 0o555, (0, 0), DATA | sys::RDONLY)?,
        };
        sys::attach(&cover, &target).or_fail(CODE, path)?;
        // The others are copies of the first: until Linux 6.15 only an attached mount can be cloned.
        if is_dir && empty.is_none() {
            empty = Some(cover);
        }
    }
    Ok(())
}
