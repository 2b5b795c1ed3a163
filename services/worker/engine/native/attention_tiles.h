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
#elif HAS_FAST_PRODUCTS
    part least = same_part(-INFINITY);
    part both = _mm256_max_ps(_mm256_max_ps(load_part(scores), least), _mm256_max_ps(load_part(scores + 8), least));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
    float peak = -INFINITY;
    for (int64_t j = 0; j < TILE; j++) peak = scores[j] > peak ? scores[j] : peak;
    return peak;
#endif
}

#if HAS_FAST_PRODUCTS
#define FLOATS (LANES / PARTS)
#define DIMENSIONS 32 /* of a head that are worked on at once */

#if HAS_WIDE_REGISTERS
#define HEADS 8
#define CASES CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)

/* to[i] lane j = from[j] lane i, of 32 bits. */
static inline void transpose(__m512i *to, const __m512i *from) {
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

/* A part's pairs of some keys from dimension `d` on, as columns [dimensions / 2, TILE]. */
static inline void transpose_keys(uint32_t *columns, const uint16_t *keys, const int64_t *cells, int64_t d) {
    __m512i rows[FLOATS], turned[FLOATS];
    for (int j = 0; j < FLOATS; j++) rows[j] = _mm512_loadu_si512(keys + cells[j] + d);
    transpose(turned, rows);
    for (int i = 0; i < FLOATS; i++) _mm512_storeu_si512(columns + (d / 2 + i) * TILE, turned[i]);
}

static inline part widened(const uint16_t *x) {
    return (part)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)x)), 16);
}

#else
#define HEADS 3 /* with four registers each, beside those of a key */
#define CASES CASE(1) CASE(2) CASE(3)

static inline void transpose_keys(uint32_t *columns, const uint16_t *keys, const int64_t *cells, int64_t d) {
    __m256 rows[FLOATS], fours[FLOATS];
    for (int j = 0; j < FLOATS; j++) rows[j] = _mm256_loadu_ps((const void *)(keys + cells[j] + d));
    for (int j = 0; j < FLOATS; j += 4) {
        __m256d low = (__m256d)_mm256_unpacklo_ps(rows[j], rows[j + 1]);
        __m256d high = (__m256d)_mm256_unpackhi_ps(rows[j], rows[j + 1]);
        __m256d other_low = (__m256d)_mm256_unpacklo_ps(rows[j + 2], rows[j + 3]);
        __m256d other_high = (__m256d)_mm256_unpackhi_ps(rows[j + 2], rows[j + 3]);
        fours[j] = (__m256)_mm256_unpacklo_pd(low, other_low), fours[j + 1] = (__m256)_mm256_unpackhi_pd(low, other_low);
        fours[j + 2] = (__m256)_mm256_unpacklo_pd(high, other_high);
        fours[j + 3] = (__m256)_mm256_unpackhi_pd(high, other_high);
    }
    for (int i = 0; i < 4; i++) {
        float *own = (float *)(void *)(columns + (d / 2 + i) * TILE);
        _mm256_storeu_ps(own, _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x20));
        _mm256_storeu_ps(own + 4 * TILE, _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x31));
    }
}

static inline part widened(const uint16_t *x) {
    return (part)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)x)), 16);
}
#endif

/* scores [heads, TILE] from the keys' pairs as columns; `heads` is a constant where it is called. */
INLINE void score_heads(float *scores, const float *query, const uint16_t *columns, int64_t head_size,
                        const int heads) {
    part first[HEADS][PARTS], second[HEADS][PARTS];
    for (int g = 0; g < heads; g++)
        for (int i = 0; i < PARTS; i++) first[g][i] = no_part(), second[g][i] = no_part();
    for (int64_t d = 0; d < head_size; d += 2)
        for (int i = 0; i < PARTS; i++) {
            const uint16_t *column = columns + d * TILE + i * 2 * FLOATS;
            part own = first_of_part(column), other = second_of_part(column);
            for (int g = 0; g < heads; g++) {
                first[g][i] = add_part_product(first[g][i], same_part(query[g * head_size + d]), own);
                second[g][i] = add_part_product(second[g][i], same_part(query[g * head_size + d + 1]), other);
            }
        }
    for (int g = 0; g < heads; g++)
        for (int i = 0; i < PARTS; i++) store_part(scores + g * TILE + i * FLOATS, first[g][i] + second[g][i]);
}

#define CASE(heads)                                                                                            \
    case heads:                                                                                                \
        score_heads(scores + g * TILE, query + g * head_size, (const uint16_t *)columns, head_size, heads);    \
        break;

/* scores [group, TILE] of up to TILE cells for bfloat16 heads of a multiple of 32; the queries are scaled. */
static inline void scores_in_pairs(float *scores, const float *query, const uint16_t *keys, const int64_t *cells,
                                   int64_t count, int64_t group, int64_t head_size) {
    _Alignas(64) uint32_t columns[MAX_HEAD_SIZE / 2 * TILE];
    int64_t all[TILE];
    for (int64_t j = 0; j < TILE; j++) all[j] = cells[j < count ? j : 0];
    for (int64_t d = 0; d < head_size; d += 2 * FLOATS)
        for (int i = 0; i < PARTS; i++) transpose_keys(columns + i * FLOATS, keys, all + i * FLOATS, d);
    for (int64_t g = 0; g < group; g += HEADS) switch (group - g < HEADS ? group - g : HEADS) { CASES }
}
#undef CASE
#undef CASES

/* sum [group, head_size] += weights [group, TILE] x value rows, with the sums in registers. */
static inline void add_weighted_values(float *sum, const float *weights, const uint16_t *values, const int64_t *cells,
                                       int64_t count, int64_t group, int64_t head_size) {
    enum { STEPS = DIMENSIONS / FLOATS };
    for (int64_t d = 0; d < head_size; d += DIMENSIONS) {
        part rows[TILE][STEPS];
        for (int64_t j = 0; j < count; j++)
            for (int i = 0; i < STEPS; i++) rows[j][i] = widened(values + cells[j] + d + i * FLOATS);
        for (int64_t g = 0; g < group; g++) {
            float *own = sum + g * head_size + d;
            part sums[STEPS];
            for (int i = 0; i < STEPS; i++) sums[i] = load_part(own + i * FLOATS);
            for (int64_t j = 0; j < count; j++) {
                part weight = same_part(weights[g * TILE + j]);
                for (int i = 0; i < STEPS; i++) sums[i] = add_part_product(sums[i], weight, rows[j][i]);
            }
            for (int i = 0; i < STEPS; i++) store_part(own + i * FLOATS, sums[i]);
        }
    }
}
#undef FLOATS
#define HAS_PAIRS(head_size) ((head_size) % DIMENSIONS == 0)
#else
#define HAS_PAIRS(head_size) 0
#define scores_in_pairs(...) ((void)0)
#define add_weighted_values(...) ((void)0)
#endif

#endif
