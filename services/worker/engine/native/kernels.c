/* The decoder's small operators and paged attention on CPU, each as one pass over memory.
 *
 * A plain C interface: pointers and sizes, no torch headers, so that it builds in a second with any C compiler and
 * does not depend on torch's C++ ABI. This file is included twice by itself, once per element type: float32
 * (suffix _f32) and bfloat16 (_bf16), arithmetic always in float32. Legend as in the Python code: T tokens,
 * S sequences, H query heads, K kv heads, D head size, N blocks, P positions per block, B longest block table.
 */
#ifndef ELEMENT

#include <math.h>
#include <stdint.h>
#include <string.h>

#define MAX_GROUP 64
#define MAX_HEAD_SIZE 256
#define TILE 16

/* Cephes' expf: relative error below 2e-7; a NaN stays a NaN. Written out because compilers vectorise only this. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float y = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return y * power;
}

static inline float from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

/* To nearest, ties to even, as torch does; a NaN stays a NaN. */
static inline uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(x != x ? 0x7FC0u : rounded);
}

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

int64_t penstock_interface_version(void) { return 3; }

#define ELEMENT float
#define IN_PAIRS(head_size) 0
#define NAME(name) name##_f32
#define LOAD(x) (x)
#define STORE(x) (x)
#include "kernels.c"
#undef ELEMENT
#undef NAME
#undef LOAD
#undef STORE

#undef IN_PAIRS
#define IN_PAIRS(head_size) HAS_PAIRS(head_size)
#define ELEMENT uint16_t
#define NAME(name) name##_bf16
#define LOAD(x) from_bf16(x)
#define STORE(x) to_bf16(x)
#include "kernels.c"

#else

/* residual += update where there is one; out = residual / rms(residual) * weight. All [rows, size]. */
void NAME(add_rms_norm)(ELEMENT *restrict out, ELEMENT *restrict residual, const ELEMENT *restrict update,
                        const ELEMENT *restrict weight, int64_t rows, int64_t size, float epsilon) {
#pragma omp parallel for if (rows * size > 65536)
    for (int64_t row = 0; row < rows; row++) {
        ELEMENT *x = residual + row * size;
        if (update) {
            const ELEMENT *u = update + row * size;
            for (int64_t i = 0; i < size; i++) x[i] = STORE(LOAD(x[i]) + LOAD(u[i]));
        }
        float sum = 0.0f;
        for (int64_t i = 0; i < size; i++) sum += LOAD(x[i]) * LOAD(x[i]);
        float scale = 1.0f / sqrtf(sum / (float)size + epsilon);
        ELEMENT *y = out + row * size;
        for (int64_t i = 0; i < size; i++) {
            ELEMENT normed = STORE(LOAD(x[i]) * scale);
            y[i] = STORE(LOAD(normed) * LOAD(weight[i]));
        }
    }
}

/* in [T, 2 * inner] -> out [T, inner]: silu(first half) * second half. */
void NAME(silu_multiply)(ELEMENT *restrict out, const ELEMENT *restrict in, int64_t rows, int64_t inner) {
#pragma omp parallel for if (rows * inner > 65536)
    for (int64_t row = 0; row < rows; row++) {
        const ELEMENT *gate = in + row * 2 * inner, *up = gate + inner;
        ELEMENT *y = out + row * inner;
        for (int64_t i = 0; i < inner; i++) {
            float g = LOAD(gate[i]);
            ELEMENT activated = STORE(g / (1.0f + exponential(-g)));
            y[i] = STORE(LOAD(activated) * LOAD(up[i]));
        }
    }
}

