/* A process that notices when a thread of its own has been borrowed and not been put back.

   injection_subject ROLE PROGRESS [OPTION...]: the first thread plays ROLE, a thread each plays all others, for ever.
   PROGRESS is the descriptor of a file of 64-bit counters, one for each role, that each turn adds one to. Whatever is
   wrong is said on standard error, and the process aborts. Options:
   alarm    SIGALRM comes every millisecond; its handler runs in the first thread, where a call may then fail with EINTR,
            but only if a handler has run.
   stops    epoll_wait and semop may fail with EINTR for a mere stop, as the kernel has it.
   seccomp  only the calls that it makes itself are allowed; any other kills it.
   leave    the first thread ends instead.
   vfork    one more thread waits for ever for a child that does not exec. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SELECT, POLL, SLEEP, FUTEX, READ, EPOLL, PPOLL, SUSPEND, COMPUTE, SEQUENCE, SEM, SPIN, MEMORY, ROLES };
static const char *const names[ROLES] = {"select", "poll",    "sleep",   "futex",    "read", "epoll",
                                         "ppoll",  "suspend", "compute", "sequence", "sem",  "spin",
                                         "memory"};

static volatile uint64_t *progress;
static int alarms, restricted, stops;
static __thread volatile long handled; /* handlers that have run in this thread */
static __thread int first;
static volatile long waiting[2], answered[2]; /* what the signaller and PPOLL, SUSPEND tell each other */
static pthread_t threads[ROLES];
static int pipe_[2], event, sem;
static volatile long reached[ROLES], helpers_reached;

#define MEMORY_PAGES 1024
static volatile uint64_t *memory; /* each page begins with its number and how often it has been written */

#define WRONG(...)                                                                                                     \
    do {                                                                                                               \
        fprintf(stderr, __VA_ARGS__);                                                                                  \
        fprintf(stderr, " (%s:%d errno %d)\n", __FILE__, __LINE__, errno);                                             \
        abort();                                                                                                       \
    } while (0)

