//! The plan as an OCI runtime config, with everything spelt out that the shim does without being asked.

use locald_shim::error::Error;
use locald_shim::plan::{IdRange, Mode, Mount, Network, Plan, Source};
use locald_shim::policy::{MASKED_PATHS, READONLY_PATHS};
use serde_json::{Value, json};

use crate::place;

/// The capabilities that the policy may give, by their numbers in capabilities(7).
const NAMES: [(u32, &str); 11] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (8, "CAP_SETPCAP"),
    (10, "CAP_NET_BIND_SERVICE"),
    (18, "CAP_SYS_CHROOT"),
    (31, "CAP_SETFCAP"),
];

/// Refuses what the twin cannot carry out; it never does less than the plan in silence.
pub fn require_possible(plan: &Plan) -> Result<(), Error> {
    let hint = "run it by locald-shim";
    let refuse = |code, why: &str| Err(Error::refused(code, why, hint));
    match plan {
        Plan { mode: Mode::Direct, .. } => refuse("twin.direct", "the twin has mapped mode only"),
        Plan { process, .. } if process.terminal.is_some() => refuse(
            "twin.terminal",
            "libcontainer hands a terminal to a console socket, which the twin lacks",
        ),
        Plan { process, .. } if process.init => {
            refuse("twin.init", "libcontainer knows no init stage")
        }
        Plan { limits, .. } if !limits.is_empty() => {
            refuse("twin.limits", "libcontainer's cgroups are root's, not the caller's")
        }
        Plan { process, .. } if process.cwd.to_str().is_err() => {
            refuse("twin.text", "libcontainer takes a working directory in UTF-8 only")
        }
        _ => Ok(()),
    }
}

/// The config; program and environment are the engine's business, as bytes.
pub fn render(plan: &Plan) -> Value {
    let process = &plan.process;
    let (uids, gids) = match &plan.mode {
        Mode::Mapped { uids, gids, .. } => (uids.as_slice(), gids.as_slice()),
        Mode::Direct => (&[][..], &[][..]),
    };
    let mut user = json!({"uid": process.uid, "gid": process.gid, "umask": process.umask});
    if let Some(groups) = process.groups.as_ref().filter(|groups| !groups.is_empty()) {
        user["additionalGids"] = json!(groups);
    }
    let mut kinds = vec!["pid", "ipc", "uts", "mount", "cgroup", "user"];
    if plan.network == Network::New {
        kinds.push("network");
    }
    let namespaces: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": format!("{}/bundle/rootfs", place::PLACE), "readonly": plan.root.readonly},
        "process": {
            "terminal": false,
            "user": user,
            "args": ["payload"],
            "cwd": process.cwd.to_string_lossy(),
            "noNewPrivileges": true,
            "capabilities": capabilities(plan),
            "rlimits": [],
        },
        "mounts": mounts(plan),
        "linux": {
            "namespaces": namespaces,
            "uidMappings": map(uids),
            "gidMappings": map(gids),
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READONLY_PATHS,
            "rootfsPropagation": "private",
        },
    });
    if plan.network == Network::New {
        config["linux"]["sysctl"] = network_parameters(gids);
    }
    if let Some(name) = &plan.hostname {
        config["hostname"] = json!(name.to_string_lossy());
    }
    config
}

fn map(ranges: &[IdRange]) -> Vec<Value> {
    ranges
        .iter()
        .map(|range| {
            json!({"containerID": range.inside, "hostID": range.outside, "size": range.count})
        })
        .collect()
}

/// Low ports and ping for whoever is in a network of the container's own. The kernel takes mapped groups only.
fn network_parameters(gids: &[IdRange]) -> Value {
    let first = gids.iter().map(|range| range.inside).min().unwrap_or(0);
    let last = gids.iter().map(|range| range.inside + (range.count - 1)).max().unwrap_or(0);
    json!({
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": format!("{first} {last}"),
    })
}

fn capabilities(plan: &Plan) -> Value {
    let wanted = plan.process.capabilities;
    let names = |bits: u64| -> Vec<&str> {
        NAMES.iter().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| *name).collect()
    };
    json!({
        "bounding": names(wanted.bounding),
        "effective": names(wanted.effective),
        "permitted": names(wanted.permitted),
        "inheritable": names(wanted.inheritable),
        "ambient": names(wanted.ambient),
    })
}

fn mounts(plan: &Plan) -> Vec<Value> {
    let data = ["nosuid", "noexec", "nodev"];
    // With the host's network a user namespace may not mount sysfs: the host's is bound instead.
    let sys = match plan.network {
        Network::New => json!({
            "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"],
        }),
        Network::Host => json!({
            "destination": "/sys", "type": "bind", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        }),
    };
    let fixed = [
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": data}),
        sys,
        json!({
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        }),
        json!({
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        }),
        json!({
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        }),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": data}),
    ];
    let asked = plan.mounts.iter().enumerate().map(|(number, mount)| asked_mount(number, mount));
    fixed.into_iter().chain(asked).collect()
}

fn asked_mount(number: usize, mount: &Mount) -> Value {
    let mut options: Vec<String> = ["nosuid", "nodev"].map(String::from).into();
    for (wanted, name) in [(mount.readonly, "ro"), (mount.noexec, "noexec")] {
        options.extend(wanted.then(|| name.to_owned()));
    }
    let destination = mount.destination.to_string_lossy();
    match &mount.source {
        Source::Bind(_) => {
            options.push("rbind".into());
            let source = place::bind_path(number);
            json!({"destination": destination, "type": "bind", "source": source, "options": options})
        }
        Source::Tmpfs { size_bytes, inodes, mode } => {
            options.extend([
                format!("size={size_bytes}"),
                format!("nr_inodes={inodes}"),
                format!("mode={mode:o}"),
            ]);
            json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
        }
    }
}
