/* Blocks of a product by one instruction for a pair of bfloat16 products, or what stands in for it (pairs.h). */
#include "matmul.h"

#if HAS_FAST_PRODUCTS && !HAS_WIDE_REGISTERS

/* There is one way. */
void penstock_pair_block(float *sums, const uint16_t *in, int64_t stride, int64_t rows, const struct strip *strip,
                         int64_t inner) {
    penstock_wide_block(sums, in, stride, rows, strip, inner);
}

#else

#define STREAM_AHEAD 2048 /* numbers of each group: the processor's own prefetching stops at the end of a page */

/* `rows` x `groups` * 16 sums in registers; both are constants where it is called. */
INLINE void tile(float *sums, int64_t sums_stride, const uint16_t *in, int64_t stride, const uint16_t *const *weights,
                 const uint16_t *const *ahead, int64_t inner, const int rows, const int groups) {
    lanes own[TALL_ROWS][GROUPS];
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++) own[r][g] = no_lanes();
    for (int64_t k = 0; k < inner; k += 2) {
        pairs w[GROUPS];
        for (int g = 0; g < groups; g++) {
            w[g] = load_pairs(weights[g] + k * LANES);
            if (ahead) __builtin_prefetch(ahead[g] + k * LANES, 0, 2);
        }
        for (int r = 0; r < rows; r++) {
            pairs same = same_pair(in + r * stride + k);
            for (int g = 0; g < groups; g++) own[r][g] = add_products(own[r][g], same, w[g]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++) memcpy(sums + r * sums_stride + g * LANES, &own[r][g], sizeof own[r][g]);
}

#define CASE(rows, groups)                                                                                    \
    case (rows) * 8 + (groups):                                                                               \
        tile(sums, sums_stride, in, stride, weights, ahead, inner, (rows) <= TALL_ROWS ? (rows) : 1, groups); \
        break;
#define CASES(rows) CASE(rows, 1) CASE(rows, 2) CASE(rows, 3) CASE(rows, 4)

/* Up to TILE_ROWS rows of up to GROUPS groups, or up to TALL_ROWS of up to TALL_GROUPS. */
static void any_tile(float *sums, int64_t sums_stride, const uint16_t *in, int64_t stride,
                     const uint16_t *const *weights, const uint16_t *const *ahead, int64_t inner, int64_t rows,
                     int64_t groups) {
    if (!ahead && rows == TILE_ROWS && groups == GROUPS) {
        tile(sums, sums_stride, in, stride, weights, NULL, inner, TILE_ROWS, GROUPS);
        return;
    }
    if (!ahead && rows == TALL_ROWS && groups == TALL_GROUPS) {
        tile(sums, sums_stride, in, stride, weights, NULL, inner, TALL_ROWS, TALL_GROUPS);
        return;
    }
    ahead = ahead ? ahead : weights;
    switch (rows * 8 + groups) {
        CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6)
        CASE(7, 1) CASE(7, 2) CASE(7, 3) CASE(8, 1) CASE(8, 2) CASE(8, 3)
    }
}

/* The weights come from memory with the first rows and from the cache after that, while what is wanted next is
 * fetched: by a tall pass at once, its products take long enough. */
void penstock_pair_block(float *sums, const uint16_t *in, int64_t stride, int64_t rows, const struct strip *strip,
                         int64_t inner) {
    int64_t tile_groups = groups_of_tile(strip->groups), most = tile_groups > TALL_GROUPS ? TILE_ROWS : TALL_ROWS;
    int64_t passes = (rows + most - 1) / most, each = (rows + passes - 1) / passes;
    const uint16_t *stream[MOST_GROUPS];
    for (int64_t g = 0; g < strip->groups; g++) stream[g] = strip->weights[g] + STREAM_AHEAD;
    for (int64_t row = 0; row < rows; row += each) {
        const uint16_t *const *ahead = NULL;
        if (strip->has_next && (row == each || each > TILE_ROWS)) ahead = strip->next;
        else if (strip->has_next && row == 0) ahead = stream;
        for (int64_t g = 0; g < strip->groups; g += tile_groups)
            any_tile(sums + row * strip->groups * LANES + g * LANES, strip->groups * LANES, in + row * stride, stride,
                     strip->weights + g, ahead ? ahead + g : NULL, inner, rows - row < each ? rows - row : each,
                     tile_groups);
    }
}

#endif
