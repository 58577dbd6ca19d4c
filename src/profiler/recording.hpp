#pragma once

#include <span>
#include <string_view>

#include "tensor/backend.hpp"
#include "tensor/profile_scope.hpp"

/// What the parts of the profiler share; see Note [Profiler] in profiler.cpp.
namespace lmp::profiler {

/// Begins an event of this thread about these tensors: null for a number, undefined ones are left
/// out.
tensor::detail::ProfileMark begin(tensor::detail::ProfileKind kind, std::string_view name,
                                  bool copies_name, tensor::DataType type,
                                  std::span<const tensor::Tensor* const> tensors) noexcept;

/// cpu::backend with an event around each of its functions.
extern const tensor::detail::Backend kRecordingBackend;

}  // namespace lmp::profiler
