//! What no config may ask for, read from its JSON by a second, simpler reader.

use locald_shim::json::Value;
use locald_shim::policy::Caller;

/// The members that the manual (reference/shim-config) knows, by the object they stand in.
#[rustfmt::skip]
const KNOWN: &[(&str, &[&str])] = &[
    ("", &["ociVersion", "root", "process", "hostname", "mounts", "linux", "annotations"]),
    ("root", &["path", "readonly"]),
    ("process", &["terminal", "consoleSize", "user", "args", "env", "cwd", "capabilities", "rlimits", "noNewPrivileges", "oomScoreAdj"]),
    ("process.user", &["uid", "gid", "additionalGids", "umask"]),
    ("process.consoleSize", &["height", "width"]),
    ("process.capabilities", &["bounding", "effective", "permitted", "inheritable", "ambient"]),
    ("process.rlimits[]", &["type", "soft", "hard"]),
    ("mounts[]", &["destination", "type", "source", "options"]),
    ("linux", &["namespaces", "uidMappings", "gidMappings", "maskedPaths", "readonlyPaths", "rootfsPropagation", "resources"]),
    ("linux.namespaces[]", &["type", "path"]),
    ("linux.uidMappings[]", &["containerID", "hostID", "size"]),
    ("linux.gidMappings[]", &["containerID", "hostID", "size"]),
    ("linux.resources", &["devices", "memory", "pids", "cpu"]),
    ("linux.resources.memory", &["limit", "swap"]),
    ("linux.resources.pids", &["limit"]),
    ("linux.resources.cpu", &["shares", "quota", "period"]),
    ("linux.resources.devices[]", &["allow", "access"]),
];

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Panics if a config that asks for what nobody may have was accepted.
pub fn check_accepted(config: &Value, caller: &Caller) {
    check_members(config, "");
    let linux = get(config, "linux");
    check_namespaces(linux, config, caller);
    check_lists(linux);
    for device in items(get(get(linux, "resources"), "devices")) {
        assert_eq!(get(device, "allow"), &Value::Boolean(false), "a device is allowed");
        assert_eq!(text(get(device, "access")), b"rwm", "a device rule");
    }
    for mount in items(get(config, "mounts")) {
        check_mount(mount);
    }
    if let Value::Unsigned(_) | Value::Negative(_) = get(get(config, "process"), "oomScoreAdj") {
        let score = match get(get(config, "process"), "oomScoreAdj") {
            Value::Unsigned(number) => i128::from(*number),
            Value::Negative(number) => i128::from(*number),
            _ => unreachable!(),
        };
        assert_eq!(score, i128::from(caller.oom_score_adj), "another OOM score");
    }
}

fn check_members(value: &Value, place: &str) {
    match value {
        Value::Object(members) if place != "annotations" => {
            let known =
                KNOWN.iter().find(|known| known.0 == place).map_or(&[][..], |known| known.1);
            for (name, value) in members {
                let name = String::from_utf8_lossy(name);
                // A member of the specification that asks for nothing is no request.
                let asks = match value {
                    Value::String(bytes) => !bytes.is_empty(),
                    Value::Array(values) => !values.is_empty(),
                    Value::Object(members) => !members.is_empty(),
                    _ => true,
                };
                assert!(!asks || known.contains(&&*name), "{place}.{name} was accepted");
                let below =
                    if place.is_empty() { name.into_owned() } else { format!("{place}.{name}") };
                check_members(value, &below);
            }
        }
        Value::Array(values) => {
            values.iter().for_each(|value| check_members(value, &format!("{place}[]")))
        }
        _ => {}
    }
}

