// A vector of floats as wide as the instruction set's registers, and the few operations that the kernels need of it.
//
// GCC's and clang's vector types do the arithmetic on every architecture; intrinsics appear only where the compiler
// would otherwise choose badly (a broadcast, a fast reciprocal).
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace gg {

#if defined(__AVX512F__)
constexpr int WIDTH = 16, ROWS = 14;  // 14 x 2 sums, 2 columns and a broadcast fill 31 of 32 registers
#elif defined(__AVX2__)
constexpr int WIDTH = 8, ROWS = 6;    // 6 x 2 sums, 2 columns and a broadcast fill 15 of 16
#elif defined(__aarch64__)
constexpr int WIDTH = 4, ROWS = 12;
#else
constexpr int WIDTH = 4, ROWS = 4;
#endif

typedef float Floats __attribute__((vector_size(WIDTH * 4)));
typedef int32_t Ints __attribute__((vector_size(WIDTH * 4)));
typedef float Unaligned __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

static inline Floats load(const float* from) { return *(const Unaligned*)from; }
static inline void store(float* to, Floats value) { *(Unaligned*)to = value; }

// A bfloat16: the upper half of a float.
struct Bf16 {
  uint16_t bits;
};
typedef uint16_t Halves __attribute__((vector_size(WIDTH * 2)));
typedef uint16_t UnalignedHalves __attribute__((vector_size(WIDTH * 2), aligned(2), may_alias));
typedef uint32_t Bits __attribute__((vector_size(WIDTH * 4)));

static inline Floats load(const Bf16* from) {
  return (Floats)(__builtin_convertvector(*(const UnalignedHalves*)from, Bits) << 16);
}

// To the nearest, ties to even; NaN stays NaN.
static inline void store(Bf16* to, Floats value) {
  const Bits bits = (Bits)value;
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40;
  *(UnalignedHalves*)to = __builtin_convertvector(value == value ? rounded : quiet, Halves);
}

static inline Floats broadcast(float value) {
#if defined(__AVX512F__)
  return (Floats)_mm512_set1_ps(value);
#elif defined(__AVX2__)
  return (Floats)_mm256_set1_ps(value);
#else
  Floats out;
  for (int i = 0; i < WIDTH; i++) out[i] = value;
  return out;
#endif
}

// The first `count` elements; the others are zero.
template <class E>
static inline Floats load_some(const E* from, int count) {
  if (count == WIDTH) return load(from);
  E part[WIDTH] = {};
  memcpy(part, from, count * sizeof(E));
  return load(part);
}

template <class E>
static inline void store_some(E* to, Floats value, int count) {
  if (count == WIDTH) return store(to, value);
  E part[WIDTH];
  store(part, value);
  memcpy(to, part, count * sizeof(E));
}

#if defined(__AVX512F__)
// Of floats with a mask: memory written in small parts and read as one vector is slow.
static inline Floats load_some(const float* from, int count) {
  return (Floats)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
}

static inline void store_some(float* to, Floats value, int count) {
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)value);
}
#endif

// e^x to about two units in the last place (range reduction by ln 2 in two parts, a polynomial of degree 6). NaN stays.
static inline Floats exponential(Floats x) {
  const Floats high = broadcast(88.0f), low = broadcast(-87.0f);
  x = x > high ? high : x;
  x = x < low ? low : x;
  const Floats magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Floats n = x * broadcast(1.44269504f) + magic;
  Ints power = ((Ints)n - (Ints)magic) << 23;
  n = n - magic;
  Floats r = x - n * broadcast(0.693359375f) - n * broadcast(-2.12194440e-4f);
  Floats p = broadcast(1.9875691500e-4f);
  p = p * r + broadcast(1.3981999507e-3f);
  p = p * r + broadcast(8.3334519073e-3f);
  p = p * r + broadcast(4.1665795894e-2f);
  p = p * r + broadcast(1.6666665459e-1f);
  p = p * r + broadcast(5.0000001201e-1f);
  p = p * r * r + r + broadcast(1.0f);
  return (Floats)((Ints)p + power);
}

// 1 / x, to float precision, for x >= 1.
static inline Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
  const Floats guess = (Floats)_mm512_rcp14_ps((__m512)x);
  return guess * (broadcast(2.0f) - x * guess);
#else
  return broadcast(1.0f) / x;
#endif
}

}  // namespace gg
