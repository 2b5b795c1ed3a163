/* Which thread multiplies which columns and rows by coded weights, and what becomes of the sums. */
#include <stdlib.h>

#include "quantized_products.h"

static int is_gated(enum epilogue epilogue) { return epilogue == STORE_SILU || epilogue == STORE_GELU; }

static int64_t strip_bytes(const struct coded *w) { return w->padded * LANES * w->bits / 8; }

/* `count` strips from `column` on, of gated products half of them from the second half of the columns. */
static struct strips choose(const struct coded *w, int64_t column, int64_t next, int64_t count, int gated,
                            uint8_t *scratch) {
    struct strips strips = {.count = count};
    for (int64_t s = 0; s < count; s++) {
        int is_partner = gated && s >= count / 2;
        int64_t place = is_partner ? w->columns / 2 + (s - count / 2) * LANES : s * LANES;
        strips.number[s] = (column + place) / LANES;
        strips.packed[s] = w->packed + strips.number[s] * strip_bytes(w);
        strips.following[s] = w->packed + (next + place) / LANES * strip_bytes(w);
        if (scratch == NULL || penstock_is_wide_faster()) continue;
        uint8_t *own = scratch + s * w->padded * LANES * 2;
        strips.is_expanded = penstock_expand(own, w, strips.packed[s]) != 0;
        if (strips.is_expanded) strips.packed[s] = own;
    }
    return strips;
}

/* 5 rows are 3 and 2, 7 are 4 and 3. */
static int64_t rows_of_tile(int64_t left) {
    static const int64_t own[] = {0, 1, 2, 3, 4, 3, 6, 4};
    return left >= MOST_ROWS ? MOST_ROWS : own[left];
}

static void multiply_strips(const struct coded_product *p, int64_t column, int64_t next, int64_t count,
                            struct largest *best, enum epilogue epilogue, uint8_t *scratch) {
    const struct coded *w = p->weights;
    struct strips strips = choose(w, column, next, count, is_gated(epilogue), scratch);
    const struct product finished = {p->out, NULL, NULL, NULL, p->rows, w->columns, w->padded, p->is_wide};
    int is_shared = scratch != NULL && penstock_is_wide_faster() && p->rows > 1;
    for (int64_t row = 0, rows; row < p->rows; row += rows) {
        _Alignas(64) float sums[TABLE_ROWS * 2 * LANES];
        int64_t left = p->rows - row;
        rows = !is_shared ? rows_of_tile(left) : left < TABLE_ROWS ? left : TABLE_ROWS;
        if (is_shared)
            penstock_table_block(sums, p, &strips, row, rows);
        else if (w->table)
            penstock_table_tile(sums, p, &strips, row, rows);
        else
            penstock_integer_tile(sums, p, &strips, row, rows);
        if (row == 0)
            for (int64_t s = 0; s < count; s++) strips.following[s] = NULL;
        penstock_finish_rows(&finished, sums, row, rows, column, count, best, epilogue);
    }
}

void penstock_multiply_coded(const struct coded_product *p, struct team *team, int64_t thread, struct largest *best,
                             enum epilogue epilogue, uint8_t *scratch) {
    const struct coded *w = p->weights;
    int gated = is_gated(epilogue);
    int64_t columns = gated ? w->columns / 2 : w->columns, halves = gated ? 2 : 1;
    /* Of few wide tiles the threads would get unequal shares. */
    int is_wide = p->rows == 1 && w->columns / (MOST_STRIPS * LANES) >= 8 * team->size;
    int64_t count = is_wide ? MOST_STRIPS : MOST_STRIPS / 2, width = count / halves * LANES;
    int64_t blocks = (columns + width - 1) / width, block = thread;
    while (block < blocks) {
        int64_t next = claim(team), column = block * width, ahead = next < blocks ? next * width : column;
        if (column + width <= columns || !gated)
            multiply_strips(p, column, ahead, count, best, epilogue, scratch);
        else
            for (; column < columns; column += LANES)
                multiply_strips(p, column, column, halves, best, epilogue, scratch);
        block = next;
    }
}

/* Memory for one thread's expanded strips; NULL does as well. */
static uint8_t *scratch_for(const struct coded *w, int64_t rows) {
    if (w->table == NULL || rows < w->expand_from_rows) return NULL;
    return aligned_alloc(64, (size_t)(w->padded * MOST_STRIPS * LANES * 2));
}

void penstock_coded_matmul(void *out, const struct coded *weights, const struct coded_inputs *in, int64_t rows,
                           int64_t is_wide) {
    const struct coded_product p = {out, weights, *in, rows, is_wide};
    struct team team = {.size = 1};
#pragma omp parallel if (weights->columns * weights->inner > 65536)
    {
#pragma omp single
        team.size = team_size();
        uint8_t *scratch = scratch_for(weights, rows);
        penstock_multiply_coded(&p, &team, own_number(), NULL, STORE_SUMS, scratch);
        free(scratch);
    }
}

/* As penstock_largest of matmul.c. `scratch`: [threads, rows] of struct largest. */
void penstock_coded_largest(int64_t *out, struct largest *scratch, const struct coded *weights,
                            const struct coded_inputs *in, int64_t rows) {
    const struct coded_product p = {NULL, weights, *in, rows, 0};
    struct team team = {.size = 1};
#pragma omp parallel if (weights->columns * weights->inner > 65536)
    {
#pragma omp single
        team.size = team_size();
        struct largest *best = scratch + own_number() * rows;
        penstock_begin_largest(best, rows);
        penstock_multiply_coded(&p, &team, own_number(), best, KEEP_LARGEST, NULL);
    }
    penstock_end_largest(out, scratch, team.size, rows);
}

/* in [rows, inner] bfloat16 -> `to`. */
void penstock_prepare_rows(const struct coded_inputs *to, const struct coded *weights, const uint16_t *in,
                           int64_t rows) {
#pragma omp parallel for if (rows * weights->inner > 65536)
    for (int64_t row = 0; row < rows; row++) penstock_prepare_row(to, weights, in + row * weights->inner, row);
}
