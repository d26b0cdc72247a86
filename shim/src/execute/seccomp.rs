//! The system call filter: an allow-list in the manner of Docker's default profile.
//!
//! What is known and dangerous gives EPERM, what is not known gives ENOSYS, so that programs fall back
//! as on an older kernel. The list is documented in docs/manual/reference/seccomp.md. A binary search
//! over ranges costs a handful of instructions a call, where a linear list costs hundreds.

use alloc::vec::Vec;

use crate::error::{Context, Error};
use crate::rules::{Rule, active};
use crate::sys::{self, Instruction};

/// What happens to a range of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    /// EPERM: it is known, and not for a container.
    Deny,
    /// ENOSYS: a program is to fall back.
    Absent,
    /// Allowed without a flag for a new namespace in the first argument.
    NoNamespaces(u32),
    /// Allowed for the few harmless personalities.
    Personality,
    /// Allowed but for input faked into a terminal (CVE-2017-5226, CVE-2023-1523).
    NoTerminalInput,
    /// Allowed but for AF_VSOCK, which leads out of every network namespace.
    NoVsock,
}

use Action::{Absent, Allow, Deny, NoNamespaces, NoTerminalInput, NoVsock, Personality};

/// CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET. CLONE_NEWTIME is part of clone(2)'s exit signal.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// The same with CLONE_NEWTIME, for unshare(2).
const NEW_NAMESPACES_OR_TIME: u32 = NEW_NAMESPACES | 0x80;
const AF_VSOCK: u32 = 40;

/// First number of a range and what happens up to the next one, x86_64 numbers in their order.
const RANGES: &[(u32, Action)] = &[
    (0, Allow),                                  // read … rt_sigreturn
    (16, NoTerminalInput),                       // ioctl
    (17, Allow),                                 // pread64 … sendfile
    (41, NoVsock),                               // socket
    (42, Allow),                                 // connect … getsockopt
    (56, NoNamespaces(NEW_NAMESPACES)),          // clone
    (57, Allow),                                 // fork … getuid, ptrace among them
    (103, Deny),                                 // syslog
    (104, Allow),                                // getgid … mknod
    (134, Deny),                                 // uselib
    (135, Personality),                          // personality
    (136, Deny),                                 // ustat
    (137, Allow),                                // statfs, fstatfs
    (139, Deny),                                 // sysfs
    (140, Allow),                                // getpriority … munlockall
    (153, Deny),                                 // vhangup
    (154, Allow),                                // modify_ldt
    (155, Deny),                                 // pivot_root, _sysctl
    (157, Allow),                                // prctl … sync, chroot among them
    (163, Deny),                                 // acct, settimeofday, mount … security
    (186, Allow),                                // gettid … get_thread_area
    (212, Deny),                                 // lookup_dcookie
    (213, Allow),                                // epoll_create … timer_delete
    (227, Deny),                                 // clock_settime
    (228, Allow),                                // clock_gettime … utimes
    (236, Deny),                                 // vserver, mbind, set_mempolicy, get_mempolicy
    (240, Allow),                                // mq_open … mq_getsetattr
    (246, Deny),                                 // kexec_load
    (247, Allow),                                // waitid
    (248, Deny),                                 // add_key, request_key, keyctl
    (251, Allow),                                // ioprio_set … inotify_rm_watch
    (256, Deny),                                 // migrate_pages
    (257, Allow),                                // openat … ppoll
    (272, NoNamespaces(NEW_NAMESPACES_OR_TIME)), // unshare
    (273, Allow),                                // set_robust_list … vmsplice
    (279, Deny),                                 // move_pages
    (280, Allow),                                // utimensat … rt_tgsigqueueinfo
    (298, Deny),                                 // perf_event_open
    (299, Allow),                                // recvmmsg
    (300, Deny),                                 // fanotify_init
    (301, Allow),                                // fanotify_mark, prlimit64, name_to_handle_at
    (304, Deny),                                 // open_by_handle_at, clock_adjtime
    (306, Allow),                                // syncfs, sendmmsg
    (308, Deny),                                 // setns
    (309, Allow),                                // getcpu … kcmp
    (313, Deny),                                 // finit_module
    (314, Allow),                                // sched_setattr … memfd_create
    (320, Deny),                                 // kexec_file_load, bpf
    (322, Allow),                                // execveat
    (323, Deny),                                 // userfaultfd
    (324, Allow),                                // membarrier … rseq
    (335, Absent),                               // no system calls on x86_64
    (424, Allow),                                // pidfd_send_signal
    (425, Deny),                                 // io_uring_*, open_tree … fspick
    (434, Allow),                                // pidfd_open
    (435, Absent), // clone3: its flags lie in memory; clone is the way
    (436, Allow),  // close_range … epoll_pwait2
    (442, Deny),   // mount_setattr, quotactl_fd
    (444, Allow),  // landlock_* … futex_waitv
    (450, Deny),   // set_mempolicy_home_node
    (451, Allow),  // cachestat … futex_requeue
    (457, Deny),   // statmount, listmount
    (459, Allow),  // lsm_get_self_attr
    (460, Deny),   // lsm_set_self_attr
    (461, Allow),  // lsm_list_modules … removexattrat
    (467, Deny),   // open_tree_attr
    (468, Absent), // younger than this list, and the x32 numbers
];

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
// Offsets in struct seccomp_data; the low half of an argument comes first.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const SECOND_ARGUMENT: u32 = 24;

