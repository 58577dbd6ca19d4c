#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace lmp::tensor::detail {

/// Runs body(begin, end) over [0, n) in chunks of `chunk` items, on up to get_num_threads()
/// threads. The chunks are the same however many threads there are, so a result that depends on
/// them alone does not depend on threads. The first exception thrown by a chunk is rethrown here.
/// Nested calls run serially.
void parallel_chunks(std::int64_t n, std::int64_t chunk,
                     void (*body)(void*, std::int64_t, std::int64_t), void* context);

template <class F>
void parallel_for(std::int64_t n, std::int64_t chunk, F&& f) {
  if (n <= chunk) {
    if (n > 0) f(std::int64_t{0}, n);
    return;
  }
  using Body = std::remove_reference_t<F>;
  parallel_chunks(
      n, chunk,
      [](void* context, std::int64_t begin, std::int64_t end) {
        (*static_cast<Body*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(std::addressof(f))));
}

/// True while this thread runs a chunk of a parallel_for.
bool in_parallel_region() noexcept;

}  // namespace lmp::tensor::detail
