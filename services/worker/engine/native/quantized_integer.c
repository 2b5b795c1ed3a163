/* Matrix products of weights of 4, 6 and 8 bits with activations of 8 bits: sums of integers, exact, scaled per group.
 *
 * Weights are unsigned codes, packed once, for 16 columns at a time, quads of inner values in order:
 * 8 bits: [columns / 16, inner / 4, 16, 4]; 4 bits: [columns / 16, inner / 8, 16, 4], a byte's low half being a value
 * of the first quad and its high half one of the second; 6 bits: [columns / 16, inner / 16, 3, 16, 4], a byte's low six
 * bits being a value of one of the first three quads and its high two bits a part of the fourth's, the lowest first. Scales and offsets [columns / 16, groups, 16]. All of them
 * are padded to a multiple of 64 columns. Activations are
 * signed, with a scale and a sum for every row and group. An output is
 *     sum over groups of activation scale * (weight scale * sum(code * activation) + offset * sum(activation)),
 * the offset being minus weight scale * zero point; where every zero point is the same, `zero` takes it out of the
 * integer sum and there are no offsets.
 * Source: Jacob et al. 2018, section 2.2; per group Dettmers et al. 2022 (8-bit block-wise) and Lin et al. 2023.
 */
#include <math.h>

#include "integer_sums.h"

