#pragma once
// Resize weights, unnormalised. With antialias as Pillow and torch define them (bicubic with
// a = -0.5); without as torch does (a = -0.75), samples beyond the border being those at it.
// Positions are exact integers up to one division, so float is enough on every device.

#include "video/params.h"

namespace aimills::video {

// Outputs lie `in` / `out` samples apart, the first one `shift` / (2 out) samples further on than
// where outputs cover the samples evenly. Not `shifted`, all of that is known when code is
// compiled.
struct Axis {
  i64 first, count;  // samples [first, first + count) of the source
  i64 in, out;
  i64 unit;  // half the filter's unit of length: larger(in, out) where it is widened
  int filter;
  bool antialias;
  bool shifted = false;
  i64 shift = 0;
};

AIMILLS_HD Axis axis_of(int first, int in, int out, int filter, int antialias) {
  return {first, in, in, out, antialias ? larger(in, out) : out, filter, antialias != 0};
}

AIMILLS_HD Axis down_axis(const Params& p) {
  return axis_of(p.top, p.crop_height, p.resized_height, p.filter, p.antialias);
}

AIMILLS_HD Axis across_axis(const Params& p) {
  return axis_of(p.left, p.crop_width, p.resized_width, p.filter, p.antialias);
}

// Of the chroma samples that stand for the luma samples of `luma`: two share one, which lies on the
// first of them or between the two.
AIMILLS_HD Axis halved_axis(const Axis& luma, bool on_first) {
  const i64 begin = luma.first >> 1, end = (luma.first + luma.in + 1) >> 1;
  const i64 out = 2 * luma.out, shift = out * (luma.first - 2 * begin) + (on_first ? luma.out : 0);
  return {begin,       end - begin,    luma.in, out,  luma.antialias ? larger(luma.in, out) : out,
          luma.filter, luma.antialias, true,    shift};
}

// Half of what an odd sample takes is of the next one where chroma lies on even ones.
AIMILLS_HD Axis chroma_down_axis(const Params& p) {
  return p.source < kYuv422 ? halved_axis(down_axis(p), p.odd_row == 2) : down_axis(p);
}

AIMILLS_HD Axis chroma_across_axis(const Params& p) {
  return p.source < kYuv444 ? halved_axis(across_axis(p), p.odd_col == 2) : across_axis(p);
}

// From the filter's one end to its other, in its unit of length.
AIMILLS_HD constexpr int reach_of(int filter) {
  return filter == kLanczos ? 6 : filter == kBicubic ? 4 : filter == kBilinear ? 2 : 1;
}

// Window sizes differ by one along the axis; this bounds them.
AIMILLS_HD i64 taps_of(const Axis& a) {
  if (a.filter == kNearest) return 1;
  return smaller(a.count, reach_of(a.filter) * a.unit / a.out + 2);
}

struct Window {
  int begin, end;
};

// Of output `i`, in 1 / (2 out) of a sample; never beyond the last sample.
AIMILLS_HD i64 center_of(const Axis& a, i64 i) {
  const i64 center = (2 * i + 1) * a.in;
  return a.shifted ? smaller(center + a.shift, 2 * a.out * a.count - 1) : center;
}

// The samples whose centres lie within the filter's support around output `i`.
AIMILLS_HD Window window_of(const Axis& a, i64 i) {
  const i64 center = center_of(a, i), first = a.first;
  if (a.filter == kNearest) {
    const i64 j = first + center / (2 * a.out);
    return {static_cast<int>(j), static_cast<int>(j + 1)};
  }
  const i64 support = reach_of(a.filter) * a.unit;
  const i64 begin = center - support + a.out;
  const i64 end = (center + support + a.out) / (2 * a.out);
  return {static_cast<int>(first + (begin > 0 ? begin / (2 * a.out) : 0)),
          static_cast<int>(first + smaller(end, a.count))};
}

// sin(pi x) / (pi x). The odd polynomial is Taylor's, good to 6e-8 up to a quarter turn.
AIMILLS_HD float sinc(float x) {
  const float turns = static_cast<float>(static_cast<int>(x + 0.5f));
  const float t = 3.14159265358979f * (x - turns), s = t * t;
  const float sine =
      t * (1.0f + s * (-1.6666667e-1f +
                       s * (8.3333333e-3f +
                            s * (-1.9841270e-4f + s * (2.7557319e-6f + s * -2.5052108e-8f)))));
  if (x == 0.0f) return 1.0f;
  return (static_cast<int>(turns) & 1 ? -sine : sine) / (3.14159265358979f * x);
}

AIMILLS_HD float cubic(float x, float a) {
  // Keys' kernel in factors: no digits cancel near the zeros at 1 and 2.
  if (x < 1.0f) return (1.0f - x) * (1.0f + x * (1.0f - (a + 2.0f) * x));
  return x < 2.0f ? a * (x - 1.0f) * (x - 2.0f) * (x - 2.0f) : 0.0f;
}

// At `distance` half units of length.
AIMILLS_HD float filter_value(const Axis& a, i64 distance) {
  if (a.filter == kNearest) return 1.0f;
  if (a.filter == kArea) return distance > -a.unit && distance <= a.unit ? 1.0f : 0.0f;
  const i64 size = distance < 0 ? -distance : distance;
  const float x = static_cast<float>(size) / static_cast<float>(2 * a.unit);
  if (a.filter == kBilinear) return x < 1.0f ? 1.0f - x : 0.0f;
  if (a.filter == kBicubic) return cubic(x, a.antialias ? -0.5f : -0.75f);
  return x < 3.0f ? sinc(x) * sinc(x / 3.0f) : 0.0f;
}

// Of source sample `j` for output `i`.
AIMILLS_HD float weight_of(const Axis& a, i64 i, i64 j) {
  j -= a.first;
  const i64 distance = (2 * j + 1) * a.out - center_of(a, i), step = 2 * a.out;
  const bool extended = !a.antialias && a.filter == kBicubic;
  const int before = extended && j == 0 ? 2 : 0, after = extended && j == a.count - 1 ? 2 : 0;
  float weight = 0.0f;
  // Rolled up, as the filters are inlined into it.
  AIMILLS_ROLLED
  for (int k = -before; k <= after; ++k) weight += filter_value(a, distance + k * step);
  return weight;
}

}  // namespace aimills::video
