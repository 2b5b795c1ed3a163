/* Sixteen numbers at a time, for the kernels of quantized weights: vector types of GCC and Clang, which become AVX-512,
 * AVX2 or plain instructions, and by hand only what compilers do not find: sums of four products of bytes. */
#ifndef PENSTOCK_QUANTIZED_LANES_H
#define PENSTOCK_QUANTIZED_LANES_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define LANES 16

typedef float floats __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32)));

#define INLINE static inline __attribute__((always_inline))

INLINE floats same_float(float x) { return x - (floats){0}; }

INLINE ints same_int(int32_t x) { return x - (ints){0}; }

INLINE floats to_floats(ints x) { return __builtin_convertvector(x, floats); }

/* sum + x * y, rounded once where the processor can: written out, since compilers choose anew in every copy of a loop. */
INLINE floats add_product(floats sum, floats x, floats y) {
#if defined(__AVX512F__)
    return (floats)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)sum);
#else
    return sum + x * y;
#endif
}

INLINE floats load_floats(const float *x) {
    floats y;
    memcpy(&y, x, sizeof y);
    return y;
}

/* Scales lie as float16 where that is exact, else as float32; `index` counts groups of sixteen. */
INLINE floats load_scales(const void *scales, int64_t index, int64_t is_half) {
    if (!is_half) return load_floats((const float *)scales + index * LANES);
    const uint16_t *half = (const uint16_t *)scales + index * LANES;
#if defined(__AVX512F__)
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)half));
#else
    floats y;
    for (int i = 0; i < LANES; i++) {
        uint32_t bits = (uint32_t)(half[i] & 0x7FFF) << 13; /* the exponent is 112 too small: a power of two mends it */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        y[i] = (half[i] & 0x8000 ? -0x1p112f : 0x1p112f) * magnitude;
    }
    return y;
#endif
}

/* sums += four products each: `weights` holds 16 x 4 unsigned bytes, `four` points to 4 signed ones. Exact. */
INLINE ints add_fours(ints sums, ints weights, const int8_t *four) {
    int32_t all;
    memcpy(&all, four, sizeof all);
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(all));
#elif defined(__AVX2__)
    /* Even and odd bytes as 16-bit numbers: no pair of products overflows 32 bits. */
    __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(_mm256_set1_epi32(all), 8), 8);
    __m256i odd = _mm256_srai_epi16(_mm256_set1_epi32(all), 8), low = _mm256_set1_epi16(0xFF), half[2], out[2];
    memcpy(half, &weights, sizeof half);
    memcpy(out, &sums, sizeof out);
    for (int i = 0; i < 2; i++) {
        __m256i first = _mm256_madd_epi16(_mm256_and_si256(half[i], low), even);
        __m256i second = _mm256_madd_epi16(_mm256_srli_epi16(half[i], 8), odd);
        out[i] = _mm256_add_epi32(out[i], _mm256_add_epi32(first, second));
    }
    memcpy(&sums, out, sizeof sums);
    return sums;
#else
    ints low = same_int(255);
    sums += (weights & low) * same_int(four[0]);
    sums += ((weights >> 8) & low) * same_int(four[1]);
    sums += ((weights >> 16) & low) * same_int(four[2]);
    sums += ((weights >> 24) & low) * same_int(four[3]);
    return sums;
#endif
}

#endif
