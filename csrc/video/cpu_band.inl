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
#include "video/cpu_convert.inl"

namespace aimills::video {
namespace {

typedef float v8f __attribute__((vector_size(32), aligned(4), may_alias));
typedef u32 v8u __attribute__((vector_size(32), aligned(4), may_alias));
typedef u16 v8h __attribute__((vector_size(16), aligned(2), may_alias));

AIMILLS_HD v8f load8(const float* p) { return *reinterpret_cast<const v8f*>(p); }
AIMILLS_HD void store8(float* p, v8f v) { *reinterpret_cast<v8f*>(p) = v; }
AIMILLS_HD v8f splat(float x) { return v8f{x, x, x, x, x, x, x, x}; }

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
                         ConvertFn convert, const Scratch& s) {
  const int begin = down.begin[band.row_begin], end = down.end[band.row_end - 1];
  int active = band.row_begin;  // the first output row that a later chunk still reaches
  for (int chunk = begin; chunk < end; chunk += kChunkRows) {
    const int chunk_end = smaller(chunk + kChunkRows, end);
    while (down.end[active] <= chunk) ++active;
    if (down.begin[active] >= chunk_end) continue;  // windows with gaps between them
    convert(p, band.frame, chunk, chunk_end, col, s.chunk);
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
    if constexpr (kDtype == kF16) {
      const __m128i half = _mm256_cvtps_ph(reinterpret_cast<__m256&>(x), _MM_FROUND_TO_NEAREST_INT);
      __builtin_memcpy(static_cast<u16*>(out) + at, &half, 16);
      return;
    }
#endif
    for (int i = 0; i < 8; ++i) store_as(out, at + i, kDtype, x[i]);
  }
}

template <int kSize>
AIMILLS_HD void scatter(const u8* from, u8* to, const i64* place, int count) {
  for (int i = 0; i < count; ++i) {
    __builtin_memcpy(to + place[i] * kSize, from + i * kSize, kSize);
  }
}

// One channel of `count` columns of `rows` rows, normalised; `at` is where the frame's channel
// starts, `down` and `across` are the places of the rows and the columns.
template <int kDtype>
AIMILLS_HD void store_rows(const Params& p, int channel, const v8f* level, i64 at, const i64* down,
                           const i64* across, int rows, int count) {
  const v8f hi = splat(p.mean_hi[channel]), lo = splat(p.mean_lo[channel]);
  const v8f scale = splat(p.scale[channel]);
  constexpr int size = bytes_of(kDtype);
  // A step back inside a patch does not make up for a step to the next one.
  const bool adjacent = count == 8 && across[7] - across[0] == 7;
  for (int r = 0; r < rows; ++r) {
    const v8f x = (level[r] - hi - lo) * scale;
    const i64 row = at + down[r];
    if (adjacent) {
      store_vector<kDtype>(p.out, row + across[0], x);
    } else {
      alignas(32) u8 stored[8 * size];
      store_vector<kDtype>(stored, 0, x);
      scatter<size>(stored, static_cast<u8*>(p.out) + row * size, across, count);
    }
  }
}

AIMILLS_HD v8f to_levels(v8f x) {
  const v8f zero = splat(0.0f), top = splat(255.0f), magic = splat(12582912.0f);
  x = x > zero ? x : zero;
  x = x < top ? x : top;
  return (x + magic) - magic;
}

AIMILLS_HD void store_group(const Params& p, int channel, const v8f* level, i64 at, const i64* down,
                            const i64* across, int rows, int count) {
  switch (p.dtype) {
    case kBf16:
      return store_rows<kBf16>(p, channel, level, at, down, across, rows, count);
    case kF16:
      return store_rows<kF16>(p, channel, level, at, down, across, rows, count);
    case kF32:
      return store_rows<kF32>(p, channel, level, at, down, across, rows, count);
    case kU8:
      return store_rows<kU8>(p, channel, level, at, down, across, rows, count);
    default:
      return store_rows<kE4m3>(p, channel, level, at, down, across, rows, count);
  }
}

// Outputs [x, x + count) of eight rows (`rows` of them exist), `columns` starting at source column
// `first`; `at` and `down` are the places of the frame, which is stored `copies` times, and of its
// rows.
__attribute__((noinline)) static void filter_columns(const Params& p, const AxisTable& across,
                                                     const float* columns, i64 capacity, int first,
                                                     const i64* down, i64 at, int copies, int rows,
                                                     int x, int count) {
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
    for (int copy = 0; copy < copies; ++copy) {
      store_group(p, c, level[c], at + copy * p.time.pixel + c * p.channel, down, across.place + x,
                  rows, count);
    }
  }
}

// Output columns [x, x_end) of a group of rows, which it will write a few bytes at a time.
AIMILLS_HD void prefetch_outputs(const Params& p, const AxisTable& across, const i64* down, i64 at,
                                 int rows, int x, int x_end) {
  if (x == x_end) return;
  const i64 size = bytes_of(p.dtype), span = across.place[x_end - 1] - across.place[x];
  if (span != x_end - x - 1) return;  // scattered
  for (int c = 0; c < 3; ++c) {
    for (int r = 0; r < rows; ++r) {
      const i64 first = at + c * p.channel + down[r] + across.place[x];
      const u8* line = static_cast<const u8*>(p.out) + first * size;
      for (i64 i = 0; i <= span * size; i += 64) __builtin_prefetch(line + i, 1);
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
  const ConvertFn convert = convert_of(p);
  const int width = p.left + p.crop_width, out_width = p.across.count;
  const i64 frame = place_of_frame(p, band.frame);
  const int copies = copies_of_frame(p, band.frame);
  const int rows = band.row_end - band.row_begin;
  const i64 capacity = s.column_capacity;
  int x = 0, first = 0;  // the next output column; the source column at the start of `columns`
  for (int col = 0; col < width && x < out_width; col += kStripCols) {
    const int ready = smaller(col + kStripCols, width);
    if (ready <= across.begin[x]) {
      first = ready;
      continue;
    }
    filter_strip(p, down, band, col, convert, s);
    int x_end = x;
    while (x_end < out_width && across.end[x_end] <= ready) ++x_end;
    const int keep = x_end < out_width ? smaller(across.begin[x_end], ready) : ready;
    for (int g = 0; g < rows; g += kGroupRows) {
      float* columns = s.columns + i64(g) * 3 * capacity;
      const int group_rows = smaller(rows - g, kGroupRows);
      const i64* places = down.place + band.row_begin + g;
      prefetch_outputs(p, across, places, frame, group_rows, x, x_end);
      transpose_group(s.strip + i64(g) * 3 * kStripCols, columns, capacity, col - first);
      for (int at = x; at < x_end; at += 8) {
        const int count = smaller(x_end - at, 8);
        filter_columns(p, across, columns, capacity, first, places, frame, copies, group_rows, at,
                       count);
      }
      keep_columns(columns, capacity, keep - first, ready - keep);
    }
    x = x_end;
    first = keep;
  }
}

}  // namespace
}  // namespace aimills::video