/* The same with gelu's tanh approximation: (1 + tanh(u)) / 2 is 1 / (1 + exp(-2u)). */
void NAME(gelu_multiply)(ELEMENT *restrict out, const ELEMENT *restrict in, int64_t rows, int64_t inner) {
#pragma omp parallel for if (rows * inner > 65536)
    for (int64_t row = 0; row < rows; row++) {
        const ELEMENT *gate = in + row * 2 * inner, *up = gate + inner;
        ELEMENT *y = out + row * inner;
        for (int64_t i = 0; i < inner; i++) {
            float g = LOAD(gate[i]);
            float u = 0.7978845608f * (g + 0.044715f * g * g * g);
            ELEMENT activated = STORE(g / (1.0f + exponential(-2.0f * u)));
            y[i] = STORE(LOAD(activated) * LOAD(up[i]));
        }
    }
}

/* projected [T, (H + 2K) * D] -> queries [T, H, D] turned; keys turned and values into their slots, [N * P, K, D].
 * table [positions, R]: cosines of the R / 2 angles, then sines; the dimensions of a head from R on pass. */
void NAME(rotate_and_store)(ELEMENT *restrict queries, const ELEMENT *restrict projected,
                            const float *restrict table, ELEMENT *restrict keys, ELEMENT *restrict values,
                            const int64_t *restrict positions, const int64_t *restrict slots, int64_t tokens,
                            int64_t num_query_heads, int64_t num_kv_heads, int64_t head_size, int64_t rotary_size) {
    int64_t half = rotary_size / 2, row_size = (num_query_heads + 2 * num_kv_heads) * head_size;
#pragma omp parallel for if (tokens * row_size > 65536)
    for (int64_t t = 0; t < tokens; t++) {
        const float *cosines = table + positions[t] * rotary_size, *sines = cosines + half;
        const ELEMENT *row = projected + t * row_size;
        ELEMENT *own_keys = keys + slots[t] * num_kv_heads * head_size;
        for (int64_t h = 0; h < num_query_heads + num_kv_heads; h++) {
            const ELEMENT *x = row + h * head_size;
            ELEMENT *y = h < num_query_heads ? queries + (t * num_query_heads + h) * head_size
                                             : own_keys + (h - num_query_heads) * head_size;
            for (int64_t i = 0; i < half; i++) {
                float first = LOAD(x[i]), second = LOAD(x[i + half]);
                y[i] = STORE(first * cosines[i] - second * sines[i]);
                y[i + half] = STORE(second * cosines[i] + first * sines[i]);
            }
            for (int64_t i = rotary_size; i < head_size; i++) y[i] = x[i];
        }
        memcpy(values + slots[t] * num_kv_heads * head_size,
               row + (num_query_heads + num_kv_heads) * head_size,
               (size_t)(num_kv_heads * head_size) * sizeof(ELEMENT));
    }
}

/* One new token per sequence: queries [S, H, D], keys and values [N, P, K, D], read where they lie -> out [S, H, D].
 * A token sees `window` tokens, itself included, or all if that is 0. Scores pass soft_cap * tanh(score / soft_cap)
 * unless that is 0. Softmax in one pass over tiles (Milakov and Gimelshein 2018; Dao et al. 2022). */
