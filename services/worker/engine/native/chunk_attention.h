/* Attention of many tokens of one sequence over its paged cache, in bfloat16: two small matrix products per tile.
 *
 * A task is one kv head and some consecutive tokens: their queries are the rows of a product with a tile of keys packed
 * as matmul.h packs weights, the weights that come out are the rows of one with the tile's values. Softmax in one pass
 * over tiles; keys that no row of the task sees are not read. Source: Dao et al. 2022 (FlashAttention), algorithm 1.
 */
#ifndef PENSTOCK_CHUNK_ATTENTION_H
#define PENSTOCK_CHUNK_ATTENTION_H

#include <math.h>

#include "attention_tiles.h"
#include "cells.h"
#include "matmul.h"

#define KEYS 64
#define CHUNK_ROWS 128

/* Where one layer's cache lies, and the sequence in it. */
struct paged {
    const uint8_t *keys, *values; /* [N, P, K, bytes] from the task's kv head on: bfloat16, or cells of `format` */
    const int32_t *table;
    int64_t block_size, row_bytes, format;
};

struct chunk {
    int64_t tokens, first_position; /* of the task */
    int64_t group, head_size, query_stride, window;
    float scale, soft_cap;
};

static inline int64_t cell_of(const struct paged *p, int64_t position) {
    return ((int64_t)p->table[position / p->block_size] * p->block_size + position % p->block_size) * p->row_bytes;
}

/* The numbers at a place: where they lie, or read into `room`. */
static inline const uint16_t *numbers_at(const uint8_t *place, int64_t format, uint16_t *room, int64_t head_size) {
    if (format == 0) return (const uint16_t *)(const void *)place;
    penstock_read_cell(room, place, format, head_size);
    return room;
}

/* Keys as columns: [KEYS / 16, D / 2, 16, 2]. Values as weights over keys: [D / 16, KEYS / 2, 16, 2]. Padded with 0. */
static void pack_tile(uint32_t *restrict keys, uint32_t *restrict values, const struct paged *p, int64_t start,
                      int64_t count, int64_t head_size) {
    static const uint16_t zeros[MAX_HEAD_SIZE];
    for (int64_t j = 0; j < KEYS; j += 2) {
        const uint16_t *rows[2], *own[2];
        uint16_t room[4][MAX_HEAD_SIZE];
        for (int64_t i = 0; i < 2; i++) {
            int is_there = j + i < count;
            int64_t cell = is_there ? cell_of(p, start + j + i) : 0;
            rows[i] = is_there ? numbers_at(p->keys + cell, p->format, room[i], head_size) : zeros;
            own[i] = is_there ? numbers_at(p->values + cell, p->format, room[2 + i], head_size) : zeros;
            uint32_t *column = keys + (j + i) / LANES * LANES * head_size / 2 + (j + i) % LANES;
            for (int64_t d = 0; d < head_size / 2; d++) memcpy(column + d * LANES, rows[i] + 2 * d, 4);
        }
        for (int64_t d = 0; d < head_size; d += LANES) {
            uint32_t *group = values + d / LANES * LANES * KEYS / 2 + j / 2 * LANES;
            for (int64_t i = 0; i < LANES; i++) group[i] = own[0][d + i] | (uint32_t)own[1][d + i] << 16;
        }
    }
}

/* out [rows, columns] float32 (+)= in [rows, inner] x packed; columns a multiple of 16, rows up to CHUNK_ROWS. */
static void small_product(float *restrict out, const uint16_t *restrict in, const uint16_t *restrict packed,
                          int64_t rows, int64_t columns, int64_t inner, const int adds) {
    struct strip strip = {0};
    for (int64_t column = 0; column < columns; column += strip.groups * LANES) {
        int64_t left = (columns - column) / LANES;
        strip.groups = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        for (int64_t g = 0; g < strip.groups; g++) strip.weights[g] = packed + (column + g * LANES) * inner;
        float sums[CHUNK_ROWS * STRIP];
        int64_t width = strip.groups * LANES;
        penstock_block(sums, in, inner, rows, &strip, inner);
        for (int64_t r = 0; r < rows; r++) {
            float *place = out + r * columns + column;
            for (int64_t i = 0; i < width; i++) place[i] = sums[r * width + i] + (adds ? place[i] : 0.0f);
        }
    }
}

