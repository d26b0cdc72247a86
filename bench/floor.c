/*
 * The least that any container start can cost, for bench/: the namespaces of a container, its root, /proc,
 * a tmpfs for /dev, and execve. Run as root. No check, no policy, no cleaning up, no safety: never for use.
 *
 *     floor NETWORK ROOTFS PROGRAM [ARGUMENT...]      NETWORK: new | host
 */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int must(long got, const char *what) {
    if (got == -1) {
        perror(what);
        _exit(1);
    }
    return (int)got;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    struct clone_args how = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP,
        .exit_signal = SIGCHLD,
    };
    if (!strcmp(argv[1], "new")) how.flags |= CLONE_NEWNET;
    int pid = must(syscall(SYS_clone3, &how, sizeof how), "clone3");
    if (pid) {
        int status;
        must(waitpid(pid, &status, 0), "waitpid");
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
    must(mount(argv[2], argv[2], NULL, MS_BIND | MS_REC, NULL), "bind");
    must(chdir(argv[2]), "chdir");
    must(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "proc");
    must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=64k"), "dev");
    must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    must(umount2(".", MNT_DETACH), "umount");
    must(chdir("/"), "chdir");
    char *none[] = {NULL};
    must(execve(argv[3], argv + 3, none), argv[3]);
}
