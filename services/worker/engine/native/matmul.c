/* Products of matrices, by strips of columns; and what else knows how packed weights lie. See matmul.h. */
#include "matmul.h"

#define MOST_TALL_ROWS 24
#define STREAM_AHEAD 2048 /* numbers of each group: the processor's own prefetching stops at the end of a page */

int64_t penstock_has_pair_products(void) { return HAS_PAIR_PRODUCTS; }

/* `rows` x `groups` * 16 sums in registers; both are constants where it is called. */
INLINE void tile(float *sums, const uint16_t *in, int64_t stride, const uint16_t *const *weights,
                 const uint16_t *const *ahead, int64_t inner, const int rows, const int groups) {
    lanes own[TALL_ROWS][GROUPS];
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++) own[r][g] = no_lanes();
    for (int64_t k = 0; k < inner; k += 2) {
        pairs w[GROUPS];
        for (int g = 0; g < groups; g++) {
            w[g] = load_pairs(weights[g] + k * LANES);
            if (ahead) __builtin_prefetch(ahead[g] + k * LANES, 0, 2);
        }
        for (int r = 0; r < rows; r++) {
            pairs same = same_pair(in + r * stride + k);
            for (int g = 0; g < groups; g++) own[r][g] = add_products(own[r][g], same, w[g]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++) memcpy(sums + (r * groups + g) * LANES, &own[r][g], sizeof own[r][g]);
}

#define CASE(rows, groups)                                                                                             \
    case (rows) * 8 + (groups):                                                                                        \
        tile(sums, in, stride, weights, ahead, inner, (rows) <= TALL_ROWS ? (rows) : 1, groups);                       \
        break;
#define CASES(rows) CASE(rows, 1) CASE(rows, 2) CASE(rows, 3) CASE(rows, 4)

void penstock_tile(float *sums, const uint16_t *in, int64_t stride, const uint16_t *const *weights,
                   const uint16_t *const *ahead, int64_t inner, int64_t rows, int64_t groups) {
    if (!ahead && rows == TILE_ROWS && groups == GROUPS) {
        tile(sums, in, stride, weights, NULL, inner, TILE_ROWS, GROUPS);
        return;
    }
    if (!ahead && rows == TALL_ROWS && groups == TALL_GROUPS) {
        tile(sums, in, stride, weights, NULL, inner, TALL_ROWS, TALL_GROUPS);
        return;
    }
    ahead = ahead ? ahead : weights;
    switch (rows * 8 + groups) {
        CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6)
        CASE(7, 1) CASE(7, 2) CASE(7, 3) CASE(8, 1) CASE(8, 2) CASE(8, 3)
    }
}

static void add_bias(const struct product *p, float *sums, int64_t column, int64_t count) {
    for (int64_t i = 0; i < count && p->bias; i++) sums[i] += from_bf16(p->bias[column + i]);
}

static void store_sums(const struct product *p, float *sums, int64_t row, int64_t column, int64_t width) {
    int64_t count = p->columns - column < width ? p->columns - column : width, place = row * p->columns + column;
    add_bias(p, sums, column, count);
    if (p->is_wide)
        memcpy((float *)p->out + place, sums, (size_t)count * sizeof(float));
    else
        for (int64_t i = 0; i < count; i++) ((uint16_t *)p->out)[place + i] = to_bf16(sums[i]);
}

static void store_gated(const struct product *p, float *sums, float *up, int64_t row, int64_t column, int64_t width,
                        const int is_gelu) {
    int64_t half = p->columns / 2;
    uint16_t *out = (uint16_t *)p->out + row * half + column;
    add_bias(p, sums, column, width);
    add_bias(p, up, column + half, width);
    for (int64_t i = 0; i < width; i++) {
        float gate = from_bf16(to_bf16(sums[i]));
        out[i] = to_bf16(from_bf16(to_bf16(is_gelu ? gelu(gate) : silu(gate))) * from_bf16(to_bf16(up[i])));
    }
}

static void keep_largest(const struct product *p, struct largest *best, const float *sums, int64_t column,
                         int64_t width) {
    int64_t count = p->columns - column < width ? p->columns - column : width;
    float peak = -__builtin_inff();
    int32_t is_broken = 0;
    for (int64_t i = 0; i < count; i++) {
        is_broken |= !(sums[i] <= 3.4028234e38f);
        peak = sums[i] > peak ? sums[i] : peak;
    }
    best->is_broken |= is_broken;
    if (!(peak > best->value)) return;
    best->value = peak;
    for (int64_t i = count - 1; i >= 0; i--)
        if (sums[i] == peak) best->column = (int32_t)(column + i);
}

