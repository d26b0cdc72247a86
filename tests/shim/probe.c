/*
 * What a shell cannot do, for the tests of the shim: one verb for each thing, answers on stdout.
 * Inside a container it tells what the kernel grants; on the host it plays the hostile caller.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ioctl REQUEST: on stdin; 0, or the errno. */
static int do_ioctl(char **argv) {
    char data[256] = {0};
    int got = ioctl(0, strtoul(argv[0], NULL, 0), data);
    printf("%d\n", got == -1 ? errno : 0);
    return 0;
}

/* syscall NUMBER [A B C]: the result and the errno. */
static int do_syscall(char **argv) {
    long a[5] = {0};
    for (int i = 0; i < 5 && argv[i]; i++) a[i] = strtol(argv[i], NULL, 0);
    long got = syscall(a[0], a[1], a[2], a[3], a[4]);
    printf("%ld %d\n", got, got == -1 ? errno : 0);
    return 0;
}

/* limit RESOURCE: soft and hard. */
static int do_limit(char **argv) {
    struct rlimit limit;
    if (getrlimit(atoi(argv[0]), &limit)) return 1;
    printf("%llu %llu\n", (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
    return 0;
}

/* exec PATH: execve with an argument vector of length 0. */
static int do_exec(char **argv) {
    char *none[] = {NULL};
    execve(argv[0], none, none);
    perror(argv[0]);
    return 99;
}

/* exchange A B MILLISECONDS: swap two names as fast as possible; prints how often. */
static int do_exchange(char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long end = now.tv_sec * 1000LL + now.tv_nsec / 1000000 + atoll(argv[2]), swaps = 0;
    do {
        for (int i = 0; i < 16; i++)
            if (!renameat2(AT_FDCWD, argv[0], AT_FDCWD, argv[1], RENAME_EXCHANGE)) swaps++;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec * 1000LL + now.tv_nsec / 1000000 < end);
    printf("%lld\n", swaps);
    return swaps ? 0 : 1;
}

/* ignore: TERM and INT are ignored; prints `ready` and sleeps. */
static int do_ignore(char **argv) {
    (void)argv;
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    puts("ready");
    fflush(stdout);
    for (;;) pause();
    return 0;
}

static void show(char **list) {
    for (; *list; list++) {
        for (unsigned char *byte = (unsigned char *)*list; *byte; byte++) printf("%02x", *byte);
        putchar('\n');
    }
}

/* args A...: each argument as hexadecimal bytes, then the environment likewise. */
static int do_args(char **argv) {
    show(argv);
    show(environ);
    return 0;
}

/* Prints the file `path`, each line behind `path` and a colon. */
static void tell_file(const char *path) {
    char line[4096];
    FILE *file = fopen(path, "r");
    if (!file) {
        printf("%s: errno %d\n", path, errno);
        return;
    }
    while (fgets(line, sizeof line, file)) printf("%s: %s", path, line);
    fclose(file);
}

static int file_holds(const char *path, const char *text) {
    char line[4096];
    int found = 0;
    FILE *file = fopen(path, "r");
    while (file && !found && fgets(line, sizeof line, file)) found = strstr(line, text) != NULL;
    if (file) fclose(file);
    return found;
}

static void tell_links(const char *directory) {
    char path[4400], target[4096];
    DIR *list = opendir(directory);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length < 0) continue;
        target[length] = 0;
        printf("%s -> %s\n", path, target);
    }
    if (list) closedir(list);
}

/* report [FILE...]: all that says what this process may do, PID 1 likewise; then the files. */
static int do_report(char **argv) {
    static const char *const files[] = {
        "/proc/self/status",  "/proc/1/status",     "/proc/self/mountinfo", "/proc/self/uid_map",
        "/proc/self/gid_map", "/proc/self/limits",  "/proc/self/setgroups", "/proc/sys/kernel/hostname",
        "/proc/self/cgroup",  "/proc/self/personality", "/proc/self/oom_score_adj", "/proc/self/net/dev",
    };
    /* An init stage may still be busy with its own filter: the payload does not wait for it. Where /proc has been
       exchanged there is nothing to wait for. */
    const char *init = "/proc/1/status";
    for (int i = 0; i < 500 && !access(init, F_OK) && !file_holds(init, "Seccomp:\t2"); i++) usleep(1000);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) tell_file(files[i]);
    tell_links("/proc/self/fd");
    tell_links("/proc/1/fd");
    tell_links("/proc/self/ns");
    printf("dumpable %d, parent-death signal ", prctl(PR_GET_DUMPABLE));
    int signal = -1;
    prctl(PR_GET_PDEATHSIG, &signal);
    printf("%d, session %d\n", signal, getsid(0) == getpid());
    for (; *argv; argv++) tell_file(*argv);
    return 0;
}

