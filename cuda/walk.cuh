// The list of column tiles that a row tile visits, walked a step of columns at a time.
#pragma once
#include "tiles.cuh"

constexpr int TILE = 64;
constexpr int WARPS = GEOATTN_WARPS;      // 16 rows each; several blocks share a row tile if fewer than 4
constexpr int THREADS = 32 * WARPS;
constexpr int ROWS = 16 * WARPS;
constexpr int PARTS = TILE / ROWS;
// Blocks that share the rows, each with its slice of the channels that are summed up: for sums too
// wide for the registers of one.
constexpr int SLICES = GEOATTN_SLICES;
constexpr int STEP = GEOATTN_STEP;        // columns in shared memory at once, twice
constexpr int STEPS = TILE / STEP;        // of a tile
static_assert(STEP <= THREADS, "a thread looks after one column at most");
constexpr bool MASKED = GEOATTN_MASKED;   // whether the plan has any tile that is not full
// Whether each pair has a number, by which a table adds to its score; their bits are 16, or 32 for large tables.
constexpr bool RELATED = GEOATTN_NUMBER_BITS != 0;

// A visited tile. It stands for column_tile + shift, where the shift of the row tile wraps around
// within the ring that ends before ring_end.
struct Entry {
    int column_tile, ring_end;
    int mask;    // −1 where every row sees every column, padding aside where no pair has a number
    u32 groups;  // bit 8·(i / 16) + j / 8: whether row i and column j may be in a visible pair
};

// What the backward pass needs to know of a query beside its vectors (see delta.cu).
struct Statistics {
    float minus_lse;  // −exponent(lse); −∞ where the query sees nothing
    float delta;      // dO · out − dlse
};

// A plan as it lies in device memory; see geoattn/plans/base.py.
struct Plan {
    const int *row_order, *column_order;  // position → token, −1 for padding
    const int* schedule;                  // row tiles, those with the longest lists first
    const int *tile_class, *tile_shift;
    const i64* starts;  // of the list of each class
    const Entry* entries;
    const u32* masks;  // [mask, row, 2]: bit j % 32 of word j / 32 for column j
    const Statistics* hidden;  // what a padded column brings: −∞, so that no mask need hide it
    int ring;
};

// Four numbers of a lane, in the order of a product's elements.
struct Numbers {
#if GEOATTN_NUMBER_BITS == 32
    uint4 words;
    DEVICE u32 operator[](int i) const { return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w; }
#else
    uint2 words;
    DEVICE u32 operator[](int i) const { return (i / 2 ? words.y : words.x) >> i % 2 * 16 & 0xffffu; }
#endif
};

// A bias for every pair: the entry of a table that stands under its number.
struct Relation {
    const int* ids;          // of each entry of the plan: which tile of numbers
    const Numbers* numbers;  // [tile, row / 16, column / 8, lane]
    const float* table;      // [batch or 1, head, number], or [batch, query, head, number]; exponents of 2
    i64 batch, query, head;  // strides of the table; 0 where there is but one
};

// One step: STEP columns from position first, or the end of the walk where first is negative.
struct Step {
    int first, mask, head;
    u32 groups;   // shifted so that bit 8·(i / 16) belongs to the first eight columns
#if GEOATTN_NUMBER_BITS
    int numbers;  // which tile of numbers
#endif

    DEVICE int first_in_tile() const { return first % TILE; }
    // Bit n: whether the 16 rows from `row` on may see any of columns 8n to 8n + 7.
    DEVICE u32 groups_of(int row) const { return groups >> row / 16 * 8 & ((1u << STEP / 8) - 1); }
    // The same for all rows of a block, from `row` on; bits beyond the step say nothing.
    DEVICE u32 groups_of_block(int row) const {
        if (!MASKED) return ALL_GROUPS;
        u32 any = 0;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) any |= groups >> (row / 16 + warp) * 8;
        return any;
    }
};

// Which of a step's columns the lane's two rows see: bit 8·n + j of seen[i] (counting over words)
// for element j of group n in line + 8·i.
struct Seen {
    u32 words[2][(STEP + 31) / 32];
    DEVICE bool operator()(int n, int element) const {
        return words[element / 2][n / 4] >> (n % 4 * 8 + element % 2) & 1;
    }
};

// The biases of a step's pairs, of the 16 rows from `row` on. The table is that of a head; where each query
// has its own, theirs lie beyond, and queries are rows or columns.
template <bool COLUMNS_ARE_QUERIES>
struct PairBiases {
#if GEOATTN_NUMBER_BITS
    const Numbers* numbers;
    const float* table;
    const Relation& relation;
    const int* order;  // of the queries' tokens
    i64 first_query;   // position of the lane's first

