/* Keys and values in low precision: written, and read in registers by the attention of single tokens.
 *
 * A cell holds one token's key or value of one head: codes, then scales; see attention/cell_formats.py, whose numbers
 * these functions reproduce. A number that is read is rounded to the model's type first, as every other way of attention
 * reads it. Legend as in kernels.c. Source: Dao et al. 2022 for the softmax in one pass.
 */
#include <math.h>

#include "attention_tiles.h"
#include "cells.h"

#define SPAN 32

enum format { INT8 = 1, FP8 = 2, INT4 = 3, INT8_UPPER = 4 };

INLINE float rounded(float x, int is_wide) { return is_wide ? x : from_bf16(to_bf16(x)); }

/* E4M3 without infinities: an exponent 120 too small for a float32, which a power of two mends. */
INLINE float from_fp8(uint8_t x) {
    uint32_t bits = (uint32_t)(x & 0x7F) << 20 | (uint32_t)(x & 0x80) << 24;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y * 0x1p120f;
}

/* To nearest, ties to even; |x| is at most 448, the largest there is. Below 2^-6 the steps are 2^-9 wide; the power of
 * two would make these subnormal and round them a first time. */
INLINE uint8_t to_fp8(float x) {
    uint32_t fine = (uint32_t)rintf(fabsf(x) * 512.0f);
    float scaled = x * 0x1p-120f;
    uint32_t bits;
    memcpy(&bits, &scaled, sizeof bits);
    uint32_t sign = bits >> 24 & 0x80, magnitude = bits & 0x7FFFFFFFu;
    uint32_t coarse = (magnitude + 0x7FFFFu + (magnitude >> 20 & 1u)) >> 20;
    return (uint8_t)(sign | (fabsf(x) < 0x1p-6f ? fine : coarse));
}

/* One cell -> head_size floats. */
INLINE void read_cell(float *restrict out, const uint8_t *restrict cell, enum format format, int64_t head_size,
                      int is_wide) {
    int64_t half = head_size / 2;
    if (format == INT4) {
        int64_t spans = (head_size + SPAN - 1) / SPAN;
        uint16_t scales[2 * MAX_HEAD_SIZE / SPAN];
        memcpy(scales, cell + half, (size_t)spans * 4);
        float codes[MAX_HEAD_SIZE];
        for (int64_t d = 0; d < half; d++) codes[d] = cell[d] & 15, codes[d + half] = cell[d] >> 4;
        for (int64_t span = 0; span < spans; span++) {
            float scale = from_bf16(scales[span]), minimum = from_bf16(scales[spans + span]);
            int64_t end = (span + 1) * SPAN < head_size ? (span + 1) * SPAN : head_size;
            for (int64_t d = span * SPAN; d < end; d++) {
                float product = codes[d] * scale;
                out[d] = rounded(product + minimum, is_wide);
            }
        }
        return;
    }
    float scale;
    memcpy(&scale, cell + head_size, sizeof scale);
    if (format == FP8) {
        for (int64_t d = 0; d < head_size; d++) out[d] = rounded(from_fp8(cell[d]) * scale, is_wide);
        return;
    }
    const uint8_t *upper = cell, *lower = cell + half;
    if (format == INT8_UPPER) { /* a half that is not read is taken for its middle */
        for (int64_t d = 0; d < half; d++) {
            out[d] = rounded(((float)((upper[d] & 15) << 4) - 120.5f) * scale, is_wide);
            out[d + half] = rounded(((float)(upper[d] & 0xF0) - 120.5f) * scale, is_wide);
        }
        return;
    }
    for (int64_t d = 0; d < half; d++) {
        int32_t first = (upper[d] & 15) << 4 | (lower[d] & 15), second = (upper[d] & 0xF0) | lower[d] >> 4;
        out[d] = rounded((float)(first - 128) * scale, is_wide);
        out[d + half] = rounded((float)(second - 128) * scale, is_wide);
    }
}

INLINE float limited(float x, float limit) { return x != x ? 0.0f : x > limit ? limit : x < -limit ? -limit : x; }