static void on_signal(int number) {
    (void)number;
    handled++;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* A call has failed: fine if that was EINTR and a handler has run since. See signal(7) for those that a stop may end. */
static void interrupted(const char *what, long before) {
    if (errno == EINTR && stops && (!strcmp(what, "epoll_wait") || !strcmp(what, "semop"))) return;
    if (errno != EINTR || handled == before) WRONG("%s: failed, %ld handlers", what, handled - before);
}

static void check_mask(void) {
    sigset_t set;
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    for (int number = 1; number < 32; number++) {
        int wanted = number == SIGUSR1 || (number == SIGALRM && !first);
        if (sigismember(&set, number) != wanted) WRONG("signal %d is %sblocked", number, wanted ? "not " : "");
    }
}

#define TIMED(name, call, success, microseconds)                                                                       \
    do {                                                                                                               \
        long before = handled;                                                                                         \
        double start = now();                                                                                          \
        errno = 0;                                                                                                     \
        long result = (call);                                                                                          \
        if (success) {                                                                                                 \
            if (now() - start < (microseconds) / 1e6 - 1e-3) WRONG("%s: too early: %f", name, now() - start);          \
        } else if (result == -1)                                                                                       \
            interrupted(name, before);                                                                                 \
        else                                                                                                           \
            WRONG("%s: %ld", name, result);                                                                            \
    } while (0)

static uint64_t compute(uint64_t seed) {
    /* Keeps many integer and vector registers alive over a few hundred microseconds. */
    uint64_t a = seed, b = seed + 1, c = seed + 2, d = seed + 3, e = seed + 4, f = seed + 5, g = seed + 6, h = seed + 7;
    double w = 1, x = 2, y = 3, z = 4;
    for (int i = 0; i < 100000; i++) {
        a = a * 6364136223846793005u + b, b ^= c >> 3, c += d * 31, d ^= e << 5, e += f, f = f * 7 + g, g ^= h, h += a;
        w = w * 0.5 + x, x = x * 0.25 + y, y = y * 0.125 + z, z = z * 0.75 + w * 1e-3;
    }
    return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ (uint64_t)(w * 1e6) ^ (uint64_t)(x * 1e6) ^ (uint64_t)(y * 1e6 + z * 1e6);
}

#if defined(__x86_64__)
static volatile long slow_counter, own, disturbed;
static volatile long held_for = 700000;

/* counter = counter + 1, with a long time between reading and writing, as a restartable sequence. Returns 0 when aborted. */
static __attribute__((noinline)) int add_slowly(void) {
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    static struct {
        uint32_t version, flags;
        uint64_t start, length, abort;
    } __attribute__((aligned(32))) sequence;
    long turns = held_for;
    __asm__ volatile goto("leaq 1f(%%rip), %%rax\n\t"
                          "movq %%rax, 8(%[s])\n\t"
                          "leaq 2f(%%rip), %%rcx\n\t"
                          "subq %%rax, %%rcx\n\t"
                          "movq %%rcx, 16(%[s])\n\t"
                          "leaq 4f(%%rip), %%rax\n\t"
                          "movq %%rax, 24(%[s])\n\t"
                          "movq %[s], 8(%[area])\n\t"
                          "1:\n\t"
                          "movq %[counter], %%rax\n\t"
                          "movq %[turns], %%rcx\n\t"
                          "3: decq %%rcx\n\t"
                          "jnz 3b\n\t"
                          "incq %%rax\n\t"
                          "movq %%rax, %[counter]\n\t"
                          "2:\n\t"
                          "jmp 5f\n\t"
                          ".byte 0x0f, 0xb9, 0x3d\n\t"
                          ".long 0x53053053\n\t"
                          "4: jmp %l[aborted]\n\t"
                          "5:\n\t"
                          :
                          : [s] "r"(&sequence), [area] "r"(area), [counter] "m"(slow_counter), [turns] "m"(turns)
                          : "rax", "rcx", "memory", "cc"
                          : aborted);
    return 1;
aborted:
    return 0;
}

static void stay_on_one_cpu(void) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof one, &one);
}

/* Counts, too, on the same CPU: a sequence that goes on although it has been interrupted loses that. */
static void *disturb(void *nothing) {
    (void)nothing;
    stay_on_one_cpu();
    __sync_fetch_and_add(&helpers_reached, 1);
    for (;;) {
        struct timespec t = {0, 600000};
        nanosleep(&t, NULL);
        __asm__ volatile("incq %0" : "+m"(slow_counter) : : "memory", "cc");
        disturbed++;
    }
    return NULL;
}
#endif

/* Allow what is used below, for all threads; kill for anything else. */
static void restrict_calls(void) {
    static const int allowed[] = {
        SYS_select,         SYS_pselect6,        SYS_poll,          SYS_ppoll,      SYS_nanosleep,
        SYS_futex,          SYS_clock_nanosleep, SYS_read,          SYS_write,      SYS_epoll_wait,
        SYS_rt_sigsuspend,  SYS_rt_sigreturn,    SYS_rt_sigprocmask, SYS_semop,     SYS_semtimedop,
        SYS_semctl,         SYS_tgkill,          SYS_getpid,        SYS_gettid,     SYS_restart_syscall,
        SYS_clock_gettime,  SYS_exit_group,      SYS_sched_yield,
    };
    enum { N = sizeof allowed / sizeof *allowed };
    struct sock_filter filter[N + 3] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    for (int i = 0; i < N; i++)
        filter[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], N - i, 0);
    filter[N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[N + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {N + 3, filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program)) WRONG("seccomp");
}

static void announce(void) {
    printf("up %d %lu %d\n", sem, (unsigned long)memory, MEMORY_PAGES * 4096);
    fflush(stdout);
}

