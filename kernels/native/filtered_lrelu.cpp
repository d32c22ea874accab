// A leaky ReLU between up- and downsampling, and its gradient: what kernels/filtered_lrelu.py defines, for contiguous
// float maps of any number of planes (pictures times channels), which share their filters.
//
// As many planes as a vector has elements are worked on side by side, one an element: every filter then is a sum of
// whole vectors times numbers, at any stride, without zeros between pixels being touched. Rows stream through rings, so
// that the map in the middle, four times as large and more, is never stored.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>
#include "simd.h"

using namespace gg;

// Of kernels/filtered_lrelu.py, which fills it in.
struct FilteredLrelu {
  int64_t planes, channels, height, width, middle_height, middle_width, out_height, out_width;
  int64_t up, down, up_taps, down_taps, down_full;  // `down_full`: the filter is (taps, taps), not separable
  int64_t left, top;                                // padding, negative to crop
  float gain, slope, clamp;                         // `clamp` is infinite for none
  int32_t threads;
};

namespace {

constexpr int BLOCK = 8;  // vectors summed side by side: as many as hide the delay of a multiply-add

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};

// Vectors, aligned, zero at first; `first` is the index of the first one, below zero for a margin.
class Row {
 public:
  Row(int64_t first, int64_t end) : first_(first) {
    const size_t bytes = std::max<int64_t>(end - first, 1) * WIDTH * sizeof(float);
    memory_.reset((float*)std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    memset(memory_.get(), 0, bytes);
  }
  float* at(int64_t index) const { return memory_.get() + (index - first_) * WIDTH; }

 private:
  int64_t first_;
  std::unique_ptr<float, Free> memory_;
};

// The latest rows, by their number.
class Ring {
 public:
  Ring(int64_t count, int64_t first, int64_t end) {
    for (int64_t i = 0; i < count; i++) rows_.emplace_back(first, end);
  }
  const Row& operator[](int64_t number) const { return rows_[number % int64_t(rows_.size())]; }

