// The convolution on tiles of conv.cpp for maps and weights in bfloat16, by the matrix unit of newer Intel processors
// (AMX): sums in float, direct only, since Winograd's transforms are not for so few digits.
//
// Without such a unit `gg_conv_bf16_ready` says no and the caller takes another way.
#include "conv.h"

#if defined(__AVX512F__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#define GG_AMX 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__clang__)
#define AMX __attribute__((target("amx-tile,amx-bf16")))
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16")
#define AMX
#endif
#endif

using namespace gg;

namespace {

using Conv = ConvOf<Bf16>;
using Window = WindowOf<Bf16>;
using Place = PlaceOf<Bf16>;

constexpr int BLOCK = 32;  // rows, columns and depth of a step: two by two tiles of 16 rows of 64 bytes

int64_t padded(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

int64_t depth_of(const Conv& conv) { return (int64_t)conv.kernel * conv.kernel * conv.channels_in; }

// A row of the matrix; an odd number of cache lines, so that rows do not fall into the same set of the cache.
int64_t row_of(const Conv& conv) { return (padded(depth_of(conv)) / BLOCK | 1) * BLOCK; }

struct Chunk {  // in bytes, but for the tiles
  int64_t tiles, matrix, places, patch, sums;
  int64_t shared() const { return matrix + places; }
  int64_t own() const { return patch + sums; }
};

int64_t lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

Chunk chunk_of(const Conv& conv, int64_t tiles) {
  const int edge = window_edge(conv), area = conv.tile * conv.tile;
  Chunk chunk;
  const int64_t fits = 800000 / (2 * row_of(conv) * area), least = (4 * BLOCK + area - 1) / area;
  const int64_t size = std::max(fits, least), parts = std::max<int64_t>(1, (tiles + size - 1) / size);
  chunk.tiles = (tiles + parts - 1) / parts;
  chunk.matrix = lines(2 * row_of(conv) * padded(chunk.tiles * area));
  chunk.places = lines(sizeof(Place) * padded(chunk.tiles * area));
  chunk.patch = lines(2 * (int64_t)edge * edge * conv.channels_in);
  chunk.sums = sizeof(float) * BLOCK * BLOCK;
  return chunk;
}

// The rows of tile t, the i-th of its chunk: for each output the pixels under the kernel, side by side.
void place_rows(const Conv& conv, const int32_t* tiles, int64_t t, int64_t i, Bf16* matrix, Place* place, Bf16* patch) {
  const int edge = window_edge(conv), area = conv.tile * conv.tile;
  const int64_t depth = depth_of(conv), row = row_of(conv), under = (int64_t)conv.kernel * conv.channels_in;
  const int32_t* corner = tiles + 3 * t;
  Window window;
  open_window(conv, corner, edge, window);
  const bool direct = edge == conv.tile && conv.kernel == 1;  // each pixel is one row: no patch between
  if (!direct) fill_patch(conv, window, patch);
  for (int o = 0; o < area; o++) {
    const int py = o / conv.tile, px = o % conv.tile;
    Bf16* to = matrix + (i * area + o) * row;
    if (!direct)
      for (int ky = 0; ky < conv.kernel; ky++)
        memcpy(to + ky * under, patch + ((py * conv.stride + ky) * edge + px * conv.stride) * (int64_t)conv.channels_in,
               2 * under);
    memset(to + depth, 0, 2 * (row - depth));
    place[i * area + o] = place_of(conv, corner[0], corner[1] + py, corner[2] + px);
  }
  if (!direct) return;
  int channel = 0;
  for (int s = 0; s < conv.sources; s++) {
    for (int c = 0; c < conv.source[s].channels; c += WIDTH) {
      const int count = std::min(WIDTH, conv.source[s].channels - c);
      const Floats scale = window.scale ? load_some(window.scale + channel, count) : Floats{};
      const Floats shift = window.scale ? load_some(window.shift + channel, count) : Floats{};
      for (int o = 0; o < area; o++)
        store_some(matrix + (i * area + o) * row + channel,
                   read_pixel(conv, window, s, o, c, channel, count, scale, shift), count);
      channel += count;
    }
  }
}

#if GG_AMX

struct TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// Outputs [0, rows) of panels [n0, n1) of 32 columns.
AMX void multiply(const Conv& conv, int n0, int n1, const Bf16* matrix, const Place* place, int64_t rows, float* sums) {
  const int64_t row = row_of(conv), steps = padded(depth_of(conv)) / BLOCK;
  TileConfig config;
  for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
  _tile_loadconfig(&config);
  for (int n = n0; n < n1; n++) {
    const Bf16* weights = conv.weights + n * steps * BLOCK * BLOCK;
    for (int64_t r = 0; r < rows; r += BLOCK) {
      const Bf16* a = matrix + r * row;
      const Bf16* b = weights;
      const Bf16* next = weights + steps * BLOCK * BLOCK;  // of the next panel, fetched while this one is multiplied
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t k = 0; k < steps; k++, a += BLOCK, b += BLOCK * BLOCK) {
        _tile_loadd(4, a, row * 2);
        _tile_loadd(5, a + 16 * row, row * 2);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + BLOCK * BLOCK / 2, 64);
        if (r == 0)
          for (int line = 0; line < 32; line++) __builtin_prefetch(next + k * BLOCK * BLOCK + line * 32, 0, 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, sums, BLOCK * 4);
      _tile_stored(1, sums + 16, BLOCK * 4);
      _tile_stored(2, sums + 16 * BLOCK, BLOCK * 4);
      _tile_stored(3, sums + 16 * BLOCK + 16, BLOCK * 4);
      for (int i = 0; i < BLOCK && r + i < rows; i++) {
        if (!place[r + i].to) continue;
        for (int c = 0; c < BLOCK && n * BLOCK + c < conv.channels_out; c += WIDTH)
          write(place[r + i], conv.bias, n * BLOCK + c, std::min(WIDTH, conv.channels_out - n * BLOCK - c),
                load(sums + i * BLOCK + c));
      }
    }
  }
  _tile_release();
}

bool ready() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & (1u << 22)) || !(d & (1u << 24))) return false;
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;  // the kernel gives tile registers on request
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

