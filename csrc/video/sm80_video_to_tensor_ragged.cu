#include "video/batch.h"
#include "video/kernel.h"

namespace aimills::video {

struct Blocks {
  i64 first, end;
};

// The parameters of the clip that this block works on, and the blocks that do.
template <class Loader>
static __device__ __forceinline__ Blocks take_clip(Params& own, const i64* first_block,
                                                   const Params* clips, int count) {
  const int clip = clip_of(first_block, count, blockIdx.x);
  own_params(Loader{}, own, clips[clip]);
  return {first_block[clip], first_block[clip + 1]};
}

template <class Loader>
static __device__ __forceinline__ void run_batch(const Batch& b) {
  // In shared memory: read from the parameters at a place that varies, it costs more registers than
  // there are.
  __shared__ Params own;
  Blocks blocks;
  if (b.table == nullptr) {
    blocks = take_clip<Loader>(own, b.first_block, b.clips, b.count);
  } else {
    const auto* clips = reinterpret_cast<const Params*>(b.table + b.count + 1);
    blocks = take_clip<Loader>(own, b.table, clips, b.count);
  }
  run_blocks<Loader>(own, blockIdx.x - blocks.first, blocks.end - blocks.first);
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
#include <algorithm>

#include "video/cuda_video.h"
#include "video/first_blocks.h"

namespace aimills::video {

template <class Loader>
__global__ void __launch_bounds__(kThreads, 2)
    video_to_tensor_ragged_kernel(const __grid_constant__ Batch b) {
  run_batch<Loader>(b);
}

static cudaError_t launch_batch(const Batch& b, const Params& first, i64 blocks,
                                cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  with_loader(first, [&](auto loader) {
    video_to_tensor_ragged_kernel<decltype(loader)>
        <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(b);
  });
  return cudaGetLastError();
}

cudaError_t launch_ragged(const Params* clips, i64 count, const void* table, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  Batch batch{};
  if (table) {
    batch.count = static_cast<int>(count);
    batch.table = static_cast<const i64*>(table);
    return launch_batch(batch, clips[0], first_blocks(clips, count).back(), stream);
  }
  for (i64 first = 0; first < count; first += kClips) {
    batch.count = static_cast<int>(smaller<i64>(count - first, kClips));
    std::copy_n(clips + first, batch.count, batch.clips);
    const std::vector<i64> starts = first_blocks(clips + first, batch.count);
    std::copy(starts.begin(), starts.end(), batch.first_block);
    if (const cudaError_t error = launch_batch(batch, clips[first], starts.back(), stream)) {
      return error;
    }
  }
  return cudaSuccess;
}

}  // namespace aimills::video
#endif
