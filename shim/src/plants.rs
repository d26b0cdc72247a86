//! What a careless shim would do: planted faults for rules that no single check carries.
//!
//! Test builds only (`--cfg locald_mutants`). Each is called where the fault would stand, and does
//! nothing unless its rule is switched off; tests/shim shows that the rule's case then turns red.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::CStr;

use crate::bundle::{Bundle, Sources, c_string};
use crate::plan::Plan;
use crate::rules::{Rule, active};
use crate::sys::{self, At, Fd};

/// Rule 2: the caller's environment goes on to the payload.
pub fn pass_environment(mut plan: Plan) -> Plan {
    if !active(Rule::EmptyEnvironment) {
        let text = sys::open(At::Cwd, c"/proc/self/environ", libc::O_RDONLY, 0, 0)
            .and_then(|file| sys::read_all(&file, 1 << 16))
            .unwrap_or_default();
        let entries = text.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
        plan.process.env.extend(entries.map(|entry| CString::new(entry).unwrap_or_default()));
    }
    plan
}

/// Rule 14: what is used is not what was looked at.
pub fn read_again(bundle: &Bundle, text: Vec<u8>) -> Vec<u8> {
    if active(Rule::ConfigReadOnce) {
        return text;
    }
    bundle.read_config().unwrap_or(text)
}

/// Rule 15: the root file system is opened by its name a second time.
pub fn open_again(bundle: &Bundle, plan: &Plan, sources: Sources) -> Sources {
    if active(Rule::RootOpenedOnce) {
        return sources;
    }
    bundle.open_sources(plan).unwrap_or(sources)
}

/// Rule 16: a mount target is resolved by its name, wherever that leads.
pub fn resolve_by_name(root: &Fd, path: &CStr) -> Option<Fd> {
    if active(Rule::TargetsResolvedInside) {
        return None;
    }
    let name = path.to_bytes().strip_prefix(b"/").unwrap_or_default();
    sys::open(At::Dir(root), &c_string(name), libc::O_PATH, 0, 0).ok()
}

/// Rule 36: what is mounted below a bind shows outside.
pub fn share(bind: &Fd) {
    if !active(Rule::Propagation) {
        let _ = sys::change_mount(bind, 0, libc::MS_SHARED);
    }
}

/// Rules 7 and 38: a descriptor of ours, or of the shim's own file, is alive in the payload.
pub fn leave_descriptors() {
    for (rule, path) in [(Rule::NoHostDescriptors, c"/"), (Rule::NoShimInside, c"/proc/self/exe")] {
        if !active(rule) {
            if let Ok(left) = sys::open(At::Cwd, path, libc::O_PATH, 0, 0) {
                let _ = sys::keep_over_exec(left.leak());
            }
        }
    }
}

/// Rule 39: a table of the container's own is believed.
pub fn look_up_inside() {
    if !active(Rule::NoLookUps) {
        let _ = sys::open(At::Cwd, c"/etc/passwd", libc::O_RDONLY, 0, 0);
    }
}

/// Rule 45: the new socket shares its port with whoever wants that too.
pub fn share_port(socket: &Fd) {
    if !active(Rule::BindShare) {
        let _ = sys::set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT);
    }
}

/// Rule 49: a stream that is somebody else's gets another mode.
pub fn change_stream() {
    if !active(Rule::StreamsUntouched) {
        let stream = Fd::adopt(1);
        let _ = sys::change_mode(&stream, 0o666);
        stream.leak();
    }
}

/// Rule 53: what the mount of a bind's source forbids is lifted.
pub fn lift_flags(bind: &Fd) {
    if !active(Rule::SourceFlags) {
        let _ = sys::change_mount(bind, sys::RDONLY | sys::NOEXEC, 0);
    }
}

/// Rule 54: memory is taken without bound.
pub fn waste_memory() {
    if !active(Rule::Memory) {
        core::mem::forget(core::hint::black_box(alloc::vec![1_u8; 64 << 20]));
    }
}
