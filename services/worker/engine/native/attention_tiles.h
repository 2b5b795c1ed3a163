/* Scores and weighted values of a tile of keys for one token, sixteen at a time where the registers are wide. */
#ifndef PENSTOCK_ATTENTION_TILES_H
#define PENSTOCK_ATTENTION_TILES_H

#include <math.h>
#include <stdint.h>

#include "pairs.h"

#define MAX_GROUP 64
#define MAX_HEAD_SIZE 256
#define TILE 16

/* Of [TILE]; a NaN is never the largest. Written out because compilers leave the comparison scalar. */
static inline float largest_of_tile(const float *scores) {
#if HAS_WIDE_REGISTERS
    return _mm512_reduce_max_ps(larger(_mm512_loadu_ps(scores), _mm512_set1_ps(-INFINITY)));
#else
    float peak = -INFINITY;
    for (int64_t j = 0; j < TILE; j++) peak = scores[j] > peak ? scores[j] : peak;
    return peak;
#endif
}

#if HAS_WIDE_REGISTERS
#define HEADS 8

/* to[i] lane j = from[j] lane i, of 32 bits. */
static inline void transpose(pairs *to, const pairs *from) {
    pairs twos[16], fours[16];
    for (int i = 0; i < 16; i += 2) {
        twos[i] = _mm512_unpacklo_epi32(from[i], from[i + 1]);
        twos[i + 1] = _mm512_unpackhi_epi32(from[i], from[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(twos[i + j], twos[i + 2 + j]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(twos[i + j], twos[i + 2 + j]);
        }
    for (int i = 0; i < 4; i++) {
        pairs a = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0x88), b = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0xdd);
        pairs c = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0x88);
        pairs d = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0xdd);
        to[i] = _mm512_shuffle_i32x4(a, c, 0x88), to[8 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
        to[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88), to[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

/* scores [heads, TILE] from the keys' pairs as columns; `heads` is a constant where it is called. */
INLINE void score_heads(float *scores, const float *query, const pairs *columns, int64_t head_size, const int heads) {
    lanes first[HEADS], second[HEADS];
    for (int g = 0; g < heads; g++) first[g] = no_lanes(), second[g] = no_lanes();
    for (int64_t d = 0; d < head_size; d += 2) {
        lanes own = first_of_pairs(columns[d / 2]), other = second_of_pairs(columns[d / 2]);
        for (int g = 0; g < heads; g++) {
            first[g] = _mm512_fmadd_ps(_mm512_set1_ps(query[g * head_size + d]), own, first[g]);
            second[g] = _mm512_fmadd_ps(_mm512_set1_ps(query[g * head_size + d + 1]), other, second[g]);
        }
    }
    for (int g = 0; g < heads; g++) _mm512_storeu_ps(scores + g * TILE, _mm512_add_ps(first[g], second[g]));
}

#define CASE(heads)                                                                                   \
    case heads:                                                                                       \
        score_heads(scores + g * TILE, query + g * head_size, columns, head_size, heads); \
        break;

/* scores [group, TILE] of up to TILE cells for bfloat16 heads of a multiple of 32; the queries are scaled. */
static inline void scores_in_pairs(float *scores, const float *query, const uint16_t *keys, const int64_t *cells,
                                   int64_t count, int64_t group, int64_t head_size) {
    pairs rows[TILE], columns[MAX_HEAD_SIZE / 2];
    for (int64_t d = 0; d < head_size; d += 32) {
        for (int64_t j = 0; j < TILE; j++) rows[j] = load_pairs(keys + cells[j < count ? j : 0] + d);
        transpose(columns + d / 2, rows);
    }
    for (int64_t g = 0; g < group; g += HEADS) switch (group - g < HEADS ? group - g : HEADS) {
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
        }
}
#undef CASE

static inline __m512 sixteen(const uint16_t *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)x)), 16));
}

/* sum [group, head_size] += weights [group, TILE] x value rows, with the sums in registers. */
static inline void add_weighted_values(float *sum, const float *weights, const uint16_t *values, const int64_t *cells,
                                       int64_t count, int64_t group, int64_t head_size) {
    for (int64_t d = 0; d < head_size; d += 32) {
        __m512 rows[2 * TILE];
        for (int64_t j = 0; j < count; j++) {
            rows[2 * j] = sixteen(values + cells[j] + d);
            rows[2 * j + 1] = sixteen(values + cells[j] + d + 16);
        }
        for (int64_t g = 0; g < group; g++) {
            float *own = sum + g * head_size + d;
            __m512 first = _mm512_loadu_ps(own), second = _mm512_loadu_ps(own + 16);
            for (int64_t j = 0; j < count; j++) {
                __m512 weight = _mm512_set1_ps(weights[g * TILE + j]);
                first = _mm512_fmadd_ps(weight, rows[2 * j], first);
                second = _mm512_fmadd_ps(weight, rows[2 * j + 1], second);
            }
            _mm512_storeu_ps(own, first);
            _mm512_storeu_ps(own + 16, second);
        }
    }
}
#define HAS_PAIRS(head_size) ((head_size) % 32 == 0)
#else
#define HAS_PAIRS(head_size) 0
#define scores_in_pairs(...) ((void)0)
#define add_weighted_values(...) ((void)0)
#endif

#endif
