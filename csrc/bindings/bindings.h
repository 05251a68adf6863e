#pragma once

#include <pybind11/pybind11.h>

namespace aimills {

namespace py = pybind11;

void bind_video(py::module_& m);

}  // namespace aimills
