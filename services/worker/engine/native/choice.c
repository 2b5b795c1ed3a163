/* A draw from a softmax as the largest of scores and Gumbel noise: sampling/noise.py's numbers, made where they are used.
 *
 * Philox 4x32-10 (Salmon et al. 2011) on 16 counters at a time: token t takes word t / 16 % 4 of counter t / 64 * 16 +
 * t % 16. A block of 64 tokens whose best score is out of the noise's reach makes none, and takes no logarithms where
 * even its smallest word, which makes the largest noise, would not do.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define WORDS 4
#define BLOCK (LANES * WORDS)
#define ROUNDS 10
#define PART (128 * BLOCK)
#define MOST_NOISE 23.0f /* -log(-log(1 - 2^-33)), rounded up */
#define MARGIN 1e-3f      /* the smaller a word, the larger its noise, up to the rounding of two logarithms */

struct choice {
    float value;
    int32_t token;
};

#if defined(__AVX512F__)
#include <immintrin.h>

/* 32 bits in the lower half of each lane; the upper halves hold what no product looks at. */
static void philox(uint32_t words[WORDS][LANES], uint32_t first_counter, uint32_t position, uint32_t stream,
                   uint32_t key, uint32_t other_key) {
    const __m512i multiplier = _mm512_set1_epi64(0xD2511F53), other = _mm512_set1_epi64(0xCD9E8D57);
    __m512i steps = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), a[2], b[2], c[2], d[2];
    for (int half = 0; half < 2; half++) {
        a[half] = _mm512_add_epi64(_mm512_set1_epi64((int64_t)first_counter + 8 * half), steps);
        b[half] = _mm512_set1_epi64(position), c[half] = _mm512_set1_epi64(stream), d[half] = _mm512_setzero_si512();
    }
    for (int round = 0; round < ROUNDS; round++) {
        __m512i own = _mm512_set1_epi64(key), others = _mm512_set1_epi64(other_key);
        for (int half = 0; half < 2; half++) {
            __m512i first = _mm512_mul_epu32(a[half], multiplier), third = _mm512_mul_epu32(c[half], other);
            a[half] = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(third, 32), b[half]), own);
            c[half] = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(first, 32), d[half]), others);
            b[half] = third, d[half] = first;
        }
        key += 0x9E3779B9u;
        other_key += 0xBB67AE85u;
    }
    for (int half = 0; half < 2; half++) {
        _mm256_storeu_si256((void *)(words[0] + 8 * half), _mm512_cvtepi64_epi32(a[half]));
        _mm256_storeu_si256((void *)(words[1] + 8 * half), _mm512_cvtepi64_epi32(b[half]));
        _mm256_storeu_si256((void *)(words[2] + 8 * half), _mm512_cvtepi64_epi32(c[half]));
        _mm256_storeu_si256((void *)(words[3] + 8 * half), _mm512_cvtepi64_epi32(d[half]));
    }
}

#else

static void philox(uint32_t words[WORDS][LANES], uint32_t first_counter, uint32_t position, uint32_t stream,
                   uint32_t key, uint32_t other_key) {
    uint64_t a[LANES], b[LANES], c[LANES], d[LANES]; /* 32 bits each, wide so that a product is one operation */
    for (uint32_t i = 0; i < LANES; i++) a[i] = first_counter + i, b[i] = position, c[i] = stream, d[i] = 0;
    for (int round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 1
        for (int i = 0; i < LANES; i++) {
            uint64_t first = 0xD2511F53ull * a[i], third = 0xCD9E8D57ull * c[i];
            a[i] = third >> 32 ^ b[i] ^ key;
            b[i] = third & 0xffffffffu;
            c[i] = first >> 32 ^ d[i] ^ other_key;
            d[i] = first & 0xffffffffu;
        }
        key += 0x9E3779B9u;
        other_key += 0xBB67AE85u;
    }
    for (int i = 0; i < LANES; i++) {
        words[0][i] = (uint32_t)a[i], words[1][i] = (uint32_t)b[i];
        words[2][i] = (uint32_t)c[i], words[3][i] = (uint32_t)d[i];
    }
}

#endif

/* log(1 + x) for x in [sqrt(1/2) - 1, sqrt(2) - 1]. Source: Cephes, logf. */
static inline float near_log(float x) {
    float z = x * x, y = 7.0376836292e-2f;
    y = y * x - 1.1514610310e-1f;
    y = y * x + 1.1676998740e-1f;
    y = y * x - 1.2420140846e-1f;
    y = y * x + 1.4249322787e-1f;
    y = y * x - 1.6668057665e-1f;
    y = y * x + 2.0000714765e-1f;
    y = y * x - 2.4999993993e-1f;
    y = y * x + 3.3333331174e-1f;
    return x + (y * x * z - 0.5f * z);
}

