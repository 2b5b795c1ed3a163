/* Matrix products of 4-bit and 8-bit weights with activations of 8 bits: sums of integers, exact, scaled per group.
 *
 * Weights are unsigned codes, packed once, for 16 columns at a time, quads of inner values in order:
 * 8 bits: [columns / 16, inner / 4, 16, 4]; 4 bits: [columns / 16, inner / 8, 16, 4], a byte's low half being a value
 * of the first quad and its high half one of the second. Scales and offsets [columns / 16, groups, 16]. All of them
 * are padded to a multiple of 64 columns. Activations are
 * signed, with a scale and a sum for every row and group. An output is
 *     sum over groups of activation scale * (weight scale * sum(code * activation) + offset * sum(activation)),
 * the offset being minus weight scale * zero point; where every zero point is the same, `zero` takes it out of the
 * integer sum and there are no offsets. A row's result does not depend on the rows beside it, nor on the number of
 * threads: groups are added in their order in every tile.
 * Source: Jacob et al. 2018, section 2.2; per group Dettmers et al. 2022 (8-bit block-wise) and Lin et al. 2023.
 */
#include <math.h>

#include "quantized_lanes.h"

#define MOST_ROWS 6
#define MOST_STRIPS 4

struct product {
    void *out;
    const int8_t *in;
    const float *in_scales;
    const int32_t *in_sums;
    const uint8_t *packed;
    const void *scales, *offsets;
    const float *bias;
    int64_t rows, columns, inner, groups, zero, is_half, is_wide;
};

/* 4 bits: two quads from one load. */
INLINE void add_nibbles(ints sums[MOST_ROWS][MOST_STRIPS], const struct product *p, const uint8_t *packed,
                        int64_t stride, const int8_t *in, int64_t begin, int64_t end, const int rows,
                        const int strips) {
    ints low = same_int(0x0F0F0F0F);
    for (int64_t k = begin; k < end; k += 8) {
        ints first[MOST_STRIPS], second[MOST_STRIPS];
        for (int s = 0; s < strips; s++) {
            ints both;
            memcpy(&both, packed + s * stride + k / 8 * 64, sizeof both);
            first[s] = both & low;
            second[s] = (both >> 4) & low;
        }
        for (int r = 0; r < rows; r++)
            for (int s = 0; s < strips; s++) {
                sums[r][s] = add_products(sums[r][s], first[s], in + r * p->inner + k);
                sums[r][s] = add_products(sums[r][s], second[s], in + r * p->inner + k + 4);
            }
    }
}

INLINE void add_bytes(ints sums[MOST_ROWS][MOST_STRIPS], const struct product *p, const uint8_t *packed,
                      int64_t stride, const int8_t *in, int64_t begin, int64_t end, const int rows,
                      const int strips) {
    for (int64_t k = begin; k < end; k += 4) {
        ints quads[MOST_STRIPS];
        for (int s = 0; s < strips; s++) memcpy(&quads[s], packed + s * stride + k / 4 * 64, sizeof quads[s]);
        for (int r = 0; r < rows; r++)
            for (int s = 0; s < strips; s++)
                sums[r][s] = add_products(sums[r][s], quads[s], in + r * p->inner + k);
    }
}

