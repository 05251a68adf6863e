#include "video/first_blocks.h"

#include "video/tile.h"

namespace aimills::video {

std::vector<i64> first_blocks(const Params* clips, i64 count) {
  std::vector<i64> starts{0};
  for (i64 i = 0; i < count; ++i) {
    starts.push_back(starts.back() + smaller<i64>(tiling_of(clips[i]).total, 0x7fffffff / count));
  }
  return starts;
}

}  // namespace aimills::video
