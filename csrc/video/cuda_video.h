#pragma once

#include <cuda_runtime_api.h>

#include "video/params.h"

namespace aimills::video {

cudaError_t launch(const Params& params, cudaStream_t stream);

// Of clips of one format: one launch with their `table` (batch.h), which lies in the GPU's memory
// and holds the same clips; without a table one for each kClips of them.
cudaError_t launch_ragged(const Params* clips, i64 count, const void* table, cudaStream_t stream);

}  // namespace aimills::video
