//! config.json as types: what the shim knows of the runtime specification, and nothing else.
//!
//! Here a config is only understood; whether its values are allowed is `policy`'s business. Members
//! that are never allowed are refused by name ([`FORBIDDEN`]), unless they ask for nothing (an empty
//! string, array or object); what has no name here is `config.unknown`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::Error;
use crate::json::{self, Value};
use crate::rules::Rule;

mod members;
mod resources;

use members::{MAX_ID, Members, Place, unsigned};
pub use resources::Resources;

/// The config of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `root`
    pub root: Root,
    /// `process`
    pub process: Process,
    /// `hostname`
    pub hostname: Option<Vec<u8>>,
    /// `mounts`
    pub mounts: Vec<Mount>,
    /// `linux`
    pub linux: Linux,
    /// The annotation `dev.locald.init`.
    pub init: bool,
}

/// `root`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// `root.path`
    pub path: Vec<u8>,
    /// `root.readonly`
    pub readonly: bool,
}

/// `process`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// `process.args`
    pub args: Vec<Vec<u8>>,
    /// `process.env`
    pub env: Vec<Vec<u8>>,
    /// `process.cwd`
    pub cwd: Vec<u8>,
    /// `process.user`
    pub user: User,
    /// `process.terminal`
    pub terminal: bool,
    /// `process.consoleSize`: height and width.
    pub console_size: Option<(u16, u16)>,
    /// `process.capabilities`; absent is empty.
    pub capabilities: Capabilities,
    /// `process.rlimits`
    pub rlimits: Vec<Rlimit>,
    /// `process.oomScoreAdj`
    pub oom_score_adj: Option<i64>,
}

/// `process.user`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `uid`
    pub uid: u32,
    /// `gid`
    pub gid: u32,
    /// `additionalGids`; absent is empty.
    pub additional_gids: Vec<u32>,
    /// `umask`
    pub umask: Option<u32>,
}

/// `process.capabilities`: names, as the spec has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `bounding`
    pub bounding: Vec<Vec<u8>>,
    /// `effective`
    pub effective: Vec<Vec<u8>>,
    /// `permitted`
    pub permitted: Vec<Vec<u8>>,
    /// `inheritable`
    pub inheritable: Vec<Vec<u8>>,
    /// `ambient`
    pub ambient: Vec<Vec<u8>>,
}

/// An item of `process.rlimits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// `type`
    pub kind: Vec<u8>,
    /// `soft`
    pub soft: u64,
    /// `hard`
    pub hard: u64,
}

/// An item of `mounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `destination`
    pub destination: Vec<u8>,
    /// `type`; absent is empty.
    pub kind: Vec<u8>,
    /// `source`; absent is empty.
    pub source: Vec<u8>,
    /// `options`
    pub options: Vec<Vec<u8>>,
}

/// `linux`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linux {
    /// `linux.namespaces`
    pub namespaces: Vec<Namespace>,
    /// `linux.uidMappings`
    pub uid_mappings: Vec<Mapping>,
    /// `linux.gidMappings`
    pub gid_mappings: Vec<Mapping>,
    /// `linux.maskedPaths`
    pub masked_paths: Vec<Vec<u8>>,
    /// `linux.readonlyPaths`
    pub readonly_paths: Vec<Vec<u8>>,
    /// `linux.rootfsPropagation`; absent is empty.
    pub propagation: Vec<u8>,
    /// `linux.resources`
    pub resources: Resources,
}

/// An item of `linux.namespaces`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// `type`
    pub kind: Vec<u8>,
    /// `path`; absent is empty.
    pub path: Vec<u8>,
}

/// An item of `linux.uidMappings` or `linux.gidMappings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// `containerID`
    pub container: u32,
    /// `hostID`
    pub host: u32,
    /// `size`
    pub size: u32,
}

/// A member that is never allowed: object, name, rule, code, mend.
type Forbidden = (&'static str, &'static str, Rule, &'static str, &'static str);

const DROP: &str = "remove this member";
const SEE: &str = "remove this member; the shim's own filter always applies";

