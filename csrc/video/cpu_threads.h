#pragma once

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "video/params.h"

namespace aimills::video {

// A thread costs about 30 us to start: small work stays on the calling one.
inline i64 threads_for(const Params& p, i64 items, int threads) {
  constexpr i64 kPixelsPerThread = 1 << 17;
  const i64 rows = i64(p.crop_height) * rows_of(p) / p.resized_height;
  const i64 cols = i64(p.crop_width) * cols_of(p) / p.resized_width;
  const i64 pixels = p.frames * std::max(rows * cols, i64(rows_of(p)) * cols_of(p));
  return std::min({i64(std::max(threads, 1)), items, pixels / kPixelsPerThread + 1});
}

// Runs `work(thread, item)` for all items. No pool: it would not survive a fork.
template <class Work>
void share(i64 threads, i64 items, const Work& work) {
  std::atomic<i64> next{0};
  const auto run = [&](i64 thread) {
    for (i64 item = next++; item < items; item = next++) work(thread, item);
  };
  std::vector<std::thread> others;
  try {
    for (i64 i = 1; i < threads; ++i) others.emplace_back(run, i);
  } catch (const std::system_error&) {
    // Fewer threads than asked for: the ones that started take all items.
  }
  run(0);
  for (auto& thread : others) thread.join();
}

}  // namespace aimills::video
