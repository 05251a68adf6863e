#pragma once
// RGB levels of source pixels: chroma upsampling and the colour matrix, shared by the CPU and the
// GPU.

#include "video/pil.h"
#include "video/tone.h"
#include "video/weights.h"

namespace aimills::video {

// A luma sample lies between two chroma samples: weights in quarters, so both directions together
// give whole sixteenths.
struct ChromaTaps {
  int near, far;
  int near_weight, far_weight;
};

// Of a row, where `halved` says whether two rows share their chroma.
AIMILLS_HD ChromaTaps chroma_row_taps(const Params& p, int row, bool halved) {
  if (!halved) return {row, row, 4, 0};
  const int near = row >> 1, last = ((p.height + 1) >> 1) - 1;
  const int far = (row & 1) ? smaller(near + 1, last) : larger(near - 1, 0);
  const int weight = (row & 1) ? p.odd_row : p.even_row;
  return {near, far, 4 - weight, weight};
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

// Levels before they are rounded. `u` and `v` in sixteenths of a code, centred on zero.
AIMILLS_HD Rgb exact_rgb(const Color& c, float y, float u, float v) {
  const float luma = y * c.y_scale + c.y_shift;
  return {luma + c.r_v * v, luma + c.g_v * v + c.g_u * u, luma + c.b_u * u};
}

AIMILLS_HD Rgb rounded(const Rgb& x) { return {to_level(x.r), to_level(x.g), to_level(x.b)}; }

AIMILLS_HD Rgb to_rgb(const Color& c, float y, float u, float v) {
  return rounded(exact_rgb(c, y, u, v));
}

// What kernels are compiled with: nothing behind the matrix, or all that there may be.
struct Plain {
  AIMILLS_HD_MEMBER static Rgb levels(const Params&, const Rgb& x) { return rounded(x); }
};

struct Grading {
  AIMILLS_HD_MEMBER static Rgb levels(const Params& p, const Rgb& x) {
    return rounded(graded(p, x));
  }
};

// ---- pixels in pairs, as the GPU loads them

AIMILLS_HD u32 pack(const Rgb& rgb) {
  return static_cast<u32>(rgb.r) | static_cast<u32>(rgb.g) << 8 | static_cast<u32>(rgb.b) << 16;
}

template <class T>
AIMILLS_HD int code_at(const u8* row, i64 col_stride, int col, int shift) {
  return *reinterpret_cast<const T*>(row + col * col_stride) >> shift;
}

// What is known of the samples when the kernel is compiled: all of it for 4:2:0, ...
template <class T>
struct Halved {
  AIMILLS_HD_MEMBER static int code(const Params& p, const u8* row, i64 stride, int col) {
    return code_at<T>(row, stride, col, p.shift);
  }
  AIMILLS_HD_MEMBER static constexpr bool rows(const Params&) { return true; }
  AIMILLS_HD_MEMBER static constexpr bool cols(const Params&) { return true; }
};

// ... and nothing for the rest.
struct Any {
  AIMILLS_HD_MEMBER static int code(const Params& p, const u8* row, i64 stride, int col) {
    return is_wide(p.source) ? code_at<u16>(row, stride, col, p.shift)
                             : code_at<u8>(row, stride, col, p.shift);
  }
  AIMILLS_HD_MEMBER static bool rows(const Params& p) { return p.source < kYuv422; }
  AIMILLS_HD_MEMBER static bool cols(const Params& p) { return p.source < kYuv444; }
};

// The same where the picture may be turned.
struct AnyTurned : Any {
  AIMILLS_HD_MEMBER static bool rows(const Params& p) {
    return p.passes == kPilTurned ? Any::cols(p) : Any::rows(p);
  }
  AIMILLS_HD_MEMBER static bool cols(const Params& p) {
    return p.passes == kPilTurned ? Any::rows(p) : Any::cols(p);
  }
};

// Sums in floats, with the sum of the weights as the fourth: means are of what lies in the picture.
struct Floats {
  using Value = float;
  AIMILLS_HD_MEMBER static void end_row(float*) {}
  AIMILLS_HD_MEMBER static float scaled(float weight, const float* across) {
    return weight / across[3];
  }
  AIMILLS_HD_MEMBER static float mean(float sum, float weights) { return sum / weights; }
};

// Samples that are filtered alike and what becomes of them: three channels of each pixel, ...
struct Pixels : Floats {
  static constexpr int kChannels = 3, kFirst = 0;
  AIMILLS_HD_MEMBER static Axis down(const Params& p) { return down_axis(p); }
  AIMILLS_HD_MEMBER static Axis across(const Params& p) { return across_axis(p); }
  AIMILLS_HD_MEMBER static u32 channel(u32 word, int c) { return word >> (8 * c) & 255u; }
  AIMILLS_HD_MEMBER static float level(const Params&, const float* value, int c) {
    return value[c];
  }
};

// ... a plane of luma, ...
template <class Kind>
struct Luma : Floats {
  static constexpr int kChannels = 1, kFirst = 0;
  AIMILLS_HD_MEMBER static Axis down(const Params& p) { return down_axis(p); }
  AIMILLS_HD_MEMBER static Axis across(const Params& p) { return across_axis(p); }
  AIMILLS_HD_MEMBER static u32 channel(u32 word, int) { return word; }

  AIMILLS_HD_MEMBER static void load_pair(const Params& p, i64 frame, int row, int col, u32* out) {
    const Plane& y = p.planes[0];
    const u8* luma = y.data + frame * y.frame + row * y.row;
    for (int i = 0; i < 2 && col + i < p.width; ++i) {
      out[i] = static_cast<u32>(Kind::code(p, luma, y.col, col + i));
    }
  }
};

// ... and the two of chroma.
template <class Kind>
struct Chroma : Floats {
  static constexpr int kChannels = 2, kFirst = 1;
  AIMILLS_HD_MEMBER static Axis down(const Params& p) { return chroma_down_axis(p); }
  AIMILLS_HD_MEMBER static Axis across(const Params& p) { return chroma_across_axis(p); }
  AIMILLS_HD_MEMBER static u32 channel(u32 word, int c) { return word >> (16 * c) & 0xffffu; }

  AIMILLS_HD_MEMBER static void load_pair(const Params& p, i64 frame, int row, int col, u32* out) {
    const Plane &u = p.planes[1], &v = p.planes[2];
    const u8* blue = u.data + frame * u.frame + row * u.row;
    const u8* red = v.data + frame * v.frame + row * v.row;
    const int width = Kind::cols(p) ? (p.width + 1) >> 1 : p.width;
    for (int i = 0; i < 2 && col + i < width; ++i) {
      out[i] = static_cast<u32>(Kind::code(p, blue, u.col, col + i)) |
               static_cast<u32>(Kind::code(p, red, v.col, col + i)) << 16;
    }
  }
};

// Planes that are filtered before the colour matrix.
template <class Kind>
struct Planes : Floats {
  using First = Luma<Kind>;
  using Second = Chroma<Kind>;
  AIMILLS_HD_MEMBER static float level(const Params& p, const float* code, int c) {
    const float* m = p.jitter + 4 * c;
    return m[0] * code[0] + m[1] * code[1] + m[2] * code[2] + m[3];
  }
};

template <class Kind, class Finish = Plain>
struct Yuv : Pixels {
  struct Pair {
    int u, v;
  };

  // The two chroma rows of one frame's row, blended where they are read.
  struct Rows {
    const u8 *near_u, *far_u, *near_v, *far_v;
    ChromaTaps taps;

    AIMILLS_HD_MEMBER Pair at(const Params& p, int col) const {
      const i64 u = p.planes[1].col, v = p.planes[2].col;
      const int near = taps.near_weight, far = taps.far_weight;
      return {Kind::code(p, near_u, u, col) * near + Kind::code(p, far_u, u, col) * far,
              Kind::code(p, near_v, v, col) * near + Kind::code(p, far_v, v, col) * far};
    }
  };

  AIMILLS_HD_MEMBER static Rows rows_of(const Params& p, i64 frame, int row) {
    const Plane &u = p.planes[1], &v = p.planes[2];
    const ChromaTaps taps = chroma_row_taps(p, row, Kind::rows(p));
    const u8 *first_u = u.data + frame * u.frame, *first_v = v.data + frame * v.frame;
    return {first_u + taps.near * u.row, first_u + taps.far * u.row, first_v + taps.near * v.row,
            first_v + taps.far * v.row, taps};
  }

  AIMILLS_HD_MEMBER static u32 packed(const Params& p, int y, const Pair& near, const Pair& far,
                                      int weight) {
    const int u = near.u * (4 - weight) + far.u * weight - p.chroma_zero;
    const int v = near.v * (4 - weight) + far.v * weight - p.chroma_zero;
    return pack(Finish::levels(p, exact_rgb(p.color, static_cast<float>(y), static_cast<float>(u),
                                            static_cast<float>(v))));
  }

  // Pixels `col`, which is even, and `col` + 1 if there is one.
  AIMILLS_HD_MEMBER static void load_pair(const Params& p, i64 frame, int row, int col, u32* out) {
    const Plane& y = p.planes[0];
    const u8* luma = y.data + frame * y.frame + row * y.row;
    const Rows rows = rows_of(p, frame, row);
    const bool second = col + 1 < p.width;
    if (!Kind::cols(p)) {
      for (int i = 0; i < 1 + second; ++i) {
        const Pair chroma = rows.at(p, col + i);
        out[i] = packed(p, Kind::code(p, luma, y.col, col + i), chroma, chroma, 0);
      }
      return;
    }
    const int i = col / 2, last = (p.width + 1) / 2 - 1;
    const Pair middle = rows.at(p, i);
    const Pair left = p.even_col ? rows.at(p, larger(i - 1, 0)) : middle;
    out[0] = packed(p, Kind::code(p, luma, y.col, col), middle, left, p.even_col);
    if (!second) return;
    const Pair right = p.odd_col ? rows.at(p, smaller(i + 1, last)) : middle;
    out[1] = packed(p, Kind::code(p, luma, y.col, col + 1), middle, right, p.odd_col);
  }
};

// 8 bits have a `y_scale` of 1, so that their levels stay what they are.
template <class Finish>
struct AnyRgb {
  AIMILLS_HD_MEMBER static void load_pair(const Params& p, i64 frame, int row, int col, u32* out) {
    for (int i = 0; i < 2 && col + i < p.width; ++i) {
      float x[3];
      for (int c = 0; c < 3; ++c) {
        const Plane& plane = p.planes[c];
        const u8* samples = plane.data + frame * plane.frame + row * plane.row;
        x[c] = static_cast<float>(Any::code(p, samples, plane.col, col + i)) * p.color.y_scale;
      }
      out[i] = pack(Finish::levels(p, {x[0], x[1], x[2]}));
    }
  }
};

// The loaders that kernels are compiled with: what decoders deliver, and everything else.
using Yuv420 = Yuv<Halved<u8>>;
using Yuv420Wide = Yuv<Halved<u16>>;

template <class Finish, class Kind = Any>
struct AnyFormat : Pixels {
  AIMILLS_HD_MEMBER static void load_pair(const Params& p, i64 frame, int row, int col, u32* out) {
    if (p.source >= kRgb) {
      AnyRgb<Finish>::load_pair(p, frame, row, col, out);
    } else {
      Yuv<Kind, Finish>::load_pair(p, frame, row, col, out);
    }
  }
};

using Planes420 = Planes<Halved<u8>>;
using PlanesAny = Planes<Any>;
using General = AnyFormat<Plain>;
using Graded = AnyFormat<Grading>;
using Pil420 = Pil<Yuv420>;
using PilAny = Pil<AnyFormat<Grading, AnyTurned>>;

#if !defined(__CUDACC_RTC__)
// Calls `f` with the loader for `p`.
template <class F>
static inline auto with_loader(const Params& p, const F& f) {
  if (p.passes == kPlanes) {
    if (p.source == kYuv420) return f(Planes420{});
    return f(PlanesAny{});
  }
  if (p.passes != kFloat) {
    if (p.source == kYuv420 && !is_graded(p)) return f(Pil420{});
    return f(PilAny{});
  }
  if (!is_graded(p)) {
    if (p.source == kYuv420) return f(Yuv420{});
    if (p.source == kYuv420Wide) return f(Yuv420Wide{});
    return f(General{});
  }
  return f(Graded{});
}
#endif

}  // namespace aimills::video
