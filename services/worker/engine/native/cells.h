/* Keys and values in low precision, one cell or one head at a time: quantized_attention.c, for whoever runs many. */
#ifndef PENSTOCK_CELLS_H
#define PENSTOCK_CELLS_H

#include <stdint.h>

/* Where one layer's cells lie: [N, P, K, bytes], and how its attention reads them. `format` 0: no cells. */
struct cells {
    const uint8_t *keys, *values;
    int64_t format, bytes, block_size, num_query_heads, num_kv_heads, head_size, window;
    float scale, soft_cap;
};

/* in [D] bfloat16 -> one cell, and back. */
void penstock_write_cell(uint8_t *cell, const uint16_t *in, int64_t format, int64_t head_size);
void penstock_read_cell(uint16_t *out, const uint8_t *cell, int64_t format, int64_t head_size);

/* One kv head of one token: queries and out [H / K, D] bfloat16, `table` the blocks of its sequence. */
void penstock_attend_cells_of_head(uint16_t *out, const uint16_t *queries, const struct cells *cells,
                                   const int32_t *table, int64_t context, int64_t kv_head);

#endif
