// Products with packed weights.
//
// A matrix (rows, columns) is packed LANES rows at a time, as many as a vector of the processor has floats. A word of 32
// bits holds as many codes of neighbouring columns of one row as fit, and the words of these rows lie side by side: each
// lane of a vector sums up a row of its own, and no sum goes across lanes. A code becomes a float in a register, right
// before it is multiplied, for as many vectors x as there are registers to sum up for. So with one vector a product takes
// little longer than reading the codes, and with many as long as the multiplications.
//
// Vectors are those of GCC and Clang (__attribute__((vector_size))), which become what the processor has.

#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
constexpr int MOST = 12;  // vectors of a tile: 24 sums, 2 of weights and some more fit in 32 registers
#elif defined(__AVX2__)
constexpr int64_t LANES = 8;
constexpr int MOST = 4;  // of 16 registers
#else
constexpr int64_t LANES = 4;
constexpr int MOST = 4;
#endif
using Floats = float __attribute__((vector_size(4 * LANES)));
using Ints = int32_t __attribute__((vector_size(4 * LANES)));

enum Kind : int64_t { FLOAT32, BFLOAT16, INT8, INT4 };

}  // namespace

extern "C" {

struct Matrix {
    const char* codes;    // (rows / LANES, words, LANES) of 32 bits, each with the codes of some neighbouring columns
    const float* scales;  // (rows / LANES, groups, LANES); null where codes are the weights
    const float* bias;    // (rows), or null
    int64_t rows, columns, words, groups, kind;  // columns: those of all words
};
}

namespace {

template <class T>
T loaded(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
}

constexpr int64_t bits(Kind kind) { return kind == FLOAT32 ? 32 : kind == BFLOAT16 ? 16 : kind == INT8 ? 8 : 4; }

// Two columns of a vector x, as bfloat16s in one word, where the processor multiplies and adds two at a time.
using Pair = uint32_t;
#ifdef __AVX512BF16__
constexpr bool PAIRS = true;
Floats multiplied(Floats sums, Floats weights, Pair x) {
    return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(x));
}
#else
constexpr bool PAIRS = false;
Floats multiplied(Floats sums, Floats weights, Pair) { return sums; }
#endif
Floats multiplied(Floats sums, Floats weights, float x) { return sums + weights * x; }

// The weights of column k of those that share a word, in LANES rows.
template <Kind KIND>
Floats unpacked(Ints words, int k) {
    if constexpr (KIND == FLOAT32) return (Floats)words;
    if constexpr (KIND == BFLOAT16) return (Floats)(k == 0 ? words << 16 : words & (int32_t)0xffff0000);
#ifdef __AVX512F__  // one permutation instead of two shifts and a conversion
    if constexpr (KIND == INT4) {
        const Floats values = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
        return __builtin_shuffle(values, words >> (4 * k));
    }
#endif
    return __builtin_convertvector((words << (32 - bits(KIND) * (k + 1))) >> (32 - bits(KIND)), Floats);
}

// What is multiplied with an X of a vector: a column, or two of them as bfloat16s, which hold all codes exactly.
template <Kind KIND, class X>
Floats factors(Ints words, int k) {
#ifdef __AVX512VNNI__  // four products of bytes, of which three are zero, instead of two shifts
    if constexpr (KIND == INT8 && std::is_same_v<X, float>) {
        const __m512i only = _mm512_set1_epi32(1 << 8 * k), none = _mm512_setzero_si512();
        return __builtin_convertvector((Ints)_mm512_dpbusd_epi32(none, only, (__m512i)words), Floats);
    }
#endif
    if constexpr (std::is_same_v<X, float>) return unpacked<KIND>(words, k);
    if constexpr (KIND == BFLOAT16) return (Floats)words;
    const Ints even = (Ints)unpacked<KIND>(words, 2 * k), odd = (Ints)unpacked<KIND>(words, 2 * k + 1);
    return (Floats)(odd | ((even >> 16) & 0xffff));
}

// sums (M, N blocks) += the columns of these words times those of x.
template <Kind KIND, class X, int M, int N>
inline void add_columns(const char* packed, int64_t block_bytes, int64_t words, const X* x, int64_t stride,
                        Floats (&sums)[M][N]) {
    constexpr int64_t SHARE = 32 / bits(KIND) / (std::is_same_v<X, float> ? 1 : 2);
    for (int64_t word = 0; word < words; ++word) {
        Ints codes[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) codes[n] = loaded<Ints>(packed + n * block_bytes + word * sizeof(Ints));
#pragma GCC unroll 8
        for (int k = 0; k < SHARE; ++k) {
            Floats weights[N];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) weights[n] = factors<KIND, X>(codes[n], k);
#pragma GCC unroll 16
            for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n)
                    sums[m][n] = multiplied(sums[m][n], weights[n], x[m * stride + word * SHARE + k]);
        }
    }
}

