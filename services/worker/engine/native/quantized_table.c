/* Matrix products of coded weights with activations of 16 bits: a code is looked up in a table while it is multiplied.
 *
 * The table's values are what a code means before scaling and exact in bfloat16: integers of up to 8 bits and the 8-bit
 * floats are. 4 bits: 16 values; 8 bits: 128 magnitudes, the code's highest bit being the sign. Scales are applied to
 * the sum of a group, so that no weight is rounded. Weights are packed once, for 16 columns at a time, in pairs of inner
 * values as the instruction wants them (see matmul.c): words of 16 bits hold a value's place in 4 (4 bits) or 2 (8 bits)
 * consecutive pairs, lowest bits first: [columns / 16, inner / 8 or 4, 16, 2]. Scales and offsets
 * [columns / 16, groups, 16], everything padded to a multiple of 64 columns; an output is sum over groups of scale * sum(value * activation) + offset *
 * sum(activation). For many rows a strip of columns is looked up once, into a buffer that fits the second-level cache:
 * the same values are added in the same order, so that a row's result does not depend on the rows beside it.
 * Source: Lin et al. 2023 (AWQ), section 4.1, weights dequantized on the fly; Frantar et al. 2022 (GPTQ), section 3.
 */
#include <stdlib.h>

#include "quantized_lanes.h"

struct product {
    void *out;
    const uint16_t *in;  /* [rows, inner], bfloat16 */
    const float *in_sums; /* [rows, groups], read where there are offsets */
    const uint8_t *packed;
    const uint16_t *table;
    const void *scales, *offsets;
    const float *bias;
    int64_t rows, columns, inner, groups, is_half, is_wide;
};

#define EXPANDED 16

INLINE float widen(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)

#define MOST_ROWS 6
#define MOST_STRIPS 4

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

