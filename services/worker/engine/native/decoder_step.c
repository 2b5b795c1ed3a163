/* All layers of a bfloat16 decoder in one parallel region: a step's hidden states from its embeddings. Its matrices may
 * be coded ones (quantized_products.h).
 *
 * What one loop leaves is the next one's input, so the threads meet after each (team.h); nothing else is between two
 * loops: no call from Python, no start of threads, no allocation. Legend as in kernels.c. Rounded where the separate
 * operators round, so that a step of single tokens is theirs bit by bit.
 */
#include <time.h>

#include "chunk_attention.h"
#include "quantized_products.h"
#include "rows.h"

struct linear {
    const uint16_t *packed, *bias;
    int64_t columns, inner;
    const struct coded *coded; /* instead of `packed` and `bias`, or NULL */
};

struct layer {
    const uint16_t *input_norm, *inner_norm;
    const uint16_t *query_norm, *key_norm; /* [D], or NULL */
    struct linear query_key_value, output, gate_up, down;
    const float *angles; /* [positions, rotary_size] */
    uint8_t *keys, *values; /* [N, P, K, D] bfloat16, or [N, P, K, cell_bytes] of `cell_format` */
    const float *frame;     /* [K, 3, D], or NULL: see attention/key_frame.py */
    int64_t rotary_size, window, layout, cell_format, cell_bytes;
    float scale, soft_cap;
};

/* Where the step's tokens lie in the blocks of some of the layers. */
struct layout {
    const int64_t *slots;        /* [T] */
    const int32_t *block_tables; /* [S, table_size] */
    int64_t table_size;
};

struct step {
    const struct layout *layouts;
    const int64_t *positions;       /* [T] */
    const int32_t *context_lengths; /* [S] */
    const int32_t *query_starts;    /* [S + 1] */
    uint16_t *residual;             /* [T, hidden]: embeddings in, the last layer's output out */
    uint16_t *normed;               /* [T, hidden] */
    uint16_t *projected;            /* [T, (H + 2K) * D] */
    uint16_t *queries, *attended;   /* [T, H * D] */
    uint16_t *update;               /* [T, hidden] */
    uint16_t *gated;                /* [T, inner] */
    struct coded_inputs coded;      /* rows of whatever a coded matrix multiplies next */
    uint8_t *scratch;               /* [threads, scratch_bytes], or NULL: see quantized_products.h */
    double *seconds;                /* [NUM_PARTS] to add to, or NULL: the first thread's processor time */
    int64_t tokens, sequences, singles, block_size, scratch_bytes;
    int64_t runs; /* of singles: those of one sequence, which see each other, count once */
};

enum part { NORMS, QUERY_KEY_VALUE, ATTENTION, OUTPUT, GATE_UP, DOWN, NUM_PARTS };

struct decoder {
    const struct layer *layers;
    int64_t num_layers, hidden, num_query_heads, num_kv_heads, head_size, inner, is_gelu;
    float epsilon;
};

/* What the first thread has used since it was last asked, waiting for others included, goes to `part`. */
static void charge(const struct step *s, int64_t thread, enum part part, double *since) {
    if (thread != 0 || s->seconds == NULL) return;
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    double now = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
    if (part < NUM_PARTS) s->seconds[part] += now - *since;
    *since = now;
}

/* A row as `linear` reads it; bfloat16 weights read it where it lies. */
static void prepare(const struct step *s, const struct linear *linear, const uint16_t *in, int64_t row) {
    if (linear->coded) penstock_prepare_row(&s->coded, linear->coded, in + row * linear->inner, row);
}

static void prepare_rows(const struct step *s, const struct linear *linear, const uint16_t *in, struct team *team,
                         int64_t thread) {
    if (linear->coded == NULL) return;
    FOR_CLAIMED(row, s->tokens, team, thread) prepare(s, linear, in, row);
    meet(team);
}

/* ... and as `next` reads them. */
static void norm_rows(const struct decoder *d, const struct step *s, struct team *team, int64_t thread,
                      const uint16_t *update, const uint16_t *weight, const struct linear *next) {
    int64_t size = d->hidden;
    FOR_CLAIMED(row, s->tokens, team, thread) {
        norm_row_bf16(s->normed + row * size, s->residual + row * size, update ? update + row * size : NULL, weight, size,
                      d->epsilon);
        prepare(s, next, s->normed, row);
    }
    meet(team);
}

