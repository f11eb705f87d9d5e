// Tiles of token rows in shared memory, and their products.
//
// Names of positions within a warp's 16×8 product: lane = 4·line + pair; the lane holds elements
// (line, 2·pair), (line, 2·pair + 1), (line + 8, 2·pair), (line + 8, 2·pair + 1).
#pragma once
#include "numbers.cuh"

// A tensor [batch, token, head, channel] where it lies. Strides are in bytes; channels lie side by side.
struct View {
    char* data;
    i64 batch, head;
    u32 token;  // 32 bits suffice, and make a row's address a single instruction

    DEVICE char* start(i64 b, i64 h, int channel = 0) const {
        return data + b * batch + h * head + channel * (int)sizeof(Storage);
    }
};

// The factor of q·k: one number, or one for each batch entry and head.
struct Scale {
    const float* each;  // [batch or 1, head], or null
    i64 batch;
    float all;

    DEVICE float of(i64 b, int head) const { return each ? load(each + b * batch + head) : all; }
};

// Row `token` of a tensor whose row 0 starts at `start`.
template <class T>
DEVICE T* row_at(char* start, u32 stride, int token) {
    return (T*)(start + (u64)(u32)token * stride);
}

DEVICE constexpr int smallest(int a) { return a; }
DEVICE constexpr int smallest(int a, int b) { return a < b ? a : b; }

// ROWS × DIM elements in chunks of 16 bytes. The chunks of a row are permuted by the row number, so
// that eight rows of one column of chunks lie in different banks, as do eight chunks of a row.
template <int ROWS, int DIM>
struct Tile {
    static constexpr int CHUNKS = DIM / PER_CHUNK;
    static constexpr int BYTES = ROWS * CHUNKS * 16;
    static constexpr int PERIOD = (CHUNKS & -CHUNKS) > 8 ? 8 : (CHUNKS & -CHUNKS);

    static DEVICE u32 address(int row, int chunk) {
        return (row * CHUNKS + (chunk ^ (row / (8 / PERIOD) % PERIOD))) * 16;
    }
    // Eight rows further down the permutation is the same.
    static constexpr u32 EIGHT_ROWS = 8 * CHUNKS * 16;

    // Chunks of one row, for a lane that reads chunk c + offset for many constants c, multiples of a
    // power of two above the offset: nothing but the last term of the sum is left for run time.
    struct Row {
        u32 start, twist;
        DEVICE Row(u32 tile, int row, int offset)
            : start(tile + row * CHUNKS * 16), twist((offset ^ (row / (8 / PERIOD) % PERIOD)) * 16) {}
        DEVICE u32 operator()(int c) const { return start + c / 8 * 128 + (c % 8 * 16 ^ twist); }
    };
};

constexpr u32 ALL_GROUPS = 0xffffffffu;

// Groups of eight rows, a bit each, in pairs: both of a pair are read where either is.
DEVICE u32 in_pairs(u32 groups) {
    const u32 either = (groups | groups >> 1) & 0x55555555u;
    return either | either << 1;
}

// A tensor's part in a copy of token rows: from the rows of one batch entry and head to a tile.
template <int DIM>
struct Source {
    u32 tile;
    char* start;
    u32 stride;
    int dim;                   // channels beyond are zero
    u32 groups = ALL_GROUPS;  // bit n: whether anything reads rows 8n to 8n + 7; others keep what they held

    // Starts the copy of every LANES-th chunk of a row, from chunk `lane` on.
    template <int ROWS, int LANES>
    DEVICE void copy(int row, int token, int lane) const {
        if (!(groups >> row / 8 & 1)) return;
        using T = Tile<ROWS, DIM>;
        const typename T::Row place(tile, row, lane);
        const Storage* from = row_at<Storage>(start, stride, token) + lane * PER_CHUNK;
#pragma unroll(8)
        for (int c = 0; c < T::CHUNKS; c += LANES)
            copy_async<16>(place(c), from + c * PER_CHUNK, token >= 0 && (c + lane) * PER_CHUNK < dim);
    }
};