/// The members of the specification that are refused by name.
#[rustfmt::skip]
pub const FORBIDDEN: &[Forbidden] = &[
    ("", "hooks", Rule::Hooks, "config.hooks", DROP),
    ("", "domainname", Rule::UnknownMember, "config.domainname", DROP),
    ("", "vm", Rule::ForeignFeature, "config.platform", DROP),
    ("", "windows", Rule::ForeignFeature, "config.platform", DROP),
    ("", "solaris", Rule::ForeignFeature, "config.platform", DROP),
    ("", "zos", Rule::ForeignFeature, "config.platform", DROP),
    ("", "freebsd", Rule::ForeignFeature, "config.platform", DROP),
    ("process", "commandLine", Rule::ForeignFeature, "config.platform", "use process.args"),
    ("process", "apparmorProfile", Rule::Labels, "config.label", "remove this member; the container keeps your label"),
    ("process", "selinuxLabel", Rule::Labels, "config.label", "remove this member; the container keeps your label"),
    ("process", "scheduler", Rule::ForeignFeature, "config.scheduler", DROP),
    ("process", "ioPriority", Rule::ForeignFeature, "config.io-priority", DROP),
    ("process", "execCPUAffinity", Rule::ForeignFeature, "config.cpu-affinity", DROP),
    ("process.user", "username", Rule::ForeignFeature, "config.platform", "use process.user.uid"),
    ("linux", "devices", Rule::Devices, "config.devices", "remove this member; null zero full random urandom tty are always there"),
    ("linux", "sysctl", Rule::ForeignFeature, "config.sysctl", DROP),
    ("linux", "cgroupsPath", Rule::CgroupPath, "cgroup.path", "remove this member; a container with limits gets a cgroup below yours, named after its id"),
    ("linux", "seccomp", Rule::Seccomp, "config.seccomp", SEE),
    ("linux", "mountLabel", Rule::Labels, "config.label", DROP),
    ("linux", "intelRdt", Rule::ForeignFeature, "config.intel-rdt", DROP),
    ("linux", "personality", Rule::ForeignFeature, "config.personality", DROP),
    ("linux", "timeOffsets", Rule::ForeignFeature, "config.time-offsets", DROP),
    ("linux", "netDevices", Rule::ForeignFeature, "config.net-devices", DROP),
    ("linux", "memoryPolicy", Rule::ForeignFeature, "config.memory-policy", DROP),
    ("linux.resources.memory", "reservation", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.memory", "kernel", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.memory", "kernelTCP", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.memory", "swappiness", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.memory", "disableOOMKiller", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.memory", "useHierarchy", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.memory", "checkBeforeUpdate", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.cpu", "burst", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.cpu", "realtimeRuntime", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.cpu", "realtimePeriod", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.cpu", "cpus", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.cpu", "mems", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources.cpu", "idle", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources", "blockIO", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources", "hugepageLimits", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources", "network", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources", "rdma", Rule::Resources, "resources.unsupported", DROP),
    ("linux.resources", "unified", Rule::Resources, "resources.unsupported", DROP),
    ("mounts", "uidMappings", Rule::SpecMap, "mount.id-map", DROP),
    ("mounts", "gidMappings", Rule::SpecMap, "mount.id-map", DROP),
];

impl Config {
    /// Understands the text of a config.json.
    ///
    /// # Errors
    /// The `json.*` codes, `config.type`, `config.missing`, `config.unknown`, `config.version`,
    /// `config.annotation`, and the codes of [`FORBIDDEN`].
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let place = Place::TOP;
        let mut top = Members::open(json::parse(text)?, &place, "")?;
        check_version(&top.string("ociVersion")?.ok_or_else(|| place.missing("ociVersion"))?)?;
        let root = top.required("root", parse_root)?;
        let process = top.required("process", parse_process)?;
        let linux = top.required("linux", parse_linux)?;
        let mounts = top.list("mounts", parse_mount)?;
        let init = top.object("annotations", parse_init)?.unwrap_or(false);
        let hostname = top.string("hostname")?;
        top.finish()?;
        Ok(Self { root, process, hostname, mounts, linux, init })
    }
}

/// Any 1.x: minor versions only add members, and what is not known is refused by its name.
fn check_version(version: &[u8]) -> Result<(), Error> {
    match version {
        [b'1', b'.', b'0'..=b'9', ..] => Ok(()),
        _ => {
            let why = format!("ociVersion is {}", quoted(version));
            Err(Error::refused("config.version", why, "the shim knows ociVersion 1.x"))
        }
    }
}

fn parse_root(value: Value, place: &Place) -> Result<Root, Error> {
    let mut members = Members::open(value, place, "root")?;
    let path = members.string("path")?.ok_or_else(|| place.missing("path"))?;
    let readonly = members.boolean("readonly")?;
    members.finish()?;
    Ok(Root { path, readonly })
}

fn parse_process(value: Value, place: &Place) -> Result<Process, Error> {
    let mut members = Members::open(value, place, "process")?;
    let process = Process {
        args: members.strings("args")?,
        env: members.strings("env")?,
        cwd: members.string("cwd")?.ok_or_else(|| place.missing("cwd"))?,
        user: members.required("user", parse_user)?,
        terminal: members.boolean("terminal")?,
        console_size: members.object("consoleSize", parse_console_size)?,
        capabilities: members.object("capabilities", parse_capabilities)?.unwrap_or_default(),
        rlimits: members.list("rlimits", parse_rlimit)?,
        oom_score_adj: members.signed("oomScoreAdj")?,
    };
    // Whatever it says, no_new_privs is set (rule 34).
    members.boolean("noNewPrivileges")?;
    members.finish()?;
    Ok(process)
}