 private:
  std::vector<Row> rows_;
};

// Where a sum reads: vectors and the numbers that they are multiplied by.
struct Source {
  const float* vectors;
  const float* taps;
};

template <int COUNT, int STEP>
inline void sum_block(float* out, int64_t out_step, const Source* sources, int64_t number, int64_t taps, int64_t step,
                      int64_t offset) {
  const int64_t stride = (STEP ? STEP : step) * WIDTH;
  Floats sums[COUNT] = {};
  for (int64_t s = 0; s < number; s++) {
    const float* from = sources[s].vectors + offset * stride;
    for (int64_t t = 0; t < taps; t++, from += WIDTH) {
      const Floats tap = broadcast(sources[s].taps[t]);
#pragma GCC unroll 16
      for (int i = 0; i < COUNT; i++) sums[i] += tap * load(from + i * stride);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < COUNT; i++) store(out + i * out_step * WIDTH, sums[i]);
}

template <int STEP>
void sum_with_step(float* out, int64_t out_step, int64_t count, const Source* sources, int64_t number, int64_t taps,
                   int64_t step) {
  int64_t i = 0;
  auto blocks = [&](auto size) {
    constexpr int SIZE = decltype(size)::value;
    for (; i + SIZE <= count; i += SIZE)
      sum_block<SIZE, STEP>(out + i * out_step * WIDTH, out_step, sources, number, taps, step, i);
  };
  blocks(std::integral_constant<int, BLOCK>());
  blocks(std::integral_constant<int, 4>());
  blocks(std::integral_constant<int, 1>());
}

// out[i * out_step] = sum over sources and taps of tap[t] * vectors[i * step + t], for i below `count`.
void sum(float* out, int64_t out_step, int64_t count, const std::vector<Source>& sources, int64_t taps, int64_t step) {
  const auto run = step == 1 ? sum_with_step<1> : step == 2 ? sum_with_step<2> : step == 4 ? sum_with_step<4>
                                                                                          : sum_with_step<0>;
  run(out, out_step, count, sources.data(), sources.size(), taps, step);
}

int64_t ceil_div(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
int64_t floor_mod(int64_t a, int64_t b) { return (a % b + b) % b; }

// Those of the elements of `a` and `b`, one after the other, that are named.
template <int... I>
inline Floats choose(Floats a, Floats b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, Ints{I...});
#endif
}

// Rows and columns of a square of WIDTH vectors change places: at each level, off-diagonal blocks do.
template <int SIZE, int... I>
inline void swap_blocks(Floats& a, Floats& b, std::integer_sequence<int, I...>) {
  const Floats upper = a, lower = b;
  a = choose<(I & SIZE ? WIDTH + I - SIZE : I)...>(upper, lower);
  b = choose<(I & SIZE ? WIDTH + I : I + SIZE)...>(upper, lower);
}

template <int SIZE>
inline void transpose(Floats* square) {
  if constexpr (SIZE > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++)
      if (!(i & SIZE)) swap_blocks<SIZE>(square[i], square[i + SIZE], std::make_integer_sequence<int, WIDTH>());
    transpose<SIZE / 2>(square);
  }
}

// Vectors of WIDTH planes side by side, from a row of each; `lanes` of them exist, the others become zero.
void gather(const float* plane, int64_t plane_size, int lanes, int64_t width, Floats bias, float* row) {
  for (int64_t i = 0; i < width; i += WIDTH) {
    const int count = std::min<int64_t>(WIDTH, width - i);
    Floats square[WIDTH] = {};
    for (int lane = 0; lane < lanes; lane++) square[lane] = load_some(plane + lane * plane_size + i, count);
    transpose<WIDTH / 2>(square);
    for (int k = 0; k < count; k++) store(row + (i + k) * WIDTH, square[k] + bias);
  }
}

void scatter(const float* row, int64_t plane_size, int lanes, int64_t width, float* plane) {
  for (int64_t i = 0; i < width; i += WIDTH) {
    const int count = std::min<int64_t>(WIDTH, width - i);
    Floats square[WIDTH] = {};
    for (int k = 0; k < count; k++) square[k] = load(row + (i + k) * WIDTH);
    transpose<WIDTH / 2>(square);
    for (int lane = 0; lane < lanes; lane++) store_some(plane + lane * plane_size + i, square[lane], count);
  }
}

// The taps of one axis, by the phase of an upsampled place: [phase][t] is the tap on the t-th pixel that it meets.
std::vector<float> phases(const float* taps, int64_t count, int64_t factor) {
  const int64_t longest = ceil_div(count, factor);
  std::vector<float> out(factor * longest);
  for (int64_t k = 0; k < count; k++) out[k % factor * longest + k / factor] = taps[k];
  return out;
}

// Rows of the upsampled map before the leaky ReLU, in ascending order.
class Upsampled {
 public:
  Upsampled(const FilteredLrelu& f, const float* taps)
      : f_(f),
        taps_(taps),
        phases_(phases(taps, f.up_taps, f.up)),
        longest_(ceil_div(f.up_taps, f.up)),
        input_(std::min<int64_t>(0, ceil_div(-f.left, f.up)),
               std::max(f.width, ceil_div(f.middle_width - f.left, f.up) + longest_)),
        across_(longest_, 0, f.middle_width) {}

  // Starts with a group of planes.
  void begin(const float* plane, Floats bias, int lanes) {
    plane_ = plane, bias_ = bias, lanes_ = lanes, next_ = 0;
  }

  void row(int64_t y, float* out) {
    const int64_t first = ceil_div(y - f_.top, f_.up), phase = f_.up * first - y + f_.top;
    std::vector<Source>& sources = sources_;
    sources.clear();
    for (int64_t t = 0; phase + t * f_.up < f_.up_taps; t++) {
      const int64_t j = first + t;
      if (j < 0 || j >= f_.height) continue;
      next_ = std::max(next_, first);  // rows that are cropped are never read
      while (next_ <= j) widen(next_++);
      sources.push_back({across_[j].at(0), taps_ + phase + t * f_.up});
    }
    sum(out, 1, f_.middle_width, sources, 1, 1);
  }

 private:
  void widen(int64_t j) {
    gather(plane_ + j * f_.width, f_.height * f_.width, lanes_, f_.width, bias_, input_.at(0));
    for (int64_t phase = 0; phase < f_.up; phase++) {
      const int64_t x = floor_mod(f_.left - phase, f_.up);
      if (x >= f_.middle_width) continue;
      one_[0] = {input_.at((x - f_.left + phase) / f_.up), &phases_[phase * longest_]};
      sum(across_[j].at(x), f_.up, ceil_div(f_.middle_width - x, f_.up), one_, longest_, 1);
    }
  }