static inline float log_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int32_t exponent = (int32_t)(bits >> 23) - 127;
    bits = (bits & 0x7fffffu) | 0x3f800000u;
    float mantissa; /* [1, 2) */
    memcpy(&mantissa, &bits, sizeof mantissa);
    int is_high = mantissa > 1.41421356f;
    float x = (is_high ? 0.5f * mantissa : mantissa) - 1.0f, e = (float)(exponent + is_high);
    return near_log(x) - 2.12194440e-4f * e + 0.693359375f * e;
}

/* -log(-log(1 - w)), w being the word's place between 0 and 1. */
static inline float noise_of(uint32_t word) {
    float w = ((float)word + 0.5f) * 0x1p-32f;
    w = w < 0x1.fffffep-1f ? w : 0x1.fffffep-1f;
    float near = near_log(-(w < 0.29f ? w : 0.29f)), far = log_of(1.0f - w);
    return -log_of(-(w < 0.29f ? near : far));
}

typedef float floats __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));

/* The largest of `count` numbers. Vector types, since compilers make branches of it otherwise. */
static inline float peak_of(const float *x, int64_t count) {
    floats peaks = (floats){0} - INFINITY, next;
    float peak = -INFINITY;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        memcpy(&next, x + i, sizeof next);
        ints is_larger = next > peaks;
        peaks = (floats)(((ints)next & is_larger) | ((ints)peaks & ~is_larger));
    }
    for (; i < count; i++) peak = x[i] > peak ? x[i] : peak;
    for (int lane = 0; lane < LANES; lane++) peak = peaks[lane] > peak ? peaks[lane] : peak;
    return peak;
}

static inline uint32_t smallest_of(uint32_t words[WORDS][LANES]) {
    uint32_t smallest = UINT32_MAX;
    for (int i = 0; i < BLOCK; i++) {
        uint32_t word = words[i / LANES][i % LANES];
        smallest = word < smallest ? word : smallest;
    }
    return smallest;
}

struct row {
    const float *scores;
    float highest, temperature; /* a score is (x - highest) / temperature; 0 and 1 leave it */
    uint32_t position, key, other_key;
};

static void choose_part(struct choice *best, const struct row *row, int64_t begin, int64_t end, uint32_t stream) {
    uint32_t words[WORDS][LANES];
    float scores[BLOCK], values[BLOCK];
    for (int64_t start = begin; start < end; start += BLOCK) {
        int64_t count = end - start < BLOCK ? end - start : BLOCK;
        for (int64_t i = 0; i < count; i++) scores[i] = (row->scores[start + i] - row->highest) / row->temperature;
        float peak = peak_of(scores, count);
        if (!(peak + MOST_NOISE > best->value)) continue;
        philox(words, (uint32_t)(start / WORDS), row->position, stream, row->key, row->other_key);
        if (!(peak + noise_of(smallest_of(words)) + MARGIN > best->value)) continue;
        for (int64_t i = 0; i < BLOCK; i++) values[i] = noise_of(((const uint32_t *)words)[i]);
        for (int64_t i = 0; i < count; i++) values[i] += scores[i];
        peak = peak_of(values, count);
        if (!(peak > best->value)) continue;
        int64_t i = 0;
        while (values[i] != peak) i++;
        *best = (struct choice){peak, (int32_t)(start + i)};
    }
}

/* out [rows]: the token of the largest score and noise, of equal ones the first. scores [rows, columns], no NaN, with
 * `temperatures` [rows] logits that become scores: less their largest, divided; keys [rows, 2]; positions [rows];
 * `scratch` [rows, 1 + columns / PART rounded up] of struct choice. */
void penstock_choose(int64_t *out, struct choice *scratch, const float *scores, const float *temperatures,
                     const uint32_t *keys, const uint32_t *positions, int64_t stream, int64_t rows, int64_t columns) {
    int64_t parts = (columns + PART - 1) / PART;
    struct choice *highest = scratch + rows * parts;
    for (int64_t row = 0; row < rows; row++)
        highest[row].value = temperatures ? peak_of(scores + row * columns, columns) : 0.0f;
/* One row takes less time than a sleeping thread takes to wake. */
#pragma omp parallel for schedule(dynamic) if (rows > 1)
    for (int64_t task = 0; task < rows * parts; task++) {
        int64_t number = task / parts, begin = task % parts * PART, end = begin + PART < columns ? begin + PART : columns;
        float temperature = temperatures ? temperatures[number] : 1.0f;
        const struct row row = {scores + number * columns, highest[number].value, temperature,
                                positions[number], keys[2 * number], keys[2 * number + 1]};
        scratch[task] = (struct choice){-INFINITY, (int32_t)begin};
        choose_part(scratch + task, &row, begin, end, (uint32_t)stream);
    }
    for (int64_t row = 0; row < rows; row++) {
        struct choice best = scratch[row * parts];
        for (int64_t part = 1; part < parts; part++)
            if (scratch[row * parts + part].value > best.value) best = scratch[row * parts + part];
        out[row] = best.token;
    }
}
