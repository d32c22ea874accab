// Gaussian spots added into pictures, and back: what kernels/splatting.py defines, for contiguous float tensors.
//
// A spot's weights are a column's times a row's, so that a point costs two short runs of exponentials and then one
// multiply-add for every number of its window, rows being contiguous with their channels side by side.
#include <algorithm>
#include <cmath>
#include <vector>
#include "simd.h"

using namespace gg;

namespace {

constexpr float RADIUS = 2.0f;  // of a window, in sigmas

// The places of a window along one axis, from `first` to before `end`, cut off at the picture.
struct Window {
  int64_t first, end;
};

// In float as the definition computes it, so that both round a place to the same pixel.
Window window(float centre, float sigma, int64_t side) {
  const float reach = RADIUS * sigma;
  const float first = std::max(std::floor(centre - reach), 0.0f);
  const float last = std::min(std::ceil(centre + reach), float(side - 1));
  return {int64_t(first), int64_t(last) + 1};
}

bool outside(const float* point, int64_t height, int64_t width) {
  return !(point[0] >= 0 && point[1] >= 0 && point[0] < width && point[1] < height);  // NaN is
}

// The weights of a window's places; `weights` has room for WIDTH more.
void weigh(Window at, float centre, float sigma, float* weights) {
  const Floats scale = broadcast(-1.0f / (2.0f * sigma * sigma));
  Floats step;
  for (int i = 0; i < WIDTH; i++) step[i] = float(i);
  for (int64_t i = at.first; i < at.end; i += WIDTH) {
    const Floats distance = step + broadcast(float(i) - centre);
    store(weights + (i - at.first), exponential(distance * distance * scale));
  }
}

// Below this many numbers, waking the other threads costs more than it brings.
int threads_for(int64_t numbers, int threads) { return numbers < 32768 ? 1 : threads; }

}  // namespace

// coords (count, points, 2), sigmas (count), values (count, points, channels); total (count, height, width,
// channels + 1) is added to. Each thread has rows of its own and takes all points in their order, so that the sums do
// not depend on the number of threads.
extern "C" void gengauge_splat(const float* coords, const float* sigmas, const float* values, float* total,
                               int64_t count, int64_t points, int64_t channels, int64_t height, int64_t width,
                               int threads) {
  const int64_t numbers = channels + 1;
  threads = threads_for(count * points * numbers * 16, threads);
  const int64_t bands = std::min<int64_t>(threads, height);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> across(width + WIDTH), down(height + WIDTH), row(width * numbers);
#pragma omp for collapse(2) schedule(static)
    for (int64_t n = 0; n < count; n++) {
      for (int64_t band = 0; band < bands; band++) {
        const int64_t top = height * band / bands, bottom = height * (band + 1) / bands;
        for (int64_t p = n * points; p < (n + 1) * points; p++) {
          const float* point = coords + p * 2;
          if (outside(point, height, width)) continue;
          const Window y = window(point[1], sigmas[n], height);
          const int64_t from = std::max(y.first, top), to = std::min(y.end, bottom);
          if (from >= to) continue;
          const Window x = window(point[0], sigmas[n], width);
          weigh(x, point[0], sigmas[n], across.data());
          weigh(y, point[1], sigmas[n], down.data());
          const float* value = values + p * channels;
          const int64_t length = (x.end - x.first) * numbers;
          for (int64_t i = 0; i < x.end - x.first; i++) {
            for (int64_t c = 0; c < channels; c++) row[i * numbers + c] = across[i] * value[c];
            row[i * numbers + channels] = across[i];
          }
          for (int64_t h = from; h < to; h++) {
            float* out = total + ((n * height + h) * width + x.first) * numbers;
            const float weight = down[h - y.first];
#pragma omp simd
            for (int64_t i = 0; i < length; i++) out[i] += weight * row[i];
          }
        }
      }
    }
  }
}

// The gradient by values (count, points, channels), of that by the sums (count, height, width, channels + 1).
extern "C" void gengauge_splat_gradient(const float* coords, const float* sigmas, float* values, const float* total,
                                        int64_t count, int64_t points, int64_t channels, int64_t height,
                                        int64_t width, int threads) {
  const int64_t numbers = channels + 1;
#pragma omp parallel num_threads(threads_for(count * points * numbers * 16, threads))
  {
    std::vector<float> across(width + WIDTH), down(height + WIDTH), row(width * numbers);
#pragma omp for schedule(static)
    for (int64_t p = 0; p < count * points; p++) {
      const int64_t n = p / points;
      const float* point = coords + p * 2;
      float* value = values + p * channels;
      std::fill(value, value + channels, 0.0f);
      if (outside(point, height, width)) continue;
      const Window x = window(point[0], sigmas[n], width), y = window(point[1], sigmas[n], height);
      weigh(x, point[0], sigmas[n], across.data());
      weigh(y, point[1], sigmas[n], down.data());
      const int64_t length = (x.end - x.first) * numbers;
      std::fill(row.begin(), row.begin() + length, 0.0f);
      for (int64_t h = y.first; h < y.end; h++) {
        const float* in = total + ((n * height + h) * width + x.first) * numbers;
        const float weight = down[h - y.first];
#pragma omp simd
        for (int64_t i = 0; i < length; i++) row[i] += weight * in[i];
      }
      for (int64_t i = 0; i < x.end - x.first; i++)
        for (int64_t c = 0; c < channels; c++) value[c] += across[i] * row[i * numbers + c];
    }
  }
}