/* `rows` x `strips` * 16 outputs; weights of this strip begin at `packed`, `stride` bytes for 16 columns. */
INLINE void tile(const struct product *p, const uint8_t *packed, int64_t stride, int64_t row, int64_t column,
                 const int rows, const int strips, const int bits, const int has_offsets) {
    const int pairs = 16 / bits;
    floats outputs[MOST_ROWS][MOST_STRIPS];
    for (int r = 0; r < rows; r++)
        for (int s = 0; s < strips; s++) outputs[r][s] = same_float(0.0f);
    struct table table = load_table(p->table, bits);
    int64_t group_size = p->inner / p->groups;
    const uint16_t *in = p->in + row * p->inner;
    for (int64_t group = 0; group < p->groups; group++) {
        __m512 sums[MOST_ROWS][MOST_STRIPS];
        for (int r = 0; r < rows; r++)
            for (int s = 0; s < strips; s++) sums[r][s] = _mm512_setzero_ps();
        for (int64_t k = group * group_size; k < (group + 1) * group_size; k += 2 * pairs) {
            __m512i raw[MOST_STRIPS];
            for (int s = 0; s < strips; s++)
                raw[s] = _mm512_loadu_si512(packed + s * stride + k / (2 * pairs) * 64);
            for (int j = 0; j < pairs; j++) {
                __m512bh values[MOST_STRIPS];
                for (int s = 0; s < strips; s++) values[s] = (__m512bh)look_up(&table, raw[s], bits, j);
                for (int r = 0; r < rows; r++) {
                    int32_t two;
                    memcpy(&two, in + r * p->inner + k + 2 * j, sizeof two);
                    __m512bh same = (__m512bh)_mm512_set1_epi32(two);
                    for (int s = 0; s < strips; s++) sums[r][s] = _mm512_dpbf16_ps(sums[r][s], same, values[s]);
                }
            }
        }
        for (int s = 0; s < strips; s++) {
            int64_t index = (column / LANES + s) * p->groups + group;
            floats scales = load_scales(p->scales, index, p->is_half);
            floats offsets = has_offsets ? load_scales(p->offsets, index, p->is_half) : scales;
            for (int r = 0; r < rows; r++) {
                floats scaled = scales * (floats)sums[r][s];
                if (has_offsets) scaled += offsets * p->in_sums[(row + r) * p->groups + group];
                outputs[r][s] += scaled;
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int s = 0; s < strips; s++)
            store_row(p->out, outputs[r][s], p->bias, row + r, column + s * LANES, p->columns, p->is_wide);
}

INLINE void all_rows(const struct product *p, const uint8_t *packed, int64_t stride, int64_t column,
                     const int strips, const int bits, const int has_offsets) {
    int64_t row = 0;
    if (bits == EXPANDED)
        for (; row + 6 <= p->rows; row += 6)
            tile(p, packed, stride, row, column, 6, strips, bits, has_offsets);
    for (; row + 4 <= p->rows; row += 4)
        tile(p, packed, stride, row, column, 4, strips, bits, has_offsets);
    for (; row < p->rows; row++) tile(p, packed, stride, row, column, 1, strips, bits, has_offsets);
}

INLINE void expand(const struct product *p, uint8_t *buffer, int64_t column, const int bits) {
    struct table table = load_table(p->table, bits);
    int64_t count = p->inner * LANES * bits / 8 * MOST_STRIPS / 64;
    const uint8_t *packed = p->packed + column * p->inner * bits / 8;
    for (int64_t i = 0; i < count; i++) {
        __m512i raw = _mm512_loadu_si512(packed + i * 64);
        for (int j = 0; j < 16 / bits; j++)
            _mm512_storeu_si512(buffer + (i * (16 / bits) + j) * 64, look_up(&table, raw, bits, j));
    }
}

INLINE void strip(const struct product *p, uint8_t *buffer, int64_t column, const int bits, const int has_offsets) {
    int64_t stride = p->inner * LANES * bits / 8, wide_stride = p->inner * LANES * 2;
    if (buffer) {
        expand(p, buffer, column, bits);
        all_rows(p, buffer, wide_stride, column, MOST_STRIPS, EXPANDED, has_offsets);
    } else {
        all_rows(p, p->packed + column / LANES * stride, stride, column, MOST_STRIPS, bits, has_offsets);
    }
}

#else

#define MOST_STRIPS 1

int64_t penstock_has_fast_table_matmul(void) { return 0; }

INLINE float look_up(const struct product *p, uint16_t word, int bits, int j) {
    if (bits == 4) return widen(p->table[word >> 4 * j & 15]);
    float magnitude = widen(p->table[word >> 8 * j & 127]);
    return word >> 8 * j & 128 ? -magnitude : magnitude;
}

/* 16 columns, one row after another; the buffer holds every value as float32, [inner, 16]. */
INLINE void strip(const struct product *p, uint8_t *buffer, int64_t column, const int bits, const int has_offsets) {
    float *values = (float *)buffer;
    const uint16_t *packed = (const uint16_t *)(p->packed + column * p->inner * bits / 8);
    for (int64_t k = 0; k < p->inner; k++)
        for (int64_t lane = 0; lane < LANES; lane++) {
            int64_t word = k / (32 / bits) * 32 + lane * 2 + k % 2;
            values[k * LANES + lane] = look_up(p, packed[word], bits, (int)(k % (32 / bits) / 2));
        }
    int64_t group_size = p->inner / p->groups;
    for (int64_t row = 0; row < p->rows; row++) {
        floats output = same_float(0.0f);
        for (int64_t group = 0; group < p->groups; group++) {
            floats sums = same_float(0.0f);
            for (int64_t k = group * group_size; k < (group + 1) * group_size; k++)
                sums += load_floats(values + k * LANES) * widen(p->in[row * p->inner + k]);
            int64_t index = column / LANES * p->groups + group;
            output += load_scales(p->scales, index, p->is_half) * sums;
            if (has_offsets)
                output += load_scales(p->offsets, index, p->is_half) * p->in_sums[row * p->groups + group];
        }
        store_row(p->out, output, p->bias, row, column, p->columns, p->is_wide);
    }
}

#endif

/* `is_expanded` looks every strip up once before it is multiplied; the result is the same. False when there is no
 * memory for that where it cannot be done without. */
int64_t penstock_table_matmul(void *out, const uint16_t *in, const float *in_sums, const uint8_t *packed,
                              const uint16_t *table, const void *scales, const void *offsets, const float *bias,
                              int64_t rows, int64_t columns, int64_t inner, int64_t groups, int64_t bits,
                              int64_t is_half, int64_t is_wide, int64_t is_expanded) {
    const struct product p = {out,  in,      in_sums, packed, table,   scales, offsets,
                              bias, rows, columns, inner,   groups, is_half, is_wide};
    int needs_buffer = !penstock_has_fast_table_matmul();
    int64_t step = LANES * MOST_STRIPS, strips = (columns + step - 1) / step, is_done = 1;
    size_t size = (size_t)(inner * step) * (needs_buffer ? sizeof(float) : sizeof(uint16_t));
#pragma omp parallel if (columns * inner > 65536) reduction(& : is_done)
    {
        uint8_t *buffer = is_expanded || needs_buffer ? aligned_alloc(64, (size + 63) / 64 * 64) : NULL;
        is_done = buffer != NULL || !needs_buffer;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < strips; i++) {
            if (!is_done) continue;
            if (bits == 4 && offsets)
                strip(&p, buffer, i * step, 4, 1);
            else if (bits == 4)
                strip(&p, buffer, i * step, 4, 0);
            else if (offsets)
                strip(&p, buffer, i * step, 8, 1);
            else
                strip(&p, buffer, i * step, 8, 0);
        }
        free(buffer);
    }
    return is_done;
}

/* in [rows, inner] bfloat16 -> sums of every group, [rows, groups]. */
void penstock_group_sums(float *sums, const uint16_t *in, int64_t rows, int64_t inner, int64_t groups) {
    int64_t group_size = inner / groups;
#pragma omp parallel for if (rows * inner > 65536)
    for (int64_t i = 0; i < rows * groups; i++) {
        float parts[8] = {0};
        for (int64_t k = 0; k < group_size; k += 8)
            for (int64_t j = 0; j < 8; j++) parts[j] += widen(in[i * group_size + k + j]);
        sums[i] = ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
    }
}
