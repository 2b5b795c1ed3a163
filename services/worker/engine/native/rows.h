/* The decoder's small operators on one row, and attention of one token, each as one pass over memory.
 *
 * Included once per element type: float32 (suffix _f32) and bfloat16 (_bf16), arithmetic always in float32, rounded
 * wherever separate operators of torch would round.
 */
#ifndef PENSTOCK_ROWS_H
#define PENSTOCK_ROWS_H

#include <math.h>

#include "attention_tiles.h"
#include "pairs.h"

#define ELEMENT float
#define IN_PAIRS(head_size) 0
#define NAME(name) name##_f32
#define LOAD(x) (x)
#define STORE(x) (x)
#include "rows.h"
#undef ELEMENT
#undef IN_PAIRS
#undef NAME
#undef LOAD
#undef STORE

#define ELEMENT uint16_t
#define IN_PAIRS(head_size) HAS_PAIRS(head_size)
#define NAME(name) name##_bf16
#define LOAD(x) from_bf16(x)
#define STORE(x) to_bf16(x)
#include "rows.h"
#undef ELEMENT
#undef IN_PAIRS
#undef NAME
#undef LOAD
#undef STORE

#elif defined(ELEMENT)

/* residual += update where there is one; out = residual / rms(residual) * weight. All [size]. */
static inline void NAME(norm_row)(ELEMENT *restrict out, ELEMENT *restrict x, const ELEMENT *restrict update,
                                  const ELEMENT *restrict weight, int64_t size, float epsilon) {
    if (update)
        for (int64_t i = 0; i < size; i++) x[i] = STORE(LOAD(x[i]) + LOAD(update[i]));
    float sum = 0.0f;
    for (int64_t i = 0; i < size; i++) sum += LOAD(x[i]) * LOAD(x[i]);
    float scale = 1.0f / sqrtf(sum / (float)size + epsilon);
    for (int64_t i = 0; i < size; i++) {
        ELEMENT normed = STORE(LOAD(x[i]) * scale);
        out[i] = STORE(LOAD(normed) * LOAD(weight[i]));
    }
}

/* in [2 * inner] -> out [inner]: activation(first half) * second half. */
static inline void NAME(gate_row)(ELEMENT *restrict out, const ELEMENT *restrict gate, int64_t inner,
                                  const int is_gelu) {
    const ELEMENT *up = gate + inner;
    for (int64_t i = 0; i < inner; i++) {
        float g = LOAD(gate[i]);
        ELEMENT activated = STORE(is_gelu ? gelu(g) : silu(g));
        out[i] = STORE(LOAD(activated) * LOAD(up[i]));
    }
}

/* x [head_size] -> y, its first rotary_size dimensions turned; `angles`: their cosines, then their sines. */
static inline void NAME(turn_head)(ELEMENT *restrict y, const ELEMENT *restrict x, const float *restrict angles,
                                   int64_t head_size, int64_t rotary_size) {
    int64_t half = rotary_size / 2;
    const float *cosines = angles, *sines = angles + half;
    for (int64_t i = 0; i < half; i++) {
        float first = LOAD(x[i]), second = LOAD(x[i + half]);
        y[i] = STORE(first * cosines[i] - second * sines[i]);
        y[i + half] = STORE(second * cosines[i] + first * sines[i]);
    }
    for (int64_t i = rotary_size; i < head_size; i++) y[i] = x[i];
}

/* One kv head of one token: q [group, D], keys and values [N, P, K, D] from that head on, read where they lie ->
 * out [group, D]. Softmax in one pass over tiles (Milakov and Gimelshein 2018; Dao et al. 2022). */
