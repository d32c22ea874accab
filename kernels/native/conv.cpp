// A convolution on tiles of a picture, in one pass: gather, concatenation, nearest up-sampling, per-channel affine,
// modulation, activation, convolution, bias and residual sum, written into the full map in place.
//
// Maps are pixel-major float32: a pixel's channels lie side by side. Three ways to multiply:
//   kind 4  Winograd F(4x4, 3x3): 36 products for 16 outputs where the direct way takes 144
//   kind 2  Winograd F(2x2, 3x3): 16 products for 4 outputs where the direct way takes 36
//   kind 1  direct: the picture's rows are the matrix, reached through pointers; any kernel size and stride
// (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.)
//
// All three read the same weights (panel of outputs, tap, input channel, output of the panel). Winograd transforms them
// on the way: where there are few tiles, reading weights is what costs, and transformed ones are up to four times more.
#include "conv.h"

using namespace gg;

namespace {

using Map = MapOf<float>;
using Conv = ConvOf<float>;
using Window = WindowOf<float>;
using Place = PlaceOf<float>;

// ---------------------------------------------------------------------------------------------------------------------
// Products

// Weights are read once and come from far: while one panel is multiplied, the next is fetched, a little each step.
struct Ahead {
  const float* next;
  int64_t step;  // floats a step; 0: nothing to fetch
};

inline void fetch(Ahead& ahead) {
  __builtin_prefetch(ahead.next, 0, 2);
  __builtin_prefetch(ahead.next + ALIGNED, 0, 2);
  ahead.next += ahead.step;
}

// c[r][0 .. NV * WIDTH) = sum over segments s and k of rows[s][r][k] * b[s][k][0 .. NV * WIDTH), for MR rows.
template <int MR, int NV>
void multiply_rows(const float* const* rows, int segments, const int* depth, const float* b, float* c, int64_t c_row,
                   Ahead ahead) {
  Floats sum[MR][NV];
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) sum[r][j] = Floats{};
  for (int s = 0; s < segments; s++, rows += MR) {
    for (int k = 0; k < depth[s]; k++, b += NV * WIDTH) {
      Floats column[NV];
#pragma GCC unroll 2
      for (int j = 0; j < NV; j++) column[j] = load(b + j * WIDTH);
      fetch(ahead);
#pragma GCC unroll 16
      for (int r = 0; r < MR; r++) {
        const Floats value = broadcast(rows[r][k]);
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++) sum[r][j] += value * column[j];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) store(c + r * c_row + j * WIDTH, sum[r][j]);
}

// The same for rows at a constant distance, for which a pointer for three rows is enough; with `more` added to c.
template <int MR, int NV>
void multiply_matrix(const float* a, int64_t a_row, int64_t depth, const float* b, float* c, int64_t c_row, bool more,
                     Ahead ahead) {
  Floats sum[MR][NV];
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) sum[r][j] = more ? load(c + r * c_row + j * WIDTH) : Floats{};
  const float* third[(MR + 2) / 3];
#pragma GCC unroll 16
  for (int g = 0; g < (MR + 2) / 3; g++) third[g] = a + 3 * g * a_row;
  for (int64_t k = 0; k < depth; k++, b += NV * WIDTH) {
    Floats column[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) column[j] = load(b + j * WIDTH);
    fetch(ahead);
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++) {
      const Floats value = broadcast(third[r / 3][(r % 3) * a_row]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; j++) sum[r][j] += value * column[j];
    }
#pragma GCC unroll 16
    for (int g = 0; g < (MR + 2) / 3; g++) third[g]++;
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) store(c + r * c_row + j * WIDTH, sum[r][j]);
}

typedef void (*RowsProduct)(const float* const*, int, const int*, const float*, float*, int64_t, Ahead);
typedef void (*MatrixProduct)(const float*, int64_t, int64_t, const float*, float*, int64_t, bool, Ahead);

