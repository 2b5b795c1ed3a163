/* Sums of products of coded weights and bytes over a group, for a tile of rows and columns; exact.
 *
 * AVX-512 VNNI takes four products and their sum in one instruction. AVX2 takes two into sums of 16 bits, which hold
 * the products of eight codes of 4 bits, or of two of 6, before they must be widened. Codes of 8 bits are made signed
 * there (ADDED_TO_CODES is what that takes away), since a magnitude and an input with the code's sign do fit.
 */
#ifndef PENSTOCK_INTEGER_SUMS_H
#define PENSTOCK_INTEGER_SUMS_H

#include "quantized_lanes.h"
#include "quantized_products.h"

#define AHEAD 4096  /* bytes: the processor's own prefetching stops at the end of a page */
#define SEGMENT 256 /* inner values between two looks at what is to be fetched */

/* So that sums stay in registers. */
#define UNROLLED _Pragma("GCC unroll 8")

#if PARTS == 2
#define ADDED_TO_CODES(bits) ((bits) == 8 ? 128 : 0)
#define FEW_ROWS 4 /* with a strip's two registers each, beside two of weights */

INLINE __m256i load_part_of(const uint8_t *from, int i) { return _mm256_loadu_si256((const void *)(from + 32 * i)); }

/* Four inputs of a row, for each of eight columns. */
INLINE __m256i same_four(const int8_t *four) {
    int32_t all;
    memcpy(&all, four, sizeof all);
    return _mm256_set1_epi32(all);
}

INLINE ints widened(ints sum, __m256i twos) {
    return (ints)_mm256_add_epi32((__m256i)sum, _mm256_madd_epi16(twos, _mm256_set1_epi16(1)));
}

/* 4 bits: two quads from one load; sums of 16 bits over up to four such loads. */
INLINE void add_nibbles(ints sums[FEW_ROWS][PARTS], const uint8_t *packed, const uint8_t *ahead, const int8_t *in,
                        int64_t stride, int64_t count, const int rows) {
    __m256i low = _mm256_set1_epi8(0x0F);
    for (int64_t begin = 0; begin < count; begin += 32) {
        int64_t end = count - begin < 32 ? count : begin + 32;
        __m256i twos[FEW_ROWS][PARTS];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < PARTS; i++) twos[r][i] = _mm256_setzero_si256();
        for (int64_t k = begin; k < end; k += 8) {
            __builtin_prefetch(ahead + k * 8, 0, 2);
            for (int half = 0; half < 2; half++) {
                __m256i codes[PARTS];
                for (int i = 0; i < PARTS; i++) {
                    __m256i both = load_part_of(packed + k * 8, i);
                    codes[i] = _mm256_and_si256(half ? _mm256_srli_epi16(both, 4) : both, low);
                }
                for (int r = 0; r < rows; r++) {
                    __m256i four = same_four(in + r * stride + k + 4 * half);
                    for (int i = 0; i < PARTS; i++)
                        twos[r][i] = _mm256_add_epi16(twos[r][i], _mm256_maddubs_epi16(codes[i], four));
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < PARTS; i++) sums[r][i] = widened(sums[r][i], twos[r][i]);
    }
}

/* 6 bits: four quads from three loads. */
INLINE void add_sixes(ints sums[FEW_ROWS][PARTS], const uint8_t *packed, const uint8_t *ahead, const int8_t *in,
                      int64_t stride, int64_t count, const int rows) {
    __m256i low = _mm256_set1_epi8(0x3F);
    for (int64_t k = 0; k < count; k += 16) {
        const uint8_t *from = packed + k * 12;
        for (int64_t i = 0; i < 192; i += 64) __builtin_prefetch(ahead + k * 12 + i, 0, 2);
        for (int i = 0; i < PARTS; i++) {
            __m256i first = load_part_of(from, i), second = load_part_of(from + 64, i), third = load_part_of(from + 128, i);
            __m256i fourth = _mm256_or_si256(
                _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(first, 6), _mm256_set1_epi8(0x03)),
                                _mm256_and_si256(_mm256_srli_epi16(second, 4), _mm256_set1_epi8(0x0C))),
                _mm256_and_si256(_mm256_srli_epi16(third, 2), _mm256_set1_epi8(0x30)));
            __m256i codes[4] = {_mm256_and_si256(first, low), _mm256_and_si256(second, low),
                                _mm256_and_si256(third, low), fourth};
            for (int r = 0; r < rows; r++)
                for (int quad = 0; quad < 4; quad += 2) {
                    const int8_t *own = in + r * stride + k + 4 * quad;
                    __m256i one = _mm256_maddubs_epi16(codes[quad], same_four(own));
                    __m256i other = _mm256_maddubs_epi16(codes[quad + 1], same_four(own + 4));
                    sums[r][i] = widened(sums[r][i], _mm256_add_epi16(one, other));
                }
        }
    }
}