INLINE void write_spans(uint8_t *restrict cell, const float *restrict in, int64_t head_size) {
    int64_t half = head_size / 2, spans = (head_size + SPAN - 1) / SPAN;
    uint8_t codes[MAX_HEAD_SIZE];
    uint16_t scales[2 * MAX_HEAD_SIZE / SPAN];
    for (int64_t span = 0; span < spans; span++) {
        int64_t begin = span * SPAN, end = begin + SPAN < head_size ? begin + SPAN : head_size;
        float lowest = in[begin], highest = in[begin], poison = 0.0f;
        for (int64_t d = begin; d < end; d++) {
            lowest = in[d] < lowest ? in[d] : lowest;
            highest = in[d] > highest ? in[d] : highest;
            poison += in[d] * 0.0f;
        }
        uint16_t minimum = to_bf16(lowest);
        float range = (highest - from_bf16(minimum)) / 15.0f;
        float scale = from_bf16(to_bf16(range > 0x1p-126f ? range : 0x1p-126f));
        for (int64_t d = begin; d < end; d++) {
            float code = rintf((in[d] - from_bf16(minimum)) / scale);
            codes[d] = (uint8_t)(code > 15.0f ? 15.0f : code > 0.0f ? code : 0.0f);
        }
        scales[span] = to_bf16(scale + poison);
        scales[spans + span] = minimum;
    }
    for (int64_t d = 0; d < half; d++) cell[d] = (uint8_t)(codes[d] | codes[d + half] << 4);
    memcpy(cell + half, scales, (size_t)spans * 4);
}

INLINE void write_cell(uint8_t *restrict cell, const float *restrict in, enum format format, int64_t head_size) {
    if (format == INT4) {
        write_spans(cell, in, head_size);
        return;
    }
    float largest = 0.0f, poison = 0.0f, highest = format == FP8 ? 448.0f : 127.0f;
    for (int64_t d = 0; d < head_size; d++) {
        largest = fabsf(in[d]) > largest ? fabsf(in[d]) : largest;
        poison += in[d] * 0.0f;
    }
    float scale = largest / highest;
    scale = (scale > 0x1p-126f ? scale : 0x1p-126f) + poison;
    memcpy(cell + head_size, &scale, sizeof scale);
    if (format == FP8) {
        for (int64_t d = 0; d < head_size; d++) cell[d] = to_fp8(limited(in[d] / scale, 448.0f));
        return;
    }
    int64_t half = head_size / 2;
    for (int64_t d = 0; d < half; d++) {
        uint8_t first = (uint8_t)(limited(rintf(in[d] / scale), 127.0f) + 128.0f);
        uint8_t second = (uint8_t)(limited(rintf(in[d + half] / scale), 127.0f) + 128.0f);
        cell[d] = (uint8_t)(first >> 4 | (second & 0xF0));
        cell[d + half] = (uint8_t)((first & 15) | second << 4);
    }
}

/* in [T, K, D], float32 or bfloat16 -> cells [N * P, K, bytes], token t's at slots[t]. */
void penstock_write_cells(uint8_t *restrict cells, const void *restrict in, const int64_t *restrict slots,
                          int64_t tokens, int64_t num_kv_heads, int64_t head_size, int64_t cell_bytes, int64_t format,
                          int64_t is_wide) {
#pragma omp parallel for if (tokens * num_kv_heads * head_size > 65536)
    for (int64_t i = 0; i < tokens * num_kv_heads; i++) {
        float values[MAX_HEAD_SIZE];
        for (int64_t d = 0; d < head_size; d++)
            values[d] = is_wide ? ((const float *)in)[i * head_size + d]
                                : from_bf16(((const uint16_t *)in)[i * head_size + d]);
        int64_t slot = slots[i / num_kv_heads] * num_kv_heads + i % num_kv_heads;
        write_cell(cells + slot * cell_bytes, values, (enum format)format, head_size);
    }
}

INLINE void prefetch(const uint8_t *cell, int64_t cell_bytes) {
    for (int64_t i = 0; i < cell_bytes; i += 64) __builtin_prefetch(cell + i);
}

/* Scores of up to TILE keys -> weights, with the sums so far shrunk to the new largest score. */
INLINE void soften(float *weights, float *sum, float *largest, float *total, int64_t count, int64_t head_size) {
    for (int64_t j = count; j < TILE; j++) weights[j] = -INFINITY;
    float found = largest_of_tile(weights), peak = found > *largest ? found : *largest, added = 0.0f;
    /* All scores so far NaN: the output must be one, too, not a quiet zero. */
    float shrink = peak == *largest ? 1.0f : exponential(*largest - peak);
    for (int64_t j = 0; j < TILE; j++) {
        weights[j] = exponential(weights[j] - peak);
        added += weights[j]; /* of what is not there 1e-38 */
    }
    *total = *total * shrink + added;
    *largest = peak;
    for (int64_t d = 0; d < head_size && shrink != 1.0f; d++) sum[d] *= shrink;
}