static int is_gated(enum epilogue epilogue) { return epilogue == STORE_SILU || epilogue == STORE_GELU; }

/* Where the sums of some rows and columns are, `stride` numbers between rows; `up`: what gated ones are multiplied by. */
struct sums {
    float *own, *up;
    int64_t stride, width;
};

static void finish_rows(const struct product *p, const struct sums *s, int64_t row, int64_t rows, int64_t column,
                        struct largest *best, enum epilogue epilogue) {
    for (int64_t r = 0; r < rows; r++) {
        float *own = s->own + r * s->stride, *up = s->up + r * s->stride;
        switch (epilogue) {
        case STORE_SUMS: store_sums(p, own, row + r, column, s->width); break;
        case STORE_SILU: store_gated(p, own, up, row + r, column, s->width, 0); break;
        case STORE_GELU: store_gated(p, own, up, row + r, column, s->width, 1); break;
        case KEEP_LARGEST: keep_largest(p, best + row + r, own, column, s->width); break;
        }
    }
}

void penstock_finish_rows(const struct product *p, float *sums, int64_t row, int64_t rows, int64_t column,
                          int64_t groups, struct largest *best, enum epilogue epilogue) {
    int64_t width = groups * LANES, own = is_gated(epilogue) ? width / 2 : width;
    const struct sums found = {sums, sums + own, width, own};
    finish_rows(p, &found, row, rows, column, best, epilogue);
}

/* All rows of `groups` * 16 columns, of gated ones in all: the weights come from memory with the first rows and from the
 * cache after that, while the strip at `next` is fetched: by a tall pass at once, its products take long enough. Gated
 * columns and their partners share a tile, or, of tall ones, have one each. */
static void multiply_strip(const struct product *p, int64_t column, int64_t next, int64_t groups, int64_t most,
                           struct largest *best, enum epilogue epilogue) {
    const uint16_t *weights[2 * GROUPS], *following[2 * GROUPS], *stream[2 * GROUPS];
    int gated = is_gated(epilogue);
    int64_t own = gated ? groups / 2 : groups, width = own * LANES;
    int64_t tiles = groups > GROUPS ? 2 : 1, each_groups = groups / tiles;
    for (int64_t g = 0; g < groups; g++) {
        int64_t place = g >= own ? p->columns / 2 + (g - own) * LANES : g * LANES;
        weights[g] = p->packed + (column + place) * p->inner;
        following[g] = p->packed + (next + place) * p->inner;
        stream[g] = weights[g] + STREAM_AHEAD;
    }
    int64_t passes = (p->rows + most - 1) / most, each = (p->rows + passes - 1) / passes;
    for (int64_t row = 0; row < p->rows; row += each) {
        const uint16_t *const *ahead = row == each || each > TILE_ROWS ? following : row == 0 ? stream : NULL;
        float sums[TALL_ROWS * 2 * STRIP];
        int64_t rows = p->rows - row < each ? p->rows - row : each;
        for (int64_t t = 0; t < tiles; t++)
            penstock_tile(sums + t * TALL_ROWS * STRIP, p->in + row * p->inner, p->inner, weights + t * each_groups,
                          ahead ? ahead + t * each_groups : NULL, p->inner, rows, each_groups);
        const struct sums found = {sums, sums + (tiles == 2 ? TALL_ROWS * STRIP : width), each_groups * LANES, width};
        finish_rows(p, &found, row, rows, column, best, epilogue);
    }
}

/* Whether 8 x 3 groups need fewer passes than 6 x 4. Of many rows both take as long. */
static int is_tall(int64_t rows) {
    return rows <= MOST_TALL_ROWS && (rows + TALL_ROWS - 1) / TALL_ROWS < (rows + TILE_ROWS - 1) / TILE_ROWS;
}

