//! The administrator's word: /etc/locald/policy, parsed strictly, and whom it permits.
//!
//! Whoever reads the file checks its owner, mode and type; here it is bytes. Every fault of it has
//! the one code `shim.policy`: without a policy that is wholly understood nobody is permitted.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::accounts::{find_gid, find_uid, is_name, parse_id};
use crate::config::quoted;
use crate::error::Error;
use crate::policy::Caller;
use crate::reply::Object;
use crate::rules::{Rule, active};

/// Largest policy file, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Containers of one uid at a time, where the policy names no number.
pub const DEFAULT_MAX_CONTAINERS: u32 = 256;

/// Ports that a caller may ask for, where the policy names none.
pub const DEFAULT_BIND_PORTS: [u16; 2] = [80, 443];
/// Addresses that a caller may ask for, where the policy names none: loopback, one of each family.
pub const DEFAULT_BIND_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Most words of a list.
const MAX_LIST: usize = 64;

const MEND: &str = "run `sudo locald admin setup`";

/// A version `x.y.z`; compared number by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Parses `x.y.z` without a suffix.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut numbers = text.split(|&byte| byte == b'.').map(parse_id);
        let version = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(version)
    }

    /// The version of this shim.
    pub fn own() -> Option<Self> {
        Self::parse(env!("CARGO_PKG_VERSION").as_bytes())
    }
}

/// A user or group, as the policy names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Account {
    Id(u32),
    Name(Vec<u8>),
}

/// What the administrator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    users: Vec<Account>,
    groups: Vec<Account>,
    min_shim: Option<Version>,
    modes: Vec<Mode>,
    bind_ports: Vec<u16>,
    bind_addresses: Vec<IpAddr>,
    /// How many containers one uid may have at a time.
    pub max_containers: u32,
}

/// With a user namespace, or without: the words of `modes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With one.
    Mapped,
    /// Without.
    Direct,
}

impl Mode {
    /// The mode's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Direct => "direct",
        }
    }
}

/// The keys that may stand once, as far as they were read.
#[derive(Default)]
struct Draft {
    version: Option<()>,
    users: Vec<Account>,
    groups: Vec<Account>,
    min_shim: Option<Version>,
    modes: Option<Vec<Mode>>,
    bind_ports: Option<Vec<u16>>,
    bind_addresses: Option<Vec<IpAddr>>,
    max_containers: Option<u32>,
}

impl Draft {
    /// Takes in `key = value`, or says what is wrong with it.
    fn read(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            b"version" => {
                once(&mut self.version, (value == b"1").then_some(()), "the version is not 1")
            }
            b"allow-user" | b"allow-group" => {
                let accounts =
                    if key == b"allow-user" { &mut self.users } else { &mut self.groups };
                accounts.push(parse_account(value).ok_or("that is neither a name nor an id")?);
                Ok(())
            }
            b"min-shim" => once(&mut self.min_shim, Version::parse(value), "min-shim is not x.y.z"),
            b"modes" => once(
                &mut self.modes,
                parse_list(value, parse_mode),
                "modes is no list of `mapped` and `direct`",
            ),
            b"bind-ports" => once(
                &mut self.bind_ports,
                parse_list(value, parse_port),
                "bind-ports is no list of port numbers",
            ),
            b"bind-addresses" => once(
                &mut self.bind_addresses,
                parse_list(value, parse_address),
                "bind-addresses is no list of addresses that can be listened on",
            ),
            b"max-containers" => {
                once(&mut self.max_containers, parse_id(value), "max-containers is not a number")
            }
            _ => Err(format!("the key {} is not known", quoted(key))),
        }
    }
}

/// Fills a slot that was empty, with something that could be parsed.
fn once<T>(slot: &mut Option<T>, value: Option<T>, fault: &str) -> Result<(), String> {
    let value = value.ok_or(fault)?;
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("the key is given twice".into()),
    }
}

