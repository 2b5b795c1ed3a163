/* Sixteen float32 sums and sixteen pairs of bfloat16 at a time: what every matrix product here is made of.
 *
 * Chosen when the kernels are built, on the machine that runs them: AVX-512 BF16 multiplies pairs in one instruction,
 * AVX-512 and AVX2 in two with the same result; elsewhere (NEON, SSE) GCC's vector types do.
 */
#ifndef PENSTOCK_PAIRS_H
#define PENSTOCK_PAIRS_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 16

INLINE float from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

/* To nearest, ties to even, as torch does; a NaN stays a NaN. */
INLINE uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(x != x ? 0x7FC0u : rounded);
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

/* 6 x 4 sums, 4 weights and an input fit the 32 registers; 24 products for 10 loads keep the multipliers busy. */
#define TILE_ROWS 6
/* 8 x 3 fit too: for what would be two passes of 6. */
#define TALL_ROWS 8
#define TALL_GROUPS 3
#define HAS_WIDE_REGISTERS 1
#define HAS_FAST_PRODUCTS 1

typedef __m512 lanes;
typedef __m512i pairs;

/* A register of float32; PARTS of them hold sixteen. */
#define PARTS 1
typedef __m512 part;

INLINE part no_part(void) { return _mm512_setzero_ps(); }
INLINE part load_part(const float *x) { return _mm512_loadu_ps(x); }
INLINE void store_part(float *y, part x) { _mm512_storeu_ps(y, x); }
INLINE part same_part(float x) { return _mm512_set1_ps(x); }
INLINE part add_part_product(part sum, part a, part b) { return _mm512_fmadd_ps(a, b, sum); }

INLINE lanes no_lanes(void) { return _mm512_setzero_ps(); }

/* b where a is a NaN. */
INLINE lanes larger(lanes a, lanes b) { return _mm512_max_ps(a, b); }

INLINE pairs load_pairs(const uint16_t *x) { return _mm512_loadu_si512(x); }

INLINE pairs same_pair(const uint16_t *x) {
    int32_t two;
    memcpy(&two, x, sizeof two);
    return _mm512_set1_epi32(two);
}

/* The second of a pair and the first, as the instruction for both takes them one after the other. */
INLINE lanes second_of_pairs(pairs x) { return (lanes)_mm512_and_si512(x, _mm512_set1_epi32((int32_t)0xFFFF0000u)); }
INLINE lanes first_of_pairs(pairs x) { return (lanes)_mm512_slli_epi32(x, 16); }

INLINE part second_of_part(const uint16_t *x) { return second_of_pairs(load_pairs(x)); }
INLINE part first_of_part(const uint16_t *x) { return first_of_pairs(load_pairs(x)); }

INLINE lanes add_products(lanes sum, pairs a, pairs b) {
#if defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
    sum = _mm512_fmadd_ps(second_of_pairs(a), second_of_pairs(b), sum);
    return _mm512_fmadd_ps(first_of_pairs(a), first_of_pairs(b), sum);
#endif
}

#else

#define HAS_WIDE_REGISTERS 0

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define TILE_ROWS 6
#define TALL_ROWS 6
#define TALL_GROUPS 3
#define HAS_FAST_PRODUCTS 1
#define PARTS 2
typedef __m256 part;

INLINE part no_part(void) { return _mm256_setzero_ps(); }
INLINE part load_part(const float *x) { return _mm256_loadu_ps(x); }
INLINE void store_part(float *y, part x) { _mm256_storeu_ps(y, x); }
INLINE part same_part(float x) { return _mm256_set1_ps(x); }
INLINE part add_part_product(part sum, part a, part b) { return _mm256_fmadd_ps(a, b, sum); }
/* Eight pairs. */
INLINE part second_of_words(__m256i x) { return (part)_mm256_and_si256(x, _mm256_set1_epi32((int32_t)0xFFFF0000u)); }
INLINE part first_of_words(__m256i x) { return (part)_mm256_slli_epi32(x, 16); }
INLINE part second_of_part(const uint16_t *x) { return second_of_words(_mm256_loadu_si256((const void *)x)); }
INLINE part first_of_part(const uint16_t *x) { return first_of_words(_mm256_loadu_si256((const void *)x)); }
#else
#define TILE_ROWS 4
#define TALL_ROWS 4
#define TALL_GROUPS 2
#define HAS_FAST_PRODUCTS 0
#define PARTS 1
#endif

typedef float lanes __attribute__((vector_size(64)));
typedef uint32_t pairs __attribute__((vector_size(64)));

INLINE lanes no_lanes(void) { return (lanes){0}; }

INLINE lanes larger(lanes a, lanes b) {
    lanes c;
    for (int i = 0; i < LANES; i++) c[i] = a[i] > b[i] ? a[i] : b[i];
    return c;
}

INLINE pairs load_pairs(const uint16_t *x) {
    pairs y;
    memcpy(&y, x, sizeof y);
    return y;
}

INLINE pairs same_pair(const uint16_t *x) {
    uint32_t two;
    memcpy(&two, x, sizeof two);
    return two - (pairs){0};
}

INLINE lanes add_products(lanes sum, pairs a, pairs b) {
    return sum + (lanes)(a << 16) * (lanes)(b << 16) + (lanes)(a & 0xFFFF0000u) * (lanes)(b & 0xFFFF0000u);
}

#endif

#if HAS_FAST_PRODUCTS
/* In a register: else a compiler reads memory anew for every use, and there are fewer reads than products at a time. */
INLINE part held(part x) {
#if PARTS > 1
    __asm__("" : "+x"(x));
#endif
    return x;
}

/* As the instruction for pairs takes them. Returns what to `restore`. */
INLINE unsigned take_denormals_for_zeros(void) {
    unsigned control = _mm_getcsr();
    _mm_setcsr(control | 0x8040u);
    return control;
}
INLINE void restore(unsigned control) { _mm_setcsr(control); }
#endif

/* Cephes' expf: relative error below 2e-7; a NaN stays a NaN. Written out because compilers vectorise only this. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = __builtin_rintf(x * 1.44269504f);
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

INLINE float silu(float g) { return g / (1.0f + exponential(-g)); }

/* The tanh approximation: (1 + tanh(u)) / 2 is 1 / (1 + exp(-2u)). */
INLINE float gelu(float g) {
    float u = 0.7978845608f * (g + 0.044715f * g * g * g);
    return g / (1.0f + exponential(-2.0f * u));
}

#endif
