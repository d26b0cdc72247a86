//! Carries out a plan, in the order that the decision record on the engine gives reasons for.
//!
//! The parent stays in the host's namespaces, opens, clones and supervises; the child becomes the
//! container. What needs root happens between the clone and the drop of the child; what reads or makes
//! anything of the caller's happens with his ids.

mod capabilities;
mod child;
mod init;
mod link;
mod root;
mod seccomp;
mod supervise;
mod terminal;

use crate::bundle::{self, Bundle};
use crate::caller::{Entry, bounded};
use crate::cgroup::{self, Leaf, Unmade};
use crate::config::Config;
use crate::error::{Context, Error, Kind};
use crate::host;
use crate::plan::{Controller, Mode, Plan};
#[cfg(locald_mutants)]
use crate::plants;
use crate::policy;
use crate::policy_file;
use crate::reply::Object;
use crate::request::Id;
use crate::rules::{Rule, active};
use crate::state;
use crate::status::StatusFd;
use crate::sys::{self, Side};

use core::ffi::CStr;

/// Runs the container of `bundle` to its end; its exit status, 0 to 255.
///
/// # Errors
/// Every refusal and failure of the shim. Nothing is left behind then.
pub fn run(entry: &mut Entry, bundle: &CStr, id: &Id, status: &StatusFd) -> Result<u8, Error> {
    entry.require_privilege()?;
    host::require_single_link()?;
    let rules = host::permit(&entry.caller)?;
    status.require_suitable()?;
    require_kernel()?;

    // One limit, so one thread, for all that is opened: a second one would cost a run as much again.
    let (plan, sources, view) = bounded(status, || open(entry, bundle, &rules))?;

    // A container keeps neither its bundle's nor its caller's directory busy.
    entry.cwd = None;

    // From here on as root, the group included (saved too, so that it can be taken up again
    // without a capability): what root makes is not to bear the caller's group.
    sys::set_group_ids(sys::KEEP, 0, 0).or_fail("host.kernel-call", "setegid")?;
    let state = state::Directory::open(entry)?.add(id, rules.max_containers)?;
    let leaf = match make_leaf(entry, &plan, id, &state) {
        Ok(leaf) => leaf,
        Err(unmade) => {
            if unmade.gone {
                state.remove();
            }
            return Err(unmade.error);
        }
    };
    let result = start(entry, &plan, sources, &view, status, leaf.as_ref());
    // A leaf that stays is one that the caller put a process into, or that the kernel would not remove: his
    // next call will find it.
    if leaf.is_none_or(|leaf| leaf.remove(entry)) {
        state.remove();
    }
    // Last: whoever hears it may use the id again.
    result.inspect(|ended| status.exited(entry, *ended))
}

/// What a run needs of the caller's files, opened as he, and the plan that says what of them it needs.
///
/// # Errors
/// `bundle.*`, `config.*`, `mount.source`, and what policy and plan refuse.
fn open(
    entry: &mut Entry,
    bundle: &CStr,
    rules: &policy_file::Policy,
) -> Result<(Plan, bundle::Sources, host::MountView), Error> {
    let (bundle, text) = entry.act(|| {
        let bundle = Bundle::open(bundle, entry)?;
        let text = bundle.read_config()?;
        #[cfg(locald_mutants)]
        let text = plants::read_again(&bundle, text);
        Ok((bundle, text))
    })?;
    let plan = decide(entry, &text, rules)?;
    #[cfg(locald_mutants)]
    let plan = plants::pass_environment(plan);
    let view = host::mount_view()?;
    let open_sources = || {
        let sources = bundle.open_sources(&plan)?;
        #[cfg(locald_mutants)]
        let sources = plants::open_again(&bundle, &plan, sources);
        root::make_targets_early(&plan, &sources)?;
        Ok(sources)
    };
    let sources = if active(Rule::BindAsCaller) && active(Rule::NoOracle) {
        entry.act(open_sources)?
    } else {
        open_sources()?
    };
    Ok((plan, sources, view))
}

/// The plan of a config.json, as far as host and policy file let this caller have it.
///
/// # Errors
/// `config.*`, `policy.mode`, `host.*`, and what [`policy::make_plan`] refuses.
pub fn decide(entry: &mut Entry, text: &[u8], rules: &policy_file::Policy) -> Result<Plan, Error> {
    let config = Config::parse(text)?;
    if config.process.oom_score_adj.is_some() {
        entry.caller.oom_score_adj = host::oom_score();
    }
    let mapped = config.linux.namespaces.iter().any(|namespace| namespace.kind == b"user");
    rules.permits_mode(if mapped {
        policy_file::Mode::Mapped
    } else {
        policy_file::Mode::Direct
    })?;
    let grants = host::grants(&entry.caller, mapped)?;
    policy::make_plan(config, &entry.caller, &grants)
}

/// The container's own cgroup, if anything is limited; noted beforehand, so that it is found again
/// whatever becomes of this process.
fn make_leaf(
    entry: &Entry,
    plan: &Plan,
    id: &Id,
    state: &state::Entry,
) -> Result<Option<Leaf>, Unmade> {
    if plan.limits.is_empty() {
        return Ok(None);
    }
    let place = cgroup::Place::find(entry)?;
    place.make_leaf(entry, id, &plan.limits, |path| state.record(path)).map(Some)
}

