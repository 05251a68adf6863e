#pragma once
// Antialiased resize weights as Pillow and torch define them (bicubic with a = -0.5), unnormalised.
// Positions are exact integers up to one division, so float is enough on every device.

#include "video/params.h"

namespace aimills::video {

struct Axis {
  i64 in, out;
  int radius;  // of the filter at scale 1
};

AIMILLS_HD Axis axis_of(i64 in, i64 out, int interpolation) {
  return {in, out, interpolation == kBicubic ? 2 : 1};
}

// Window sizes differ by one along the axis; this bounds them.
AIMILLS_HD i64 taps_of(const Axis& a) {
  return smaller(a.in, 2 * a.radius * larger(a.in, a.out) / a.out + 2);
}

struct Window {
  int begin, end;
};

// The samples whose centres lie within the filter's support around output `i`.
AIMILLS_HD Window window_of(const Axis& a, i64 i) {
  const i64 center = (2 * i + 1) * a.in;
  const i64 support = 2 * a.radius * larger(a.in, a.out);
  const i64 begin = center - support + a.out;
  const i64 end = (center + support + a.out) / (2 * a.out);
  return {begin > 0 ? static_cast<int>(begin / (2 * a.out)) : 0,
          static_cast<int>(smaller(end, a.in))};
}

AIMILLS_HD float filter_value(float x, int radius) {
  x = x < 0.0f ? -x : x;
  if (radius == 1) return x < 1.0f ? 1.0f - x : 0.0f;
  // Keys with a = -0.5 in factors: no digits cancel near the zeros at 1 and 2.
  if (x < 1.0f) return (1.0f - x) * (1.0f + x * (1.0f - 1.5f * x));
  return x < 2.0f ? -0.5f * (x - 1.0f) * (x - 2.0f) * (x - 2.0f) : 0.0f;
}

AIMILLS_HD float weight_of(const Axis& a, i64 i, i64 j) {
  const i64 distance = (2 * j + 1) * a.out - (2 * i + 1) * a.in;
  const i64 unit = 2 * larger(a.in, a.out);
  return filter_value(static_cast<float>(distance) / static_cast<float>(unit), a.radius);
}

}  // namespace aimills::video
