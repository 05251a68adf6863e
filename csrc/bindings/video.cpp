#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bindings.h"
#include "video/cpu_video.h"
#include "video/emulate.h"
#include "video/first_blocks.h"
#include "video/params.h"
#include "video/pil_table.h"
#if defined(AIMILLS_WITH_CUDA)
#include "video/cuda_video.h"
#endif

namespace aimills {
namespace {

using video::Params;

// kernels/video/problem.py packs it.
Params params_of(const py::bytes& packed) {
  const std::string_view bytes = packed;
  if (bytes.size() != sizeof(Params)) throw std::invalid_argument("VideoParams of another size");
  Params p;
  std::memcpy(&p, bytes.data(), sizeof p);
  return p;
}

std::vector<Params> clips_of(const py::bytes& packed) {
  const std::string_view bytes = packed;
  if (bytes.size() % sizeof(Params)) throw std::invalid_argument("VideoParams of another size");
  std::vector<Params> clips(bytes.size() / sizeof(Params));
  if (!clips.empty()) std::memcpy(clips.data(), bytes.data(), bytes.size());
  return clips;
}

void run_ragged(const py::bytes& packed, int threads) {
  const std::vector<Params> clips = clips_of(packed);
  const py::gil_scoped_release released;
  video::run_cpu_ragged(clips.data(), static_cast<i64>(clips.size()), threads);
}

// kernels/video/ragged.py puts them before the clips.
py::bytes first_blocks(const py::bytes& packed) {
  const std::vector<Params> clips = clips_of(packed);
  const std::vector<i64> starts = video::first_blocks(clips.data(), static_cast<i64>(clips.size()));
  return {reinterpret_cast<const char*>(starts.data()), starts.size() * sizeof(i64)};
}

// kernels/video/pil.py copies it to the GPU.
py::bytes pil_lines(i64 in, i64 out, int filter) {
  const std::vector<int> lines = video::pil_lines(in, out, filter);
  return {reinterpret_cast<const char*>(lines.data()), lines.size() * sizeof(int)};
}

#if defined(AIMILLS_WITH_CUDA)
void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("video_to_tensor: ") + cudaGetErrorString(error));
  }
}

// The GIL stays: a launch takes microseconds.
void launch_cuda(const Params& p, std::uintptr_t stream) {
  check(video::launch(p, static_cast<cudaStream_t>(reinterpret_cast<void*>(stream))));
}

// `table` is an address, or 0.
void launch_cuda_ragged(const py::bytes& packed, std::uintptr_t table, std::uintptr_t stream) {
  const std::vector<Params> clips = clips_of(packed);
  check(video::launch_ragged(clips.data(), static_cast<i64>(clips.size()),
                             reinterpret_cast<const void*>(table),
                             static_cast<cudaStream_t>(reinterpret_cast<void*>(stream))));
}
#endif

}  // namespace

void bind_video(py::module_& m) {
  py::class_<Params>(m, "VideoParams").def(py::init(&params_of), py::arg("packed"));
  m.def("video_to_tensor_cpu", &video::run_cpu, py::arg("params"), py::arg("threads"),
        py::arg("baseline") = false, py::call_guard<py::gil_scoped_release>());
  m.def("video_to_tensor_ragged_cpu", &run_ragged, py::arg("clips"), py::arg("threads"));
  m.def("video_to_tensor_emulated", &video::emulate_cuda, py::arg("params"), py::arg("blocks"));
#if defined(AIMILLS_WITH_CUDA)
  m.def("video_to_tensor_cuda", &launch_cuda, py::arg("params"), py::arg("stream"));
  m.def("video_to_tensor_ragged_cuda", &launch_cuda_ragged, py::arg("clips"), py::arg("table"),
        py::arg("stream"));
#endif
  m.def("video_first_blocks", &first_blocks, py::arg("clips"));
  m.def("video_pil_lines", &pil_lines, py::arg("samples"), py::arg("outputs"), py::arg("filter"));
  m.def("video_cpu_isa", &video::cpu_isa);
}

}  // namespace aimills
