/* Matrix products of coded weights with activations of 16 bits: a code is looked up in a table while it is multiplied.
 *
 * The table's values are what a code means before scaling and exact in bfloat16: integers of up to 8 bits and the 8-bit
 * floats are. 4 bits: 16 values; 8 bits: 128 magnitudes, the code's highest bit being the sign. Scales are applied to
 * the sum of a group, so that no weight is rounded. Weights are packed once, for 16 columns at a time, in pairs of inner
 * values as the instruction wants them (see matmul.c): words of 16 bits hold a value's place in 4 (4 bits) or 2 (8 bits)
 * consecutive pairs, lowest bits first: [columns / 16, inner / 8 or 4, 16, 2]. Scales and offsets
 * [columns / 16, groups, 16], everything padded to a multiple of 64 columns; an output is sum over groups of scale *
 * sum(value * activation) + offset * sum(activation). For many rows a strip of columns is looked up once, into a buffer
 * that fits the second-level cache: the same values are added in the same order.
 * Source: Lin et al. 2023 (AWQ), section 4.1, weights dequantized on the fly; Frantar et al. 2022 (GPTQ), section 3.
 */
#include "quantized_lanes.h"
#include "quantized_products.h"

#define EXPANDED 16
#define WIDE_DEPTH 128 /* a multiple of what a word of codes holds */

#if HAS_WIDE_REGISTERS

int64_t penstock_has_fast_table_matmul(void) { return 1; }

struct table {
    __m512i parts[4]; /* of 32 values each; 4 bits use the first, which holds the 16 twice */
};

INLINE struct table load_table(const uint16_t *values, const int bits) {
    struct table table;
    for (int i = 0; i < 4; i++) table.parts[i] = _mm512_setzero_si512();
    if (bits == 4) table.parts[0] = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)values));
    if (bits == 8)
        for (int i = 0; i < 4; i++) table.parts[i] = _mm512_loadu_si512(values + 32 * i);
    return table;
}

/* Pair `j` of the words in `raw`. */
INLINE __m512i look_up(const struct table *table, __m512i raw, const int bits, const int j) {
    if (bits == EXPANDED) return raw;
    __m512i place = j ? _mm512_srli_epi16(raw, (unsigned)(bits * j)) : raw;
    if (bits == 4) return _mm512_permutexvar_epi16(place, table->parts[0]);
    __m512i low = _mm512_permutex2var_epi16(table->parts[0], place, table->parts[1]);
    __m512i high = _mm512_permutex2var_epi16(table->parts[2], place, table->parts[3]);
    __m512i magnitude = _mm512_mask_mov_epi16(low, _mm512_test_epi16_mask(place, _mm512_set1_epi16(0x40)), high);
    __m512i sign = _mm512_and_si512(_mm512_slli_epi16(place, 8), _mm512_set1_epi16((int16_t)0x8000));
    return _mm512_or_si512(magnitude, sign);
}

