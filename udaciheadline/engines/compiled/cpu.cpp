// Products with packed weights on a CPU, and all tokens of one text in one call.
//
// A matrix (rows, columns) is packed LANES rows at a time, as many as a vector of the processor has floats: a word of 32 bits holds as many codes of neighbouring columns of
// one row as fit, and the words of these rows lie side by side. So each lane of a vector sums up a row of its own, and no
// sum goes across lanes. A code becomes a float in a register, right before it is multiplied, for as many vectors x as
// there are registers to sum up for: with one vector a product takes as long as reading the codes, with many as long as
// the multiplications.
//
// Vectors are those of GCC and Clang (__attribute__((vector_size))), which become what the processor has.

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
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

struct Layer {
    Matrix qkv, out, gate_up, down;
    const float *attention_norm, *mlp_norm;  // (hidden)
    const float *q_norm, *k_norm;            // (d), or null
    float *keys, *values;                    // (n, slots, d)
};

struct Model {
    const Layer* layers;
    Matrix embedding, head;
    const float* norm;                   // (hidden)
    const float *cos, *sin;              // (length, d / 2)
    const bool *ends, *breaks, *blanks;  // (vocabulary), of tokens: see Ending.tables
    int64_t count, heads, kv_heads, head_dim, slots;
    float eps;
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

// Rows that are packed together.
extern "C" int64_t lanes() { return LANES; }

extern "C" void product(const Matrix* w, const float* x, int64_t m, float* y, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads(), count = blocks(*w);
        multiply(*w, m, count * thread / all, count * (thread + 1) / all, x, y);
    }
}

namespace {

float sum(Floats x) {
    float total = 0;
    for (int64_t lane = 0; lane < LANES; ++lane) total += x[lane];
    return total;
}

float dot(const float* a, const float* b, int64_t count) {
    Floats total = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) total += loaded<Floats>((const char*)(a + i)) * loaded<Floats>((const char*)(b + i));
    float rest = 0;
    for (; i < count; ++i) rest += a[i] * b[i];
    return sum(total) + rest;
}

// y = x / sqrt(mean(x²) + eps) * weight
void rms_norm(const float* x, const float* weight, int64_t count, float eps, float* y) {
    const float scale = 1 / std::sqrt(dot(x, x, count) / count + eps);
    for (int64_t i = 0; i < count; ++i) y[i] = x[i] * scale * weight[i];
}

// Row `row` of the matrix, of which each word has `share` columns.
template <Kind KIND>
void copy_row(const Matrix& w, int64_t row, float* x) {
    constexpr int64_t SHARE = 32 / bits(KIND);
    const int64_t block = row / LANES, lane = row % LANES, words = w.words / w.groups;
    for (int64_t word = 0; word < w.words; ++word) {
        const Ints codes = loaded<Ints>(w.codes + (block * w.words + word) * sizeof(Ints));
        const float scale = w.scales ? w.scales[(block * w.groups + word / words) * LANES + lane] : 1;
        for (int k = 0; k < SHARE; ++k) x[word * SHARE + k] = unpacked<KIND>(codes, k)[lane] * scale;
    }
}

void embed(const Matrix& w, int64_t token, float* x) {
    switch (w.kind) {
        case FLOAT32: return copy_row<FLOAT32>(w, token, x);
        case BFLOAT16: return copy_row<BFLOAT16>(w, token, x);
        case INT8: return copy_row<INT8>(w, token, x);
        default: return copy_row<INT4>(w, token, x);
    }
}

