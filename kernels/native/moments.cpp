// Mean and variance of a map's channels, for normalisation.
#include <algorithm>
#include "simd.h"

using namespace gg;

namespace {

// moments (image, channel, 2): mean and variance over the pixels of a map, in double. Differences from the first pixel
// are summed, so that a channel that is all but constant keeps its variance.
template <class E>
void channel_moments(const E* map, int64_t images, int64_t pixels, int64_t channels, double* moments,
                        int32_t threads) {
  constexpr int64_t BLOCK = 64;  // pixels summed in float before they join the double
#pragma omp parallel for collapse(2) num_threads(threads)
  for (int64_t image = 0; image < images; image++) {
    for (int64_t c = 0; c < channels; c += WIDTH) {
      const int count = std::min<int64_t>(WIDTH, channels - c);
      const E* at = map + image * pixels * channels + c;
      const Floats first = load_some(at, count);
      double total[WIDTH] = {}, squares[WIDTH] = {};
      for (int64_t from = 0; from < pixels; from += BLOCK) {
        Floats part = {}, part2 = {};
        for (int64_t p = from; p < std::min(from + BLOCK, pixels); p++) {
          const Floats value = load_some(at + p * channels, count) - first;
          part += value;
          part2 += value * value;
        }
        for (int i = 0; i < WIDTH; i++) total[i] += part[i], squares[i] += part2[i];
      }
      for (int i = 0; i < count; i++) {
        const double mean = total[i] / pixels;
        moments[(image * channels + c + i) * 2] = first[i] + mean;
        moments[(image * channels + c + i) * 2 + 1] = std::max(0.0, squares[i] / pixels - mean * mean);
      }
    }
  }
}

// sums (image, channel, 2): how the sum and the sum of squares of (value - first pixel) change when new pixels take the
// place of old ones. `pixels` and `numbers` (count): their places in the map and among the new ones.
template <class E>
void moments_change(const E* map, const E* news, const int64_t* pixels, const int64_t* numbers,
                       int64_t count, int64_t images, int64_t map_pixels, int64_t news_pixels, int64_t channels,
                       double* sums, int32_t threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (int64_t image = 0; image < images; image++) {
    for (int64_t c = 0; c < channels; c += WIDTH) {
      const int width = std::min<int64_t>(WIDTH, channels - c);
      const E* old = map + image * map_pixels * channels + c;
      const E* fresh = news + image * news_pixels * channels + c;
      const Floats first = load_some(old, width);
      double total[WIDTH] = {}, squares[WIDTH] = {};
      for (int64_t i = 0; i < count; i++) {
        const Floats after = load_some(fresh + numbers[i] * channels, width) - first;
        const Floats before = load_some(old + pixels[i] * channels, width) - first;
        const Floats change = after - before, square = after * after - before * before;
        for (int k = 0; k < WIDTH; k++) total[k] += change[k], squares[k] += square[k];
      }
      for (int k = 0; k < width; k++) {
        sums[(image * channels + c + k) * 2] = total[k];
        sums[(image * channels + c + k) * 2 + 1] = squares[k];
      }
    }
  }
}

}  // namespace

extern "C" {

void gg_channel_moments(const float* map, int64_t images, int64_t pixels, int64_t channels, double* moments,
                        int32_t threads) {
  channel_moments(map, images, pixels, channels, moments, threads);
}

void gg_channel_moments_bf16(const Bf16* map, int64_t images, int64_t pixels, int64_t channels, double* moments,
                             int32_t threads) {
  channel_moments(map, images, pixels, channels, moments, threads);
}

void gg_moments_change(const float* map, const float* news, const int64_t* pixels, const int64_t* numbers,
                       int64_t count, int64_t images, int64_t map_pixels, int64_t news_pixels, int64_t channels,
                       double* sums, int32_t threads) {
  moments_change(map, news, pixels, numbers, count, images, map_pixels, news_pixels, channels, sums, threads);
}

void gg_moments_change_bf16(const Bf16* map, const Bf16* news, const int64_t* pixels, const int64_t* numbers,
                            int64_t count, int64_t images, int64_t map_pixels, int64_t news_pixels, int64_t channels,
                            double* sums, int32_t threads) {
  moments_change(map, news, pixels, numbers, count, images, map_pixels, news_pixels, channels, sums, threads);
}

}  // extern "C"
