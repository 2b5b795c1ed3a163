/* Matrix products with bfloat16 weights that were packed once, as a team's loop or inside of one.
 *
 * Packed: for 16 columns at a time, all inner values in pairs, [columns / 16, inner / 2, 16, 2], so that one load feeds
 * one instruction and memory is read in order, once for all rows that are held in registers. Every output is summed over
 * `inner` in the same order in every tile: a row's result does not depend on how many rows are beside it, nor on the
 * number of threads. Accumulated in float32, rounded once.
 */
#ifndef PENSTOCK_MATMUL_H
#define PENSTOCK_MATMUL_H

#include <stddef.h>

#include "pairs.h"
#include "team.h"

#define GROUPS 4
#define MOST_GROUPS 6
#define STRIP (GROUPS * LANES)
#define BLOCK_ROWS 256

struct product {
    void *out;              /* [rows, columns], bfloat16, or float32 where is_wide */
    const uint16_t *in;     /* [rows, inner] */
    const uint16_t *packed; /* columns rounded up to 16, the rest zeros */
    const uint16_t *bias;   /* [columns] or NULL */
    int64_t rows, columns, inner, is_wide;
};

enum epilogue { STORE_SUMS, STORE_SILU, STORE_GELU, KEEP_LARGEST };

/* The largest of the columns seen so far, for every row, and whether one of them was not a finite number. */
struct largest {
    float value;
    int32_t column;
    int32_t is_broken;
};

/* Up to MOST_GROUPS times 16 columns: where each group's pairs begin, and those of the strip that comes next. */
struct strip {
    const uint16_t *weights[MOST_GROUPS], *next[MOST_GROUPS];
    int64_t groups, has_next;
};

/* Groups of a strip that are held in registers at once; they divide its groups. */
INLINE int64_t groups_of_tile(int64_t groups) { return groups > GROUPS ? groups / 2 : groups; }

/* sums [rows, groups * 16] of up to BLOCK_ROWS rows of in [.., stride]; meanwhile the next strip is asked of memory.
 * Both give the same numbers. */
void penstock_pair_block(float *sums, const uint16_t *in, int64_t stride, int64_t rows, const struct strip *strip,
                         int64_t inner);
void penstock_wide_block(float *sums, const uint16_t *in, int64_t stride, int64_t rows, const struct strip *strip,
                         int64_t inner);

/* Whether float32 is the faster way here. */
int penstock_is_wide_faster(void);

/* By whichever is faster here. */
void penstock_block(float *sums, const uint16_t *in, int64_t stride, int64_t rows, const struct strip *strip,
                    int64_t inner);

/* A thread's part of a product, without the meeting at its end. STORE_SILU and STORE_GELU take the second half of the
 * columns as what the activated first half is multiplied by: out [rows, columns / 2], rounded after each operation as
 * separate operators would. KEEP_LARGEST needs `best` [rows] and writes nothing else. */
void penstock_multiply(const struct product *p, struct team *team, int64_t thread, struct largest *best,
                       enum epilogue epilogue);

/* What becomes of sums [rows, groups * 16] from `column` on, of gated products from there and from its partner on. */
void penstock_finish_rows(const struct product *p, float *sums, int64_t row, int64_t rows, int64_t column,
                          int64_t groups, struct largest *best, enum epilogue epilogue);

/* One thread's [rows] before the first column; all threads' [threads, rows] after the last -> a column each, -1 where
 * something was not a finite number. */
void penstock_begin_largest(struct largest *best, int64_t rows);
void penstock_end_largest(int64_t *out, const struct largest *found, int64_t threads, int64_t rows);

#endif
