// What the backward pass needs to know of each query: −lse · log₂ e and delta = dO · out − dlse.
//
// Eight lanes share a query of one head: they add up its channels, 16 bytes at a time.
#include "tiles.cuh"

struct Delta {
    View out, out_gradient, lse, lse_gradient;  // lse_gradient.data is null where it is zero
    float2* statistics;                         // [batch, head, query]
    i64 rows;                                   // batch × head × query
    int heads, queries, value_dim;
};

constexpr int THREADS = 128, LANES = 8;

KERNEL(THREADS, GEOATTN_BLOCKS) delta(const Delta arguments) {
    const Delta& a = arguments;
    const i64 row = (i64)block_index() * (THREADS / LANES) + thread_index() / LANES;
    const bool valid = row < a.rows;  // lanes without a row still take part in the sums
    const int query = row % a.queries;
    const i64 head = row / a.queries % a.heads, batch = row / a.queries / a.heads;
    float sum = 0.f;
    if (valid) {
        const Storage* out = row_at<const Storage>(a.out.start(batch, head), a.out.token, query);
        const Storage* gradient =
            row_at<const Storage>(a.out_gradient.start(batch, head), a.out_gradient.token, query);
#pragma unroll 1
        for (int c = thread_index() % LANES * PER_CHUNK; c < a.value_dim; c += LANES * PER_CHUNK) {
            const uint4 x = load((const uint4*)(out + c)), y = load((const uint4*)(gradient + c));
            const u32 xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) sum += Element::dot(xs[i], ys[i]);
        }
    }
#pragma unroll
    for (int mask = 1; mask < LANES; mask *= 2) sum += from_lane_xor(sum, mask);
    if (!valid || thread_index() % LANES) return;
    const float lse = load(row_at<const float>(a.lse.start(batch, head), a.lse.token, query));
    if (lse == -infinity()) {
        store(a.statistics + row, float2{-infinity(), 0.f});
        return;
    }
    if (a.lse_gradient.data)
        sum -= load(row_at<const float>(a.lse_gradient.start(batch, head), a.lse_gradient.token, query));
    store(a.statistics + row, float2{-exponent(lse), sum});
}
