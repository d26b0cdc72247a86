//! The child's way from a copy of the shim to the container process.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;

use super::link::ChildEnd;
use super::root::{self, Mounts};
use super::terminal::Terminal;
use super::{capabilities, init, is_mapped, seccomp};
use crate::bundle::{c_string, shown};
use crate::caller::{self, Entry};
use crate::error::{Context, Error, Kind};
use crate::host::MountView;
use crate::plan::{Network, Plan, Process};
use crate::rules::{Rule, active};
use crate::sys::{self, Errno, Fd, Poll, Side};

/// Where programs are looked for when the environment has no PATH: design §3's six directories.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The namespaces that the child is made in; its user namespace comes last of all.
pub fn namespaces(plan: &Plan) -> i32 {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC;
    flags |= libc::CLONE_NEWUTS;
    if active(Rule::CgroupNamespace) {
        flags |= libc::CLONE_NEWCGROUP;
    }
    if plan.network == Network::New {
        flags |= libc::CLONE_NEWNET;
    }
    flags
}

/// Becomes the container, or reports why not.
pub fn run(
    entry: &Entry,
    plan: &Plan,
    mounts: Mounts,
    view: &MountView,
    terminal: Option<Terminal>,
    link: ChildEnd,
    parent: &Fd,
) -> ! {
    match become_container(entry, plan, mounts, view, &link, parent) {
        Ok(()) => {}
        Err(error) => {
            link.report(&error);
            sys::exit(125);
        }
    }
    if plan.process.init {
        init::split(&plan.process, link, |process, link| {
            become_payload(entry, process, terminal, link)
        });
    }
    become_payload(entry, &plan.process, terminal, link)
}

fn become_container(
    entry: &Entry,
    plan: &Plan,
    mounts: Mounts,
    view: &MountView,
    link: &ChildEnd,
    parent: &Fd,
) -> Result<(), Error> {
    // The supervisor's death ends us from now on; set again once the ids have changed, which clears it.
    die_with(parent)?;
    root::build(plan, mounts, view, entry)?;
    if let Some(name) = &plan.hostname {
        sys::set_host_name(name.to_bytes()).or_fail("host.kernel-call", "sethostname")?;
    }
    if plan.network == Network::New {
        sys::bring_loopback_up().or_fail("network.failed", "bringing lo up")?;
    }
    if is_mapped(plan) {
        // What follows has the capabilities of that namespace; the ids change once it has its maps.
        entry.become_keeper().or_fail("host.kernel-call", "setresuid")?;
        sys::unshare(libc::CLONE_NEWUSER).map_err(user_namespace_refused)?;
        if !link.ask_for_maps() {
            sys::exit(125);
        }
    }
    capabilities::drop_to(&plan.process)?;
    die_with(parent)?;
    if active(Rule::SessionKeyring) {
        match sys::new_session_keyring() {
            // A kernel without keyrings has none to share.
            Err(error) if error.0 != libc::ENOSYS => {
                return Err(error).or_fail("host.keyring", "a session keyring");
            }
            _ => {}
        }
    }
    sys::new_session().or_fail("host.kernel-call", "setsid")
}

/// Arranges for our end with the supervisor's, and checks that it did not come before.
fn die_with(parent: &Fd) -> Result<(), Error> {
    if !active(Rule::DieWithSupervisor) || !active(Rule::SupervisorUnsignalled) {
        return Ok(());
    }
    sys::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
        .or_fail("host.kernel-call", "PR_SET_PDEATHSIG")?;
    // getppid() is 0 in a new pid namespace whoever lives; the pidfd tells.
    if sys::poll(&mut [Poll::readable(parent.number())], Some(0)) != Ok(0) {
        sys::exit(125);
    }
    Ok(())
}

/// The last steps, in the process that becomes the payload: it is wholly unprivileged by now.
fn become_payload(
    entry: &Entry,
    process: &Process,
    terminal: Option<Terminal>,
    link: ChildEnd,
) -> ! {
    let terminal = terminal.map_or(Ok(()), Terminal::take);
    let link = link.keep_reports_only();
    let error = match terminal.and_then(|()| settle(entry, process)) {
        Err(error) => error,
        Ok(candidates) => {
            link.executing();
            execute(process, &candidates)
        }
    };
    link.report(&error);
    sys::exit(125)
}

