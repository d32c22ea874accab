// What the convolutions on tiles share, whatever the type of the maps: where a tile's pixels lie, what is done to them on
// the way in, and where results go.
#pragma once
#include <algorithm>
#if defined(_OPENMP)
#include <omp.h>
#endif
#include "simd.h"

namespace gg {

inline int this_thread() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// A map (image, y, x, channel), of which some pixels may lie elsewhere: what an edit computed anew.
template <class E>
struct MapOf {
  const E* data;
  int64_t row, image;        // elements from a pixel, an image, to the next
  const int32_t* where;      // per pixel: its number among the new ones, or -1; null: there are none
  const E* news;         // (image, new pixel, channel)
  int64_t news_image;
  int32_t channels;
  int32_t halved;            // 1: the map has half the size, and each of its pixels serves for four
};

template <class E>
struct ConvOf {
  int32_t kind, sources;
  MapOf<E> source[3];
  int32_t height, width;  // of the input, after up-sampling
  int32_t channels_in, channels_out;
  int32_t kernel, stride, pad;
  int32_t tile;        // edge of an output tile, for kind 1
  int32_t activation;  // 0 none, 1 SiLU, 2 leaky ReLU, 3 ReLU
  float slope;
  const float *centre, *scale, *shift;  // per input channel: (value - centre) * scale + shift; null for none
  int64_t affine_image;                 // floats from one image's scale to the next
  MapOf<E> gamma, beta;                      // value * (1 + gamma) + beta after the affine; data null for none
  MapOf<E> residual;                         // added to the result; data null for none
  const E* weights;
  const float* bias;
  int32_t out_height, out_width;
  E* out;                    // a map, or with `out_where` only its new pixels
  const int32_t* out_where;
  int64_t out_row, out_image;
};

constexpr int64_t ALIGNED = 64 / sizeof(float);

inline int64_t aligned(int64_t floats) { return (floats + ALIGNED - 1) / ALIGNED * ALIGNED; }

// The distance between matrices that are written side by side: an odd number of cache lines, so that they do not all
// fall into the same set of the cache.
inline int64_t spread(int64_t floats) { return ((floats + ALIGNED - 1) / ALIGNED | 1) * ALIGNED; }

inline int panel_of(int channels_out) { return channels_out <= WIDTH ? WIDTH : 2 * WIDTH; }

// Where a map's pixel lies, of a picture of that width.
template <class E>
inline const E* pixel_of(const MapOf<E>& map, int64_t image, int y, int x, int width) {
  const int64_t pixel = (int64_t)(y >> map.halved) * (width >> map.halved) + (x >> map.halved);
  if (map.where) {
    const int32_t fresh = map.where[pixel];
    if (fresh >= 0) return map.news + image * map.news_image + fresh * map.row;
  }
  return map.data + image * map.image + pixel * map.row;
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading a window

constexpr int MOST_PIXELS = 121;  // of a window: 11 x 11

template <class E>
struct WindowOf {  // where the pixels of a tile's input lie
  int edge;
  const E* at[3][MOST_PIXELS];  // per source and pixel; null outside the picture
  const E *gamma[MOST_PIXELS], *beta[MOST_PIXELS];
  const float *centre, *scale, *shift;
};

template <class E>
inline void open_window(const ConvOf<E>& conv, const int32_t* corner, int edge, WindowOf<E>& window) {
  window.edge = edge;
  const int64_t image = corner[0];
  const int top = corner[1] * conv.stride - conv.pad, left = corner[2] * conv.stride - conv.pad;
  window.centre = conv.centre ? conv.centre + image * conv.affine_image : nullptr;
  window.scale = conv.scale ? conv.scale + image * conv.affine_image : nullptr;
  window.shift = conv.scale ? conv.shift + image * conv.affine_image : nullptr;
  int i = 0;
  for (int y = top; y < top + edge; y++) {
    for (int x = left; x < left + edge; x++, i++) {
      const bool inside = y >= 0 && x >= 0 && y < conv.height && x < conv.width;
      for (int s = 0; s < conv.sources; s++)
        window.at[s][i] = inside ? pixel_of(conv.source[s], image, y, x, conv.width) : nullptr;
      if (conv.gamma.data && inside) {
        window.gamma[i] = pixel_of(conv.gamma, image, y, x, conv.width);
        window.beta[i] = pixel_of(conv.beta, image, y, x, conv.width);
      }
    }
  }
}

// `count` channels of pixel i, from channel c of source s, which is channel `channel` of the concatenation.
template <class E>
inline Floats read_pixel(const ConvOf<E>& conv, const WindowOf<E>& window, int s, int i, int c, int channel, int count,
                         Floats scale, Floats shift) {
  if (!window.at[s][i]) return Floats{};  // zero after affine and activation, not before
  Floats value = load_some(window.at[s][i] + c, count);
  if (window.centre) value = value - load_some(window.centre + channel, count);
  if (window.scale) value = value * scale + shift;
  if (conv.gamma.data) {
    const Floats gamma = load_some(window.gamma[i] + channel, count);
    value = value * (gamma + broadcast(1.0f)) + load_some(window.beta[i] + channel, count);
  }
  if (conv.activation == 1) return value * reciprocal(broadcast(1.0f) + exponential(-value));
  if (conv.activation == 3) return value < Floats{} ? Floats{} : value;  // NaN stays
  if (conv.activation == 2) return value > Floats{} ? value : value * broadcast(conv.slope);
  return value;
}

template <class E>
inline bool plain(const ConvOf<E>& conv) { return !conv.scale && !conv.gamma.data && !conv.activation; }

// ---------------------------------------------------------------------------------------------------------------------
// Writing results

// An output pixel's place, and that of what is added to it; `to` is null outside the picture.
template <class E>
struct PlaceOf {
  E* to;
  const E* residual;
};

template <class E>
inline PlaceOf<E> place_of(const ConvOf<E>& conv, int64_t image, int y, int x) {
  if (y >= conv.out_height || x >= conv.out_width) return {nullptr, nullptr};
  int64_t pixel = (int64_t)y * conv.out_width + x;
  const E* residual = conv.residual.data ? pixel_of(conv.residual, image, y, x, conv.out_width) : nullptr;
  if (conv.out_where) pixel = conv.out_where[pixel];
  return {conv.out + image * conv.out_image + pixel * conv.out_row, residual};
}

template <class E>
inline void write(const PlaceOf<E>& place, const float* bias, int channel, int count, Floats value) {
  if (bias) value += load_some(bias + channel, count);
  if (place.residual) value += load_some(place.residual + channel, count);
  store_some(place.to + channel, value, count);
}

// ---------------------------------------------------------------------------------------------------------------------
// Windows side by side

template <class E>
inline int window_edge(const ConvOf<E>& conv) { return (conv.tile - 1) * conv.stride + conv.kernel; }

// Activated pixels of a tile's window: patch (pixel, channel).
template <class E>
inline void fill_patch(const ConvOf<E>& conv, const WindowOf<E>& window, E* patch) {
  const int pixels = window.edge * window.edge;
  int channel = 0;
  for (int s = 0; s < conv.sources; s++) {
    const int channels = conv.source[s].channels;
    for (int c = 0; c < channels; c += WIDTH) {
      const int count = std::min(WIDTH, channels - c);
      const Floats scale = window.scale ? load_some(window.scale + channel, count) : Floats{};
      const Floats shift = window.scale ? load_some(window.shift + channel, count) : Floats{};
      for (int i = 0; i < pixels; i++)
        store_some(patch + (int64_t)i * conv.channels_in + channel,
                   read_pixel(conv, window, s, i, c, channel, count, scale, shift), count);
      channel += count;
    }
  }
}

}  // namespace gg
