// Runs kernels on a CPU, one block after the other. Every CUDA thread is a fiber, which gives way
// where it must wait: at a barrier, and at the instructions that a warp executes together.
#include "device.cuh"

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <ucontext.h>

namespace {
constexpr int LANES = 32, MAX_THREADS = 1024;
constexpr size_t STACK = 256 << 10;

struct Copy {
    u32 destination;
    const void* source;
    int bytes;
};

struct Fiber {
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    jmp_buf resume;
    bool started, finished;
    const u64* waits_for;  // runs on once this counter has left its value
    u64 value;
    std::vector<Copy> open;                // not yet committed
    std::vector<std::vector<Copy>> groups;  // committed, oldest first
};

// One instruction that all lanes of a warp execute together: the last one to arrive computes it.
struct Collective {
    const char* name;
    int arrived;
    u64 count;
    u32 inputs[LANES][10];
    u32 results[LANES][4];
};

// The last uses of a word of shared memory. Uses of several threads must lie in different epochs,
// that is, between different barriers.
struct Word {
    int writer, reader;  // −1: none, −2: several threads
    u64 written, read;   // epochs
    int pending;         // copies on their way to it
};

std::vector<Fiber> fibers(MAX_THREADS);
std::vector<Collective> warps(MAX_THREADS / LANES);
std::vector<unsigned char> memory;
std::vector<Word> words;
std::vector<std::pair<const char*, const char*>> arrays;  // the only global memory that may be touched
int threads, current, at_barrier;
u32 block;
u64 epoch;
jmp_buf scheduler;
void (*kernel)(const void*);
const void* arguments;
std::string message;

void give_way(const u64& counter) {
    Fiber& fiber = fibers[current];
    fiber.waits_for = &counter;
    fiber.value = counter;
    if (_setjmp(fiber.resume) == 0) _longjmp(scheduler, 1);
}

void enter() {
    kernel(arguments);
    fibers[current].finished = true;
    _longjmp(scheduler, 1);
}

void run(int thread) {
    Fiber& fiber = fibers[thread];
    current = thread;
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    if (!fiber.stack) fiber.stack.reset(new char[STACK]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    setcontext(&fiber.context);
}

bool runnable(const Fiber& fiber) {
    return !fiber.finished && (!fiber.started || *fiber.waits_for != fiber.value);
}

void run_block(int shared_bytes, std::mt19937& random) {
    memory.assign(shared_bytes, 0xff);  // NaN
    words.assign((shared_bytes + 3) / 4, {-1, -1, 0, 0, 0});
    for (int t = 0; t < threads; ++t) {
        fibers[t].started = fibers[t].finished = false;
        fibers[t].open.clear();
        fibers[t].groups.clear();
    }
    for (Collective& warp : warps) warp.arrived = 0, warp.count = 0;
    at_barrier = 0;
    epoch = 1;
    std::vector<int> order(threads / LANES), lanes(LANES);
    std::iota(order.begin(), order.end(), 0);
    std::iota(lanes.begin(), lanes.end(), 0);
    std::shuffle(lanes.begin(), lanes.end(), random);
    for (bool progress = true; progress;) {
        progress = false;
        std::shuffle(order.begin(), order.end(), random);
        for (int warp : order) {
            for (bool again = true; again;) {  // a warp runs until a barrier stops it
                again = false;
                for (int lane : lanes) {
                    const int t = warp * LANES + lane;
                    if (!runnable(fibers[t])) continue;
                    run(t);
                    if (!message.empty()) return;
                    again = progress = true;
                }
            }
        }
    }
    int waiting = 0;
    for (int t = 0; t < threads; ++t) waiting += !fibers[t].finished;
    if (waiting) {
        message = std::to_string(waiting) + " threads wait forever: " + std::to_string(at_barrier) +
                  " at a barrier, the others for lanes of their warp";
    }
    for (int t = 0; t < threads; ++t)
        if (!fibers[t].open.empty()) message = "copies were started but never committed";
}

// Executes an instruction of the whole warp; compute(warp) runs once all lanes have brought inputs.
template <class Compute>
const u32* together(const char* name, std::initializer_list<u32> inputs, Compute compute) {
    Collective& warp = warps[current / LANES];
    if (warp.arrived && std::strcmp(warp.name, name))
        emulator::fail("divergent warp: thread %d executes %s while others execute %s", current, name, warp.name);
    warp.name = name;
    std::copy(inputs.begin(), inputs.end(), warp.inputs[current % LANES]);
    if (++warp.arrived == LANES) {
        compute(warp);
        warp.arrived = 0;
        ++warp.count;
    } else {
        give_way(warp.count);
    }
    return warp.results[current % LANES];
}

void check_shared(u32 address, int bytes) {
    if (address + (size_t)bytes > memory.size())
        emulator::fail("thread %d: shared address %u is out of bounds (%zu bytes)", current, address, memory.size());
    if (address % bytes) emulator::fail("thread %d: shared address %u is not aligned to %d", current, address, bytes);
}

void note_read(u32 address, int bytes) {
    for (u32 w = address / 4; w < (address + bytes + 3) / 4; ++w) {
        Word& word = words[w];
        if (word.pending) emulator::fail("thread %d reads shared word %u before its copy has landed", current, w);
        if (word.written == epoch && word.writer != current)
            emulator::fail("race: thread %d reads shared word %u that thread %d wrote since the last barrier", current, w,
                           word.writer);
        word.reader = word.read == epoch && word.reader != current ? -2 : current;
        word.read = epoch;
    }
}

void note_write(u32 address, int bytes) {
    for (u32 w = address / 4; w < (address + bytes + 3) / 4; ++w) {
        Word& word = words[w];
        if ((word.read == epoch && word.reader != current) || (word.written == epoch && word.writer != current))
            emulator::fail("race: thread %d writes shared word %u that another uses since the last barrier", current, w);
        word.writer = current;
        word.written = epoch;
    }
}

void land(const std::vector<Copy>& copies) {
    for (const Copy& copy : copies) {
        for (u32 w = copy.destination / 4; w < (copy.destination + copy.bytes) / 4; ++w) --words[w].pending;
        note_write(copy.destination, copy.bytes);
        if (copy.source)
            std::memcpy(memory.data() + copy.destination, copy.source, copy.bytes);
        else
            std::memset(memory.data() + copy.destination, 0, copy.bytes);
    }
}

// start + Σ row · column as tensor cores add: every term is cut off at the 25th binary place after the
// first of the largest term, and the sum at the 24th of its own. (Hopper keeps more, none keeps less.)
float cut_off_sum(float start, const float* row, const float* column, int depth) {
    double terms[17], largest = std::fabs((double)start);
    bool ordinary = largest <= 1e38;  // neither NaN nor infinity
    for (int k = 0; k < depth; ++k) {
        terms[k] = (double)row[k] * column[k];
        largest = std::max(largest, std::fabs(terms[k]));
        ordinary = ordinary && std::fabs(terms[k]) <= 1e38;
    }
    terms[depth] = start;
    if (largest == 0. && ordinary) return start;
    double sum = 0.;
    if (!ordinary) {
        for (int k = 0; k <= depth; ++k) sum += terms[k];
        return (float)sum;
    }
    const int exponent = std::ilogb(largest);
    const double place = std::ldexp(1., exponent - 24), places = std::ldexp(1., 24 - exponent);
    int count = 0;  // of places: at most 17 · 2²⁵
    for (int k = 0; k <= depth; ++k) count += (int)(terms[k] * places);
    const float rounded = (float)(count * place);
    return std::fabs((double)rounded) > std::fabs(count * place) ? std::nextafterf(rounded, 0.f) : rounded;
}

float operand(u32 word, int half, emulator::Format format) {
    if (format == emulator::TF32) return float_of(word & ~0x1fffu);  // the lower bits are ignored
    const u32 bits = word >> 16 * half & 0xffff;
    return format == emulator::BF16 ? float_of(bits << 16) : emulator::from_f16(bits);
}
}  // namespace

namespace emulator {
void fail(const char* format, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    message = text;
    _longjmp(scheduler, 1);
}

void check_global(const void* address, size_t bytes, const char* what) {
    const char* first = (const char*)address;
    if ((uintptr_t)address % bytes) fail("thread %d: global address is not aligned to %zu", current, bytes);
    for (const auto& [start, end] : arrays)
        if (first >= start && first + bytes <= end) return;
    fail("thread %d of block %u: %zu bytes outside every array are %s", current, block, bytes, what);
}

void copy(u32 destination, const void* source, int bytes, bool valid) {
    check_shared(destination, bytes);
    if (valid) check_global(source, bytes, "copied");
    note_write(destination, bytes);
    for (u32 w = destination / 4; w < (destination + bytes) / 4; ++w) ++words[w].pending;
    std::memset(memory.data() + destination, 0xff, bytes);
    fibers[current].open.push_back({destination, valid ? source : nullptr, bytes});
}

// Leaves NaN in shared memory, as before anything was written.
void spoil(u32 destination, int bytes) {
    check_shared(destination, bytes);
    note_write(destination, bytes);
    std::memset(memory.data() + destination, 0xff, bytes);
}

void commit() {
    Fiber& fiber = fibers[current];
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

void wait(int pending) {
    auto& groups = fibers[current].groups;
    while ((int)groups.size() > pending) {
        land(groups.front());
        groups.erase(groups.begin());
    }
}

const void* read_shared(u32 address, int bytes) {
    check_shared(address, bytes);
    note_read(address, bytes);
    return memory.data() + address;
}

void matrices(u32* words, u32 address, int count, bool transposed) {
    if (current % LANES < 8 * count) {
        check_shared(address, 16);
        note_read(address, 16);
    }
    const char* name = transposed ? "load_matrices_transposed" : count == 4 ? "load_matrices" : "load_two_matrices";
    const u32* result = together(name, {address}, [=](Collective& warp) {
        for (int m = 0; m < count; ++m)
            for (int lane = 0; lane < LANES; ++lane) {
                u16 pair[2];
                for (int i = 0; i < 2; ++i) {
                    const int row = transposed ? lane % 4 * 2 + i : lane / 4, column = transposed ? lane / 4 : lane % 4 * 2 + i;
                    std::memcpy(pair + i, memory.data() + warp.inputs[8 * m + row][0] + 2 * column, 2);
                }
                warp.results[lane][m] = pair[0] | (u32)pair[1] << 16;
            }
    });
    std::copy(result, result + count, words);
}

void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, Format format) {
    static const char* const names[] = {"multiply_bf16", "multiply_f16", "multiply_tf32"};
    const u32* result = together(
        names[format], {a[0], a[1], a[2], a[3], b0, b1, bits_of(c[0]), bits_of(c[1]), bits_of(c[2]), bits_of(c[3])},
        [=](Collective& warp) {
            const int halves = format == TF32 ? 1 : 2, depth = 8 * halves;
            float left[16][16], right[8][16];  // right is transposed
            for (int lane = 0; lane < LANES; ++lane)
                for (int half = 0; half < halves; ++half) {
                    const int line = lane / 4, k = lane % 4 * halves + half;
                    for (int i = 0; i < 4; ++i)
                        left[line + i % 2 * 8][k + i / 2 * depth / 2] = operand(warp.inputs[lane][i], half, format);
                    for (int i = 0; i < 2; ++i)
                        right[line][k + i * depth / 2] = operand(warp.inputs[lane][4 + i], half, format);
                }
            for (int lane = 0; lane < LANES; ++lane)
                for (int i = 0; i < 4; ++i) {
                    const float *row = left[lane / 4 + i / 2 * 8], *column = right[lane % 4 * 2 + i % 2];
                    warp.results[lane][i] = bits_of(cut_off_sum(float_of(warp.inputs[lane][6 + i]), row, column, depth));
                }
        });
    for (int i = 0; i < 4; ++i) c[i] = float_of(result[i]);
}

u32 round_to_bf16(float x) {
    const u32 bits = bits_of(x);
    return std::isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
u32 round_to_f16(float x) {
    const u32 sign = bits_of(x) >> 16 & 0x8000, magnitude = bits_of(x) & 0x7fffffff;
    if (std::isnan(x)) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;  // rounds beyond 65504
    if (magnitude < 0x38800000)                         // subnormal: units of 2⁻²⁴
        return sign | (u32)std::nearbyint(std::ldexp(float_of(magnitude), 24));
    return sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
}
float from_f16(u32 bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? std::ldexp(1024.f + fraction, exponent - 25)
                                      : std::ldexp((float)fraction, -24);
    return bits & 0x8000 ? -size : size;
}

// Runs `blocks` blocks; returns what went wrong, or null. ranges: start and end of each array.
const char* launch(void (*chosen)(const void*), const void* its_arguments, u32 blocks, int block_threads,
                   int shared_bytes, const char* const* ranges, int n_ranges, unsigned seed) {
    message.clear();
    threads = block_threads;
    kernel = chosen;
    arguments = its_arguments;
    arrays.clear();
    for (int i = 0; i < n_ranges; ++i) arrays.emplace_back(ranges[2 * i], ranges[2 * i + 1]);
    std::mt19937 random(seed);
    std::vector<u32> order(blocks);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (u32 b : order) {
        block = b;
        run_block(shared_bytes, random);
        if (!message.empty()) {
            message += " (block " + std::to_string(block) + ")";
            return message.c_str();
        }
    }
    return nullptr;
}
}  // namespace emulator

int thread_index() { return current; }
u32 block_index() { return block; }

void barrier() {
    if (++at_barrier == threads) {
        at_barrier = 0;
        ++epoch;
    } else {
        give_way(epoch);
    }
}

float from_lane_xor(float value, int mask) {
    const u32* result = together("from_lane_xor", {bits_of(value), (u32)mask}, [](Collective& warp) {
        for (int lane = 0; lane < LANES; ++lane) warp.results[lane][0] = warp.inputs[lane ^ (int)warp.inputs[lane][1]][0];
    });
    return float_of(result[0]);
}

u32 from_first_lane(u32 value) {
    return *together("from_first_lane", {value}, [](Collective& warp) {
        for (int lane = 0; lane < LANES; ++lane) warp.results[lane][0] = warp.inputs[0][0];
    });
}

bool any_lane(bool condition) {
    const u32* result = together("any_lane", {(u32)condition}, [](Collective& warp) {
        u32 any = 0;
        for (int lane = 0; lane < LANES; ++lane) any |= warp.inputs[lane][0];
        for (int lane = 0; lane < LANES; ++lane) warp.results[lane][0] = any;
    });
    return result[0];
}
