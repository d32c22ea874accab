// Gather and scatter of tiles on the CPU: what kernels/definition.py defines, for tensors of any strides.
//
// Sizes and strides count elements. float32, bfloat16 and float16 are stored, float is computed with. Where channels are
// contiguous in memory (channels_last) the inner loops run over channels, else over the pixels of a tile.
//
// Nothing is contracted to fused multiply-adds behind our back: the definition rounds after the multiplication and after
// the addition, and so do we, at every level of the instruction set.

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Numbers as stored. The half formats are converted by integer arithmetic, which every compiler vectorises.

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

inline uint32_t bits_of(float value) {
    uint32_t out;
    std::memcpy(&out, &value, 4);
    return out;
}
inline float float_of(uint32_t bits) {
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline float load(float value) { return value; }
inline float load(BFloat16 value) { return float_of(uint32_t(value.bits) << 16); }
inline float load(Float16 value) {
    const uint32_t magnitude = uint32_t(value.bits & 0x7fff) << 13;
    const uint32_t infinite = (value.bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
    // The product puts the exponent right, and makes normal what is subnormal in half precision.
    const uint32_t scaled = bits_of(float_of(magnitude) * 0x1p112f);
    return float_of((uint32_t(value.bits & 0x8000) << 16) | scaled | infinite);
}

inline void store(float &out, float value) { out = value; }
inline void store(BFloat16 &out, float value) {
    const uint32_t bits = bits_of(value), rounded = bits + 0x7fff + ((bits >> 16) & 1);
    out.bits = uint16_t(value != value ? 0x7fc0u : rounded >> 16);
}
inline void store(Float16 &out, float value) {
    const uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    // Halfway cases go to the even neighbour: normal numbers by integers, subnormal ones by an addition that rounds.
    const uint32_t normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - 0x38000000) >> 13;
    const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
    const uint32_t finite = magnitude < 0x38800000 ? small : normal;
    const uint32_t large = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    out.bits = uint16_t(sign | (magnitude >= 0x477ff000 ? large : finite));
}

// ---------------------------------------------------------------------------------------------------------------------
// Activations, in the order of ACTIVATIONS in kernels/definition.py.

inline float multiply_add(float a, float b, float c) {
#ifdef __FMA__
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

// e^x to within 1.5 units in the last place, without a branch or a call, so that loops over it are vectorised.
// 0 and infinity at the ends; NaN comes through.
inline float exponential(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits
    const float shifted = multiply_add(x, 1.44269504f, magic), n = shifted - magic;
    const float r = multiply_add(n, -1.42860677e-6f, multiply_add(n, -0.693145752f, x));
    float p = 1.98412698e-4f;
    p = multiply_add(p, r, 1.38888889e-3f);
    p = multiply_add(p, r, 8.33333333e-3f);
    p = multiply_add(p, r, 4.16666667e-2f);
    p = multiply_add(p, r, 1.66666667e-1f);
    p = multiply_add(p, r, 0.5f);
    p = multiply_add(p * r, r, r) + 1.0f;
    // 2^n in two factors, as n reaches beyond the range of exponents at both ends.
    const int32_t power = int32_t(bits_of(shifted) - bits_of(magic)), half = power >> 1;
    return p * float_of(uint32_t(half + 127) << 23) * float_of(uint32_t(power - half + 127) << 23);
}

struct Identity {
    static float of(float x, float) { return x; }
};
struct Swish {
    static float of(float x, float) { return x / (1.0f + exponential(-x)); }
};
struct Relu {
    static float of(float x, float) { return x < 0.0f ? 0.0f : x; }
};
struct LeakyRelu {
    static float of(float x, float slope) { return x < 0.0f ? x * slope : x; }
};
struct Sigmoid {
    static float of(float x, float) { return 1.0f / (1.0f + exponential(-x)); }
};
struct Tanh {
    static float of(float x, float) { return std::tanh(x); }
};

// A line of n numbers: activation(scale x + shift), or scale activation(x) + shift; plain activation without a scale.
template <class T>
using Line = void (*)(const T *, const float *, const float *, bool, float, T *, int64_t);

template <class T, class Activation>
void line(const T *__restrict x, const float *__restrict scale, const float *__restrict shift, bool activation_first,
          float slope, T *__restrict out, int64_t n) {
    if (!scale) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) store(out[i], Activation::of(load(x[i]), slope));
    } else if (activation_first) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) store(out[i], scale[i] * Activation::of(load(x[i]), slope) + shift[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) store(out[i], Activation::of(scale[i] * load(x[i]) + shift[i], slope));
    }
}

template <class T>
Line<T> line_of(int activation) {
    static const Line<T> all[] = {line<T, Identity>,  line<T, Swish>,   line<T, Relu>,
                                  line<T, LeakyRelu>, line<T, Sigmoid>, line<T, Tanh>};
    return all[activation];
}

// ---------------------------------------------------------------------------------------------------------------------
// Tensors as given, and lines of them.