static void apply(const struct step *s, const struct linear *linear, uint16_t *out, const uint16_t *in,
                  struct team *team, int64_t thread, enum epilogue epilogue) {
    if (linear->coded) {
        int is_expanded = s->scratch != NULL && s->tokens >= linear->coded->expand_from_rows;
        const struct coded_product p = {out, linear->coded, s->coded, s->tokens, 0};
        penstock_multiply_coded(&p, team, thread, NULL, epilogue,
                                is_expanded ? s->scratch + thread * s->scratch_bytes : NULL);
    } else {
        const struct product p = {out, in, linear->packed, linear->bias, s->tokens, linear->columns, linear->inner, 0};
        penstock_multiply(&p, team, thread, NULL, epilogue);
    }
    meet(team);
}

/* A head as projected -> normalised where the model does, turned. */
static void turn(uint16_t *out, uint16_t *x, const uint16_t *norm, const float *angles, const struct decoder *d,
                 const struct layer *l) {
    uint16_t normed[MAX_HEAD_SIZE];
    if (norm) norm_row_bf16(normed, x, NULL, norm, d->head_size, d->epsilon);
    turn_head_bf16(out, norm ? normed : x, angles, d->head_size, l->rotary_size);
}

/* A head into its frame: what KeyFrame.keys and .queries do. */
static void move_key(uint16_t *key, const float *frame, int64_t size) {
    for (int64_t i = 0; i < size; i++) key[i] = to_bf16((from_bf16(key[i]) - frame[i]) * frame[size + i]);
}

static void stretch_query(uint16_t *query, const float *frame, int64_t size) {
    for (int64_t i = 0; i < size; i++) query[i] = to_bf16(from_bf16(query[i]) * frame[2 * size + i]);
}

/* Of one key or value of one head. */
static int64_t row_bytes(const struct decoder *d, const struct layer *l) {
    return l->cell_format ? l->cell_bytes : d->head_size * 2;
}

/* One kv head of one token and the queries that go with it: keys and values into the cache, queries turned. */
static void place_head(const struct decoder *d, const struct layer *l, const struct step *s, int64_t token,
                       int64_t kv_head) {
    int64_t size = d->head_size, group = d->num_query_heads / d->num_kv_heads;
    uint16_t *row = s->projected + token * (d->num_query_heads + 2 * d->num_kv_heads) * size;
    uint16_t *queries = s->queries + token * d->num_query_heads * size;
    const float *angles = l->angles + s->positions[token] * l->rotary_size;
    int64_t cell = (s->layouts[l->layout].slots[token] * d->num_kv_heads + kv_head) * row_bytes(d, l);
    const uint16_t *value = row + (d->num_query_heads + d->num_kv_heads + kv_head) * size;
    uint16_t key[MAX_HEAD_SIZE];
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; h++)
        turn(queries + h * size, row + h * size, l->query_norm, angles, d, l);
    turn(key, row + (d->num_query_heads + kv_head) * size, l->key_norm, angles, d, l);
    if (l->frame) {
        const float *frame = l->frame + kv_head * 3 * size;
        move_key(key, frame, size);
        for (int64_t h = kv_head * group; h < (kv_head + 1) * group; h++) stretch_query(queries + h * size, frame, size);
    }
    if (l->cell_format) {
        penstock_write_cell(l->keys + cell, key, l->cell_format, size);
        penstock_write_cell(l->values + cell, value, l->cell_format, size);
    } else {
        memcpy(l->keys + cell, key, (size_t)size * 2);
        memcpy(l->values + cell, value, (size_t)size * 2);
    }
}

static void attend_single(const struct decoder *d, const struct layer *l, const struct step *s, int64_t sequence,
                          int64_t kv_head) {
    const struct layout *layout = s->layouts + l->layout;
    int64_t size = d->head_size, group = d->num_query_heads / d->num_kv_heads;
    int64_t place = (sequence * d->num_query_heads + kv_head * group) * size;
    const int32_t *table = layout->block_tables + sequence * layout->table_size;
    int64_t context = s->context_lengths[sequence];
    if (l->cell_format) {
        const struct cells cells = {l->keys,  l->values,          l->cell_format,  l->cell_bytes, s->block_size,
                                    d->num_query_heads, d->num_kv_heads, size, l->window, l->scale, l->soft_cap};
        penstock_attend_cells_of_head(s->attended + place, s->queries + place, &cells, table, context, kv_head);
        return;
    }
    const uint16_t *keys = (const uint16_t *)(const void *)l->keys, *values = (const uint16_t *)(const void *)l->values;
    attend_token_bf16(s->attended + place, s->queries + place, keys + kv_head * size, values + kv_head * size, table,
                      context, s->block_size, d->num_kv_heads * size, group, size, l->window, l->scale, l->soft_cap);
}

