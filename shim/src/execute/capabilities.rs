//! From root to the container process: no_new_privs, groups, ids, capabilities, in that order.

use crate::error::{Context, Error};
use crate::plan::{Capabilities, Process};
use crate::rules::{Rule, active};
use crate::sys;

const CODE: &str = "credentials.failed";

/// Drops to what the plan says, for good. In the child, after its user namespace is made: making one
/// refills the bounding set.
///
/// # Errors
/// `credentials.failed`; the process must end then.
pub fn drop_to(process: &Process) -> Result<(), Error> {
    let wanted = &process.capabilities;
    if active(Rule::NoNewPrivileges) {
        sys::control(libc::PR_SET_NO_NEW_PRIVS, 1).or_fail(CODE, "no_new_privs")?;
    }
    if active(Rule::CapabilitySets) {
        drop_bounding(wanted.bounding)?;
    }
    if let Some(groups) = &process.groups {
        sys::set_groups(groups).or_fail(CODE, "setgroups")?;
    }
    // Ids first, with the permitted set kept, then exactly the sets of the plan: also where none is
    // wanted, because until we are undumpable only the capabilities keep the caller from tracing us.
    sys::control(libc::PR_SET_KEEPCAPS, 1).or_fail(CODE, "keepcaps")?;
    let (uid, gid) = (process.uid, process.gid);
    sys::set_group_ids(gid, gid, gid).or_fail(CODE, "setresgid")?;
    sys::set_user_ids(uid, uid, uid).or_fail(CODE, "setresuid")?;
    // The change of ids has made it what fs.suid_dumpable says, 1 perhaps.
    if active(Rule::NotDumpable) {
        sys::control(libc::PR_SET_DUMPABLE, 0).or_fail(CODE, "dumpable")?;
    }
    if active(Rule::CapabilitySets) {
        set_sets(wanted)?;
    }
    Ok(())
}

fn drop_bounding(keep: u64) -> Result<(), Error> {
    for capability in 0..64 {
        if keep & 1 << capability == 0 {
            match sys::control(libc::PR_CAPBSET_DROP, capability) {
                Ok(_) => {}
                // Beyond the last capability that this kernel knows.
                Err(error) if error.0 == libc::EINVAL => break,
                Err(error) => return Err(error).or_fail(CODE, "bounding set"),
            }
        }
    }
    Ok(())
}

fn set_sets(wanted: &Capabilities) -> Result<(), Error> {
    sys::set_capabilities(wanted.effective, wanted.permitted, wanted.inheritable)
        .or_fail(CODE, "capset")?;
    for capability in 0..64 {
        if wanted.ambient & 1 << capability != 0 {
            sys::raise_ambient(capability).or_fail(CODE, "ambient set")?;
        }
    }
    Ok(())
}
