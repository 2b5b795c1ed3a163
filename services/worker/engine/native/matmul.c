/* Matrix products with bfloat16 weights on CPUs that multiply pairs of them (AVX-512 BF16); elsewhere not there.
 *
 * Weights are packed once: for 16 columns at a time, all inner values in pairs, [columns / 16, inner / 2, 16, 2], so
 * that one load feeds one instruction and memory is read in order, once for all rows that are held in registers.
 * Every output is summed over `inner` in the same order in every tile: a row's result does not depend on how many
 * rows are beside it, nor on the number of threads. Accumulated in float32, rounded once.
 */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512BF16__) && defined(__AVX512F__) && defined(__AVX512VL__)
#include <immintrin.h>

#define LANES 16
#define MOST_ROWS 6
#define MOST_GROUPS 4

int64_t penstock_has_matmul(void) { return 1; }

struct product {
    void *out;              /* [rows, columns], bfloat16, or float32 where is_wide */
    const uint16_t *in;     /* [rows, inner] */
    const uint16_t *packed; /* columns rounded up to 16, the rest zeros */
    const uint16_t *bias;   /* [columns] or NULL */
    int64_t rows, columns, inner, is_wide;
};

static inline __attribute__((always_inline)) void store(const struct product *p, __m512 sum, int64_t row,
                                                        int64_t column) {
    int64_t left = p->columns - column;
    __mmask16 mask = left >= LANES ? 0xFFFF : (__mmask16)((1u << left) - 1);
    if (p->bias) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p->bias + column));
        sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
    }
    if (p->is_wide)
        _mm512_mask_storeu_ps((float *)p->out + row * p->columns + column, mask, sum);
    else
        _mm256_mask_storeu_epi16((uint16_t *)p->out + row * p->columns + column, mask,
                                 (__m256i)_mm512_cvtneps_pbh(sum));
}

/* `rows` x `groups` * 16 outputs in registers; both are constants where it is called. */
static inline __attribute__((always_inline)) void tile(const struct product *p, int64_t row, int64_t column,
                                                       const int rows, const int groups) {
    __m512 sums[MOST_ROWS][MOST_GROUPS];
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++) sums[r][g] = _mm512_setzero_ps();
    const uint16_t *weights = p->packed + column * p->inner, *in = p->in + row * p->inner;
    for (int64_t k = 0; k < p->inner; k += 2) {
        __m512bh pairs[MOST_GROUPS];
        for (int g = 0; g < groups; g++)
            pairs[g] = (__m512bh)_mm512_loadu_si512(weights + g * LANES * p->inner + k * LANES);
        for (int r = 0; r < rows; r++) {
            int32_t two;
            memcpy(&two, in + r * p->inner + k, sizeof two);
            __m512bh same = (__m512bh)_mm512_set1_epi32(two);
            for (int g = 0; g < groups; g++) sums[r][g] = _mm512_dpbf16_ps(sums[r][g], same, pairs[g]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++) store(p, sums[r][g], row + r, column + g * LANES);
}

static inline __attribute__((always_inline)) void all_rows(const struct product *p, int64_t column,
                                                           const int groups) {
    int64_t row = 0;
    for (; row + 6 <= p->rows; row += 6) tile(p, row, column, 6, groups);
    for (; row + 4 <= p->rows; row += 4) tile(p, row, column, 4, groups);
    for (; row + 2 <= p->rows; row += 2) tile(p, row, column, 2, groups);
    for (; row < p->rows; row++) tile(p, row, column, 1, groups);
}

void penstock_matmul(void *out, const uint16_t *in, const uint16_t *packed, const uint16_t *bias, int64_t rows,
                     int64_t columns, int64_t inner, int64_t is_wide) {
    const struct product p = {out, in, packed, bias, rows, columns, inner, is_wide};
    int64_t step = LANES * MOST_GROUPS, strips = (columns + step - 1) / step;
    /* Dynamic: a thread that another process has pushed off its core keeps one strip, not half of them. */
#pragma omp parallel for schedule(dynamic, 1) if (columns * inner > 65536)
    for (int64_t strip = 0; strip < strips; strip++) {
        int64_t column = strip * step;
        if (column + step <= columns)
            all_rows(&p, column, MOST_GROUPS);
        else
            for (; column < columns; column += LANES) all_rows(&p, column, 1);
    }
}

#else

int64_t penstock_has_matmul(void) { return 0; }

void penstock_matmul(void *out, const uint16_t *in, const uint16_t *packed, const uint16_t *bias, int64_t rows,
                     int64_t columns, int64_t inner, int64_t is_wide) {
    (void)out, (void)in, (void)packed, (void)bias, (void)rows, (void)columns, (void)inner, (void)is_wide;
}

#endif
