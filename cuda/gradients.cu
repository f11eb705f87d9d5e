// Backward pass over one list: gradients of the rows, whose outputs stay in registers.
//
// With rows = queries this gives dQ; with rows = keys, over the plan of the transposed neighborhood,
// dK, dV and the gradient of the key bias. Both compute p = e^{s − lse} anew,
//
//     dp_ij = dO_i · v_j,   ds_ij = p_ij (dp_ij − delta_i),
//     dQ_i = scale Σ_j ds_ij k_j,   dK_j = scale Σ_i ds_ij q_i,   dV_j = Σ_i p_ij dO_i,   db_j = Σ_i ds_ij,
//     dscale = Σ_i q_i · Σ_j ds_ij k_j.
//
// No two blocks write the same place and every sum has one fixed order: results repeat bit for bit.
#include "walk.cuh"

constexpr int SCORE_DIM = GEOATTN_SCORE_DIM, VALUE_DIM = GEOATTN_VALUE_DIM;
constexpr bool ROWS_ARE_KEYS = GEOATTN_ROWS_ARE_KEYS;
// What is computed: Σ ds (dQ or dK, and db) and Σ p dO (dV). Wide heads take a launch for each.
constexpr bool SCORE_SIDE = GEOATTN_SCORE_SIDE, VALUE_SIDE = GEOATTN_VALUE_SIDE;
// The channels of those sums that a block owns, and those of the value columns it needs: all for dp.
constexpr int SCORE_CHANNELS = SCORE_DIM / SLICES, VALUE_CHANNELS = VALUE_DIM / SLICES;
constexpr int COLUMN_VALUE_DIM = SCORE_SIDE ? VALUE_DIM : VALUE_CHANNELS;
static_assert(SLICES == 1 || !SCORE_SIDE || !VALUE_SIDE && SCORE_CHANNELS * sizeof(Storage) % 128 == 0,
              "slices are for one kind of sums, in tiles of a whole period");
constexpr bool KEPT = (SCORE_DIM > VALUE_DIM ? SCORE_DIM : VALUE_DIM) / PER_CHUNK <= 8;

// The widest heads leave the scale no register: they read it in each step.
constexpr bool CROWDED = SCORE_DIM * sizeof(Storage) >= 512 && !(WIDE && ROWS_ARE_KEYS);

// Whether columns that no row sees are left out of copies; where registers are scarce all are copied.
constexpr bool SPARSE = (SCORE_DIM + VALUE_DIM) * sizeof(Storage) > 128 && !(WIDE && RELATED);

struct Gradients {
    Plan plan;
    View row_score, row_value;        // q and dO, or k and v
    View column_score, column_value;  // k and v, or q and dO
    View row_score_gradient, row_value_gradient;
    const Statistics* statistics;  // [batch, head, query]
    const float* key_bias;         // [batch or 1, key], times log₂ e, or null
    i64 key_bias_batch;
    // of the bias [batch, key head, key], or each slice's and query's part of that of the scale
    // [slice, batch, head, query], or null
    float* row_gradient;
    int batch, heads, shared_by;
    int queries, keys;
    int score_dim, value_dim;
    Scale scale;  // with rows of keys, one for each head only where no head is shared
    Relation relation;
};

// What a column brings beside its vectors: statistics of a query, or the bias of a key.
constexpr int COLUMN_BYTES = ROWS_ARE_KEYS ? 8 : 4;

struct Memory {
    static constexpr u32 row_score = 0;
    static constexpr u32 row_value = row_score + Tile<ROWS, SCORE_DIM>::BYTES;
    static constexpr u32 column_score = row_value + (SCORE_SIDE ? Tile<ROWS, VALUE_DIM>::BYTES : 0);
    static constexpr u32 column_value = column_score + 2 * Tile<STEP, SCORE_DIM>::BYTES;
    static constexpr u32 column = column_value + 2 * Tile<STEP, COLUMN_VALUE_DIM>::BYTES;
    static constexpr u32 tokens = column + 2 * STEP * COLUMN_BYTES;
    static constexpr u32 bytes = tokens + 2 * STEP * 4;
};
static_assert(Memory::bytes == GEOATTN_SHARED_BYTES, "the launch reserves as much");

