#pragma once
// What follows the colour matrix before levels are rounded: HDR to SDR, and a change of colours.
// kernels/video/tone.py, the reference, names the standards.

#include "video/params.h"

namespace aimills::video {

struct Rgb {
  float r, g, b;
};

// ---- powers: branch-free and without a library, so that vectors and NVRTC have the same

// 2^x within 2e-7 of its size, for x from -126 to 127. The polynomial is a minimax fit of
// (2^f - 1) / f on [-1/2, 1/2].
AIMILLS_HD float power_of_two(float x) {
  x = x > -126.0f ? x : -126.0f;
  const int whole = static_cast<int>(x + 128.5f) - 128;
  const float f = x - static_cast<float>(whole);
  const float p =
      0.6931472f +
      f * (0.2402265f +
           f * (0.05550357f + f * (0.009618031f + f * (0.0013390867f + f * 0.0001546973f))));
  return bits_float(static_cast<u32>(whole + 127) << 23) * (1.0f + f * p);
}

// Within 1e-7, for positive x that is no subnormal. The polynomial is a minimax fit of
// log2(1 + t) / t around 1.
AIMILLS_HD float log_two(float x) {
  constexpr u32 root_half = 0x3f3504f3u;
  const u32 bits = float_bits(x);
  const int whole = static_cast<int>(bits - root_half) >> 23;
  const float t = bits_float(bits - (static_cast<u32>(whole) << 23)) - 1.0f;
  const float high =
      0.28858528f +
      t * (-0.23963657f +
           t * (0.20429616f + t * (-0.1906129f + t * (0.1878259f + t * -0.112973355f))));
  const float p = 1.442695f + t * (-0.72134733f + t * (0.4808979f + t * (-0.36069643f + t * high)));
  return static_cast<float>(whole) + t * p;
}

// x^e for x from 0 on, with 0 for what is next to it.
AIMILLS_HD float power(float x, float e) {
  return power_of_two(e * log_two(x > 1e-30f ? x : 1e-30f));
}

AIMILLS_HD float within_one(float x) {
  x = x > 0.0f ? x : 0.0f;
  return x < 1.0f ? x : 1.0f;
}

AIMILLS_HD float luma2020(const Rgb& x) { return 0.2627f * x.r + 0.6780f * x.g + 0.0593f * x.b; }

// ---- display light over 1000 cd/m2, to the power of 1 / 2.4

AIMILLS_HD float pq_gamma(float signal) {
  const float n = power(within_one(signal), 1.0f / 78.84375f);
  const float above = n - 0.8359375f;
  const float ratio = (above > 0.0f ? above : 0.0f) / (18.8515625f - 18.6875f * n);
  // 10^(1 / 2.4) and 1 / (2.4 m1)
  return within_one(2.6101572f * power(ratio, 2.6155811f));
}

AIMILLS_HD float hlg_scene(float signal) {
  const float x = within_one(signal);
  const float low = x * x * (1.0f / 3.0f);
  // (x - c) / (a ln 2)
  const float high = (power_of_two((x - 0.55991073f) * 8.0672857f) + 0.28466892f) / 12.0f;
  return x <= 0.5f ? low : high;
}

AIMILLS_HD Rgb hdr_gamma(const Rgb& x, int transfer) {
  if (transfer == kPq) return {pq_gamma(x.r), pq_gamma(x.g), pq_gamma(x.b)};
  const Rgb scene = {hlg_scene(x.r), hlg_scene(x.g), hlg_scene(x.b)};
  const float gain = power(luma2020(scene), 0.2f / 2.4f);
  return {gain * power(scene.r, 1.0f / 2.4f), gain * power(scene.g, 1.0f / 2.4f),
          gain * power(scene.b, 1.0f / 2.4f)};
}

// ---- to SDR

AIMILLS_HD float knee(float x) {
  const float middle = (-1.1510f * x + 2.7811f) * x - 0.6302f;
  const float high = 0.5f * x + 0.5f;
  return x <= 0.7399f ? 1.0770f * x : x < 0.9909f ? middle : high;
}

AIMILLS_HD Rgb tone_mapped(const Rgb& x) {
  const float luma = luma2020(x);
  // The logarithms to base 2 of rho for 1000 and 100 cd/m2, and rho - 1.
  const float bright = log_two(1.0f + 12.2597979f * luma) * (1.0f / 3.7289869f);
  const float sdr = (power_of_two(knee(bright) * 2.5101917f) - 1.0f) * (1.0f / 4.6969577f);
  const float gain = sdr / (1.1f * (luma > 1e-9f ? luma : 1e-9f));
  const float red = gain * (x.r - luma), blue = gain * (x.b - luma);
  const float less = red > 0.0f ? red * (0.1f / 1.4746f) : 0.0f;
  const float base = sdr - less;
  return {base + red, base - red * (0.2627f / 0.6780f) - blue * (0.0593f / 0.6780f), base + blue};
}

AIMILLS_HD float linear_of(float signal) { return power(within_one(signal), 2.4f); }
AIMILLS_HD float level_of(float light) { return 255.0f * power(within_one(light), 1.0f / 2.4f); }

// Levels of the signal to levels of SDR, BT.709.
AIMILLS_HD Rgb sdr_levels(const Rgb& x, int transfer) {
  constexpr float one = 1.0f / 255.0f;
  const Rgb mapped = tone_mapped(hdr_gamma({x.r * one, x.g * one, x.b * one}, transfer));
  const float r = linear_of(mapped.r), g = linear_of(mapped.g), b = linear_of(mapped.b);
  return {level_of(1.66049100f * r - 0.58764114f * g - 0.07284986f * b),
          level_of(-0.12455047f * r + 1.13289990f * g - 0.00834942f * b),
          level_of(-0.01815076f * r - 0.10057890f * g + 1.11872966f * b)};
}

// ---- what the samples of a frame go through, not yet rounded

AIMILLS_HD bool is_graded(const Params& p) { return p.transfer != kSdr || p.jittered != 0; }

AIMILLS_HD Rgb jittered(const float* m, const Rgb& x) {
  return {m[0] * x.r + m[1] * x.g + m[2] * x.b + m[3], m[4] * x.r + m[5] * x.g + m[6] * x.b + m[7],
          m[8] * x.r + m[9] * x.g + m[10] * x.b + m[11]};
}

AIMILLS_HD Rgb graded(const Params& p, Rgb x) {
  if (p.transfer != kSdr) x = sdr_levels(x, p.transfer);
  read_anew();
  return p.jittered ? jittered(p.jitter, x) : x;
}

}  // namespace aimills::video