// (N, C, H, W) with strides; a stride is 0 along an axis that is broadcast. Absent where data is null.
struct Strided {
    void *data;
    int64_t stride[4];
};

template <class T>
T *at(const Strided *tensor, int64_t n, int64_t h, int64_t w) {
    return static_cast<T *>(tensor->data) + n * tensor->stride[0] + h * tensor->stride[2] + w * tensor->stride[3];
}

// n numbers in a row: those at p where they lie so, else copied.
template <class T>
const T *in_a_row(const T *p, int64_t stride, int64_t n, std::vector<T> &copy) {
    if (stride == 1) return p;
    for (int64_t i = 0; i < n; i++) copy[i] = p[i * stride];
    return copy.data();
}

inline int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Below this many numbers, waking the other threads costs more than it brings.
inline int threads_for(int64_t numbers, int threads) { return numbers < 32768 ? 1 : threads; }

// Where a gathered pixel comes from; x is null outside the map.
template <class T>
struct Pixel {
    const T *x;
    int64_t stride;  // from channel to channel
    const float *scale, *shift;
};

struct Size {
    int64_t n, c, h, w;
};
struct Block {
    int64_t count, h, w;  // tiles an image, and their size
};

template <class T>
int gather(const Strided *x, Size size, const int32_t *indices, Block block, const Strided *tiles, Block tile,
           const int32_t *tile_map, const Strided *scale, const Strided *shift, Line<T> line, float slope,
           bool activation_first, const Strided *out, int threads) {
    const int64_t pixels = block.h * block.w, items = size.n * block.count;
    const bool channels_last = out->stride[1] == 1 && size.c > 1;
    const int64_t length = channels_last ? size.c : pixels;
    int bad = 0;
#pragma omp parallel num_threads(threads_for(items *pixels *size.c, threads)) reduction(| : bad)
    {
        std::vector<Pixel<T>> from(pixels);
        std::vector<T> values(length), results(length);
        std::vector<float> scales(length), shifts(length);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < items; item++) {
            const int64_t n = item / block.count, top = indices[item % block.count * 2],
                          left = indices[item % block.count * 2 + 1];
            bool whole = true;
            for (int64_t i = 0; i < pixels; i++) {
                const int64_t h = top + i / block.w, w = left + i % block.w;
                if (h < 0 || h >= size.h || w < 0 || w >= size.w) {
                    from[i] = {};
                    whole = false;
                    continue;
                }
                from[i] = {at<T>(x, n, h, w), x->stride[1], nullptr, nullptr};
                const int32_t *mapped = tile_map ? tile_map + (h * size.w + w) * 3 : nullptr;
                if (mapped && mapped[0] >= 0) {
                    if (mapped[0] < tile.count && uint64_t(mapped[1]) < uint64_t(tile.h) &&
                        uint64_t(mapped[2]) < uint64_t(tile.w)) {
                        from[i].x = at<T>(tiles, n * tile.count + mapped[0], mapped[1], mapped[2]);
                        from[i].stride = tiles->stride[1];
                    } else {
                        bad = 1;
                    }
                }
                if (scale->data) {
                    from[i].scale = at<float>(scale, n, h, w);
                    from[i].shift = at<float>(shift, n, h, w);
                }
            }
            if (channels_last) {
                for (int64_t i = 0; i < pixels; i++) {
                    const Pixel<T> &p = from[i];
                    T *to = at<T>(out, item, i / block.w, i % block.w);
                    if (!p.x) {
                        std::memset(to, 0, size.c * sizeof(T));
                        continue;
                    }
                    line(in_a_row(p.x, p.stride, size.c, values),
                         p.scale ? in_a_row(p.scale, scale->stride[1], size.c, scales) : nullptr,
                         p.scale ? in_a_row(p.shift, shift->stride[1], size.c, shifts) : nullptr, activation_first,
                         slope, to, size.c);
                }
                continue;
            }
            for (int64_t c = 0; c < size.c; c++) {
                for (int64_t i = 0; i < pixels; i++) values[i] = from[i].x ? from[i].x[c * from[i].stride] : T{};
                if (scale->data)
                    for (int64_t i = 0; i < pixels; i++) {
                        scales[i] = from[i].x ? from[i].scale[c * scale->stride[1]] : 0.0f;
                        shifts[i] = from[i].x ? from[i].shift[c * shift->stride[1]] : 0.0f;
                    }
                T *to = at<T>(out, item, 0, 0) + c * out->stride[1];
                line(values.data(), scale->data ? scales.data() : nullptr, scale->data ? shifts.data() : nullptr,
                     activation_first, slope, to, pixels);
                if (!whole)
                    for (int64_t i = 0; i < pixels; i++)
                        if (!from[i].x) to[i] = T{};
            }
        }
    }
    return bad;
}

