#include "video/tile.h"

namespace aimills::video {

// A grid of any size works: blocks take tiles in turns. Left alone, ptxas 13.0 and 13.5 spill a few
// registers to fit a third or fourth block on an SM.
template <class Loader>
static __device__ __forceinline__ void run(const Params& p) {
  __shared__ __align__(16) u32 words[kSharedWords];
  const Tiling t = tiling_of(p);
  const Shared s = shared_of(t, words);
  const int tid = static_cast<int>(threadIdx.x);
  for (i64 tile = blockIdx.x; tile < t.total; tile += gridDim.x) {
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
  pad_phase(p, static_cast<i64>(blockIdx.x) * kThreads + tid,
            static_cast<i64>(gridDim.x) * kThreads);
}

}  // namespace aimills::video

#if defined(__CUDACC_RTC__)
// One kernel is compiled at a time: AIMILLS_LOADER is its loader.
extern "C" __global__ void __launch_bounds__(aimills::video::kThreads, 2)
    video_to_tensor_kernel(const __grid_constant__ aimills::video::Params p) {
  using namespace aimills::video;
  run<AIMILLS_LOADER>(p);
}
#endif

#if !defined(__CUDACC_RTC__)
#include "video/cuda_video.h"

namespace aimills::video {

template <class Loader>
__global__ void __launch_bounds__(kThreads, 2)
    video_to_tensor_kernel(const __grid_constant__ Params p) {
  run<Loader>(p);
}

cudaError_t launch(const Params& p, cudaStream_t stream) {
  const i64 blocks = smaller<i64>(tiling_of(p).total, 0x7fffffff);
  if (blocks == 0) return cudaSuccess;
  with_loader(p, [&](auto loader) {
    video_to_tensor_kernel<decltype(loader)>
        <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p);
  });
  return cudaGetLastError();
}

}  // namespace aimills::video
#endif
