//! The rules against a hostile caller, by name, so that a test can show what each of them carries.
//!
//! A rule is a number of the attack catalogue (docs/manual/architecture/security.md); a number that
//! needs several independent checks has one name for each. In every normal build [`active`] is the
//! constant `true` and leaves no trace in the binary. A build with `--cfg locald_mutants` may switch
//! rules off: it exists to prove that the tests notice, and is never installed.
//!
//! Numbers 42 and 46 have no name: they are verbs that do not exist.

/// Declares the rules once: the enum, their names, their order.
macro_rules! rules {
    ($($rule:ident = $name:literal, $about:literal;)+) => {
        /// One independent check.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Rule {
            $(#[doc = $about] $rule,)+
        }

        /// Every rule with its name, in the order of the enum.
        #[cfg(any(test, locald_mutants))]
        pub const ALL: &[(Rule, &str)] = &[$((Rule::$rule, $name),)+];
    };
}

rules! {
    ArgumentsPresent = "1", "An empty argument vector is refused.";
    EmptyEnvironment = "2", "Nothing of the environment is read or passed on.";
    StandardStreams = "3-stdio", "Descriptors 0 to 2 are open.";
    StrayDescriptors = "3-close", "Descriptors from 3 on are closed.";
    OwnLimits = "4-limits", "The shim works under its own resource limits.";
    OwnSignals = "4-signals", "Default dispositions, an own mask, no pending timer.";
    OwnUmask = "5-umask", "The caller's umask is not used.";
    OwnDirectory = "5-cwd", "The caller's working directory is not used.";
    SupervisorUnsignalled = "6", "The caller cannot stop the shim half-way.";
    NotDumpable = "7-dumpable", "The shim can be neither traced nor read.";
    NoShimInside = "7-self", "No descriptor of the shim is alive in the container.";
    SingleLink = "8-link", "A hard-linked shim refuses.";
    MinimumVersion = "8-version", "A shim older than the policy's minimum refuses.";
    NotRoot = "9-root", "Real uid 0 is refused.";
    FullyPrivileged = "9-privilege", "no_new_privs or a nosuid mount is refused.";
    InitialUserNamespace = "9-userns", "A caller in a user namespace of his own is refused.";
    NoOracle = "10", "An error says only what the caller could learn.";
    BundleMagicLinks = "11", "The bundle is not reached through a magic link.";
    ConfigRegular = "12-type", "config.json is a regular file.";
    ConfigSize = "12-size", "config.json has at most 1 MiB.";
    JsonDepth = "13-depth", "Values nest at most 32 deep.";
    JsonDuplicate = "13-duplicate", "No object has a member twice.";
    UnknownMember = "13-unknown", "Members that are not known are refused.";
    ConfigReadOnce = "14", "config.json is read once.";
    RootOpenedOnce = "15", "The root file system is one descriptor.";
    TargetsResolvedInside = "16", "Mount targets are resolved as the caller, in the clone.";
    ContainerId = "17", "The container id is a short, plain word.";
    Hooks = "18", "Hooks are refused.";
    Devices = "19-devices", "linux.devices is refused.";
    DeviceRules = "19-resources", "Device rules other than deny-all are refused.";
    MountType = "20", "File systems other than bind and tmpfs are refused.";
    BindAsCaller = "21", "Bind sources are opened as the caller.";
    BindRecursive = "22", "Binds are recursive.";
    MountDestination = "23-destination", "Destinations are clean and not over fixed mounts.";
    MountResolve = "23-resolve", "Destinations are resolved without links.";
    PidNamespace = "24-pid", "A new pid namespace is required.";
    BindFileSystem = "24-fstype", "Binds of proc, sysfs, cgroup and nsfs are refused.";
    TmpfsSize = "25-size", "tmpfs is capped.";
    MountOption = "25-option", "Mount options that are not known are refused.";
    ForeignFeature = "26", "sysctl, intelRdt, personality and their like are refused.";
    NamespacePath = "27-path", "Namespaces are new, never joined.";
    MountNamespace = "27-mount", "A new mount namespace is required.";
    SpecMap = "28-map", "The spec only chooses which container id is the caller.";
    SubordinateRange = "28-range", "Ranges hold neither 0, the caller, nor each other.";
    SubordinateLine = "28-line", "A malformed line of the caller is refused.";
    DigitName = "28-name", "An all-digit name is not a name.";
    CgroupPath = "29-path", "The spec names no cgroup.";
    Resources = "29-resources", "Limits other than those of memory, pids and cpu are refused by name.";
    ResourceValues = "29-values", "A limit is a value that its controller knows.";
    CgroupOwner = "29-owner", "The leaf lies below the nearest cgroup above the shim's own that the caller owns.";
    CgroupController = "29-controller", "A limit whose controller is not there is refused, never ignored.";
    CgroupAsCaller = "29-caller", "The leaf is made and joined with the caller's ids, so that the kernel judges.";
    CgroupNamespace = "29-namespace", "The container sees its own cgroup as the root of all cgroups.";
    CgroupGone = "29-gone", "A leaf goes with its container, or at the caller's next call.";
    Seccomp = "30", "linux.seccomp is refused.";
    Labels = "31", "Labels in the spec are refused.";
    StatusNumber = "32-number", "The status descriptor is 3 or higher.";
    StatusType = "32-type", "The status descriptor is a pipe or a local socket.";
    StreamsAsCaller = "32-caller", "Streams are written as the caller.";
    TerminalIoctls = "32-ioctl", "TIOCSTI and TIOCLINUX are denied.";
    OomScore = "33-oom", "The OOM score is not lowered.";
    RlimitsDownward = "33-rlimit", "Resource limits are not raised.";
    CapabilitySets = "34-capabilities", "Capabilities are a subset of the allowed ones.";
    NoNewPrivileges = "34-nnp", "no_new_privs is always set.";
    UserMapped = "35-mapped", "Every id of the process is mapped.";
    UserDirect = "35-direct", "Without a user namespace the process is the caller.";
    Groups = "35-groups", "Groups change only with an authorised gid range.";
    Propagation = "36", "Propagation is private.";
    PathLists = "37-lists", "The spec does not choose what is masked.";
    PathMasks = "37-masks", "The constant masks are in place.";
    WorkingDirectory = "38-cwd", "The working directory is absolute and not below /proc.";
    NoHostDescriptors = "38-close", "No descriptor of the host is alive at exec.";
    NoLookUps = "39", "Nothing is looked up inside the container.";
    StateDirectory = "40-state", "State is root's own.";
    StateQuota = "40-quota", "Containers of one caller are counted.";
    Pidfds = "41", "Processes are held by pidfd.";
    DieWithSupervisor = "43", "The container ends with its supervisor.";
    CleanupBeneath = "44", "Cleaning up stays below its directory.";
    BindPort = "45-port", "Only ports that the policy lists are bound.";
    BindAddress = "45-address", "Only addresses that the policy lists are bound.";
    BindSocket = "45-stdin", "The socket is sent over a connected local socket, nothing else.";
    BindPeer = "45-peer", "The socket is sent to the caller alone.";
    BindNamespace = "45-network", "Only the host's own network is bound in.";
    BindOwner = "45-owner", "The socket is the caller's, so no port of another user is shared.";
    BindShare = "45-share", "The socket is not made to share its port.";
    BindCapability = "45-capability", "CAP_NET_BIND_SERVICE alone is held, and only while binding.";
    OverMounts = "47", "What the host hides below /proc and /sys stays hidden.";
    ForeignFilter = "48-filter", "A seccomp filter in force is refused.";
    Attributes = "48-attributes", "Process attributes that survive exec are reset.";
    StreamsUntouched = "49", "The caller's streams keep their modes.";
    BoundedWaits = "50", "What blocks, blocks its caller alone.";
    SessionKeyring = "51", "The container has a session keyring of its own.";
    NulByte = "52", "No string holds a NUL.";
    SourceFlags = "53", "A bind keeps the flags of its source.";
    JsonValues = "54-values", "config.json has at most 50,000 values.";
    Counts = "54-counts", "Mounts, arguments and groups are counted.";
    Extents = "54-extents", "A map has at most 340 extents.";
    Memory = "54-memory", "The shim's own memory is bounded.";
    PolicyOwner = "55-owner", "A policy file that others can write counts for nothing.";
    PolicyCaller = "55-caller", "Whom the policy does not name is refused.";
    PolicyModes = "55-modes", "Only modes that the policy lists are run.";
}

