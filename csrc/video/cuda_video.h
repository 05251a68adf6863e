#pragma once

#include <cuda_runtime_api.h>

#include "video/params.h"

namespace aimills::video {

cudaError_t launch(const Params& params, cudaStream_t stream);

}  // namespace aimills::video
