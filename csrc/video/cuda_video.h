#pragma once

#include <cuda_runtime_api.h>

#include "video/params.h"

namespace aimills::video {

cudaError_t launch(const Params& params, cudaStream_t stream);

// One launch for each kClips clips, which are of one format.
cudaError_t launch_ragged(const Params* clips, i64 count, cudaStream_t stream);

}  // namespace aimills::video