// Starts the copy of ROWS token rows of one or two tensors; token_of(row) is the token of a row,
// negative for padding. Neighboring lanes take neighboring chunks, so that memory is read in whole
// lines; the rows and chunks of a thread lie at fixed distances, which leaves no address to compute
// but that of each row.
template <int THREADS, int ROWS, class TokenOf, int... DIMS>
DEVICE void copy_rows(TokenOf token_of, const Source<DIMS>&... sources) {
    constexpr int LANES = smallest(Tile<ROWS, DIMS>::PERIOD...), AT_ONCE = THREADS / LANES;
    constexpr int TURNS = (ROWS + AT_ONCE - 1) / AT_ONCE, COPIES = TURNS * (Tile<ROWS, DIMS>::CHUNKS + ...) / LANES;
#pragma unroll(COPIES <= 16 ? TURNS : 1)  // with more at once, addresses crowd the registers
    for (int first = 0; first < ROWS; first += AT_ONCE) {
        const int row = first + thread_index() / LANES;
        if (ROWS % AT_ONCE && row >= ROWS) break;
        const int token = token_of(row);
        (sources.template copy<ROWS, LANES>(row, token, thread_index() % LANES), ...);
    }
}

// The left operand of a product: 16 rows of a tile, one warp's share. Narrow rows stay in registers.
template <int ROWS, int DIM, bool KEPT>
struct RowOperand {
    using T = Tile<ROWS, DIM>;
    static constexpr int STEPS = T::CHUNKS / 2;
    u32 tile;
    u32 kept[KEPT ? STEPS : 1][4];

    DEVICE void fetch(u32 (&words)[4], int step) const {
        const int lane = thread_index() % 32, warp = thread_index() / 32;
        const typename T::Row row(tile + warp * 2 * T::EIGHT_ROWS, lane % 16, lane / 16);
        load_matrices(words, row(2 * step));
    }
    DEVICE void prepare(u32 address) {
        tile = address;
        if constexpr (KEPT) {
#pragma unroll
            for (int step = 0; step < STEPS; ++step) fetch(kept[step], step);
        }
    }
    DEVICE void fragment(u32 (&words)[4], int step) const {
        if constexpr (KEPT) {
#pragma unroll
            for (int i = 0; i < 4; ++i) words[i] = kept[step][i];
        } else {
            fetch(words, step);
        }
    }
};

// products[g] += rows · columnsᵀ for the two groups of eight columns of column pair m; PARTIAL
// skips the groups whose bit is 0.
template <bool PARTIAL, int COLUMNS, int ROWS, int DIM, bool KEPT>
DEVICE void multiply_rows(float (&products)[2][4], const RowOperand<ROWS, DIM, KEPT>& rows, u32 tile, int m,
                          u32 bits) {
    using T = Tile<COLUMNS, DIM>;
    const int lane = thread_index() % 32;
    const typename T::Row row(tile + 2 * m * T::EIGHT_ROWS, lane % 8, lane / 8);
#pragma unroll(KEPT ? T::CHUNKS / 4 : WIDE ? 1 : 4)
    for (int quarter = 0; quarter < T::CHUNKS / 4; ++quarter) {  // four chunks of every row
        u32 a[2][4];
        rows.fragment(a[0], 2 * quarter);
        rows.fragment(a[1], 2 * quarter + 1);
#pragma unroll
        for (int g = 0; g < 2; ++g) {
            if (PARTIAL && !(bits >> g & 1)) continue;
            u32 b[4];
            load_matrices(b, row(4 * quarter) + g * T::EIGHT_ROWS);
            Element::multiply(products[g], a[0], b[0], b[1]);
            Element::multiply(products[g], a[1], b[2], b[3]);
        }
    }
    if constexpr (T::CHUNKS % 4) {
        u32 a[4];
        rows.fragment(a, T::CHUNKS / 2 - 1);
        const typename T::Row pair(tile + 2 * m * T::EIGHT_ROWS, lane % 8, lane / 8 % 2);
#pragma unroll
        for (int g = 0; g < 2; ++g) {
            if (PARTIAL && !(bits >> g & 1)) continue;
            u32 b[2];
            load_two_matrices(b, pair(T::CHUNKS - 2) + g * T::EIGHT_ROWS);
            Element::multiply(products[g], a, b[0], b[1]);
        }
    }
}

