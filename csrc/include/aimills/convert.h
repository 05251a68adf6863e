#pragma once
// f32 to the output dtypes, round to nearest even, without cuda_fp16.h (NVRTC may lack it).

#include "aimills/hd.h"

namespace aimills {

enum Dtype : int { kF32 = 0, kF16 = 1, kBf16 = 2, kU8 = 3, kE4m3 = 4 };

AIMILLS_HD u32 float_bits(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  u32 bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
#endif
}

AIMILLS_HD float bits_float(u32 bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
#endif
}

// Infinity stays infinity; the callers never hand over NaN.
AIMILLS_HD u16 to_bf16(float x) {
  const u32 bits = float_bits(x);
  return static_cast<u16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

AIMILLS_HD u16 to_f16(float x) {
#if defined(__CUDA_ARCH__)
  u16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
  return half;
#else
  const u32 bits = float_bits(x);
  const u32 sign = (bits >> 16) & 0x8000u;
  const u32 magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x47800000u) return static_cast<u16>(sign | 0x7c00u);  // 65536 and more
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 lines the last kept bit up with the last bit of the float.
    const u32 sum = float_bits(bits_float(magnitude) + 0.5f);
    return static_cast<u16>(sign | (sum - 0x3f000000u));
  }
  const u32 rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<u16>(sign | (rounded >> 13));
#endif
}

// Saturates at 448; e4m3fn has no infinity.
AIMILLS_HD u8 to_e4m3(float x) {
  const u32 bits = float_bits(x);
  const u32 sign = (bits >> 24) & 0x80u;
  const u32 magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x43e00000u) return static_cast<u8>(sign | 0x7eu);  // 448 and more
  if (magnitude < 0x3c800000u) {
    // Subnormal: adding 2^14 lines the last kept bit up with the last bit of the float.
    const u32 sum = float_bits(bits_float(magnitude) + 16384.0f);
    return static_cast<u8>(sign | (sum - 0x46800000u));
  }
  const u32 rounded = magnitude - 0x3c000000u + 0x7ffffu + ((magnitude >> 20) & 1u);
  return static_cast<u8>(sign | (rounded >> 20));
}

// A level for kU8 is whole and in 0..255.
AIMILLS_HD void store_as(void* base, i64 index, int dtype, float x) {
  if (dtype == kF32) {
    static_cast<float*>(base)[index] = x;
  } else if (dtype == kU8 || dtype == kE4m3) {
    static_cast<u8*>(base)[index] = dtype == kU8 ? static_cast<u8>(x) : to_e4m3(x);
  } else {
    static_cast<u16*>(base)[index] = dtype == kF16 ? to_f16(x) : to_bf16(x);
  }
}

AIMILLS_HD constexpr int bytes_of(int dtype) {
  return dtype == kF32 ? 4 : dtype == kU8 || dtype == kE4m3 ? 1 : 2;
}

}  // namespace aimills