static inline void NAME(attend_token)(ELEMENT *restrict out, const ELEMENT *restrict q, const ELEMENT *restrict keys,
                                      const ELEMENT *restrict values, const int32_t *restrict table,
                                      int64_t context, int64_t block_size, int64_t row_size, int64_t group,
                                      int64_t head_size, int64_t window, float scale, float soft_cap) {
    float query[MAX_GROUP * MAX_HEAD_SIZE], sum[MAX_GROUP * MAX_HEAD_SIZE];
    float weights[MAX_GROUP * TILE], row[MAX_HEAD_SIZE], largest[MAX_GROUP], total[MAX_GROUP];
    const int is_in_pairs = IN_PAIRS(head_size);
    for (int64_t i = 0; i < group * head_size; i++) query[i] = LOAD(q[i]) * scale, sum[i] = 0.0f;
    for (int64_t g = 0; g < group; g++) largest[g] = -INFINITY, total[g] = 0.0f;
    int64_t first = window > 0 && context > window ? context - window : 0;
    for (int64_t start = first; start < context; start += TILE) {
        int64_t count = context - start < TILE ? context - start : TILE;
        int64_t cells[TILE];
        for (int64_t j = 0; j < count; j++) {
            int64_t position = start + j;
            cells[j] = (table[position / block_size] * block_size + position % block_size) * row_size;
        }
        if (is_in_pairs)
            scores_in_pairs(weights, query, (const uint16_t *)keys, cells, count, group, head_size);
        for (int64_t j = 0; j < count && !is_in_pairs; j++) {
            for (int64_t d = 0; d < head_size; d++) row[d] = LOAD(keys[cells[j] + d]);
            for (int64_t g = 0; g < group; g++) {
                float dot = 0.0f;
                for (int64_t d = 0; d < head_size; d++) dot += query[g * head_size + d] * row[d];
                weights[g * TILE + j] = dot;
            }
        }
        for (int64_t i = 0; i < group * TILE && soft_cap > 0.0f; i++)
            if (i % TILE < count) weights[i] = soft_cap * tanhf(weights[i] / soft_cap);
        for (int64_t g = 0; g < group; g++) {
            float *own = weights + g * TILE;
            /* The next tile's rows lie anywhere: asked for now, a few with every head, they are there in time. */
            for (int64_t j = g * TILE / group; j < (g + 1) * TILE / group && start + TILE + j < context; j++) {
                int64_t position = start + TILE + j;
                int64_t cell = (table[position / block_size] * block_size + position % block_size) * row_size;
                for (int64_t d = 0; d < head_size; d += 64 / (int64_t)sizeof(ELEMENT)) {
                    __builtin_prefetch(keys + cell + d);
                    __builtin_prefetch(values + cell + d);
                }
            }
            for (int64_t j = count; j < TILE; j++) own[j] = -INFINITY;
            float found = largest_of_tile(own), peak = found > largest[g] ? found : largest[g];
            /* All scores so far NaN: the output must be one, too, not a quiet zero. */
            float shrink = peak == largest[g] ? 1.0f : exponential(largest[g] - peak);
            float added = 0.0f;
            for (int64_t j = 0; j < TILE; j++) {
                own[j] = exponential(own[j] - peak);
                added += own[j]; /* of what is not there 1e-38 */
            }
            total[g] = total[g] * shrink + added;
            largest[g] = peak;
            for (int64_t d = 0; d < head_size && shrink != 1.0f; d++) sum[g * head_size + d] *= shrink;
        }
        if (is_in_pairs)
            add_weighted_values(sum, weights, (const uint16_t *)values, cells, count, group, head_size);
        for (int64_t j = 0; j < count && !is_in_pairs; j++) {
            for (int64_t d = 0; d < head_size; d++) row[d] = LOAD(values[cells[j] + d]);
            for (int64_t g = 0; g < group; g++) {
                float weight = weights[g * TILE + j];
                for (int64_t d = 0; d < head_size; d++) sum[g * head_size + d] += weight * row[d];
            }
        }
    }
    for (int64_t g = 0; g < group; g++)
        for (int64_t d = 0; d < head_size; d++) out[g * head_size + d] = STORE(sum[g * head_size + d] / total[g]);
}

#endif
