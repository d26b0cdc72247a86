/* What a container can see of itself, printed as raw sections for the controller to read.
 *
 * Static and without any dependency, so that it is the whole of a root filesystem. It judges nothing.
 *
 *   observe facts             everything below, then exit 0
 *   observe glance            the same without attempts and masked paths, which cost an emulated CPU a second
 *   observe filter            what the filter of system calls answers, each asked so that the kernel would answer otherwise
 *   observe ids               user and group ids, real and effective, and the effective capabilities, in a line
 *   observe each PROGRAM...   run each with the argument `ids`
 *   observe unnamed PROGRAM   become PROGRAM with no argument at all, not even a name
 *   observe exit N            exit with N
 *   observe signals N         say "ready", report N signals as they come, exit 0
 *   observe wait              say "ready" and wait to be killed, default dispositions
 *   observe orphan            leave a grandchild behind, say "ready", wait
 *   observe reap              make orphans that end at once, and see whether somebody reaps them all
 *   observe job               with a child in its group, say which of TERM and INT each gets, until both had INT
 *   observe loopback          is there a way to 127.0.0.1? The errno. Not one of the facts: they connect to nothing
 *   observe touch PATH        make PATH (it exists: open it for writing), say the errno
 *   observe stat PATH...      uid, gid and mode of each
 *   observe dated PATH NAME   the time of the last change and the value of an extended attribute
 *   observe cat               copy the standard input to the standard output
 *   observe pipe              write into a closed pipe; SIGPIPE ends it
 *   observe winch             print the window size, wait for SIGWINCH, print it again
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>
#include <unistd.h>

extern char **environ;

static void section(const char *name) { printf("\n== %s\n", name); }

#include "attempts.h"

static void copy(const char *name, const char *path)
{
    char buffer[65536];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    section(name);
    if (fd < 0) {
        printf("errno %d\n", errno);
        return;
    }
    fflush(stdout);
    while ((n = read(fd, buffer, sizeof buffer)) > 0)
        fwrite(buffer, 1, (size_t)n, stdout);
    close(fd);
}

static void link_of(const char *name, const char *path)
{
    char target[4096];
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0) {
        printf("%s errno %d\n", name, errno);
        return;
    }
    target[n] = 0;
    printf("%s %s\n", name, target);
}

static void list_fds(void)
{
    section("fds");
    /* Asked number by number: opening a directory would show a descriptor of our own. */
    for (int fd = 0; fd < 4096; fd++) {
        char path[64], name[16];
        if (fcntl(fd, F_GETFD) < 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        snprintf(name, sizeof name, "%d", fd);
        link_of(name, path);
    }
}

/* On which file system each stream is: the name of a terminal says nothing of whose it is. */
static void list_streams(void)
{
    struct stat st;
    section("streams");
    for (int fd = 0; fd < 3; fd++)
        printf("%d %lx\n", fd, fstat(fd, &st) < 0 ? 0UL : (unsigned long)st.st_dev);
    printf("/dev/pts %lx\n", stat("/dev/pts", &st) < 0 ? 0UL : (unsigned long)st.st_dev);
}

static void list_dir(const char *name, const char *path)
{
    struct dirent *entry;
    struct stat st;
    DIR *dir = opendir(path);
    section(name);
    if (!dir) {
        printf("errno %d\n", errno);
        return;
    }
    while ((entry = readdir(dir))) {
        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        printf("%s %o %u %u %u:%u\n", entry->d_name, st.st_mode, st.st_uid, st.st_gid, major(st.st_rdev),
               minor(st.st_rdev));
    }
    closedir(dir);
}

/* Nothing is sent; but without lo there is no way there. */
static int reach_loopback(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int ret = fd < 0 ? fd : connect(fd, (struct sockaddr *)&address, sizeof address);
    close(fd);
    return ret;
}

static const char *const MASKED[] = {
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
};

