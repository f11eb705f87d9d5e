// Forward pass: out = Σ e^{s − lse} v over the keys of each query's list, with a running maximum.
//
// A block takes ROWS queries of a query tile for one batch entry and head; each warp takes 16. It
// walks the tile's list: while a step's keys are worked on, the next step's rows are on their way
// to shared memory, and the tokens of the one after it.
#include "walk.cuh"

constexpr int SCORE_DIM = GEOATTN_SCORE_DIM;
constexpr int VALUE_DIM = GEOATTN_VALUE_DIM / SLICES;  // of the block's slice
constexpr bool KEPT = SCORE_DIM / PER_CHUNK <= (WIDE ? 8 : 16);

// The widest heads leave the scale no register: they read it in each step.
constexpr bool CROWDED = SCORE_DIM * sizeof(Storage) >= 512;

// Whether columns that no row sees are left out of copies; where registers are scarce all are copied.
constexpr bool SPARSE = SCORE_DIM * sizeof(Storage) < 1024;

struct Forward {
    Plan plan;
    View q, k, v, out, lse;
    const float* key_bias;  // [batch or 1, key], times log₂ e, or null
    i64 key_bias_batch;
    int batch, heads, shared_by;  // shared_by query heads use one key head
    int score_dim, value_dim;
    Scale scale;
    Relation relation;
};

struct Memory {
    static constexpr u32 q = 0;
    static constexpr u32 k = q + Tile<ROWS, SCORE_DIM>::BYTES;
    static constexpr u32 v = k + 2 * Tile<STEP, SCORE_DIM>::BYTES;
    static constexpr u32 bias = v + 2 * Tile<STEP, VALUE_DIM>::BYTES;
    static constexpr u32 tokens = bias + 2 * STEP * 4;
    static constexpr u32 bytes = tokens + 2 * STEP * 4;
};
static_assert(Memory::bytes == GEOATTN_SHARED_BYTES, "the launch reserves as much");

// Below every score that is not −∞, and finite: no step needs a case for rows that have seen no key yet.
constexpr float LOWEST = -3e38f;

struct Softmax {
    float top[2] = {LOWEST, LOWEST};    // largest score so far of the lane's two rows
    float total[2] = {0.f, 0.f};        // the lane's share of Σ 2^{s − top}
    float sums[VALUE_DIM / 8][4] = {};  // Σ 2^{s − top} v

    template <bool PARTIAL>
    DEVICE void step(const RowOperand<ROWS, SCORE_DIM, KEPT>& q, u32 k, u32 v, u32 bias, u32 groups, const Seen& seen,
                     const PairBiases<false>& pair_biases, float scale) {
        const int pair = thread_index() % 4;
        float p[STEP / 16][2][4] = {};  // of skipped groups it stays 0
        float new_top[2] = {top[0], top[1]};
        float largest[2] = {0.f, 0.f};  // product: one of −∞ hides no key, it is not a number
#pragma unroll
        for (int m = 0; m < STEP / 16; ++m) {
            float pair_bias[2][4];  // where registers suffice, on its way while the product is computed
            if constexpr (RELATED && !WIDE) pair_biases.fetch(pair_bias, m, PARTIAL ? groups >> 2 * m : 3);
            multiply_rows<PARTIAL, STEP>(p[m], q, k, m, groups >> 2 * m);
            if constexpr (RELATED && WIDE) pair_biases.fetch(pair_bias, m, PARTIAL ? groups >> 2 * m : 3);
#pragma unroll
            for (int g = 0; g < 2; ++g) {
                const int n = 2 * m + g;
                if (PARTIAL && !(groups >> n & 1)) continue;
                const float2 b = load_shared<float2>(bias + (8 * n + 2 * pair) * 4);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    largest[i / 2] = maximum(largest[i / 2], magnitude(p[m][g][i]));
                    float score = p[m][g][i] * scale + (i % 2 ? b.y : b.x);
                    if constexpr (RELATED) score += pair_bias[g][i];
                    if (PARTIAL) score = seen(n, i) ? score : -infinity();
                    p[m][g][i] = score;
                    new_top[i / 2] = maximum(new_top[i / 2], score);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (largest[i] == infinity()) total[i] = not_a_number();
            new_top[i] = maximum(new_top[i], from_lane_xor(new_top[i], 1));
            new_top[i] = maximum(new_top[i], from_lane_xor(new_top[i], 2));
        }
        if (any_lane(new_top[0] > top[0] || new_top[1] > top[1])) {  // rare after the first few steps
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float shrink = power_of_two(top[i] - new_top[i]);
                top[i] = new_top[i];
                total[i] *= shrink;
#pragma unroll
                for (int d = 0; d < VALUE_DIM / 8; ++d) {
                    sums[d][2 * i] *= shrink;
                    sums[d][2 * i + 1] *= shrink;
                }
            }
        }
#pragma unroll
        for (int m = 0; m < STEP / 16; ++m) {
            if (PARTIAL && !(groups >> 2 * m & 3)) continue;
            float some[2] = {0.f, 0.f};  // of the total, added up first: shorter sums have smaller errors
#pragma unroll
            for (int g = 0; g < 2; ++g) {
                if (PARTIAL && !(groups >> (2 * m + g) & 1)) continue;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    p[m][g][i] = power_of_two(p[m][g][i] - top[i / 2]);
                    some[i / 2] += p[m][g][i];
                }
            }
            total[0] += some[0];
            total[1] += some[1];
            add_weighted<STEP, VALUE_DIM, VALUE_DIM>(sums, p[m], v, m);
        }
    }
};

