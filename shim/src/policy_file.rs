//! The administrator's word: /etc/locald/policy, parsed strictly, and whom it permits.
//!
//! Whoever reads the file checks its owner, mode and type; here it is bytes. Every fault of it has
//! the one code `shim.policy`: without a policy that is wholly understood nobody is permitted.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::accounts::{find_gid, find_uid, is_name, parse_id};
use crate::config::quoted;
use crate::error::Error;
use crate::policy::Caller;
use crate::rules::{Rule, active};

/// Largest policy file, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Containers of one uid at a time, where the policy names no number.
pub const DEFAULT_MAX_CONTAINERS: u32 = 256;

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
    /// How many containers one uid may have at a time.
    pub max_containers: u32,
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
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        let (mut version, mut min_shim, mut max_containers) = (None, None, None);
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
            let once = match key {
                b"version" => version
                    .replace(parse_version_key(value).ok_or_else(|| fault("the version is not 1"))?)
                    .is_none(),
                b"min-shim" => min_shim
                    .replace(Version::parse(value).ok_or_else(|| fault("min-shim is not x.y.z"))?)
                    .is_none(),
                b"max-containers" => max_containers
                    .replace(
                        parse_id(value).ok_or_else(|| fault("max-containers is not a number"))?,
                    )
                    .is_none(),
                b"allow-user" | b"allow-group" => {
                    let account = parse_account(value)
                        .ok_or_else(|| fault("that is neither a name nor an id"))?;
                    if key == b"allow-user" {
                        users.push(account)
                    } else {
                        groups.push(account)
                    }
                    true
                }
                _ => {
                    return Err(fault(&format!("the key {} is not known", quoted(key))));
                }
            };
            if !once {
                return Err(fault("the key is given twice"));
            }
        }
        if version.is_none() {
            return Err(malformed("`version = 1` is missing".into()));
        }
        let max_containers = max_containers.unwrap_or(DEFAULT_MAX_CONTAINERS);
        Ok(Self { users, groups, min_shim, max_containers })
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
        if self.users.iter().any(is_user) || self.groups.iter().any(is_member) {
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

fn parse_version_key(value: &[u8]) -> Option<()> {
    (value == b"1").then_some(())
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
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\ndevelopers:x:50:eve\n";

    fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        Caller { uid, gid, groups: groups.to_vec(), rlimits: [(0, 0); 16], oom_score_adj: 0 }
    }

    fn permits(text: &str, caller: &Caller) -> Result<(), &'static str> {
        let policy = Policy::parse(text.as_bytes()).map_err(|error| error.code)?;
        policy.permits(caller, PASSWD, GROUP).map_err(|error| error.code)
    }

    #[test]
    fn a_caller_is_permitted_by_user_or_group_by_name_or_number() {
        let ann = caller(1000, 1000, &[]);
        let eve = caller(1001, 1001, &[4, 50]);
        let bob = caller(1002, 50, &[]);
        for allow in [
            "allow-user = 1000",
            "allow-user=ann",
            "allow-group = 1000",
            "allow-user = x\nallow-user = ann # her",
        ] {
            assert_eq!(permits(&format!("version = 1\n{allow}\n"), &ann), Ok(()), "{allow}");
            assert_eq!(
                permits(&format!("version = 1\n{allow}\n"), &eve),
                Err("shim.policy"),
                "{allow}"
            );
        }
        for allow in ["allow-group = developers", "\t allow-group\t=\t50 \r"] {
            for (who, verdict) in [(&ann, Err("shim.policy")), (&eve, Ok(())), (&bob, Ok(()))] {
                assert_eq!(permits(&format!("version = 1\n{allow}\n"), who), verdict, "{allow}");
            }
        }
        assert_eq!(permits("version = 1", &ann), Err("shim.policy"));
    }

    #[test]
    fn membership_counts_only_in_the_credentials() {
        assert_eq!(
            permits("version=1\nallow-group=developers", &caller(1001, 1001, &[])),
            Err("shim.policy")
        );
    }

    #[test]
    fn what_is_not_understood_permits_nobody() {
        let faults = [
            "",
            "allow-user = 1000",
            "version = 2",
            "version = 01",
            "version = ",
            "version = 1\nversion = 1",
            "version 1",
            "version = 1\nallow-users = 1000",
            "version = 1\nAllow-User = 1000",
            "version = 1\nallow-user =",
            "version = 1\nallow-user = ann bob",
            "version = 1\nallow-user = 4294967295",
            "version = 1\nallow-user = -1",
            "version = 1\nallow-group = +",
            "version = 1\nmin-shim = 1",
            "version = 1\nmin-shim = 1.2.3.4",
            "version = 1\nmin-shim = 1.2.3-rc1",
            "version = 1\nmin-shim = 0.1.0\nmin-shim = 0.1.0",
            "version = 1\nmax-containers = many",
            "version = 1\nmax-containers = 1\nmax-containers = 1",
            "= 1",
            "version = 1\n\0",
        ];
        for text in faults {
            assert_eq!(permits(text, &caller(1000, 1000, &[])), Err("shim.policy"), "{text:?}");
        }
        let long = format!("version = 1\nallow-user = 1000\n{}", "#".repeat(MAX_BYTES));
        assert_eq!(permits(&long, &caller(1000, 1000, &[])), Err("shim.policy"));
        assert_eq!(permits(&long[..MAX_BYTES], &caller(1000, 1000, &[])), Ok(()));
        let error = Policy::parse(b"version = 1\nport = 80").unwrap_err();
        assert_eq!(error.why, b"/etc/locald/policy: line 2: the key \"port\" is not known");
        assert_eq!(error.hint, "run `sudo locald admin setup`");
    }

    #[test]
    fn an_old_shim_refuses() {
        let wants = |least: &str, own: &str| {
            let policy =
                Policy::parse(format!("version = 1\nmin-shim = {least}").as_bytes()).unwrap();
            policy.permits_version(Version::parse(own.as_bytes())).map_err(|error| error.code)
        };
        for (least, own) in
            [("0.1.0", "0.1.0"), ("0.1.0", "0.1.1"), ("0.9.9", "0.10.0"), ("1.2.3", "2.0.0")]
        {
            assert_eq!(wants(least, own), Ok(()), "{least} {own}");
        }
        for (least, own) in
            [("0.1.1", "0.1.0"), ("0.10.0", "0.9.9"), ("2.0.0", "1.9.9"), ("0.0.0", "dev")]
        {
            assert_eq!(wants(least, own), Err("shim.outdated"), "{least} {own}");
        }
        assert!(Version::own().is_some());
        assert_eq!(
            permits("version=1\nallow-user=ann\nmin-shim=4000.0.0", &caller(1000, 1, &[])),
            Err("shim.outdated")
        );
        #[cfg(locald_mutants)]
        {
            assert!(crate::rules::disable_from(b"8-version"));
            assert_eq!(wants("2.0.0", "1.9.9"), Ok(()));
        }
    }

    #[test]
    fn containers_are_counted_by_default() {
        assert_eq!(Policy::parse(b"version = 1").unwrap().max_containers, DEFAULT_MAX_CONTAINERS);
        assert_eq!(Policy::parse(b"version = 1\nmax-containers = 7").unwrap().max_containers, 7);
    }
}