struct Sums {
    float score[SCORE_CHANNELS / 8][4] = {};
    float value[VALUE_CHANNELS / 8][4] = {};
    float bias_gradient[2] = {0.f, 0.f};
    int slice;
    // of the lane's two rows: bias of a key, or statistics of a query
    float row_bias[2];
    Statistics row_statistics[2];

    template <bool PARTIAL>
    DEVICE void step(const RowOperand<ROWS, SCORE_DIM, KEPT>& row_score,
                     const RowOperand<ROWS, VALUE_DIM, KEPT>& row_value, u32 column_score, u32 column_value,
                     u32 column, u32 groups, const Seen& seen, const PairBiases<ROWS_ARE_KEYS>& pair_biases,
                     float scale) {
        const int pair = thread_index() % 4;
        // where the slice begins: the chunks of a row are permuted within 128 bytes
        const u32 score_slice = column_score + slice * SCORE_CHANNELS * (int)sizeof(Storage);
#pragma unroll(WIDE ? 1 : STEP / 16)
        for (int m = 0; m < STEP / 16; ++m) {
            if (PARTIAL && !(groups >> 2 * m & 3)) continue;
            float p[2][4] = {}, ds[2][4] = {};
            float pair_bias[2][4];  // where registers suffice, on its way while the products are computed
            if constexpr (RELATED && !WIDE) pair_biases.fetch(pair_bias, m, PARTIAL ? groups >> 2 * m : 3);
            multiply_rows<PARTIAL, STEP>(p, row_score, column_score, m, groups >> 2 * m);
            if constexpr (SCORE_SIDE) multiply_rows<PARTIAL, STEP>(ds, row_value, column_value, m, groups >> 2 * m);
            if constexpr (RELATED && WIDE) pair_biases.fetch(pair_bias, m, PARTIAL ? groups >> 2 * m : 3);
#pragma unroll
            for (int g = 0; g < 2; ++g) {
                const int n = 2 * m + g;
                if (PARTIAL && !(groups >> n & 1)) continue;
                float bias[2];
                Statistics statistics[2];
                if constexpr (ROWS_ARE_KEYS) {
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        const float2 x = load_shared<float2>(column + (8 * n + 2 * pair + j) * 8);
                        statistics[j] = {x.x, x.y};
                    }
                } else {
                    const float2 x = load_shared<float2>(column + (8 * n + 2 * pair) * 4);
                    bias[0] = x.x, bias[1] = x.y;
                }
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const Statistics query = ROWS_ARE_KEYS ? statistics[i % 2] : row_statistics[i / 2];
                    float score = p[g][i] * scale + (ROWS_ARE_KEYS ? row_bias[i / 2] : bias[i % 2]);
                    if constexpr (RELATED) score += pair_bias[g][i];
                    p[g][i] = power_of_two(score + query.minus_lse);
                    if (PARTIAL) p[g][i] = seen(n, i) ? p[g][i] : 0.f;
                    if constexpr (SCORE_SIDE) {
                        ds[g][i] = p[g][i] * (ds[g][i] - query.delta);
                        if (ROWS_ARE_KEYS) bias_gradient[i / 2] += ds[g][i];
                    }
                }
            }
            if constexpr (SCORE_SIDE)
                add_weighted<STEP, SCORE_DIM, SCORE_CHANNELS>(score, ds, score_slice, m);
            if constexpr (VALUE_SIDE)
                add_weighted<STEP, COLUMN_VALUE_DIM, VALUE_CHANNELS>(value, p, column_value, m);
        }
    }

};

