/* Coded weights times many rows of 16 bits: a group of two strips is looked up once, into float32 that the first-level
 * cache holds, and multiplied with all rows as wide_tiles.c does; the same sums as quantized_table.c, bit by bit. */
#include "table_look_up.h"
#include "wide_tiles.h"

#if HAS_FAST_PRODUCTS

/* A piece of a group -> kept [depth, strips, 16] as wide_tiles.c wants it. */
INLINE void look_up_piece(float *kept, const struct strips *from, int64_t begin, int64_t depth,
                          const struct table *table, const int strips, const int bits) {
    const int pairs_of_word = 16 / bits, parts = strips * PARTS;
    for (int64_t k = 0; k < depth; k += 2 * pairs_of_word) {
        int64_t place = (begin + k) / (2 * pairs_of_word) * 64;
        for (int i = 0; i < parts; i++) {
            part values[4][2];
            look_up_words(values, table, from->packed[i / PARTS] + place + i % PARTS * 64 / PARTS, bits);
            for (int j = 0; j < pairs_of_word; j++) {
                float *to = kept + ((k + 2 * j) * parts + i) * FLOATS;
                store_part(to, values[j][1]);
                store_part(to + parts * FLOATS, values[j][0]);
            }
        }
    }
}

/* out [rows, count * 16] += a group's sums, scaled. */
static void add_scaled(float *out, const float *sums, const struct coded_product *p, const struct strips *from,
                       int64_t row, int64_t rows, int64_t group) {
    const struct coded *w = p->weights;
    int64_t parts = from->count * PARTS;
    for (int64_t i = 0; i < parts; i++) {
        int64_t index = (from->number[i / PARTS] * w->groups + group) * PARTS + i % PARTS;
        floats scales = load_scales(w->scales, index, w->is_half);
        floats offsets = w->offsets ? load_scales(w->offsets, index, w->is_half) : same_float(0.0f);
        for (int64_t r = 0; r < rows; r++) {
            float *own = out + (r * parts + i) * FLOATS;
            floats sum = add_product(load_floats(own), scales, load_floats(sums + (r * parts + i) * FLOATS));
            if (w->offsets) sum = add_product(sum, offsets, same_float(p->in.half_sums[(row + r) * w->groups + group]));
            memcpy(own, &sum, sizeof sum);
        }
    }
}

static void look_up_strips(float *kept, const struct table *table, int64_t bits, const struct strips *from,
                           int64_t held, int64_t begin, int64_t depth) {
    for (int64_t s = 0; s < from->count; s += held) {
        struct strips some = {.packed = {from->packed[s], from->packed[s + held - 1]}};
        float *own = kept + s * DEPTH * LANES;
        if (bits == 4 && held == 2)
            look_up_piece(own, &some, begin, depth, table, 2, 4);
        else if (bits == 4)
            look_up_piece(own, &some, begin, depth, table, 1, 4);
        else if (held == 2)
            look_up_piece(own, &some, begin, depth, table, 2, 8);
        else
            look_up_piece(own, &some, begin, depth, table, 1, 8);
    }
}

void penstock_table_block(float *out, const struct coded_product *p, const struct strips *from, int64_t row,
                          int64_t rows) {
    const struct coded *w = p->weights;
    _Alignas(64) float kept[2 * DEPTH * LANES], inputs[WIDE_ROWS * DEPTH], sums[TABLE_ROWS * 2 * LANES];
    struct table table = w->bits == 4 ? load_table(w->table, 4) : load_table(w->table, 8);
    const uint16_t *nothing[2] = {w->table, w->table}; /* to ask of memory meanwhile */
    const uint16_t *in = p->in.halves + row * w->padded;
    int64_t width = from->count * LANES, size = w->padded / w->groups;
    int64_t each = rows_of_pass(from->count, rows), held = held_groups(from->count, each);
    unsigned control = take_denormals_for_zeros();
    for (int64_t i = 0; i < rows * width; i++) out[i] = 0.0f;
    for (int64_t group = 0; group < w->groups; group++) {
        for (int64_t begin = 0; begin < size; begin += DEPTH) {
            int64_t depth = size - begin < DEPTH ? size - begin : DEPTH, place = group * size + begin;
            look_up_strips(kept, &table, w->bits, from, held, place, depth);
            for (int64_t r = 0; r < rows; r += each) {
                int64_t count = rows - r < each ? rows - r : each;
                const uint16_t *own = in + r * w->padded + place;
                penstock_widen(inputs, own, r + each < rows ? own + each * w->padded : in + place + depth, w->padded,
                               count, depth);
                for (int64_t s = 0; s < from->count; s += held) {
                    const struct piece piece = {
                        .weights = nothing, .kept = kept + s * DEPTH * LANES, .begin = begin, .depth = depth};
                    penstock_kept_tile(sums + r * width + s * LANES, width, inputs, &piece, count, held);
                }
            }
        }
        add_scaled(out, sums, p, from, row, rows, group);
    }
    for (int64_t i = 0; i < rows * width && w->bias; i++)
        out[i] += w->bias[from->number[i % width / LANES] * LANES + i % LANES];
    restore(control);
}

#else

void penstock_table_block(float *out, const struct coded_product *p, const struct strips *from, int64_t row,
                          int64_t rows) {
    (void)out, (void)p, (void)from, (void)row, (void)rows; /* never asked for: penstock_is_wide_faster() is 0 */
}

#endif
