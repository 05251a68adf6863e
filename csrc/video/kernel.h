#pragma once
// What a block does, for the kernels of one clip and of several.

#include "video/tile.h"

namespace aimills::video {

constexpr int kParamWords = sizeof(Params) / sizeof(u32);

template <class Part>
static __device__ __forceinline__ void run_part(const Params& p, const Tiling& t, const Tile& tile,
                                                const SharedOf<Part>& s, int tid,
                                                StateOf<Part>& state) {
  Place at = place_of<Part>(p, t, tile);
  begin_part<Part>(p, t, at, s, tid, state);
  __syncthreads();
  for (at.row = at.row_begin; at.row < at.row_end; at.row += kChunkRows) {
    at.rows = smaller(at.row_end - at.row, kChunkRows);
    for (at.col = at.col_begin; at.col < at.col_end; at.col += t.chunk_cols) {
      at.cols = smaller(at.col_end - at.col, t.chunk_cols);
      load_phase<Part>(p, t, at, s, tid);
      __syncthreads();
      across_phase<Part>(p, t, at, s, tid);
      __syncthreads();
    }
    down_phase<Part>(t, at, s, tid, state);
  }
  end_part<Part>(state);
}

// The loader says by its type what parts there are.
template <class Loader>
static __device__ __forceinline__ void run_parts(Loader, const Params& p, const Tiling& t,
                                                 const Tile& tile, const SharedOf<Loader>& s,
                                                 int tid, StateOf<Loader>& state) {
  run_part<Loader>(p, t, tile, s, tid, state);
}

template <class Kind>
static __device__ __forceinline__ void run_parts(Planes<Kind>, const Params& p, const Tiling& t,
                                                 const Tile& tile, const Shared<float>& s, int tid,
                                                 ThreadState<float>& state) {
  run_part<Luma<Kind>>(p, t, tile, s, tid, state);
  run_part<Chroma<Kind>>(p, t, tile, s, tid, state);
}

template <class Loader>
static __device__ __forceinline__ void turn_own(Loader, Params&, const Params&) {}

// The loader says by its type whether there are pictures to turn. `p` is asked, since another
// warp's look at `own` would race.
template <class Loader>
static __device__ __forceinline__ void turn_own(Pil<Loader>, Params& own, const Params& p) {
  if (threadIdx.x == 0 && p.passes == kPilDown) turn(own);
  __syncthreads();
}

// Copies parameters to a block's own, where they can be changed.
template <class Loader>
static __device__ __forceinline__ void own_params(Loader loader, Params& own, const Params& p) {
  const u32* from = reinterpret_cast<const u32*>(&p);
  for (int i = static_cast<int>(threadIdx.x); i < kParamWords; i += kThreads) {
    reinterpret_cast<u32*>(&own)[i] = from[i];
  }
  __syncthreads();
  turn_own(loader, own, p);
}

// One of any number of `blocks`, which take tiles in turns. Left alone, ptxas 13.0 and 13.5 spill a
// few registers to fit a third or fourth block on an SM.
template <class Loader>
static __device__ __forceinline__ void run_blocks(const Params& p, i64 block, i64 blocks) {
  __shared__ __align__(16) u32 words[kSharedWords];
  const Tiling t = tiling_of(p);
  const auto s = shared_of<typename Loader::Value>(t, words);
  const int tid = static_cast<int>(threadIdx.x);
  for (i64 i = block; i < t.total; i += blocks) {
    const Tile tile = tile_of(p, t, i);
    StateOf<Loader> state;
    run_parts(Loader{}, p, t, tile, s, tid, state);
    finish_tile<Loader>(p, t, tile, tid, state);
    __syncthreads();
  }
  pad_phase(p, block * kThreads + tid, blocks * kThreads);
}

// Of one clip: parameters stay where a launch puts them, save those that may be turned.
template <class Loader>
static __device__ __forceinline__ void run_clip(Loader, const Params& p) {
  run_blocks<Loader>(p, blockIdx.x, gridDim.x);
}

template <class Loader>
static __device__ __forceinline__ void run_clip(Pil<Loader> loader, const Params& p) {
  __shared__ Params own;
  own_params(loader, own, p);
  run_blocks<Pil<Loader>>(own, blockIdx.x, gridDim.x);
}

}  // namespace aimills::video