KERNEL(THREADS, GEOATTN_BLOCKS) gradients(const Gradients arguments) {
    const Gradients& a = arguments;
    const u32 memory = shared_memory();
    const int lane = thread_index() % 32, warp = thread_index() / 32;
    const int row_heads = ROWS_ARE_KEYS ? a.heads / a.shared_by : a.heads;
    const Block block(a.plan, row_heads, a.batch * row_heads);
    const int first_row = block.part * ROWS;
    const int* row_order = a.plan.row_order + (i64)block.tile * TILE + first_row;
    const float kept_scale = a.scale.of(block.batch, block.head) * LOG2_E;  // scores are exponents of 2
    const int first_score_channel = block.slice * SCORE_CHANNELS, first_value_channel = block.slice * VALUE_CHANNELS;
    const int first_column_channel = SCORE_SIDE ? 0 : first_value_channel;
    const float* key_bias = a.key_bias ? a.key_bias + block.batch * a.key_bias_batch : nullptr;

    auto copy_columns = [&](const Step& step, int stage) {
        if (step.first < 0) return;
        // products of scores skip groups, sums over columns pairs of them
        const u32 groups = SPARSE ? step.groups_of_block(first_row) : ALL_GROUPS, pairs = in_pairs(groups);
        // a key head meets the query heads that share it one after the other
        const int head = ROWS_ARE_KEYS ? block.head * a.shared_by + step.head : block.head / a.shared_by;
        const u32 tokens = memory + Memory::tokens + stage * STEP * 4;
        auto token_of = [&](int column) { return (int)load_shared<u32>(tokens + column * 4); };
        copy_rows<THREADS, STEP>(
            token_of,
            Source<SCORE_DIM>{memory + Memory::column_score + stage * Tile<STEP, SCORE_DIM>::BYTES,
                              a.column_score.start(block.batch, head), a.column_score.token, a.score_dim,
                              SCORE_SIDE ? pairs : groups},
            Source<COLUMN_VALUE_DIM>{memory + Memory::column_value + stage * Tile<STEP, COLUMN_VALUE_DIM>::BYTES,
                                     a.column_value.start(block.batch, head, first_column_channel),
                                     a.column_value.token, a.value_dim - first_column_channel,
                                     VALUE_SIDE ? pairs : groups});
        const Statistics* statistics = a.statistics + ((i64)block.batch * a.heads + head) * a.queries;
        if (const int column = thread_index(); column < STEP) {
            const int token = token_of(column);
            const u32 place = memory + Memory::column + (stage * STEP + column) * COLUMN_BYTES;
            if constexpr (ROWS_ARE_KEYS)
                copy_async<8>(place, token < 0 ? a.plan.hidden : statistics + token, true);
            else
                copy_async<4>(place, token < 0 ? &a.plan.hidden->minus_lse : key_bias + token,
                              key_bias || token < 0);
        }
    };

    Walk walk(a.plan, a.relation, block.tile, ROWS_ARE_KEYS ? a.shared_by : 1);
    Step now = walk.next(), next = walk.next(), ahead = walk.next();
    auto token_of_row = [&](int row) { return load(row_order + row); };
    const Source<SCORE_DIM> score_rows = {memory + Memory::row_score, a.row_score.start(block.batch, block.head),
                                          a.row_score.token, a.score_dim};
    const Source<VALUE_DIM> value_rows = {memory + Memory::row_value, a.row_value.start(block.batch, block.head),
                                          a.row_value.token, a.value_dim};
    if constexpr (SCORE_SIDE)
        copy_rows<THREADS, ROWS>(token_of_row, score_rows, value_rows);
    else
        copy_rows<THREADS, ROWS>(token_of_row, score_rows);
    walk.copy_tokens(now, memory + Memory::tokens);
    commit_copies();
    Sums sums;
    sums.slice = block.slice;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int token = token_of_row(warp * 16 + lane / 4 + 8 * i);
        sums.row_bias[i] = 0.f;
        sums.row_statistics[i] = {-infinity(), 0.f};
        if (token < 0) continue;
        if (ROWS_ARE_KEYS) {
            if (key_bias) sums.row_bias[i] = load(key_bias + token);
        } else {
            sums.row_statistics[i] = load(a.statistics + ((i64)block.batch * a.heads + block.head) * a.queries + token);
        }
    }
    wait_for_copies<0>();
    barrier();
    RowOperand<ROWS, SCORE_DIM, KEPT> row_score;
    RowOperand<ROWS, VALUE_DIM, KEPT> row_value;
    row_score.prepare(memory + Memory::row_score);
    if constexpr (SCORE_SIDE) row_value.prepare(memory + Memory::row_value);
    copy_columns(now, 0);
    walk.copy_tokens(next, memory + Memory::tokens + STEP * 4);
    commit_copies();

    for (int stage = 0; now.first >= 0; stage ^= 1) {
        wait_for_copies<0>();
        barrier();  // this step's columns are there, and all warps are done with the last step's
        copy_columns(next, stage ^ 1);
        walk.copy_tokens(ahead, memory + Memory::tokens + stage * STEP * 4);
        commit_copies();
        const Step far = walk.next();  // read now, used one step later
        const u32 groups = from_first_lane(now.groups_of(first_row + 16 * warp));
        const Seen seen = walk.seen(now, first_row + 16 * warp);  // on its way while scores are computed
        const int head = ROWS_ARE_KEYS ? block.head * a.shared_by + now.head : block.head;
        const PairBiases<ROWS_ARE_KEYS> pair_biases(a.relation, block.batch, head, a.plan, block.tile, now,
                                                    first_row + 16 * warp);

        const float scale = CROWDED ? a.scale.of(block.batch, block.head) * LOG2_E : kept_scale;
        const u32 score_tile = memory + Memory::column_score + stage * Tile<STEP, SCORE_DIM>::BYTES;
        const u32 value_tile = memory + Memory::column_value + stage * Tile<STEP, COLUMN_VALUE_DIM>::BYTES;
        const u32 column = memory + Memory::column + stage * STEP * COLUMN_BYTES;
        if (!MASKED || now.mask < 0)
            sums.step<false>(row_score, row_value, score_tile, value_tile, column, groups, seen, pair_biases, scale);
        else if (groups)
            sums.step<true>(row_score, row_value, score_tile, value_tile, column, groups, seen, pair_biases, scale);
        now = next, next = ahead, ahead = far;
    }

    char* const score_gradient = a.row_score_gradient.start(block.batch, block.head, first_score_channel);
    char* const value_gradient = a.row_value_gradient.start(block.batch, block.head, first_value_channel);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int token = token_of_row(warp * 16 + lane / 4 + 8 * i);
        float row_gradient = sums.bias_gradient[i];
        if (SCORE_SIDE && !ROWS_ARE_KEYS && a.row_gradient && token >= 0) {
            char* const q = a.row_score.start(block.batch, block.head, first_score_channel);
            row_gradient = dot_row<SCORE_CHANNELS>(row_at<const Storage>(q, a.row_score.token, token), sums.score, i,
                                                   a.score_dim - first_score_channel);
        }
        row_gradient += from_lane_xor(row_gradient, 1);
        row_gradient += from_lane_xor(row_gradient, 2);
        if (token < 0) continue;
        if constexpr (SCORE_SIDE)
            write_row<SCORE_CHANNELS>(row_at<Storage>(score_gradient, a.row_score_gradient.token, token), sums.score, i,
                                      a.score_dim - first_score_channel, a.scale.of(block.batch, block.head));
        if constexpr (VALUE_SIDE)
            write_row<VALUE_CHANNELS>(row_at<Storage>(value_gradient, a.row_value_gradient.token, token), sums.value, i,
                                      a.value_dim - first_value_channel, 1.f);
        if (SCORE_SIDE && a.row_gradient && lane % 4 == 0 && (block.slice == 0 || !ROWS_ARE_KEYS)) {
            const int slice = ROWS_ARE_KEYS ? 0 : block.slice;
            const i64 head = ((i64)slice * a.batch + block.batch) * row_heads + block.head;
            store(a.row_gradient + head * (ROWS_ARE_KEYS ? a.keys : a.queries) + token, row_gradient);
        }
    }
}
