// Products with packed weights on a CPU, and all tokens of one text in one call.
//
// A matrix (rows, columns) is packed 16 rows at a time: a word of 32 bits holds as many codes of neighbouring columns of
// one row as fit, and the words of 16 rows lie side by side. So each lane of a vector sums up a row of its own, and no
// sum goes across lanes. A code becomes a float in a register, right before it is multiplied, for as many vectors x as
// there are registers to sum up for: with one vector a product takes as long as reading the codes, with many as long as
// the multiplications.
//
// Vectors are those of GCC and Clang (__attribute__((vector_size))), which become what the processor has.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

constexpr int64_t LANES = 16;
using Floats = float __attribute__((vector_size(4 * LANES)));
using Ints = int32_t __attribute__((vector_size(4 * LANES)));

enum Kind : int64_t { FLOAT32, BFLOAT16, INT8, INT4 };

}  // namespace

extern "C" {

struct Matrix {
    const char* codes;    // (rows / 16, words, 16) of 32 bits, each with the codes of some neighbouring columns
    const float* scales;  // (rows / 16, groups, 16); null where codes are the weights
    const float* bias;    // (rows), or null
    int64_t rows, columns, words, groups, kind;  // columns: those of all words
};

struct Layer {
    Matrix qkv, out, gate_up, down;
    const float *attention_norm, *mlp_norm;  // (hidden)
    const float *q_norm, *k_norm;            // (d), or null
    float *keys, *values;                    // (n, slots, d)
};

struct Model {
    const Layer* layers;
    Matrix embedding, head;
    const float* norm;        // (hidden)
    const float *cos, *sin;   // (length, d / 2)
    int64_t count, heads, kv_heads, head_dim, slots;
    float eps;
    const bool *ends, *breaks, *blanks;  // (vocabulary): see Ending.tables
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

// The weights of column k of those that share a word, in 16 rows.
template <Kind KIND>
Floats unpacked(Ints words, int k) {
    if constexpr (KIND == FLOAT32) return (Floats)words;
    if constexpr (KIND == BFLOAT16) return (Floats)(k == 0 ? words << 16 : words & (int32_t)0xffff0000);
    return __builtin_convertvector((words << (32 - bits(KIND) * (k + 1))) >> (32 - bits(KIND)), Floats);
}

// sums (M, N blocks) += the columns of these words times those of x.
template <Kind KIND, int M, int N>
inline void add_columns(const char* packed, int64_t block_bytes, int64_t words, const float* x, int64_t stride,
                        Floats (&sums)[M][N]) {
    constexpr int64_t SHARE = 32 / bits(KIND);
    for (int64_t word = 0; word < words; ++word) {
        Ints codes[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) codes[n] = loaded<Ints>(packed + n * block_bytes + word * sizeof(Ints));
#pragma GCC unroll 8
        for (int k = 0; k < SHARE; ++k) {
            Floats weights[N];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) weights[n] = unpacked<KIND>(codes[n], k);
#pragma GCC unroll 16
            for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n) sums[m][n] += weights[n] * x[m * stride + word * SHARE + k];
        }
    }
}

// M vectors x, `stride` apart, times N blocks of 16 rows, from `block` on.
template <Kind KIND, int M, int N>
void tile(const Matrix& w, int64_t block, const float* x, int64_t stride, Floats (&totals)[M][N]) {
    const int64_t words = w.words / w.groups, block_bytes = w.words * sizeof(Ints);
    const char* packed = w.codes + block * block_bytes;
    for (int64_t g = 0; g < w.groups; ++g) {
        Floats sums[M][N] = {};
        add_columns<KIND>(packed + g * words * sizeof(Ints), block_bytes, words, x + g * words * (32 / bits(KIND)),
                          stride, sums);
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

// y (m, stride_y) of M vectors and N blocks, with the bias.
template <Kind KIND, int M, int N>
void write_tile(const Matrix& w, int64_t block, const float* x, int64_t stride, float* y, int64_t stride_y) {
    Floats totals[M][N];
    tile<KIND, M, N>(w, block, x, stride, totals);
    for (int n = 0; n < N; ++n) {
        const int64_t row = (block + n) * LANES, count = std::min(LANES, w.rows - row);
        for (int m = 0; m < M; ++m) {
            float* at = y + m * stride_y + row;
            std::memcpy(at, &totals[m][n], count * sizeof(float));
            if (w.bias)
                for (int64_t lane = 0; lane < count; ++lane) at[lane] += w.bias[row + lane];
        }
    }
}

constexpr int MOST = 12;      // vectors of a tile: 24 sums, 2 of weights and some more fit in 32 registers
constexpr int64_t NEAR = 96;  // vectors that are read for all rows before the next ones: they stay in the core's cache

template <Kind KIND, int M>
void write_blocks(const Matrix& w, int64_t first, int64_t last, const float* x, float* y) {
    constexpr int N = M == 1 ? 4 : 2;
    int64_t block = first;
    for (; block + N <= last; block += N) write_tile<KIND, M, N>(w, block, x, w.columns, y, w.rows);
    for (; block < last; ++block) write_tile<KIND, M, 1>(w, block, x, w.columns, y, w.rows);
}

// What is left of m vectors after tiles of M of them goes on in smaller tiles.
template <Kind KIND, int M = MOST>
void write_block(const Matrix& w, int64_t m, int64_t first, int64_t last, const float* x, float* y) {
    int64_t row = 0;
    for (; row + M <= m; row += M) write_blocks<KIND, M>(w, first, last, x + row * w.columns, y + row * w.rows);
    if constexpr (M > 1)
        if (row < m) write_block<KIND, M / 3>(w, m - row, first, last, x + row * w.columns, y + row * w.rows);
}

// y (m, rows) of x (m, columns), in blocks `first` to `last`.
template <Kind KIND>
void write_rows(const Matrix& w, int64_t m, int64_t first, int64_t last, const float* x, float* y) {
    for (int64_t near = 0; near < m; near += NEAR) {
        const int64_t count = std::min(NEAR, m - near), step = count == 1 ? last - first : 2;
        for (int64_t block = first; block < last; block += step)
            write_block<KIND>(w, count, block, std::min(last, block + step), x + near * w.columns, y + near * w.rows);
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

extern "C" void product(const Matrix* w, const float* x, int64_t m, float* y, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads(), count = blocks(*w);
        multiply(*w, m, count * thread / all, count * (thread + 1) / all, x, y);
    }
}
