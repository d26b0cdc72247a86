/*
 * Runs the setuid shim as an ordinary user below ptrace, and does one thing at one system call of one of its
 * processes: lets the call fail, kills a process, or stops it or exchanges two names with that user's own rights.
 *
 * A tracer with CAP_SYS_PTRACE leaves the set-user-id bit its effect. A process is named by the way to it: "0" is
 * the shim, "0.0" its first child, "0.0.1" that one's second. Names and counts are the same in every run, other
 * than pids, so that a boundary found in one run is found again in the next. What the payload does is not traced:
 * a child is let go of when it has executed another program. The shim's thread that waits for a limit is not
 * traced (CLONE_UNTRACED): what it calls would come between the others' calls, never twice at the same place.
 *
 * Jobs come on stdin, one a line, words parted by blanks:
 *     UID GID LIMIT_MS RECORD DIRECTORY CGROUP STDIN ACTION... -- ARGV...
 *     CGROUP: the directory of a cgroup to start in, or -; STDIN: null, or socket for one end of a pair of UID's
 *     ACTION: none | error WHERE INDEX ERRNO | kill WHERE INDEX VICTIM | stop WHERE INDEX | swap WHERE INDEX BACK A B
 * `stop` is SIGSTOP, after which the process is not traced: it makes that call and stays stopped.
 * `swap` exchanges A and B (an @ at the end of either is the shim's pid) before call INDEX of WHERE, and again before
 * the BACK-th call after it (of anyone) where BACK is not 0. The answer is a line of numbers, then the trace, stdout, stderr and what came over the other
 * end of the pair (a line for each descriptor, what it is and whose, then the text), as long as that line says:
 *     WAIT_STATUS HIT HANGS LEFT MICROSECONDS TRACE_LENGTH OUT_LENGTH ERR_LENGTH RECEIVED_LENGTH
 * Without RECORD the trace is of the call that was hit alone.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef __x86_64__
#error "knows the registers of x86_64 only"
#endif

enum { MAX_TASKS = 64, MAX_WORDS = 64, MAX_FDS = 16, LABEL = 48, PIPE_BYTES = 1 << 20, LEFT_MS = 2000 };
enum action { NONE, ERROR, KILL, STOP, SWAP };

struct task {
    pid_t pid;
    char label[LABEL];
    int calls, children;
    int started;  /* its first stop has been seen */
    int fail_now; /* the call it is in fails with this errno */
    int executed; /* the shim itself: its own execve is over */
};

struct job {
    unsigned uid, gid;
    long limit_ms;
    int record, socket;
    const char *directory, *cgroup;
    enum action action;
    const char *where, *victim, *a, *b;
    int index, number, back;
    char **argv;
};

static struct task tasks[MAX_TASKS];
static int task_count;
static pid_t early[MAX_TASKS]; /* stopped before their parent's event told who they are */
static int early_count;
static char *trace;
static size_t trace_length, trace_size;
static int tried, hit, exchanged_back, calls_since;

static void die(const char *what) {
    perror(what);
    exit(3);
}

/* Interrupts waitpid, no more. */
static void on_alarm(int signal) { (void)signal; }

static long long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static struct task *find_task(pid_t pid) {
    for (int i = 0; i < task_count; i++)
        if (tasks[i].pid == pid) return &tasks[i];
    return NULL;
}

static struct task *find_label(const char *label) {
    for (int i = 0; i < task_count; i++)
        if (!strcmp(tasks[i].label, label)) return &tasks[i];
    return NULL;
}

static struct task *add_task(pid_t pid, const char *parent, int number) {
    if (task_count == MAX_TASKS) die("too many processes");
    struct task *task = &tasks[task_count++];
    memset(task, 0, sizeof *task);
    task->pid = pid;
    if (parent)
        snprintf(task->label, LABEL, "%.40s.%d", parent, number);
    else
        strcpy(task->label, "0");
    return task;
}

static void note(const char *text) {
    size_t length = strlen(text);
    if (trace_length + length + 1 > trace_size) {
        trace_size = (trace_size + length) * 2 + 4096;
        if (!(trace = realloc(trace, trace_size))) die("realloc");
    }
    memcpy(trace + trace_length, text, length + 1);
    trace_length += length;
}

/* The string at `address` of `pid`, or "" where there is none; blanks and what is not printable become '?'. */
static void read_string(pid_t pid, uint64_t address, char *text, size_t size) {
    text[0] = 0;
    /* Up to the page's end at most: the next page may be missing. */
    size_t room = 4096 - (address & 4095);
    if (room > size - 1) room = size - 1;
    struct iovec here = {text, room}, there = {(void *)address, room};
    ssize_t got = address < 4096 ? -1 : process_vm_readv(pid, &here, 1, &there, 1, 0);
    text[got < 0 ? 0 : got] = 0;
    for (char *byte = text; *byte; byte++)
        if (*byte <= ' ' || *byte > '~') *byte = '?';
}