/* All but the first four are constants where it is called. */
INLINE void tile(float *out, const struct coded_product *p, const struct strips *from, int64_t row, const int rows,
                 const int strips, const int bits) {
    const struct coded *w = p->weights;
    const int parts = strips * PARTS;
    floats outputs[MOST_ROWS][MOST_PARTS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < parts; i++) outputs[r][i] = same_float(0.0f);
    int64_t group_size = w->padded / w->groups;
    const int8_t *in = p->in.codes + row * w->padded;
    for (int64_t group = 0; group < w->groups; group++) {
        const int32_t *in_sums = p->in.sums + row * w->groups + group;
        const float *in_scales = p->in.scales + row * w->groups + group;
        ints sums[MOST_ROWS][MOST_PARTS];
        for (int r = 0; r < rows; r++) {
            ints start = same_int((ADDED_TO_CODES(bits) - (int32_t)w->zero) * in_sums[r * w->groups]);
            for (int i = 0; i < parts; i++) sums[r][i] = start;
        }
        add_group(sums, w, from, in, group * group_size, (group + 1) * group_size, rows, strips, bits);
        for (int i = 0; i < parts; i++) {
            int64_t index = (from->number[i / PARTS] * w->groups + group) * PARTS + i % PARTS;
            floats scales = load_scales(w->scales, index, w->is_half);
            floats offsets = w->offsets ? load_scales(w->offsets, index, w->is_half) : same_float(0.0f);
            for (int r = 0; r < rows; r++) {
                floats scaled = scales * to_floats(sums[r][i]);
                if (w->offsets) scaled = add_product(scaled, offsets, same_float((float)in_sums[r * w->groups]));
                outputs[r][i] = add_product(outputs[r][i], same_float(in_scales[r * w->groups]), scaled);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < parts; i++) {
            if (w->bias) outputs[r][i] += load_floats(w->bias + from->number[i / PARTS] * LANES + i % PARTS * FLOATS);
            memcpy(out + (r * parts + i) * FLOATS, &outputs[r][i], sizeof(floats));
        }
}

#define CASE(rows, strips)                           \
    case (rows) * 8 + (strips):                      \
        if (p->weights->bits == 4)                   \
            tile(out, p, from, row, rows, strips, 4); \
        else if (p->weights->bits == 6)              \
            tile(out, p, from, row, rows, strips, 6); \
        else                                         \
            tile(out, p, from, row, rows, strips, 8); \
        break;

void penstock_integer_tile(float *out, const struct coded_product *p, const struct strips *from, int64_t row,
                           int64_t rows) {
    switch (rows * 8 + from->count) { CASE(1, 4) CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2) CASE(6, 2) CASE(8, 2) }
}

/* in [rows, inner], float32 or bfloat16 -> signed bytes, and for every row and group the scale (largest magnitude
 * / 127, at least the smallest normal number) and the sum of the bytes. Rows are padded with zeros to `padded`. One
 * scale covers `scale_groups` groups. What is not finite makes its scale NaN, and so all that is made of it. (Without
 * their sign, numbers are in the order of their bits, infinity and NaN last.) */
#define QUANTIZE_ROWS(name, ELEMENT, LOAD)                                                                         \
    static void name##_row(int8_t *restrict y, float *restrict scales, int32_t *restrict sums,                     \
                           const ELEMENT *restrict x, int64_t inner, int64_t padded, int64_t groups,               \
                           int64_t scale_groups) {                                                                 \
        int64_t group_size = padded / groups, span = group_size * scale_groups;                                    \
        for (int64_t begin = 0; begin < padded; begin += span) {                                                   \
            int64_t end = begin + span < inner ? begin + span : inner;                                             \
            uint32_t highest = 0;                                                                                  \
            for (int64_t i = begin; i < end; i++) {                                                                \
                uint32_t bits = bits_of(LOAD(x[i])) & 0x7FFFFFFFu;                                                 \
                highest = bits > highest ? bits : highest;                                                         \
            }                                                                                                      \
            float largest = float_of(highest) / 127.0f;                                                            \
            float scale = highest >= 0x7F800000u ? NAN : largest > 0x1p-126f ? largest : 0x1p-126f;                \
            for (int64_t i = begin; i < end; i++) {                                                                \
                float code = rintf(LOAD(x[i]) / scale);                                                            \
                code = code > 127.0f ? 127.0f : code;                                                              \
                y[i] = (int8_t)(code >= -127.0f ? code : -127.0f);                                                 \
            }                                                                                                      \
            if (begin + span > inner) memset(y + end, 0, (size_t)(begin + span - end));                            \
            for (int64_t g = 0; g < scale_groups; g++) {                                                           \
                int64_t group = begin / group_size + g;                                                            \
                int32_t sum = 0;                                                                                   \
                for (int64_t i = 0; i < group_size; i++) sum += y[group * group_size + i];                         \
                scales[group] = scale;                                                                             \
                sums[group] = sum;                                                                                 \
            }                                                                                                      \
        }                                                                                                          \
    }                                                                                                              \
    void name(int8_t *restrict codes, float *restrict scales, int32_t *restrict sums, const ELEMENT *restrict in,  \
              int64_t rows, int64_t inner, int64_t padded, int64_t groups, int64_t scale_groups) {                 \
        _Pragma("omp parallel for if (rows * inner > 65536)")                                                      \
        for (int64_t row = 0; row < rows; row++)                                                                   \
            name##_row(codes + row * padded, scales + row * groups, sums + row * groups, in + row * inner, inner,  \
                       padded, groups, scale_groups);                                                              \
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
QUANTIZE_ROWS(penstock_quantize_rows_bf16, uint16_t, from_bf16)

void penstock_prepare_row(const struct coded_inputs *to, const struct coded *w, const uint16_t *in, int64_t row) {
    uint16_t *own = to->halves + row * w->padded;
    if (w->order) {
        for (int64_t i = 0; i < w->inner; i++) own[i] = in[w->order[i]];
        in = own;
    }
    if (w->table == NULL) {
        penstock_quantize_rows_bf16_row(to->codes + row * w->padded, to->scales + row * w->groups,
                                        to->sums + row * w->groups, in, w->inner, w->padded, w->groups,
                                        w->scale_groups);
        return;
    }
    if (in != own) memcpy(own, in, (size_t)w->inner * sizeof *own);
    memset(own + w->inner, 0, (size_t)(w->padded - w->inner) * sizeof *own);
    if (w->offsets) penstock_group_sums(to->half_sums + row * w->groups, own, 1, w->padded, w->groups);
}