/* outlive: without its parent-death signal, until somebody ends it. */
static int do_outlive(char **argv) {
    (void)argv;
    if (prctl(PR_SET_PDEATHSIG, 0)) return 1;
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}

/* stamp: reads the time stamp counter, which kills where PR_SET_TSC forbids it. */
static int do_stamp(char **argv) {
    (void)argv;
    return __builtin_ia32_rdtsc() == 0;
}

/* Stops a process where it has just come from, or still is in, a system call; its registers. */
static int stop_in_call(pid_t pid, struct user_regs_struct *registers) {
    enum { SYSCALL_INSTRUCTION = 0x050f, TRIES = 5000 };
    int status;
    for (int i = 0; i < TRIES; i++) {
        if (ptrace(PTRACE_ATTACH, pid, 0, 0) || waitpid(pid, &status, __WALL) != pid) return -1;
        if (!WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, pid, 0, registers)) return -1;
        if ((ptrace(PTRACE_PEEKTEXT, pid, registers->rip - 2, 0) & 0xffff) == SYSCALL_INSTRUCTION) return 0;
        if (ptrace(PTRACE_DETACH, pid, 0, 0)) return -1;
        usleep(1000);
    }
    return -1;
}

/*
 * ask PID OPTION [word]: lets that process call prctl(OPTION), with `word` with the address of an int; what it returned
 * and the int. No file below /proc tells such attributes. A call that it slept in is made again.
 */
static int do_ask(char **argv) {
    enum { BELOW_RED_ZONE = 512 };
    pid_t pid = atoi(argv[0]);
    struct user_regs_struct before = {0}, asking;
    int status, failed = stop_in_call(pid, &before);
    long place = (before.rsp - BELOW_RED_ZONE) & ~15L, kept = ptrace(PTRACE_PEEKDATA, pid, place, 0);
    asking = before;
    asking.orig_rax = -1;
    asking.rip -= 2;
    asking.rax = SYS_prctl;
    asking.rdi = strtoul(argv[1], NULL, 0);
    asking.rsi = argv[2] ? place : 0;
    asking.rdx = asking.r10 = asking.r8 = 0;
    failed = failed || ptrace(PTRACE_POKEDATA, pid, place, 0) || ptrace(PTRACE_SETREGS, pid, 0, &asking);
    failed = failed || ptrace(PTRACE_SINGLESTEP, pid, 0, 0) || waitpid(pid, &status, __WALL) != pid;
    failed = failed || !WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, pid, 0, &asking);
    int word = (int)ptrace(PTRACE_PEEKDATA, pid, place, 0);
    failed = failed || ptrace(PTRACE_POKEDATA, pid, place, kept) || ptrace(PTRACE_SETREGS, pid, 0, &before);
    if (failed || ptrace(PTRACE_DETACH, pid, 0, 0)) {
        perror("ask");
        return 1;
    }
    printf("%lld %d\n", (long long)asking.rax, word);
    return 0;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int needed;
        int (*run)(char **);
    } verbs[] = {
        {"ioctl", 1, do_ioctl},       {"syscall", 1, do_syscall}, {"limit", 1, do_limit}, {"exec", 1, do_exec},
        {"exchange", 3, do_exchange}, {"ignore", 0, do_ignore},   {"args", 0, do_args},   {"report", 0, do_report},
        {"outlive", 0, do_outlive},   {"stamp", 0, do_stamp},
        {"ask", 2, do_ask},
    };
    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(argv[1], verbs[i].name) && argc - 2 >= verbs[i].needed) return verbs[i].run(argv + 2);
    fputs("probe: unknown verb or too few arguments\n", stderr);
    return 2;
}
