/*
 * What a shell cannot do, for the tests of the shim: one verb for each thing, answers on stdout.
 * Inside a container it tells what the kernel grants; on the host it plays the hostile caller.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
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

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int needed;
        int (*run)(char **);
    } verbs[] = {
        {"ioctl", 1, do_ioctl},       {"syscall", 1, do_syscall}, {"limit", 1, do_limit}, {"exec", 1, do_exec},
        {"exchange", 3, do_exchange}, {"ignore", 0, do_ignore},   {"args", 0, do_args},
    };
    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(argv[1], verbs[i].name) && argc - 2 >= verbs[i].needed) return verbs[i].run(argv + 2);
    fputs("probe: unknown verb or too few arguments\n", stderr);
    return 2;
}
