/* How fast the machine's threads can read memory: what a step of few rows is measured against.
 *
 * Every word is added to one of many sums, so that no read can be left out and none waits for the one before; each
 * thread reads a stretch of its own from front to end, as weights are read.
 */
#include <stdint.h>

#define LANES 64 /* eight cache lines a round */

/* words [count] -> their sum, modulo 2^64. */
uint64_t penstock_sum_words(const uint64_t *words, int64_t count) {
    uint64_t total = 0;
    int64_t rounds = count / LANES;
#pragma omp parallel reduction(+ : total)
    {
        uint64_t sums[LANES] = {0};
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rounds; i++)
            for (int lane = 0; lane < LANES; lane++) sums[lane] += words[i * LANES + lane];
        for (int lane = 0; lane < LANES; lane++) total += sums[lane];
    }
    for (int64_t i = rounds * LANES; i < count; i++) total += words[i];
    return total;
}