/* `name`, and the shim's pid in the place of an @ at its end: nobody knows that one earlier. */
static void complete(const char *name, char *path, size_t size) {
    size_t length = strlen(name);
    if (length && name[length - 1] == '@')
        snprintf(path, size, "%.*s%d", (int)length - 1, name, tasks[0].pid);
    else
        snprintf(path, size, "%s", name);
}

/* The attacker, a process that is wholly the caller: stops `victim`, or where that is 0 makes one exchange; says
 * whether he could. */
static int attack(const struct job *job, pid_t victim) {
    char a[4096], b[4096];
    if (!victim) {
        complete(job->a, a, sizeof a);
        complete(job->b, b, sizeof b);
    }
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (!pid) {
        if (setgroups(0, NULL) || setresgid(job->gid, job->gid, job->gid) || setresuid(job->uid, job->uid, job->uid))
            _exit(1);
        if (victim) _exit(kill(victim, SIGSTOP) ? 2 : 0);
        _exit(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) ? 2 : 0);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid) die("waitpid");
    return status == 0;
}

static void record(const struct task *task, int index, const struct __ptrace_syscall_info *info) {
    char line[256], text[96];
    read_string(task->pid, info->entry.args[info->entry.nr == SYS_execve ? 0 : 1], text, sizeof text);
    snprintf(line, sizeof line, "%s %d %llu %llu %llu %llu %s\n", task->label, index,
             (unsigned long long)info->entry.nr, (unsigned long long)info->entry.args[0],
             (unsigned long long)info->entry.args[1], (unsigned long long)info->entry.args[2], text);
    note(line);
}

static void at_entry(const struct job *job, struct task *task, const struct __ptrace_syscall_info *info) {
    int index = task->calls++;
    if (job->record) record(task, index, info);
    if (job->action == SWAP && hit && job->back && !exchanged_back && ++calls_since >= job->back) {
        attack(job, 0);
        exchanged_back = 1;
    }
    if (tried || job->action == NONE || index != job->index || strcmp(task->label, job->where)) return;
    tried = hit = 1;
    if (!job->record) record(task, index, info); /* what it was this time */
    if (job->action == SWAP) hit = attack(job, 0);
    if (job->action == STOP) hit = attack(job, task->pid);
    if (job->action == ERROR) {
        /* No such call: the kernel does nothing, and what it returns is replaced when it does. But for close(2),
         * which frees the descriptor whatever it returns. */
        if (info->entry.nr != SYS_close &&
            ptrace(PTRACE_POKEUSER, task->pid, offsetof(struct user_regs_struct, orig_rax), -1L))
            die("POKEUSER");
        task->fail_now = job->number;
    }
    if (job->action == KILL) {
        struct task *victim = find_label(job->victim);
        /* 0 would be this whole process group. */
        if (victim && victim->pid > 0) kill(victim->pid, SIGKILL);
    }
}

static void at_exit(struct task *task) {
    if (!task->fail_now) return;
    long result = -task->fail_now;
    task->fail_now = 0;
    ptrace(PTRACE_POKEUSER, task->pid, offsetof(struct user_regs_struct, rax), result);
}

static void set_up(struct task *task) {
    task->started = 1;
    ptrace(PTRACE_SYSCALL, task->pid, 0, 0);
}

static void new_child(struct task *parent, pid_t pid) {
    struct task *child = add_task(pid, parent->label, parent->children++);
    for (int i = 0; i < early_count; i++)
        if (early[i] == pid) {
            early[i] = early[--early_count];
            set_up(child);
            return;
        }
}

/* One stop of a traced process; lets it go on. */
static void handle_stop(const struct job *job, pid_t pid, int status) {
    struct task *task = find_task(pid);
    int signal = WSTOPSIG(status), event = status >> 16;
    if (!task) {
        if (early_count < MAX_TASKS) early[early_count++] = pid;
        return;
    }
    if (!task->started) { /* the SIGSTOP that every new child begins with */
        set_up(task);
        return;
    }
    if (event) {
        unsigned long message = 0;
        ptrace(PTRACE_GETEVENTMSG, pid, 0, &message);
        if (event == PTRACE_EVENT_EXEC) {
            if (task != &tasks[0]) {
                ptrace(PTRACE_DETACH, pid, 0, 0);
                return;
            }
            task->executed = 1;
        } else {
            new_child(task, (pid_t)message);
        }
        signal = 0;
    } else if (signal == (SIGTRAP | 0x80)) {
        struct __ptrace_syscall_info info;
        signal = 0;
        /* Before the shim's execve, calls are this program's. */
        if (tasks[0].executed && ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) > 0) {
            int before = tried;
            if (info.op == PTRACE_SYSCALL_INFO_ENTRY) at_entry(job, task, &info);
            if (job->action == STOP && tried != before) {
                /* A tracer would have to keep it stopped; the kernel does so by itself. */
                ptrace(PTRACE_DETACH, pid, 0, 0);
                return;
            }
            if (info.op == PTRACE_SYSCALL_INFO_EXIT) at_exit(task);
        }
    }
    ptrace(PTRACE_SYSCALL, pid, 0, signal);
}

