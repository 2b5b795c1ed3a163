/* What codes mean, looked up in registers; see quantized_table.c. */
#ifndef PENSTOCK_TABLE_LOOK_UP_H
#define PENSTOCK_TABLE_LOOK_UP_H

#include "quantized_lanes.h"
#include "quantized_products.h"

#define EXPANDED 16 /* instead of the bits of a code: its value, in bfloat16 */

#if HAS_WIDE_REGISTERS

struct table {
    __m512i parts[4]; /* of 32 values each; 4 bits use the first, which holds the 16 twice */
};

INLINE struct table load_table(const uint16_t *values, const int bits) {
    struct table table;
    for (int i = 0; i < 4; i++) table.parts[i] = _mm512_setzero_si512();
    if (bits == 4) table.parts[0] = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)values));
    if (bits == 8)
        for (int i = 0; i < 4; i++) table.parts[i] = _mm512_loadu_si512(values + 32 * i);
    return table;
}

/* Pair `j` of the words in `raw`. */
INLINE __m512i look_up(const struct table *table, __m512i raw, const int bits, const int j) {
    if (bits == EXPANDED) return raw;
    __m512i place = j ? _mm512_srli_epi16(raw, (unsigned)(bits * j)) : raw;
    if (bits == 4) return _mm512_permutexvar_epi16(place, table->parts[0]);
    __m512i low = _mm512_permutex2var_epi16(table->parts[0], place, table->parts[1]);
    __m512i high = _mm512_permutex2var_epi16(table->parts[2], place, table->parts[3]);
    __m512i magnitude = _mm512_mask_mov_epi16(low, _mm512_test_epi16_mask(place, _mm512_set1_epi16(0x40)), high);
    __m512i sign = _mm512_and_si512(_mm512_slli_epi16(place, 8), _mm512_set1_epi16((int16_t)0x8000));
    return _mm512_or_si512(magnitude, sign);
}

/* All pairs of the words at `from`: their first values and their second ones. */
INLINE void look_up_words(part values[4][2], const struct table *table, const uint8_t *from, const int bits) {
    pairs raw = load_pairs((const void *)from);
    for (int j = 0; j < 16 / bits; j++) {
        pairs found = look_up(table, raw, bits, j);
        values[j][0] = first_of_pairs(found), values[j][1] = second_of_pairs(found);
    }
}

#elif HAS_FAST_PRODUCTS

struct table {
    __m256i low, high; /* 4 bits: the bytes of the sixteen values, twice */
    int is_integer;    /* 8 bits: a magnitude is its own place */
    float wide[128];
};

INLINE struct table load_table(const uint16_t *values, const int bits) {
    struct table table;
    if (bits == 4) {
        uint8_t bytes[2][16];
        for (int i = 0; i < 16; i++) bytes[0][i] = (uint8_t)values[i], bytes[1][i] = (uint8_t)(values[i] >> 8);
        table.low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)bytes[0]));
        table.high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)bytes[1]));
    }
    if (bits == 8) {
        int others = 0;
        for (int i = 0; i < 128; i++) {
            table.wide[i] = from_bf16(values[i]);
            others |= table.wide[i] != (float)i;
        }
        table.is_integer = !others;
    }
    return table;
}

/* 4 bits: pairs `j` and `j` + 2 of words whose codes are alone in their bytes. */
INLINE void look_up_bytes(part values[4][2], const struct table *table, __m256i places, const int j) {
    __m256i low = _mm256_shuffle_epi8(table->low, places), high = _mm256_shuffle_epi8(table->high, places);
    __m256i byte = _mm256_set1_epi16(0xFF);
    __m256i one = _mm256_or_si256(_mm256_slli_epi16(high, 8), _mm256_and_si256(low, byte));
    __m256i other = _mm256_or_si256(_mm256_andnot_si256(byte, high), _mm256_srli_epi16(low, 8));
    values[j][0] = first_of_words(one), values[j][1] = second_of_words(one);
    values[j + 2][0] = first_of_words(other), values[j + 2][1] = second_of_words(other);
}

/* All pairs of the words at `from`, for eight columns: their first values and their second ones. */
INLINE void look_up_words(part values[4][2], const struct table *table, const uint8_t *from, const int bits) {
    __m256i words = _mm256_loadu_si256((const void *)from);
    if (bits == 4) {
        __m256i nibble = _mm256_set1_epi8(0x0F);
        look_up_bytes(values, table, _mm256_and_si256(words, nibble), 0);
        look_up_bytes(values, table, _mm256_and_si256(_mm256_srli_epi16(words, 4), nibble), 1);
        return;
    }
    for (int i = 0; i < 4; i++) {
        const int shift = 16 * (i % 2) + 8 * (i / 2);
        part sign = (part)_mm256_and_si256(_mm256_slli_epi32(words, 24 - shift), _mm256_set1_epi32(INT32_MIN));
        __m256i place = _mm256_and_si256(_mm256_srli_epi32(words, shift), _mm256_set1_epi32(127));
        part magnitude = table->is_integer ? _mm256_cvtepi32_ps(place) : _mm256_i32gather_ps(table->wide, place, 4);
        values[i / 2][i % 2] = _mm256_or_ps(magnitude, sign);
    }
}

#else

struct table {
    const uint16_t *values;
};

INLINE struct table load_table(const uint16_t *values, const int bits) {
    (void)bits;
    return (struct table){values};
}

INLINE float look_up(const struct table *table, uint16_t word, const int bits, int64_t j) {
    if (bits == 4) return from_bf16(table->values[word >> 4 * j & 15]);
    float magnitude = from_bf16(table->values[word >> 8 * j & 127]);
    return word >> 8 * j & 128 ? -magnitude : magnitude;
}

#endif

#endif