/// Directory, limits, mask, signals and filter; gives what to execute.
fn settle(entry: &Entry, process: &Process) -> Result<Vec<CString>, Error> {
    sys::change_dir(&process.cwd).map_err(|error| {
        Error::failed(
            "process.cwd",
            format!("the working directory {}: {error}", shown(&process.cwd)),
            "let process.cwd name a directory of the root file system",
        )
    })?;
    // Outside of the root getcwd says "(unreachable)": a descriptor has led there (CVE-2024-21626).
    let inside = sys::current_dir().is_ok_and(|path| path.starts_with(b"/"));
    if !inside {
        let hint = "let process.cwd name a directory of the root file system";
        return Err(Error::refused("process.cwd", "the working directory is outside", hint));
    }
    caller::restore_limits(&entry.caller);
    for wanted in &process.rlimits {
        sys::limit(wanted.resource, Some((wanted.soft, wanted.hard)))
            .or_fail("process.rlimit", "setrlimit")?;
    }
    sys::set_umask(process.umask);
    let candidates = candidates(process);
    #[cfg(locald_mutants)]
    {
        crate::plants::leave_descriptors();
        crate::plants::look_up_inside();
    }
    sys::set_signal_mask(0).or_fail("host.kernel-call", "sigprocmask")?;
    seccomp::install()?;
    Ok(candidates)
}

/// The paths to try for the first argument, in the manner of execvp(3).
fn candidates(process: &Process) -> Vec<CString> {
    let Some(name) = process.args.first() else { return Vec::new() };
    if name.to_bytes().contains(&b'/') {
        return alloc::vec![name.clone()];
    }
    let path = process.env.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH).split(|&byte| byte == b':');
    // An empty or relative entry means the working directory; nobody wants that here.
    let absolute = directories.filter(|directory| directory.starts_with(b"/"));
    absolute.map(|directory| c_string([directory, b"/", name.to_bytes()].concat())).collect()
}

fn execute(process: &Process, candidates: &[CString]) -> Error {
    let mut worst = Errno(libc::ENOENT);
    for path in candidates {
        match sys::execute(path, &process.args, &process.env) {
            Errno(libc::ENOENT | libc::ENOTDIR) => {}
            error => worst = error,
        }
        // Anything but "not here", or "not for you", is about this very file.
        if !matches!(worst.0, libc::ENOENT | libc::EACCES) {
            break;
        }
    }
    let name = process.args.first().map_or(c"", |name| name.as_c_str());
    let (status, code, hint) = if worst.0 == libc::ENOENT {
        (127, "exec.not-found", "name a program of the image, or set PATH")
    } else {
        (126, "exec.not-executable", "name a file that may be executed")
    };
    let why = format!("{}: {worst}", shown(name)).into_bytes();
    Error { kind: Kind::Exec(status), code, why, hint }
}

fn user_namespace_refused(error: Errno) -> Error {
    let code = match error.0 {
        libc::ENOSPC | libc::EUSERS => "host.userns-limit",
        _ => "host.userns-denied",
    };
    Error::refused(
        code,
        format!("this host grants no user namespace: {error}"),
        "run in direct mode (without a user namespace)",
    )
}

/// How long a process may take that makes a namespace and ends, in milliseconds. The caller can stop it.
const TRIAL_MS: u64 = 5_000;

/// Tries, in a process that then ends, whether root may make a user namespace here.
///
/// # Errors
/// `host.userns-limit`, `host.userns-denied`; `setup.timeout` and `setup.killed` where there was no answer.
pub fn try_user_namespace() -> Result<(), Error> {
    match sys::clone_process(0).or_fail("host.kernel-call", "clone3")? {
        Side::Child => match sys::unshare(libc::CLONE_NEWUSER) {
            Ok(()) => sys::exit(0),
            Err(error) => sys::exit(error.0 as u8),
        },
        Side::Parent(_, child) => {
            match sys::wait_within(&child, TRIAL_MS).or_fail("host.kernel-call", "wait")? {
                Some(0) => Ok(()),
                // The caller can send it any signal; no error of unshare(2) has such a number.
                Some(128..) => {
                    let why = "the process that tries a user namespace was killed";
                    Err(Error::failed("setup.killed", why, "run again"))
                }
                Some(number) => Err(user_namespace_refused(Errno(i32::from(number)))),
                None => {
                    let _ = sys::pidfd_kill(&child, libc::SIGKILL);
                    let why = "the process that tries a user namespace did not end";
                    Err(Error::failed("setup.timeout", why, "see what has stopped it"))
                }
            }
        }
    }
}