/* A pair of sockets that the caller made, so that the peer of either is he. */
static void make_pair(const struct job *job, int ends[2]) {
    if (setegid(job->gid) || seteuid(job->uid)) die("seteuid");
    int made = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
    if (seteuid(0) || setegid(0) || made) die("socketpair");
}

/* Says in one line what a descriptor is: the shim may have sent anything. */
static size_t describe(int fd, char *text, size_t size) {
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name, one = sizeof(int);
    struct stat status;
    int listening = 0;
    char address[INET_ADDRSTRLEN] = "?";
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &one);
    if (!getsockname(fd, (struct sockaddr *)&name, &length) && name.sin_family == AF_INET)
        inet_ntop(AF_INET, &name.sin_addr, address, sizeof address);
    if (fstat(fd, &status)) die("fstat");
    return snprintf(text, size, "mode %o of uid %u, %s port %d, listening %d\n", status.st_mode & S_IFMT, status.st_uid,
                    address, ntohs(name.sin_port), listening);
}

/* Takes in whatever waits at our end of the pair, and closes what came. */
static char *receive(int fd, size_t *length) {
    char *text = malloc(PIPE_BYTES), control[CMSG_SPACE(MAX_FDS * sizeof(int))], words[4096];
    *length = 0;
    for (;;) {
        struct iovec piece = {words, sizeof words};
        struct msghdr message = {
            .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got <= 0 || *length > PIPE_BYTES / 2) break;
        for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
            int *fds = (int *)CMSG_DATA(part);
            for (size_t i = 0; i < (part->cmsg_len - CMSG_LEN(0)) / sizeof *fds; i++) {
                *length += describe(fds[i], text + *length, 256);
                close(fds[i]);
            }
        }
        memcpy(text + *length, words, got);
        *length += got;
    }
    close(fd);
    return text;
}

static void join(const char *cgroup) {
    char path[4096];
    snprintf(path, sizeof path, "%s/cgroup.procs", cgroup);
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, "0", 1) != 1) _exit(97);
    close(fd);
}

static pid_t start(const struct job *job, int in, int out, int err) {
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid) return pid;
    static char *environment[] = {"PATH=/usr/bin:/bin", NULL, NULL};
    environment[1] = getenv("TRACER_ENV"); /* one more entry, for mutant builds */
    /* A caller like any other, whatever started these tests ignores: a shell in the background SIGINT. */
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
    if (strcmp(job->cgroup, "-")) join(job->cgroup);
    dup2(in, 0);
    dup2(out, 1);
    dup2(err, 2);
    close_range(3, ~0U, 0);
    /* What a caller may leave open, and no container may find. */
    dup2(open("/", O_RDONLY | O_DIRECTORY), 9);
    close(3);
    umask(022);
    /* First of all: the kernel remembers with whose rights the tracing was begun, and asks for root's at execve. */
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) || chdir(job->directory) || setgroups(0, NULL)) _exit(98);
    if (setresgid(job->gid, job->gid, job->gid) || setresuid(job->uid, job->uid, job->uid)) _exit(98);
    if (raise(SIGSTOP)) _exit(98);
    execve(job->argv[0], job->argv, environment);
    _exit(99);
}

static char *drain(int fd, size_t *length) {
    char *text = malloc(PIPE_BYTES);
    *length = 0;
    for (ssize_t got; *length < PIPE_BYTES && (got = read(fd, text + *length, PIPE_BYTES - *length)) > 0;)
        *length += got;
    close(fd);
    return text;
}

/* Kills and collects whatever is left of this job; says how many there were. */
static int collect_rest(void) {
    int left = 0, status;
    long long end = now_us() + LEFT_MS * 1000LL;
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL | WNOHANG);
        if (pid < 0) return left;
        if (pid > 0 && WIFSTOPPED(status)) {
            /* A process that only now stops: let it run, it is judged by whether it ends. */
            ptrace(PTRACE_DETACH, pid, 0, 0);
            continue;
        }
        if (pid > 0) continue;
        if (now_us() > end) {
            char path[64], text[4096];
            snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
            FILE *list = fopen(path, "r");
            text[0] = 0;
            if (list && fgets(text, sizeof text, list))
                for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
                    left++;
                    kill(atoi(word), SIGKILL);
                }
            if (list) fclose(list);
            end = now_us() + LEFT_MS * 1000LL;
        }
        usleep(200);
    }
}

