// Runs the CPU's code, and the CUDA kernel's on the host, on the geometries of a file, over buffers
// of just the bytes that each may touch. tests/video_fuzz.py writes the file and builds this with
// AddressSanitizer and UndefinedBehaviorSanitizer.

#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "video/cpu_video.h"
#include "video/emulate.h"
#include "video/pil_table.h"

namespace aimills::video {
namespace {

// tests/video_fuzz.py packs it. Addresses in `params` count from the start of a buffer.
struct Geometry {
  Params params;
  i64 planes[3];     // bytes of each buffer of the source, 0 for one that isn't there
  i64 component[3];  // the buffer that each component lies in
  i64 start;         // bytes that the buffers start behind a multiple of 16
  i64 out;           // bytes of the output
};

struct Buffer {
  Buffer(i64 bytes, i64 start) : whole(new u8[bytes + start]), data(whole.get() + start) {}

  std::unique_ptr<u8[]> whole;
  u8* data;
};

// Two runs, on different threads and over different bytes, must give the same output: no byte of it
// may be left as it was.
template <class Run>
bool same_twice(Params p, i64 bytes, const Run& run) {
  Buffer first(bytes, 0), second(bytes, 0);
  std::memset(first.data, 0x5a, bytes);
  std::memset(second.data, 0xa5, bytes);
  p.out = first.data;
  run(p, 1);
  p.out = second.data;
  run(p, 3);
  return std::memcmp(first.data, second.data, bytes) == 0;
}

bool holds(const Geometry& g, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Buffer> buffers;
  for (i64 bytes : g.planes) {
    buffers.emplace_back(bytes, g.start);
    for (i64 i = 0; i < bytes; ++i) buffers.back().data[i] = static_cast<u8>(random());
  }
  Params p = g.params;
  for (int i = 0; i < 3; ++i) {
    const auto offset = reinterpret_cast<i64>(p.planes[i].data);
    p.planes[i].data = buffers[g.component[i]].data + offset;
  }
  const auto fast = [](const Params& q, int threads) { run_cpu(q, threads, false); };
  const auto plain = [](const Params& q, int threads) { run_cpu(q, threads, true); };
  const auto emulated = [](const Params& q, int blocks) { emulate_cuda(q, blocks); };
  if (!same_twice(p, g.out, fast) || !same_twice(p, g.out, plain)) return false;
  std::vector<int> down, across;
  if (p.passes == kPilAcross || p.passes == kPilDown) {
    down = pil_lines(p.crop_height, p.resized_height, p.filter);
    across = pil_lines(p.crop_width, p.resized_width, p.filter);
    p.down_table = down.data();
    p.across_table = across.data();
  }
  return same_twice(p, g.out, emulated);
}

}  // namespace
}  // namespace aimills::video

int main(int argc, char** argv) {
  using namespace aimills::video;
  if (argc != 2) return 2;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(argv[1], "rb"),
                                                             std::fclose);
  if (!file) return 2;
  Geometry g;
  for (unsigned i = 0; std::fread(&g, sizeof g, 1, file.get()) == 1; ++i) {
    std::printf("%u\n", i);
    std::fflush(stdout);
    if (!holds(g, i)) {
      std::fprintf(stderr, "two runs differ\n");
      return 1;
    }
  }
  return 0;
}