INLINE void attend(void *out, const void *queries, const struct cells *c, const int32_t *table, int64_t context,
                   int64_t kv_head, const enum format format, const int is_wide) {
    int64_t group = c->num_query_heads / c->num_kv_heads, head_size = c->head_size, block_size = c->block_size;
    const uint8_t *keys = c->keys, *values = c->values;
    float query[MAX_GROUP * MAX_HEAD_SIZE], sum[MAX_GROUP * MAX_HEAD_SIZE], row[MAX_HEAD_SIZE];
    float weights[MAX_GROUP * TILE], largest[MAX_GROUP], total[MAX_GROUP];
    for (int64_t i = 0; i < group * head_size; i++) {
        query[i] = is_wide ? ((const float *)queries)[i] : from_bf16(((const uint16_t *)queries)[i]);
        sum[i] = 0.0f;
    }
    for (int64_t g = 0; g < group; g++) largest[g] = -INFINITY, total[g] = 0.0f;
    int64_t first = c->window > 0 && context > c->window ? context - c->window : 0;
    for (int64_t start = first; start < context; start += TILE) {
        int64_t count = context - start < TILE ? context - start : TILE, cells[TILE];
        for (int64_t j = 0; j < count; j++) {
            int64_t position = start + j, block = table[position / block_size];
            cells[j] = ((block * block_size + position % block_size) * c->num_kv_heads + kv_head) * c->bytes;
            prefetch(values + cells[j], c->bytes);
        }
        for (int64_t j = 0; j < count; j++) {
            read_cell(row, keys + cells[j], format, head_size, is_wide);
            for (int64_t g = 0; g < group; g++) {
                float dot = 0.0f;
                for (int64_t d = 0; d < head_size; d++) dot += query[g * head_size + d] * row[d];
                dot *= c->scale;
                weights[g * TILE + j] = c->soft_cap > 0.0f ? c->soft_cap * tanhf(dot / c->soft_cap) : dot;
            }
        }
        for (int64_t g = 0; g < group; g++)
            soften(weights + g * TILE, sum + g * head_size, largest + g, total + g, count, head_size);
        for (int64_t j = 0; j < count; j++) {
            read_cell(row, values + cells[j], format, head_size, is_wide);
            for (int64_t g = 0; g < group; g++) {
                float weight = weights[g * TILE + j];
                for (int64_t d = 0; d < head_size; d++) sum[g * head_size + d] += weight * row[d];
            }
        }
    }
    for (int64_t i = 0; i < group * head_size; i++) {
        float value = sum[i] / total[i / head_size];
        if (is_wide)
            ((float *)out)[i] = value;
        else
            ((uint16_t *)out)[i] = to_bf16(value);
    }
}

void penstock_write_cell(uint8_t *cell, const uint16_t *in, int64_t format, int64_t head_size) {
    float values[MAX_HEAD_SIZE];
    for (int64_t d = 0; d < head_size; d++) values[d] = from_bf16(in[d]);
    write_cell(cell, values, (enum format)format, head_size);
}

void penstock_read_cell(uint16_t *out, const uint8_t *cell, int64_t format, int64_t head_size) {
    float values[MAX_HEAD_SIZE];
    read_cell(values, cell, (enum format)format, head_size, 0);
    for (int64_t d = 0; d < head_size; d++) out[d] = to_bf16(values[d]);
}

void penstock_attend_cells_of_head(uint16_t *out, const uint16_t *queries, const struct cells *cells,
                                   const int32_t *table, int64_t context, int64_t kv_head) {
    switch (cells->format) {
        case INT8: attend(out, queries, cells, table, context, kv_head, INT8, 0); break;
        case INT8_UPPER: attend(out, queries, cells, table, context, kv_head, INT8_UPPER, 0); break;
        case INT4: attend(out, queries, cells, table, context, kv_head, INT4, 0); break;
        default: attend(out, queries, cells, table, context, kv_head, FP8, 0);
    }
}

/* As kernels.c's paged_attention, on cells: queries [S, H, D], keys and values [N, P, K, bytes] -> out [S, H, D]. */
void penstock_attend_cells(void *out, const void *queries, const uint8_t *keys, const uint8_t *values,
                           const int32_t *block_tables, const int32_t *context_lengths, int64_t sequences,
                           int64_t table_size, int64_t block_size, int64_t num_query_heads, int64_t num_kv_heads,
                           int64_t head_size, int64_t cell_bytes, int64_t format, int64_t is_wide, int64_t window,
                           float scale, float soft_cap) {
    const struct cells cells = {keys,         values,    format, cell_bytes, block_size, num_query_heads,
                                num_kv_heads, head_size, window, scale,      soft_cap};
#pragma omp parallel for schedule(dynamic) if (sequences * num_kv_heads > 1)
    for (int64_t task = 0; task < sequences * num_kv_heads; task++) {
        int64_t s = task / num_kv_heads, kv_head = task % num_kv_heads, width = num_query_heads / num_kv_heads * head_size;
        const int32_t *table = block_tables + s * table_size;
        if (is_wide)
            attend((float *)out + task * width, (const float *)queries + task * width, &cells, table,
                   context_lengths[s], kv_head, (enum format)format, 1);
        else
            penstock_attend_cells_of_head((uint16_t *)out + task * width, (const uint16_t *)queries + task * width,
                                          &cells, table, context_lengths[s], kv_head);
    }
}
