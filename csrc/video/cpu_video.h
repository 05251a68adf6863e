#pragma once

#include "video/params.h"

namespace aimills::video {

// Runs on up to `threads` threads, the calling one included, and returns when the output is done.
// `baseline` leaves the machine's vector extensions aside. May throw std::bad_alloc.
void run_cpu(const Params& params, int threads, bool baseline);

// Clips one after the other, or side by side where there are as many as threads.
void run_cpu_ragged(const Params* clips, i64 count, int threads);

// The instruction set that run_cpu uses here.
const char* cpu_isa();

}  // namespace aimills::video
