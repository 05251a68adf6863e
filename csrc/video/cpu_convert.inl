#pragma once
// Source rows to RGB levels on the CPU, included once by each source file of an instruction set.
//
// NV12 and its like, in which U and V of a sample are neighbouring bytes, have their chroma blended
// as vectors of pairs; every other layout goes through loops over samples at any stride.

#include "video/cpu_band.h"
#include "video/pixel.h"

namespace aimills::video {
namespace {

typedef u16 v16h __attribute__((vector_size(32), aligned(1), may_alias));

constexpr int kPairs = kStripCols / 2;

template <class T>
struct Wider {
  using Type = i16;
};

template <>
struct Wider<u16> {
  using Type = int;
};

// A row between the two steps of its conversion: luma in place or copied, chroma blended to
// quarters of a code. Half the columns have chroma of their own, and there is one more on each
// side.
template <class T, int kCols>
struct BlendedRow {
  using Int = typename Wider<T>::Type;  // holds sixteenths of a code
  static constexpr int kCount = kCols ? kPairs + 2 : kStripCols;
  const T* luma;
  Int u[kCount], v[kCount];
  T luma_copy[kStripCols];
};

// ---- chroma of two rows: pairs of bytes

// Strips at an edge of the frame are copied, with the outermost sample replicated.
static void copy_chroma(u8* to, const u8* row, int first, int cols) {
  const int begin = larger(first, 0), end = smaller(first + kPairs + 2, cols);
  __builtin_memcpy(to + 2 * (begin - first), row + 2 * i64(begin), 2 * i64(end - begin));
  for (int i = first; i < begin; ++i) __builtin_memcpy(to + 2 * (i - first), row, 2);
  for (int i = end; i < first + kPairs + 2; ++i) {
    __builtin_memcpy(to + 2 * (i - first), row + 2 * i64(cols - 1), 2);
  }
}

// 16 interleaved chroma pairs of two rows.
AIMILLS_HD void blend16(const u8* near, const u8* far, const ChromaTaps& taps, i16* u, i16* v) {
  const v16h a = *reinterpret_cast<const v16h*>(near), b = *reinterpret_cast<const v16h*>(far);
  const u16 near_weight = static_cast<u16>(taps.near_weight);
  const u16 far_weight = static_cast<u16>(taps.far_weight);
  *reinterpret_cast<v16h*>(u) = (a & 255) * near_weight + (b & 255) * far_weight;
  *reinterpret_cast<v16h*>(v) = (a >> 8) * near_weight + (b >> 8) * far_weight;
}

// 34 pairs as three vectors, the last two overlapping: a scalar tail would cost more.
AIMILLS_HD void blend_pairs(const u8* near, const u8* far, const ChromaTaps& taps, i16* first,
                            i16* second) {
  constexpr int last = kPairs + 2 - 16;
  blend16(near, far, taps, first, second);
  blend16(near + 32, far + 32, taps, first + 16, second + 16);
  blend16(near + 2 * last, far + 2 * last, taps, first + last, second + last);
}

// ---- chroma of two rows: one component at any stride

AIMILLS_HD int clamped(int i, int count) { return smaller(larger(i, 0), count - 1); }

// `kStride` 0: as the plane says.
template <class T, int kStride, class Int, int kCount>
AIMILLS_HD void blend_inside(const Plane& plane, const u8* near, const u8* far, int first,
                             const ChromaTaps& taps, int shift, Int (&out)[kCount]) {
  const i64 stride = kStride ? kStride : plane.col;
  near += first * stride;
  far += first * stride;
  const Int near_weight = static_cast<Int>(taps.near_weight);
  const Int far_weight = static_cast<Int>(taps.far_weight);
  for (int i = 0; i < kCount; ++i, near += stride, far += stride) {
    const Int a = static_cast<Int>(*reinterpret_cast<const T*>(near) >> shift);
    const Int b = static_cast<Int>(*reinterpret_cast<const T*>(far) >> shift);
    out[i] = static_cast<Int>(a * near_weight + b * far_weight);
  }
}

template <class T, class Int, int kCount>
static void blend_plane(const Plane& plane, i64 frame, int first, int cols, const ChromaTaps& taps,
                        int shift, Int (&out)[kCount]) {
  const u8* near = plane.data + frame * plane.frame + taps.near * plane.row;
  const u8* far = plane.data + frame * plane.frame + taps.far * plane.row;
  if (first >= 0 && first + kCount <= cols) {
    constexpr int size = sizeof(T);
    if (plane.col == size) {
      blend_inside<T, size>(plane, near, far, first, taps, shift, out);
    } else if (plane.col == 2 * size) {
      blend_inside<T, 2 * size>(plane, near, far, first, taps, shift, out);
    } else {
      blend_inside<T, 0>(plane, near, far, first, taps, shift, out);
    }
    return;
  }
  for (int i = 0; i < kCount; ++i) {
    const int col = clamped(first + i, cols);
    out[i] = static_cast<Int>(code_at<T>(near, plane.col, col, shift) * taps.near_weight +
                              code_at<T>(far, plane.col, col, shift) * taps.far_weight);
  }
}

// ---- rows

template <class T>
static void copy_luma(T* to, const u8* row, i64 stride, int count) {
  for (int i = 0; i < kStripCols; ++i) {
    to[i] = *reinterpret_cast<const T*>(row + smaller(i, count - 1) * stride);
  }
}

// Source rows [begin, end) of the strip at column `col`.
template <class T, int kRows, int kCols>
__attribute__((noinline)) static void blend_chunk(const Params& p, i64 frame, int begin, int end,
                                                  int col, BlendedRow<T, kCols>* out) {
  using Row = BlendedRow<T, kCols>;
  const int cols = (p.width + kCols) >> kCols, first = kCols ? col / 2 - 1 : col;
  const bool inside = col + kStripCols <= p.width, in_place = p.planes[0].col == sizeof(T);
  const bool inside_chroma = first >= 0 && first + Row::kCount <= cols;
  const Plane y = p.planes[0], u = p.planes[1], v = p.planes[2];
  const bool pairs = sizeof(T) == 1 && kCols == 1 && u.col == 2 && v.col == 2 &&
                     u.frame == v.frame && u.row == v.row &&
                     (v.data - u.data == 1 || u.data - v.data == 1);
  const bool swapped = v.data < u.data;
  const u8* luma = y.data + frame * y.frame + begin * y.row + col * y.col;
  const u8* uv = (swapped ? v.data : u.data) + frame * u.frame;
  for (int row = begin; row < end; ++row, ++out, luma += y.row) {
    const ChromaTaps taps = chroma_row_taps(p, row, kRows == 1);
    const u8 *near = uv + taps.near * u.row, *far = uv + taps.far * u.row;
    // One cache line of each row, or two: no hardware prefetcher follows, so fetch for the next
    // chunk.
    __builtin_prefetch(luma + kChunkRows * y.row);
    __builtin_prefetch(far + first * u.col + (kChunkRows >> kRows) * u.row);
    if constexpr (sizeof(T) == 2) {
      __builtin_prefetch(luma + kChunkRows * y.row + 64);
      __builtin_prefetch(far + first * u.col + (kChunkRows >> kRows) * u.row + 64);
    }
    if (inside && in_place) {
      out->luma = reinterpret_cast<const T*>(luma);
    } else {
      copy_luma<T>(out->luma_copy, luma, y.col, smaller(kStripCols, p.width - col));
      out->luma = out->luma_copy;
    }
    if constexpr (sizeof(T) == 1 && kCols == 1) {
      if (pairs) {
        u8 copies[2][2 * (kPairs + 2)];
        if (!inside_chroma) {
          copy_chroma(copies[0], near, first, cols);
          copy_chroma(copies[1], far, first, cols);
        }
        blend_pairs(inside_chroma ? near + 2 * i64(first) : copies[0],
                    inside_chroma ? far + 2 * i64(first) : copies[1], taps,
                    swapped ? out->v : out->u, swapped ? out->u : out->v);
        continue;
      }
    }
    __builtin_prefetch(v.data + frame * v.frame + taps.far * v.row + first * v.col +
                       (kChunkRows >> kRows) * v.row);
    blend_plane<T>(u, frame, first, cols, taps, p.shift, out->u);
    blend_plane<T>(v, frame, first, cols, taps, p.shift, out->v);
  }
}

// The codes of columns 2 i and 2 i + 1.
AIMILLS_HD u32 load_luma(const u8* p, int i) {
  u16 pair;
  __builtin_memcpy(&pair, p + 2 * i, 2);
  return pair;
}

AIMILLS_HD u32 load_luma(const u16* p, int i) {
  u32 pair;
  __builtin_memcpy(&pair, p + 2 * i, 4);
  return pair;
}

AIMILLS_HD void put(const Rgb& x, int i, float* __restrict out) {
  out[i] = x.r;
  out[kStripCols + i] = x.g;
  out[2 * kStripCols + i] = x.b;
}

// Of one row, in place. `change` is known when this is compiled, so that the loop is one of
// vectors.
template <class F>
AIMILLS_HD void change_row(float* __restrict out, const F& change) {
  for (int i = 0; i < kStripCols; ++i) {
    put(change(Rgb{out[i], out[kStripCols + i], out[2 * kStripCols + i]}), i, out);
  }
}

// Exact levels of a row, in place, to whole ones.
__attribute__((noinline)) static void grade_row(const Params& p, float* __restrict out) {
  if (p.transfer == kPq) change_row(out, [](const Rgb& x) { return sdr_levels(x, kPq); });
  if (p.transfer == kHlg) change_row(out, [](const Rgb& x) { return sdr_levels(x, kHlg); });
  if (p.jittered) {
    float m[12];  // a copy that `out` can't alias
    __builtin_memcpy(m, p.jitter, sizeof m);
    change_row(out, [&](const Rgb& x) { return jittered(m, x); });
  }
  change_row(out, [](const Rgb& x) { return rounded(x); });
}

// Columns leave in the order evens, odds: that is how pairs of codes split into vectors. The
// transposition puts them back.
template <class T, int kCols>
__attribute__((noinline)) static void convert_row(const BlendedRow<T, kCols>& in, const Params& p,
                                                  float* __restrict out) {
  using Int = typename BlendedRow<T, kCols>::Int;
  constexpr int bits = 8 * sizeof(T);
  const Int *u = in.u, *v = in.v;
  Int luma[kStripCols], blue[kStripCols], red[kStripCols];
  const int even = p.even_col, odd = p.odd_col, zero = p.chroma_zero, shift = p.shift;
  for (int i = 0; i < kPairs; ++i) {
    const u32 pair = load_luma(in.luma, i);
    luma[i] = static_cast<Int>(pair & ((1u << bits) - 1u));
    luma[kPairs + i] = static_cast<Int>(pair >> bits);
    if constexpr (sizeof(T) == 2) {
      luma[i] >>= shift;
      luma[kPairs + i] >>= shift;
    }
    if constexpr (kCols == 1) {
      blue[i] = static_cast<Int>(u[i + 1] * (4 - even) + u[i] * even - zero);
      blue[kPairs + i] = static_cast<Int>(u[i + 1] * (4 - odd) + u[i + 2] * odd - zero);
      red[i] = static_cast<Int>(v[i + 1] * (4 - even) + v[i] * even - zero);
      red[kPairs + i] = static_cast<Int>(v[i + 1] * (4 - odd) + v[i + 2] * odd - zero);
    } else {
      blue[i] = static_cast<Int>(u[2 * i] * 4 - zero);
      blue[kPairs + i] = static_cast<Int>(u[2 * i + 1] * 4 - zero);
      red[i] = static_cast<Int>(v[2 * i] * 4 - zero);
      red[kPairs + i] = static_cast<Int>(v[2 * i + 1] * 4 - zero);
    }
  }
  const Color color = p.color;  // a copy that `out` can't alias
  if (is_graded(p)) {
    for (int i = 0; i < kStripCols; ++i) {
      put(exact_rgb(color, luma[i], blue[i], red[i]), i, out);
    }
    grade_row(p, out);
    return;
  }
  for (int i = 0; i < kStripCols; ++i) put(to_rgb(color, luma[i], blue[i], red[i]), i, out);
}

template <class T, int kRows, int kCols>
static void convert_yuv(const Params& p, i64 frame, int begin, int end, int col, float* chunk) {
  // Two steps with all rows between them: read back at other offsets, a vector just stored would
  // stall.
  BlendedRow<T, kCols> blended[kChunkRows];
  blend_chunk<T, kRows, kCols>(p, frame, begin, end, col, blended);
  for (int row = begin; row < end; ++row, chunk += 3 * kStripCols) {
    convert_row(blended[row - begin], p, chunk);
  }
}

// The 64 levels of one channel from neighbouring bytes, evens before odds.
AIMILLS_HD void split_levels(const u8* levels, float* __restrict out) {
  for (int i = 0; i < kPairs; ++i) {
    const u32 pair = load_luma(levels, i);
    out[i] = static_cast<float>(pair & 255u);
    out[kPairs + i] = static_cast<float>(pair >> 8);
  }
}

// 64 pixels of three bytes into three rows.
__attribute__((noinline)) static void split_pixels(const u8* pixels, u8* __restrict out) {
  for (int i = 0; i < kStripCols; ++i) {
    out[i] = pixels[3 * i];
    out[kStripCols + i] = pixels[3 * i + 1];
    out[2 * kStripCols + i] = pixels[3 * i + 2];
  }
}

static void convert_rgb8(const Params& p, i64 frame, int begin, int end, int col, float* chunk) {
  const bool inside = col + kStripCols <= p.width;
  const Plane &red = p.planes[0], &green = p.planes[1], &blue = p.planes[2];
  const u8* pixel = red.data < blue.data ? red.data : blue.data;
  const bool alike = red.col == 3 && green.col == 3 && blue.col == 3 && red.row == green.row &&
                     red.row == blue.row && red.frame == green.frame && red.frame == blue.frame;
  const bool interleaved = inside && alike && green.data - pixel == 1 &&
                           (red.data - pixel == 2 || blue.data - pixel == 2);
  for (int row = begin; row < end; ++row) {
    u8 levels[3 * kStripCols];
    if (interleaved) {
      const u8* at = pixel + frame * red.frame + row * red.row + 3 * i64(col);
      __builtin_prefetch(at + kChunkRows * red.row);
      __builtin_prefetch(at + kChunkRows * red.row + 64);
      __builtin_prefetch(at + kChunkRows * red.row + 128);
      split_pixels(at, levels);
    }
    for (int c = 0; c < 3; ++c, chunk += kStripCols) {
      const Plane& plane = p.planes[c];
      const u8* samples = plane.data + frame * plane.frame + row * plane.row;
      if (interleaved) {
        split_levels(levels + (plane.data - pixel) * kStripCols, chunk);
      } else if (inside && plane.col == 1) {
        __builtin_prefetch(samples + col + kChunkRows * plane.row);
        split_levels(samples + col, chunk);
      } else {
        for (int i = 0; i < kStripCols; ++i) {
          const int at = smaller(col + i, p.width - 1);
          chunk[i / 2 + (i & 1) * kPairs] = samples[at * plane.col];
        }
      }
    }
    if (is_graded(p)) grade_row(p, chunk - 3 * kStripCols);
  }
}

// The 64 levels of one channel of more bits, not yet rounded. `kStride` 0: as the plane says.
template <int kStride>
AIMILLS_HD void scale_codes(const u8* codes, i64 stride, int count, int shift, float scale,
                            float* __restrict out) {
  if (kStride) stride = kStride;
  for (int i = 0; i < kPairs; ++i) {
    const int even = smaller(2 * i, count - 1), odd = smaller(2 * i + 1, count - 1);
    out[i] = static_cast<float>(code_at<u16>(codes, stride, even, shift)) * scale;
    out[kPairs + i] = static_cast<float>(code_at<u16>(codes, stride, odd, shift)) * scale;
  }
}

static void convert_rgb16(const Params& p, i64 frame, int begin, int end, int col, float* chunk) {
  const int count = smaller(kStripCols, p.width - col), shift = p.shift;
  const float scale = p.color.y_scale;
  for (int row = begin; row < end; ++row, chunk += 3 * kStripCols) {
    for (int c = 0; c < 3; ++c) {
      const Plane& plane = p.planes[c];
      const u8* codes = plane.data + frame * plane.frame + row * plane.row + col * plane.col;
      float* out = chunk + c * kStripCols;
      __builtin_prefetch(codes + kChunkRows * plane.row);
      if (count == kStripCols && plane.col == 2) {
        scale_codes<2>(codes, 2, kStripCols, shift, scale, out);
      } else if (count == kStripCols && plane.col == 6) {
        scale_codes<6>(codes, 6, kStripCols, shift, scale, out);
      } else {
        scale_codes<0>(codes, plane.col, count, shift, scale, out);
      }
    }
    grade_row(p, chunk);
  }
}

AIMILLS_HD ConvertFn convert_of(const Params& p) {
  switch (p.source) {
    case kYuv420:
      return convert_yuv<u8, 1, 1>;
    case kYuv420Wide:
      return convert_yuv<u16, 1, 1>;
    case kYuv422:
      return convert_yuv<u8, 0, 1>;
    case kYuv422Wide:
      return convert_yuv<u16, 0, 1>;
    case kYuv444:
      return convert_yuv<u8, 0, 0>;
    case kYuv444Wide:
      return convert_yuv<u16, 0, 0>;
    case kRgb:
      return convert_rgb8;
    default:
      return convert_rgb16;
  }
}

}  // namespace
}  // namespace aimills::video
