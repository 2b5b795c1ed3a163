/* Threads that go through many small loops together: one parallel region for a whole step instead of one per loop.
 *
 * A loop's iterations are claimed one at a time, so that a thread which another process has pushed off its core keeps
 * one of them, not half. Who waits at the end of a loop spins for some microseconds, then sleeps: spinning on would
 * take the core from whoever is late. Source: Mellor-Crummey and Scott 1991, section 3 (the central barrier).
 */
#ifndef PENSTOCK_TEAM_H
#define PENSTOCK_TEAM_H

#include <stdatomic.h>
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#define SPINS 2000

struct team {
    int64_t size;
    _Alignas(64) _Atomic int64_t next;
    _Alignas(64) _Atomic int64_t arrived;
    _Alignas(64) _Atomic uint32_t round;
    _Atomic int64_t asleep;
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static inline void sleep_while(_Atomic uint32_t *round, uint32_t value) {
#ifdef __linux__
    syscall(SYS_futex, round, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
#else
    (void)round, (void)value;
    sched_yield();
#endif
}

static inline void wake_all(_Atomic uint32_t *round) {
#ifdef __linux__
    syscall(SYS_futex, round, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#else
    (void)round;
#endif
}

/* Returns once every thread of the team is here. The last one opens the next loop. */
static inline void meet(struct team *team) {
    if (team->size == 1) {
        team->next = 0;
        return;
    }
    uint32_t round = atomic_load(&team->round);
    if (atomic_fetch_add(&team->arrived, 1) == team->size - 1) {
        team->arrived = 0;
        team->next = 0;
        atomic_store(&team->round, round + 1);
        if (atomic_load(&team->asleep)) wake_all(&team->round);
        return;
    }
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&team->round, memory_order_acquire) != round) return;
        relax();
    }
    atomic_fetch_add(&team->asleep, 1);
    while (atomic_load(&team->round) == round) sleep_while(&team->round, round);
    atomic_fetch_sub(&team->asleep, 1);
}

/* The iterations of a thread: its own number first, so that it can ask memory for it early, then what is left. */
static inline int64_t claim(struct team *team) {
    return team->size + atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);
}

#define FOR_CLAIMED(i, count, team, thread) for (int64_t i = (thread); i < (count); i = claim(team))

#ifdef _OPENMP
static inline int64_t team_size(void) { return omp_get_num_threads(); }
static inline int64_t own_number(void) { return omp_get_thread_num(); }
#else
static inline int64_t team_size(void) { return 1; }
static inline int64_t own_number(void) { return 0; }
#endif

#endif
