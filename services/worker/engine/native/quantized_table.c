/* Matrix products of coded weights with activations of 16 bits: a code is looked up in a table while it is multiplied.
 *
 * The table's values are what a code means before scaling and exact in bfloat16: integers of up to 8 bits and the 8-bit
 * floats are. 4 bits: 16 values; 8 bits: 128 magnitudes, the code's highest bit being the sign. Scales are applied to
 * the sum of a group, so that no weight is rounded. Weights are packed once, for 16 columns at a time, in pairs of inner
 * values as the instruction wants them (see matmul.c): words of 16 bits hold a value's place in 4 (4 bits) or 2 (8 bits)
 * consecutive pairs, lowest bits first: [columns / 16, inner / 8 or 4, 16, 2]. Scales and offsets
 * [columns / 16, groups, 16], everything padded to a multiple of 64 columns; an output is sum over groups of scale *
 * sum(value * activation) + offset * sum(activation). For many rows a strip of columns is looked up once, into a buffer
 * that fits the second-level cache; or, where products are float32, a group of a strip at a time into the first-level
 * cache (table_block.c): the same values are added in the same order.
 * Source: Lin et al. 2023 (AWQ), section 4.1, weights dequantized on the fly; Frantar et al. 2022 (GPTQ), section 3.
 */
#include "table_look_up.h"
#include "wide_tiles.h" /* DEPTH */

#if HAS_WIDE_REGISTERS

INLINE void add_group_by_pairs(floats sums[MOST_ROWS][MOST_PARTS], const struct coded *w, const struct strips *from,
                      const uint16_t *in, int64_t begin, int64_t end, const struct table *table, const int rows,
                      const int strips, const int bits) {
    const int pairs_of_word = 16 / bits;
    for (int64_t k = begin; k < end; k += 2 * pairs_of_word) {
        pairs raw[MOST_STRIPS];
        for (int s = 0; s < strips; s++) raw[s] = _mm512_loadu_si512(from->packed[s] + k / (2 * pairs_of_word) * 64);
        for (int j = 0; j < pairs_of_word; j++) {
            pairs values[MOST_STRIPS];
            for (int s = 0; s < strips; s++) values[s] = look_up(table, raw[s], bits, j);
            for (int r = 0; r < rows; r++) {
                pairs same = same_pair(in + r * w->padded + k + 2 * j);
                for (int s = 0; s < strips; s++) sums[r][s] = (floats)add_products((lanes)sums[r][s], same, values[s]);
            }
        }
    }
}

int64_t penstock_expand(uint8_t *buffer, const struct coded *w, const uint8_t *packed) {
    const int bits = (int)w->bits;
    struct table table = load_table(w->table, bits);
    for (int64_t i = 0; i < w->padded * LANES * bits / 8 / 64; i++) {
        __m512i raw = _mm512_loadu_si512(packed + i * 64);
        for (int j = 0; j < 16 / bits; j++) {
            __m512i values = bits == 4 ? look_up(&table, raw, 4, j) : look_up(&table, raw, 8, j);
            _mm512_storeu_si512(buffer + (i * (16 / bits) + j) * 64, values);
        }
    }
    return 1;
}

#else

int64_t penstock_expand(uint8_t *buffer, const struct coded *w, const uint8_t *packed) {
    (void)buffer, (void)w, (void)packed;
    return 0;
}

#endif

#if HAS_FAST_PRODUCTS

int64_t penstock_has_fast_table_matmul(void) { return 1; }

/* What the words at `place` hold of each strip, times inputs in float32. */
INLINE void add_words(floats sums[MOST_ROWS][MOST_PARTS], const struct strips *from, int64_t place, const float *in,
                      const struct table *table, const int rows, const int parts, const int bits) {
#if HAS_WIDE_REGISTERS
    pairs raw[MOST_PARTS];
    for (int i = 0; i < parts; i++) raw[i] = load_pairs((const void *)(from->packed[i] + place));
    for (int j = 0; j < 16 / bits; j++) {
        pairs values[MOST_PARTS];
        for (int i = 0; i < parts; i++) values[i] = look_up(table, raw[i], bits, j);
        for (int half = 1; half >= 0; half--)
            for (int r = 0; r < rows; r++) {
                floats same = same_float(in[r * DEPTH + 2 * j + half]);
                for (int i = 0; i < parts; i++)
                    sums[r][i] = add_product(sums[r][i], same,
                                             (floats)(half ? second_of_pairs(values[i]) : first_of_pairs(values[i])));
            }
    }
#else
    for (int i = 0; i < parts; i++) {
        part values[4][2];
        look_up_words(values, table, from->packed[i / PARTS] + place + i % PARTS * 64 / PARTS, bits);
        for (int j = 0; j < 16 / bits; j++)
            for (int half = 1; half >= 0; half--)
                for (int r = 0; r < rows; r++)
                    sums[r][i] =
                        add_product(sums[r][i], same_float(in[r * DEPTH + 2 * j + half]), (floats)values[j][half]);
    }
#endif
}

