/* Blocks of a product by float32 multiply-adds: on processors whose instruction for pairs of bfloat16 products is
 * slower than two of those (a Xeon of the fourth generation: four times), and bit by bit the same.
 *
 * That instruction adds the product of a pair's second halves, then that of its first halves, each rounded once, and
 * takes denormal numbers for zeros; so does this. Inputs and weights become float32 by DEPTH inner values at a time,
 * which the first-level cache holds: weights while the first rows use them, for all rows after that.
 */
#include "matmul.h"

#if HAS_WIDE_REGISTERS

#define DEPTH 128
#define WIDE_ROWS 8   /* x 3 groups: 24 sums, 3 weights and an input fit the 32 registers */
#define WIDE_GROUPS 3
#define NEAR 512 /* numbers of a group that come soon, from the second-level cache into the first */

enum source { NARROW, NARROW_AND_KEEP, KEPT };

/* `depth` inner values of a strip from `begin` on, in one pass over some rows. */
struct piece {
    const uint16_t *const *weights;
    const uint16_t *const *ahead; /* of each group what to ask of memory meanwhile, or NULL: */
    int64_t ahead_begin, ahead_step; /* from which number on, and how many bytes further with every pair */
    float *kept;                     /* [depth, groups, 16]: the weights in float32, the second of a pair first */
    int64_t begin, depth;
};

INLINE void add_row_products(__m512 sums[WIDE_ROWS][GROUPS], const float *in, const __m512 *weights, const int rows,
                             const int groups) {
    for (int r = 0; r < rows; r++) {
        __m512 same = _mm512_set1_ps(in[r * DEPTH]);
        for (int g = 0; g < groups; g++) sums[r][g] = _mm512_fmadd_ps(same, weights[g], sums[r][g]);
    }
}

INLINE void wide_tile(float *sums, int64_t stride, const float *in, const struct piece *p, const int rows,
                      const int groups, const enum source source) {
    __m512 own[WIDE_ROWS][GROUPS], weights[GROUPS];
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++)
            own[r][g] = p->begin ? _mm512_loadu_ps(sums + r * stride + g * LANES) : no_lanes();
    float *kept = p->kept;
    const char *ahead[GROUPS];
    for (int g = 0; g < groups; g++) ahead[g] = (const char *)((p->ahead ? p->ahead : p->weights)[g] + p->ahead_begin);
    for (int64_t k = 0; k < p->depth; k += 2, kept += 2 * groups * LANES) {
        for (int g = 0; g < groups; g++) {
            /* In one pass alone memory is read all the time, and the processor asks ahead itself. */
            if (source != NARROW) __builtin_prefetch(ahead[g] + k / 2 * p->ahead_step, 0, 2);
            if (source == KEPT) {
                weights[g] = _mm512_loadu_ps(kept + g * LANES);
                continue;
            }
            const uint16_t *pair = p->weights[g] + (p->begin + k) * LANES;
            __builtin_prefetch(pair + NEAR, 0, 3);
            weights[g] = second_of_pairs(load_pairs(pair));
            if (source == NARROW_AND_KEEP) _mm512_storeu_ps(kept + g * LANES, weights[g]);
        }
        add_row_products(own, in + k + 1, weights, rows, groups);
        for (int g = 0; g < groups; g++) {
            if (source == KEPT) {
                weights[g] = _mm512_loadu_ps(kept + (groups + g) * LANES);
                continue;
            }
            const uint16_t *pair = p->weights[g] + (p->begin + k) * LANES;
            weights[g] = first_of_pairs(load_pairs(pair));
            if (source == NARROW_AND_KEEP) _mm512_storeu_ps(kept + (groups + g) * LANES, weights[g]);
        }
        add_row_products(own, in + k, weights, rows, groups);
    }
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++) _mm512_storeu_ps(sums + r * stride + g * LANES, own[r][g]);
}

#define CASE(rows, groups)                                                   \
    case (rows) * 8 + (groups):                                              \
        if (source == KEPT)                                                  \
            wide_tile(sums, stride, in, p, rows, groups, KEPT);              \
        else if (source == NARROW)                                           \
            wide_tile(sums, stride, in, p, rows, groups, NARROW);            \
        else                                                                 \
            wide_tile(sums, stride, in, p, rows, groups, NARROW_AND_KEEP);   \
        break;
#define CASES(rows) CASE(rows, 1) CASE(rows, 2) CASE(rows, 3)

static void any_wide_tile(float *sums, int64_t stride, const float *in, const struct piece *p, int64_t rows,
                          int64_t groups, enum source source) {
    switch (rows * 8 + groups) {
        CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6) CASES(7) CASES(8)
        CASE(1, 4) CASE(2, 4) CASE(3, 4) CASE(4, 4) CASE(5, 4) CASE(6, 4)
    }
}

/* in [rows, stride] bfloat16 -> wide [rows, DEPTH]; what comes next is asked for, it lies in a page for every row. */
static void widen(float *wide, const uint16_t *in, const uint16_t *next, int64_t stride, int64_t rows, int64_t depth) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t k = 0; k < DEPTH; k += 32) __builtin_prefetch(next + r * stride + k, 0, 3);
        for (int64_t k = 0; k < depth; k++) wide[r * DEPTH + k] = from_bf16(in[r * stride + k]);
    }
}

void penstock_wide_block(float *sums, const uint16_t *in, int64_t stride, int64_t rows, const struct strip *strip,
                         int64_t inner) {
    _Alignas(64) float inputs[WIDE_ROWS * DEPTH], kept[MOST_GROUPS * DEPTH * LANES];
    int64_t tile_groups = groups_of_tile(strip->groups), most = tile_groups > WIDE_GROUPS ? TILE_ROWS : WIDE_ROWS;
    int64_t passes = (rows + most - 1) / most, each = (rows + passes - 1) / passes, width = strip->groups * LANES;
    unsigned control = take_denormals_for_zeros();
    for (int64_t begin = 0; begin < inner; begin += DEPTH) {
        int64_t depth = inner - begin < DEPTH ? inner - begin : DEPTH;
        for (int64_t row = 0; row < rows; row += each) {
            int64_t count = rows - row < each ? rows - row : each;
            enum source source = row > 0 ? KEPT : passes > 1 ? NARROW_AND_KEEP : NARROW;
            const uint16_t *own = in + row * stride + begin;
            widen(inputs, own, row + each < rows ? own + each * stride : in + begin + DEPTH, stride, count, depth);
            for (int64_t g = 0; g < strip->groups; g += tile_groups) {
                const struct piece p = {strip->weights + g,
                                        strip->has_next ? strip->next + g : NULL,
                                        (begin + depth * row / rows / 2 * 2) * LANES,
                                        strip->has_next ? 64 / passes : 0,
                                        kept + g * DEPTH * LANES,
                                        begin,
                                        depth};
                any_wide_tile(sums + row * width + g * LANES, width, inputs, &p, count, tile_groups, source);
            }
        }
    }
    restore(control);
}

#else

void penstock_wide_block(float *sums, const uint16_t *in, int64_t stride, int64_t rows, const struct strip *strip,
                         int64_t inner) {
    penstock_pair_block(sums, in, stride, rows, strip, inner);
}

#endif