/* A masked path shows nothing: absent, empty, or not to be opened. */
static void masked(void)
{
    section("masked");
    for (size_t i = 0; i < sizeof MASKED / sizeof *MASKED; i++) {
        struct stat st;
        char byte;
        if (stat(MASKED[i], &st) < 0) {
            printf("%s absent\n", MASKED[i]);
        } else if (S_ISDIR(st.st_mode)) {
            DIR *dir = opendir(MASKED[i]);
            int entries = 0;
            while (dir && readdir(dir))
                entries++;
            printf("%s %s\n", MASKED[i], entries > 2 ? "OPEN" : "empty");
        } else {
            int fd = open(MASKED[i], O_RDONLY | O_CLOEXEC);
            ssize_t n = fd < 0 ? -1 : read(fd, &byte, 1);
            printf("%s %s\n", MASKED[i], fd < 0 ? "denied" : n > 0 ? "OPEN" : "empty");
        }
    }
}

/* The programs and descriptors of every process that can be seen: a way back to the shim would show here. */
static void list_links(void)
{
    struct dirent *entry;
    DIR *dir = opendir("/proc");
    section("links");
    while (dir && (entry = readdir(dir))) {
        char path[300];
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
        link_of(path, path);
        for (int fd = 0; fd < 64; fd++) {
            struct stat st;
            snprintf(path, sizeof path, "/proc/%s/fd/%d", entry->d_name, fd);
            if (lstat(path, &st) == 0)
                link_of(path, path);
        }
    }
    if (dir)
        closedir(dir);
}