// Tables [vectors of a panel - 1][rows - 1].
template <int NV, int... R>
struct Table {
  static constexpr RowsProduct rows[] = {multiply_rows<R, NV>...};
  static constexpr MatrixProduct matrix[] = {multiply_matrix<R, NV>...};
};
template <int NV, int N, int... R>
struct UpTo : UpTo<NV, N - 1, N, R...> {};
template <int NV, int... R>
struct UpTo<NV, 0, R...> : Table<NV, R...> {};

RowsProduct rows_product(int rows, int panel) {
  return panel == WIDTH ? UpTo<1, ROWS>::rows[rows - 1] : UpTo<2, ROWS>::rows[rows - 1];
}
MatrixProduct matrix_product(int rows, int panel) {
  return panel == WIDTH ? UpTo<1, ROWS>::matrix[rows - 1] : UpTo<2, ROWS>::matrix[rows - 1];
}

// ---------------------------------------------------------------------------------------------------------------------
// Winograd's transforms, one dimension at a time

template <int OUT>
struct Transform;

template <>
struct Transform<4> {  // points 0, 1, -1, 2, -2, infinity
  static constexpr int EDGE = 6;
  static inline void weights(const Floats* g, int step, Floats* u) {
    const Floats g0 = g[0], g1 = g[step], g2 = g[2 * step], sixth = broadcast(1.0f / 6.0f);
    const Floats near = (g0 + g2) * sixth, by_one = g1 * sixth;
    const Floats far = g0 * broadcast(1.0f / 24.0f) + g2 * sixth, by_two = g1 * broadcast(1.0f / 12.0f);
    u[0] = g0 * broadcast(0.25f);
    u[1] = -near - by_one;
    u[2] = by_one - near;
    u[3] = far + by_two;
    u[4] = far - by_two;
    u[5] = g2;
  }
  static inline void input(const Floats* d, int step, Floats* v) {
    const Floats d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    const Floats two = broadcast(2.0f), four = broadcast(4.0f), five = broadcast(5.0f);
    const Floats even = d4 - four * d2, odd = d3 - four * d1;
    const Floats even2 = d4 - d2, odd2 = two * (d3 - d1);
    v[0] = four * d0 - five * d2 + d4;
    v[1] = even + odd;
    v[2] = even - odd;
    v[3] = even2 + odd2;
    v[4] = even2 - odd2;
    v[5] = four * d1 - five * d3 + d5;
  }
  static inline void output(const Floats* m, int step, Floats* y) {
    const Floats m0 = m[0], m5 = m[5 * step];
    const Floats s1 = m[step] + m[2 * step], d1 = m[step] - m[2 * step];
    const Floats s2 = m[3 * step] + m[4 * step], d2 = m[3 * step] - m[4 * step];
    y[0] = m0 + s1 + s2;
    y[1] = d1 + broadcast(2.0f) * d2;
    y[2] = s1 + broadcast(4.0f) * s2;
    y[3] = d1 + broadcast(8.0f) * d2 + m5;
  }
};