fn parse_user(value: Value, place: &Place) -> Result<User, Error> {
    let mut members = Members::open(value, place, "process.user")?;
    let user = User {
        uid: members.id("uid")?.ok_or_else(|| place.missing("uid"))?,
        gid: members.id("gid")?.ok_or_else(|| place.missing("gid"))?,
        additional_gids: members
            .list("additionalGids", |value, place| unsigned(value, place, MAX_ID))?,
        umask: members.id("umask")?,
    };
    members.finish()?;
    Ok(user)
}

fn parse_console_size(value: Value, place: &Place) -> Result<(u16, u16), Error> {
    let mut members = Members::open(value, place, "process.consoleSize")?;
    let mut side = |name: &'static str| -> Result<u16, Error> {
        let value = members.take(name).ok_or_else(|| place.missing(name))?;
        unsigned(value, &place.member(name), u64::from(u16::MAX))
    };
    let size = (side("height")?, side("width")?);
    members.finish()?;
    Ok(size)
}

fn parse_capabilities(value: Value, place: &Place) -> Result<Capabilities, Error> {
    let mut members = Members::open(value, place, "process.capabilities")?;
    let capabilities = Capabilities {
        bounding: members.strings("bounding")?,
        effective: members.strings("effective")?,
        permitted: members.strings("permitted")?,
        inheritable: members.strings("inheritable")?,
        ambient: members.strings("ambient")?,
    };
    members.finish()?;
    Ok(capabilities)
}

fn parse_rlimit(value: Value, place: &Place) -> Result<Rlimit, Error> {
    let mut members = Members::open(value, place, "process.rlimits")?;
    let kind = members.string("type")?.ok_or_else(|| place.missing("type"))?;
    let mut limit = |name: &'static str| -> Result<u64, Error> {
        let value = members.take(name).ok_or_else(|| place.missing(name))?;
        unsigned(value, &place.member(name), u64::MAX)
    };
    let (soft, hard) = (limit("soft")?, limit("hard")?);
    members.finish()?;
    Ok(Rlimit { kind, soft, hard })
}

fn parse_mount(value: Value, place: &Place) -> Result<Mount, Error> {
    let mut members = Members::open(value, place, "mounts")?;
    let mount = Mount {
        destination: members.string("destination")?.ok_or_else(|| place.missing("destination"))?,
        kind: members.string("type")?.unwrap_or_default(),
        source: members.string("source")?.unwrap_or_default(),
        options: members.strings("options")?,
    };
    members.finish()?;
    Ok(mount)
}

fn parse_linux(value: Value, place: &Place) -> Result<Linux, Error> {
    let mut members = Members::open(value, place, "linux")?;
    let linux = Linux {
        namespaces: members.list("namespaces", parse_namespace)?,
        uid_mappings: members.list("uidMappings", parse_mapping)?,
        gid_mappings: members.list("gidMappings", parse_mapping)?,
        masked_paths: members.strings("maskedPaths")?,
        readonly_paths: members.strings("readonlyPaths")?,
        propagation: members.string("rootfsPropagation")?.unwrap_or_default(),
        resources: members.object("resources", resources::parse)?.unwrap_or_default(),
    };
    members.finish()?;
    Ok(linux)
}

fn parse_namespace(value: Value, place: &Place) -> Result<Namespace, Error> {
    let mut members = Members::open(value, place, "linux.namespaces")?;
    let kind = members.string("type")?.ok_or_else(|| place.missing("type"))?;
    let path = members.string("path")?.unwrap_or_default();
    members.finish()?;
    Ok(Namespace { kind, path })
}

fn parse_mapping(value: Value, place: &Place) -> Result<Mapping, Error> {
    let mut members = Members::open(value, place, "linux.uidMappings")?;
    let mapping = Mapping {
        container: members.id("containerID")?.ok_or_else(|| place.missing("containerID"))?,
        host: members.id("hostID")?.ok_or_else(|| place.missing("hostID"))?,
        size: members.id("size")?.ok_or_else(|| place.missing("size"))?,
    };
    members.finish()?;
    Ok(mapping)
}

/// Reads the project's own annotation; the others must be strings and mean nothing here.
fn parse_init(value: Value, place: &Place) -> Result<bool, Error> {
    let Value::Object(annotations) = value else {
        return Err(place.wrong_type("an object"));
    };
    let mut init = false;
    for (name, value) in annotations {
        let Value::String(value) = value else {
            return Err(place.wrong_type("an object of strings"));
        };
        if name == b"dev.locald.init" {
            init = match value.as_slice() {
                b"true" => true,
                b"false" => false,
                _ => {
                    let why = format!("the annotation dev.locald.init is {}", quoted(&value));
                    return Err(Error::refused(
                        "config.annotation",
                        why,
                        r#"write "true" or "false""#,
                    ));
                }
            };
        }
    }
    Ok(init)
}

/// Bytes of the caller for an error: text, and not much of it.
pub fn quoted(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(64)]))
}

#[cfg(test)]
mod tests;