// sums += weights · columns for the 16 columns of pair m, whose weights are products as above, and for
// the CHANNELS channels of their rows that start at `tile`.
template <int COLUMNS, int DIM, int CHANNELS, class Element = ::Element>
DEVICE void add_weighted(float (&sums)[CHANNELS / 8][4], const float (&weights)[2][4], u32 tile, int m) {
    using T = Tile<COLUMNS, DIM>;
    const int lane = thread_index() % 32;
    if constexpr (!WIDE) {
        // a product's layout, rounded, is that of a left operand
        const u32 a[4] = {Element::pack(weights[0][0], weights[0][1]), Element::pack(weights[0][2], weights[0][3]),
                          Element::pack(weights[1][0], weights[1][1]), Element::pack(weights[1][2], weights[1][3])};
        const typename T::Row row(tile + 2 * m * T::EIGHT_ROWS, lane % 16, lane / 16);
#pragma unroll
        for (int d = 0; d < CHANNELS / 16; ++d) {
            u32 b[4];
            load_matrices_transposed(b, row(2 * d));
            Element::multiply(sums[2 * d], a, b[0], b[1]);
            Element::multiply(sums[2 * d + 1], a, b[2], b[3]);
        }
    } else {
        // a product holds columns 2·pair and 2·pair + 1 where a left operand holds pair and pair + 4:
        // the eight terms of the sum are taken in that order, and the right operand's rows likewise
        const int line = lane / 4, pair = lane % 4;
#pragma unroll
        for (int g = 0; g < 2; ++g) {
            u32 high[4], low[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const typename Element::Split s = Element::split(bits_of(weights[g][i % 2 * 2 + i / 2]));
                high[i] = s.high, low[i] = s.low;
            }
            const u32 group = tile + (2 * m + g) * T::EIGHT_ROWS + line % 4 * 4;
            const typename T::Row first(group, 2 * pair, line / 4), second(group, 2 * pair + 1, line / 4);
#pragma unroll
            for (int d = 0; d < CHANNELS / 8; ++d) {
                const u32 b0 = load_shared<u32>(first(2 * d)), b1 = load_shared<u32>(second(2 * d));
                Element::multiply_split(sums[d], high, low, b0, b1);
            }
        }
    }
}

// Row line + 8·i of a product's sums, times a factor, to a row in global memory.
template <int DIM>
DEVICE void write_row(Storage* row, const float (&sums)[DIM / 8][4], int i, int dim, float factor) {
    const int channel = thread_index() % 4 * 2;
#pragma unroll
    for (int d = 0; d < DIM / 8; ++d)
        if (d * 8 + channel < dim)
            Element::store_pair(row + d * 8 + channel, sums[d][2 * i] * factor, sums[d][2 * i + 1] * factor);
}

// The lane's share of the product of row line + 8·i of a product's sums with a row in global memory.
template <int DIM>
DEVICE float dot_row(const Storage* row, const float (&sums)[DIM / 8][4], int i, int dim) {
    const int channel = thread_index() % 4 * 2;
    float sum = 0.f;
#pragma unroll
    for (int d = 0; d < DIM / 8; ++d) {
        if (d * 8 + channel >= dim) continue;
        const float2 x = Element::load_pair(row + d * 8 + channel);
        sum += sums[d][2 * i] * x.x + sums[d][2 * i + 1] * x.y;
    }
    return sum;
}