/// Whether `rule` is in force: always, in a normal build.
#[cfg(not(locald_mutants))]
#[inline(always)]
pub const fn active(_rule: Rule) -> bool {
    true
}

#[cfg(locald_mutants)]
pub use mutants::{PLACE, VARIABLE, active, disable_from};

#[cfg(locald_mutants)]
mod mutants {
    use core::ffi::CStr;

    use super::{ALL, Rule};

    /// The environment variable that names the rules to switch off, separated by commas.
    pub const VARIABLE: &[u8] = b"LOCALD_SHIM_DISABLE_RULE";

    /// The same, for a copy of the file that nothing passes an environment to: a tool writes the names over the commas.
    pub const PLACE: &CStr =
        c"LOCALD_SHIM_DISABLE_RULE=,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,";

    const _: () = assert!(ALL.len() <= 128, "the set has 128 bits");

    /// Whether `rule` is in force.
    pub fn active(rule: Rule) -> bool {
        !set::holds(1 << rule as u8)
    }

    /// Switches off the rules in `names` (`13-depth,28`; a bare number means all of its checks) and
    /// switches on all others. Returns false, changing nothing, when a name is not known.
    pub fn disable_from(names: &[u8]) -> bool {
        let mut bits = 0;
        for name in names.split(|&byte| byte == b',').filter(|name| !name.is_empty()) {
            let before = bits;
            for (rule, known) in ALL {
                let number = known.split('-').next().unwrap_or(known);
                if name == known.as_bytes() || name == number.as_bytes() {
                    bits |= 1u128 << *rule as u8;
                }
            }
            if bits == before {
                return false;
            }
        }
        set::replace(bits);
        true
    }

