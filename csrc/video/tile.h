#pragma once
// One output tile of one frame, as phases that a block of kThreads threads runs between barriers.
//
// Nothing is read from tables or scratch in global memory, so a launch allocates nothing and a CUDA
// graph captures it. The phases are plain functions of the thread index: the same code runs on the
// host in tests (emulate.cpp), one thread after the other.
//
//   for each part (samples that are filtered alike: all, or luma and then chroma):
//     begin_part | for each chunk of source rows: for each chunk of source columns:
//       load_phase (levels and column weights to shared memory) | across_phase
//     | down_phase (into registers) ... end_part
//   finish_tile

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

template <class Value>  // of 32 bits
struct Shared {
  Window* columns;  // [kMaxTileCols]
  Window* rows;     // [kTileRows]
  Value* down;      // [kTileRows][kChunkRows] weights of this chunk's rows
  Value* across;    // [kChunkRows][tile_cols][4]: sums of r, g, b and of the weights
  u32* levels;      // [kChunkRows][chunk_cols]: r | g << 8 | b << 16
  Value* weights;   // [taps][tile_cols]
};

// How the output is cut; the same for all blocks, and for chroma, whose windows and footprints are
// no longer than luma's.
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
  const Axis across = across_axis(p);
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
  t.tiles_x = static_cast<int>(ceil_div(cols_of(p), t.tile_cols));
  t.tiles_y = static_cast<int>(ceil_div(rows_of(p), kTileRows));
  t.total = p.frames * t.tiles_y * t.tiles_x;
  return t;
}

template <class Value>
AIMILLS_HD Shared<Value> shared_of(const Tiling& t, u32* words) {
  Shared<Value> s;
  s.across = reinterpret_cast<Value*>(words);  // first: it is read 16 bytes at a time
  s.down = s.across + kAcrossWords;
  s.columns = reinterpret_cast<Window*>(s.down + kDownWords);
  s.rows = s.columns + kMaxTileCols;
  s.levels = words + kAcrossWords + kDownWords + kWindowWords;
  s.weights = reinterpret_cast<Value*>(s.levels + kChunkRows * t.chunk_cols);
  return s;
}

struct Tile {
  i64 frame;
  int out_row, out_col;  // of the whole resized picture
};

AIMILLS_HD Tile tile_of(const Params& p, const Tiling& t, i64 i) {
  const i64 tile_row = i / t.tiles_x, frame = tile_row / t.tiles_y;
  return {frame, p.first_row + static_cast<int>(tile_row - frame * t.tiles_y) * kTileRows,
          p.first_col + static_cast<int>(i - tile_row * t.tiles_x) * t.tile_cols};
}

// Where the block is: its tile, and the chunk of source rows and columns in shared memory.
struct Place : Tile {
  int row_begin, row_end;  // source rows of the tile
  int col_begin, col_end;
  int row, rows;  // of the chunk
  int col, cols;
};

template <class Value>
struct ThreadState {
  Value sum[kOutputsPerThread][4];  // of three channels, and of the weights
};

template <class Part>
using SharedOf = Shared<typename Part::Value>;
template <class Part>
using StateOf = ThreadState<typename Part::Value>;

template <class Part>
AIMILLS_HD Place place_of(const Params& p, const Tiling& t, const Tile& tile) {
  Place at{};
  static_cast<Tile&>(at) = tile;
  const auto down = Part::down(p);
  const auto across = Part::across(p);
  at.row_begin = window_of(down, at.out_row).begin;
  at.row_end = window_of(down, smaller<i64>(at.out_row + kTileRows, p.down.end) - 1).end;
  at.col_begin = window_of(across, at.out_col).begin & ~1;
  at.col_end = window_of(across, smaller<i64>(at.out_col + t.tile_cols, p.across.end) - 1).end;
  return at;
}

template <class Part>
AIMILLS_HD void begin_part(const Params& p, const Tiling& t, const Place& at,
                           const SharedOf<Part>& s, int tid, StateOf<Part>& state) {
  const auto down = Part::down(p);
  const auto across = Part::across(p);
  if (tid < kTileRows) {
    s.rows[tid] = window_of(down, smaller<i64>(at.out_row + tid, p.down.end - 1));
  } else if (tid < kTileRows + t.tile_cols) {
    const int c = tid - kTileRows;
    s.columns[c] = window_of(across, smaller<i64>(at.out_col + c, p.across.end - 1));
  }
  for (auto& sum : state.sum) {
    for (int c = 0; c < Part::kChannels; ++c) sum[Part::kFirst + c] = 0;
    sum[3] = 0;
  }
}

// ---- levels and weights into shared memory

template <class Part>
AIMILLS_HD void load_weights(const Params& p, const Tiling& t, const Place& at,
                             const SharedOf<Part>& s, int tid) {
  const auto across = Part::across(p);
  for (int i = tid; i < t.taps * t.tile_cols; i += kThreads) {
    read_anew();
    const int c = i % t.tile_cols, tap = i / t.tile_cols;
    const Window window = s.columns[c];
    const int j = larger(window.begin, at.col) + tap;
    s.weights[i] = j < window.end ? weight_of(across, at.out_col + c, j) : 0;
  }
}

