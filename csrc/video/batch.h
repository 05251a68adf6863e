#pragma once
// A ragged batch: clips of any sizes, each with the blocks that work on it.

#include "video/params.h"

namespace aimills::video {

// As many as the parameters of a launch hold (32764 bytes from CUDA 12.1 on): so nothing is copied
// or allocated, and a CUDA graph keeps the table.
constexpr int kClips = 64;

// kernels/video/nvrtc.py packs it.
struct Batch {
  int count, unused;
  i64 first_block[kClips + 1];  // of each clip, and behind the last one
  Params clips[kClips];
};

static_assert(sizeof(Batch) <= 32764, "a launch takes no more");

// The clip that `block` works on: the last one that begins at or before it.
AIMILLS_HD int clip_of(const Batch& b, i64 block) {
  int low = 0, high = b.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (b.first_block[middle] <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace aimills::video
