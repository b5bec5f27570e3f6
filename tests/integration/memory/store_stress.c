/* Four threads that check their own memory all the time, twice so many MB each as is said (20), under a signal every
 * millisecond, with memory that is mapped, moved and unmapped, and children. Aborts at the first wrong byte, and at the
 * first system call that fails as it must not. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20 };

static size_t size_each = 20 << 20;
static volatile long ticks;

static void tick(int number) {
    (void)number;
    ticks++;
}
static uint64_t next(uint64_t *seed) {
    *seed ^= *seed << 13, *seed ^= *seed >> 7, *seed ^= *seed << 17;
    return *seed;
}
static void fail(const char *what, long number) {
    fprintf(stderr, "%s: %ld: %s\n", what, number, strerror(errno));
    abort();
}

static void map_and_unmap(long number, uint64_t *seed) {
    char *block = mmap(0, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t size = BLOCK;
    memset(block, (int)number, BLOCK);
    if (next(seed) & 1) {
        size = 2 * BLOCK;
        block = mremap(block, BLOCK, size, MREMAP_MAYMOVE);
    }
    if (block == MAP_FAILED) fail("mremap", number);
    for (int at = 0; at < BLOCK; at += 511)
        if (block[at] != (char)number) fail("a block is wrong", at);
    if (size > BLOCK && block[BLOCK + 12345]) fail("a new block is not zero", number);
    if (madvise(block, BLOCK / 2, MADV_DONTNEED)) fail("madvise", number);
    if (block[4097] || block[BLOCK / 2 + 5] != (char)number) fail("a discarded block is wrong", number);
    munmap(block, size);
}

static void *work(void *argument) {
    long number = (long)argument;
    uint64_t seed = 88172645463325252u + (uint64_t)number, count = size_each / 8, operations = 0;
    uint64_t *memory = malloc(size_each), *generations = calloc(count, 8);
    for (uint64_t at = 0; at < count; at++) memory[at] = at * 2654435761u + (uint64_t)number;
    for (;; operations++) {
        uint64_t at = next(&seed) % count;
        if (memory[at] != at * 2654435761u + (uint64_t)number + generations[at]) fail("memory is wrong", (long)at);
        if (!(operations & 7)) memory[at]++, generations[at]++;
        if (!(operations & 0xffff)) {
            struct timespec pause = {0, 2000000};
            if (nanosleep(&pause, 0) && errno != EINTR) fail("nanosleep", number);
            map_and_unmap(number, &seed);
        }
    }
}

int main(int count, char **words) {
    if (count > 1) size_each = (size_t)atoi(words[1]) << 20;
    struct sigaction action = {.sa_handler = tick};
    struct itimerval every = {{0, 1000}, {0, 1000}};
    pthread_t threads[4];
    int polled = epoll_create1(0);
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &every, 0);
    for (long number = 1; number <= 4; number++) pthread_create(&threads[number - 1], 0, work, (void *)number);
    for (long turn = 1;; turn++) {
        struct epoll_event event;
        if (epoll_wait(polled, &event, 1, 50) < 0 && errno != EINTR) fail("epoll_wait", turn);
        if (turn % 500) continue;
        pid_t child = fork();
        if (!child) {
            usleep(1000);
            _exit(42);
        }
        int status;
        while (waitpid(child, &status, 0) < 0)
            if (errno != EINTR) fail("waitpid", turn);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 42) fail("a child has failed", status);
    }
}