/// Puts this process under the filter, for good.
///
/// # Errors
/// `host.seccomp`.
pub fn install() -> Result<(), Error> {
    // The kernel takes a filter from nobody who might still gain rights: a mutant that leaves
    // no_new_privs out leaves this out too, or it would run nothing and show nothing.
    if active(Rule::TerminalIoctls) && active(Rule::NoNewPrivileges) {
        sys::install_filter(&filter()).or_fail("host.seccomp", "the seccomp filter")?;
    }
    Ok(())
}

/// The filter as a program of classic BPF.
fn filter() -> Vec<Instruction> {
    let mut program = Vec::with_capacity(RANGES.len() * 4);
    program.push(load(ARCHITECTURE));
    // Another architecture's numbers mean other calls: none of them exists here.
    program.push(jump(libc::BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0));
    program.push(answer(Absent));
    program.push(load(NUMBER));
    program.append(&mut tree(RANGES));
    program
}

/// A decision among `ranges`: by halves, so that a call meets about seven comparisons.
fn tree(ranges: &[(u32, Action)]) -> Vec<Instruction> {
    let [(_, action)] = ranges else {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let (mut left, mut right) = (tree(low), tree(high));
        let mut program = Vec::with_capacity(left.len() + right.len() + 2);
        match u8::try_from(left.len()) {
            Ok(skip) => program.push(jump(libc::BPF_JGE, high[0].0, skip, 0)),
            // A conditional jump reaches 255 instructions, the other one any number.
            Err(_) => {
                program.push(jump(libc::BPF_JGE, high[0].0, 0, 1));
                program.push(instruction(libc::BPF_JMP | libc::BPF_JA, left.len() as u32));
            }
        }
        program.append(&mut left);
        program.append(&mut right);
        return program;
    };
    match *action {
        NoNamespaces(flags) => alloc::vec![
            load(FIRST_ARGUMENT),
            jump(libc::BPF_JSET, flags, 0, 1),
            answer(Deny),
            answer(Allow),
        ],
        // PER_LINUX, PER_LINUX32, both with UNAME26, and the question what it is.
        Personality => one_of(FIRST_ARGUMENT, &[0, 8, 0x2_0000, 0x2_0008, u32::MAX], Allow, Deny),
        NoTerminalInput => {
            let forbidden = [libc::TIOCSTI as u32, libc::TIOCLINUX as u32];
            one_of(SECOND_ARGUMENT, &forbidden, Deny, Allow)
        }
        NoVsock => one_of(FIRST_ARGUMENT, &[AF_VSOCK], Deny, Allow),
        plain => alloc::vec![answer(plain)],
    }
}

/// `yes` if the argument at `offset` is one of `values`, else `no`.
fn one_of(offset: u32, values: &[u32], yes: Action, no: Action) -> Vec<Instruction> {
    let mut program = alloc::vec![load(offset)];
    for (index, value) in values.iter().enumerate() {
        let rest = (values.len() - index) as u8;
        program.push(jump(libc::BPF_JEQ, *value, rest, 0));
    }
    program.push(answer(no));
    program.push(answer(yes));
    program
}

