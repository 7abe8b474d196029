// All tokens of one text in one call: its prompt, and its headline to the end.
//
// A step at batch 1 is some hundred products with one vector, and little around them; what is around is in C++, too, so
// that nothing of a library is called in between. Threads are OpenMP's, those of torch. Vectors, norms and the cache are
// float32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "products.h"

extern "C" {

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
    for (; i + LANES <= count; i += LANES)
        total += loaded<Floats>((const char*)(a + i)) * loaded<Floats>((const char*)(b + i));
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