INLINE void add_bytes(ints sums[FEW_ROWS][PARTS], const uint8_t *packed, const uint8_t *ahead, const int8_t *in,
                      int64_t stride, int64_t count, const int rows) {
    for (int64_t k = 0; k < count; k += 4) {
        __m256i codes[PARTS], magnitudes[PARTS];
        __builtin_prefetch(ahead + k * 16, 0, 2);
        for (int i = 0; i < PARTS; i++) {
            codes[i] = _mm256_xor_si256(load_part_of(packed + k * 16, i), _mm256_set1_epi8((int8_t)0x80));
            magnitudes[i] = _mm256_abs_epi8(codes[i]);
        }
        for (int r = 0; r < rows; r++) {
            __m256i four = same_four(in + r * stride + k);
            for (int i = 0; i < PARTS; i++) {
                __m256i twos = _mm256_maddubs_epi16(magnitudes[i], _mm256_sign_epi8(four, codes[i]));
                sums[r][i] = widened(sums[r][i], twos);
            }
        }
    }
}

INLINE void add_segment(ints sums[MOST_ROWS][MOST_PARTS], const uint8_t *const *packed, const uint8_t *const *ahead,
                        const int8_t *in, int64_t stride, int64_t count, const int rows, const int strips,
                        const int bits) {
    const int each = rows % FEW_ROWS ? rows > FEW_ROWS ? rows / 2 : rows : FEW_ROWS;
    for (int s = 0; s < strips; s++)
        for (int row = 0; row < rows; row += each) {
            ints own[FEW_ROWS][PARTS];
            const int8_t *from = in + row * stride;
            for (int r = 0; r < each; r++)
                for (int i = 0; i < PARTS; i++) own[r][i] = sums[row + r][s * PARTS + i];
            if (bits == 4)
                add_nibbles(own, packed[s], ahead[s], from, stride, count, each);
            else if (bits == 6)
                add_sixes(own, packed[s], ahead[s], from, stride, count, each);
            else
                add_bytes(own, packed[s], ahead[s], from, stride, count, each);
            for (int r = 0; r < each; r++)
                for (int i = 0; i < PARTS; i++) sums[row + r][s * PARTS + i] = own[r][i];
        }
}

#else
#define ADDED_TO_CODES(bits) 0

INLINE ints load_ints(const uint8_t *from) {
    ints x;
    memcpy(&x, from, sizeof x);
    return x;
}

/* sums += four products each: `weights` holds 16 x 4 unsigned bytes, `four` points to 4 signed ones. Exact. */
INLINE ints add_fours(ints sums, ints weights, const int8_t *four) {
#if HAS_WIDE_REGISTERS
    int32_t each;
    memcpy(&each, four, sizeof each);
    __m512i all = _mm512_set1_epi32(each), codes = (__m512i)weights;
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, codes, all);
#else
    /* Even and odd bytes as 16-bit numbers: no pair of products overflows 32 bits. */
    __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(all, 8), 8), odd = _mm512_srai_epi16(all, 8);
    __m512i first = _mm512_madd_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(0xFF)), even);
    __m512i second = _mm512_madd_epi16(_mm512_srli_epi16(codes, 8), odd);
    return sums + (ints)_mm512_add_epi32(first, second);
#endif
#else
    ints low = same_int(255);
    sums += (weights & low) * same_int(four[0]);
    sums += ((weights >> 8) & low) * same_int(four[1]);
    sums += ((weights >> 16) & low) * same_int(four[2]);
    sums += ((weights >> 24) & low) * same_int(four[3]);
    return sums;
#endif
}