static void play(int role) {
    static const struct timespec brief = {0, 15000000};
    uint64_t sum = role == COMPUTE ? compute(42) : 0;
    int poller = -1;
    long number = 0;
    if (role == EPOLL) {
        struct epoll_event wanted = {.events = EPOLLIN};
        poller = epoll_create1(EPOLL_CLOEXEC);
        epoll_ctl(poller, EPOLL_CTL_ADD, event, &wanted);
    }
#if defined(__x86_64__)
    pthread_t other;
    if (role == SEQUENCE) {
        stay_on_one_cpu();
        long helpers = helpers_reached;
        pthread_create(&other, NULL, disturb, NULL);
        while (helpers_reached == helpers) sched_yield();
    }
#endif
    reached[role] = 1;
    if (first) announce();
    if (first && restricted) restrict_calls();
    for (;;) {
        long before = handled;
        errno = 0;
        switch (role) {
        case SELECT: {
            struct timeval t = {0, 15000};
            TIMED("select", select(0, NULL, NULL, NULL, &t), result == 0, 15000);
            break;
        }
        case POLL: TIMED("poll", poll(NULL, 0, 15), result == 0, 15000); break;
        case SLEEP: {
            struct timespec left = brief;
            double start = now();
            while (nanosleep(&left, &left)) {
                if (!alarms || !first) WRONG("nanosleep was interrupted");
                interrupted("nanosleep", before), before = handled;
            }
            if (now() - start < 14e-3) WRONG("nanosleep was too short: %f", now() - start);
            break;
        }
        case FUTEX: {
            static int word = 7;
            TIMED("futex", syscall(SYS_futex, &word, FUTEX_WAIT, 7, &brief, NULL, 0),
                  result == -1 && errno == ETIMEDOUT, 15000);
            break;
        }
        case READ: {
            long got = -1;
            ssize_t n = read(pipe_[0], &got, sizeof got);
            if (n < 0)
                interrupted("read", before);
            else if (n != sizeof got || got != number++)
                WRONG("read: %zd bytes, %ld instead of %ld", n, got, number - 1);
            break;
        }
        case EPOLL: {
            struct epoll_event what;
            int n = epoll_wait(poller, &what, 1, -1);
            if (n < 0) {
                interrupted("epoll_wait", before);
                break;
            }
            uint64_t count;
            if (n != 1 || read(event, &count, sizeof count) != sizeof count) WRONG("epoll_wait: %d", n);
            break;
        }
        case PPOLL:
        case SUSPEND: {
            /* SIGUSR1 is blocked outside of the call, and sent once each turn: it must end the call once each turn. */
            int at = role == SUSPEND;
            sigset_t open;
            sigemptyset(&open);
            if (!first) sigaddset(&open, SIGALRM);
            waiting[at] = number + 1;
            long r = role == PPOLL ? ppoll(NULL, 0, NULL, &open) : sigsuspend(&open);
            if (r != -1) WRONG("%s returned %ld", names[role], r);
            interrupted(names[role], before);
            if (!alarms || !first) {
                if (handled != before + 1) WRONG("%s: %ld signals at once", names[role], handled - before);
            }
            answered[at] = ++number;
            break;
        }
        case COMPUTE:
            if (compute(42) != sum) WRONG("computed something else");
            break;
        case SEQUENCE:
#if defined(__x86_64__)
        {
            int done = 0;
            while (!done) done = add_slowly();
            own++;
            long low = disturbed, counter = slow_counter, high = disturbed + 1;
            if (counter < own + low || counter > own + high)
                WRONG("a sequence was not restarted: %ld, %ld, %ld", counter, own, low);
        }
#endif
        break;
        case SPIN:
            for (int i = 0; i < 100000; i++) progress[role]++;
            break;
        case MEMORY: {
            static uint64_t written[MEMORY_PAGES];
            for (int i = 0; i < 16; i++) {
                long page = (number = (number * 1103515245 + 12345) & 0x7fffffff) / 16 % MEMORY_PAGES;
                volatile uint64_t *at = memory + page * 512;
                if (at[0] != (uint64_t)page + 1 || at[1] != written[page] || at[511] != (uint64_t)page * 7 + 3)
                    WRONG("page %ld: %lx, %ld of %ld", page, (long)at[0], (long)at[1], (long)written[page]);
                if (i == 0) at[1] = ++written[page];
            }
            struct timespec t = {0, 1000000};
            if (nanosleep(&t, NULL)) interrupted("nanosleep", before);
            break;
        }
        case SEM: {
            struct sembuf take = {.sem_num = 0, .sem_op = -1};
            if (semop(sem, &take, 1)) interrupted("semop", before);
            break;
        }
        }
        check_mask();
        progress[role]++;
        /* Only the first thread keeps a CPU busy. */
        if (!first && (role == COMPUTE || role == SEQUENCE || role == SPIN)) {
            struct timespec t = {0, 2000000};
            if (nanosleep(&t, NULL)) WRONG("nanosleep was interrupted");
        }
    }
}

