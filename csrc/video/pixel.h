#pragma once
// NV12 to u8 RGB levels: chroma upsampling and the colour matrix, shared by the CPU and the GPU.

#include "video/params.h"

namespace aimills::video {

// ITU-R BT.601-7 and BT.709-6. The chroma factors apply to sixteenths of a level.
struct Color {
  float y_scale, y_shift, r_v, g_u, g_v, b_u;
};

AIMILLS_HD constexpr Color derive_color(double kr, double kb, bool limited) {
  const double kg = 1.0 - kr - kb;
  const double chroma = limited ? 255.0 / (224.0 * 16.0) : 1.0 / 16.0;
  return {static_cast<float>(limited ? 255.0 / 219.0 : 1.0),
          static_cast<float>(limited ? -16.0 * 255.0 / 219.0 : 0.0),
          static_cast<float>(2.0 * (1.0 - kr) * chroma),
          static_cast<float>(-2.0 * kb * (1.0 - kb) / kg * chroma),
          static_cast<float>(-2.0 * kr * (1.0 - kr) / kg * chroma),
          static_cast<float>(2.0 * (1.0 - kb) * chroma)};
}

AIMILLS_HD Color color_of(int space, int range) {
  constexpr Color limited601 = derive_color(0.299, 0.114, true);
  constexpr Color full601 = derive_color(0.299, 0.114, false);
  constexpr Color limited709 = derive_color(0.2126, 0.0722, true);
  constexpr Color full709 = derive_color(0.2126, 0.0722, false);
  if (space == kBt601) return range == kLimited ? limited601 : full601;
  return range == kLimited ? limited709 : full709;
}

// A luma sample lies between two chroma samples: weights in quarters, so both directions together
// give whole sixteenths.
struct ChromaTaps {
  int near, far;
  int near_weight, far_weight;
};

AIMILLS_HD ChromaTaps clamped_taps(int near, int far, int far_weight, int count) {
  return {near, smaller(larger(far, 0), count - 1), 4 - far_weight, far_weight};
}

AIMILLS_HD ChromaTaps chroma_row_taps(int row, int rows, int upsampling) {
  const int near = row >> 1;
  return clamped_taps(near, (row & 1) ? near + 1 : near - 1, upsampling == kLinear ? 1 : 0, rows);
}

// Quarters that the outer chroma neighbour takes: on the left of even columns, on the right of odd.
struct ColumnWeights {
  int even, odd;
};

AIMILLS_HD ColumnWeights chroma_column_weights(int upsampling, int location) {
  if (upsampling == kNearest) return {0, 0};
  return location == kLeft ? ColumnWeights{0, 2} : ColumnWeights{1, 1};
}

AIMILLS_HD float round_half_even(float x) {
#if defined(__CUDA_ARCH__)
  return rintf(x);
#else
  // Adding 1.5 * 2^23 drops the fraction; it vectorises on every instruction set.
  const float magic = 12582912.0f;
  return (x + magic) - magic;
#endif
}

AIMILLS_HD float to_level(float x) {
  x = x > 0.0f ? x : 0.0f;
  x = x < 255.0f ? x : 255.0f;
  return round_half_even(x);
}

struct Rgb {
  float r, g, b;
};

// `u` and `v` in sixteenths, centred on zero.
AIMILLS_HD Rgb to_rgb(const Color& c, float y, float u, float v) {
  const float luma = y * c.y_scale + c.y_shift;
  return {to_level(luma + c.r_v * v), to_level(luma + c.g_v * v + c.g_u * u),
          to_level(luma + c.b_u * u)};
}

}  // namespace aimills::video
