#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

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

void* pointer(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

// sizes: frames, height, width, out_height, out_width. strides: y_frame, y_row, uv_frame, uv_row.
// options: color_space, color_range, chroma_location, chroma_upsampling, interpolation, dtype.
Params make_params(std::uintptr_t y, std::uintptr_t uv, std::uintptr_t out,
                   const std::array<i64, 5>& sizes, const std::array<i64, 4>& strides,
                   const std::array<int, 6>& options, const std::array<double, 3>& mean,
                   const std::array<double, 3>& std) {
  Params p{static_cast<const u8*>(pointer(y)),
           static_cast<const u8*>(pointer(uv)),
           pointer(out),
           sizes[0],
           sizes[1],
           sizes[2],
           sizes[3],
           sizes[4],
           strides[0],
           strides[1],
           strides[2],
           strides[3],
           options[0],
           options[1],
           options[2],
           options[3],
           options[4],
           options[5],
           {},
           {},
           {}};
  for (int c = 0; c < 3; ++c) {
    p.mean_hi[c] = static_cast<float>(255.0 * mean[c]);
    p.mean_lo[c] = static_cast<float>(255.0 * mean[c] - p.mean_hi[c]);
    p.scale[c] = static_cast<float>(1.0 / (255.0 * std[c]));
  }
  return p;
}

#if defined(AIMILLS_WITH_CUDA)
// The GIL stays: a launch takes microseconds.
void launch_cuda(const Params& p, std::uintptr_t stream) {
  const cudaError_t error = video::launch(p, static_cast<cudaStream_t>(pointer(stream)));
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("video_to_tensor: ") + cudaGetErrorString(error));
  }
}
#endif

}  // namespace

void bind_video(py::module_& m) {
  py::class_<Params>(m, "VideoParams")
      .def(py::init(&make_params), py::arg("y"), py::arg("uv"), py::arg("out"), py::arg("sizes"),
           py::arg("strides"), py::arg("options"), py::arg("mean"), py::arg("std"))
      .def("__bytes__",
           [](const Params& p) { return py::bytes(reinterpret_cast<const char*>(&p), sizeof p); });
  m.def("video_to_tensor_cpu", &video::run_cpu, py::arg("params"), py::arg("threads"),
        py::arg("baseline") = false, py::call_guard<py::gil_scoped_release>());
  m.def("video_to_tensor_emulated", &video::emulate_cuda, py::arg("params"), py::arg("blocks"));
#if defined(AIMILLS_WITH_CUDA)
  m.def("video_to_tensor_cuda", &launch_cuda, py::arg("params"), py::arg("stream"));
#endif
  m.def("video_cpu_isa", &video::cpu_isa);
}

}  // namespace aimills