INLINE void add_group_by_pairs(floats sums[MOST_ROWS][MOST_STRIPS], const struct coded *w, const struct strips *from,
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

INLINE void add_wide(floats sums[MOST_ROWS][MOST_STRIPS], const float *in, const lanes *weights, const int rows,
                     const int strips) {
    for (int r = 0; r < rows; r++) {
        __m512 same = _mm512_set1_ps(in[r * WIDE_DEPTH]);
        for (int s = 0; s < strips; s++)
            sums[r][s] = (floats)_mm512_fmadd_ps(same, weights[s], (__m512)sums[r][s]);
    }
}

/* The same bits by float32, as wide_tiles.c does it. */
INLINE void add_group_by_floats(floats sums[MOST_ROWS][MOST_STRIPS], const struct coded *w, const struct strips *from,
                                const uint16_t *in, int64_t begin, int64_t end, const struct table *table,
                                const int rows, const int strips, const int bits) {
    const int pairs_of_word = 16 / bits;
    _Alignas(64) float wide[MOST_ROWS * WIDE_DEPTH];
    for (int64_t piece = begin; piece < end; piece += WIDE_DEPTH) {
        int64_t stop = end - piece < WIDE_DEPTH ? end : piece + WIDE_DEPTH;
        for (int r = 0; r < rows; r++)
            for (int64_t k = piece; k < stop; k++) wide[r * WIDE_DEPTH + k - piece] = from_bf16(in[r * w->padded + k]);
        for (int64_t k = piece; k < stop; k += 2 * pairs_of_word) {
            pairs raw[MOST_STRIPS];
            for (int s = 0; s < strips; s++)
                raw[s] = _mm512_loadu_si512(from->packed[s] + k / (2 * pairs_of_word) * 64);
            for (int j = 0; j < pairs_of_word; j++) {
                lanes weights[MOST_STRIPS];
                pairs values[MOST_STRIPS];
                for (int s = 0; s < strips; s++) {
                    values[s] = look_up(table, raw[s], bits, j);
                    weights[s] = second_of_pairs(values[s]);
                }
                add_wide(sums, wide + k - piece + 2 * j + 1, weights, rows, strips);
                for (int s = 0; s < strips; s++) weights[s] = first_of_pairs(values[s]);
                add_wide(sums, wide + k - piece + 2 * j, weights, rows, strips);
            }
        }
    }
}

INLINE void add_group(floats sums[MOST_ROWS][MOST_STRIPS], const struct coded *w, const struct strips *from,
                      const uint16_t *in, int64_t begin, int64_t end, const struct table *table, const int rows,
                      const int strips, const int bits) {
    if (rows > 1 && penstock_is_wide_faster()) {
        unsigned control = take_denormals_for_zeros();
        add_group_by_floats(sums, w, from, in, begin, end, table, rows, strips, bits);
        restore(control);
    } else {
        add_group_by_pairs(sums, w, from, in, begin, end, table, rows, strips, bits);
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

int64_t penstock_has_fast_table_matmul(void) { return 0; }

int64_t penstock_expand(uint8_t *buffer, const struct coded *w, const uint8_t *packed) {
    (void)buffer, (void)w, (void)packed;
    return 0;
}

struct table {
    const uint16_t *values;
};

INLINE struct table load_table(const uint16_t *values, const int bits) {
    (void)bits;
    return (struct table){values};
}

INLINE float look_up(const struct table *table, uint16_t word, const int bits, int64_t j) {
    if (bits == 4) return from_bf16(table->values[word >> 4 * j & 15]);
    float magnitude = from_bf16(table->values[word >> 8 * j & 127]);
    return word >> 8 * j & 128 ? -magnitude : magnitude;
}

INLINE void add_group(floats sums[MOST_ROWS][MOST_STRIPS], const struct coded *w, const struct strips *from,
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
    floats outputs[MOST_ROWS][MOST_STRIPS];
    for (int r = 0; r < rows; r++)
        for (int s = 0; s < strips; s++) outputs[r][s] = same_float(0.0f);
    struct table table = load_table(w->table, bits);
    int64_t group_size = w->padded / w->groups;
    const uint16_t *in = p->in.halves + row * w->padded;
    for (int64_t group = 0; group < w->groups; group++) {
        floats sums[MOST_ROWS][MOST_STRIPS];
        for (int r = 0; r < rows; r++)
            for (int s = 0; s < strips; s++) sums[r][s] = same_float(0.0f);
        add_group(sums, w, from, in, group * group_size, (group + 1) * group_size, &table, rows, strips, bits);
        for (int s = 0; s < strips; s++) {
            int64_t index = from->number[s] * w->groups + group;
            floats scales = load_scales(w->scales, index, w->is_half);
            floats offsets = w->offsets ? load_scales(w->offsets, index, w->is_half) : same_float(0.0f);
            for (int r = 0; r < rows; r++) {
                float in_sum = w->offsets ? p->in.half_sums[(row + r) * w->groups + group] : 0.0f;
                outputs[r][s] = add_product(outputs[r][s], scales, sums[r][s]);
                if (w->offsets) outputs[r][s] = add_product(outputs[r][s], offsets, same_float(in_sum));
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int s = 0; s < strips; s++) {
            if (w->bias) outputs[r][s] += load_floats(w->bias + from->number[s] * LANES);
            memcpy(out + (r * strips + s) * LANES, &outputs[r][s], sizeof(floats));
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
    switch (rows * 8 + from->count) { CASE(1, 4) CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2) CASE(6, 2) CASE(8, 2) }
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
