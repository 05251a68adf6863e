#include "video/kernel.h"

#if defined(__CUDACC_RTC__)
// One kernel is compiled at a time: AIMILLS_LOADER is its loader.
extern "C" __global__ void __launch_bounds__(aimills::video::kThreads, 2)
    video_to_tensor_kernel(const __grid_constant__ aimills::video::Params p) {
  using namespace aimills::video;
  run_clip(AIMILLS_LOADER{}, p);
}
#endif

#if !defined(__CUDACC_RTC__)
#include "video/cuda_video.h"

namespace aimills::video {

template <class Loader>
__global__ void __launch_bounds__(kThreads, 2)
    video_to_tensor_kernel(const __grid_constant__ Params p) {
  run_clip(Loader{}, p);
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
