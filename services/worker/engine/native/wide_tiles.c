/* Blocks of a product by float32 multiply-adds: on processors whose instruction for pairs of bfloat16 products is
 * slower than two of those (a Xeon of the fourth generation: four times) or that have none, and bit by bit the same.
 *
 * That instruction adds the product of a pair's second halves, then that of its first halves, each rounded once, and
 * takes denormal numbers for zeros; so does this. Inputs and weights become float32 by DEPTH inner values at a time,
 * which the first-level cache holds: weights while the first rows use them, for all rows after that.
 */
#include "wide_tiles.h"

#if HAS_FAST_PRODUCTS

#define NEAR 512 /* numbers of a group that come soon, from the second-level cache into the first */

enum source { NARROW, NARROW_AND_KEEP, KEPT };

/* Part `i` of the weights at inner value k + `half`; the second of a pair comes first. */
INLINE part weights_of(const struct piece *p, float *kept, int64_t k, const int half, const int i, const int parts,
                       const enum source source) {
    const int floats = LANES / PARTS;
    float *place = kept + (k + 1 - half) * parts * floats + i * floats;
    if (source == KEPT) return load_part(place);
    const uint16_t *pair = p->weights[i / PARTS] + (p->begin + k) * LANES + i % PARTS * 2 * floats;
    if (half && i % PARTS == 0) __builtin_prefetch(pair + NEAR, 0, 3);
    part weights = half ? second_of_part(pair) : first_of_part(pair);
    if (source == NARROW_AND_KEEP) store_part(place, weights);
    return weights;
}

INLINE void add_inner_value(part sums[WIDE_ROWS][GROUPS * PARTS], const float *in, const struct piece *p, float *kept,
                            int64_t k, const int half, const int rows, const int parts, const enum source source) {
    if (PARTS > 1 && parts > PARTS) { /* few rows: their inputs are held */
        part same[WIDE_ROWS];
        for (int r = 0; r < rows; r++) same[r] = held(same_part(in[r * DEPTH + k + half]));
        for (int i = 0; i < parts; i++) {
            part weights = weights_of(p, kept, k, half, i, parts, source);
            for (int r = 0; r < rows; r++) sums[r][i] = add_part_product(sums[r][i], same[r], weights);
        }
        return;
    }
    part weights[GROUPS * PARTS];
    for (int i = 0; i < parts; i++) weights[i] = held(weights_of(p, kept, k, half, i, parts, source));
    for (int r = 0; r < rows; r++) {
        part same = same_part(in[r * DEPTH + k + half]);
        for (int i = 0; i < parts; i++) sums[r][i] = add_part_product(sums[r][i], same, weights[i]);
    }
}

INLINE void wide_tile(float *sums, int64_t stride, const float *in, const struct piece *p, const int rows,
                      const int groups, const enum source source) {
    const int parts = groups * PARTS, floats = LANES / PARTS;
    part own[WIDE_ROWS][GROUPS * PARTS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < parts; i++) own[r][i] = p->begin ? load_part(sums + r * stride + i * floats) : no_part();
    const char *ahead[GROUPS];
    for (int g = 0; g < groups; g++) ahead[g] = (const char *)((p->ahead ? p->ahead : p->weights)[g] + p->ahead_begin);
    for (int64_t k = 0; k < p->depth; k += 2) {
        /* In one pass alone memory is read all the time, and the processor asks ahead itself. */
        for (int g = 0; g < groups && source != NARROW; g++)
            __builtin_prefetch(ahead[g] + k / 2 * p->ahead_step, 0, 2);
        add_inner_value(own, in, p, p->kept, k, 1, rows, parts, source);
        add_inner_value(own, in, p, p->kept, k, 0, rows, parts, source);
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
#define ALL_CASES                                                       \
    CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4) CASE(2, 1) CASE(2, 2)   \
    CASE(3, 1) CASE(4, 1) CASE(5, 1) CASE(6, 1)
#endif

static void any_wide_tile(float *sums, int64_t stride, const float *in, const struct piece *p, int64_t rows,
                          int64_t groups, enum source source) {
    switch (rows * 8 + groups) { ALL_CASES }
}

void penstock_widen(float *wide, const uint16_t *in, const uint16_t *next, int64_t stride, int64_t rows, int64_t depth) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t k = 0; k < DEPTH; k += 32) __builtin_prefetch(next + r * stride + k, 0, 3);
        for (int64_t k = 0; k < depth; k++) wide[r * DEPTH + k] = from_bf16(in[r * stride + k]);
    }
}

void penstock_kept_tile(float *sums, int64_t stride, const float *in, const struct piece *p, int64_t rows,
                        int64_t groups) {
    any_wide_tile(sums, stride, in, p, rows, groups, KEPT);
}

void penstock_wide_block(float *sums, const uint16_t *in, int64_t stride, int64_t rows, const struct strip *strip,
                         int64_t inner) {
    _Alignas(64) float inputs[WIDE_ROWS * DEPTH], kept[MOST_GROUPS * DEPTH * LANES];
    int64_t each = rows_of_pass(strip->groups, rows), passes = (rows + each - 1) / each;
    int64_t tile_groups = held_groups(strip->groups, each), width = strip->groups * LANES;
    unsigned control = take_denormals_for_zeros();
    for (int64_t begin = 0; begin < inner; begin += DEPTH) {
        int64_t depth = inner - begin < DEPTH ? inner - begin : DEPTH;
        for (int64_t row = 0; row < rows; row += each) {
            int64_t count = rows - row < each ? rows - row : each;
            enum source source = row > 0 ? KEPT : passes > 1 ? NARROW_AND_KEEP : NARROW;
            const uint16_t *own = in + row * stride + begin;
            penstock_widen(inputs, own, row + each < rows ? own + each * stride : in + begin + DEPTH, stride, count, depth);
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