#else

void multiply(const Conv&, int, int, const Bf16*, const Place*, int64_t, float*) {}
bool ready() { return false; }

#endif

}  // namespace

extern "C" {

// Whether this processor and system can run `gg_conv_bf16`.
int32_t gg_conv_bf16_ready() {
  static const bool found = ready();
  return found;
}

// Bytes of scratch that `gg_conv_bf16` needs.
int64_t gg_conv_bf16_scratch(const Conv* conv, int64_t count, int32_t threads) {
  if (count == 0) return 0;
  const Chunk one = chunk_of(*conv, (count + threads - 1) / threads), all = chunk_of(*conv, count);
  return std::max(threads * (one.shared() + one.own()), all.shared() + threads * all.own());
}

// As `gg_conv`, on maps in bfloat16. Weights: (panel of 32 columns, depth / 32, half of the columns, pair of depths,
// column, depth of the pair), padded with zeros; bias, scale and shift in float.
void gg_conv_bf16(const Conv* conv, const int32_t* tiles, int64_t count, char* scratch, int32_t threads) {
  if (count == 0) return;
  const int area = conv->tile * conv->tile, panels = (conv->channels_out + BLOCK - 1) / BLOCK;
  const bool by_tiles = count * area >= (int64_t)threads * 8 * BLOCK;
  const Chunk chunk = chunk_of(*conv, by_tiles ? (count + threads - 1) / threads : count);
  const int64_t chunks = (count + chunk.tiles - 1) / chunk.tiles;
#pragma omp parallel num_threads(threads)
  {
    const int thread = this_thread();
    char* shared = by_tiles ? scratch + thread * (chunk.shared() + chunk.own()) : scratch;
    char* own = by_tiles ? shared + chunk.shared() : scratch + chunk.shared() + thread * chunk.own();
    Bf16* matrix = (Bf16*)shared;
    Place* place = (Place*)(shared + chunk.matrix);
    Bf16* patch = (Bf16*)own;
    float* sums = (float*)(own + chunk.patch);
    if (by_tiles) {  // each thread does whole chunks
#pragma omp for schedule(static, 1)
      for (int64_t n = 0; n < chunks; n++) {
        const int64_t first = n * chunk.tiles, number = std::min(chunk.tiles, count - first);
        for (int64_t i = 0; i < number; i++) place_rows(*conv, tiles, first + i, i, matrix, place, patch);
        multiply(*conv, 0, panels, matrix, place, number * area, sums);
      }
    } else {  // the weights are what costs: each thread reads its share of them
      for (int64_t first = 0; first < count; first += chunk.tiles) {
        const int64_t number = std::min(chunk.tiles, count - first);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < number; i++) place_rows(*conv, tiles, first + i, i, matrix, place, patch);
#pragma omp for schedule(static)
        for (int n = 0; n < panels; n++) multiply(*conv, n, n + 1, matrix, place, number * area, sums);
      }
    }
  }
}

}  // extern "C"
#if GG_AMX && !defined(__clang__)
#pragma GCC pop_options
#endif
