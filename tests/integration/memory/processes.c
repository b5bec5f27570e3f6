/* Eight processes with four threads each. A thread has a connection from outside, memory with a pattern, and a socket to
 * the thread of the same number in the next process, all in a ring. To a line it answers "PROCESS THREAD LINES" once all of
 * its memory was right, a message has gone to its neighbour and come back, and a quarter of the memory was changed; or what
 * is wrong. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES = 8, THREADS = 4, WORDS = (1 << 20) / 8, PORT = 8000 };

static int listener, right[PROCESSES][THREADS][2], process;
static long *answered; /* Shared: of each thread. */

static uint64_t pattern(long thread, long at, uint64_t generation) {
    return (uint64_t)at * 2654435761u + (uint64_t)(process * THREADS + thread) * 40503u + generation * 97u;
}

static int ours(long thread) { return right[process][thread][0]; }
static int theirs(long thread) { return right[(process + PROCESSES - 1) % PROCESSES][thread][1]; }

/* What the left neighbour has sent goes back to it. 0 when it has ended. */
static int echo(long thread) {
    long message;
    if (read(theirs(thread), &message, sizeof message) != sizeof message) return 0;
    return write(theirs(thread), &message, sizeof message) == sizeof message;
}

static const char *there_and_back(long thread, long message) {
    struct pollfd both[] = {{ours(thread), POLLIN, 0}, {theirs(thread), POLLIN, 0}};
    long back = 0;
    if (write(ours(thread), &message, sizeof message) != sizeof message) return "the neighbour has ended";
    for (;;) {
        if (poll(both, 2, 30000) <= 0) return "the neighbour does not answer";
        if (both[1].revents && !echo(thread)) return "the other neighbour has ended";
        if (both[0].revents) break;
    }
    if (read(ours(thread), &back, sizeof back) != sizeof back || back != message) return "the neighbour answers nonsense";
    return 0;
}

static void serve(long thread, int connection, uint64_t *memory, uint64_t *generations) {
    long lines = 0;
    char line[64], answer[128];
    struct pollfd both[] = {{connection, POLLIN, 0}, {theirs(thread), POLLIN, 0}};
    while (poll(both, 2, -1) > 0) {
        if (both[1].revents && !echo(thread)) exit(3);
        if (!both[0].revents) continue;
        if (read(connection, line, sizeof line) <= 0) return;
        const char *wrong = 0;
        for (long at = 0; at < WORDS; at++)
            if (memory[at] != pattern(thread, at, generations[at / (WORDS / 4)])) wrong = "memory is wrong";
        if (!wrong) wrong = there_and_back(thread, ++answered[process * THREADS + thread]);
        long quarter = ++lines % 4;
        generations[quarter]++;
        for (long at = quarter * (WORDS / 4); at < (quarter + 1) * (WORDS / 4); at++)
            memory[at] = pattern(thread, at, generations[quarter]);
        snprintf(answer, sizeof answer, "%d %ld %ld\n", process, thread, lines);
        if (wrong) snprintf(answer, sizeof answer, "%d %ld %s\n", process, thread, wrong);
        if (write(connection, answer, strlen(answer)) < 0) return;
    }
}

static void *work(void *argument) {
    long thread = (long)argument;
    uint64_t *memory = malloc(WORDS * 8), generations[4] = {0};
    for (long at = 0; at < WORDS; at++) memory[at] = pattern(thread, at, 0);
    struct pollfd both[] = {{listener, POLLIN, 0}, {theirs(thread), POLLIN, 0}};
    while (poll(both, 2, -1) > 0) {
        if (both[1].revents && !echo(thread)) exit(3);
        int connection = accept4(listener, 0, 0, SOCK_CLOEXEC);
        if (connection < 0) continue;
        serve(thread, connection, memory, generations);
        close(connection);
    }
    return 0;
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int yes = 1, status;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64)) return 1;
    answered = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int from = 0; from < PROCESSES; from++)
        for (int thread = 0; thread < THREADS; thread++)
            if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, right[from][thread])) return 2;
    for (process = 0; process < PROCESSES; process++) {
        if (fork()) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (long thread = 1; thread < THREADS; thread++) {
            pthread_t made;
            if (pthread_create(&made, 0, work, (void *)thread)) return 4;
        }
        work(0);
    }
    wait(&status); /* Not one of them ends. */
    fprintf(stderr, "a process has ended: %x\n", status);
    return 5;
}
