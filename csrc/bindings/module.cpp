#include <pybind11/stl.h>

#include <vector>

#include "bindings.h"

#ifndef AIMILLS_SM_LIST
#define AIMILLS_SM_LIST
#endif
#ifndef AIMILLS_CUDA_VERSION
#define AIMILLS_CUDA_VERSION ""
#endif

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of aimills_kernels: raw pointers in, nothing of torch.";
  // Compute capabilities times ten that the extension has machine code for; empty without CUDA.
  m.attr("archs") = py::tuple(py::cast(std::vector<int>{AIMILLS_SM_LIST}));
  m.attr("cuda_version") = AIMILLS_CUDA_VERSION;
  aimills::bind_video(m);
}