// What scattering writes, from what stands there, the tile's number and that of another map.
struct Put {
    template <class T>
    static T of(T, T tile, T) {
        return tile;
    }
};
struct PutSum {
    template <class T>
    static T of(T, T tile, T other) {
        T sum;
        store(sum, load(tile) + load(other));
        return sum;
    }
};
struct AddDifference {
    template <class T>
    static T of(T there, T tile, T other) {
        T sum;
        store(sum, load(there) + (load(tile) - load(other)));
        return sum;
    }
};

template <class T, class Operation>
void scatter(const Strided *tiles, Block tile, const int32_t *indices, const int64_t *offset, const int64_t *stride,
             const Strided *other, const Strided *out, Size size, int threads) {
    const int64_t items = size.n * tile.count;
    const bool channels_last = out->stride[1] == 1 && tiles->stride[1] == 1;
#pragma omp parallel num_threads(threads_for(items *tile.h *tile.w *size.c, threads))
    {
        std::vector<T> others(size.c);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < items; item++) {
            const int64_t n = item / tile.count;
            const int32_t *corner = indices + item % tile.count * 2;
            const int64_t top = floor_divide(offset[0] + corner[0], stride[0]),
                          left = floor_divide(offset[1] + corner[1], stride[1]);
            for (int64_t i = 0; i < tile.h * tile.w; i++) {
                const int64_t h = top + i / tile.w, w = left + i % tile.w;
                if (h < 0 || h >= size.h || w < 0 || w >= size.w) continue;
                const T *from = at<T>(tiles, item, i / tile.w, i % tile.w);
                const T *third = other->data ? at<T>(other, n, h, w) : from;
                T *to = at<T>(out, n, h, w);
                if (channels_last) {
                    if (other->data) third = in_a_row(third, other->stride[1], size.c, others);
#pragma omp simd
                    for (int64_t c = 0; c < size.c; c++) to[c] = Operation::of(to[c], from[c], third[c]);
                } else {
                    const int64_t steps[] = {out->stride[1], tiles->stride[1], other->stride[1]};
                    for (int64_t c = 0; c < size.c; c++)
                        to[c * steps[0]] =
                            Operation::of(to[c * steps[0]], from[c * steps[1]], third[other->data ? c * steps[2] : 0]);
                }
            }
        }
    }
}

template <class T>
void scatter_by(int operation, const Strided *tiles, Block tile, const int32_t *indices, const int64_t *offset,
                const int64_t *stride, const Strided *other, const Strided *out, Size size, int threads) {
    const auto run = operation == 0 ? scatter<T, Put> : operation == 1 ? scatter<T, PutSum> : scatter<T, AddDifference>;
    run(tiles, tile, indices, offset, stride, other, out, size, threads);
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// dtype: 0 float32, 1 bfloat16, 2 float16. size: N, C, H, W of the map. indices: (count, 2) corners (h, w).

// Tiles of `block` = (h, w) pixels into out; where tile_map (H, W, 3) is given, from `tiles` (count, h, w = tile) where it
// says so. scale and shift are both there or both absent. Returns 1 where the map names a pixel that no tile has, else 0.
extern "C" int gengauge_gather(int dtype, const Strided *x, const int64_t *size, const int32_t *indices, int64_t count,
                               const int64_t *block, const Strided *tiles, const int64_t *tile, const int32_t *tile_map,
                               const Strided *scale, const Strided *shift, int activation, float slope,
                               int activation_first, const Strided *out, int threads) {
    const Size s{size[0], size[1], size[2], size[3]};
    const Block b{count, block[0], block[1]}, t{tile[0], tile[1], tile[2]};
    const bool first = activation_first != 0;
    if (dtype == 0)
        return gather<float>(x, s, indices, b, tiles, t, tile_map, scale, shift, line_of<float>(activation), slope,
                             first, out, threads);
    if (dtype == 1)
        return gather<BFloat16>(x, s, indices, b, tiles, t, tile_map, scale, shift, line_of<BFloat16>(activation),
                                slope, first, out, threads);
    return gather<Float16>(x, s, indices, b, tiles, t, tile_map, scale, shift, line_of<Float16>(activation), slope,
                           first, out, threads);
}

// Tiles (count, h, w = tile) into out at floor((offset + corner) / stride); operation: 0 the tile, 1 the tile plus
// `other`, 2 what stands there plus (tile - other). Tiles must not overlap.
extern "C" void gengauge_scatter(int dtype, int operation, const Strided *tiles, const int64_t *tile,
                                 const int32_t *indices, const int64_t *offset, const int64_t *stride,
                                 const Strided *other, const Strided *out, const int64_t *size, int threads) {
    const Size s{size[0], size[1], size[2], size[3]};
    const Block t{tile[0], tile[1], tile[2]};
    const auto run = dtype == 0 ? scatter_by<float> : dtype == 1 ? scatter_by<BFloat16> : scatter_by<Float16>;
    run(operation, tiles, t, indices, offset, stride, other, out, s, threads);
}
