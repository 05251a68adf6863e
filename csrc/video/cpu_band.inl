// The CPU kernel, included by one source file per instruction set.
//
// A band of output rows walks over the frame in strips of 64 source columns. In a strip: source
// rows are converted to RGB levels in chunks that stay in L1, filtered along the rows into
// `strip`, transposed so that a vector holds one column of eight output rows, and filtered along
// the columns. Each source pixel is converted once per band.

#pragma once

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

// out[kChannels][64] += the weighted rows of a chunk; one channel's 64 columns are held in
// registers.
template <int kChannels>
__attribute__((noinline)) static void filter_rows(const float* chunk, const float* weights,
                                                  int rows, bool first, float* __restrict out) {
  for (int c = 0; c < kChannels; ++c, chunk += kStripCols, out += kStripCols) {
    v8f sum[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sum[i] = first ? splat(0.0f) : load8(out + 8 * i);
    for (int r = 0; r < rows; ++r) {
      const v8f w = splat(weights[r]);
      const float* row = chunk + r * kChannels * kStripCols;
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sum[i] += w * load8(row + 8 * i);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) store8(out + 8 * i, sum[i]);
  }
}

// All rows of the band for the strip at column `col`, from the source to `strip`.
template <class Work>
static void filter_strip(const Work& work, const AxisTable& down, const Band& band, int col,
                         const Scratch& s) {
  constexpr int kRow = Work::kChannels * kStripCols;
  const int begin = down.begin[band.row_begin], end = down.end[band.row_end - 1];
  int active = band.row_begin;  // the first output row that a later chunk still reaches
  for (int chunk = begin; chunk < end; chunk += kChunkRows) {
    const int chunk_end = smaller(chunk + kChunkRows, end);
    while (down.end[active] <= chunk) ++active;
    if (down.begin[active] >= chunk_end) continue;  // windows with gaps between them
    work.load(chunk, chunk_end, col, s.chunk);
    for (int i = active; i < band.row_end && down.begin[i] < chunk_end; ++i) {
      const int from = larger(down.begin[i], chunk), to = smaller(down.end[i], chunk_end);
      const float* weights = down.weights + i64(i) * down.taps + (from - down.begin[i]);
      filter_rows<Work::kChannels>(s.chunk + (from - chunk) * kRow, weights, to - from,
                                   from == down.begin[i], s.strip + i64(i - band.row_begin) * kRow);
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

// Eight rows of `strip` into [kChannels][capacity][8] at column `at`. Where they are `kSplit` even
// columns come before odd ones.
template <int kChannels, bool kSplit>
__attribute__((noinline)) static void transpose_group(const float* strip, float* __restrict columns,
                                                      i64 capacity, int at) {
  constexpr int kStep = kSplit ? 2 : 1;
  for (int c = 0; c < kChannels; ++c) {
    float* to = columns + (c * capacity + at) * 8;
    for (int i = 0; i < kStripCols; i += 8) {
      v8f m[8];
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) m[r] = load8(strip + (r * kChannels + c) * kStripCols + i);
      transpose8(m);
      const int col = !kSplit ? i : i < kPairs ? 2 * i : 2 * (i - kPairs) + 1;
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) store8(to + (col + kStep * k) * 8, m[k]);
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

// Weighted sums of output `i`, of eight rows; `columns` start at source column `first`.
template <int kChannels>
AIMILLS_HD void sum_columns(const AxisTable& across, const float* columns, int first, int i,
                            v8f (&sum)[kChannels]) {
  const i64 plane = i64(column_capacity(across)) * 8;
  const float* from = columns + i64(across.begin[i] - first) * 8;
  const float* weights = across.weights + i64(i) * across.taps;
#pragma GCC unroll 3
  for (int c = 0; c < kChannels; ++c) sum[c] = splat(0.0f);
  // Past the window weights are zero and columns are finite.
  for (int t = across.end[i] - across.begin[i]; t > 0; t -= kUnroll) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; ++k, from += 8) {
      const v8f w = splat(*weights++);
#pragma GCC unroll 3
      for (int c = 0; c < kChannels; ++c) sum[c] += w * load8(from + c * plane);
    }
  }
}

// Where a group of eight rows is stored, of which `rows` exist: the places of the frame, which is
// stored `copies` times, and of the rows.
struct Group {
  const i64* down;
  i64 at;
  int copies, rows;
};

// Levels of `count` columns whose places are `across`; `level` is transposed in place.
AIMILLS_HD void store_columns(const Params& p, const Group& group, v8f (&level)[3][8],
                              const i64* across, int count) {
  for (int c = 0; c < 3; ++c) {
    transpose8(level[c]);
    for (int copy = 0; copy < group.copies; ++copy) {
      store_group(p, c, level[c], group.at + copy * p.time.pixel + c * p.channel, group.down,
                  across, group.rows, count);
    }
  }
}

// Output columns [x, x_end) of a group of rows, which it will write a few bytes at a time.
AIMILLS_HD void prefetch_outputs(const Params& p, const AxisTable& across, const Group& group,
                                 int x, int x_end) {
  if (x == x_end) return;
  const i64 size = bytes_of(p.dtype), span = across.place[x_end - 1] - across.place[x];
  if (span != x_end - x - 1) return;  // scattered
  for (int c = 0; c < 3; ++c) {
    for (int r = 0; r < group.rows; ++r) {
      const i64 first = group.at + c * p.channel + group.down[r] + across.place[x];
      const u8* line = static_cast<const u8*>(p.out) + first * size;
      for (i64 i = 0; i <= span * size; i += 64) __builtin_prefetch(line + i, 1);
    }
  }
}

template <int kChannels>
AIMILLS_HD void keep_columns(float* columns, i64 capacity, int from, int count) {
  for (int c = 0; c < kChannels; ++c) {
    float* plane = columns + c * capacity * 8;
    if (from > 0) __builtin_memmove(plane, plane + i64(from) * 8, i64(count) * 8 * sizeof(float));
  }
}

// ---- a band

// Strips of the columns up to `width`. `work` says what is in them and takes the columns of each
// group of rows, in which those of outputs [x, x_end) are whole.
template <class Work>
static void walk_strips(const Params& p, const AxisTables& tables, const Band& band, int width,
                        const Work& work, const Scratch& s) {
  constexpr int kChannels = Work::kChannels;
  const AxisTable& across = tables.across;
  const int out_width = cols_of(p), rows = band.row_end - band.row_begin;
  const i64 capacity = column_capacity(across);
  int x = 0, first = 0;  // the next output column; the source column at the start of `columns`
  for (int col = 0; col < width && x < out_width; col += kStripCols) {
    const int ready = smaller(col + kStripCols, width);
    if (ready <= across.begin[x]) {
      first = ready;
      continue;
    }
    filter_strip(work, tables.down, band, col, s);
    int x_end = x;
    while (x_end < out_width && across.end[x_end] <= ready) ++x_end;
    const int keep = x_end < out_width ? smaller(across.begin[x_end], ready) : ready;
    for (int g = 0; g < rows; g += kGroupRows) {
      float* columns = s.columns + i64(g) * kChannels * capacity;
      work.expect(g, x, x_end);
      transpose_group<kChannels, Work::kSplit>(s.strip + i64(g) * kChannels * kStripCols, columns,
                                               capacity, col - first);
      work.take(g, columns, first, x, x_end);
      keep_columns<kChannels>(columns, capacity, keep - first, ready - keep);
    }
    x = x_end;
    first = keep;
  }
}

// How the rows of a band from the `g`-th on are stored.
AIMILLS_HD Group group_of(const Params& p, const AxisTable& down, const Band& band, int g) {
  return {down.place + band.row_begin + g, place_of_frame(p, band.frame),
          copies_of_frame(p, band.frame), smaller(band.row_end - band.row_begin - g, kGroupRows)};
}

// Outputs [x, x + count) of a group of rows.
__attribute__((noinline)) static void finish_pixels(const Params& p, const Group& group,
                                                    const AxisTable& across, const float* columns,
                                                    int first, int x, int count) {
  v8f level[3][8];
  for (int k = 0; k < 8; ++k) {
    if (k >= count) {
      for (int c = 0; c < 3; ++c) level[c][k] = level[c][k - 1];
      continue;
    }
    v8f sum[3];
    sum_columns<3>(across, columns, first, x + k, sum);
    for (int c = 0; c < 3; ++c) level[c][k] = to_levels(sum[c]);
  }
  store_columns(p, group, level, across.place + x, count);
}

// RGB levels, which the filter takes to levels.
struct PixelWork {
  static constexpr int kChannels = 3;
  static constexpr bool kSplit = true;
  const Params& p;
  const AxisTables& tables;
  const Band& band;
  ConvertFn convert;

  void load(int begin, int end, int col, float* chunk) const {
    convert(p, band.frame, begin, end, col, chunk);
  }

  void expect(int g, int x, int x_end) const {
    prefetch_outputs(p, tables.across, group_of(p, tables.down, band, g), x, x_end);
  }

  void take(int g, const float* columns, int first, int x, int x_end) const {
    const Group group = group_of(p, tables.down, band, g);
    for (int at = x; at < x_end; at += 8) {
      finish_pixels(p, group, tables.across, columns, first, at, smaller(x_end - at, 8));
    }
  }
};

static void run_pixels(const Params& p, const AxisTables& tables, const Band& band,
                       const Scratch& s) {
  const PixelWork work{p, tables, band, convert_of(p)};
  walk_strips(p, tables, band, p.left + p.crop_width, work, s);
}

}  // namespace
}  // namespace aimills::video
