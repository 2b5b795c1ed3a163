/* Products of matrices, by strips of columns; and what else knows how packed weights lie. See matmul.h. */
#include "matmul.h"

#include <time.h>

#define MOST_TALL_ROWS 24

static int is_wide_faster = 0;

/* 0: others multiply bfloat16 faster than this file. */
int64_t penstock_has_fast_products(void) { return HAS_FAST_PRODUCTS; }

int penstock_is_wide_faster(void) { return is_wide_faster; }

/* AVX2 has no other way. */
void penstock_use_wide_products(int64_t yes) { is_wide_faster = HAS_FAST_PRODUCTS && (yes || !HAS_WIDE_REGISTERS); }

/* Seconds of this thread for the same small product one way or the other, the least of some repeats. */
double penstock_time_products(int64_t is_wide) {
    enum { INNER = 512, ROWS = 8, REPEATS = 20 };
    static uint16_t zeros[ROWS * INNER * LANES];
    float sums[ROWS * TALL_GROUPS * LANES];
    struct strip strip = {.groups = TALL_GROUPS};
    for (int64_t g = 0; g < TALL_GROUPS; g++) strip.weights[g] = zeros;
    double least = 1e9;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        struct timespec begin, end;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
        (is_wide ? penstock_wide_block : penstock_pair_block)(sums, zeros, INNER, ROWS, &strip, INNER);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
        double seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
        least = seconds < least ? seconds : least;
    }
    return least;
}

void penstock_block(float *sums, const uint16_t *in, int64_t stride, int64_t rows, const struct strip *strip,
                    int64_t inner) {
    (is_wide_faster ? penstock_wide_block : penstock_pair_block)(sums, in, stride, rows, strip, inner);
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

INLINE void store_gated(const struct product *p, float *sums, float *up, int64_t row, int64_t column, int64_t width,
                        const int is_gelu) {
    int64_t half = p->columns / 2;
    uint16_t *out = (uint16_t *)p->out + row * half + column;
    add_bias(p, sums, column, width);
    add_bias(p, up, column + half, width);
    /* Sixteen at a time: a loop of that length is vectorised without a beginning and an end. */
    for (int64_t begin = 0; begin < width; begin += LANES) {
        uint16_t gated[LANES];
        for (int64_t i = 0; i < LANES; i++) {
            float gate = from_bf16(to_bf16(sums[begin + i]));
            float activated = from_bf16(to_bf16(is_gelu ? gelu(gate) : silu(gate)));
            gated[i] = to_bf16(activated * from_bf16(to_bf16(up[begin + i])));
        }
        memcpy(out + begin, gated, sizeof gated);
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

void penstock_finish_rows(const struct product *p, float *sums, int64_t row, int64_t rows, int64_t column,
                          int64_t groups, struct largest *best, enum epilogue epilogue) {
    int64_t width = is_gated(epilogue) ? groups / 2 * LANES : groups * LANES;
    for (int64_t r = 0; r < rows; r++) {
        float *own = sums + r * groups * LANES, *up = own + width;
        switch (epilogue) {
        case STORE_SUMS: store_sums(p, own, row + r, column, width); break;
        case STORE_SILU: store_gated(p, own, up, row + r, column, width, 0); break;
        case STORE_GELU: store_gated(p, own, up, row + r, column, width, 1); break;
        case KEEP_LARGEST: keep_largest(p, best + row + r, own, column, width); break;
        }
    }
}

/* All rows of `groups` * 16 columns, of gated ones and their partners in the second half. */
static void multiply_strip(const struct product *p, int64_t column, int64_t next, int64_t groups,
                           struct largest *best, enum epilogue epilogue) {
    struct strip strip = {.groups = groups, .has_next = 1};
    int64_t own = is_gated(epilogue) ? groups / 2 : groups;
    for (int64_t g = 0; g < groups; g++) {
        int64_t place = g >= own ? p->columns / 2 + (g - own) * LANES : g * LANES;
        strip.weights[g] = p->packed + (column + place) * p->inner;
        strip.next[g] = p->packed + (next + place) * p->inner;
    }
    for (int64_t row = 0; row < p->rows; row += BLOCK_ROWS) {
        _Alignas(64) float sums[BLOCK_ROWS * MOST_GROUPS * LANES];
        int64_t rows = p->rows - row < BLOCK_ROWS ? p->rows - row : BLOCK_ROWS;
        penstock_block(sums, p->in + row * p->inner, p->inner, rows, &strip, p->inner);
        penstock_finish_rows(p, sums, row, rows, column, groups, best, epilogue);
        strip.has_next = 0;
    }
}

/* Groups of the widest strips. 8 x 3 where that needs fewer passes than 6 x 4: of many rows both take as long. Wide
 * products have one tile of 3 groups, or two, which share what becomes float32 of many rows; with AVX2 tiles of 1 group,
 * of 2 for few rows. */
static int64_t widest_strip(int64_t rows, int64_t halves) {
    if (HAS_FAST_PRODUCTS && !HAS_WIDE_REGISTERS) return rows <= 2 ? GROUPS / halves : TALL_GROUPS / halves;
    if (is_wide_faster) return rows > 2 * TALL_ROWS || halves == 2 ? 2 * TALL_GROUPS / halves : TALL_GROUPS;
    int64_t tall = (rows + TALL_ROWS - 1) / TALL_ROWS, flat = (rows + TILE_ROWS - 1) / TILE_ROWS;
    return rows <= MOST_TALL_ROWS && tall < flat ? TALL_GROUPS : GROUPS / halves;
}

#define WIDTHS 3

/* A product's groups of columns in strips, the widest first: the last ones are narrow, so that threads get equal shares. */
struct shares {
    int64_t widths[WIDTHS], counts[WIDTHS], strips;
};

static struct shares share(int64_t groups, int64_t widest, int64_t threads) {
    struct shares s = {.widths = {widest, (widest + 1) / 2, 1}};
    for (int i = 0; i < WIDTHS; i++) {
        int64_t width = s.widths[i], kept = i < WIDTHS - 1 ? width * threads : 0;
        s.counts[i] = groups > kept ? (groups - kept + width - 1) / width : 0;
        groups -= s.counts[i] * width;
        s.strips += s.counts[i];
    }
    return s;
}

/* Where a strip begins, in groups, and how many it has; the last strip's place for those behind it. */
static int64_t place_of(const struct shares *s, int64_t strip, int64_t *width) {
    int64_t begin = 0;
    if (strip >= s->strips) strip = s->strips - 1;
    for (int i = 0; i < WIDTHS; i++) {
        *width = s->widths[i];
        if (strip < s->counts[i]) return begin + strip * *width;
        strip -= s->counts[i];
        begin += s->counts[i] * *width;
    }
    return begin;
}

void penstock_multiply(const struct product *p, struct team *team, int64_t thread, struct largest *best,
                       enum epilogue epilogue) {
    int64_t halves = is_gated(epilogue) ? 2 : 1, groups = (p->columns / halves + LANES - 1) / LANES;
    const struct shares shares = share(groups, widest_strip(p->rows, halves), team->size);
    int64_t strip = thread;
    while (strip < shares.strips) {
        int64_t next = claim(team), width, next_width, begin = place_of(&shares, strip, &width);
        int64_t ahead = place_of(&shares, next, &next_width);
        multiply_strip(p, begin * LANES, ahead * LANES, width * halves, best, epilogue);
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