KERNEL(THREADS, GEOATTN_BLOCKS) forward(const Forward arguments) {
    const Forward& a = arguments;
    const u32 memory = shared_memory();
    const int lane = thread_index() % 32, warp = thread_index() / 32;
    const Block block(a.plan, a.heads, a.batch * a.heads);
    const int first_row = block.part * ROWS;
    const int* row_order = a.plan.row_order + (i64)block.tile * TILE + first_row;
    const float kept_scale = a.scale.of(block.batch, block.head) * LOG2_E;  // scores are exponents of 2
    const int first_channel = block.slice * VALUE_DIM, value_dim = a.value_dim - first_channel;
    const int key_head = block.head / a.shared_by;
    char* const k = a.k.start(block.batch, key_head);
    char* const v = a.v.start(block.batch, key_head, first_channel);
    const float* bias = a.key_bias ? a.key_bias + block.batch * a.key_bias_batch : nullptr;

    auto copy_keys = [&](const Step& step, int stage) {
        if (step.first < 0) return;
        const u32 groups = SPARSE ? step.groups_of_block(first_row) : ALL_GROUPS;
        const u32 tokens = memory + Memory::tokens + stage * STEP * 4;
        auto token_of = [&](int column) { return (int)load_shared<u32>(tokens + column * 4); };
        copy_rows<THREADS, STEP>(
            token_of,
            Source<SCORE_DIM>{memory + Memory::k + stage * Tile<STEP, SCORE_DIM>::BYTES, k, a.k.token, a.score_dim,
                              groups},
            Source<VALUE_DIM>{memory + Memory::v + stage * Tile<STEP, VALUE_DIM>::BYTES, v, a.v.token, value_dim,
                              in_pairs(groups)});
        if (const int column = thread_index(); column < STEP) {
            const int token = token_of(column);
            const float* from = token < 0 ? &a.plan.hidden->minus_lse : bias + token;
            copy_async<4>(memory + Memory::bias + (stage * STEP + column) * 4, from, bias || token < 0);
        }
    };

    Walk walk(a.plan, a.relation, block.tile, 1);
    Step now = walk.next(), next = walk.next(), ahead = walk.next();
    copy_rows<THREADS, ROWS>(
        [&](int row) { return load(row_order + row); },
        Source<SCORE_DIM>{memory + Memory::q, a.q.start(block.batch, block.head), a.q.token, a.score_dim});
    walk.copy_tokens(now, memory + Memory::tokens);
    commit_copies();
    wait_for_copies<0>();
    barrier();
    RowOperand<ROWS, SCORE_DIM, KEPT> q;
    q.prepare(memory + Memory::q);
    copy_keys(now, 0);
    walk.copy_tokens(next, memory + Memory::tokens + STEP * 4);
    commit_copies();

    Softmax softmax;
    for (int stage = 0; now.first >= 0; stage ^= 1) {
        wait_for_copies<0>();
        barrier();  // this step's keys are there, and all warps are done with the last step's
        copy_keys(next, stage ^ 1);
        walk.copy_tokens(ahead, memory + Memory::tokens + stage * STEP * 4);
        commit_copies();
        const Step far = walk.next();  // read now, used one step later
        const u32 groups = from_first_lane(now.groups_of(first_row + 16 * warp));
        const Seen seen = walk.seen(now, first_row + 16 * warp);  // on its way while scores are computed
        const PairBiases<false> pair_biases(a.relation, block.batch, block.head, a.plan, block.tile, now,
                                            first_row + 16 * warp);

        const float scale = CROWDED ? a.scale.of(block.batch, block.head) * LOG2_E : kept_scale;
        const u32 k_tile = memory + Memory::k + stage * Tile<STEP, SCORE_DIM>::BYTES;
        const u32 v_tile = memory + Memory::v + stage * Tile<STEP, VALUE_DIM>::BYTES;
        const u32 bias_row = memory + Memory::bias + stage * STEP * 4;
        if (!MASKED || now.mask < 0)
            softmax.step<false>(q, k_tile, v_tile, bias_row, groups, seen, pair_biases, scale);
        else if (groups)
            softmax.step<true>(q, k_tile, v_tile, bias_row, groups, seen, pair_biases, scale);
        now = next, next = ahead, ahead = far;
    }

    char* const out = a.out.start(block.batch, block.head, first_channel);
    char* const lse = a.lse.start(block.batch, block.head);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float total = softmax.total[i];
        total += from_lane_xor(total, 1);
        total += from_lane_xor(total, 2);
        const float inverse = total == 0.f ? 0.f : 1.f / total;  // a query without keys gives 0
        const int token = load(row_order + warp * 16 + lane / 4 + 8 * i);
        if (token < 0) continue;
        if (lane % 4 == 0 && block.slice == 0)
            store(row_at<float>(lse, a.lse.token, token),
                  total == 0.f ? -infinity() : of_exponent(softmax.top[i]) + natural_log(total));
        write_row<VALUE_DIM>(row_at<Storage>(out, a.out.token, token), softmax.sums, i, value_dim, inverse);
    }
}