void penstock_multiply(const struct product *p, struct team *team, int64_t thread, struct largest *best,
                       enum epilogue epilogue) {
    int gated = is_gated(epilogue);
    int64_t columns = gated ? p->columns / 2 : p->columns;
    /* Wide strips are faster, but of few the threads would get unequal shares. */
    int64_t groups = p->columns / STRIP >= 16 * team->size ? GROUPS : GROUPS / 2, most = TILE_ROWS;
    if (is_tall(p->rows)) groups = gated ? 2 * TALL_GROUPS : TALL_GROUPS, most = TALL_ROWS;
    int64_t width = (gated ? groups / 2 : groups) * LANES, strips = (columns + width - 1) / width, strip = thread;
    while (strip < strips) {
        int64_t next = claim(team), column = strip * width, ahead = next < strips ? next * width : column;
        if (column + width <= columns)
            multiply_strip(p, column, ahead, groups, most, best, epilogue);
        else
            for (; column < columns; column += LANES)
                multiply_strip(p, column, column, gated ? 2 : 1, most, best, epilogue);
        strip = next;
    }
}

void penstock_matmul(void *out, const uint16_t *in, const uint16_t *packed, const uint16_t *bias, int64_t rows,
                     int64_t columns, int64_t inner, int64_t is_wide) {
    const struct product p = {out, in, packed, bias, rows, columns, inner, is_wide};
    struct team team = {.size = 1};
#pragma omp parallel if (columns * inner > 65536)
    {
#pragma omp single
        team.size = team_size();
        penstock_multiply(&p, &team, own_number(), NULL, STORE_SUMS);
    }
}

void penstock_begin_largest(struct largest *best, int64_t rows) {
    for (int64_t row = 0; row < rows; row++) best[row] = (struct largest){-__builtin_inff(), 0, 0};
}

void penstock_end_largest(int64_t *out, const struct largest *found, int64_t threads, int64_t rows) {
    for (int64_t row = 0; row < rows; row++) {
        struct largest best = found[row];
        for (int64_t thread = 1; thread < threads; thread++) {
            struct largest other = found[thread * rows + row];
            best.is_broken |= other.is_broken;
            if (other.value > best.value || (other.value == best.value && other.column < best.column))
                best.value = other.value, best.column = other.column;
        }
        out[row] = best.is_broken || !(best.value >= -3.4028234e38f) ? -1 : best.column;
    }
}

/* The column of the largest product of each row, -1 where one of them is not a finite number; the products themselves
 * never leave the cache. Of equal ones the first. `scratch`: [threads, rows] of struct largest. */
void penstock_largest(int64_t *out, struct largest *scratch, const uint16_t *in, const uint16_t *packed, int64_t rows,
                      int64_t columns, int64_t inner) {
    const struct product p = {NULL, in, packed, NULL, rows, columns, inner, 0};
    struct team team = {.size = 1};
#pragma omp parallel if (columns * inner > 65536)
    {
#pragma omp single
        team.size = team_size();
        struct largest *best = scratch + own_number() * rows;
        penstock_begin_largest(best, rows);
        penstock_multiply(&p, &team, own_number(), best, KEEP_LARGEST);
    }
    penstock_end_largest(out, scratch, team.size, rows);
}

/* weight [columns, inner] -> packed; both bfloat16. */
void penstock_pack(uint16_t *restrict packed, const uint16_t *restrict weight, int64_t columns, int64_t inner) {
    int64_t groups = (columns + LANES - 1) / LANES;
#pragma omp parallel for schedule(dynamic, 8)
    for (int64_t group = 0; group < groups; group++) {
        uint32_t *own = (uint32_t *)(packed + group * LANES * inner);
        for (int64_t lane = 0; lane < LANES; lane++) {
            int64_t column = group * LANES + lane;
            const uint16_t *row = weight + column * inner;
            for (int64_t k = 0; k < inner / 2; k++) {
                uint32_t pair = 0;
                if (column < columns) memcpy(&pair, row + 2 * k, sizeof pair);
                own[k * LANES + lane] = pair;
            }
        }
    }
}

/* Rows of what was packed, as they were: out [count, inner]. An embedding need not be kept beside a packed head. */
void penstock_unpack_rows(uint16_t *restrict out, const uint16_t *restrict packed, const int64_t *restrict rows,
                          int64_t count, int64_t inner) {
#pragma omp parallel for if (count * inner > 65536)
    for (int64_t i = 0; i < count; i++) {
        const uint16_t *own = packed + rows[i] / LANES * LANES * inner + rows[i] % LANES * 2;
        for (int64_t k = 0; k < inner / 2; k++) memcpy(out + i * inner + 2 * k, own + k * LANES * 2, 4);
    }
}
