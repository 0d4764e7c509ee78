// What test_plain.cpp is made of: tensors in memory of exactly their size, masks, and comparisons that count.
// Nothing here shares code with the kernels; 16-bit floats are those of the CPU's side (csrc/cpu/numeric.h).
#pragma once

#include "cpu/numeric.h"
#include "cuda/kernels.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

using namespace pconv;
using namespace pconv::cuda;

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

// ---- numbers

inline uint64_t random_bits() {
    static uint64_t state = 0x9E3779B97F4A7C15u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state >> 11;
}
inline double random_value() { return double(random_bits() % 20001) / 10000 - 1; }
inline bool chance(double probability) { return double(random_bits() % 10000) < probability * 10000; }

inline int size_of(DType dtype) {
    return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : dtype == DType::u8 ? 1 : 2;
}
inline const char* name_of(DType dtype) {
    const char* const names[] = {"f64", "f32", "bf16", "f16", "u8"};
    return names[int(dtype)];
}
// ThreadSanitizer takes a fraction of a millisecond for every CUDA thread, and a race is the same in every dtype: its
// build compares little and runs each kernel in few shapes, those with several tiles among them.
#ifdef __SANITIZE_THREAD__
constexpr bool few_cases = true;
constexpr DType float_types[] = {DType::f32};
constexpr DType fast_types[] = {DType::f32};
#else
constexpr bool few_cases = false;
constexpr DType float_types[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
constexpr DType fast_types[] = {DType::f32, DType::bf16, DType::f16};
#endif

inline double read_number(DType dtype, const void* at) {
    switch (dtype) {
        case DType::f64: return *static_cast<const double*>(at);
        case DType::f32: return *static_cast<const float*>(at);
        case DType::bf16: return cpu::load(*static_cast<const cpu::BFloat16*>(at));
        case DType::f16: return cpu::load(*static_cast<const cpu::Half*>(at));
        case DType::u8: return *static_cast<const uint8_t*>(at);
    }
    return nan_value;
}
inline void write_number(DType dtype, void* at, double value) {
    switch (dtype) {
        case DType::f64: *static_cast<double*>(at) = value; break;
        case DType::f32: *static_cast<float*>(at) = float(value); break;
        case DType::bf16: cpu::store(*static_cast<cpu::BFloat16*>(at), float(value)); break;
        case DType::f16: cpu::store(*static_cast<cpu::Half*>(at), float(value)); break;
        case DType::u8: *static_cast<uint8_t*>(at) = uint8_t(value); break;
    }
}

// ---- memory: exactly as long as what it holds, so that AddressSanitizer sees the first byte outside; NaN at first

class Array {
  public:
    Array(DType dtype, int64_t count, int64_t lead = 0) : dtype(dtype), count(count), lead_(lead) {
        const size_t bytes = size_t(count + lead) * size_of(dtype);
        void* memory = nullptr;
        if (posix_memalign(&memory, 256, bytes == 0 ? 1 : bytes) != 0) std::abort();
        std::memset(memory, 0xFF, bytes);
        memory_.reset(static_cast<uint8_t*>(memory), std::free);
    }
    uint8_t* data() const { return memory_.get() + lead_ * size_of(dtype); }
    double get(int64_t index) const { return read_number(dtype, data() + index * size_of(dtype)); }
    void set(int64_t index, double value) const { write_number(dtype, data() + index * size_of(dtype), value); }
    bool same_bits(const Array& other) const {
        return count == other.count && std::memcmp(data(), other.data(), size_t(count) * size_of(dtype)) == 0;
    }
    DType dtype;
    int64_t count;

  private:
    int64_t lead_;  // elements before the first: a view that is not aligned to 16 bytes
    std::shared_ptr<uint8_t> memory_;
};

// Room beyond the sizes makes a view into a larger tensor.
struct Room {
    int64_t channels = 0, columns = 0, lead = 0, rows = 0;  // rows: at each image's end
};

struct Tensor {
    Array array;
    int64_t sizes[4];
    Strides strides;

    int64_t index(int64_t n, int64_t c, int64_t h, int64_t w) const {
        return n * strides.at[0] + c * strides.at[1] + h * strides.at[2] + w * strides.at[3];
    }
    double get(int64_t n, int64_t c, int64_t h, int64_t w) const { return array.get(index(n, c, h, w)); }
    void set(int64_t n, int64_t c, int64_t h, int64_t w, double value) const { array.set(index(n, c, h, w), value); }
    void* data() const { return array.data(); }
};

template <class Visit>
void for_each(const int64_t sizes[4], const Visit& visit) {
    for (int64_t n = 0; n < sizes[0]; ++n)
        for (int64_t c = 0; c < sizes[1]; ++c)
            for (int64_t h = 0; h < sizes[2]; ++h)
                for (int64_t w = 0; w < sizes[3]; ++w) visit(n, c, h, w);
}

inline Tensor make_tensor(DType dtype, Layout layout, int64_t n, int64_t c, int64_t h, int64_t w, Room room = {}) {
    const int64_t wide = w + room.columns, deep = c + room.channels, high = h + room.rows;
    const Strides nchw{{deep * high * wide, high * wide, wide, 1}}, nhwc{{deep * high * wide, 1, deep * wide, deep}};
    const Strides strides = layout == Layout::nchw ? nchw : nhwc;
    return Tensor{Array(dtype, n * deep * high * wide, room.lead), {n, c, h, w}, strides};
}

inline Tensor random_tensor(DType dtype, Layout layout, int64_t n, int64_t c, int64_t h, int64_t w, Room room = {}) {
    const Tensor out = make_tensor(dtype, layout, n, c, h, w, room);
    for_each(out.sizes, [&](auto... at) { out.set(at..., random_value()); });
    return out;
}

// ---- the packed form

constexpr Layout layouts[] = {Layout::nchw, Layout::nhwc};

inline const char* layout_name(Layout layout) { return layout == Layout::nchw ? "nchw" : "nhwc"; }

// Channels filled up to 16 bytes.
inline int64_t padded(int64_t channels, DType dtype) {
    const int64_t vector = 16 / size_of(dtype);
    return (channels + vector - 1) / vector * vector;
}

// ---- masks

enum class Holes { none, one, shared, two_blocks, per_channel, per_channel_shared };
#ifdef __SANITIZE_THREAD__
constexpr Holes all_holes[] = {Holes::per_channel};
#else
constexpr Holes all_holes[] = {Holes::none,       Holes::one,         Holes::shared,
                               Holes::two_blocks, Holes::per_channel, Holes::per_channel_shared};
#endif
inline const char* name_of(Holes holes) {
    const char* const names[] = {"none", "one", "shared", "two_blocks", "per_channel", "per_channel_shared"};
    return names[int(holes)];
}

struct TestMask {
    Holes holes;
    Array bytes;
    int64_t n, blocks, h, w, split;  // channels from split on are the second block's
    Mask view;

    bool per_channel() const { return holes == Holes::per_channel || holes == Holes::per_channel_shared; }
    bool valid(int64_t image, int64_t channel, int64_t y, int64_t x) const {
        if (holes == Holes::none) return true;
        const int64_t block = per_channel() ? channel : holes == Holes::two_blocks && channel >= split ? 1 : 0;
        return bytes.get((((n == 1 ? 0 : image) * blocks + block) * h + y) * w + x) != 0;
    }
};

// Half of the pixels, and no pixel at all in the upper half of the last image: windows there are dead.
inline TestMask make_mask(Holes holes, int64_t n, int64_t c, int64_t h, int64_t w) {
    const bool per_channel = holes == Holes::per_channel || holes == Holes::per_channel_shared;
    const bool shared = holes == Holes::shared || holes == Holes::per_channel_shared || holes == Holes::none;
    const int64_t images = shared ? 1 : n, blocks = per_channel ? c : holes == Holes::two_blocks ? 2 : 1;
    TestMask out{holes, Array(DType::u8, images * blocks * h * w), images, blocks, h, w, c / 2, {}};
    for (int64_t i = 0; i < out.bytes.count; ++i) {
        const bool dead = i / (blocks * h * w) == images - 1 && i / w % h < h / 2;
        out.bytes.set(i, dead || chance(0.5) ? 0 : 1 + random_bits() % 255);  // anything but 0 is valid
    }
    if (holes == Holes::none) return out;
    out.view = mask_of(out.bytes.data(), images, h * w, blocks, per_channel ? 1 : out.split);
    return out;
}

// ---- comparisons

struct Tally {
    int64_t cases = 0, values = 0, wrong = 0;
};
inline std::map<std::string, Tally>& tallies() {
    static std::map<std::string, Tally> all;
    return all;
}

// One case of one launcher. Where something is wrong, the first value of the case is printed.
class Check {
  public:
    Check(const char* launcher, std::string what, const Status& status) : what_(std::move(what)), name_(launcher) {
        tally().cases += 1;
        if (!status.ok()) report("launch refused", double(status.error), 0);
    }
    void that(bool right, const char* where, double got, double expected) {
        tally().values += 1;
        if (!right) report(where, got, expected);
    }
    void exact(const char* where, double got, double expected) { that(got == expected, where, got, expected); }
    // magnitude: the sum of the terms' absolute values, which is what an accumulator's rounding grows with.
    void close(const char* where, DType dtype, double got, double expected, double magnitude) {
        const double accumulator = dtype == DType::f64 ? 1e-14 : 2e-6;
        const double rounding = dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0;
        const double smallest = dtype == DType::f16 ? 0x1p-25 : 1e-30;
        const double allowed = rounding * std::fabs(expected) + accumulator * magnitude + smallest;
        that(std::fabs(got - expected) <= allowed, where, got, expected);
    }

  private:
    Tally& tally() { return tallies()[name_]; }
    void report(const char* where, double got, double expected) {
        tally().wrong += 1;
        if (!said_) std::printf("MISMATCH %s (%s) %s: %g, expected %g\n", name_, what_.c_str(), where, got, expected);
        said_ = true;
    }
    std::string what_;
    const char* name_;
    bool said_ = false;
};

template <class... Parts>
std::string describe(const char* format, Parts... parts) {
    char text[200];
    std::snprintf(text, sizeof text, format, parts...);
    return text;
}