/* `rows` x `strips` * 16 outputs; all but the first three are constants where it is called. */
INLINE void tile(const struct product *p, int64_t row, int64_t column, const int rows, const int strips,
                 const int bits, const int has_offsets) {
    floats outputs[MOST_ROWS][MOST_STRIPS];
    for (int r = 0; r < rows; r++)
        for (int s = 0; s < strips; s++) outputs[r][s] = same_float(0.0f);
    int64_t stride = p->inner * LANES * bits / 8, group_size = p->inner / p->groups;
    const uint8_t *packed = p->packed + column / LANES * stride;
    const int8_t *in = p->in + row * p->inner;
    for (int64_t group = 0; group < p->groups; group++) {
        const int32_t *in_sums = p->in_sums + row * p->groups + group;
        const float *in_scales = p->in_scales + row * p->groups + group;
        ints sums[MOST_ROWS][MOST_STRIPS];
        for (int r = 0; r < rows; r++)
            for (int s = 0; s < strips; s++) sums[r][s] = same_int(-(int32_t)p->zero * in_sums[r * p->groups]);
        int64_t begin = group * group_size, end = begin + group_size;
        if (bits == 4)
            add_nibbles(sums, p, packed, stride, in, begin, end, rows, strips);
        else
            add_bytes(sums, p, packed, stride, in, begin, end, rows, strips);
        for (int s = 0; s < strips; s++) {
            int64_t index = (column / LANES + s) * p->groups + group;
            floats scales = load_scales(p->scales, index, p->is_half);
            floats offsets = has_offsets ? load_scales(p->offsets, index, p->is_half) : scales;
            for (int r = 0; r < rows; r++) {
                floats scaled = scales * to_floats(sums[r][s]);
                if (has_offsets) scaled += offsets * (float)in_sums[r * p->groups];
                outputs[r][s] += in_scales[r * p->groups] * scaled;
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int s = 0; s < strips; s++)
            store_row(p->out, outputs[r][s], p->bias, row + r, column + s * LANES, p->columns, p->is_wide);
}

INLINE void strip(const struct product *p, int64_t column, const int bits, const int has_offsets) {
    int64_t row = 0;
    for (; row + 6 <= p->rows; row += 6) tile(p, row, column, 6, MOST_STRIPS, bits, has_offsets);
    for (; row + 4 <= p->rows; row += 4) tile(p, row, column, 4, MOST_STRIPS, bits, has_offsets);
    for (; row < p->rows; row++) tile(p, row, column, 1, MOST_STRIPS, bits, has_offsets);
}

void penstock_integer_matmul(void *out, const int8_t *in, const float *in_scales, const int32_t *in_sums,
                             const uint8_t *packed, const void *scales, const void *offsets, const float *bias,
                             int64_t rows, int64_t columns, int64_t inner, int64_t groups, int64_t zero,
                             int64_t bits, int64_t is_half, int64_t is_wide) {
    const struct product p = {out,  in,   in_scales, in_sums, packed, scales, offsets, bias,
                              rows, columns, inner,  groups,  zero,   is_half, is_wide};
    int64_t step = LANES * MOST_STRIPS, strips = (columns + step - 1) / step;
#pragma omp parallel for schedule(dynamic, 1) if (columns * inner > 65536)
    for (int64_t i = 0; i < strips; i++) {
        if (bits == 4 && offsets)
            strip(&p, i * step, 4, 1);
        else if (bits == 4)
            strip(&p, i * step, 4, 0);
        else if (offsets)
            strip(&p, i * step, 8, 1);
        else
            strip(&p, i * step, 8, 0);
    }
}

/* in [rows, inner], float32 or bfloat16 -> signed bytes, and for every row and group the scale (largest magnitude
 * / 127, at least the smallest normal number) and the sum of the bytes. Rows are padded with zeros to `padded`. One
 * scale covers `scale_groups` groups. What is not finite makes its scale NaN, and so all that is made of it. (Without
 * their sign, numbers are in the order of their bits, infinity and NaN last.) */
#define QUANTIZE_ROWS(name, ELEMENT, LOAD)                                                                     \
    void name(int8_t *restrict codes, float *restrict scales, int32_t *restrict sums, const ELEMENT *restrict in, \
              int64_t rows, int64_t inner, int64_t padded, int64_t groups, int64_t scale_groups) {             \
        int64_t group_size = padded / groups, span = group_size * scale_groups;                                \
        _Pragma("omp parallel for if (rows * inner > 65536)")                                                  \
        for (int64_t row = 0; row < rows; row++) {                                                             \
            const ELEMENT *x = in + row * inner;                                                               \
            int8_t *y = codes + row * padded;                                                                  \
            for (int64_t begin = 0; begin < padded; begin += span) {                                           \
                int64_t end = begin + span < inner ? begin + span : inner;                                     \
                uint32_t highest = 0;                                                                          \
                for (int64_t i = begin; i < end; i++) {                                                        \
                    uint32_t bits = bits_of(LOAD(x[i])) & 0x7FFFFFFFu;                                         \
                    highest = bits > highest ? bits : highest;                                                 \
                }                                                                                              \
                float largest = float_of(highest) / 127.0f;                                                    \
                float scale = highest >= 0x7F800000u ? NAN : largest > 0x1p-126f ? largest : 0x1p-126f;        \
                for (int64_t i = begin; i < end; i++) {                                                        \
                    float code = rintf(LOAD(x[i]) / scale);                                                    \
                    code = code > 127.0f ? 127.0f : code;                                                      \
                    y[i] = (int8_t)(code >= -127.0f ? code : -127.0f);                                         \
                }                                                                                              \
                if (begin + span > inner) memset(y + end, 0, (size_t)(begin + span - end));                    \
                for (int64_t g = 0; g < scale_groups; g++) {                                                   \
                    int64_t group = begin / group_size + g;                                                    \
                    int32_t sum = 0;                                                                           \
                    for (int64_t i = 0; i < group_size; i++) sum += y[group * group_size + i];                 \
                    scales[row * groups + group] = scale;                                                      \
                    sums[row * groups + group] = sum;                                                          \
                }                                                                                              \
            }                                                                                                  \
        }                                                                                                      \
    }

INLINE float widen(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#define AS_IS(x) (x)
QUANTIZE_ROWS(penstock_quantize_rows_f32, float, AS_IS)
QUANTIZE_ROWS(penstock_quantize_rows_bf16, uint16_t, widen)
