#pragma once

#include "video/params.h"

namespace aimills::video {

// The CUDA kernel on the host: every block, phase by phase, its threads one after the other. The
// logic is the kernel's; races and memory spaces are not seen. Throws std::logic_error where a
// thread leaves its block's shared memory.
void emulate_cuda(Params params, i64 blocks);

}  // namespace aimills::video
