#pragma once

#include <vector>

#include "video/params.h"

namespace aimills::video {

// Of each clip of a launch, and behind the last one. A clip gets a block a tile, and no more than
// its part of those that a launch may have.
std::vector<i64> first_blocks(const Params* clips, i64 count);

}  // namespace aimills::video
