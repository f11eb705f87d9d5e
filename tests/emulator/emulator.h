// The machine of cuda/device.cuh on a CPU. Every CUDA thread is a fiber; see emulator.cpp.
//
// What it checks, with a message instead of a wrong result: shared accesses out of bounds or
// misaligned; reads of copies that have not landed; races within the block, which is any use of
// a shared word that another thread wrote, or overwrites, without a barrier in between; lanes of
// a warp at different collectives; threads that wait for each other forever. Copies land at their
// wait and leave NaN until then. The order of threads is shuffled.
#pragma once
#include <stddef.h>  // nothing more: reading the C++ headers takes longer than compiling a kernel

#define DEVICE inline
#define KERNEL(threads, blocks) static void

struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
struct uint2 {
    u32 x, y;
};
struct uint4 {
    u32 x, y, z, w;
};

namespace emulator {
[[noreturn]] void fail(const char* format, ...);
void matrices(u32* words, u32 address, int count, bool transposed);
enum Format { BF16, F16, TF32 };
void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, Format format);
u32 round_to_bf16(float x);
u32 round_to_f16(float x);
float from_f16(u32 bits);
void copy(u32 destination, const void* source, int bytes, bool valid);
void spoil(u32 destination, int bytes);
void commit();
void wait(int pending);
const void* read_shared(u32 address, int bytes);
void check_global(const void* address, size_t bytes, const char* what);
}  // namespace emulator

int thread_index();
u32 block_index();
inline u32 shared_memory() { return 0; }
void barrier();
template <int BYTES>
void copy_async(u32 destination, const void* source, bool valid) {
    emulator::copy(destination, source, BYTES, valid);
}
inline void commit_copies() { emulator::commit(); }
template <int PENDING>
void wait_for_copies() {
    emulator::wait(PENDING);
}
inline void load_matrices(u32 (&words)[4], u32 address) { emulator::matrices(words, address, 4, false); }
inline void load_two_matrices(u32 (&words)[2], u32 address) { emulator::matrices(words, address, 2, false); }
inline void load_matrices_transposed(u32 (&words)[4], u32 address) { emulator::matrices(words, address, 4, true); }
inline void multiply_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::multiply(c, a, b0, b1, emulator::BF16);
}
inline void multiply_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::multiply(c, a, b0, b1, emulator::F16);
}
inline void multiply_tf32(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::multiply(c, a, b0, b1, emulator::TF32);
}
inline u32 bits_of(float x) {
    u32 bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}
inline float float_of(u32 bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
inline u32 pack_bf16(float low, float high) { return emulator::round_to_bf16(low) | emulator::round_to_bf16(high) << 16; }
inline u32 pack_f16(float low, float high) { return emulator::round_to_f16(low) | emulator::round_to_f16(high) << 16; }
inline float unpack_f16(u32 bits) { return emulator::from_f16(bits); }
inline float power_of_two(float x) {
    const float y = __builtin_exp2f(x);
    return y < 1.17549435e-38f ? 0.f : y;  // subnormal results are flushed
}
inline float natural_log(float x) { return __builtin_logf(x); }
inline float maximum(float a, float b) { return __builtin_fmaxf(a, b); }
inline float magnitude(float x) { return __builtin_fabsf(x); }
float from_lane_xor(float value, int mask);
u32 from_first_lane(u32 value);
bool any_lane(bool condition);

template <class T>
T load(const T* address) {
    emulator::check_global(address, sizeof(T), "read");
    return *address;
}
template <class T>
void store(T* address, T value) {
    emulator::check_global(address, sizeof(T), "written");
    *address = value;
}
template <class T>
T load_shared(u32 address) {
    T x;
    __builtin_memcpy(&x, emulator::read_shared(address, sizeof(T)), sizeof(T));
    return x;
}