fn check_namespaces(linux: &Value, config: &Value, caller: &Caller) {
    let spaces = items(get(linux, "namespaces"));
    let kinds: Vec<&[u8]> = spaces.iter().map(|space| text(get(space, "type"))).collect();
    let known = ["pid", "network", "mount", "ipc", "uts", "user", "cgroup"];
    for (index, kind) in kinds.iter().enumerate() {
        assert!(known.iter().any(|known| known.as_bytes() == *kind), "a namespace {kind:?}");
        assert!(!kinds[..index].contains(kind), "a namespace twice");
        assert!(text(get(&spaces[index], "path")).is_empty(), "a namespace is joined");
    }
    for needed in [&b"pid"[..], b"mount"] {
        assert!(kinds.contains(&needed), "no new {}", String::from_utf8_lossy(needed));
    }
    let mapped = kinds.contains(&&b"user"[..]);
    for (member, own) in [("uidMappings", caller.uid), ("gidMappings", caller.gid)] {
        let entries = items(get(linux, member));
        assert!(entries.len() <= usize::from(mapped), "{member} has {} entries", entries.len());
        for entry in entries {
            assert_eq!(
                get(entry, "hostID"),
                &Value::Unsigned(own.into()),
                "{member} names another"
            );
            assert_eq!(get(entry, "size"), &Value::Unsigned(1), "{member} names more than one");
            assert!(matches!(get(entry, "containerID"), Value::Unsigned(0..=65_534)));
        }
    }
    let user = get(get(config, "process"), "user");
    if !mapped {
        assert_eq!(get(user, "uid"), &Value::Unsigned(caller.uid.into()), "another user");
        assert_eq!(get(user, "gid"), &Value::Unsigned(caller.gid.into()), "another group");
        assert!(items(get(user, "additionalGids")).is_empty(), "groups in direct mode");
    }
}

fn check_lists(linux: &Value) {
    for (member, fixed) in [("maskedPaths", MASKED), ("readonlyPaths", READONLY)] {
        for path in items(get(linux, member)) {
            let known = fixed.iter().any(|known| known.as_bytes() == text(path));
            assert!(known, "{member} holds {path:?}");
        }
    }
    let words: [&[u8]; 9] = [
        b"",
        b"shared",
        b"rshared",
        b"slave",
        b"rslave",
        b"private",
        b"rprivate",
        b"unbindable",
        b"runbindable",
    ];
    assert!(words.contains(&text(get(linux, "rootfsPropagation"))), "a propagation");
}

/// Only bind, tmpfs and the standard mounts; only options that are known for them.
fn check_mount(mount: &Value) {
    let destination = text(get(mount, "destination"));
    let fixed: [&[u8]; 7] =
        [b"/proc", b"/dev", b"/dev/pts", b"/dev/shm", b"/dev/mqueue", b"/sys", b"/sys/fs/cgroup"];
    let options: Vec<&[u8]> = items(get(mount, "options")).iter().map(text).collect();
    if fixed.contains(&destination) {
        // Recognised and replaced: nothing of it counts, but what would widen it must not pass.
        for bad in [&b"rw"[..], b"suid", b"dev", b"exec"] {
            assert!(!options.contains(&bad), "{} is widened", String::from_utf8_lossy(destination));
        }
        return;
    }
    let kind = text(get(mount, "type"));
    let bind =
        kind == b"bind" || options.iter().any(|option| matches!(*option, b"bind" | b"rbind"));
    let known_kind = match kind {
        b"bind" => true,
        b"tmpfs" => !bind,
        b"" | b"none" => bind,
        _ => false,
    };
    assert!(known_kind, "a mount of type {:?}", String::from_utf8_lossy(kind));
    for option in &options {
        let plain = matches!(
            *option,
            b"ro" | b"rw" | b"nosuid" | b"nodev" | b"noexec" | b"private" | b"rprivate"
        );
        let numbered =
            [&b"size="[..], b"mode=", b"nr_inodes="].iter().any(|name| option.starts_with(name));
        let known = plain || matches!(*option, b"bind" | b"rbind") && bind || numbered && !bind;
        assert!(known, "the option {:?}", String::from_utf8_lossy(option));
    }
}

/// A member of an object; null where there is none.
pub fn get<'v>(value: &'v Value, name: &str) -> &'v Value {
    let Value::Object(members) = value else { return &Value::Null };
    members
        .iter()
        .find(|member| member.0 == name.as_bytes())
        .map_or(&Value::Null, |member| &member.1)
}

/// The items of an array; none where it is none.
pub fn items(value: &Value) -> &[Value] {
    if let Value::Array(values) = value { values } else { &[] }
}

/// The bytes of a string; none where it is none.
pub fn text(value: &Value) -> &[u8] {
    if let Value::String(bytes) = value { bytes } else { b"" }
}