  const FilteredLrelu& f_;
  const float* taps_;
  std::vector<float> phases_;
  int64_t longest_, next_ = 0;
  Row input_;
  Ring across_;
  const float* plane_ = nullptr;
  Floats bias_{};
  int lanes_ = 0;
  std::vector<Source> sources_, one_{1};
};

void activate(const FilteredLrelu& f, float* row) {
  const Floats gain = broadcast(f.gain), low_gain = broadcast(f.gain * f.slope);
  const Floats high = broadcast(f.clamp), low = broadcast(-f.clamp);
  for (int64_t i = 0; i < f.middle_width; i++) {
    Floats v = load(row + i * WIDTH);
    v = v * (v > 0 ? gain : low_gain);
    v = v > high ? high : v;
    store(row + i * WIDTH, v < low ? low : v);
  }
}

// Multiplies gradients of activated rows by the derivative at `row`.
void activate_gradient(const FilteredLrelu& f, const float* row, float* gradient) {
  const Floats gain = broadcast(f.gain), low_gain = broadcast(f.gain * f.slope), none = {};
  const Floats high = broadcast(f.clamp), low = broadcast(-f.clamp);
  for (int64_t i = 0; i < f.middle_width; i++) {
    const Floats v = load(row + i * WIDTH);
    const Floats factor = v > 0 ? gain : low_gain;
    const Floats made = v * factor, g = load(gradient + i * WIDTH) * factor;
    store(gradient + i * WIDTH, (made < high) & (made > low) ? g : none);  // zero at NaN
  }
}

// The planes that a group works on, and their biases.
int lanes_of(const FilteredLrelu& f, int64_t group) { return int(std::min<int64_t>(WIDTH, f.planes - group * WIDTH)); }

Floats biases(const FilteredLrelu& f, const float* bias, int64_t group) {
  Floats out = {};
  for (int lane = 0; lane < lanes_of(f, group); lane++) out[lane] = bias[(group * WIDTH + lane) % f.channels];
  return out;
}

void forward_group(const FilteredLrelu& f, const float* down, Upsampled& upsampled, const Ring& middle, const Row& tall,
                   const Row& result, float* out, int lanes) {
  std::vector<Source> sources;
  int64_t next = 0;
  for (int64_t y = 0; y < f.out_height; y++) {
    for (; next < y * f.down + f.down_taps; next++) {
      upsampled.row(next, middle[next].at(0));
      activate(f, middle[next].at(0));
    }
    sources.clear();
    for (int64_t k = 0; k < f.down_taps; k++)
      sources.push_back({middle[y * f.down + k].at(0), down + (f.down_full ? k * f.down_taps : k)});
    if (!f.down_full) {
      sum(tall.at(0), 1, f.middle_width, sources, 1, 1);
      sources.assign(1, {tall.at(0), down});
    }
    sum(result.at(0), 1, f.out_width, sources, f.down_taps, f.down);
    scatter(result.at(0), f.out_height * f.out_width, lanes, f.out_width, out + y * f.out_width);
  }
}

// The taps of the downsampling filter as gradients run back through them: [row of the filter][phase][t], reversed, so
// that place `down m + phase` of the middle row is the sum over t of taps times pixels m - (longest - 1) + t.
struct Backward {
  int64_t longest;
  std::vector<float> taps;

  Backward(const FilteredLrelu& f, const float* down) : longest(ceil_div(f.down_taps, f.down)) {
    for (int64_t row = 0; row < (f.down_full ? f.down_taps : 1); row++) {
      std::vector<float> one = phases(down + row * f.down_taps, f.down_taps, f.down);
      for (int64_t phase = 0; phase < f.down; phase++)
        std::reverse(one.begin() + phase * longest, one.begin() + (phase + 1) * longest);
      taps.insert(taps.end(), one.begin(), one.end());
    }
  }
};

}  // namespace

