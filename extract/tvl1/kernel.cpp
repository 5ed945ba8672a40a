// The iterations of TV-L1 for one pair at one scale, as eager.py has them in torch: the same steps in
// the same order, but a whole iteration in one pass. Compiled by native.py where it finds a compiler.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

using Index = std::ptrdiff_t;

extern "C" struct Settings {
    float attachment, tightness, dual_step, cubic;
    double limit;  // of a pair's squared change; 0: all iterations run
    int num_warps, num_outer, num_inner, check_every, predicted, median, zero_border;
};

namespace {

constexpr float SMALLEST = 1.1920929e-7f;  // float32's epsilon
constexpr int PAD_BEFORE = 3, PAD_AFTER = 4;

typedef float Float4 __attribute__((vector_size(16)));

// Images of one scale, each between two rows of zeros; see eager.py for why no border needs code.
struct Level {
    Index height, width, size;
    std::vector<float> numbers, before, sorted;
    std::vector<Float4> table;
    float *flow[2], *dual[2][2], *slope[2], *offset, *inverse, *step_x;

    Level(Index height, Index width) : height(height), width(width), size(height * width) {
        const Index room = size + 2 * width;
        numbers.assign(10 * room + width, 0.f);
        float* next = numbers.data() + width;
        auto take = [&] { float* taken = next; next += room; return taken; };
        for (int part = 0; part < 2; part++) {
            flow[part] = take();
            for (int along = 0; along < 2; along++) dual[along][part] = take();
            slope[part] = take();
        }
        offset = take();
        inverse = take();
        step_x = numbers.data() + 10 * room;
        table.resize((height + PAD_BEFORE + PAD_AFTER) * (width + PAD_BEFORE + PAD_AFTER));
    }
};

// What the warp looks up: I1, its gradient along x and y, beyond the border too.
void fill_table(Level& level, const float* second, bool zero_border) {
    const Index height = level.height, width = level.width;
    Float4* out = level.table.data();
    for (Index row = -PAD_BEFORE; row < height + PAD_AFTER; row++) {
        for (Index column = -PAD_BEFORE; column < width + PAD_AFTER; column++) {
            const Index y = std::clamp<Index>(row, 0, height - 1);
            const Index x = std::clamp<Index>(column, 0, width - 1);
            const float* at = second + y * width + x;
            const float left = at[x > 0 ? -1 : 0], right = at[x < width - 1 ? 1 : 0];
            const float above = at[y > 0 ? -width : 0], below = at[y < height - 1 ? width : 0];
            const bool outside = zero_border && (x != column || y != row);
            *out++ = outside ? Float4{} : Float4{*at, 0.5f * (right - left), 0.5f * (below - above)};
        }
    }
}

// Keys' kernel for the taps -1 to 2; returns the first of them in the padded map.
inline Index locate(float at, Index size, float a, float weights[4]) {
    at = at > -2.f ? at : -2.f;  // not a number ends here as well
    at = at < size + 1.f ? at : size + 1.f;
    const float whole = std::floor(at), offset = at - whole, near = 1 - offset;
    weights[0] = a * offset * near * near;
    weights[1] = ((a + 2) * offset - (a + 3)) * offset * offset + 1;
    weights[2] = ((a + 2) * near - (a + 3)) * near * near + 1;
    weights[3] = a * near * offset * offset;
    return Index(whole) + PAD_BEFORE - 1;
}

void warp(Level& level, const float* first, const Settings& settings) {
    const Index columns = level.width + PAD_BEFORE + PAD_AFTER;
    Index i = 0;
    for (Index y = 0; y < level.height; y++) {
        for (Index x = 0; x < level.width; x++, i++) {
            const float u = level.flow[0][i], v = level.flow[1][i];
            float in_x[4], in_y[4];
            const Index column = locate(x + u, level.width, settings.cubic, in_x);
            const Index row = locate(y + v, level.height, settings.cubic, in_y);
            const Float4* at = level.table.data() + row * columns + column;
            Float4 sum{};
            for (int j = 0; j < 4; j++, at += columns)
                sum += (at[0] * in_x[0] + at[1] * in_x[1] + at[2] * in_x[2] + at[3] * in_x[3]) * in_y[j];
            level.slope[0][i] = sum[1];
            level.slope[1][i] = sum[2];
            level.offset[i] = sum[0] - sum[1] * u - sum[2] * v - first[i];
            const float square = sum[1] * sum[1] + sum[2] * sum[2];
            level.inverse[i] = (1 / settings.tightness) / std::max(square, SMALLEST);
        }
    }
}

// Thresholding and divergence in one row; returns the squared change over theta squared.
float primal_row(Level& level, Index y, const Settings& settings) {
    const Index width = level.width, from = y * width;
    float *u = level.flow[0] + from, *v = level.flow[1] + from;
    const float *ux = level.dual[0][0] + from, *uy = level.dual[1][0] + from;
    const float *vx = level.dual[0][1] + from, *vy = level.dual[1][1] + from;
    const float *slope_x = level.slope[0] + from, *slope_y = level.slope[1] + from;
    const float *offset = level.offset + from, *inverse = level.inverse + from;
    const float most = settings.attachment, tightness = settings.tightness;
    float change = 0;
#pragma omp simd reduction(+ : change)
    for (Index x = 0; x < width; x++) {
        float drift = (offset[x] + slope_x[x] * u[x] + slope_y[x] * v[x]) * inverse[x];
        drift = drift < -most ? -most : drift;
        drift = drift > most ? most : drift;
        const float du = ux[x] - ux[x - 1] + uy[x] - uy[x - width] - slope_x[x] * drift;
        const float dv = vx[x] - vx[x - 1] + vy[x] - vy[x - width] - slope_y[x] * drift;
        change += du * du + dv * dv;
        u[x] += tightness * du;
        v[x] += tightness * dv;
    }
    return change;
}

// The dual variable of one part of the flow in one row.
void dual_row(Level& level, int part, Index y, float step_y) {
    const Index width = level.width, from = y * width;
    const float *u = level.flow[part] + from, *step_x = level.step_x;
    float *along_x = level.dual[0][part] + from, *along_y = level.dual[1][part] + from;
#pragma omp simd
    for (Index x = 0; x < width; x++) {
        const float rise_x = (u[x + 1] - u[x]) * step_x[x];
        const float rise_y = (u[x + width] - u[x]) * step_y;
        const float shrink = 1 / (1 + std::sqrt(rise_x * rise_x + rise_y * rise_y));
        along_x[x] = (along_x[x] + rise_x) * shrink;
        along_y[x] = (along_y[x] + rise_y) * shrink;
    }
}

// A row's dual step follows when the row below has its new flow: what each reads of the other's
// output is then what it would read if all rows had been done in two passes.
double iterate(Level& level, const Settings& settings) {
    double change = 0;
    for (Index y = 0; y <= level.height; y++) {
        if (y < level.height) change += primal_row(level, y, settings);
        if (y == 0) continue;
        const float step_y = y < level.height ? settings.dual_step : 0.f;
        for (int part = 0; part < 2; part++) dual_row(level, part, y - 1, step_y);
    }
    return change * settings.tightness * settings.tightness;
}

// Pixels side by side that are sorted at the same time.
constexpr int LANES = 16;
typedef float Lanes __attribute__((vector_size(4 * LANES)));

inline void low(Lanes& a, Lanes b) { a = a < b ? a : b; }
inline void high(Lanes a, Lanes& b) { b = a < b ? b : a; }
inline void both(Lanes& a, Lanes& b) {
    const Lanes smaller = a < b ? a : b;
    b = a < b ? b : a;
    a = smaller;
}
inline void load(Lanes& to, const float* from) { std::memcpy(&to, from, sizeof(Lanes)); }

// What median.py makes of its networks: void sort(Lanes v[SIZE]), which sorts a column, and
// void finish(Lanes v[SIZE * SIZE]), after which the middle one is the median.
template <int SIZE> struct Network;
// NETWORKS

template <int SIZE> void filter(Level& level, float* image) {
    constexpr int half = SIZE / 2;
    const Index height = level.height, width = level.width;
    // The edges repeated, and room for lanes that hold no pixel.
    const Index wide = (width + 2 * half + 2 * LANES - 1) / LANES * LANES;
    level.before.resize(height * wide);
    level.sorted.resize(SIZE * wide);
    for (Index y = 0; y < height; y++)
        for (Index x = 0; x < wide; x++)
            level.before[y * wide + x] = image[y * width + std::clamp<Index>(x - half, 0, width - 1)];
    float* sorted = level.sorted.data();
    for (Index y = 0; y < height; y++) {
        for (Index x = 0; x < wide; x += LANES) {
            Lanes column[SIZE];
            for (int j = 0; j < SIZE; j++) {
                const Index row = std::clamp<Index>(y + j - half, 0, height - 1);
                load(column[j], level.before.data() + row * wide + x);
            }
            Network<SIZE>::sort(column);
            for (int j = 0; j < SIZE; j++)
                std::memcpy(sorted + j * wide + x, &column[j], sizeof(Lanes));
        }
        for (Index x = 0; x < width; x += LANES) {
            Lanes window[SIZE * SIZE];
            for (int j = 0; j < SIZE; j++)
                for (int k = 0; k < SIZE; k++) load(window[j * SIZE + k], sorted + j * wide + x + k);
            Network<SIZE>::finish(window);
            const Index num = std::min<Index>(LANES, width - x);
            std::memcpy(image + y * width + x, &window[SIZE * SIZE / 2], num * sizeof(float));
        }
    }
}

// stopping.py, for one pair.
struct Stopping {
    const Settings& settings;
    double expected = 0;
    int num_iterations = 0;