static void run(const struct job *job) {
    int in[2] = {-1, -1}, out[2], err[2], result = 0, hangs = 0;
    if (job->socket) make_pair(job, in);
    else if ((in[1] = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0) die("/dev/null");
    if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) die("pipe2");
    fcntl(out[0], F_SETPIPE_SZ, PIPE_BYTES);
    task_count = early_count = tried = hit = exchanged_back = calls_since = 0;
    trace_length = 0;
    long long begin = now_us();
    struct itimerval limit = {{0, 100000}, {job->limit_ms / 1000, job->limit_ms % 1000 * 1000}};
    pid_t shim = start(job, in[1], out[1], err[1]);
    close(in[1]);
    close(out[1]);
    close(err[1]);
    add_task(shim, NULL, 0);
    setitimer(ITIMER_REAL, &limit, NULL);
    int first = 1;
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0 && errno == EINTR) {
            hangs = 1;
            kill(shim, SIGKILL);
            continue;
        }
        if (pid < 0) break;
        if (first && WIFSTOPPED(status)) {
            long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
                           PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
            if (ptrace(PTRACE_SETOPTIONS, pid, 0, options)) die("SETOPTIONS");
            first = 0;
        }
        if (WIFSTOPPED(status)) {
            handle_stop(job, pid, status);
        } else {
            struct task *task = find_task(pid);
            if (task) task->pid = 0;
            if (pid == shim) {
                result = status;
                break;
            }
        }
    }
    memset(&limit, 0, sizeof limit);
    setitimer(ITIMER_REAL, &limit, NULL);
    long long took = now_us() - begin;
    int left = collect_rest();
    size_t out_length, err_length, got_length = 0;
    char *got_text = job->socket ? receive(in[0], &got_length) : NULL;
    char *out_text = drain(out[0], &out_length), *err_text = drain(err[0], &err_length);
    printf("%d %d %d %d %lld %zu %zu %zu %zu\n", result, hit, hangs, left, took, trace_length, out_length, err_length,
           got_length);
    fwrite(trace, 1, trace_length, stdout);
    fwrite(out_text, 1, out_length, stdout);
    fwrite(err_text, 1, err_length, stdout);
    if (got_text) fwrite(got_text, 1, got_length, stdout);
    fflush(stdout);
    free(out_text);
    free(err_text);
    free(got_text);
}

static int parse(char *line, struct job *job) {
    static char *words[MAX_WORDS + 1];
    int count = 0;
    memset(job, 0, sizeof *job);
    for (char *word = strtok(line, " \n"); word && count < MAX_WORDS; word = strtok(NULL, " \n")) words[count++] = word;
    words[count] = NULL;
    if (count < 10) return 0;
    job->uid = strtoul(words[0], NULL, 10);
    job->gid = strtoul(words[1], NULL, 10);
    job->limit_ms = atol(words[2]);
    job->record = atoi(words[3]);
    job->directory = words[4];
    job->cgroup = words[5];
    job->socket = !strcmp(words[6], "socket");
    static const char *const names[] = {"none", "error", "kill", "stop", "swap"};
    static const int needed[] = {0, 3, 3, 2, 5};
    char **word = words + 7;
    for (int kind = NONE; kind <= SWAP; kind++) {
        if (strcmp(*word, names[kind]) || word + needed[kind] + 2 >= words + count) continue;
        job->action = kind;
        job->where = word[1];
        job->index = kind == NONE ? -1 : atoi(word[2]);
        job->number = kind == ERROR ? atoi(word[3]) : 0;
        job->victim = kind == KILL ? word[3] : NULL;
        job->back = kind == SWAP ? atoi(word[3]) : 0;
        job->a = kind == SWAP ? word[4] : NULL;
        job->b = kind == SWAP ? word[5] : NULL;
        job->argv = word + needed[kind] + 2;
        return !strcmp(word[needed[kind] + 1], "--");
    }
    return 0;
}

int main(void) {
    static char line[1 << 16];
    struct job job;
    struct sigaction alarmed = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &alarmed, NULL);
    /* What loses its parent becomes ours: nothing of a job goes unseen. */
    if (prctl(PR_SET_CHILD_SUBREAPER, 1)) die("PR_SET_CHILD_SUBREAPER");
    while (fgets(line, sizeof line, stdin)) {
        if (!parse(line, &job)) {
            fprintf(stderr, "tracer: not a job\n");
            return 2;
        }
        run(&job);
    }
    return 0;
}
