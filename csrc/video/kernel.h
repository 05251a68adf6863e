#pragma once
// What a block does, for the kernels of one clip and of several.

#include "video/tile.h"

namespace aimills::video {

// One of any number of `blocks`, which take tiles in turns. Left alone, ptxas 13.0 and 13.5 spill a
// few registers to fit a third or fourth block on an SM.
template <class Loader>
static __device__ __forceinline__ void run_blocks(const Params& p, i64 block, i64 blocks) {
  __shared__ __align__(16) u32 words[kSharedWords];
  const Tiling t = tiling_of(p);
  const Shared s = shared_of(t, words);
  const int tid = static_cast<int>(threadIdx.x);
  for (i64 tile = block; tile < t.total; tile += blocks) {
    Place at = place_of(p, t, tile);
    ThreadState state;
    begin_tile(p, t, at, s, tid, state);
    __syncthreads();
    for (at.row = at.row_begin; at.row < at.row_end; at.row += kChunkRows) {
      at.rows = smaller(at.row_end - at.row, kChunkRows);
      for (at.col = at.col_begin; at.col < at.col_end; at.col += t.chunk_cols) {
        at.cols = smaller(at.col_end - at.col, t.chunk_cols);
        load_phase<Loader>(p, t, at, s, tid);
        __syncthreads();
        across_phase(p, t, at, s, tid);
        __syncthreads();
      }
      down_phase(t, at, s, tid, state);
    }
    finish_tile(p, t, at, tid, state);
    __syncthreads();
  }
  pad_phase(p, block * kThreads + tid, blocks * kThreads);
}

}  // namespace aimills::video