    DEVICE PairBiases(const Relation& relation, i64 batch, int head, const Plan& plan, int tile, const Step& step,
                      int row)
        : relation(relation) {
        const int lane = thread_index() % 32;
        numbers = relation.numbers + (((i64)step.numbers * 4 + row / 16) * 8 + step.first_in_tile() / 8) * 32 + lane;
        table = relation.table + batch * relation.batch + head * relation.head;
        order = COLUMNS_ARE_QUERIES ? plan.column_order : plan.row_order;
        first_query = COLUMNS_ARE_QUERIES ? step.first + lane % 4 * 2 : (i64)tile * TILE + row + lane / 4;
    }
    // Of the two groups of eight columns of pair m, those whose bit is set.
    DEVICE void fetch(float (&biases)[2][4], int m, u32 bits) const {
#pragma unroll
        for (int g = 0; g < 2; ++g) {
            if (!(bits >> g & 1)) continue;
            const Numbers found = load(numbers + (2 * m + g) * 32);
            i64 beyond[2] = {0, 0};
            if (relation.query)
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const int token = load(order + first_query + (COLUMNS_ARE_QUERIES ? (2 * m + g) * 8 + j : 8 * j));
                    beyond[j] = (token < 0 ? 0 : token) * relation.query;
                }
#pragma unroll
            for (int i = 0; i < 4; ++i)
                biases[g][i] = load(table + beyond[COLUMNS_ARE_QUERIES ? i % 2 : i / 2] + found[i]);
        }
    }
#else
    DEVICE PairBiases(const Relation&, i64, int, const Plan&, int, const Step&, int) {}
    DEVICE void fetch(float (&)[2][4], int, u32) const {}
#endif
};

struct Walk {
    const Plan& plan;
    const Entry* entries;
#if GEOATTN_NUMBER_BITS
    const int* number_ids;
#endif
    int count, shift, heads;
    int entry = 0, part = 0, head = 0;

    // The same list is walked once for each of the heads.
    DEVICE Walk(const Plan& plan, const Relation& relation, int tile, int heads) : plan(plan), heads(heads) {
        const int label = load(plan.tile_class + tile);
        const i64 start = load(plan.starts + label);
        entries = plan.entries + start;
#if GEOATTN_NUMBER_BITS
        number_ids = relation.ids + start;
#endif
        count = (int)(load(plan.starts + label + 1) - start);
        shift = load(plan.tile_shift + tile);
    }

    DEVICE Step next() {
        if (head == heads || count == 0) return {-1, -1, 0, 0};
        const Entry e = load(entries + entry);
        int tile = e.column_tile + shift;
        if (tile >= e.ring_end) tile -= plan.ring;
#if GEOATTN_NUMBER_BITS
        const Step step = {tile * TILE + part * STEP, e.mask, head, e.groups >> part * (STEP / 8),
                           load(number_ids + entry)};
#else
        const Step step = {tile * TILE + part * STEP, e.mask, head, e.groups >> part * (STEP / 8)};
#endif
        if (++part == STEPS) {
            part = 0;
            if (++entry == count) entry = 0, ++head;
        }
        return step;
    }

    // For the 16 rows from `row` on.
    DEVICE Seen seen(const Step& step, int row) const {
        Seen result = {};
        if (MASKED && step.mask >= 0) {
            const int lane = thread_index() % 32;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const u32* words =
                    plan.masks + ((i64)step.mask * TILE + row + lane / 4 + 8 * i) * 2 + step.first_in_tile() / 32;
#pragma unroll
                for (int w = 0; w < (STEP + 31) / 32; ++w)
                    result.words[i][w] = load(words + w) >> (step.first_in_tile() % 32 + lane % 4 * 2);
            }
        }
        return result;
    }

    // Starts the copy of the step's tokens.
    DEVICE void copy_tokens(const Step& step, u32 destination) const {
        const int t = thread_index() * 4;
        if (step.first >= 0 && t < STEP) copy_async<16>(destination + t * 4, plan.column_order + step.first + t, true);
    }
};

// Which part of the work a block does: all blocks of the longest lists come first.
struct Block {
    int tile, part, slice, batch, head;
    DEVICE Block(const Plan& plan, int heads, int pairs) {  // pairs = batch × heads
        const u32 rest = block_index() / pairs, bh = block_index() % pairs;
        tile = load(plan.schedule + rest / (PARTS * SLICES));
        part = rest / SLICES % PARTS;
        slice = rest % SLICES;
        batch = bh / heads;
        head = bh % heads;
    }
};