fn start(
    entry: &Entry,
    plan: &Plan,
    sources: bundle::Sources,
    view: &host::MountView,
    status: &StatusFd,
    leaf: Option<&Leaf>,
) -> Result<u8, Error> {
    #[cfg(locald_mutants)]
    {
        plants::change_stream();
        plants::waste_memory();
    }
    let mut mounts = root::prepare(plan, sources, view, entry)?;
    let terminal = mounts.take_terminal();
    let (parent_end, child_end) = link::pair()?;
    let own = sys::pidfd(sys::own_pid()).or_fail("host.kernel-call", "pidfd_open")?;
    let tstp = sys::signal_set(&[libc::SIGTSTP]);
    let listen = |signals| sys::signal_fd(signals).or_fail("host.kernel-call", "signalfd");
    let (signals, stop) = (listen(crate::caller::FORWARDED & !tstp)?, listen(tstp)?);
    let keeper = match leaf {
        Some(_) if active(Rule::CgroupAsCaller) => entry.become_keeper_of_files(),
        _ => entry.become_keeper(),
    };
    keeper.or_fail("host.kernel-call", "setresuid")?;
    // A cgroup namespace that is made by the same call has the leaf, not our own cgroup, as its root.
    let sides = sys::clone_into(child::namespaces(plan), leaf.map(Leaf::descriptor));
    crate::caller::become_root_again(leaf.is_some());
    match sides {
        Ok(Side::Child) => {
            drop((parent_end, signals, stop));
            child::run(entry, plan, mounts, view, terminal, child_end, &own)
        }
        Ok(Side::Parent(pid, child)) => {
            drop((child_end, mounts));
            let container = supervise::Container { pid, child, signals, stop, terminal };
            supervise::run(entry, plan, container, parent_end, status)
        }
        Err(error) if leaf.is_some() => Err(cgroup::join_refused(error)),
        Err(error) => Err(error).or_fail("host.namespaces", "the container's namespaces"),
    }
}

/// mount_setattr(2) is the newest call that everything rests on.
fn require_kernel() -> Result<(), Error> {
    if sys::has_mount_setattr() {
        return Ok(());
    }
    Err(Error::refused(
        "host.kernel-old",
        "this kernel is older than 5.12",
        "boot a kernel of version 5.12 or newer",
    ))
}

/// The line that `check` prints: what this host allows, per mode, with reasons.
///
/// # Errors
/// Only if the kernel refuses what it never refuses.
pub fn check(entry: &Entry) -> Result<alloc::vec::Vec<u8>, Error> {
    let mode = |result: &Result<(), Error>| {
        let error = result.as_ref().err();
        Object::new()
            .boolean("allowed", error.is_none())
            .optional("code", error.map(|error| error.code))
            .optional("why", error.map(|error| error.why.as_slice()))
    };
    let able = entry.require_privilege().and_then(|()| host::require_single_link());
    let rules = able.clone().and_then(|()| host::permit(&entry.caller));
    let allowed = |mode| rules.as_ref().map_or(Ok(()), |rules| rules.permits_mode(mode));
    let ready = able.clone().and_then(|()| require_kernel());
    let direct = ready.clone().and_then(|()| allowed(policy_file::Mode::Direct));
    let mapped = ready
        .and_then(|()| allowed(policy_file::Mode::Mapped))
        .and_then(|()| child::try_user_namespace());
    let effective = rules.as_ref().map(policy_file::Policy::effective);
    let policy = rules.as_ref().map(drop).map_err(Error::clone);
    let grants = host::grants(&entry.caller, true);
    let count = |ranges: &[crate::subids::Range]| {
        ranges.iter().map(|range| u64::from(range.count)).sum::<u64>()
    };
    let (uids, gids) = grants.map_or((0, 0), |host| (count(&host.subuids), count(&host.subgids)));
    Ok(Object::new()
        .number("protocol", crate::PROTOCOL)
        .string("kernel", sys::kernel_release())
        .boolean("setuid", entry.privileged && entry.caller.uid != 0)
        .object(
            "modes",
            &Object::new().object("mapped", &mode(&mapped)).object("direct", &mode(&direct)),
        )
        .object("policy", &mode(&policy))
        .optional_object("effective", effective.ok().as_ref())
        .object("subids", &Object::new().number("uids", uids).number("gids", gids))
        .string("cgroup", host::cgroup_kind())
        .object("limits", &limits(entry, &able, &mode))
        .line())
}

/// What `check` says of each controller.
fn limits(
    entry: &Entry,
    able: &Result<(), Error>,
    mode: &impl Fn(&Result<(), Error>) -> Object,
) -> Object {
    let place = able.clone().and_then(|()| cgroup::Place::find(entry));
    Controller::ALL.into_iter().fold(Object::new(), |object, controller| {
        let found = match &place {
            Ok(place) => entry.act(|| place.require(controller)),
            Err(error) => Err(error.clone()),
        };
        object.object(controller.name(), &mode(&found))
    })
}

/// Whether the plan has a user namespace.
fn is_mapped(plan: &Plan) -> bool {
    matches!(plan.mode, Mode::Mapped { .. })
}

/// Whether root may make a user namespace here; where not, nothing can belong to a subordinate id.
///
/// # Errors
/// `setup.timeout`, `setup.killed` and `host.kernel-call`: what gave no answer has not said no.
pub fn may_map() -> Result<bool, Error> {
    match child::try_user_namespace() {
        Ok(()) => Ok(true),
        Err(error) if error.kind == Kind::Refused => Ok(false),
        Err(error) => Err(error),
    }
}
