/* A program whose every page can be told from every other: what it holds follows from its number and how often it was
 * written. Started with a size in MB; commands are lines on standard input, each answered by a line. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 512, ZERO = 0xFFFF };
static uint64_t *memory;
static uint16_t *generations;
static long pages;

static uint64_t word(long page, unsigned generation, int at) {
    uint64_t value = (uint64_t)page * 2654435761u + generation * 40503u + (uint64_t)at * 0x9E3779B97F4A7C15u + 1;
    value ^= value << 13, value ^= value >> 7, value ^= value << 17;
    return generation == ZERO ? 0 : value;
}
static void fill(long page, unsigned generation) {
    for (int at = 0; at < WORDS; at++) memory[page * WORDS + at] = word(page, generation, at);
    generations[page] = generation;
}
static int right(long page) {
    for (int at = 0; at < WORDS; at++)
        if (memory[page * WORDS + at] != word(page, generations[page], at)) return 0;
    return 1;
}
static uint64_t seed = 88172645463325252u;
static long chance(long below) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (long)(seed % (uint64_t)below);
}
static long first_wrong(void) {
    for (long page = 0; page < pages; page++)
        if (!right(page)) return page;
    return -1;
}
static void report(long page) {
    if (page < 0) printf("right\n");
    else printf("page %ld is wrong: %016lx instead of %016lx (written %u times)\n", page, memory[page * WORDS],
                word(page, generations[page], 0), generations[page]);
}

int main(int count, char **arguments) {
    pages = atol(arguments[count - 1]) * 256;
    memory = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, pages * 4096, MADV_NOHUGEPAGE);
    generations = calloc(pages, sizeof *generations);
    for (long page = 0; page < pages; page++) fill(page, 0);
    char line[100];
    setvbuf(stdout, 0, _IOLBF, 0);
    printf("ready\n");
    while (fgets(line, sizeof line, stdin)) {
        long number = atol(line + 1), page;
        switch (line[0]) {
        case 'p': /* a few pages */
            for (page = -1; number-- > 0 && page < 0;) { long one = chance(pages); if (!right(one)) page = one; }
            report(page);
            break;
        case 'd': /* all pages */
            report(first_wrong());
            break;
        case 'w': /* write so many */
            while (number-- > 0) { page = chance(pages); fill(page, (generations[page] + 1) % 1000); }
            printf("done\n");
            break;
        case 'z': /* discard so many */
            while (number-- > 0) { page = chance(pages); generations[page] = ZERO; madvise(memory + page * WORDS, 4096, MADV_DONTNEED); }
            printf("done\n");
            break;
        case 'm': { /* move all of it elsewhere */
            char *to = mmap(0, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            memory = mremap(memory, pages * 4096, pages * 4096, MREMAP_MAYMOVE | MREMAP_FIXED, to);
            printf(memory == MAP_FAILED ? "failed\n" : "done\n");
            break;
        }
        case 'n': { /* new memory, and gone again */
            size_t size = number * 4096;
            char *new = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            memset(new, 7, size);
            munmap(new, size);
            printf("done\n");
            break;
        }
        case 'f': { /* a child looks at so many, and at what it has written itself */
            pid_t child = fork();
            if (!child) {
                int wrong = 0;
                while (number-- > 0) {
                    page = chance(pages);
                    if (!right(page)) wrong = 1;
                    fill(page, 1001);
                    if (!right(page)) wrong = 2;
                }
                _exit(wrong);
            }
            int status;
            waitpid(child, &status, 0);
            printf(status ? "the child is wrong: %x\n" : "right\n", status);
            break;
        }
        case 'k': { /* a child that stays, answers nothing, and looks at everything when it is told by its end */
            int ends[2];
            if (pipe(ends)) return 1;
            pid_t child = fork();
            if (!child) {
                char byte;
                close(ends[1]);
                while (read(ends[0], &byte, 1) > 0) {}
                _exit(first_wrong() < 0 ? 0 : 1);
            }
            close(ends[0]);
            printf("%d %d\n", child, ends[1]);
            break;
        }
        case 'e': { /* the end of that child: its pid and our descriptor */
            int child, end, status;
            sscanf(line + 1, "%d %d", &child, &end);
            close(end);
            waitpid(child, &status, 0);
            printf(status ? "the child is wrong: %x\n" : "right\n", status);
            break;
        }
        default:
            printf("?\n");
        }
    }
    return 0;
}
