#pragma once

#include <locale>
#include <sstream>
#include <string>

#include "lamppp/tensor/data_type.hpp"
#include "lamppp/tensor/device_type.hpp"
#include "lamppp/tensor/shape.hpp"

namespace lmp::tensor::detail {

/// The arguments streamed one after another, for messages: numbers come out the same in any locale.
template <class... Args>
std::string concat(const Args&... args) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  (out << ... << args);
  return out.str();
}

}  // namespace lmp::tensor::detail
