/* killat [-x] kill|hold COUNT PID: kills a process, or stops it by SIGSTOP, before it makes its COUNT-th system call, in
 * whichever of its threads. Counts from now on, or with -x from its next execve. COUNT 0: only counts. Children are not
 * followed.
 *
 * Says "attached", then "reached N NR", NR being the number of the system call, or when it is terminated "counted N". */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static long calls;

/* The C library's header and the kernel's, which has the structure, cannot both be included. */
static long trace(long request, pid_t tid, long address, const void *data) {
    return syscall(SYS_ptrace, request, (long)tid, address, data);
}

static void say_and_end(int number) {
    (void)number;
    dprintf(1, "counted %ld\n", calls);
    _exit(0); /* which lets go of all that is traced */
}

static void seize(const char *leader) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/task", leader);
    /* Threads that those seized have begun since are traced already. */
    for (int found = 1, looks = 0; found && looks < 10; looks++) {
        struct dirent *entry;
        DIR *tasks = opendir(path);
        for (found = 0; tasks && (entry = readdir(tasks));) {
            pid_t tid = atoi(entry->d_name);
            long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;
            if (tid && !trace(PTRACE_SEIZE, tid, 0, (void *)options)) found = !trace(PTRACE_INTERRUPT, tid, 0, 0);
        }
        if (!tasks || (looks == 0 && !found)) {
            fprintf(stderr, "killat: %s: %s\n", leader, strerror(errno));
            exit(1);
        }
        closedir(tasks);
    }
}

static long call_at_entry(pid_t tid) {
    struct ptrace_syscall_info info;
    if (trace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) <= 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY) return -1;
    return (long)info.entry.nr;
}

int main(int count, char **words) {
    int from_exec = count > 1 && !strcmp(words[1], "-x"), counting = !from_exec, status;
    if (count != 4 + from_exec) return 2;
    words += from_exec;
    int action = strcmp(words[1], "hold") ? SIGKILL : SIGSTOP;
    long wanted = atol(words[2]), call;
    pid_t leader = atoi(words[3]), tid;

    seize(words[3]);
    signal(SIGTERM, say_and_end);
    dprintf(1, "attached\n");
    while ((tid = waitpid(-1, &status, __WALL)) > 0) {
        if (!WIFSTOPPED(status)) continue;
        int event = status >> 16, number = WSTOPSIG(status), syscall_stop = number == (SIGTRAP | 0x80);
        if (syscall(SYS_tgkill, leader, tid, 0)) {
            /* A child that the kernel takes for a thread, since its end is not to be signalled. */
            trace(PTRACE_DETACH, tid, 0, 0);
            continue;
        }
        if (event == PTRACE_EVENT_STOP && number != SIGTRAP) {
            trace(PTRACE_LISTEN, tid, 0, 0);
            continue;
        }
        if (event == PTRACE_EVENT_EXEC) counting = 1;
        if (syscall_stop && counting && (call = call_at_entry(tid)) >= 0 && ++calls == wanted) {
            kill(leader, action);
            dprintf(1, "reached %ld %ld\n", calls, call);
        }
        trace(PTRACE_SYSCALL, tid, 0, (void *)(long)(event || syscall_stop ? 0 : number));
    }
    dprintf(1, "counted %ld\n", calls);
}
