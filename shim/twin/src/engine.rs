//! libcontainer at work, and the wait for the container's end.

use std::env;
use std::ffi::CString;
use std::process;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use locald_shim::caller::{self, Entry, FORWARDED};
use locald_shim::error::{Context, Error};
use locald_shim::plan::Plan;
use locald_shim::status::StatusFd;
use locald_shim::sys::{self, Errno, Fd, Poll};

use crate::place::{Mounts, PLACE};
use crate::spec;

const CODE: &str = "twin.libcontainer";
const NOT_FOUND: i32 = 2;

/// Runs the container of `plan` to its end; its exit status, 0 to 255.
pub fn run(
    entry: &Entry,
    plan: &Plan,
    mounts: Mounts,
    id: &str,
    status: &StatusFd,
) -> Result<u8, Error> {
    sys::set_umask(0o022);
    mounts.put_in_place(&spec::render(plan).to_string())?;
    // SAFETY: no other thread is there that could read the environment meanwhile.
    unsafe { env::set_var("PATH", format!("{PLACE}/bin")) };
    // libcontainer asks for the effective id; the saved one is what lets the caller signal this process.
    sys::set_group_ids(0, 0, 0)
        .and_then(|()| sys::set_user_ids(0, 0, entry.caller.uid))
        .or_fail(CODE, "setresuid")?;
    caller::restore_limits(&entry.caller);
    for wanted in &plan.process.rlimits {
        sys::limit(wanted.resource, Some((wanted.soft, wanted.hard))).or_fail(CODE, "setrlimit")?;
    }
    let signals = sys::signal_fd(FORWARDED).or_fail(CODE, "signalfd")?;
    let payload = Payload { args: plan.process.args.clone(), env: plan.process.env.clone() };
    let mut container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(payload)
        .with_root_path(format!("{PLACE}/state"))
        .map_err(failed)?
        .as_init(format!("{PLACE}/bundle"))
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(failed)?;
    let pid = container.pid().map_or(0, |pid| pid.as_raw());
    let child = sys::pidfd(pid).or_fail(CODE, "pidfd_open")?;
    container.start().map_err(failed)?;
    status.started(entry, pid);
    let ended = supervise(&child, &signals)?;
    container.delete(true).map_err(failed)?;
    status.exited(entry, ended);
    Ok(ended)
}

/// Passes signals on until the payload has ended.
fn supervise(child: &Fd, signals: &Fd) -> Result<u8, Error> {
    loop {
        let mut wait = [Poll::readable(child.number()), Poll::readable(signals.number())];
        sys::poll(&mut wait, None).or_fail(CODE, "poll")?;
        while let Some(signal) = sys::next_signal(signals) {
            let _ = sys::pidfd_kill(child, signal);
        }
        if wait[0].ready() {
            return sys::wait_for(child).or_fail(CODE, "wait");
        }
    }
}

fn failed(error: impl std::fmt::Debug) -> Error {
    // Its own text says the last step only; what was wrong is in the chain below.
    Error::failed(CODE, format!("{error:?}").replace('\n', " "), "run it by locald-shim")
}

/// The last step, in the container: the plan's own bytes, as the shim executes them.
#[derive(Clone)]
struct Payload {
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Executor for Payload {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        // libcontainer hands on what it was started with, and ignores SIGPIPE.
        sys::reset_signal_actions();
        let _ = sys::set_signal_mask(0);
        let Some(program) = self.args.first() else { return Err(ExecutorError::InvalidArg) };
        let error = sys::execute(program, &self.args, &self.env);
        eprintln!("locald-twin: {}: {error}", program.to_string_lossy());
        process::exit(if error == Errno(NOT_FOUND) { 127 } else { 126 })
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(
        &self,
        _: std::collections::HashMap<String, String>,
    ) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}
