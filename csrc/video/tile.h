#pragma once
// One output tile of one frame, as phases that a block of kThreads threads runs between barriers.
//
// Nothing is read from tables or scratch in global memory, so a launch allocates nothing and a CUDA
// graph captures it. The phases are plain functions of the thread index: the same code runs on the
// host in tests (emulate.cpp), one thread after the other.
//
//   begin_tile | for each chunk of source rows: for each chunk of source columns:
//     load_phase (levels and column weights to shared memory) | across_phase
//   | down_phase (into registers) ... finish_tile

#include "video/pixel.h"
#include "video/weights.h"

namespace aimills::video {

constexpr int kThreads = 256;
constexpr int kTileRows = 16;
constexpr int kMaxTileCols = 32;
constexpr int kChunkRows = 8;       // source rows per round: one (row, column) pair per thread
constexpr int kSharedWords = 6144;  // 24 KiB: eight blocks per SM from sm_80 on
constexpr int kOutputsPerThread = kTileRows * kMaxTileCols / kThreads;

// Offsets into shared memory, in words.
constexpr int kWindowWords = 2 * (kMaxTileCols + kTileRows);
constexpr int kDownWords = kTileRows * kChunkRows;
constexpr int kAcrossWords = kChunkRows * kMaxTileCols * 4;
constexpr int kWorkWords = kSharedWords - kWindowWords - kDownWords - kAcrossWords;

struct Shared {
  Window* columns;  // [kMaxTileCols]
  Window* rows;     // [kTileRows]
  float* down;      // [kTileRows][kChunkRows] weights of this chunk's rows
  float* across;    // [kChunkRows][tile_cols][4]: sums of r, g, b and of the weights
  u32* levels;      // [kChunkRows][chunk_cols]: r | g << 8 | b << 16
  float* weights;   // [taps][tile_cols]
};

// How the output is cut; the same for all blocks.
struct Tiling {
  int tile_cols;   // a power of two
  int chunk_cols;  // even
  int taps;        // rows of `weights`
  bool one_chunk;  // a tile's source columns fit at once, so its weights are computed once
  int tiles_x, tiles_y;
  i64 total;
};

// Source columns of a tile of `cols` outputs, from an even column to an even column.
AIMILLS_HD i64 footprint(const Axis& across, i64 cols) {
  const i64 span = (cols - 1) * across.in / across.out + 1 + taps_of(across);
  return (smaller(span, across.in) + 3) / 2 * 2;
}

AIMILLS_HD Tiling tiling_of(const Params& p) {
  const Axis across = axis_of(p.width, p.out_width, p.interpolation);
  const i64 taps = taps_of(across);
  Tiling t{kMaxTileCols, 0, 0, true, 0, 0, 0};
  i64 cols = footprint(across, t.tile_cols);
  while (t.tile_cols > 1 && kChunkRows * cols + t.tile_cols * taps > kWorkWords) {
    t.tile_cols /= 2;
    cols = footprint(across, t.tile_cols);
  }
  t.one_chunk = kChunkRows * cols + t.tile_cols * taps <= kWorkWords;
  // Below one_chunk the tile is one column wide and a chunk of n columns takes 8 n + n words.
  t.chunk_cols = static_cast<int>(t.one_chunk ? cols : kWorkWords / (kChunkRows + 1) / 2 * 2);
  t.taps = static_cast<int>(t.one_chunk ? taps : t.chunk_cols);
  t.tiles_x = static_cast<int>(ceil_div(p.out_width, t.tile_cols));
  t.tiles_y = static_cast<int>(ceil_div(p.out_height, kTileRows));
  t.total = p.frames * t.tiles_y * t.tiles_x;
  return t;
}

AIMILLS_HD Shared shared_of(const Tiling& t, u32* words) {
  Shared s;
  s.across = reinterpret_cast<float*>(words);  // first: it is read 16 bytes at a time
  s.down = s.across + kAcrossWords;
  s.columns = reinterpret_cast<Window*>(s.down + kDownWords);
  s.rows = s.columns + kMaxTileCols;
  s.levels = words + kAcrossWords + kDownWords + kWindowWords;
  s.weights = reinterpret_cast<float*>(s.levels + kChunkRows * t.chunk_cols);
  return s;
}

// Where the block is: its tile, and the chunk of source rows and columns in shared memory.
struct Place {
  i64 frame;
  int out_row, out_col;
  int row_begin, row_end;  // source rows of the tile
  int col_begin, col_end;
  int row, rows;  // of the chunk
  int col, cols;
};

struct ThreadState {
  float sum[kOutputsPerThread][4];
};

AIMILLS_HD Place place_of(const Params& p, const Tiling& t, i64 tile) {
  Place at{};
  const i64 tile_row = tile / t.tiles_x;
  at.frame = tile_row / t.tiles_y;
  at.out_col = static_cast<int>(tile - tile_row * t.tiles_x) * t.tile_cols;
  at.out_row = static_cast<int>(tile_row - at.frame * t.tiles_y) * kTileRows;
  const Axis down = axis_of(p.height, p.out_height, p.interpolation);
  const Axis across = axis_of(p.width, p.out_width, p.interpolation);
  at.row_begin = window_of(down, at.out_row).begin;
  at.row_end = window_of(down, smaller<i64>(at.out_row + kTileRows, p.out_height) - 1).end;
  at.col_begin = window_of(across, at.out_col).begin & ~1;
  at.col_end = window_of(across, smaller<i64>(at.out_col + t.tile_cols, p.out_width) - 1).end;
  return at;
}

AIMILLS_HD void begin_tile(const Params& p, const Tiling& t, const Place& at, const Shared& s,
                           int tid, ThreadState& state) {
  const Axis down = axis_of(p.height, p.out_height, p.interpolation);
  const Axis across = axis_of(p.width, p.out_width, p.interpolation);
  if (tid < kTileRows) {
    s.rows[tid] = window_of(down, smaller<i64>(at.out_row + tid, p.out_height - 1));
  } else if (tid < kTileRows + t.tile_cols) {
    const int c = tid - kTileRows;
    s.columns[c] = window_of(across, smaller<i64>(at.out_col + c, p.out_width - 1));
  }
  for (auto& sum : state.sum) sum[0] = sum[1] = sum[2] = sum[3] = 0.0f;
}

// ---- levels and weights into shared memory

struct Chroma {
  int u, v;
};

AIMILLS_HD Chroma blend_rows(const u8* near, const u8* far, const ChromaTaps& taps, int col) {
  const i64 at = 2 * static_cast<i64>(col);
  return {near[at] * taps.near_weight + far[at] * taps.far_weight,
          near[at + 1] * taps.near_weight + far[at + 1] * taps.far_weight};
}

AIMILLS_HD u32 packed_rgb(const Color& color, int y, const Chroma& near, const Chroma& far,
                          int far_weight) {
  const int u = near.u * (4 - far_weight) + far.u * far_weight - 2048;
  const int v = near.v * (4 - far_weight) + far.v * far_weight - 2048;
  const Rgb rgb =
      to_rgb(color, static_cast<float>(y), static_cast<float>(u), static_cast<float>(v));
  return static_cast<u32>(rgb.r) | static_cast<u32>(rgb.g) << 8 | static_cast<u32>(rgb.b) << 16;
}

// Two neighbouring pixels, which share their chroma sample.
AIMILLS_HD void load_pixels(const Params& p, const Color& color, i64 frame, int row, int col,
                            u32* out) {
  const int width = static_cast<int>(p.width), chroma_cols = (width + 1) / 2;
  const auto taps = chroma_row_taps(row, (static_cast<int>(p.height) + 1) / 2, p.chroma_upsampling);
  const auto weights = chroma_column_weights(p.chroma_upsampling, p.chroma_location);
  const u8* luma = p.y + frame * p.y_frame + row * p.y_row;
  const u8* near = p.uv + frame * p.uv_frame + taps.near * p.uv_row;
  const u8* far = p.uv + frame * p.uv_frame + taps.far * p.uv_row;
  const int i = col / 2;
  const Chroma middle = blend_rows(near, far, taps, i);
  const Chroma left = weights.even ? blend_rows(near, far, taps, larger(i - 1, 0)) : middle;
  const Chroma right =
      weights.odd ? blend_rows(near, far, taps, smaller(i + 1, chroma_cols - 1)) : middle;
  out[0] = packed_rgb(color, luma[col], middle, left, weights.even);
  if (col + 1 < width) out[1] = packed_rgb(color, luma[col + 1], middle, right, weights.odd);
}

AIMILLS_HD void load_weights(const Params& p, const Tiling& t, const Place& at, const Shared& s,
                             int tid) {
  const Axis across = axis_of(p.width, p.out_width, p.interpolation);
  for (int i = tid; i < t.taps * t.tile_cols; i += kThreads) {
    const int c = i % t.tile_cols, tap = i / t.tile_cols;
    const Window window = s.columns[c];
    const int j = larger(window.begin, at.col) + tap;
    s.weights[i] = j < window.end ? weight_of(across, at.out_col + c, j) : 0.0f;
  }
}

AIMILLS_HD void load_phase(const Params& p, const Tiling& t, const Place& at, const Shared& s,
                           int tid) {
  const Color color = color_of(p.color_space, p.color_range);
  const int pairs = t.chunk_cols / 2;
  for (int i = tid; i < at.rows * pairs; i += kThreads) {
    const int row = i / pairs, col = 2 * (i % pairs);
    if (col < at.cols) {
      load_pixels(p, color, at.frame, at.row + row, at.col + col,
                  s.levels + row * t.chunk_cols + col);
    }
  }
  if (!t.one_chunk || at.row == at.row_begin) load_weights(p, t, at, s, tid);
}

// ---- the two filters

AIMILLS_HD void across_phase(const Params& p, const Tiling& t, const Place& at, const Shared& s,
                             int tid) {
  const Axis down = axis_of(p.height, p.out_height, p.interpolation);
  if (tid < kDownWords) {
    const int r = tid / kChunkRows, j = at.row + tid % kChunkRows;
    const Window window = s.rows[r];
    const bool inside = j >= window.begin && j < window.end;
    s.down[tid] =
        inside ? weight_of(down, smaller<i64>(at.out_row + r, p.out_height - 1), j) : 0.0f;
  }
  if (tid >= at.rows * t.tile_cols) return;
  const int c = tid % t.tile_cols, row = tid / t.tile_cols;
  const Window window = s.columns[c];
  const int begin = larger(window.begin, at.col), end = smaller(window.end, at.col + at.cols);
  const u32* levels = s.levels + row * t.chunk_cols - at.col;
  const float* weights = s.weights + c;
  float* sums = s.across + tid * 4;
  float r = 0.0f, g = 0.0f, b = 0.0f, total = 0.0f;
  for (int j = begin; j < end; ++j, weights += t.tile_cols) {
    const u32 level = levels[j];
    const float w = *weights;
    r += w * static_cast<float>(level & 255u);
    g += w * static_cast<float>((level >> 8) & 255u);
    b += w * static_cast<float>(level >> 16);
    total += w;
  }
  const bool first = at.col == at.col_begin;
  sums[0] = first ? r : sums[0] + r;
  sums[1] = first ? g : sums[1] + g;
  sums[2] = first ? b : sums[2] + b;
  sums[3] = first ? total : sums[3] + total;
}

AIMILLS_HD void down_phase(const Tiling& t, const Place& at, const Shared& s, int tid,
                           ThreadState& state) {
  for (int k = 0; k < kOutputsPerThread; ++k) {
    const int i = tid + k * kThreads;
    const int c = i % t.tile_cols, r = i / t.tile_cols;
    if (r >= kTileRows) return;
    float* sum = state.sum[k];
    for (int row = 0; row < at.rows; ++row) {
      const float w = s.down[r * kChunkRows + row];
      const float* across = s.across + (row * t.tile_cols + c) * 4;
      const float scale = w / across[3];
      sum[0] += scale * across[0];
      sum[1] += scale * across[1];
      sum[2] += scale * across[2];
      sum[3] += w;
    }
  }
}

AIMILLS_HD void finish_tile(const Params& p, const Tiling& t, const Place& at, int tid,
                            const ThreadState& state) {
  for (int k = 0; k < kOutputsPerThread; ++k) {
    const int i = tid + k * kThreads;
    const int col = at.out_col + i % t.tile_cols, row = at.out_row + i / t.tile_cols;
    if (i / t.tile_cols >= kTileRows || col >= p.out_width || row >= p.out_height) continue;
    for (int c = 0; c < 3; ++c) {
      const float level = to_level(state.sum[k][c] / state.sum[k][3]);
      const i64 index = ((at.frame * 3 + c) * p.out_height + row) * p.out_width + col;
      store_as(p.out, index, p.dtype, normalize(p, c, level));
    }
  }
}

}  // namespace aimills::video
