// The mode "fast" on the CPU: first U and V of a band, then Y, which meets what became of them in
// the colour matrix. Included once by each source file of an instruction set.

#include "video/cpu_band.inl"

namespace aimills::video {
namespace {

// ---- codes of a strip as floats, rows [begin, end), in order; columns past the edge repeat the
// last one

template <class T>
AIMILLS_HD void spread(const T* __restrict row, int shift, float* __restrict out) {
  for (int i = 0; i < kStripCols; ++i) out[i] = static_cast<float>(row[i] >> shift);
}

template <class T>
AIMILLS_HD void gather(const Plane& plane, i64 frame, int row, int col, int width, int shift,
                       float* out) {
  const u8* samples = plane.data + frame * plane.frame + row * plane.row;
  for (int i = 0; i < kStripCols; ++i) {
    const int at = smaller(col + i, width - 1);
    out[i] = static_cast<float>(code_at<T>(samples, plane.col, at, shift));
  }
}

template <class T>
__attribute__((noinline)) static void load_luma_codes(const Params& p, i64 frame, int begin,
                                                      int end, int col, float* chunk) {
  const Plane& y = p.planes[0];
  const bool inside = col + kStripCols <= p.width && y.col == sizeof(T);
  for (int row = begin; row < end; ++row, chunk += kStripCols) {
    if (!inside) {
      gather<T>(y, frame, row, col, p.width, p.shift, chunk);
      continue;
    }
    const u8* samples = y.data + frame * y.frame + row * y.row + i64(col) * sizeof(T);
    for (unsigned i = 0; i < sizeof(T); ++i) {
      __builtin_prefetch(samples + kChunkRows * y.row + 64 * i);
    }
    spread(reinterpret_cast<const T*>(samples), p.shift, chunk);
  }
}

// Samples whose U and V are neighbours, the first of which is `pair`.
template <class T>
AIMILLS_HD void split_pairs(const u8* pairs, int shift, float* __restrict low,
                            float* __restrict high) {
  constexpr int bits = 8 * sizeof(T);
  for (int i = 0; i < kStripCols; ++i) {
    const u32 pair = load_luma(reinterpret_cast<const T*>(pairs), i);
    low[i] = static_cast<float>(static_cast<int>((pair & ((1u << bits) - 1u)) >> shift));
    high[i] = static_cast<float>(static_cast<int>(pair >> bits >> shift));
  }
}

template <class T>
__attribute__((noinline)) static void load_chroma_codes(const Params& p, i64 frame, int begin,
                                                        int end, int col, int width, float* chunk) {
  constexpr int size = sizeof(T);
  const Plane &u = p.planes[1], &v = p.planes[2];
  const bool inside = col + kStripCols <= width, swapped = v.data < u.data;
  const Plane& first = swapped ? v : u;
  const i64 apart = swapped ? u.data - v.data : v.data - u.data;
  const bool pairs = inside && apart == size && u.col == 2 * size && v.col == 2 * size &&
                     u.row == v.row && u.frame == v.frame;
  const bool apiece = inside && u.col == size && v.col == size;
  for (int row = begin; row < end; ++row, chunk += 2 * kStripCols) {
    float *blue = chunk, *red = chunk + kStripCols;
    if (pairs) {
      const u8* samples = first.data + frame * first.frame + row * first.row + 2 * i64(col) * size;
      for (int i = 0; i < 2 * size; ++i) {
        __builtin_prefetch(samples + kChunkRows * first.row + 64 * i);
      }
      split_pairs<T>(samples, p.shift, swapped ? red : blue, swapped ? blue : red);
    } else if (apiece) {
      const u8* from_u = u.data + frame * u.frame + row * u.row + i64(col) * size;
      const u8* from_v = v.data + frame * v.frame + row * v.row + i64(col) * size;
      __builtin_prefetch(from_u + kChunkRows * u.row);
      __builtin_prefetch(from_v + kChunkRows * v.row);
      spread(reinterpret_cast<const T*>(from_u), p.shift, blue);
      spread(reinterpret_cast<const T*>(from_v), p.shift, red);
    } else {
      gather<T>(u, frame, row, col, width, p.shift, blue);
      gather<T>(v, frame, row, col, width, p.shift, red);
    }
  }
}

// ---- chroma

// [outputs][2][8] of a group of rows.
__attribute__((noinline)) static void finish_chroma(const AxisTable& across, const float* columns,
                                                    int first, int x, int x_end,
                                                    float* __restrict out) {
  for (int i = x; i < x_end; ++i) {
    v8f sum[2];
    sum_columns<2>(across, columns, first, i, sum);
    store8(out + i64(i) * 16, sum[0]);
    store8(out + i64(i) * 16 + 8, sum[1]);
  }
}

struct ChromaWork {
  static constexpr int kChannels = 2;
  static constexpr bool kSplit = false;
  const Params& p;
  const AxisTables& tables;
  const Band& band;
  int width;
  float* out;

