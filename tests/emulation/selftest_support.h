// What the emulator's own checks share.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

inline long checks_made, checks_failed;

// Counts, so that a program whose loops never ran fails; tells the first few.
inline void check(bool holds, const char* what, const char* file, int line) {
    ++checks_made;
    if (holds) return;
    if (++checks_failed <= 10) std::fprintf(stderr, "MISMATCH at %s:%d: %s\n", file, line, what);
}
#define CHECK(...) check(bool(__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

inline int finish() {
    std::printf("%ld checks, %ld failed\n", checks_made, checks_failed);
    return checks_made == 0 || checks_failed != 0;
}

// Sums of their products are exact in every format that the tensor cores take.
inline std::vector<int> small_integers(int count, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<int> values(count);
    for (int& value : values) value = int(random() % 17) - 8;
    return values;
}

// An array at exact size, so that AddressSanitizer sees the first byte outside; full of NaN.
template <class T>
struct Exact {
    T* data;

    explicit Exact(size_t count) {
        void* memory = nullptr;
        if (posix_memalign(&memory, 256, count * sizeof(T))) std::abort();
        for (size_t i = 0; i < count * sizeof(T); ++i) static_cast<unsigned char*>(memory)[i] = 0xff;
        data = static_cast<T*>(memory);
    }
    Exact(const Exact&) = delete;
    ~Exact() { std::free(data); }
    T& operator[](size_t i) { return data[i]; }
};