static void facts(int argc, char **argv, int whole)
{
    char cwd[4096];
    struct utsname system;
    int signal_at_end = 0;
    mode_t mask = umask(022);
    sigset_t pending;
    umask(mask);

    list_fds();
    list_streams();
    section("argv");
    for (int i = 0; i < argc; i++)
        printf("%s\n", argv[i]);
    section("environ");
    for (char **e = environ; *e; e++)
        printf("%s\n", *e);
    section("process");
    printf("pid %d\nppid %d\npgid %d\nsid %d\numask %o\n", getpid(), getppid(), getpgid(0), getsid(0), mask);
    printf("uid %u\neuid %u\ngid %u\negid %u\n", getuid(), geteuid(), getgid(), getegid());
    printf("cwd %s\n", getcwd(cwd, sizeof cwd) ? cwd : "?");
    printf("release %s\n", uname(&system) == 0 ? system.release : "?");
    printf("no_new_privs %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    prctl(PR_GET_PDEATHSIG, &signal_at_end);
    printf("pdeathsig %d\ndumpable %d\n", signal_at_end, prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    sigpending(&pending);
    printf("tty %d%d%d\n", isatty(0), isatty(1), isatty(2));
    link_of("exe", "/proc/self/exe");
    link_of("root", "/proc/self/root");
    copy("status", "/proc/self/status");
    copy("pid1-cmdline", "/proc/1/cmdline");
    copy("uid_map", "/proc/self/uid_map");
    copy("gid_map", "/proc/self/gid_map");
    copy("setgroups", "/proc/self/setgroups");
    copy("mountinfo", "/proc/self/mountinfo");
    copy("limits", "/proc/self/limits");
    copy("cgroup", "/proc/self/cgroup");
    copy("hostname", "/proc/sys/kernel/hostname");
    copy("net", "/proc/net/dev");
    copy("port-start", "/proc/sys/net/ipv4/ip_unprivileged_port_start");
    copy("attr", "/proc/self/attr/current");
    section("namespaces");
    link_of("user", "/proc/self/ns/user");
    link_of("mnt", "/proc/self/ns/mnt");
    link_of("pid", "/proc/self/ns/pid");
    link_of("ipc", "/proc/self/ns/ipc");
    link_of("uts", "/proc/self/ns/uts");
    link_of("net", "/proc/self/ns/net");
    link_of("cgroup", "/proc/self/ns/cgroup");
    list_dir("dev", "/dev");
    section("dev-links");
    link_of("fd", "/dev/fd");
    link_of("stdin", "/dev/stdin");
    link_of("stdout", "/dev/stdout");
    link_of("stderr", "/dev/stderr");
    list_dir("root", "/");
    list_dir("proc-self-fd", "/proc/1/fd");
    list_links();
    if (whole) {
        masked();
        attempts();
    }
    section("end");
}

static int tell_ids(const char *name)
{
    char line[256], *found = NULL;
    FILE *file = fopen("/proc/self/status", "re");
    while (file && !found && fgets(line, sizeof line, file))
        found = strncmp(line, "CapEff:", 7) ? NULL : line + 8;
    printf("%s %u %u %u %u %s", name, getuid(), geteuid(), getgid(), getegid(), found ? found : "?\n");
    return 0;
}

static int run_each(char **programs)
{
    for (; *programs; programs++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            execl(*programs, *programs, "ids", NULL);
            printf("%s errno %d\n", *programs, errno);
            fflush(stdout);
            _exit(1);
        }
        waitpid(child, NULL, 0);
    }
    return 0;
}

static void report_signal(int number)
{
    char line[] = "signal 00\n";
    line[7] = (char)('0' + number / 10);
    line[8] = (char)('0' + number % 10);
    (void)!write(1, line, sizeof line - 1);
}

static void say(const char *text) { (void)!write(1, text, strlen(text)); }

/* A process by the number that it has outside, which comes on standard input: signal 0, and a byte of its memory. */
static int reach_process(void)
{
    char text[16] = {0};
    char byte;
    struct iovec ours = {.iov_base = &byte, .iov_len = 1};
    say("ready\n");
    if (read(0, text, sizeof text - 1) <= 0)
        return 1;
    pid_t pid = atoi(text);
    struct iovec theirs = {.iov_base = (void *)&reach_process, .iov_len = 1};
    attempt("signal", kill(pid, 0));
    attempt("memory", process_vm_readv(pid, &ours, 1, &theirs, 1, 0));
    return 0;
}

static int watch_signals(int count)
{
    sigset_t all, one;
    int number;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    say("ready\n");
    one = all;
    sigdelset(&one, SIGCHLD);
    for (int i = 0; i < count; i++) {
        if (sigwait(&one, &number))
            return 1;
        report_signal(number);
    }
    return 0;
}

static int leave_orphan(void)
{
    if (fork() == 0) {
        if (fork() == 0) {
            setsid();
            for (;;)
                pause();
        }
        _exit(0);
    }
    wait(NULL);
    say("ready\n");
    for (;;)
        pause();
}

/* The pid of each orphan must vanish: a zombie that nobody reaps stays visible to kill(pid, 0). They end at one moment,
 * so that their SIGCHLDs become one: the kernel keeps no count of a signal that is pending. */
static int see_reaping(void)
{
    enum { ORPHANS = 12 };
    int names[2], gate[2];
    pid_t orphans[ORPHANS] = {0};
    if (pipe(names) < 0 || pipe(gate) < 0)
        return 1;
    if (fork() == 0) {
        close(gate[1]);
        for (int i = 0; i < ORPHANS; i++) {
            pid_t inner = fork();
            if (inner == 0) {
                char byte;
                (void)!read(gate[0], &byte, 1);
                _exit(0);
            }
            (void)!write(names[1], &inner, sizeof inner);
        }
        _exit(0);
    }
    for (int i = 0; i < ORPHANS; i++)
        (void)!read(names[0], &orphans[i], sizeof orphans[i]);
    wait(NULL);
    close(gate[1]);
    for (int i = 0, gone = 0; i < 500; i++) {
        while (gone < ORPHANS && kill(orphans[gone], 0) < 0 && errno == ESRCH)
            gone++;
        if (gone == ORPHANS) {
            say("reaped\n");
            return 0;
        }
        usleep(10000);
    }
    say("zombie\n");
    return 1;
}

static void tell_signals(const char *who, const sigset_t *set)
{
    char line[32];
    int signal = 0;
    while (signal != SIGINT) {
        sigwait(set, &signal);
        snprintf(line, sizeof line, "%s %d\n", who, signal);
        say(line);
    }
}

static int see_job(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pid_t child = fork();
    if (child == 0) {
        tell_signals("child", &set);
        _exit(0);
    }
    say("ready\n");
    tell_signals("payload", &set);
    waitpid(child, NULL, 0);
    return 0;
}

static void window(void)
{
    struct winsize size = {0};
    int ret = ioctl(0, TIOCGWINSZ, &size);
    printf("window %d %d %d\n", ret, size.ws_row, size.ws_col);
    fflush(stdout);
}

/* Uses that much memory, page by page. */
static int use_memory(long megabytes)
{
    size_t size = (size_t)megabytes << 20;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    for (size_t at = 0; at < size; at += 4096)
        memory[at] = 1;
    say("used\n");
    return 0;
}

/* Forks until it may not, at most that often; the children live until the end. */
static int fork_many(int most)
{
    int made = 0;
    while (made < most) {
        pid_t child = fork();
        if (child == 0)
            for (;;)
                pause();
        if (child < 0)
            break;
        made++;
    }
    printf("forks %d %d\n", made, made < most ? errno : 0);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "facts";
    if (!strcmp(verb, "facts")) {
        facts(argc, argv, 1);
        return 0;
    }
    if (!strcmp(verb, "glance")) {
        facts(argc, argv, 0);
        return 0;
    }
    if (!strcmp(verb, "filter")) {
        section("process");
        printf("tty %d%d%d\n", isatty(0), isatty(1), isatty(2));
        filtered();
        section("end");
        return 0;
    }
    if (!strcmp(verb, "ids"))
        return tell_ids(argv[0]);
    if (!strcmp(verb, "each"))
        return run_each(argv + 2);
    if (!strcmp(verb, "unnamed") && argc > 2) {
        char *none[] = {NULL};
        execve(argv[2], none, environ);
        return 98;
    }
    if (!strcmp(verb, "exit") && argc > 2)
        return atoi(argv[2]);
    if (!strcmp(verb, "signals") && argc > 2)
        return watch_signals(atoi(argv[2]));
    if (!strcmp(verb, "wait")) {
        say("ready\n");
        for (;;)
            pause();
    }
    if (!strcmp(verb, "reach"))
        return reach_process();
    if (!strcmp(verb, "memory") && argc > 2)
        return use_memory(atol(argv[2]));
    if (!strcmp(verb, "forks") && argc > 2)
        return fork_many(atoi(argv[2]));
    if (!strcmp(verb, "cgroup")) {
        /* The line of cgroup v2. */
        char line[4200];
        FILE *file = fopen("/proc/self/cgroup", "re");
        while (file && fgets(line, sizeof line, file))
            if (!strncmp(line, "0::", 3))
                fputs(line, stdout);
        return 0;
    }
    if (!strcmp(verb, "orphan"))
        return leave_orphan();
    if (!strcmp(verb, "reap"))
        return see_reaping();
    if (!strcmp(verb, "job"))
        return see_job();
    if (!strcmp(verb, "loopback")) {
        attempt("loopback", reach_loopback());
        return 0;
    }
    if (!strcmp(verb, "show")) {
        for (int i = 2; i < argc; i++)
            copy(argv[i], argv[i]);
        section("end");
        return 0;
    }
    if (!strcmp(verb, "ping")) {
        /* The socket that asks for an echo; nothing is sent. */
        attempt("ping", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP));
        return 0;
    }
    if (!strcmp(verb, "touch") && argc > 2) {
        int fd = open(argv[2], O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        printf("touch %d\n", fd < 0 ? errno : 0);
        return 0;
    }
    if (!strcmp(verb, "stat")) {
        for (int i = 2; i < argc; i++) {
            struct stat st;
            if (lstat(argv[i], &st) < 0)
                printf("%s errno %d\n", argv[i], errno);
            else
                printf("%s %u %u %o\n", argv[i], st.st_uid, st.st_gid, st.st_mode);
        }
        return 0;
    }
    if (!strcmp(verb, "dated") && argc > 3) {
        struct stat found;
        char value[64] = "";
        if (lstat(argv[2], &found) != 0 || lgetxattr(argv[2], argv[3], value, sizeof value - 1) < 0)
            return errno;
        printf("%lld.%09ld %s\n", (long long)found.st_mtim.tv_sec, found.st_mtim.tv_nsec, value);
        return 0;
    }
    if (!strcmp(verb, "cat")) {
        char buffer[4096];
        ssize_t n;
        while ((n = read(0, buffer, sizeof buffer)) > 0)
            (void)!write(1, buffer, (size_t)n);
        return 0;
    }
    if (!strcmp(verb, "pipe")) {
        int ends[2];
        if (pipe(ends) < 0)
            return 1;
        close(ends[0]);
        (void)!write(ends[1], "x", 1);
        say("survived\n");
        return 0;
    }
    if (!strcmp(verb, "winch")) {
        sigset_t set;
        int number;
        sigemptyset(&set);
        sigaddset(&set, SIGWINCH);
        sigprocmask(SIG_BLOCK, &set, NULL);
        window();
        sigwait(&set, &number);
        window();
        return 0;
    }
    fprintf(stderr, "observe: unknown verb %s\n", verb);
    return 99;
}
