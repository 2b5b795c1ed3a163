/* The decoder's small operators and paged attention on CPU, each as one parallel loop over rows: see rows.h.
 *
 * A plain C interface: pointers and sizes, no torch headers, so that it builds in seconds with any C compiler and does
 * not depend on torch's C++ ABI. This file includes itself once per element type. Legend as in the Python code: T
 * tokens, S sequences, H query heads, K kv heads, D head size, N blocks, P positions per block, B longest block table.
 */
#ifndef ELEMENT

#include "rows.h"

int64_t penstock_interface_version(void) { return 8; }

#define ELEMENT float
#define NAME(name) name##_f32
#include "kernels.c"
#undef ELEMENT
#undef NAME

#define ELEMENT uint16_t
#define NAME(name) name##_bf16
#include "kernels.c"

#else

/* All [rows, size]; `update` may be NULL. */
void NAME(add_rms_norm)(ELEMENT *restrict out, ELEMENT *restrict residual, const ELEMENT *restrict update,
                        const ELEMENT *restrict weight, int64_t rows, int64_t size, float epsilon) {
#pragma omp parallel for if (rows * size > 65536)
    for (int64_t row = 0; row < rows; row++)
        NAME(norm_row)(out + row * size, residual + row * size, update ? update + row * size : NULL, weight, size,
                       epsilon);
}

/* in [T, 2 * inner] -> out [T, inner]: silu(first half) * second half. */
void NAME(silu_multiply)(ELEMENT *restrict out, const ELEMENT *restrict in, int64_t rows, int64_t inner) {
#pragma omp parallel for if (rows * inner > 65536)
    for (int64_t row = 0; row < rows; row++) NAME(gate_row)(out + row * inner, in + row * 2 * inner, inner, 0);
}

/* The same with gelu's tanh approximation. */
void NAME(gelu_multiply)(ELEMENT *restrict out, const ELEMENT *restrict in, int64_t rows, int64_t inner) {
#pragma omp parallel for if (rows * inner > 65536)
    for (int64_t row = 0; row < rows; row++) NAME(gate_row)(out + row * inner, in + row * 2 * inner, inner, 1);
}

/* projected [T, (H + 2K) * D] -> queries [T, H, D] turned; keys turned and values into their slots, [N * P, K, D].
 * table [positions, R]: cosines of the R / 2 angles, then sines; the dimensions of a head from R on pass. */
void NAME(rotate_and_store)(ELEMENT *restrict queries, const ELEMENT *restrict projected,
                            const float *restrict table, ELEMENT *restrict keys, ELEMENT *restrict values,
                            const int64_t *restrict positions, const int64_t *restrict slots, int64_t tokens,
                            int64_t num_query_heads, int64_t num_kv_heads, int64_t head_size, int64_t rotary_size) {
    int64_t row_size = (num_query_heads + 2 * num_kv_heads) * head_size, kv_size = num_kv_heads * head_size;
#pragma omp parallel for if (tokens * row_size > 65536)
    for (int64_t t = 0; t < tokens; t++) {
        const float *angles = table + positions[t] * rotary_size;
        const ELEMENT *row = projected + t * row_size;
        ELEMENT *own_queries = queries + t * num_query_heads * head_size, *own_keys = keys + slots[t] * kv_size;
        for (int64_t h = 0; h < num_query_heads + num_kv_heads; h++)
            NAME(turn_head)(h < num_query_heads ? own_queries + h * head_size
                                                : own_keys + (h - num_query_heads) * head_size,
                            row + h * head_size, angles, head_size, rotary_size);
        memcpy(values + slots[t] * kv_size, row + row_size - kv_size, (size_t)kv_size * sizeof(ELEMENT));
    }
}

/* One new token per sequence: queries [S, H, D], keys and values [N, P, K, D], read where they lie -> out [S, H, D].
 * A token sees `window` tokens, itself included, or all if that is 0. Scores pass soft_cap * tanh(score / soft_cap)
 * unless that is 0. */
void NAME(paged_attention)(ELEMENT *restrict out, const ELEMENT *restrict queries, const ELEMENT *restrict keys,
                           const ELEMENT *restrict values, const int32_t *restrict block_tables,
                           const int32_t *restrict context_lengths, int64_t sequences, int64_t table_size,
                           int64_t block_size, int64_t num_query_heads, int64_t num_kv_heads,
                           int64_t head_size, int64_t window, float scale, float soft_cap) {
    int64_t group = num_query_heads / num_kv_heads, row_size = num_kv_heads * head_size;
#pragma omp parallel for schedule(dynamic) if (sequences * num_kv_heads > 1)
    for (int64_t task = 0; task < sequences * num_kv_heads; task++) {
        int64_t s = task / num_kv_heads, kv_head = task % num_kv_heads;
        int64_t place = (s * num_query_heads + kv_head * group) * head_size;
        NAME(attend_token)(out + place, queries + place, keys + kv_head * head_size, values + kv_head * head_size,
                           block_tables + s * table_size, context_lengths[s], block_size, row_size, group, head_size,
                           window, scale, soft_cap);
    }
}

#endif