template <>
struct Transform<2> {  // points 0, 1, -1, infinity
  static constexpr int EDGE = 4;
  static inline void weights(const Floats* g, int step, Floats* u) {
    const Floats g0 = g[0], g2 = g[2 * step], half = broadcast(0.5f);
    const Floats both = (g0 + g2) * half, middle = g[step] * half;
    u[0] = g0;
    u[1] = both + middle;
    u[2] = both - middle;
    u[3] = g2;
  }
  static inline void input(const Floats* d, int step, Floats* v) {
    const Floats d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
    v[0] = d0 - d2;
    v[1] = d1 + d2;
    v[2] = d2 - d1;
    v[3] = d1 - d3;
  }
  static inline void output(const Floats* m, int step, Floats* y) {
    const Floats m1 = m[step], m2 = m[2 * step];
    y[0] = m[0] + m1 + m2;
    y[1] = m1 - m2 - m[3 * step];
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Winograd

constexpr int64_t DEPTH_FLOATS = 300000;

// Transformed inputs of tiles [from, to): v (point, tile - first, channel), `tiles` rows a point.
template <int OUT>
void transform_inputs(const Conv& conv, const int32_t* tiles, int64_t first, int64_t from, int64_t to, int64_t rows,
                      float* v, float* margin) {
  constexpr int EDGE = Transform<OUT>::EDGE, POINTS = EDGE * EDGE;
  const int64_t depth = conv.channels_in;
  const bool worth_keeping = !plain(conv);
  bool kept = false;  // the last two columns of the tile before, activated
  Window window;
  for (int64_t t = from; t < to; t++) {
    const int32_t* corner = tiles + 3 * t;
    open_window(conv, corner, EDGE, window);
    const bool keep = worth_keeping && t + 1 < to && corner[3] == corner[0] && corner[4] == corner[1] &&
                      corner[5] == corner[2] + OUT;
    int channel = 0;
    float* edge = margin;
    for (int s = 0; s < conv.sources; s++) {
      const int channels = conv.source[s].channels;
      for (int c = 0; c < channels; c += WIDTH) {
        const int count = std::min(WIDTH, channels - c);
        const Floats scale = window.scale ? load_some(window.scale + channel, count) : Floats{};
        const Floats shift = window.scale ? load_some(window.shift + channel, count) : Floats{};
        Floats d[POINTS], half[POINTS];
        for (int y = 0; y < EDGE; y++) {
          for (int x = 0; x < EDGE; x++) {
            if (kept && x < 2)
              d[y * EDGE + x] = load(edge + (y * 2 + x) * WIDTH);
            else
              d[y * EDGE + x] = read_pixel(conv, window, s, y * EDGE + x, c, channel, count, scale, shift);
          }
        }
        if (keep)
          for (int y = 0; y < EDGE; y++)
            for (int x = 0; x < 2; x++) store(edge + (y * 2 + x) * WIDTH, d[y * EDGE + OUT + x]);
#pragma GCC unroll 8
        for (int x = 0; x < EDGE; x++) {
          Floats column[EDGE];
          Transform<OUT>::input(d + x, EDGE, column);
#pragma GCC unroll 8
          for (int y = 0; y < EDGE; y++) half[y * EDGE + x] = column[y];
        }
        float* to_row = v + (t - first) * depth + channel;
#pragma GCC unroll 8
        for (int y = 0; y < EDGE; y++) {
          Floats row[EDGE];
          Transform<OUT>::input(half + y * EDGE, 1, row);
#pragma GCC unroll 8
          for (int x = 0; x < EDGE; x++) store_some(to_row + (y * EDGE + x) * spread(rows * depth), row[x], count);
        }
        channel += count;
        edge += 2 * EDGE * WIDTH;
      }
    }
    kept = keep;
  }
}

// Input channels whose weights are transformed at a time: they and the inputs that they meet should stay in the cache.
inline int64_t depth_part(int out, int64_t rows, int64_t depth) {
  const int64_t most = std::max<int64_t>(64, DEPTH_FLOATS / ((out + 2) * (out + 2) * (rows + 2 * WIDTH)));
  const int64_t parts = (depth + most - 1) / most;
  return (depth + parts - 1) / parts;
}

// Transformed weights of input channels [from, to) of a panel: u (point, channel - from, output), `distance` a point.
template <int OUT>
void transform_weights(const Conv& conv, int n, int64_t from, int64_t to, int64_t distance, float* u) {
  constexpr int EDGE = Transform<OUT>::EDGE;
  const int panel = panel_of(conv.channels_out);
  const int64_t tap = (int64_t)conv.channels_in * panel;
  const float* w = conv.weights + n * 9 * tap + from * panel;
  for (int64_t i = 0; i < (to - from) * panel; i += WIDTH) {
    Floats g[9], half[3 * EDGE];
#pragma GCC unroll 9
    for (int t = 0; t < 9; t++) g[t] = load(w + t * tap + i);
#pragma GCC unroll 3
    for (int x = 0; x < 3; x++) {
      Floats column[EDGE];
      Transform<OUT>::weights(g + x, 3, column);
#pragma GCC unroll 8
      for (int y = 0; y < EDGE; y++) half[y * 3 + x] = column[y];
    }
#pragma GCC unroll 8
    for (int y = 0; y < EDGE; y++) {
      Floats row[EDGE];
      Transform<OUT>::weights(half + y * 3, 1, row);
#pragma GCC unroll 8
      for (int x = 0; x < EDGE; x++) store(u + (y * EDGE + x) * distance + i, row[x]);
    }
  }
}

// Products of `rows` tiles with panels [from, to) of weights that were transformed before: u (point, panel, channel,
// output); m (point, tile, output - the first).
template <int OUT>
void multiply_ready(const Conv& conv, int64_t rows, int from, int to, const float* u, const float* v, float* m) {
  constexpr int EDGE = Transform<OUT>::EDGE, POINTS = EDGE * EDGE;
  const int panel = panel_of(conv.channels_out), panels = (conv.channels_out + panel - 1) / panel;
  const int64_t depth = conv.channels_in, m_row = (int64_t)(to - from) * panel;
  const int64_t blocks = (rows + ROWS - 1) / ROWS;
  for (int p = 0; p < POINTS; p++) {
    for (int n = from; n < to; n++) {
      const float* b = u + ((int64_t)p * panels + n) * depth * panel;
      const float* next = n + 1 < to ? b + depth * panel : b + (panels - (to - 1 - from)) * depth * panel;
      for (int64_t block = 0; block < blocks; block++) {
        const int64_t r0 = rows * block / blocks, r1 = rows * (block + 1) / blocks;
        const Ahead ahead = {next + depth * panel / blocks * block, (panel + blocks - 1) / blocks};
        matrix_product(r1 - r0, panel)(v + p * spread(rows * depth) + r0 * depth, depth, depth, b,
                                       m + p * spread(rows * m_row) + r0 * m_row + (n - from) * panel, m_row, false,
                                       ahead);
      }
    }
  }
}

// The same with weights that are transformed here, `part` input channels of a panel at a time, which stay in the cache.
template <int OUT>
void multiply_raw(const Conv& conv, int64_t rows, int from, int to, int64_t part, float* u, const float* v, float* m) {
  constexpr int EDGE = Transform<OUT>::EDGE, POINTS = EDGE * EDGE;
  const int panel = panel_of(conv.channels_out);
  const int64_t depth = conv.channels_in, m_row = (int64_t)(to - from) * panel, tap = depth * panel;
  const int64_t blocks = (rows + ROWS - 1) / ROWS;
  for (int64_t k = 0; k < depth; k += part) {
    const int64_t deep = std::min(part, depth - k), distance = spread(deep * panel);
    for (int n = from; n < to; n++) {
      transform_weights<OUT>(conv, n, k, k + deep, distance, u);
      // The next part is fetched meanwhile, evenly.
      const bool last = n + 1 == to;
      const float* next = conv.weights + (last ? from : n + 1) * 9 * tap + (last ? k + deep : k) * panel;
      const int64_t all = 9 * deep * panel, units = POINTS * blocks, step = (all + units * deep - 1) / (units * deep);
      for (int p = 0; p < POINTS; p++) {
        for (int64_t block = 0; block < blocks; block++) {
          const int64_t r0 = rows * block / blocks, r1 = rows * (block + 1) / blocks;
          const int64_t at = all * (p * blocks + block) / units;
          const Ahead ahead = {next + at / (deep * panel) * tap + at % (deep * panel), step};
          matrix_product(r1 - r0, panel)(v + p * spread(rows * depth) + r0 * depth + k, depth, deep, u + p * distance,
                                         m + p * spread(rows * m_row) + r0 * m_row + (n - from) * panel, m_row, k > 0,
                                         ahead);
        }
      }
    }
  }
}

// Panels [from, to) of the outputs of `rows` tiles that begin at tile `first`, from their products.
template <int OUT>
void write_outputs(const Conv& conv, const int32_t* tiles, int64_t first, int64_t rows, int from, int to,
                   const float* m) {
  constexpr int EDGE = Transform<OUT>::EDGE, POINTS = EDGE * EDGE;
  const int panel = panel_of(conv.channels_out);
  const int64_t m_row = (int64_t)(to - from) * panel;
  for (int64_t t = 0; t < rows; t++) {
    const int32_t* corner = tiles + 3 * (first + t);
    Place place[OUT * OUT];
    for (int i = 0; i < OUT * OUT; i++) place[i] = place_of(conv, corner[0], corner[1] + i / OUT, corner[2] + i % OUT);
    for (int c = 0; c < m_row; c += WIDTH) {
      const int channel = from * panel + c, count = std::min(WIDTH, conv.channels_out - channel);
      if (count <= 0) break;
      Floats product[POINTS], half[OUT * EDGE];
      for (int p = 0; p < POINTS; p++) product[p] = load(m + p * spread(rows * m_row) + t * m_row + c);
#pragma GCC unroll 8
      for (int x = 0; x < EDGE; x++) {
        Floats column[OUT];
        Transform<OUT>::output(product + x, EDGE, column);
#pragma GCC unroll 8
        for (int y = 0; y < OUT; y++) half[y * EDGE + x] = column[y];
      }
#pragma GCC unroll 8
      for (int y = 0; y < OUT; y++) {
        Floats row[OUT];
        Transform<OUT>::output(half + y * EDGE, 1, row);
#pragma GCC unroll 8
        for (int x = 0; x < OUT; x++)
          if (place[y * OUT + x].to) write(place[y * OUT + x], conv.bias, channel, count, row[x]);
      }
    }
  }
}

struct Chunk {  // how much is done at a time: tiles, input channels, panels, and the floats of scratch that takes
  int64_t tiles, part;
  int panels;
  int64_t v, m, margin, u;
  int64_t own() const { return m + margin + u; }  // of each thread, where v is shared
};

// Transformed inputs and products of a chunk should stay in the second-level cache (2 MB here, most have 1 to 2).
template <int OUT>
Chunk chunk_of(const Conv& conv, int64_t tiles) {
  constexpr int EDGE = Transform<OUT>::EDGE, POINTS = EDGE * EDGE;
  const int panel = panel_of(conv.channels_out), panels = (conv.channels_out + panel - 1) / panel;
  Chunk chunk;
  const int64_t wanted = std::max<int64_t>(4 * ROWS, 420000 / (POINTS * conv.channels_in));
  const int64_t parts = std::max<int64_t>(1, (tiles + wanted - 1) / wanted);
  chunk.tiles = (tiles + parts - 1) / parts;
  chunk.panels = std::max<int64_t>(1, std::min<int64_t>(panels, 300000 / (POINTS * chunk.tiles * panel)));
  chunk.v = POINTS * spread(chunk.tiles * conv.channels_in);
  chunk.m = POINTS * spread(chunk.tiles * chunk.panels * panel);
  chunk.margin = aligned((int64_t)2 * EDGE * (conv.channels_in + 3 * WIDTH));
  chunk.part = depth_part(OUT, chunk.tiles, conv.channels_in);
  chunk.u = POINTS * spread(chunk.part * panel);
  return chunk;
}

// How a convolution is shared among threads, and its scratch in floats.
template <int OUT>
struct Plan {
  bool by_tiles;  // each thread does whole chunks with its own scratch; else the weights are shared
  Chunk chunk;
  int64_t chunks, ready;  // floats of all transformed weights, where enough chunks read them to transform them first
  int64_t scratch;

  Plan(const Conv& conv, int64_t count, int threads) {
    const int panel = panel_of(conv.channels_out), panels = (conv.channels_out + panel - 1) / panel;
    by_tiles = count >= (int64_t)threads * 4 * ROWS;
    chunk = chunk_of<OUT>(conv, by_tiles ? (count + threads - 1) / threads : count);
    chunks = (count + chunk.tiles - 1) / chunk.tiles;
    ready = by_tiles && chunks >= 8 * threads ? (OUT + 2) * (OUT + 2) * (int64_t)conv.channels_in * panels * panel : 0;
    scratch = by_tiles ? ready + threads * (chunk.v + chunk.own()) : chunk.v + threads * chunk.own();
  }
};

template <int OUT>
void winograd(const Conv& conv, const int32_t* tiles, int64_t count, float* scratch, int threads) {
  const int panel = panel_of(conv.channels_out), panels = (conv.channels_out + panel - 1) / panel;
  const Plan<OUT> plan(conv, count, threads);
  const Chunk& chunk = plan.chunk;
  if (plan.by_tiles) {
    float* ready = scratch;
    scratch += plan.ready;
#pragma omp parallel num_threads(threads)
    {
      float* v = scratch + this_thread() * (chunk.v + chunk.own());
      float *m = v + chunk.v, *margin = m + chunk.m, *u = margin + chunk.margin;
      if (plan.ready) {
        const int64_t size = (int64_t)conv.channels_in * panel;
#pragma omp for schedule(static)
        for (int n = 0; n < panels; n++)
          transform_weights<OUT>(conv, n, 0, conv.channels_in, panels * size, ready + n * size);
      }
#pragma omp for schedule(static, 1)
      for (int64_t i = 0; i < plan.chunks; i++) {
        const int64_t first = i * chunk.tiles, rows = std::min(chunk.tiles, count - first);
        transform_inputs<OUT>(conv, tiles, first, first, first + rows, rows, v, margin);
        for (int n = 0; n < panels; n += chunk.panels) {
          const int to = std::min(panels, n + chunk.panels);
          if (plan.ready)
            multiply_ready<OUT>(conv, rows, n, to, ready, v, m);
          else
            multiply_raw<OUT>(conv, rows, n, to, chunk.part, u, v, m);
          write_outputs<OUT>(conv, tiles, first, rows, n, to, m);
        }
      }
    }
    return;
  }
  // Few tiles: the weights are what costs, so each thread reads its share of them.
  const int share = std::min<int>(chunk.panels, (panels + threads - 1) / threads);
#pragma omp parallel num_threads(threads)
  {
    float* m = scratch + chunk.v + this_thread() * chunk.own();
    float *margin = m + chunk.m, *u = margin + chunk.margin;
    for (int64_t first = 0; first < count; first += chunk.tiles) {
      const int64_t rows = std::min(chunk.tiles, count - first);
#pragma omp for schedule(static)
      for (int64_t t = 0; t < rows; t += 4)
        transform_inputs<OUT>(conv, tiles, first, first + t, first + std::min(t + 4, rows), rows, scratch, margin);
#pragma omp for schedule(dynamic, 1)
      for (int n = 0; n < panels; n += share) {
        multiply_raw<OUT>(conv, rows, n, std::min(panels, n + share), chunk.part, u, scratch, m);
        write_outputs<OUT>(conv, tiles, first, rows, n, std::min(panels, n + share), m);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Direct

// The matrix of a chunk of tiles: each output's row is a few segments that lie side by side.
//
// A 1x1 convolution without a prologue reads the maps where they are, a segment a map. Otherwise the windows are
// gathered into a patch, where the pixels under a row of the kernel follow each other: a segment a row.
struct Rows {
  bool in_place;
  int segments, depth[7];
};

Rows rows_of(const Conv& conv) {
  Rows rows;
  rows.in_place = plain(conv) && conv.kernel == 1;
  rows.segments = rows.in_place ? conv.sources : conv.kernel;
  for (int s = 0; s < rows.segments; s++)
    rows.depth[s] = rows.in_place ? conv.source[s].channels : conv.kernel * conv.channels_in;
  return rows;
}

struct DirectChunk {
  int64_t tiles, patch, pointers, places, sums;
  int64_t shared() const { return patch + pointers + places; }
};

DirectChunk direct_chunk(const Conv& conv, int64_t tiles) {
  const int edge = window_edge(conv), area = conv.tile * conv.tile;
  DirectChunk chunk;
  const int64_t wanted = std::max<int64_t>(1, 250000 / ((int64_t)edge * edge * conv.channels_in));
  const int64_t least = (8 * ROWS + area - 1) / area;  // rows enough to pay for reading the weights
  const int64_t most = (512 + area - 1) / area;  // results are written a panel at a time: they should stay near
  const int64_t size = std::max(std::min(wanted, most), least), parts = std::max<int64_t>(1, (tiles + size - 1) / size);
  chunk.tiles = (tiles + parts - 1) / parts;
  chunk.patch = aligned(chunk.tiles * edge * edge * conv.channels_in + conv.channels_in);  // and a row of zeros
  chunk.pointers = aligned(2 * chunk.tiles * area * 7);
  chunk.places = aligned(4 * chunk.tiles * area);
  chunk.sums = aligned((int64_t)ROWS * 2 * WIDTH);
  return chunk;
}

// Where each segment and each result of the outputs of tile t (the i-th of its chunk) lies; fills the patch.
void place_rows(const Conv& conv, const Rows& rows, const int32_t* tiles, int64_t t, int64_t i, const float** row,
                Place* place, int64_t outputs, float* patch, const float* zeros) {
  const int edge = window_edge(conv), area = conv.tile * conv.tile;
  const int32_t* corner = tiles + 3 * t;
  Window window;
  open_window(conv, corner, edge, window);
  float* own = patch + i * edge * edge * conv.channels_in;
  if (!rows.in_place) fill_patch(conv, window, own);
  for (int o = 0; o < area; o++) {
    const int py = o / conv.tile, px = o % conv.tile;
    const int at = py * conv.stride * edge + px * conv.stride;
    for (int s = 0; s < rows.segments; s++) {
      const float* from = own + (int64_t)(at + s * edge) * conv.channels_in;
      if (rows.in_place) from = window.at[s][at] ? window.at[s][at] : zeros;
      row[s * outputs + i * area + o] = from;
    }
    place[i * area + o] = place_of(conv, corner[0], corner[1] + py, corner[2] + px);
  }
}

// Panels [n0, n1) of a chunk's outputs.
void multiply_outputs(const Conv& conv, const Rows& rows, int n0, int n1, const float* const* row, const Place* place,
                      int64_t outputs, float* sums) {
  const int panel = panel_of(conv.channels_out);
  const int64_t depth = (int64_t)conv.kernel * conv.kernel * conv.channels_in;
  const int64_t blocks = (outputs + ROWS - 1) / ROWS, all = blocks * (n1 - n0);
  // Weights that stay in the cache are read again and again, so that results are written in one go; others once.
  const bool stay = depth * panel * (n1 - n0) <= 65536;
  for (int64_t i = 0; i < all; i++) {
    const int64_t n = n0 + (stay ? i % (n1 - n0) : i / blocks), block = stay ? i / (n1 - n0) : i % blocks;
    const float* b = conv.weights + n * depth * panel;
    const int64_t r0 = outputs * block / blocks, r1 = outputs * (block + 1) / blocks;
    const int count = r1 - r0;
    const float* at[7 * ROWS];
    for (int s = 0; s < rows.segments; s++)
      for (int r = 0; r < count; r++) at[s * count + r] = row[s * outputs + r0 + r];
    const Ahead ahead = {stay ? b : b + depth * panel + depth * panel / blocks * block,
                         stay ? 0 : (panel + blocks - 1) / blocks};
    rows_product(count, panel)(at, rows.segments, rows.depth, b, sums, panel, ahead);
    for (int r = 0; r < count; r++) {
      if (!place[r0 + r].to) continue;
      for (int c = 0; c < panel && n * panel + c < conv.channels_out; c += WIDTH)
        write(place[r0 + r], conv.bias, n * panel + c, std::min<int>(WIDTH, conv.channels_out - n * panel - c),
              load(sums + r * panel + c));
    }
  }
}

void direct(const Conv& conv, const int32_t* tiles, int64_t count, float* scratch, int threads) {
  const int panel = panel_of(conv.channels_out), panels = (conv.channels_out + panel - 1) / panel;
  const int area = conv.tile * conv.tile;
  const bool by_tiles = count * area >= (int64_t)threads * 16 * ROWS;
  const DirectChunk chunk = direct_chunk(conv, by_tiles ? (count + threads - 1) / threads : count);
  const int64_t chunks = (count + chunk.tiles - 1) / chunk.tiles;
  const Rows rows = rows_of(conv);
#pragma omp parallel num_threads(threads)
  {
    const int thread = this_thread();
    float* base = by_tiles ? scratch + thread * (chunk.shared() + chunk.sums) : scratch;
    float* zeros = base + chunk.patch - aligned(conv.channels_in);
    const float** row = (const float**)(base + chunk.patch);
    Place* place = (Place*)(base + chunk.patch + chunk.pointers);
    float* sums = base + chunk.shared() + (by_tiles ? 0 : thread * chunk.sums);
    if (by_tiles) {  // each thread does whole chunks, with its own scratch
      memset(zeros, 0, sizeof(float) * conv.channels_in);
#pragma omp for schedule(static, 1)
      for (int64_t n = 0; n < chunks; n++) {
        const int64_t first = n * chunk.tiles, number = std::min(chunk.tiles, count - first);
        for (int64_t i = 0; i < number; i++)
          place_rows(conv, rows, tiles, first + i, i, row, place, number * area, base, zeros);
        multiply_outputs(conv, rows, 0, panels, row, place, number * area, sums);
      }
    } else {  // the weights are what costs: each thread reads its share of them
#pragma omp single
      memset(zeros, 0, sizeof(float) * conv.channels_in);
      for (int64_t first = 0; first < count; first += chunk.tiles) {
        const int64_t number = std::min(chunk.tiles, count - first);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < number; i++)
          place_rows(conv, rows, tiles, first + i, i, row, place, number * area, base, zeros);
#pragma omp for schedule(static)
        for (int n = 0; n < panels; n++)
          multiply_outputs(conv, rows, n, n + 1, row, place, number * area, sums);
      }
    }
  }
}

}  // namespace

extern "C" {

// Floats in a panel of packed weights: columns are padded with zeros to a multiple of it.
int32_t gg_conv_panel(int32_t channels_out) { return panel_of(channels_out); }

// Floats of scratch that `gg_conv` needs.
int64_t gg_conv_scratch(const Conv* conv, int64_t count, int32_t threads) {
  if (count == 0) return 0;
  const int64_t share = (count + threads - 1) / threads;
  if (conv->kind == 1) {
    const DirectChunk one = direct_chunk(*conv, share), all = direct_chunk(*conv, count);
    return std::max(threads * (one.shared() + one.sums), all.shared() + threads * all.sums);
  }
  return conv->kind == 4 ? Plan<4>(*conv, count, threads).scratch : Plan<2>(*conv, count, threads).scratch;
}

// `tiles` (count, 3): image and top-left corner of each output tile; corners within the picture.
void gg_conv(const Conv* conv, const int32_t* tiles, int64_t count, float* scratch, int32_t threads) {
  if (count == 0) return;
  if (conv->kind == 4)
    winograd<4>(*conv, tiles, count, scratch, threads);
  else if (conv->kind == 2)
    winograd<2>(*conv, tiles, count, scratch, threads);
  else
    direct(*conv, tiles, count, scratch, threads);
}

}  // extern "C"
