/* Become a job's program: everything that has to be arranged between a fork and an execve, then the execve.
 *
 * The agent could do it by itself in a forked copy, and did: the copy of an interpreter and of the pages that it writes to
 * was most of what a job cost. A static program is started without a copy.
 *
 *   start TROUBLE WORD... -- PROGRAM ARG...
 *
 * TROUBLE is a descriptor: it gets a line if something fails, and nobody else does. The words, carried out in their order:
 *
 *   session | group     setsid(2) | setpgid(2)
 *   terminal            descriptor 0 is the controlling terminal
 *   cgroup=FILE         write "0" to a cgroup.procs
 *   close=N             close a descriptor
 *   limit=R:SOFT:HARD   setrlimit(2), by number
 *   ignore=N | block=N  a signal; all others have their default, and none is blocked
 *   umask=N             octal
 *   personality=N
 *   timer=MS            SIGALRM after so many milliseconds: a timer outlives execve(2)
 *   filter              a seccomp filter that allows everything, without no_new_privs
 *   user=UID:GID:LIST   setgroups(2), setresgid(2), setresuid(2); a list with commas, possibly empty
 *   locked              PR_SET_NO_NEW_PRIVS
 *   cwd=PATH
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum { FAILED = 98, MAX_GROUPS = 64 };

static int trouble;

static void need(int result, const char *what)
{
    if (result >= 0)
        return;
    dprintf(trouble, "%s: %s", what, strerror(errno));
    _exit(FAILED);
}

static void join(const char *file)
{
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    need(fd, file);
    need((int)write(fd, "0", 1), file);
    close(fd);
}

static void limit(const char *value)
{
    unsigned long long soft, hard;
    int resource;
    struct rlimit wanted;
    if (sscanf(value, "%d:%llu:%llu", &resource, &soft, &hard) != 3)
        need(-1, value);
    wanted.rlim_cur = soft;
    wanted.rlim_max = hard;
    need(setrlimit(resource, &wanted), value);
}

static void set_timer(long ms)
{
    struct itimerval once = {.it_value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}};
    need(setitimer(ITIMER_REAL, &once, NULL), "setitimer");
}

static void become(char *value)
{
    gid_t groups[MAX_GROUPS];
    size_t count = 0;
    char *rest = NULL, *each;
    uid_t uid = (uid_t)strtoul(strtok_r(value, ":", &rest), NULL, 10);
    gid_t gid = (gid_t)strtoul(strtok_r(NULL, ":", &rest), NULL, 10);
    while (count < MAX_GROUPS && (each = strtok_r(NULL, ",", &rest)))
        groups[count++] = (gid_t)strtoul(each, NULL, 10);
    need(setgroups(count, groups), "setgroups");
    need(setresgid(gid, gid, gid), "setresgid");
    need(setresuid(uid, uid, uid), "setresuid");
}

static void filter(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    need(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "PR_SET_SECCOMP");
}

static void carry_out(char *word, sigset_t *blocked)
{
    char *value = strchr(word, '=');
    if (value)
        *value++ = '\0';
    if (!strcmp(word, "session"))
        need(setsid(), word);
    else if (!strcmp(word, "group"))
        need(setpgid(0, 0), word);
    else if (!strcmp(word, "terminal"))
        need(ioctl(0, TIOCSCTTY, 0), word);
    else if (!strcmp(word, "filter"))
        filter();
    else if (!strcmp(word, "locked"))
        need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), word);
    else if (!value)
        need((errno = EINVAL, -1), word);
    else if (!strcmp(word, "cgroup"))
        join(value);
    else if (!strcmp(word, "close"))
        need(close(atoi(value)), word);
    else if (!strcmp(word, "limit"))
        limit(value);
    else if (!strcmp(word, "ignore"))
        need(signal(atoi(value), SIG_IGN) == SIG_ERR ? -1 : 0, word);
    else if (!strcmp(word, "block"))
        need(sigaddset(blocked, atoi(value)), word);
    else if (!strcmp(word, "umask"))
        umask((mode_t)strtoul(value, NULL, 8));
    else if (!strcmp(word, "personality"))
        need(personality(strtoul(value, NULL, 10)), word);
    else if (!strcmp(word, "timer"))
        set_timer(atol(value));
    else if (!strcmp(word, "user"))
        become(value);
    else if (!strcmp(word, "cwd"))
        need(chdir(value), value);
    else
        need((errno = EINVAL, -1), word);
}

int main(int argc, char **argv)
{
    sigset_t blocked;
    int place = 2;
    if (argc < 4)
        return FAILED;
    trouble = atoi(argv[1]);
    need(fcntl(trouble, F_SETFD, FD_CLOEXEC), "TROUBLE");
    sigemptyset(&blocked);
    /* By the call itself: signal(3) keeps two for the C library, which whoever started us may have had ignored. All of
     * the kernel's structure is 0: the default, and a mask of 8 bytes. */
    for (int number = 1; number < NSIG; number++)
        syscall(SYS_rt_sigaction, number, (unsigned long[4]){0}, NULL, 8);
    for (; place < argc && strcmp(argv[place], "--"); place++)
        carry_out(argv[place], &blocked);
    if (place + 1 >= argc)
        need((errno = EINVAL, -1), "PROGRAM");
    need(sigprocmask(SIG_SETMASK, &blocked, NULL), "sigprocmask");
    execv(argv[place + 1], argv + place + 1);
    need(-1, argv[place + 1]);
}
