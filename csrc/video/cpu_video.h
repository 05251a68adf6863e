#pragma once

#include "video/params.h"

namespace aimills::video {

// Runs on up to `threads` threads, the calling one included, and returns when the output is done.
// May throw std::bad_alloc or std::system_error.
void run_cpu(const Params& params, int threads);

// The instruction set that run_cpu uses here.
const char* cpu_isa();

}  // namespace aimills::video
