/* Matrix products with coded weights, as a team's loop or inside of one: integers with inputs of 8 bits
 * (quantized_integer.c), or codes that are looked up and inputs of 16 bits (quantized_table.c).
 *
 * An output is a sum over groups, in their order in every tile: a row's result does not depend on the rows beside it,
 * nor on the number of threads.
 */
#ifndef PENSTOCK_QUANTIZED_PRODUCTS_H
#define PENSTOCK_QUANTIZED_PRODUCTS_H

#include "matmul.h"

/* A matrix; how it lies is said in models/kernel_layout.py and by the two files. */
struct coded {
    const uint8_t *packed;
    const uint16_t *table;       /* NULL: integers */
    const void *scales, *offsets; /* offsets NULL: all 0 */
    const float *bias;           /* [columns rounded up to 64], or NULL */
    const int64_t *order;        /* [inner]: which input each inner value takes, or NULL: in order */
    int64_t columns, inner, padded, groups, scale_groups, zero, bits, is_half, expand_from_rows;
};

/* Rows as the products read them, from `prepare_row`. */
struct coded_inputs {
    int8_t *codes;    /* [rows, padded]: integers */
    float *scales;    /* [rows, groups] */
    int32_t *sums;    /* [rows, groups] */
    uint16_t *halves; /* [rows, padded]: looked up */
    float *half_sums; /* [rows, groups]: where there are offsets */
};

struct coded_product {
    void *out;
    const struct coded *weights;
    struct coded_inputs in;
    int64_t rows, is_wide;
};

/* The columns of a tile: where 16 of them begin, what is asked of memory meanwhile, and their numbers. */
#define MOST_STRIPS 4
#define MOST_PARTS (MOST_STRIPS * PARTS)
struct strips {
    const uint8_t *packed[MOST_STRIPS], *following[MOST_STRIPS];
    int64_t number[MOST_STRIPS], count;
    int is_expanded;
};

/* A tile has 1, 2, 3, 4, 6 or 8 rows of 2 strips, or 1 row of 4: its sums fit the registers. */
#define MOST_ROWS 8

/* sums [rows, count * 16], bias added. */
void penstock_integer_tile(float *sums, const struct coded_product *p, const struct strips *strips, int64_t row,
                           int64_t rows);
void penstock_table_tile(float *sums, const struct coded_product *p, const struct strips *strips, int64_t row,
                         int64_t rows);

/* The same for up to TABLE_ROWS rows of two strips, each of them looked up once; only where products are float32. */
#define TABLE_ROWS 64
void penstock_table_block(float *sums, const struct coded_product *p, const struct strips *strips, int64_t row,
                          int64_t rows);

/* Looks 16 columns up: `buffer` [inner, 16] bfloat16 in pairs; 0 where that is of no use. */
int64_t penstock_expand(uint8_t *buffer, const struct coded *weights, const uint8_t *packed);

/* in [rows, inner] bfloat16 -> sums of every group, [rows, groups]. */
void penstock_group_sums(float *sums, const uint16_t *in, int64_t rows, int64_t inner, int64_t groups);

/* in [inner] bfloat16 -> row `row` of `to`. */
void penstock_prepare_row(const struct coded_inputs *to, const struct coded *weights, const uint16_t *in, int64_t row);

/* A thread's part, without the meeting at its end. `scratch`: memory to expand a strip in, or NULL; see matmul.h. */
void penstock_multiply_coded(const struct coded_product *p, struct team *team, int64_t thread, struct largest *best,
                             enum epilogue epilogue, uint8_t *scratch);

#endif