/* The same bits by float32, as wide_tiles.c does it. */
INLINE void add_group_by_floats(floats sums[MOST_ROWS][MOST_PARTS], const struct coded *w, const struct strips *from,
                                const uint16_t *in, int64_t begin, int64_t end, const struct table *table,
                                const int rows, const int parts, const int bits) {
    const int pairs_of_word = 16 / bits;
    _Alignas(64) float wide[MOST_ROWS * DEPTH];
    for (int64_t piece = begin; piece < end; piece += DEPTH) {
        int64_t stop = end - piece < DEPTH ? end : piece + DEPTH;
        for (int r = 0; r < rows; r++)
            for (int64_t k = piece; k < stop; k++) wide[r * DEPTH + k - piece] = from_bf16(in[r * w->padded + k]);
        for (int64_t k = piece; k < stop; k += 2 * pairs_of_word)
            add_words(sums, from, k / (2 * pairs_of_word) * 64, wide + k - piece, table, rows, parts, bits);
    }
}

INLINE void add_group(floats sums[MOST_ROWS][MOST_PARTS], const struct coded *w, const struct strips *from,
                      const uint16_t *in, int64_t begin, int64_t end, const struct table *table, const int rows,
                      const int strips, const int bits) {
#if HAS_WIDE_REGISTERS
    if (rows == 1 || !penstock_is_wide_faster()) {
        add_group_by_pairs(sums, w, from, in, begin, end, table, rows, strips, bits);
        return;
    }
#endif
    add_group_by_floats(sums, w, from, in, begin, end, table, rows, strips * PARTS, bits);
}

#else

int64_t penstock_has_fast_table_matmul(void) { return 0; }

INLINE void add_group(floats sums[MOST_ROWS][MOST_PARTS], const struct coded *w, const struct strips *from,
                      const uint16_t *in, int64_t begin, int64_t end, const struct table *table, const int rows,
                      const int strips, const int bits) {
    for (int s = 0; s < strips; s++) {
        const uint16_t *packed = (const uint16_t *)from->packed[s];
        for (int64_t k = begin; k < end; k++) {
            floats values;
            for (int64_t lane = 0; lane < LANES; lane++) {
                int64_t word = k / (32 / bits) * 32 + lane * 2 + k % 2;
                values[lane] = look_up(table, packed[word], bits, k % (32 / bits) / 2);
            }
            for (int r = 0; r < rows; r++)
                sums[r][s] = add_product(sums[r][s], values, same_float(from_bf16(in[r * w->padded + k])));
        }
    }
}

#endif

/* All but the first four are constants where it is called. */
INLINE void tile(float *out, const struct coded_product *p, const struct strips *from, int64_t row, const int rows,
                 const int strips, const int bits) {
    const struct coded *w = p->weights;
    const int parts = strips * PARTS;
    floats outputs[MOST_ROWS][MOST_PARTS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < parts; i++) outputs[r][i] = same_float(0.0f);
    struct table table = load_table(w->table, bits);
    int64_t group_size = w->padded / w->groups;
    const uint16_t *in = p->in.halves + row * w->padded;
    for (int64_t group = 0; group < w->groups; group++) {
        floats sums[MOST_ROWS][MOST_PARTS];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < parts; i++) sums[r][i] = same_float(0.0f);
        add_group(sums, w, from, in, group * group_size, (group + 1) * group_size, &table, rows, strips, bits);
        for (int i = 0; i < parts; i++) {
            int64_t index = (from->number[i / PARTS] * w->groups + group) * PARTS + i % PARTS;
            floats scales = load_scales(w->scales, index, w->is_half);
            floats offsets = w->offsets ? load_scales(w->offsets, index, w->is_half) : same_float(0.0f);
            for (int r = 0; r < rows; r++) {
                float in_sum = w->offsets ? p->in.half_sums[(row + r) * w->groups + group] : 0.0f;
                outputs[r][i] = add_product(outputs[r][i], scales, sums[r][i]);
                if (w->offsets) outputs[r][i] = add_product(outputs[r][i], offsets, same_float(in_sum));
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < parts; i++) {
            if (w->bias) outputs[r][i] += load_floats(w->bias + from->number[i / PARTS] * LANES + i % PARTS * FLOATS);
            memcpy(out + (r * parts + i) * FLOATS, &outputs[r][i], sizeof(floats));
        }
}

#define CASE(rows, strips)                                 \
    case (rows) * 8 + (strips):                            \
        if (from->is_expanded)                             \
            tile(out, p, from, row, rows, strips, EXPANDED); \
        else if (p->weights->bits == 4)                    \
            tile(out, p, from, row, rows, strips, 4);      \
        else                                               \
            tile(out, p, from, row, rows, strips, 8);      \
        break;

void penstock_table_tile(float *out, const struct coded_product *p, const struct strips *from, int64_t row,
                         int64_t rows) {
#if HAS_FAST_PRODUCTS
    unsigned control = take_denormals_for_zeros();
#endif
    switch (rows * 8 + from->count) { CASE(1, 4) CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2) CASE(6, 2) CASE(8, 2) }
#if HAS_FAST_PRODUCTS
    restore(control);
#endif
}

void penstock_group_sums(float *sums, const uint16_t *in, int64_t rows, int64_t inner, int64_t groups) {
    int64_t group_size = inner / groups;
#pragma omp parallel for if (rows * inner > 65536)
    for (int64_t i = 0; i < rows * groups; i++) {
        float parts[8] = {0};
        for (int64_t k = 0; k < group_size; k += 8)
            for (int64_t j = 0; j < 8; j++) parts[j] += from_bf16(in[i * group_size + k + j]);
        sums[i] = ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
    }
}
