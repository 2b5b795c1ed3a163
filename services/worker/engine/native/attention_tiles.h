/* Scores and weighted values of a tile of keys for one token, in bfloat16 pairs where the processor has them. */
#ifndef PENSTOCK_ATTENTION_TILES_H
#define PENSTOCK_ATTENTION_TILES_H

#include <stdint.h>

#define MAX_GROUP 64
#define MAX_HEAD_SIZE 256
#define TILE 16

#if defined(__AVX512BF16__) && defined(__AVX512F__) && defined(__AVX512VL__)
#include <immintrin.h>

static inline __m512 low_and_high(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* The sums of 16 vectors, in their order. */
static inline __m512 sums_of(const __m512 *v) {
    __m512 pairs[8], fours[4];
    for (int i = 0; i < 8; i++) {
        __m512 a = v[2 * i], b = v[2 * i + 1];
        pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    for (int i = 0; i < 4; i++) {
        __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
        __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), high = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        fours[i] = _mm512_add_ps(low, high);
    }
    return low_and_high(low_and_high(fours[0], fours[1]), low_and_high(fours[2], fours[3]));
}

/* scores [group, TILE] of up to TILE cells for bfloat16 heads of a multiple of 32; products of pairs are exact. */
static inline void scores_in_pairs(float *scores, const uint16_t *q, const uint16_t *keys, const int64_t *cells,
                                   int64_t count, int64_t group, int64_t head_size, float scale) {
    for (int64_t g = 0; g < group; g++) {
        __m512 dots[TILE];
        for (int64_t j = 0; j < TILE; j++) {
            dots[j] = _mm512_setzero_ps();
            const uint16_t *key = keys + cells[j < count ? j : 0];
            for (int64_t d = 0; d < head_size; d += 32)
                dots[j] = _mm512_dpbf16_ps(dots[j], (__m512bh)_mm512_loadu_si512(q + g * head_size + d),
                                           (__m512bh)_mm512_loadu_si512(key + d));
        }
        _mm512_storeu_ps(scores + g * TILE, _mm512_mul_ps(sums_of(dots), _mm512_set1_ps(scale)));
    }
}

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
