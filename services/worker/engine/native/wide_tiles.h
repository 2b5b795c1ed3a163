/* Tiles of a product whose weights and inputs have become float32; see wide_tiles.c. */
#ifndef PENSTOCK_WIDE_TILES_H
#define PENSTOCK_WIDE_TILES_H

#include "matmul.h"

#if HAS_FAST_PRODUCTS

#define DEPTH 128
#if PARTS == 1
#define WIDE_ROWS 8 /* x 3 groups: 24 sums, 3 weights and an input fit the 32 registers */
#else
#define WIDE_ROWS 6 /* x 1 group in two parts: 12 sums, 2 weights and an input fit the 16 registers */
#endif

/* Groups of a strip that are held in registers beside so many rows; they divide its groups. */
INLINE int64_t held_groups(int64_t groups, int64_t rows) {
    if (PARTS == 1 || rows == 1) return groups_of_tile(groups);
    return rows == 2 && groups % 2 == 0 ? 2 : 1;
}

/* Rows of each pass over `rows` of them, equal ones but for the last. */
INLINE int64_t rows_of_pass(int64_t groups, int64_t rows) {
    int64_t most = PARTS == 1 && groups_of_tile(groups) > TALL_GROUPS ? TILE_ROWS : WIDE_ROWS;
    int64_t passes = (rows + most - 1) / most;
    return (rows + passes - 1) / passes;
}

/* `depth` inner values of a strip from `begin` on, in one pass over some rows. */
struct piece {
    const uint16_t *const *weights;
    const uint16_t *const *ahead; /* of each group what to ask of memory meanwhile, or NULL: */
    int64_t ahead_begin, ahead_step; /* from which number on, and how many bytes further with every pair */
    float *kept;                     /* [depth, groups, 16]: the weights in float32, the second of a pair first */
    int64_t begin, depth;
};

/* in [rows, stride] bfloat16 -> wide [rows, DEPTH]; what comes next is asked for, it lies in a page for every row. */
void penstock_widen(float *wide, const uint16_t *in, const uint16_t *next, int64_t stride, int64_t rows, int64_t depth);

/* sums [rows, stride] of one piece for rows_of_pass rows and held_groups groups whose weights are in `kept`; they begin
 * at zero where the piece begins at 0. Denormal numbers are taken for zeros by who calls. */
void penstock_kept_tile(float *sums, int64_t stride, const float *in, const struct piece *p, int64_t rows,
                        int64_t groups);

#endif
#endif