impl Policy {
    /// Parses the policy file.
    ///
    /// # Errors
    /// `shim.policy`.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(malformed(format!("it has more than {MAX_BYTES} bytes")));
        }
        let mut draft = Draft::default();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let fault = |what: &str| malformed(format!("line {}: {what}", index + 1));
            let content = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
            if content.is_empty() {
                continue;
            }
            let Some(equals) = content.iter().position(|&byte| byte == b'=') else {
                return Err(fault("it is not `key = value`"));
            };
            let (key, value) = (content[..equals].trim_ascii(), content[equals + 1..].trim_ascii());
            draft.read(key, value).map_err(|what| fault(&what))?;
        }
        if draft.version.is_none() {
            return Err(malformed("`version = 1` is missing".into()));
        }
        Ok(Self {
            users: draft.users,
            groups: draft.groups,
            min_shim: draft.min_shim,
            modes: draft.modes.unwrap_or_else(|| [Mode::Mapped, Mode::Direct].into()),
            bind_ports: draft.bind_ports.unwrap_or_else(|| DEFAULT_BIND_PORTS.into()),
            bind_addresses: draft.bind_addresses.unwrap_or_else(|| DEFAULT_BIND_ADDRESSES.into()),
            max_containers: draft.max_containers.unwrap_or(DEFAULT_MAX_CONTAINERS),
        })
    }

    /// Whether `caller` may use this shim.
    ///
    /// Groups are those of his credentials: what /etc/group says about him takes effect at his next
    /// login, as everywhere. A name that `passwd` or `group` does not hold permits nobody.
    ///
    /// # Errors
    /// `shim.outdated` if the policy wants a newer shim, `shim.policy` if the caller is not named.
    pub fn permits(&self, caller: &Caller, passwd: &[u8], group: &[u8]) -> Result<(), Error> {
        self.permits_version(Version::own())?;
        let is_user = |account: &Account| match account {
            Account::Id(id) => caller.uid == *id,
            Account::Name(name) => find_uid(passwd, name) == Some(caller.uid),
        };
        let in_group = |gid: u32| caller.gid == gid || caller.groups.contains(&gid);
        let is_member = |account: &Account| match account {
            Account::Id(id) => in_group(*id),
            Account::Name(name) => find_gid(group, name).is_some_and(in_group),
        };
        if !active(Rule::PolicyCaller)
            || self.users.iter().any(is_user)
            || self.groups.iter().any(is_member)
        {
            return Ok(());
        }
        let why = format!("the policy does not allow uid {}", caller.uid);
        Err(Error::refused("shim.policy", why, MEND))
    }

    /// Whether judging takes /etc/passwd or /etc/group.
    pub fn names_accounts(&self) -> bool {
        let named = |account: &Account| matches!(account, Account::Name(_));
        self.users.iter().any(named) || self.groups.iter().any(named)
    }

    /// Checks that containers of this mode are allowed.
    ///
    /// # Errors
    /// `policy.mode`.
    pub fn permits_mode(&self, mode: Mode) -> Result<(), Error> {
        if !active(Rule::PolicyModes) || self.modes.contains(&mode) {
            return Ok(());
        }
        Err(Error::refused(
            "policy.mode",
            format!("the policy of this host does not allow {} mode", mode.name()),
            "use the other mode, or ask an administrator to add this one to `modes` in /etc/locald/policy",
        ))
    }

    /// Checks that a caller may have a listening socket on `port` of `address`.
    ///
    /// # Errors
    /// `bind.port`, `bind.address`.
    pub fn permits_bind(&self, address: IpAddr, port: u16) -> Result<(), Error> {
        if active(Rule::BindPort) && !self.bind_ports.contains(&port) {
            return Err(Error::refused(
                "bind.port",
                format!("the policy does not list port {port}"),
                "ports from 1024 on need no shim; others an administrator adds to `bind-ports` in /etc/locald/policy",
            ));
        }
        if active(Rule::BindAddress) && !self.bind_addresses.contains(&address) {
            return Err(Error::refused(
                "bind.address",
                format!("the policy does not list the address {address}"),
                "use 127.0.0.1, or ask an administrator to add it to `bind-addresses` in /etc/locald/policy",
            ));
        }
        Ok(())
    }

    /// What holds for everybody whom the policy names, for `check`.
    pub fn effective(&self) -> Object {
        let least = self.min_shim.map(|least| format!("{}.{}.{}", least.0, least.1, least.2));
        Object::new()
            .strings("modes", self.modes.iter().map(|mode| mode.name()))
            .numbers("bind-ports", self.bind_ports.iter().copied())
            .strings(
                "bind-addresses",
                self.bind_addresses.iter().map(|address| format!("{address}")),
            )
            .number("max-containers", self.max_containers)
            .optional("min-shim", least)
    }

    fn permits_version(&self, own: Option<Version>) -> Result<(), Error> {
        match (self.min_shim, own) {
            (Some(least), own)
                if active(Rule::MinimumVersion) && own.is_none_or(|own| own < least) =>
            {
                let why = format!(
                    "the policy wants a shim of version {}.{}.{} or newer",
                    least.0, least.1, least.2
                );
                let hint = "use the locald that is installed now, or run `sudo locald admin setup`";
                Err(Error::refused("shim.outdated", why, hint))
            }
            _ => Ok(()),
        }
    }
}

/// A list of words with blanks between them, or the one word `none`. No word stands in it twice.
fn parse_list<T: PartialEq>(value: &[u8], parse: fn(&[u8]) -> Option<T>) -> Option<Vec<T>> {
    let mut list = Vec::new();
    if value == b"none" {
        return Some(list);
    }
    for word in value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
        let item = parse(word)?;
        if list.contains(&item) || list.len() == MAX_LIST {
            return None;
        }
        list.push(item);
    }
    (!list.is_empty()).then_some(list)
}

fn parse_mode(word: &[u8]) -> Option<Mode> {
    [Mode::Mapped, Mode::Direct].into_iter().find(|mode| mode.name().as_bytes() == word)
}

/// A TCP port, 1 to 65535. Port 0 would be whichever is free.
pub fn parse_port(word: &[u8]) -> Option<u16> {
    parse_id(word).and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0)
}

/// An address that a socket of its own family can listen on, and that needs no interface's name.
pub fn parse_address(word: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = core::str::from_utf8(word).ok()?.parse().ok()?;
    let fits = match address {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_broadcast(),
        IpAddr::V6(address) => {
            !address.is_multicast()
                && !address.is_unicast_link_local()
                && address.to_ipv4_mapped().is_none()
        }
    };
    fits.then_some(address)
}

fn parse_account(value: &[u8]) -> Option<Account> {
    match parse_id(value) {
        Some(id) => Some(Account::Id(id)),
        None => is_name(value).then(|| Account::Name(value.to_vec())),
    }
}

fn malformed(what: String) -> Error {
    Error::refused("shim.policy", format!("/etc/locald/policy: {what}"), MEND)
}

#[cfg(test)]
mod tests;