    bool done(double change) {
        const int n = num_iterations++;
        if (settings.limit == 0) return false;
        if (!settings.predicted)
            return (n + 1) % settings.check_every == 0 && change <= settings.limit;
        if (n % 2 == 0 || !(expected < settings.limit)) {
            expected -= settings.limit;
            return false;
        }
        expected = change;
        return change <= settings.limit;
    }
};

int run_warp(Level& level, const Settings& settings) {
    Stopping stopping{settings};
    for (int outer = 0; outer < settings.num_outer; outer++) {
        for (float* image : level.flow) {
            if (settings.median == 3) filter<3>(level, image);
            if (settings.median == 5) filter<5>(level, image);
        }
        for (int inner = 0; inner < settings.num_inner; inner++)
            if (stopping.done(iterate(level, settings))) return stopping.num_iterations;
    }
    return stopping.num_iterations;
}

}  // namespace

// Refine flow, two images of height x width, of the pair first and second. Returns the iterations.
extern "C" int solve(const float* first, const float* second, float* flow, int height, int width,
                     const Settings* settings) {
    Level level(height, width);
    std::fill_n(level.step_x, width - 1, settings->dual_step);
    fill_table(level, second, settings->zero_border != 0);
    for (int part = 0; part < 2; part++)
        std::copy_n(flow + part * level.size, level.size, level.flow[part]);
    int num_iterations = 0;
    for (int n = 0; n < settings->num_warps; n++) {
        warp(level, first, *settings);
        num_iterations += run_warp(level, *settings);
    }
    for (int part = 0; part < 2; part++)
        std::copy_n(level.flow[part], level.size, flow + part * level.size);
    return num_iterations;
}
