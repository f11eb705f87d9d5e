// What the kernels need from the machine, one spelling each.
//
// On a GPU these are single instructions (inline PTX, so that no toolkit header is needed). With
// GEOATTN_EMULATED the same names come from the emulator of the tests, which executes the kernels
// on a CPU and checks what hardware does not. Shared memory is addressed by 32-bit byte addresses.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

#ifdef GEOATTN_EMULATED
#include "emulator.h"
#else

#define DEVICE __device__ __forceinline__
// blocks: how many should fit a multiprocessor at once, which bounds the registers of a thread
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

DEVICE int thread_index() { return threadIdx.x; }
DEVICE u32 block_index() { return blockIdx.x; }

DEVICE u32 shared_memory() {
    extern __shared__ __align__(128) unsigned char bytes[];
    return (u32)__cvta_generic_to_shared(bytes);
}

// All threads of the block have arrived, and see what the others wrote to shared memory.
DEVICE void barrier() { __syncthreads(); }

// Starts a copy of BYTES (4, 8 or 16) from global to shared memory; zeros instead where not valid.
template <int BYTES>
DEVICE void copy_async(u32 destination, const void* source, bool valid) {
    const int bytes = valid ? BYTES : 0;
    if constexpr (BYTES == 16) {  // past L1: each block reads a tile row once
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(bytes)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(destination), "l"(source),
                     "n"(BYTES), "r"(bytes)
                     : "memory");
    }
}

// The copies that this thread started since the last call form one group.
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// All but the latest PENDING groups of this thread have landed. Others see them after a barrier.
template <int PENDING>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8×8 matrices of 16-bit elements: lane 8m + r gives the address of row r of matrix m, and
// lane 4r + c receives elements 2c and 2c + 1 of row r of each.
DEVICE void load_matrices(u32 (&words)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

// The first two of them; lanes 0 to 15 give the addresses.
DEVICE void load_two_matrices(u32 (&words)[2], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(address)
                 : "memory");
}

// As load_matrices, each matrix transposed: lane 4r + c receives rows 2c and 2c + 1 of column r.
DEVICE void load_matrices_transposed(u32 (&words)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

// c += a · b for a 16×16 (16×8 in tf32), b 16×8 (8×8), c 16×8, spread over the lanes of a warp.
DEVICE void multiply_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void multiply_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void multiply_tf32(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers rounded to 16 bits; low is the one at the lower address.
DEVICE u32 pack_bf16(float low, float high) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
DEVICE u32 pack_f16(float low, float high) {
    u32 word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
DEVICE float unpack_f16(u32 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((u16)bits));
    return x;
}
DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }

DEVICE float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float natural_log(float x) { return logf(x); }
DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
DEVICE float magnitude(float x) { return fabsf(x); }

// The value of the lane whose number differs in the bits of mask.
DEVICE float from_lane_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
// The value of the first lane. What all lanes know to be the same the compiler learns only so.
DEVICE u32 from_first_lane(u32 value) { return __shfl_sync(0xffffffffu, value, 0); }
// Whether the condition holds in any lane of the warp.
DEVICE bool any_lane(bool condition) { return __any_sync(0xffffffffu, condition); }

template <class T>
DEVICE T load(const T* address) {
    return *address;
}
template <class T>
DEVICE void store(T* address, T value) {
    *address = value;
}
template <class T>
DEVICE T load_shared(u32 address);
template <>
DEVICE u32 load_shared<u32>(u32 address) {
    u32 x;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
    return x;
}
template <>
DEVICE float load_shared<float>(u32 address) {
    return float_of(load_shared<u32>(address));
}
template <>
DEVICE float2 load_shared<float2>(u32 address) {
    float2 x;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
    return x;
}
#endif

DEVICE float infinity() { return float_of(0x7f800000u); }
DEVICE float not_a_number() { return float_of(0x7fffffffu); }
constexpr float LOG2_E = 1.4426950408889634f;
