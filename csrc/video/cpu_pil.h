#pragma once

#include "video/cpu_band.h"

namespace aimills::video {

// The modes "pil" and "pil13": bit for bit Pillow's resize of 8-bit pictures.
void run_pil(const Params& params, int threads, const PilCode& code);

}  // namespace aimills::video