template <class Part>
AIMILLS_HD void load_phase(const Params& p, const Tiling& t, const Place& at,
                           const SharedOf<Part>& s, int tid) {
  const int pairs = t.chunk_cols / 2;
  for (int i = tid; i < at.rows * pairs; i += kThreads) {
    read_anew();
    const int row = i / pairs, col = 2 * (i % pairs);
    if (col < at.cols) {
      Part::load_pair(p, at.frame, at.row + row, at.col + col, s.levels + row * t.chunk_cols + col);
    }
  }
  if (!t.one_chunk || at.row == at.row_begin) load_weights<Part>(p, t, at, s, tid);
}

// ---- the two filters

template <class Part>
AIMILLS_HD void across_phase(const Params& p, const Tiling& t, const Place& at,
                             const SharedOf<Part>& s, int tid) {
  using Value = typename Part::Value;
  const auto down = Part::down(p);
  if (tid < kDownWords) {
    const int r = tid / kChunkRows, j = at.row + tid % kChunkRows;
    const Window window = s.rows[r];
    const bool inside = j >= window.begin && j < window.end;
    s.down[tid] = inside ? weight_of(down, smaller<i64>(at.out_row + r, p.down.end - 1), j) : 0;
  }
  if (tid >= at.rows * t.tile_cols) return;
  const int c = tid % t.tile_cols, row = tid / t.tile_cols;
  const Window window = s.columns[c];
  const int begin = larger(window.begin, at.col), end = smaller(window.end, at.col + at.cols);
  const u32* levels = s.levels + row * t.chunk_cols - at.col;
  const Value* weights = s.weights + c;
  Value* sums = s.across + tid * 4;
  Value sum[Part::kChannels] = {}, total = 0;
  for (int j = begin; j < end; ++j, weights += t.tile_cols) {
    const u32 word = levels[j];
    const Value w = *weights;
    AIMILLS_UNROLLED
    for (int c = 0; c < Part::kChannels; ++c) {
      sum[c] += w * static_cast<Value>(Part::channel(word, c));
    }
    total += w;
  }
  const bool first = at.col == at.col_begin;
  AIMILLS_UNROLLED
  for (int c = 0; c < Part::kChannels; ++c) sums[c] = first ? sum[c] : sums[c] + sum[c];
  sums[3] = first ? total : sums[3] + total;
  if (at.col + at.cols == at.col_end) Part::end_row(sums);
}

template <class Part>
AIMILLS_HD void down_phase(const Tiling& t, const Place& at, const SharedOf<Part>& s, int tid,
                           StateOf<Part>& state) {
  using Value = typename Part::Value;
  AIMILLS_UNROLLED
  for (int k = 0; k < kOutputsPerThread; ++k) {
    const int i = tid + k * kThreads;
    const int c = i % t.tile_cols, r = i / t.tile_cols;
    if (r >= kTileRows) return;
    Value* sum = state.sum[k];
    for (int row = 0; row < at.rows; ++row) {
      const Value w = s.down[r * kChunkRows + row];
      const Value* across = s.across + (row * t.tile_cols + c) * 4;
      const Value scale = Part::scaled(w, across);
      AIMILLS_UNROLLED
      for (int c = 0; c < Part::kChannels; ++c) sum[Part::kFirst + c] += scale * across[c];
      sum[3] += w;
    }
  }
}

// Sums of the part to values.
template <class Part>
AIMILLS_HD void end_part(StateOf<Part>& state) {
  for (auto& sum : state.sum) {
    AIMILLS_UNROLLED
    for (int c = 0; c < Part::kChannels; ++c) {
      sum[Part::kFirst + c] = Part::mean(sum[Part::kFirst + c], sum[3]);
    }
  }
}

template <class Loader>
AIMILLS_HD void finish_tile(const Params& p, const Tiling& t, const Tile& at, int tid,
                            const StateOf<Loader>& state) {
  const i64 frame = place_of_frame(p, at.frame);
  const int copies = copies_of_frame(p, at.frame);
  AIMILLS_UNROLLED
  for (int k = 0; k < kOutputsPerThread; ++k) {
    const int i = tid + k * kThreads;
    const int col = at.out_col + i % t.tile_cols, row = at.out_row + i / t.tile_cols;
    if (i / t.tile_cols >= kTileRows || col >= p.across.end || row >= p.down.end) continue;
    const i64 place = frame + place_of_sample(p.down, row) + place_of_sample(p.across, col);
    AIMILLS_UNROLLED
    for (int c = 0; c < 3; ++c) {
      const float level = to_level(Loader::level(p, state.sum[k], c));
      const float x = normalize(p, c, level);
      AIMILLS_ROLLED
      for (int copy = 0; copy < copies; ++copy) {
        store_as(p.out, place + copy * p.time.pixel + c * p.channel, p.dtype, x);
      }
    }
  }
}

// Around the pictures, in turns of all threads of the grid.
AIMILLS_HD void pad_phase(const Params& p, i64 first, i64 stride) {
  const i64 items = pad_items(p);
  for (i64 i = first; i < items; i += stride) fill_pad(p, i);
}

}  // namespace aimills::video