fn instruction(code: u32, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> Instruction {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt, jf, k }
}

fn answer(action: Action) -> Instruction {
    let value = match action {
        Allow => libc::SECCOMP_RET_ALLOW,
        Deny => libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        _ => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
    };
    instruction(libc::BPF_RET | libc::BPF_K, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn run(architecture: u32, number: i64, arguments: [u32; 2]) -> u32 {
        let program = filter();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let offset = |yes: bool| usize::from(if yes { jt } else { jf });
            match u32::from(code) {
                c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    accumulator = match k {
                        NUMBER => number as u32,
                        ARCHITECTURE => architecture,
                        FIRST_ARGUMENT => arguments[0],
                        SECOND_ARGUMENT => arguments[1],
                        _ => panic!("offset {k}"),
                    }
                }
                c if c == libc::BPF_JMP | libc::BPF_JA => at += k as usize,
                c if c == libc::BPF_JMP | libc::BPF_JEQ => at += offset(accumulator == k),
                c if c == libc::BPF_JMP | libc::BPF_JGE => at += offset(accumulator >= k),
                c if c == libc::BPF_JMP | libc::BPF_JSET => at += offset(accumulator & k != 0),
                c if c == libc::BPF_RET => return k,
                c => panic!("code {c}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    fn native(number: libc::c_long, arguments: [u32; 2]) -> u32 {
        run(AUDIT_ARCH_X86_64, number, arguments)
    }

    #[test]
    fn every_number_gets_the_action_of_its_range() {
        for number in 0..600_u32 {
            let (_, action) = RANGES.iter().rev().find(|(first, _)| *first <= number).unwrap();
            let expected = match action {
                Allow => ALLOW,
                Deny => EPERM,
                Absent => ENOSYS,
                _ => continue,
            };
            assert_eq!(native(number.into(), [0, 0]), expected, "{number}");
        }
    }

    #[test]
    fn dangerous_calls_are_denied() {
        for number in [
            libc::SYS_keyctl,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_setns,
            libc::SYS_open_tree,
            libc::SYS_fsopen,
            libc::SYS_mount_setattr,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_open_by_handle_at,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_swapon,
            libc::SYS_reboot,
        ] {
            assert_eq!(native(number, [0, 0]), EPERM, "{number}");
        }
        assert_eq!(native(libc::SYS_clone3, [0, 0]), ENOSYS);
    }

    #[test]
    fn arguments_decide() {
        let new_user = libc::CLONE_NEWUSER as u32;
        assert_eq!(native(libc::SYS_clone, [new_user, 0]), EPERM);
        assert_eq!(native(libc::SYS_clone, [libc::SIGCHLD as u32, 0]), ALLOW);
        assert_eq!(native(libc::SYS_unshare, [libc::CLONE_NEWNS as u32, 0]), EPERM);
        assert_eq!(native(libc::SYS_unshare, [0x80, 0]), EPERM);
        assert_eq!(native(libc::SYS_unshare, [libc::CLONE_FILES as u32, 0]), ALLOW);
        assert_eq!(native(libc::SYS_ioctl, [0, libc::TIOCSTI as u32]), EPERM);
        assert_eq!(native(libc::SYS_ioctl, [0, libc::TIOCLINUX as u32]), EPERM);
        assert_eq!(native(libc::SYS_ioctl, [0, libc::TCGETS as u32]), ALLOW);
        assert_eq!(native(libc::SYS_personality, [u32::MAX, 0]), ALLOW);
        assert_eq!(native(libc::SYS_personality, [0x0004_0000, 0]), EPERM);
        assert_eq!(native(libc::SYS_socket, [AF_VSOCK, 0]), EPERM);
        assert_eq!(native(libc::SYS_socket, [libc::AF_INET as u32, 0]), ALLOW);
    }

    #[test]
    fn other_architectures_have_no_calls() {
        assert_eq!(run(0x4000_0003, 1, [0, 0]), ENOSYS);
        assert_eq!(native(0x4000_0000, [0, 0]), ENOSYS);
        assert_eq!(native(-1, [0, 0]), ENOSYS);
    }
}