static void *run(void *role) {
    play((int)(intptr_t)role);
    return NULL;
}

/* Wakes those that wait for something. */
static void *signaller(void *nothing) {
    (void)nothing;
    long number = 0, sent[2] = {0, 0};
    uint64_t one = 1;
    struct sembuf give = {.sem_num = 0, .sem_op = 1};
    __sync_fetch_and_add(&helpers_reached, 1);
    for (;;) {
        struct timespec t = {0, 5000000};
        while (nanosleep(&t, &t)) {
        }
        if (write(pipe_[1], &number, sizeof number) == sizeof number) number++;
        if (write(event, &one, sizeof one) != sizeof one) WRONG("eventfd");
        if (semctl(sem, 0, GETVAL) == 0) semop(sem, &give, 1);
        for (int at = 0; at < 2; at++)
            if (waiting[at] > sent[at] && answered[at] == sent[at]) {
                sent[at] = waiting[at];
                pthread_kill(threads[at ? SUSPEND : PPOLL], SIGUSR1);
            }
    }
    return NULL;
}

static int option(int count, char **words, const char *name) {
    for (int i = 3; i < count; i++)
        if (!strcmp(words[i], name)) return 1;
    return 0;
}

static void *wait_for_child(void *nothing) {
    if (vfork() == 0)
        for (;;) syscall(SYS_pause);
    return nothing;
}

int main(int count, char **words) {
    int role = -1;
    for (int i = 0; i < ROLES; i++)
        if (count > 2 && !strcmp(words[1], names[i])) role = i;
    if (role < 0) return 2;
    int file = atoi(words[2]);
    progress = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (progress == MAP_FAILED || pipe2(pipe_, O_CLOEXEC)) return 3;
    close(file);
    fcntl(pipe_[1], F_SETFL, O_NONBLOCK);
    event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sem = semget(IPC_PRIVATE, 1, 0600);
    alarms = option(count, words, "alarm");
    stops = option(count, words, "stops");
    memory = mmap(NULL, MEMORY_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (uint64_t page = 0; page < MEMORY_PAGES; page++)
        memory[page * 512] = page + 1, memory[page * 512 + 511] = page * 7 + 3;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGALRM);
    pthread_sigmask(SIG_SETMASK, &set, NULL);
    threads[role] = pthread_self();
    for (int i = 0; i < ROLES; i++)
        if (i != role) pthread_create(&threads[i], NULL, run, (void *)(intptr_t)i);
    pthread_t other;
    for (int i = 0; i < ROLES; i++)
        while (i != role && !reached[i]) sched_yield();
    long helpers = helpers_reached;
    pthread_create(&other, NULL, signaller, NULL);
    while (helpers_reached == helpers) sched_yield();
    first = 1;
    sigdelset(&set, SIGALRM);
    pthread_sigmask(SIG_SETMASK, &set, NULL);
    if (alarms) {
        struct itimerval often = {{0, 1000}, {0, 1000}};
        setitimer(ITIMER_REAL, &often, NULL);
    }
    if (option(count, words, "vfork")) pthread_create(&other, NULL, wait_for_child, NULL);
    if (option(count, words, "leave")) {
        announce();
        pthread_exit(NULL);
    }
    restricted = option(count, words, "seccomp");
    play(role);
}