// A query or key (d) through its norm, if it has one, and turned by the angles of its position.
void turn(const Model& model, const float* norm, int64_t place, float* x) {
    const int64_t half = model.head_dim / 2;
    const float *cos = model.cos + place * half, *sin = model.sin + place * half;
    if (norm) rms_norm(x, norm, model.head_dim, model.eps, x);
    for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

// The key and value of key-value head n, of one token's qkv ((q + 2n) d), go into the cache.
void put(const Model& model, const Layer& layer, int64_t n, int64_t place, float* qkv) {
    const int64_t d = model.head_dim, at = (n * model.slots + place) * d;
    float *key = qkv + (model.heads + n) * d, *value = key + model.kv_heads * d;
    turn(model, layer.k_norm, place, key);
    std::copy(key, key + d, layer.keys + at);
    std::copy(value, value + d, layer.values + at);
}

// What query head q of one token reads of the cache, up to the token's own place: read (d).
void attend(const Model& model, const Layer& layer, int64_t q, int64_t place, float* query, float* shares, float* read) {
    const int64_t d = model.head_dim, at = q / (model.heads / model.kv_heads) * model.slots * d;
    const float *keys = layer.keys + at, *values = layer.values + at, scale = 1 / std::sqrt((float)d);
    turn(model, layer.q_norm, place, query);
    for (int64_t s = 0; s <= place; ++s) shares[s] = dot(query, keys + s * d, d) * scale;
    const float most = *std::max_element(shares, shares + place + 1);
    float total = 0;
    for (int64_t s = 0; s <= place; ++s) total += shares[s] = std::exp(shares[s] - most);
    std::fill(read, read + d, 0);
    for (int64_t s = 0; s <= place; ++s) {
        const float share = shares[s] / total;
        for (int64_t i = 0; i < d; ++i) read[i] += share * values[s * d + i];
    }
}

struct Best {
    float logit = -std::numeric_limits<float>::infinity();
    int64_t token = 0;
};

// What the threads of a pass over m tokens work on together. What a product reads is filled up with zeros.
struct Vectors {
    std::vector<float> x, normed, qkv, read, sums, gate_up, active, logits;
    std::vector<Best> best;

    Vectors(const Model& model, int64_t m, int64_t threads)
        : x(m * model.layers->out.rows),
          normed(m * model.head.columns),
          qkv(m * model.layers->qkv.rows),
          read(m * model.layers->out.columns),
          sums(m * model.layers->out.rows),
          gate_up(m * model.layers->gate_up.rows),
          active(m * model.layers->down.columns),
          logits(model.head.rows),
          best(threads) {}
};

// One thread's part of a pass over m tokens of one text, from `place` of the cache on: the next token, which all
// threads return. Between two barriers a thread reads what others have written before the first one only.
int64_t pass(const Model& model, const int64_t* tokens, int64_t m, int64_t place, Vectors& all, float* shares) {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const int64_t hidden = model.layers->out.rows, mlp = model.layers->gate_up.rows / 2;
    const int64_t wide = model.head.columns, d = model.head_dim;
    const auto part = [&](int64_t count, int64_t ahead) { return count * (thread + ahead) / threads; };
    const auto norm = [&](const float* weight, int64_t count, float* x) {
        for (int64_t i = part(count, 0); i < part(count, 1); ++i)
            rms_norm(x + i * hidden, weight, hidden, model.eps, all.normed.data() + i * wide);
#pragma omp barrier
    };
    const auto multiplied = [&](const Matrix& w, int64_t count, const std::vector<float>& x, std::vector<float>& y) {
        multiply(w, count, part(blocks(w), 0), part(blocks(w), 1), x.data(), y.data());
    };
    const auto add = [&](const Matrix& w, int64_t count, const std::vector<float>& vectors, float* x) {
        multiplied(w, count, vectors, all.sums);
        const int64_t first = part(blocks(w), 0) * LANES, last = std::min(hidden, part(blocks(w), 1) * LANES);
        for (int64_t i = 0; i < count; ++i)
            for (int64_t row = first; row < last; ++row) x[i * hidden + row] += all.sums[i * hidden + row];
#pragma omp barrier
    };
    for (int64_t i = part(m, 0); i < part(m, 1); ++i) embed(model.embedding, tokens[i], all.x.data() + i * hidden);
    float* x = all.x.data();
    for (const Layer* layer = model.layers; layer < model.layers + model.count; ++layer) {
        norm(layer->attention_norm, m, x);
        multiplied(layer->qkv, m, all.normed, all.qkv);
#pragma omp barrier
        for (int64_t item = thread; item < m * model.kv_heads; item += threads) {
            const int64_t i = item / model.kv_heads;
            put(model, *layer, item % model.kv_heads, place + i, all.qkv.data() + i * layer->qkv.rows);
        }
#pragma omp barrier
        // Nothing later asks for what the last layer makes of other tokens than the last one.
        const int64_t ahead = layer + 1 == model.layers + model.count ? m - 1 : 0, kept = m - ahead;
        for (int64_t item = thread; item < kept * model.heads; item += threads) {
            const int64_t i = item / model.heads, q = item % model.heads;
            float* query = all.qkv.data() + (ahead + i) * layer->qkv.rows + q * d;
            attend(model, *layer, q, place + ahead + i, query, shares, all.read.data() + i * layer->out.columns + q * d);
        }
#pragma omp barrier
        x += ahead * hidden;
        add(layer->out, kept, all.read, x);
        norm(layer->mlp_norm, kept, x);
        multiplied(layer->gate_up, kept, all.normed, all.gate_up);
#pragma omp barrier
        for (int64_t i = part(kept * mlp, 0); i < part(kept * mlp, 1); ++i) {
            const int64_t token = i / mlp, channel = i % mlp;
            const float* gate = all.gate_up.data() + token * 2 * mlp + channel;
            all.active[token * layer->down.columns + channel] = *gate / (1 + std::exp(-*gate)) * gate[mlp];
        }
#pragma omp barrier
        add(layer->down, kept, all.active, x);
    }
    norm(model.norm, 1, x);
    multiplied(model.head, 1, all.normed, all.logits);
    Best best;
    const int64_t last = std::min(model.head.rows, part(blocks(model.head), 1) * LANES);
    for (int64_t i = part(blocks(model.head), 0) * LANES; i < last; ++i)
        if (all.logits[i] > best.logit) best = {all.logits[i], i};
    all.best[thread] = best;
#pragma omp barrier
    for (const Best& other : all.best)
        if (other.logit > best.logit || (other.logit == best.logit && other.token < best.token)) best = other;
    return best.token;
}

}  // namespace

// Reads `count` tokens into the cache, from its first place on: the next token.
extern "C" int64_t read_tokens(const Model* model, const int64_t* tokens, int64_t count, int64_t threads) {
    Vectors all(*model, count, threads);
    int64_t next = 0;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> shares(model->slots);
        const int64_t token = pass(*model, tokens, count, 0, all, shares.data());
        if (omp_get_thread_num() == 0) next = token;
    }
    return next;
}

// Writes up to `steps` tokens after `last`, which goes to `place` of the cache, to the end of the headline: how many.
extern "C" int64_t write_tokens(const Model* model, int64_t last, int64_t place, int64_t steps, int64_t threads,
                                int64_t* made) {
    Vectors all(*model, 1, threads);
    int64_t count = 0;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> shares(model->slots);
        int64_t token = last, n = 0;
        bool has_text = !model->blanks[token];
        while (n < steps && !model->ends[token] && !(model->breaks[token] && has_text)) {
            token = pass(*model, &token, 1, place + n, all, shares.data());
            if (omp_get_thread_num() == 0) made[n] = token;
            has_text = has_text || !model->blanks[token];
            ++n;
        }
        if (omp_get_thread_num() == 0) count = n;
    }
    return count;
}