static void attend_part(const struct decoder *d, const struct layer *l, const struct step *s, int64_t sequence,
                        int64_t kv_head, int64_t begin, int64_t most) {
    const struct layout *layout = s->layouts + l->layout;
    int64_t size = d->head_size, group = d->num_query_heads / d->num_kv_heads;
    int64_t token = s->query_starts[sequence] + begin, left = s->query_starts[sequence + 1] - token;
    int64_t place = (token * d->num_query_heads + kv_head * group) * size;
    int64_t own = row_bytes(d, l);
    const struct paged paged = {l->keys + kv_head * own, l->values + kv_head * own,
                                layout->block_tables + sequence * layout->table_size, s->block_size,
                                d->num_kv_heads * own, l->cell_format};
    const struct chunk chunk = {left < most ? left : most, s->positions[token], group, size,
                                d->num_query_heads * size, l->window, l->scale, l->soft_cap};
    attend_chunk(s->attended + place, s->queries + place, &paged, &chunk);
}

static void attend(const struct decoder *d, const struct layer *l, const struct step *s, struct team *team,
                   int64_t thread) {
    int64_t heads = d->num_kv_heads, most = CHUNK_ROWS / (d->num_query_heads / heads), parts = 0;
    /* Tokens of one sequence see each other: all are in the cache before any of them looks. */
    int64_t placed = s->runs < s->singles ? 0 : s->singles;
    if (s->tokens > placed) {
        FOR_CLAIMED(i, (s->tokens - placed) * heads, team, thread)
            place_head(d, l, s, placed + i / heads, i % heads);
        meet(team);
        for (int64_t i = s->singles; i < s->sequences; i++)
            parts += (s->query_starts[i + 1] - s->query_starts[i] + most - 1) / most * heads;
    }
    FOR_CLAIMED(task, parts + s->singles * heads, team, thread) {
        if (task >= parts) {
            int64_t sequence = (task - parts) / heads, kv_head = (task - parts) % heads;
            if (sequence < placed) place_head(d, l, s, sequence, kv_head);
            attend_single(d, l, s, sequence, kv_head);
            continue;
        }
        int64_t sequence = s->singles, part = task / heads;
        for (;; sequence++) {
            int64_t own = (s->query_starts[sequence + 1] - s->query_starts[sequence] + most - 1) / most;
            if (part < own) break;
            part -= own;
        }
        attend_part(d, l, s, sequence, task % heads, part * most, most);
    }
    meet(team);
}

static void run_layer(const struct decoder *d, const struct layer *l, const struct step *s, struct team *team,
                      int64_t thread, int is_first) {
    double since = 0.0;
    charge(s, thread, NUM_PARTS, &since);
    norm_rows(d, s, team, thread, is_first ? NULL : s->update, l->input_norm, &l->query_key_value);
    charge(s, thread, NORMS, &since);
    apply(s, &l->query_key_value, s->projected, s->normed, team, thread, STORE_SUMS);
    charge(s, thread, QUERY_KEY_VALUE, &since);
    attend(d, l, s, team, thread);
    charge(s, thread, ATTENTION, &since);
    prepare_rows(s, &l->output, s->attended, team, thread);
    apply(s, &l->output, s->update, s->attended, team, thread, STORE_SUMS);
    charge(s, thread, OUTPUT, &since);
    norm_rows(d, s, team, thread, s->update, l->inner_norm, &l->gate_up);
    charge(s, thread, NORMS, &since);
    apply(s, &l->gate_up, s->gated, s->normed, team, thread, d->is_gelu ? STORE_GELU : STORE_SILU);
    charge(s, thread, GATE_UP, &since);
    prepare_rows(s, &l->down, s->gated, team, thread);
    apply(s, &l->down, s->update, s->gated, team, thread, STORE_SUMS);
    charge(s, thread, DOWN, &since);
}

void penstock_decoder_step(const struct decoder *d, const struct step *s) {
    struct team team = {.size = 1};
#pragma omp parallel
    {
#pragma omp single
        team.size = team_size();
        int64_t thread = own_number();
        for (int64_t i = 0; i < d->num_layers; i++) run_layer(d, d->layers + i, s, &team, thread, i == 0);
        FOR_CLAIMED(row, s->tokens, &team, thread)
            for (int64_t j = row * d->hidden; j < (row + 1) * d->hidden; j++)
                s->residual[j] = to_bf16(from_bf16(s->residual[j]) + from_bf16(s->update[j]));
    }
}