void NAME(paged_attention)(ELEMENT *restrict out, const ELEMENT *restrict queries, const ELEMENT *restrict keys,
                           const ELEMENT *restrict values, const int32_t *restrict block_tables,
                           const int32_t *restrict context_lengths, int64_t sequences, int64_t table_size,
                           int64_t block_size, int64_t num_query_heads, int64_t num_kv_heads,
                           int64_t head_size, int64_t window, float scale, float soft_cap) {
    int64_t group = num_query_heads / num_kv_heads, row_size = num_kv_heads * head_size;
#pragma omp parallel for schedule(dynamic) if (sequences * num_kv_heads > 1)
    for (int64_t task = 0; task < sequences * num_kv_heads; task++) {
        int64_t s = task / num_kv_heads, kv_head = task % num_kv_heads;
        int64_t context = context_lengths[s];
        const int32_t *table = block_tables + s * table_size;
        const ELEMENT *q = queries + (s * num_query_heads + kv_head * group) * head_size;
        float query[MAX_GROUP * MAX_HEAD_SIZE], sum[MAX_GROUP * MAX_HEAD_SIZE];
        float weights[MAX_GROUP * TILE], row[MAX_HEAD_SIZE], largest[MAX_GROUP], total[MAX_GROUP];
        for (int64_t i = 0; i < group * head_size; i++) query[i] = LOAD(q[i]) * scale, sum[i] = 0.0f;
        for (int64_t g = 0; g < group; g++) largest[g] = -INFINITY, total[g] = 0.0f;
        int64_t first = window > 0 && context > window ? context - window : 0;
        for (int64_t start = first; start < context; start += TILE) {
            int64_t count = context - start < TILE ? context - start : TILE;
            int64_t cells[TILE];
            for (int64_t j = 0; j < count; j++) {
                int64_t position = start + j;
                int64_t block = table[position / block_size];
                cells[j] = (block * block_size + position % block_size) * row_size + kv_head * head_size;
            }
            /* The next tile's rows lie anywhere: asked for now, they are there in time. */
            for (int64_t position = start + TILE; position < context && position < start + 2 * TILE; position++) {
                int64_t block = table[position / block_size];
                int64_t cell = (block * block_size + position % block_size) * row_size + kv_head * head_size;
                for (int64_t d = 0; d < head_size; d += 64 / (int64_t)sizeof(ELEMENT)) {
                    __builtin_prefetch(keys + cell + d);
                    __builtin_prefetch(values + cell + d);
                }
            }
            int is_in_pairs = IN_PAIRS(head_size);
            if (is_in_pairs)
                scores_in_pairs(weights, (const uint16_t *)q, (const uint16_t *)keys, cells, count, group, head_size,
                                scale);
            for (int64_t j = 0; j < count && !is_in_pairs; j++) {
                for (int64_t d = 0; d < head_size; d++) row[d] = LOAD(keys[cells[j] + d]);
                for (int64_t g = 0; g < group; g++) {
                    float dot = 0.0f;
                    for (int64_t d = 0; d < head_size; d++) dot += query[g * head_size + d] * row[d];
                    weights[g * TILE + j] = dot;
                }
            }
            for (int64_t i = 0; i < group * TILE && soft_cap > 0.0f; i++)
                if (i % TILE < count) weights[i] = soft_cap * tanhf(weights[i] / soft_cap);
            for (int64_t g = 0; g < group; g++) {
                float peak = largest[g];
                for (int64_t j = 0; j < count; j++)
                    peak = weights[g * TILE + j] > peak ? weights[g * TILE + j] : peak;
                /* All scores so far NaN: the output must be one, too, not a quiet zero. */
                float shrink = peak == largest[g] ? 1.0f : exponential(largest[g] - peak);
                float added = 0.0f;
                for (int64_t j = 0; j < count; j++) {
                    float weight = exponential(weights[g * TILE + j] - peak);
                    weights[g * TILE + j] = weight;
                    added += weight;
                }
                total[g] = total[g] * shrink + added;
                largest[g] = peak;
                for (int64_t d = 0; d < head_size; d++) sum[g * head_size + d] *= shrink;
            }
            if (is_in_pairs)
                add_weighted_values(sum, weights, (const uint16_t *)values, cells, count, group, head_size);
            for (int64_t j = 0; j < count && !is_in_pairs; j++) {
                for (int64_t d = 0; d < head_size; d++) row[d] = LOAD(values[cells[j] + d]);
                for (int64_t g = 0; g < group; g++) {
                    float weight = weights[g * TILE + j];
                    for (int64_t d = 0; d < head_size; d++) sum[g * head_size + d] += weight * row[d];
                }
            }
        }
        ELEMENT *y = out + (s * num_query_heads + kv_head * group) * head_size;
        for (int64_t g = 0; g < group; g++)
            for (int64_t d = 0; d < head_size; d++)
                y[g * head_size + d] = STORE(sum[g * head_size + d] / total[g]);
    }
}

#endif