// M vectors x, `stride` apart, times N blocks of rows, from `block` on.
template <Kind KIND, class X, int M, int N>
void tile(const Matrix& w, int64_t block, const X* x, int64_t stride, Floats (&totals)[M][N]) {
    const int64_t words = w.words / w.groups, block_bytes = w.words * sizeof(Ints);
    const char* packed = w.codes + block * block_bytes;
    for (int64_t g = 0; g < w.groups; ++g) {
        Floats sums[M][N] = {};
        add_columns<KIND>(packed + g * words * sizeof(Ints), block_bytes, words, x + g * (stride / w.groups), stride,
                          sums);
        for (int n = 0; n < N; ++n) {
            Floats scale = {};
            if (w.scales) std::memcpy(&scale, w.scales + ((block + n) * w.groups + g) * LANES, sizeof(scale));
            for (int m = 0; m < M; ++m) {
                const Floats scaled = w.scales ? sums[m][n] * scale : sums[m][n];
                totals[m][n] = g == 0 ? scaled : totals[m][n] + scaled;
            }
        }
    }
}

// y (m, rows) of M vectors and N blocks, with the bias.
template <Kind KIND, class X, int M, int N>
void write_tile(const Matrix& w, int64_t block, const X* x, int64_t stride, float* y) {
    Floats totals[M][N];
    tile<KIND>(w, block, x, stride, totals);
    for (int n = 0; n < N; ++n) {
        const int64_t row = (block + n) * LANES, count = std::min(LANES, w.rows - row);
        for (int m = 0; m < M; ++m) {
            float* at = y + m * w.rows + row;
            std::memcpy(at, &totals[m][n], count * sizeof(float));
            if (w.bias)
                for (int64_t lane = 0; lane < count; ++lane) at[lane] += w.bias[row + lane];
        }
    }
}

constexpr int64_t NEAR = 96;  // vectors that are read for all rows before the next ones: they stay in the core's cache

// Vectors x, in tiles of M; what is left goes on in smaller ones.
template <Kind KIND, int M, class X>
void write_blocks(const Matrix& w, int64_t m, int64_t first, int64_t last, const X* x, int64_t stride, float* y) {
    constexpr int N = M == 1 ? 6 : 2;
    int64_t row = 0;
    for (; row + M <= m; row += M) {
        int64_t block = first;
        for (; block + N <= last; block += N)
            write_tile<KIND, X, M, N>(w, block, x + row * stride, stride, y + row * w.rows);
        for (; block < last; ++block)
            write_tile<KIND, X, M, 1>(w, block, x + row * stride, stride, y + row * w.rows);
    }
    if constexpr (M > 1)
        if (row < m) write_blocks<KIND, M / 3>(w, m - row, first, last, x + row * stride, stride, y + row * w.rows);
}

Pair rounded(float even, float odd) {
    const auto upper = [](float x) {
        uint32_t word;
        std::memcpy(&word, &x, sizeof(word));
        return (word + 0x7fff + (word >> 16 & 1)) >> 16;  // to the nearest bfloat16, to even ones between two
    };
    return upper(odd) << 16 | upper(even);
}

// y (m, rows) of x (m, columns), in blocks `first` to `last`.
template <Kind KIND>
void write_rows(const Matrix& w, int64_t m, int64_t first, int64_t last, const float* x, float* y) {
    if (m == 1) return write_blocks<KIND, 1>(w, m, first, last, x, w.columns, y);
    constexpr bool BY_PAIRS = PAIRS && KIND != FLOAT32;
    std::vector<Pair> pairs(BY_PAIRS ? NEAR * w.columns / 2 : 0);
    for (int64_t near = 0; near < m; near += NEAR) {
        const int64_t count = std::min(NEAR, m - near);
        const float* vectors = x + near * w.columns;
        if (BY_PAIRS)
            for (int64_t i = 0; i < count * w.columns / 2; ++i) pairs[i] = rounded(vectors[2 * i], vectors[2 * i + 1]);
        for (int64_t block = first; block < last; block += 2) {
            const int64_t end = std::min(last, block + 2);
            if constexpr (BY_PAIRS)
                write_blocks<KIND, MOST>(w, count, block, end, pairs.data(), w.columns / 2, y + near * w.rows);
            else
                write_blocks<KIND, MOST>(w, count, block, end, vectors, w.columns, y + near * w.rows);
        }
    }
}

void multiply(const Matrix& w, int64_t m, int64_t first, int64_t last, const float* x, float* y) {
    switch (w.kind) {
        case FLOAT32: return write_rows<FLOAT32>(w, m, first, last, x, y);
        case BFLOAT16: return write_rows<BFLOAT16>(w, m, first, last, x, y);
        case INT8: return write_rows<INT8>(w, m, first, last, x, y);
        default: return write_rows<INT4>(w, m, first, last, x, y);
    }
}

int64_t blocks(const Matrix& w) { return (w.rows + LANES - 1) / LANES; }

}  // namespace
