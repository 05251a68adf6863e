#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include "bindings.h"
#include "video/cpu_video.h"
#include "video/emulate.h"
#include "video/params.h"
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

#if defined(AIMILLS_WITH_CUDA)
// The GIL stays: a launch takes microseconds.
void launch_cuda(const Params& p, std::uintptr_t stream) {
  const cudaError_t error =
      video::launch(p, static_cast<cudaStream_t>(reinterpret_cast<void*>(stream)));
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("video_to_tensor: ") + cudaGetErrorString(error));
  }
}
#endif

}  // namespace

void bind_video(py::module_& m) {
  py::class_<Params>(m, "VideoParams").def(py::init(&params_of), py::arg("packed"));
  m.def("video_to_tensor_cpu", &video::run_cpu, py::arg("params"), py::arg("threads"),
        py::arg("baseline") = false, py::call_guard<py::gil_scoped_release>());
  m.def("video_to_tensor_emulated", &video::emulate_cuda, py::arg("params"), py::arg("blocks"));
#if defined(AIMILLS_WITH_CUDA)
  m.def("video_to_tensor_cuda", &launch_cuda, py::arg("params"), py::arg("stream"));
#endif
  m.def("video_cpu_isa", &video::cpu_isa);
}

}  // namespace aimills
