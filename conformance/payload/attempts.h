/* What a container may try of the kernel; a part of observe.c, which includes it and says how it is printed. */
#include <linux/keyctl.h>

static void attempt(const char *name, long ret)
{
    printf("%s %d\n", name, ret < 0 ? errno : 0);
}

/* Every attempt is safe to be allowed: a bad shim may run this as root on the host itself. So each is
 * made in a child, with arguments that are worthless after the permission check (a file system type that
 * does not exist, a bad magic), and what a file attempt made is removed again. */
#define TRY(name, expression)                                                                                          \
    do {                                                                                                               \
        fflush(stdout);                                                                                                \
        pid_t child = fork();                                                                                          \
        if (child == 0) {                                                                                              \
            errno = 0;                                                                                                 \
            attempt(name, (long)(expression));                                                                         \
            fflush(stdout);                                                                                            \
            _exit(0);                                                                                                  \
        }                                                                                                              \
        int status;                                                                                                    \
        waitpid(child, &status, 0);                                                                                    \
        if (!WIFEXITED(status))                                                                                        \
            printf("%s signal %d\n", name, WTERMSIG(status));                                                          \
    } while (0)

static int make_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        unlink(path);
    return fd;
}

static int make_device(const char *path)
{
    int ret = mknod(path, S_IFBLK | 0600, makedev(7, 0));
    if (ret == 0)
        unlink(path);
    return ret;
}

/* To open is not to read: a masked path is there and says nothing. */
static int read_byte(const char *path)
{
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, &byte, 1);
    close(fd);
    if (got == 0)
        errno = ENODATA;
    return got == 1 ? 0 : -1;
}

static void attempts(void)
{
    char byte = 'x';
    char zero[128] = {0};
    section("attempts");
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    /* What is there: a key that goes with this child's keyring; the session keyring by the name that a new one has. */
    TRY("add_key", syscall(SYS_add_key, "user", "conformance", "x", 1, KEY_SPEC_PROCESS_KEYRING));
    TRY("request_key", syscall(SYS_request_key, "keyring", "_ses", 0, 0));
    TRY("bpf", syscall(SYS_bpf, 0, zero, sizeof zero));
    TRY("perf_event_open", syscall(SYS_perf_event_open, zero, 0, -1, -1, 0));
    TRY("unshare-user", unshare(CLONE_NEWUSER));
    TRY("unshare-mount", unshare(CLONE_NEWNS));
    TRY("mount", mount("none", "/conformance-absent", "conformance", 0, ""));
    TRY("umount", umount2("/conformance-absent", 0));
    TRY("pivot_root", syscall(SYS_pivot_root, "/conformance-absent", "/conformance-absent"));
    TRY("open_tree", syscall(428, AT_FDCWD, "/", 1));
    TRY("fsopen", syscall(430, "tmpfs", 0));
    TRY("setns", setns(0, 0));
    TRY("init_module", syscall(SYS_init_module, zero, 0, ""));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0xffff));
    TRY("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    TRY("swapon", syscall(SYS_swapon, "/", 0));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
    TRY("io_uring_setup", syscall(425, 1, zero));
    TRY("tiocsti", ioctl(0, TIOCSTI, &byte));
    TRY("tioclinux", ioctl(0, TIOCLINUX, &byte));
    TRY("sethostname", syscall(SYS_sethostname, "changed", -1));
    TRY("mknod", make_device("/tmp/conformance-device"));
    TRY("chroot", chroot("/"));
    TRY("setuid-0", setuid(0));
    TRY("setuid-1", setresuid(1, 1, 1));
    TRY("setgroups", syscall(SYS_setgroups, 0, 0));
    TRY("write-sysrq", open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC));
    TRY("write-proc-sys", open("/proc/sys/kernel/domainname", O_WRONLY | O_CLOEXEC));
    TRY("write-core-pattern", open("/proc/sys/kernel/core_pattern", O_WRONLY | O_CLOEXEC));
    TRY("read-kcore", read_byte("/proc/kcore"));
    TRY("write-sys", open("/sys/kernel/uevent_helper", O_WRONLY | O_CLOEXEC));
    TRY("make-dev", make_file("/dev/conformance"));
    TRY("make-root", make_file("/conformance"));
    TRY("unknown", syscall(9999));
    TRY("clone3", syscall(435, NULL, 0));
    TRY("open-tty", open("/dev/tty", O_RDWR | O_CLOEXEC));
    TRY("open-ptmx", open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
    TRY("make-shm", make_file("/dev/shm/conformance"));
}

