// The element types of the operands, and their products on tensor cores with float32 sums.
//
// A fragment word holds 32 bits of a row: two 16-bit elements or one float32. In words, the
// operand fragments of all three types are laid out alike, so that one set of loads serves them.
#pragma once
#include "device.cuh"

struct BFloat16 {
    using Storage = u16;
    static DEVICE u32 pack(float low, float high) { return pack_bf16(low, high); }
    static DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { multiply_bf16(c, a, b0, b1); }
    // Σ x·y over the elements of a word
    static DEVICE float dot(u32 x, u32 y) {
        return float_of(x << 16) * float_of(y << 16) + float_of(x & 0xffff0000u) * float_of(y & 0xffff0000u);
    }
    // two neighboring elements of a row, to global memory
    static DEVICE void store_pair(Storage* address, float first, float second) {
        store((u32*)address, pack(first, second));
    }
    // the same from there
    static DEVICE float2 load_pair(const Storage* address) {
        const u32 x = load((const u32*)address);
        return {float_of(x << 16), float_of(x & 0xffff0000u)};
    }
};

struct Float16 {
    using Storage = u16;
    static DEVICE u32 pack(float low, float high) { return pack_f16(low, high); }
    static DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { multiply_f16(c, a, b0, b1); }
    static DEVICE float dot(u32 x, u32 y) {
        return unpack_f16(x & 0xffffu) * unpack_f16(y & 0xffffu) + unpack_f16(x >> 16) * unpack_f16(y >> 16);
    }
    static DEVICE void store_pair(Storage* address, float first, float second) {
        store((u32*)address, pack(first, second));
    }
    static DEVICE float2 load_pair(const Storage* address) {
        const u32 x = load((const u32*)address);
        return {unpack_f16(x & 0xffffu), unpack_f16(x >> 16)};
    }
};

// float32 as the sum of two tf32 numbers, whose product keeps three of its four terms: the error
// is about 2⁻²² of the product, where plain tf32 would leave 2⁻¹¹. Tensor cores cut sums off where
// others round them, an error that always points to zero and grows with the number of terms: they
// add up eight terms here, and the rest is added outside.
struct Float32 {
    using Storage = float;
    struct Split {
        u32 high, low;
    };
    // tf32 is the upper 19 bits of float32: the lower ones are ignored, so that half of the last place
    // added rounds the low number. The high one is cut off; what it lacks is exact.
    static DEVICE Split split(u32 bits) {
        const u32 high = bits & 0xffffe000u;
        return {high, bits_of(float_of(bits) - float_of(high)) + 0x1000u};
    }
    static DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
        const Split s0 = split(a[0]), s1 = split(a[1]), s2 = split(a[2]), s3 = split(a[3]);
        const u32 high[4] = {s0.high, s1.high, s2.high, s3.high}, low[4] = {s0.low, s1.low, s2.low, s3.low};
        multiply_split(c, high, low, b0, b1);
    }
    static DEVICE void multiply_split(float (&c)[4], const u32 (&high)[4], const u32 (&low)[4], u32 b0, u32 b1) {
        const Split s0 = split(b0), s1 = split(b1);
        float terms[4] = {};
        multiply_tf32(terms, low, s0.high, s1.high);  // small ones first
        multiply_tf32(terms, high, s0.low, s1.low);
        multiply_tf32(terms, high, s0.high, s1.high);
#pragma unroll
        for (int i = 0; i < 4; ++i) c[i] += terms[i];
    }
    static DEVICE float dot(u32 x, u32 y) { return float_of(x) * float_of(y); }
    static DEVICE void store_pair(Storage* address, float first, float second) {
        store((float2*)address, float2{first, second});
    }
    static DEVICE float2 load_pair(const Storage* address) { return load((const float2*)address); }
};

// log₂ e times a number, bent back from BEND on so that it is finite for every finite one: the kernels
// work with exponents of 2, and a bias of −3.4e38 must not become −∞, which hides a key. The order is kept.
constexpr float BEND = 4.2535296e37f;  // 2¹²⁵
DEVICE float exponent(float x) {
    const float size = magnitude(x);
    if (!(size > BEND / LOG2_E && size < infinity())) return x * LOG2_E;
    const float bent = BEND + (size - BEND / LOG2_E) * 0.5f;
    return x < 0.f ? -bent : bent;
}
// The number whose exponent this is.
DEVICE float of_exponent(float y) {
    const float size = magnitude(y);
    if (!(size > BEND && size < infinity())) return y / LOG2_E;
    const float straight = BEND / LOG2_E + (size - BEND) * 2.f;
    return y < 0.f ? -straight : straight;
}

using Element = GEOATTN_ELEMENT;
using Storage = Element::Storage;
// Elements in the 16 bytes that are copied and addressed together.
constexpr int PER_CHUNK = 16 / sizeof(Storage);
constexpr bool WIDE = sizeof(Storage) == 4;
