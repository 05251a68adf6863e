#include "video/batch.h"
#include "video/kernel.h"

namespace aimills::video {

template <class Loader>
static __device__ __forceinline__ void run_batch(const Batch& b) {
  // In shared memory: read from the parameters at a place that varies, it costs more registers than
  // there are.
  __shared__ Params own;
  const int clip = clip_of(b, blockIdx.x);
  own_params(Loader{}, own, b.clips[clip]);
  const i64 first = b.first_block[clip];
  run_blocks<Loader>(own, blockIdx.x - first, b.first_block[clip + 1] - first);
}

}  // namespace aimills::video

#if defined(__CUDACC_RTC__)
// One kernel is compiled at a time: AIMILLS_LOADER is its loader.
extern "C" __global__ void __launch_bounds__(aimills::video::kThreads, 2)
    video_to_tensor_ragged_kernel(const __grid_constant__ aimills::video::Batch b) {
  using namespace aimills::video;
  run_batch<AIMILLS_LOADER>(b);
}
#endif

#if !defined(__CUDACC_RTC__)
#include "video/cuda_video.h"

namespace aimills::video {

template <class Loader>
__global__ void __launch_bounds__(kThreads, 2)
    video_to_tensor_ragged_kernel(const __grid_constant__ Batch b) {
  run_batch<Loader>(b);
}

static cudaError_t launch_batch(const Batch& b, cudaStream_t stream) {
  const i64 blocks = b.first_block[b.count];
  if (blocks == 0) return cudaSuccess;
  with_loader(b.clips[0], [&](auto loader) {
    video_to_tensor_ragged_kernel<decltype(loader)>
        <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(b);
  });
  return cudaGetLastError();
}

cudaError_t launch_ragged(const Params* clips, i64 count, cudaStream_t stream) {
  Batch batch{};
  for (i64 first = 0; first < count; first += kClips) {
    batch.count = static_cast<int>(smaller<i64>(count - first, kClips));
    for (int i = 0; i < batch.count; ++i) {
      const Params& p = batch.clips[i] = clips[first + i];
      const i64 blocks = smaller<i64>(tiling_of(p).total, 0x7fffffff / kClips);
      batch.first_block[i + 1] = batch.first_block[i] + blocks;
    }
    if (const cudaError_t error = launch_batch(batch, stream)) return error;
  }
  return cudaSuccess;
}

}  // namespace aimills::video
#endif