/* What the kernel has for any process: so EPERM or ENOSYS is the filter's answer. Where the first argument is absurd, the
 * kernel looks at it before it looks at who asks. What is not here asks for a capability first, and is held twice. */
static long raw_clone(unsigned long flags)
{
    long child = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(0);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
    return child;
}

/* getpid(2) by the entry of 32-bit programs, where 20 is its number; of 64-bit ones 20 is writev. */
static long enter_as_i386(void)
{
    long answer = 20;
    __asm__ volatile("int $0x80" : "+a"(answer) : : "memory", "r8", "r9", "r10", "r11");
    if ((int)answer >= 0)
        return 0;
    errno = -(int)answer;
    return -1;
}

static void filtered(void)
{
    /* In the half of a register that the kernel does not read of an int. */
    const unsigned long HIGH = 1UL << 32;
    const int VSOCK = 40, NO_RANDOM_ADDRESSES = 0x40000, WHICH = -1;
    char byte = 'x';
    char zero[128] = {0};
    section("attempts");
    TRY("keyctl", syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0, 0, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "conformance", "x", 1, KEY_SPEC_PROCESS_KEYRING));
    TRY("request_key", syscall(SYS_request_key, "keyring", "_ses", 0, 0));
    TRY("bpf", syscall(SYS_bpf, 9999, zero, sizeof zero));
    TRY("perf_event_open", syscall(SYS_perf_event_open, zero, 0, -1, -1, -1L));
    TRY("unshare-mount", syscall(SYS_unshare, CLONE_NEWNS | 1));
    TRY("mount", mount("none", "/conformance-absent", "conformance", 0, ""));
    TRY("umount", umount2("/conformance-absent", 0x1000));
    TRY("open_tree", syscall(428, AT_FDCWD, "/", 0));
    TRY("fsconfig", syscall(431, -1, 0, 0, 0, 0));
    TRY("mount_setattr", syscall(442, -1, "", 0, zero, 0));
    TRY("setns", setns(-1, 0));
    TRY("swapon", syscall(SYS_swapon, "/", -1));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 1));
    TRY("io_uring_setup", syscall(425, 0, zero));
    TRY("fanotify_init", syscall(SYS_fanotify_init, 0x200, 0));
    TRY("quotactl", syscall(SYS_quotactl, -1, 0, 0, 0));
    TRY("clock_settime", syscall(SYS_clock_settime, 99, 0));
    TRY("get_mempolicy", syscall(SYS_get_mempolicy, 0, 0, 0, 0, 0));
    TRY("clone-user", raw_clone(CLONE_NEWUSER));
    TRY("clone-user-high", raw_clone(HIGH | CLONE_NEWUSER));
    TRY("unshare-user", syscall(SYS_unshare, CLONE_NEWUSER));
    TRY("vsock", syscall(SYS_socket, VSOCK, SOCK_STREAM, 0));
    TRY("vsock-high", syscall(SYS_socket, HIGH | VSOCK, SOCK_STREAM, 0));
    TRY("personality", syscall(SYS_personality, NO_RANDOM_ADDRESSES));
    TRY("tiocsti", syscall(SYS_ioctl, 0, TIOCSTI, &byte));
    TRY("tiocsti-high", syscall(SYS_ioctl, 0, HIGH | TIOCSTI, &byte));
    TRY("tioclinux", syscall(SYS_ioctl, 0, TIOCLINUX, &byte));
    TRY("tioclinux-high", syscall(SYS_ioctl, 0, HIGH | TIOCLINUX, &byte));
    TRY("unknown", syscall(9999));
    TRY("clone3", syscall(435, NULL, 0));
    TRY("x32", syscall(0x40000000 | SYS_getpid));
    TRY("i386", enter_as_i386());
    /* What programs do all the time, by the same calls. */
    TRY("fork", raw_clone(0));
    TRY("personality-which", syscall(SYS_personality, WHICH) < 0 ? -1 : 0);
    TRY("socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
}
