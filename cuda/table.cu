// The gradient of a relation's table, as far as it is the same for many pairs:
//
//     sums_ij = Σ_t p_ij (dp_ij − delta_i)
//
// over row tiles t that share a list, for the pairs of one of its entries. A pair has the same number in
// each of these tiles; what is left to add up is the sums of each number.
//
// A block takes ROWS queries by STEP keys of an entry for one batch entry and head, and the row tiles one
// after the other: every sum has one fixed order, and results repeat bit for bit.
#include "walk.cuh"

constexpr int SCORE_DIM = GEOATTN_SCORE_DIM, VALUE_DIM = GEOATTN_VALUE_DIM;
static_assert(SLICES == 1, "no channels are summed up that could be shared");
constexpr bool KEPT = false;

// An entry of the plan and some of the tiles whose list it is in.
struct Item {
    int entry, first_tile, end_tile, numbers;
};

struct Table {
    Plan plan;
    View q, out_gradient, k, v;
    const Statistics* statistics;  // [batch, head, query]
    const float* key_bias;         // [batch or 1, key], times log₂ e, or null
    i64 key_bias_batch;
    const Item* items;
    const int* tiles;  // query tiles, those of one class side by side
    float4* sums;      // [batch, head, item, row / 16, column / 8, lane]
    int n_items;
    int batch, heads, shared_by, queries;
    int score_dim, value_dim;
    Scale scale;
    Relation relation;
};

struct Memory {
    static constexpr u32 q = 0;
    static constexpr u32 out_gradient = q + Tile<ROWS, SCORE_DIM>::BYTES;
    static constexpr u32 k = out_gradient + Tile<ROWS, VALUE_DIM>::BYTES;
    static constexpr u32 v = k + Tile<STEP, SCORE_DIM>::BYTES;
    static constexpr u32 bias = v + Tile<STEP, VALUE_DIM>::BYTES;
    static constexpr u32 bytes = bias + STEP * 4;
};
static_assert(Memory::bytes == GEOATTN_SHARED_BYTES, "the launch reserves as much");

struct Pairs {
    float sums[STEP / 8][4] = {};

    template <bool PARTIAL>
    DEVICE void add(u32 memory, u32 groups, const Seen& seen, const PairBiases<false>& pair_biases,
                    const Statistics (&statistics)[2], float scale) {
        const int pair = thread_index() % 4;
        RowOperand<ROWS, SCORE_DIM, KEPT> q;
        RowOperand<ROWS, VALUE_DIM, KEPT> out_gradient;
        q.prepare(memory + Memory::q);
        out_gradient.prepare(memory + Memory::out_gradient);
#pragma unroll
        for (int m = 0; m < STEP / 16; ++m) {
            if (PARTIAL && !(groups >> 2 * m & 3)) continue;
            float p[2][4] = {}, ds[2][4] = {}, pair_bias[2][4];
            pair_biases.fetch(pair_bias, m, PARTIAL ? groups >> 2 * m : 3);
            multiply_rows<PARTIAL, STEP>(p, q, memory + Memory::k, m, groups >> 2 * m);
            multiply_rows<PARTIAL, STEP>(ds, out_gradient, memory + Memory::v, m, groups >> 2 * m);
#pragma unroll
            for (int g = 0; g < 2; ++g) {
                const int n = 2 * m + g;
                if (PARTIAL && !(groups >> n & 1)) continue;
                const float2 bias = load_shared<float2>(memory + Memory::bias + (8 * n + 2 * pair) * 4);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float score = p[g][i] * scale + (i % 2 ? bias.y : bias.x) + pair_bias[g][i];
                    const float each =
                        power_of_two(score + statistics[i / 2].minus_lse) * (ds[g][i] - statistics[i / 2].delta);
                    if (!PARTIAL || seen(n, i)) sums[n][i] += each;
                }
            }
        }
    }
};

KERNEL(THREADS, GEOATTN_BLOCKS) table(const Table arguments) {
    const Table& a = arguments;
    const u32 memory = shared_memory();
    const int lane = thread_index() % 32, warp = thread_index() / 32;
    const u32 pairs = a.batch * a.heads, rest = block_index() / pairs, bh = block_index() % pairs;
    const int number = rest / (PARTS * STEPS), batch = bh / a.heads, head = bh % a.heads;
    const int first_row = rest / STEPS % PARTS * ROWS, first_column = rest % STEPS * STEP;
    const Item item = load(a.items + number);
    const Entry e = load(a.plan.entries + item.entry);
    const float scale = a.scale.of(batch, head) * LOG2_E;  // scores are exponents of 2
    const float* key_bias = a.key_bias ? a.key_bias + batch * a.key_bias_batch : nullptr;

    Pairs sums;
    for (int t = item.first_tile; t < item.end_tile; ++t) {
        const int tile = load(a.tiles + t);
        const Walk walk(a.plan, a.relation, tile, 1);
        int column_tile = e.column_tile + walk.shift;
        if (column_tile >= e.ring_end) column_tile -= a.plan.ring;
        const Step step = {column_tile * TILE + first_column, e.mask, 0, e.groups >> first_column / 8, item.numbers};
        const int* row_order = a.plan.row_order + (i64)tile * TILE + first_row;
        const int* column_order = a.plan.column_order + step.first;
        barrier();  // all warps are done with the last tile's rows
        copy_rows<THREADS, ROWS>(
            [&](int row) { return load(row_order + row); },
            Source<SCORE_DIM>{memory + Memory::q, a.q.start(batch, head), a.q.token, a.score_dim},
            Source<VALUE_DIM>{memory + Memory::out_gradient, a.out_gradient.start(batch, head), a.out_gradient.token,
                              a.value_dim});
        copy_rows<THREADS, STEP>(
            [&](int column) { return load(column_order + column); },
            Source<SCORE_DIM>{memory + Memory::k, a.k.start(batch, head / a.shared_by), a.k.token, a.score_dim},
            Source<VALUE_DIM>{memory + Memory::v, a.v.start(batch, head / a.shared_by), a.v.token, a.value_dim});
        if (const int column = thread_index(); column < STEP) {
            const int token = load(column_order + column);
            copy_async<4>(memory + Memory::bias + column * 4, key_bias + token, key_bias && token >= 0);
        }
        commit_copies();
        const u32 groups = from_first_lane(step.groups_of(first_row + 16 * warp));
        const Seen seen = walk.seen(step, first_row + 16 * warp);
        const PairBiases<false> pair_biases(a.relation, batch, head, a.plan, tile, step, first_row + 16 * warp);
        Statistics statistics[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int token = load(row_order + warp * 16 + lane / 4 + 8 * i);
            statistics[i] = {-infinity(), 0.f};
            if (token >= 0) statistics[i] = load(a.statistics + ((i64)batch * a.heads + head) * a.queries + token);
        }
        wait_for_copies<0>();
        barrier();
        if (!MASKED || e.mask < 0)
            sums.add<false>(memory, groups, seen, pair_biases, statistics, scale);
        else if (groups)
            sums.add<true>(memory, groups, seen, pair_biases, statistics, scale);
    }
    float4* const place =
        a.sums + ((((i64)bh * a.n_items + number) * 4 + first_row / 16 + warp) * 8 + first_column / 8) * 32 + lane;
#pragma unroll
    for (int n = 0; n < STEP / 8; ++n)
        store(place + n * 32, float4{sums.sums[n][0], sums.sums[n][1], sums.sums[n][2], sums.sums[n][3]});
}