    #[cfg(not(test))]
    mod set {
        use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

        static DISABLED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

        pub fn replace(bits: u128) {
            DISABLED[0].store((bits & u128::from(u64::MAX)) as u64, Relaxed);
            DISABLED[1].store((bits >> 64) as u64, Relaxed);
        }

        pub fn holds(bit: u128) -> bool {
            let low = u128::from(DISABLED[0].load(Relaxed));
            let high = u128::from(DISABLED[1].load(Relaxed));
            (high << 64 | low) & bit != 0
        }
    }

    // Tests run in threads of one process and must not switch off each other's rules.
    #[cfg(test)]
    mod set {
        use std::cell::Cell;

        std::thread_local!(static DISABLED: Cell<u128> = const { Cell::new(0) });

        pub fn replace(bits: u128) {
            DISABLED.set(bits);
        }

        pub fn holds(bit: u128) -> bool {
            DISABLED.get() & bit != 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_order() {
        let number = |name: &str| name.split('-').next().unwrap().parse::<u32>().unwrap();
        for pair in ALL.windows(2) {
            assert!(number(pair[0].1) <= number(pair[1].1), "{pair:?}");
        }
        for (index, (rule, name)) in ALL.iter().enumerate() {
            assert_eq!(*rule as usize, index);
            assert_eq!(ALL.iter().filter(|other| other.1 == *name).count(), 1, "{name}");
        }
    }

    #[test]
    fn every_number_with_a_check_has_a_name() {
        let missing: Vec<u32> = (1..=55)
            .filter(|n| !ALL.iter().any(|(_, name)| name.split('-').next() == Some(&n.to_string())))
            .collect();
        assert_eq!(missing, [42, 46]);
    }

    #[test]
    #[cfg(not(locald_mutants))]
    fn every_rule_is_active() {
        assert!(ALL.iter().all(|(rule, _)| active(*rule)));
    }

    #[test]
    #[cfg(locald_mutants)]
    fn rules_are_switched_off_by_name_or_number() {
        assert!(disable_from(b"13-depth,54"));
        assert!(!active(Rule::JsonDepth) && !active(Rule::Memory) && !active(Rule::Counts));
        assert!(active(Rule::JsonDuplicate) && active(Rule::OwnUmask));
        assert!(!disable_from(b"13-depht"));
        assert!(!active(Rule::JsonDepth));
        assert!(disable_from(b"") && active(Rule::JsonDepth));
    }
}