// x (planes, height, width), bias (channels), `up_filter` (up_taps) and `down_filter` as correlated, the first with the
// gain of upsampling; out (planes, out_height, out_width).
extern "C" void gengauge_filtered_lrelu(const FilteredLrelu* call, const float* x, const float* bias,
                                        const float* up_filter, const float* down_filter, float* out) {
  const FilteredLrelu& f = *call;
  const int64_t groups = ceil_div(f.planes, WIDTH);
#pragma omp parallel num_threads(std::min<int64_t>(f.threads, groups))
  {
    Upsampled upsampled(f, up_filter);
    const Ring middle(f.down_taps, 0, f.middle_width);
    const Row tall(0, f.middle_width), result(0, f.out_width);
#pragma omp for schedule(dynamic)
    for (int64_t group = 0; group < groups; group++) {
      const int lanes = lanes_of(f, group);
      upsampled.begin(x + group * WIDTH * f.height * f.width, biases(f, bias, group), lanes);
      float* to = out + group * WIDTH * f.out_height * f.out_width;
      forward_group(f, down_filter, upsampled, middle, tall, result, to, lanes);
    }
  }
}

// The gradient by x (planes, height, width), of that by the result (planes, out_height, out_width).
extern "C" void gengauge_filtered_lrelu_gradient(const FilteredLrelu* call, const float* x, const float* bias,
                                                 const float* up_filter, const float* down_filter,
                                                 const float* gradient, float* out) {
  const FilteredLrelu& f = *call;
  const int64_t groups = ceil_div(f.planes, WIDTH);
  const Backward back(f, down_filter);
  const std::vector<float> reversed(std::make_reverse_iterator(up_filter + f.up_taps),
                                    std::make_reverse_iterator(up_filter));
  const int64_t longest = back.longest, past = f.left - (f.up_taps - 1);
#pragma omp parallel num_threads(std::min<int64_t>(f.threads, groups))
  {
    Upsampled upsampled(f, up_filter);
    const int64_t places = std::max(f.out_width, ceil_div(f.middle_width, f.down));
    const Ring given(longest, 1 - longest, places);
    const Row before(0, f.middle_width), tall(1 - longest, places), result(0, f.width);
    const Row middle(std::min<int64_t>(0, past), std::max(f.middle_width, f.up * (f.width - 1) + f.left + 1));
    const Ring across(f.up_taps, 0, f.width);
    std::vector<Source> sources, one(1);
#pragma omp for schedule(dynamic)
    for (int64_t group = 0; group < groups; group++) {
      const int lanes = lanes_of(f, group);
      upsampled.begin(x + group * WIDTH * f.height * f.width, biases(f, bias, group), lanes);
      const float* from = gradient + group * WIDTH * f.out_height * f.out_width;
      float* to = out + group * WIDTH * f.height * f.width;
      int64_t read = 0, written = 0;
      auto write = [&](int64_t last) {  // the rows of x whose last contribution is that of row `last`
        for (; written < f.height && (f.up * written + f.top <= last || last == f.middle_height - 1); written++) {
          sources.clear();
          for (int64_t k = 0; k < f.up_taps; k++) {
            const int64_t y = f.up * written + f.top - k;
            if (y >= 0 && y < f.middle_height) sources.push_back({across[y].at(0), up_filter + k});
          }
          sum(result.at(0), 1, f.width, sources, 1, 1);
          scatter(result.at(0), f.height * f.width, lanes, f.width, to + written * f.width);
        }
      };
      for (int64_t y = 0; y < f.middle_height; y++) {
        for (; read < f.out_height && read * f.down <= y; read++)
          gather(from + read * f.out_width, f.out_height * f.out_width, lanes, f.out_width, Floats{}, given[read].at(0));
        sources.clear();
        for (int64_t k = y % f.down; k < f.down_taps; k += f.down) {
          const int64_t row = (y - k) / f.down;
          if (y < k || row >= f.out_height) continue;
          const float* start = given[row].at(f.down_full ? 1 - longest : 0);
          sources.push_back({start, f.down_full ? &back.taps[k * f.down * longest] : down_filter + k});
        }
        if (!f.down_full) {
          sum(tall.at(0), 1, f.out_width, sources, 1, 1);
          sources.assign(1, {tall.at(1 - longest), back.taps.data()});
        }
        for (int64_t phase = 0; phase < f.down && phase < f.middle_width; phase++) {
          sum(middle.at(phase), f.down, ceil_div(f.middle_width - phase, f.down), sources, longest, 1);
          for (Source& source : sources) source.taps += longest;
        }
        upsampled.row(y, before.at(0));
        activate_gradient(f, before.at(0), middle.at(0));
        one[0] = {middle.at(past), reversed.data()};
        sum(across[y].at(0), 1, f.width, one, f.up_taps, f.up);
        write(y);
      }
    }
  }
}
