// The CPU kernel, included by one source file per instruction set.
//
// A band of output rows walks over the frame in strips of 64 source columns. In a strip: source
// rows are converted to RGB levels in chunks that stay in L1, filtered along the rows into
// `strip`, transposed so that a vector holds one column of eight output rows, and filtered along
// the columns. Each source pixel is converted once per band.

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "video/cpu_band.h"
#include "video/pixel.h"

namespace aimills::video {
namespace {

typedef float v8f __attribute__((vector_size(32), aligned(4), may_alias));
typedef u32 v8u __attribute__((vector_size(32), aligned(4), may_alias));
typedef u16 v16h __attribute__((vector_size(32), aligned(1), may_alias));
typedef u16 v8h __attribute__((vector_size(16), aligned(2), may_alias));

constexpr int kPairs = kStripCols / 2;

AIMILLS_HD v8f load8(const float* p) { return *reinterpret_cast<const v8f*>(p); }
AIMILLS_HD void store8(float* p, v8f v) { *reinterpret_cast<v8f*>(p) = v; }
AIMILLS_HD v8f splat(float x) { return v8f{x, x, x, x, x, x, x, x}; }

// ---- conversion

// A row between the two steps of its conversion: luma in place or copied, chroma blended.
struct BlendedRow {
  const u8* luma;
  i16 u[kPairs + 2], v[kPairs + 2];  // quarters of a level
  u8 luma_copy[kStripCols];
};

// Strips at an edge of the frame are copied, with the outermost sample replicated.
static void copy_luma(u8* to, const u8* row, int count) {
  __builtin_memcpy(to, row, count);
  for (int i = count; i < kStripCols; ++i) to[i] = row[count - 1];
}

static void copy_chroma(u8* to, const u8* row, int first, int cols) {
  const int begin = larger(first, 0), end = smaller(first + kPairs + 2, cols);
  __builtin_memcpy(to + 2 * (begin - first), row + 2 * i64(begin), 2 * i64(end - begin));
  for (int i = first; i < begin; ++i) __builtin_memcpy(to + 2 * (i - first), row, 2);
  for (int i = end; i < first + kPairs + 2; ++i) {
    __builtin_memcpy(to + 2 * (i - first), row + 2 * i64(cols - 1), 2);
  }
}

AIMILLS_HD u16 load_pair(const u8* p) {
  u16 pair;
  __builtin_memcpy(&pair, p, 2);
  return pair;
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
AIMILLS_HD void blend_chroma(const u8* near, const u8* far, const ChromaTaps& taps,
                             BlendedRow& out) {
  constexpr int last = kPairs + 2 - 16;
  blend16(near, far, taps, out.u, out.v);
  blend16(near + 32, far + 32, taps, out.u + 16, out.v + 16);
  blend16(near + 2 * last, far + 2 * last, taps, out.u + last, out.v + last);
}

__attribute__((noinline)) static void blend_edge(const u8* luma, int luma_cols, const u8* near,
                                                 const u8* far, int first, int chroma_cols,
                                                 const ChromaTaps& taps, BlendedRow& out) {
  u8 chroma[2][2 * (kPairs + 2)];
  copy_luma(out.luma_copy, luma, luma_cols);
  copy_chroma(chroma[0], near, first, chroma_cols);
  copy_chroma(chroma[1], far, first, chroma_cols);
  blend_chroma(chroma[0], chroma[1], taps, out);
  out.luma = out.luma_copy;
}

// Source rows [begin, end) of the strip at column `col`.
__attribute__((noinline)) static void blend_chunk(const Params& p, i64 frame, int begin, int end,
                                                  int col, BlendedRow* out) {
  const int width = static_cast<int>(p.width), chroma_cols = (width + 1) / 2;
  const int chroma_rows = (static_cast<int>(p.height) + 1) / 2, first = col / 2 - 1;
  const bool inside = first >= 0 && col + kStripCols <= width && first + kPairs + 2 <= chroma_cols;
  const int upsampling = p.chroma_upsampling;
  const i64 y_row = p.y_row, uv_row = p.uv_row;
  const u8* luma = p.y + frame * p.y_frame + begin * y_row + col;
  const u8* uv = p.uv + frame * p.uv_frame;
  for (int row = begin; row < end; ++row, ++out, luma += y_row) {
    const ChromaTaps taps = chroma_row_taps(row, chroma_rows, upsampling);
    const u8 *near = uv + taps.near * uv_row, *far = uv + taps.far * uv_row;
    // One cache line of each row: no hardware prefetcher follows, so fetch for the next chunk.
    __builtin_prefetch(luma + kChunkRows * y_row);
    __builtin_prefetch(far + 2 * i64(first) + kChunkRows / 2 * uv_row);
    if (inside) {
      out->luma = luma;
      blend_chroma(near + 2 * i64(first), far + 2 * i64(first), taps, *out);
    } else {
      blend_edge(luma, smaller(kStripCols, width - col), near, far, first, chroma_cols, taps, *out);
    }
  }
}

// Columns leave in the order evens, odds: that is how byte pairs split into vectors. The
// transposition puts them back.
__attribute__((noinline)) static void convert_row(const BlendedRow& in, const Color& color,
                                                  const ColumnWeights& columns,
                                                  float* __restrict out) {
  const i16 *u = in.u, *v = in.v;
  i16 luma[kStripCols], blue[kStripCols], red[kStripCols];
  const int even = columns.even, odd = columns.odd;
  for (int i = 0; i < kPairs; ++i) {
    const u16 pair = load_pair(in.luma + 2 * i);
    luma[i] = static_cast<i16>(pair & 255);
    luma[kPairs + i] = static_cast<i16>(pair >> 8);
    blue[i] = static_cast<i16>(u[i + 1] * (4 - even) + u[i] * even - 2048);
    blue[kPairs + i] = static_cast<i16>(u[i + 1] * (4 - odd) + u[i + 2] * odd - 2048);
    red[i] = static_cast<i16>(v[i + 1] * (4 - even) + v[i] * even - 2048);
    red[kPairs + i] = static_cast<i16>(v[i + 1] * (4 - odd) + v[i + 2] * odd - 2048);
  }
  for (int i = 0; i < kStripCols; ++i) {
    const Rgb rgb = to_rgb(color, luma[i], blue[i], red[i]);
    out[i] = rgb.r;
    out[kStripCols + i] = rgb.g;
    out[2 * kStripCols + i] = rgb.b;
  }
}

// ---- along the rows

// out[3][64] += the weighted rows of a chunk; one channel's 64 columns are held in registers.
__attribute__((noinline)) static void filter_rows(const float* chunk, const float* weights,
                                                  int rows, bool first, float* __restrict out) {
  for (int c = 0; c < 3; ++c, chunk += kStripCols, out += kStripCols) {
    v8f sum[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sum[i] = first ? splat(0.0f) : load8(out + 8 * i);
    for (int r = 0; r < rows; ++r) {
      const v8f w = splat(weights[r]);
      const float* row = chunk + r * 3 * kStripCols;
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sum[i] += w * load8(row + 8 * i);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) store8(out + 8 * i, sum[i]);
  }
}

// All rows of the band for one strip, from the source to `strip`.
static void filter_strip(const Params& p, const AxisTable& down, const Band& band, int col,
                         const Color& color, const Scratch& s) {
  const auto columns = chroma_column_weights(p.chroma_upsampling, p.chroma_location);
  const int begin = down.begin[band.row_begin], end = down.end[band.row_end - 1];
  BlendedRow blended[kChunkRows];
  int active = band.row_begin;  // the first output row that a later chunk still reaches
  for (int chunk = begin; chunk < end; chunk += kChunkRows) {
    const int chunk_end = smaller(chunk + kChunkRows, end);
    // Two steps with all rows between them: read back at other offsets, a vector just stored
    // would stall.
    blend_chunk(p, band.frame, chunk, chunk_end, col, blended);
    for (int row = chunk; row < chunk_end; ++row) {
      convert_row(blended[row - chunk], color, columns, s.chunk + (row - chunk) * 3 * kStripCols);
    }
    while (active < band.row_end && down.end[active] <= chunk) ++active;
    for (int i = active; i < band.row_end && down.begin[i] < chunk_end; ++i) {
      const int from = larger(down.begin[i], chunk), to = smaller(down.end[i], chunk_end);
      const float* weights = down.weights + i64(i) * down.taps + (from - down.begin[i]);
      filter_rows(s.chunk + (from - chunk) * 3 * kStripCols, weights, to - from,
                  from == down.begin[i], s.strip + i64(i - band.row_begin) * 3 * kStripCols);
    }
  }
}

// ---- transposition and along the columns

template <int... I>
AIMILLS_HD v8f shuffle(v8f a, v8f b) {
  return __builtin_shufflevector(a, b, I...);
}

AIMILLS_HD void transpose8(v8f (&m)[8]) {
  v8f t[8], q[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = shuffle<0, 8, 1, 9, 4, 12, 5, 13>(m[i], m[i + 1]);
    t[i + 1] = shuffle<2, 10, 3, 11, 6, 14, 7, 15>(m[i], m[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    q[i] = shuffle<0, 1, 8, 9, 4, 5, 12, 13>(t[i], t[i + 2]);
    q[i + 1] = shuffle<2, 3, 10, 11, 6, 7, 14, 15>(t[i], t[i + 2]);
    q[i + 2] = shuffle<0, 1, 8, 9, 4, 5, 12, 13>(t[i + 1], t[i + 3]);
    q[i + 3] = shuffle<2, 3, 10, 11, 6, 7, 14, 15>(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    m[i] = shuffle<0, 1, 2, 3, 8, 9, 10, 11>(q[i], q[i + 4]);
    m[i + 4] = shuffle<4, 5, 6, 7, 12, 13, 14, 15>(q[i], q[i + 4]);
  }
}

// Eight rows of `strip` into [3][capacity][8] at column `at`.
__attribute__((noinline)) static void transpose_group(const float* strip, float* __restrict columns,
                                                      i64 capacity, int at) {
  for (int c = 0; c < 3; ++c) {
    float* to = columns + (c * capacity + at) * 8;
    for (int i = 0; i < kStripCols; i += 8) {
      v8f m[8];
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) m[r] = load8(strip + (r * 3 + c) * kStripCols + i);
      transpose8(m);
      const int col = i < kPairs ? 2 * i : 2 * (i - kPairs) + 1;
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) store8(to + (col + 2 * k) * 8, m[k]);
    }
  }
}

template <int kDtype>
AIMILLS_HD void store_vector(void* out, i64 at, v8f x) {
  if constexpr (kDtype == kF32) {
    store8(static_cast<float*>(out) + at, x);
  } else if constexpr (kDtype == kBf16) {
    const v8u bits = reinterpret_cast<v8u&>(x);
    const v8u rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    *reinterpret_cast<v8h*>(static_cast<u16*>(out) + at) = __builtin_convertvector(rounded, v8h);
  } else {
#if defined(__F16C__)
    const __m128i half = _mm256_cvtps_ph(reinterpret_cast<__m256&>(x), _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(static_cast<u16*>(out) + at, &half, 16);
#else
    for (int i = 0; i < 8; ++i) store_as(out, at + i, kF16, x[i]);
#endif
  }
}

// One channel of `rows` rows and `count` columns, normalised; `at` is the first output's index.
template <int kDtype>
AIMILLS_HD void store_rows(const Params& p, int channel, const v8f* level, i64 at, int rows,
                           int count) {
  const v8f hi = splat(p.mean_hi[channel]), lo = splat(p.mean_lo[channel]);
  const v8f scale = splat(p.scale[channel]);
  void* out = p.out;
  const i64 pitch = p.out_width;
  for (int r = 0; r < rows; ++r, at += pitch) {
    const v8f x = (level[r] - hi - lo) * scale;
    if (count == 8) {
      store_vector<kDtype>(out, at, x);
    } else {
      for (int i = 0; i < count; ++i) store_as(out, at + i, kDtype, x[i]);
    }
  }
}

AIMILLS_HD v8f to_levels(v8f x) {
  const v8f zero = splat(0.0f), top = splat(255.0f), magic = splat(12582912.0f);
  x = x > zero ? x : zero;
  x = x < top ? x : top;
  return (x + magic) - magic;
}

// Outputs [x, x + count) of eight rows (`rows` of them exist), `columns` starting at source column
// `first`.
__attribute__((noinline)) static void filter_columns(const Params& p, const AxisTable& across,
                                                     const float* columns, i64 capacity, int first,
                                                     const Band& at, int rows, int x, int count) {
  const i64 out = (at.frame * 3 * p.out_height + at.row_begin) * p.out_width + x;
  const i64 out_plane = p.out_height * p.out_width;
  v8f level[3][8];
  const i64 plane = capacity * 8;
  for (int k = 0; k < 8; ++k) {
    if (k >= count) {
      for (int c = 0; c < 3; ++c) level[c][k] = level[c][k - 1];
      continue;
    }
    const int i = x + k;
    const float* from = columns + i64(across.begin[i] - first) * 8;
    const float* weights = across.weights + i64(i) * across.taps;
    v8f r = splat(0.0f), g = r, b = r;
    // Past the window weights are zero and columns are finite.
    for (int t = across.end[i] - across.begin[i]; t > 0; t -= kUnroll) {
#pragma GCC unroll 4
      for (int k = 0; k < kUnroll; ++k, from += 8) {
        const v8f w = splat(*weights++);
        r += w * load8(from);
        g += w * load8(from + plane);
        b += w * load8(from + 2 * plane);
      }
    }
    level[0][k] = to_levels(r);
    level[1][k] = to_levels(g);
    level[2][k] = to_levels(b);
  }
  for (int c = 0; c < 3; ++c) {
    transpose8(level[c]);
    const i64 first_out = out + c * out_plane;
    if (p.dtype == kBf16) {
      store_rows<kBf16>(p, c, level[c], first_out, rows, count);
    } else if (p.dtype == kF16) {
      store_rows<kF16>(p, c, level[c], first_out, rows, count);
    } else {
      store_rows<kF32>(p, c, level[c], first_out, rows, count);
    }
  }
}

// Output columns [x, x_end) of a group of rows, which it will write a few bytes at a time.
AIMILLS_HD void prefetch_outputs(const Params& p, const Band& at, int rows, int x, int x_end) {
  const i64 size = p.dtype == kF32 ? 4 : 2, bytes = (x_end - x) * size;
  for (int c = 0; c < 3; ++c) {
    for (int r = 0; r < rows; ++r) {
      const i64 row = (at.frame * 3 + c) * p.out_height + at.row_begin + r;
      const u8* line = static_cast<const u8*>(p.out) + (row * p.out_width + x) * size;
      for (i64 i = 0; i < bytes; i += 64) __builtin_prefetch(line + i, 1);
    }
  }
}

AIMILLS_HD void keep_columns(float* columns, i64 capacity, int from, int count) {
  for (int c = 0; c < 3; ++c) {
    float* plane = columns + c * capacity * 8;
    if (from > 0) __builtin_memmove(plane, plane + i64(from) * 8, i64(count) * 8 * sizeof(float));
  }
}

static void run_band(const Params& p, const AxisTable& across, const AxisTable& down,
                     const Band& band, const Scratch& s) {
  const Color color = color_of(p.color_space, p.color_range);
  const int width = static_cast<int>(p.width), out_width = static_cast<int>(p.out_width);
  const int rows = band.row_end - band.row_begin;
  const i64 capacity = s.column_capacity;
  int x = 0, first = 0;  // the next output column; the source column at the start of `columns`
  for (int col = 0; col < width && x < out_width; col += kStripCols) {
    const int ready = smaller(col + kStripCols, width);
    if (ready <= across.begin[x]) {
      first = ready;
      continue;
    }
    filter_strip(p, down, band, col, color, s);
    int x_end = x;
    while (x_end < out_width && across.end[x_end] <= ready) ++x_end;
    const int keep = x_end < out_width ? smaller(across.begin[x_end], ready) : ready;
    for (int g = 0; g < rows; g += kGroupRows) {
      float* columns = s.columns + i64(g) * 3 * capacity;
      const int group_rows = smaller(rows - g, kGroupRows);
      prefetch_outputs(p, {band.frame, band.row_begin + g, 0}, group_rows, x, x_end);
      transpose_group(s.strip + i64(g) * 3 * kStripCols, columns, capacity, col - first);
      const Band group{band.frame, band.row_begin + g, 0};
      for (int at = x; at < x_end; at += 8) {
        filter_columns(p, across, columns, capacity, first, group, group_rows, at,
                       smaller(x_end - at, 8));
      }
      keep_columns(columns, capacity, keep - first, ready - keep);
    }
    x = x_end;
    first = keep;
  }
}

}  // namespace
}  // namespace aimills::video