/* 4 bits: two quads from one load. */
INLINE void add_nibbles(ints sums[MOST_ROWS][MOST_PARTS], const uint8_t *const *packed, const uint8_t *const *ahead,
                        const int8_t *in, int64_t stride, int64_t count, const int rows, const int strips) {
    ints low = same_int(0x0F0F0F0F);
    for (int64_t k = 0; k < count; k += 8) {
        UNROLLED
        for (int s = 0; s < strips; s++) {
            ints both = load_ints(packed[s] + k * 8);
            __builtin_prefetch(ahead[s] + k * 8, 0, 2);
            UNROLLED
            for (int r = 0; r < rows; r++) {
                sums[r][s] = add_fours(sums[r][s], both & low, in + r * stride + k);
                sums[r][s] = add_fours(sums[r][s], (both >> 4) & low, in + r * stride + k + 4);
            }
        }
    }
}

/* 6 bits: four quads from three loads. */
INLINE void add_sixes(ints sums[MOST_ROWS][MOST_PARTS], const uint8_t *const *packed, const uint8_t *const *ahead,
                      const int8_t *in, int64_t stride, int64_t count, const int rows, const int strips) {
    ints low = same_int(0x3F3F3F3F);
    for (int64_t k = 0; k < count; k += 16) {
        UNROLLED
        for (int s = 0; s < strips; s++) {
            const uint8_t *from = packed[s] + k * 12, *later = ahead[s] + k * 12;
            ints first = load_ints(from), second = load_ints(from + 64), third = load_ints(from + 128);
            __builtin_prefetch(later, 0, 2);
            __builtin_prefetch(later + 64, 0, 2);
            __builtin_prefetch(later + 128, 0, 2);
            ints fourth = ((first >> 6) & same_int(0x03030303)) | ((second >> 4) & same_int(0x0C0C0C0C)) |
                          ((third >> 2) & same_int(0x30303030));
            UNROLLED
            for (int r = 0; r < rows; r++) {
                const int8_t *own = in + r * stride + k;
                sums[r][s] = add_fours(sums[r][s], first & low, own);
                sums[r][s] = add_fours(sums[r][s], second & low, own + 4);
                sums[r][s] = add_fours(sums[r][s], third & low, own + 8);
                sums[r][s] = add_fours(sums[r][s], fourth, own + 12);
            }
        }
    }
}

INLINE void add_bytes(ints sums[MOST_ROWS][MOST_PARTS], const uint8_t *const *packed, const uint8_t *const *ahead,
                      const int8_t *in, int64_t stride, int64_t count, const int rows, const int strips) {
    for (int64_t k = 0; k < count; k += 4) {
        UNROLLED
        for (int s = 0; s < strips; s++) {
            ints quads = load_ints(packed[s] + k * 16);
            __builtin_prefetch(ahead[s] + k * 16, 0, 2);
            UNROLLED
            for (int r = 0; r < rows; r++) sums[r][s] = add_fours(sums[r][s], quads, in + r * stride + k);
        }
    }
}

INLINE void add_segment(ints sums[MOST_ROWS][MOST_PARTS], const uint8_t *const *packed, const uint8_t *const *ahead,
                        const int8_t *in, int64_t stride, int64_t count, const int rows, const int strips,
                        const int bits) {
    if (bits == 4)
        add_nibbles(sums, packed, ahead, in, stride, count, rows, strips);
    else if (bits == 6)
        add_sixes(sums, packed, ahead, in, stride, count, rows, strips);
    else
        add_bytes(sums, packed, ahead, in, stride, count, rows, strips);
}

#endif

/* Where the bytes lie that are read AHEAD later: in the same strip, then in the one that follows. */
INLINE const uint8_t *ahead_of(const struct strips *strips, int s, int64_t offset, int64_t size) {
    const uint8_t *following = strips->following[s];
    if (following == NULL) return strips->packed[s] + offset; /* read already: costs nothing */
    return offset + AHEAD < size ? strips->packed[s] + offset + AHEAD : following + (offset + AHEAD - size);
}

INLINE void add_group(ints sums[MOST_ROWS][MOST_PARTS], const struct coded *w, const struct strips *from,
                      const int8_t *in, int64_t begin, int64_t end, const int rows, const int strips, const int bits) {
    int64_t size = w->padded * LANES * bits / 8;
    for (int64_t k = begin; k < end; k += SEGMENT) {
        const uint8_t *packed[MOST_STRIPS], *ahead[MOST_STRIPS];
        int64_t count = end - k < SEGMENT ? end - k : SEGMENT, offset = k * LANES * bits / 8;
        for (int s = 0; s < strips; s++) {
            packed[s] = from->packed[s] + offset;
            ahead[s] = ahead_of(from, s, offset, size);
        }
        add_segment(sums, packed, ahead, in + k, w->padded, count, rows, strips, bits);
    }
}

#endif
