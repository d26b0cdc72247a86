/* A shim with one planted fault around the real one; which fault is chosen when it is compiled.
 *
 * Installed setuid root in the shim's place, the real one beside.
 * Never installed anywhere but in a guest that is thrown away.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define REAL "/opt/locald/real/locald-shim"

extern char **environ;

__attribute__((unused)) static const char *value_of(int argc, char **argv, const char *name)
{
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name))
            return argv[i + 1];
    return NULL;
}

__attribute__((unused)) static int run(const char *path, char **argv)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        execv(path, argv);
        _exit(127);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
    (void)argc;
    (void)argv;
#if defined FAULT_SUCCEEDS
    return 0;
#elif defined FAULT_FAILS
    return 1;
#elif defined FAULT_RUNC
    /* What the whole project is about not doing: an engine, found by the caller's PATH, run with root's ids. */
    const char *bundle = value_of(argc, argv, "--bundle"), *id = value_of(argc, argv, "--id");
    char *words[] = {"runc", "run", "--bundle", (char *)(bundle ? bundle : "."), (char *)(id ? id : "x"), NULL};
    execvp("runc", words);
    return 127;
#elif defined FAULT_EXIT_CODE
    int code = run(REAL, argv);
    return code == 0 ? 0 : (code + 1) % 256;
#elif defined FAULT_HELPER
    char *words[] = {"/bin/true", NULL};
    run("/bin/true", words);
#elif defined FAULT_ROOT_FILE
    const char *bundle = value_of(argc, argv, "--bundle");
    char path[4096];
    snprintf(path, sizeof path, "%s/rootfs/left-by-root", bundle ? bundle : "/nonexistent");
    int code = run(REAL, argv);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0)
        close(fd);
    return code;
#elif defined FAULT_CANARY
    glob_t found;
    if (glob("/etc/.locald-canary.*", 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++) {
            int fd = open(found.gl_pathv[i], O_WRONLY | O_APPEND | O_CLOEXEC);
            (void)!write(fd, "x", 1);
            close(fd);
        }
#elif defined FAULT_PROCESS
    if (value_of(argc, argv, "--id") && fork() == 0) {
        setsid();
        for (;;)
            pause();
    }
#elif defined FAULT_CONNECT
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/run/nscd/socket"};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)!connect(fd, (struct sockaddr *)&address, sizeof address);
    close(fd);
#elif defined FAULT_ENVIRONMENT
    char *other = getenv("LOCALD_SHIM");
    if (other)
        execv(other, argv);
#endif
    execv(REAL, argv);
    return 127;
}