/* Of [KEYS]; a NaN is never the largest. Written out because compilers leave the comparison scalar. */
static inline float largest_of(const float *scores) {
    lanes best, next;
    float all[LANES];
    memcpy(&best, scores, sizeof best);
    for (int64_t j = LANES; j < KEYS; j += LANES) {
        memcpy(&next, scores + j, sizeof next);
        best = larger(next, best);
    }
    memcpy(all, &best, sizeof all);
    float peak = -INFINITY;
    for (int64_t j = 0; j < LANES; j++) peak = all[j] > peak ? all[j] : peak;
    return peak;
}

/* scores [KEYS] of keys from `start` on -> weights; what the token at `position` does not see weighs nothing. */
static inline float weigh_row(uint16_t *restrict weights, float *restrict scores, float *largest, float *total,
                              const struct chunk *c, int64_t start, int64_t count, int64_t position) {
    int64_t end = position + 1 - start < count ? position + 1 - start : count;
    int64_t begin = c->window > 0 && position - c->window + 1 > start ? position - c->window + 1 - start : 0;
    if (begin >= end) {
        for (int64_t j = 0; j < KEYS; j++) weights[j] = 0;
        return 1.0f;
    }
    float added = 0.0f;
    for (int64_t j = 0; j < KEYS; j++) scores[j] *= c->scale;
    for (int64_t j = 0; j < KEYS && c->soft_cap > 0.0f; j++) scores[j] = c->soft_cap * tanhf(scores[j] / c->soft_cap);
    for (int64_t j = 0; j < begin; j++) scores[j] = -INFINITY;
    for (int64_t j = end; j < KEYS; j++) scores[j] = -INFINITY;
    float found = largest_of(scores), peak = found > *largest ? found : *largest;
    float shrink = peak == *largest ? 1.0f : exponential(*largest - peak);
    for (int64_t j = 0; j < KEYS; j++) {
        float weight = exponential(scores[j] - peak);
        added += weight; /* of what is not seen 1e-38 */
        weights[j] = to_bf16(weight);
    }
    for (int64_t j = 0; j < begin; j++) weights[j] = 0;
    for (int64_t j = end; j < KEYS; j++) weights[j] = 0;
    *total = *total * shrink + added;
    *largest = peak;
    return shrink;
}

/* out and queries: the task's first token's, at its kv head's first query head; tokens are query_stride apart. */
static void attend_chunk(uint16_t *restrict out, const uint16_t *restrict queries, const struct paged *p,
                         const struct chunk *c) {
    int64_t rows = c->tokens * c->group, head_size = c->head_size;
    _Alignas(64) uint16_t own[CHUNK_ROWS * MAX_HEAD_SIZE], weights[CHUNK_ROWS * KEYS];
    _Alignas(64) uint32_t keys[KEYS * MAX_HEAD_SIZE / 2], values[KEYS * MAX_HEAD_SIZE / 2];
    _Alignas(64) float scores[CHUNK_ROWS * KEYS], sums[CHUNK_ROWS * MAX_HEAD_SIZE];
    float largest[CHUNK_ROWS], total[CHUNK_ROWS];
    for (int64_t row = 0; row < rows; row++) {
        memcpy(own + row * head_size, queries + row / c->group * c->query_stride + row % c->group * head_size,
               (size_t)head_size * 2);
        largest[row] = -INFINITY, total[row] = 0.0f;
    }
    for (int64_t i = 0; i < rows * head_size; i++) sums[i] = 0.0f;
    int64_t last = c->first_position + c->tokens;
    int64_t first = c->window > 0 && c->first_position >= c->window ? c->first_position - c->window + 1 : 0;
    for (int64_t start = first; start < last; start += KEYS) {
        int64_t count = last - start < KEYS ? last - start : KEYS;
        pack_tile(keys, values, p, start, count, head_size);
        small_product(scores, own, (const uint16_t *)keys, rows, KEYS, head_size, 0);
        for (int64_t row = 0; row < rows; row++) {
            float shrink = weigh_row(weights + row * KEYS, scores + row * KEYS, largest + row, total + row, c, start,
                                     count, c->first_position + row / c->group);
            for (int64_t d = 0; d < head_size && shrink != 1.0f; d++) sums[row * head_size + d] *= shrink;
        }
        small_product(sums, weights, (const uint16_t *)values, rows, head_size, KEYS, 1);
    }
    for (int64_t row = 0; row < rows; row++) {
        uint16_t *own_out = out + row / c->group * c->query_stride + row % c->group * head_size;
        for (int64_t d = 0; d < head_size; d++) own_out[d] = to_bf16(sums[row * head_size + d] / total[row]);
    }
}

#endif
