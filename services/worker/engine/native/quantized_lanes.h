/* Sixteen numbers in PARTS registers, for the kernels of quantized weights: vector types of GCC and Clang, which become
 * AVX-512, AVX2 or plain instructions, and by hand only what compilers do not find: sums of products of bytes. */
#ifndef PENSTOCK_QUANTIZED_LANES_H
#define PENSTOCK_QUANTIZED_LANES_H

#include <stdint.h>
#include <string.h>

#include "pairs.h"

#define FLOATS (LANES / PARTS) /* in a register */

typedef float floats __attribute__((vector_size(64 / PARTS)));
typedef int32_t ints __attribute__((vector_size(64 / PARTS)));

INLINE floats same_float(float x) { return x - (floats){0}; }

INLINE ints same_int(int32_t x) { return x - (ints){0}; }

INLINE floats to_floats(ints x) { return __builtin_convertvector(x, floats); }

/* sum + x * y, rounded once where the processor can: written out, since compilers choose anew in every copy of a loop. */
INLINE floats add_product(floats sum, floats x, floats y) {
#if HAS_FAST_PRODUCTS
    return (floats)add_part_product((part)sum, (part)x, (part)y);
#else
    return sum + x * y;
#endif
}

INLINE floats load_floats(const float *x) {
    floats y;
    memcpy(&y, x, sizeof y);
    return y;
}

/* Scales lie as float16 where that is exact, else as float32; `index` counts registers of floats. */
INLINE floats load_scales(const void *scales, int64_t index, int64_t is_half) {
    if (!is_half) return load_floats((const float *)scales + index * FLOATS);
    const uint16_t *half = (const uint16_t *)scales + index * FLOATS;
#if HAS_WIDE_REGISTERS
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)half));
#elif defined(__F16C__) && PARTS == 2
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const void *)half));
#else
    floats y;
    for (int i = 0; i < FLOATS; i++) {
        uint32_t bits = (uint32_t)(half[i] & 0x7FFF) << 13; /* the exponent is 112 too small: a power of two mends it */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        y[i] = (half[i] & 0x8000 ? -0x1p112f : 0x1p112f) * magnitude;
    }
    return y;
#endif
}

#endif