  void load(int begin, int end, int col, float* chunk) const {
    if (is_wide(p.source)) {
      load_chroma_codes<u16>(p, band.frame, begin, end, col, width, chunk);
    } else {
      load_chroma_codes<u8>(p, band.frame, begin, end, col, width, chunk);
    }
  }

  void expect(int, int, int) const {}

  void take(int g, const float* columns, int first, int x, int x_end) const {
    finish_chroma(tables.across, columns, first, x, x_end, out + i64(g) * cols_of(p) * 2);
  }
};

// ---- luma, and all that follows

__attribute__((noinline)) static void finish_luma(const Params& p, const Group& group,
                                                  const AxisTable& across, const float* columns,
                                                  int first, int x, int count,
                                                  const float* chroma) {
  v8f level[3][8];
  for (int k = 0; k < 8; ++k) {
    if (k >= count) {
      for (int c = 0; c < 3; ++c) level[c][k] = level[c][k - 1];
      continue;
    }
    v8f y[1];
    sum_columns<1>(across, columns, first, x + k, y);
    const v8f u = load8(chroma + i64(x + k) * 16), v = load8(chroma + i64(x + k) * 16 + 8);
    for (int c = 0; c < 3; ++c) {
      const float* m = p.jitter + 4 * c;
      level[c][k] = to_levels(splat(m[0]) * y[0] + splat(m[1]) * u + splat(m[2]) * v + splat(m[3]));
    }
  }
  store_columns(p, group, level, across.place + x, count);
}

struct LumaWork {
  static constexpr int kChannels = 1;
  static constexpr bool kSplit = false;
  const Params& p;
  const AxisTables& tables;
  const Band& band;
  const float* chroma;

  void load(int begin, int end, int col, float* chunk) const {
    if (is_wide(p.source)) {
      load_luma_codes<u16>(p, band.frame, begin, end, col, chunk);
    } else {
      load_luma_codes<u8>(p, band.frame, begin, end, col, chunk);
    }
  }

  void expect(int g, int x, int x_end) const {
    prefetch_outputs(p, tables.across, group_of(p, tables.down, band, g), x, x_end);
  }

  void take(int g, const float* columns, int first, int x, int x_end) const {
    const Group group = group_of(p, tables.down, band, g);
    for (int at = x; at < x_end; at += 8) {
      finish_luma(p, group, tables.across, columns, first, at, smaller(x_end - at, 8),
                  chroma + i64(g) * cols_of(p) * 2);
    }
  }
};

static void run_planes(const Params& p, const AxisTables& luma, const AxisTables& chroma,
                       const Band& band, const Scratch& s) {
  const int right = p.left + p.crop_width;
  const bool halved = p.source < kYuv444;
  const int width = halved ? (p.width + 1) >> 1 : p.width;
  walk_strips(p, chroma, band, halved ? (right + 1) >> 1 : right,
              ChromaWork{p, chroma, band, width, s.chroma}, s);
  walk_strips(p, luma, band, right, LumaWork{p, luma, band, s.chroma}, s);
}

}  // namespace
}  // namespace aimills::video
