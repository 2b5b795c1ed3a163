/* Blocks of a product by float32 multiply-adds: on processors whose instruction for pairs of bfloat16 products is
 * slower than two of those (a Xeon of the fourth generation: four times) or that have none, and bit by bit the same.
 *
 * That instruction adds the product of a pair's second halves, then that of its first halves, each rounded once, and
 * takes denormal numbers for zeros; so does this. Inputs and weights become float32 by DEPTH inner values at a time,
 * which the first-level cache holds: weights while the first rows use them, for all rows after that.
 */
#include "matmul.h"

#if HAS_FAST_PRODUCTS

#if PARTS == 1
#define DEPTH 128
#define WIDE_ROWS 8 /* x 3 groups: 24 sums, 3 weights and an input fit the 32 registers */
#else
#define DEPTH 64
#define WIDE_ROWS 6 /* x 1 group in two parts: 12 sums, 2 weights and an input fit the 16 registers */
#endif
#define NEAR 512 /* numbers of a group that come soon, from the second-level cache into the first */

/* Groups of a strip that are held in registers beside so many rows; they divide its groups. */
static int64_t held_groups(int64_t groups, int64_t rows) {
    if (PARTS == 1 || rows == 1) return groups_of_tile(groups);
    if (rows == 2 && groups % 3 == 0) return 3;
    return rows <= 3 && groups % 2 == 0 ? 2 : 1;
}

enum source { NARROW, NARROW_AND_KEEP, KEPT };

/* `depth` inner values of a strip from `begin` on, in one pass over some rows. */
struct piece {
    const uint16_t *const *weights;
    const uint16_t *const *ahead; /* of each group what to ask of memory meanwhile, or NULL: */
    int64_t ahead_begin, ahead_step; /* from which number on, and how many bytes further with every pair */
    float *kept;                     /* [depth, groups, 16]: the weights in float32, the second of a pair first */
    int64_t begin, depth;
};

INLINE void add_row_products(part sums[WIDE_ROWS][GROUPS * PARTS], const float *in, const part *weights,
                             const int rows, const int parts) {
    for (int r = 0; r < rows; r++) {
        part same = same_part(in[r * DEPTH]);
        for (int i = 0; i < parts; i++) sums[r][i] = add_part_product(sums[r][i], same, weights[i]);
    }
}

INLINE void wide_tile(float *sums, int64_t stride, const float *in, const struct piece *p, const int rows,
                      const int groups, const enum source source) {
    const int parts = groups * PARTS, floats = LANES / PARTS;
    part own[WIDE_ROWS][GROUPS * PARTS], weights[GROUPS * PARTS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < parts; i++) own[r][i] = p->begin ? load_part(sums + r * stride + i * floats) : no_part();
    float *kept = p->kept;
    const char *ahead[GROUPS];
    for (int g = 0; g < groups; g++) ahead[g] = (const char *)((p->ahead ? p->ahead : p->weights)[g] + p->ahead_begin);
    for (int64_t k = 0; k < p->depth; k += 2, kept += 2 * groups * LANES) {
        /* In one pass alone memory is read all the time, and the processor asks ahead itself. */
        for (int g = 0; g < groups && source != NARROW; g++)
            __builtin_prefetch(ahead[g] + k / 2 * p->ahead_step, 0, 2);
        for (int i = 0; i < parts; i++) {
            if (source == KEPT) {
                weights[i] = load_part(kept + i * floats);
                continue;
            }
            const uint16_t *pair = p->weights[i / PARTS] + (p->begin + k) * LANES + i % PARTS * 2 * floats;
            if (i % PARTS == 0) __builtin_prefetch(pair + NEAR, 0, 3);
            weights[i] = second_of_part(pair);
            if (source == NARROW_AND_KEEP) store_part(kept + i * floats, weights[i]);
        }
        add_row_products(own, in + k + 1, weights, rows, parts);
        for (int i = 0; i < parts; i++) {
            if (source == KEPT) {
                weights[i] = load_part(kept + (parts + i) * floats);
                continue;
            }
            const uint16_t *pair = p->weights[i / PARTS] + (p->begin + k) * LANES + i % PARTS * 2 * floats;
            weights[i] = first_of_part(pair);
            if (source == NARROW_AND_KEEP) store_part(kept + (parts + i) * floats, weights[i]);
        }
        add_row_products(own, in + k, weights, rows, parts);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < parts; i++) store_part(sums + r * stride + i * floats, own[r][i]);
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
#if PARTS == 1
#define THREE(rows) CASE(rows, 1) CASE(rows, 2) CASE(rows, 3)
#define ALL_CASES                                                                  \
    THREE(1) THREE(2) THREE(3) THREE(4) THREE(5) THREE(6) THREE(7) THREE(8)        \
    CASE(1, 4) CASE(2, 4) CASE(3, 4) CASE(4, 4) CASE(5, 4) CASE(6, 4)
#else
#define ALL_CASES                                                                       \
    CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4) CASE(2, 1) CASE(2, 2) CASE(2, 3)        \
    CASE(3, 1) CASE(3, 2) CASE(4, 1) CASE(5, 1) CASE(6, 1)
#endif

static void any_wide_tile(float *sums, int64_t stride, const float *in, const struct piece *p, int64_t rows,
                          int64_t groups, enum source source) {
    switch (rows * 8 + groups) { ALL_CASES }
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
    int64_t most = PARTS == 1 && groups_of_tile(strip->groups) > TALL_GROUPS ? TILE_ROWS : WIDE_ROWS;
    int64_t passes = (rows + most - 1) / most, each = (rows + passes - 1) / passes, width = strip->groups * LANES;
    int64_t tile_groups = held_groups(strip->groups, each);
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
