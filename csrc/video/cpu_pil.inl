// The loops of Pillow's modes, in integers, included by one source file per instruction set.

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "video/cpu_band.h"
#include "video/cpu_convert.inl"

namespace aimills::video {
namespace {

static void convert_strip(const Params& p, i64 frame, int begin, int end, int col, float* chunk) {
  convert_of(p)(p, frame, begin, end, col, chunk);
}

static void join_levels(const float* __restrict levels, u8* __restrict out) {
  for (int i = 0; i < kPairs; ++i) {
    const u32 even = static_cast<u32>(static_cast<int>(levels[i]));
    const u32 odd = static_cast<u32>(static_cast<int>(levels[kPairs + i]));
    const u16 pair = static_cast<u16>(even | odd << 8);
    __builtin_memcpy(out + 2 * i, &pair, 2);
  }
}

typedef int v8i __attribute__((vector_size(32), aligned(4), may_alias));

AIMILLS_HD v8i eight_levels(const u8* from) {
#if defined(__AVX2__)
  __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<v8i>(_mm256_cvtepu8_epi32(bytes));
#else
  return v8i{from[0], from[1], from[2], from[3], from[4], from[5], from[6], from[7]};
#endif
}

// Sums with a half added to levels.
AIMILLS_HD void store_levels(v8i sums, u8* out) {
#if defined(__AVX2__)
  const __m256i whole = _mm256_srai_epi32(reinterpret_cast<__m256i&>(sums), kPilBits);
  const __m128i low = _mm256_castsi256_si128(whole), high = _mm256_extracti128_si256(whole, 1);
  const __m128i words = _mm_packs_epi32(low, high);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
#else
  for (int k = 0; k < 8; ++k) {
    out[k] = static_cast<u8>(smaller(larger(sums[k] >> kPilBits, 0), 255));
  }
#endif
}

// The sum of each of eight vectors.
AIMILLS_HD v8i sum_each(const v8i (&v)[8]) {
#if defined(__AVX2__)
  __m256i fours[2];
  for (int i = 0; i < 2; ++i) {
    const auto* four = reinterpret_cast<const __m256i*>(v + 4 * i);
    fours[i] =
        _mm256_hadd_epi32(_mm256_hadd_epi32(four[0], four[1]), _mm256_hadd_epi32(four[2], four[3]));
  }
  const __m256i low = _mm256_permute2x128_si256(fours[0], fours[1], 0x20);
  const __m256i high = _mm256_permute2x128_si256(fours[0], fours[1], 0x31);
  return reinterpret_cast<v8i>(_mm256_add_epi32(low, high));
#else
  v8i sums = {};
  for (int i = 0; i < 8; ++i) {
    for (int k = 0; k < 8; ++k) sums[i] += v[i][k];
  }
  return sums;
#endif
}

// In steps of eight samples; past a window's end weights are zero.
AIMILLS_HD v8i window_products(const u8* samples, const PilWindows& windows, int i) {
  const u8* from = samples + windows.begin[i];
  const int* weights = windows.weights + windows.first[i];
  v8i sums = {};
  for (int t = windows.end[i] - windows.begin[i]; t > 0; t -= 8, from += 8, weights += 8) {
    sums += eight_levels(from) * *reinterpret_cast<const v8i*>(weights);
  }
  return sums;
}

static void filter_windows(const u8* samples, const PilWindows& windows, int count, u8* out) {
  for (int i = 0; i < count; i += 8) {
    v8i products[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      products[k] = window_products(samples, windows, smaller(i + k, count - 1));
    }
    store_levels(sum_each(products) + (1 << (kPilBits - 1)), out + i);
  }
}

// 8 * kVectors columns from `at`, held in registers over the taps.
template <int kVectors>
AIMILLS_HD void filter_columns(const u8* const* rows, const int* weights, int taps, int at,
                               u8* out) {
  v8i sums[kVectors];
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) sums[k] = v8i{} + (1 << (kPilBits - 1));
  for (int t = 0; t < taps; ++t) {
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) sums[k] += eight_levels(rows[t] + at + 8 * k) * weights[t];
  }
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) store_levels(sums[k], out + at + 8 * k);
}

static void filter_rows_of(const u8* const* rows, const int* weights, int taps, int count,
                           u8* out) {
  int at = 0;
  for (; at + 32 <= count; at += 32) filter_columns<4>(rows, weights, taps, at, out);
  for (; at < count; at += 8) filter_columns<1>(rows, weights, taps, at, out);
}

}  // namespace
}  // namespace aimills::video
