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

// Windows in steps of eight samples; past their ends weights are zero.
static void dot_levels(const u8* samples, const PilWindows& windows, int count, u8* out) {
  for (int i = 0; i < count; ++i) {
    const u8* from = samples + windows.begin[i];
    const int* weights = windows.weights + windows.first[i];
    v8i sums = {1 << (kPilBits - 1), 0, 0, 0, 0, 0, 0, 0};
    for (int t = windows.end[i] - windows.begin[i]; t > 0; t -= 8, from += 8, weights += 8) {
      sums += eight_levels(from) * *reinterpret_cast<const v8i*>(weights);
    }
    int sum = 0;
    for (int k = 0; k < 8; ++k) sum += sums[k];
    out[i] = static_cast<u8>(smaller(larger(sum >> kPilBits, 0), 255));
  }
}

static void add_levels(const u8* __restrict samples, int weight, int count, int* __restrict sums) {
  for (int i = 0; i < count; ++i) sums[i] += samples[i] * weight;
}

}  // namespace
}  // namespace aimills::video
