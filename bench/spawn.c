/*
 * Starts one command over and over, and measures each start to its end, for bench/: small, so that what is
 * measured is the command and not the fork of a large process. Reads orders on stdin, one a line:
 *
 *     run              one start; answers `NANOSECONDS WAIT_STATUS`
 *     burst N K        N starts, never more than K at once; answers `NANOSECONDS FAILURES`
 *
 * An argument @ID@ becomes a fresh word for each start. The command's stdin and stdout are /dev/null.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static posix_spawn_file_actions_t actions;

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static pid_t start(char **command) {
    static unsigned number;
    static char id[32];
    char *argv[128];
    int i = 0;
    for (; command[i] && i < 127; i++) argv[i] = strcmp(command[i], "@ID@") ? command[i] : id;
    argv[i] = NULL;
    snprintf(id, sizeof id, "b%d-%u", getpid(), number++);
    pid_t pid;
    int error = posix_spawn(&pid, argv[0], &actions, NULL, argv, environ);
    if (error) {
        fprintf(stderr, "spawn: %s: %s\n", argv[0], strerror(error));
        exit(1);
    }
    return pid;
}

static void run_once(char **command) {
    int status = 0;
    long long before = now_ns();
    pid_t pid = start(command);
    while (waitpid(pid, &status, 0) == -1 && errno == EINTR) {}
    printf("%lld %d\n", now_ns() - before, status);
}

static void run_burst(char **command, int total, int most) {
    int started = 0, ended = 0, failures = 0, status;
    long long before = now_ns();
    while (ended < total) {
        while (started < total && started - ended < most) start(command), started++;
        if (waitpid(-1, &status, 0) > 0) {
            ended++;
            failures += status != 0;
        }
    }
    printf("%lld %d\n", now_ns() - before, failures);
}

int main(int argc, char **argv) {
    char order[64];
    int total, most, null = open("/dev/null", O_RDWR);
    if (argc < 2 || null < 0) return 2;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, null, 0);
    posix_spawn_file_actions_adddup2(&actions, null, 1);
    while (fgets(order, sizeof order, stdin)) {
        if (!strcmp(order, "run\n")) run_once(argv + 1);
        else if (sscanf(order, "burst %d %d", &total, &most) == 2) run_burst(argv + 1, total, most);
        else return 2;
        fflush(stdout);
    }
    return 0;
}
