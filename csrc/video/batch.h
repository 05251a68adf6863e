#pragma once
// A ragged batch: clips of any sizes, each with the blocks that work on it.

#include "video/params.h"

namespace aimills::video {

// As many as the parameters of a launch hold (32764 bytes from CUDA 12.1 on): so nothing is copied
// or allocated, and a CUDA graph keeps them.
constexpr int kClips = 64;

// kernels/video/nvrtc.py packs it.
struct Batch {
  int count, unused;
  // Of more clips, in the GPU's memory: `count` + 1 first blocks and, behind these, the clips. Else
  // null, and they are below.
  const i64* table;
  i64 first_block[kClips + 1];  // of each clip, and behind the last one
  Params clips[kClips];
};

static_assert(sizeof(Batch) <= 32764, "a launch takes no more");

// The clip that `block` works on: the last one that begins at or before it.
AIMILLS_HD int clip_of(const i64* first_block, int count, i64 block) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (first_block[middle] <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace aimills::video
