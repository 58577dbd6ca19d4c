#pragma once

#include <memory>
#include <type_traits>

#include "cpu/kernels.hpp"
#include "cpu/scratch.hpp"
#include "tensor/iteration.hpp"
#include "tensor/parallel.hpp"

namespace lmp::cpu {

/// Elements one task takes at least, and what work is cut into: 32 Ki for an operation bound by
/// memory.
inline constexpr std::int64_t kChunk = 32 * kBlock;

/// One operand of a block loop: memory of one type, walked by strides of an Iteration, that the
/// kernel sees as dense elements of a compute type.
struct BlockOperand {
  std::byte* data;
  tensor::DataType type;     // in memory
  tensor::DataType compute;  // what the kernel sees
  bool output = false;
  bool accumulate = false;  // outputs: add to what is there
  /// Inputs that do not change along the innermost axis, native: the kernel takes one element.
  bool scalar = false;

  bool native() const noexcept { return type == compute && !accumulate; }
  std::int64_t size() const noexcept { return static_cast<std::int64_t>(tensor::size_of(type)); }
};

/// True for outputs of an operation that touches so many bytes that they are better written around
/// the caches.
bool worth_streaming(std::int64_t bytes) noexcept;

/// Of `rows` rows of n elements, `steps` bytes apart for each operand. Null is the identity, from
/// the second operand to the first.
using BlockKernel = void (*)(void* context, void* const* pointers, std::size_t n, std::size_t rows,
                             const std::int64_t* steps);
void run_blocks(const tensor::detail::Iteration& loop, const BlockOperand* operands, int count,
                std::int64_t chunk, BlockKernel kernel, void* context);

/// Note [Block loops]
/// Runs kernel(pointers, n), or kernel(pointers, n, rows, steps) where it takes several rows at
/// once, over all elements in blocks of at most kBlock. An operand that lies dense in memory in its
/// compute type is handed over in place; any other is gathered into scratch that stays in the
/// first-level cache (load), or scattered from there (store). So strides, broadcasting and mixed
/// types never multiply kernels. How operands are walked depends on where their elements lie:
///   - all dense: whole chunks in place;
///   - long innermost axes: pieces of rows, in place where the elements are neighbours;
///   - short ones: blocks of several rows, gathered; a row that repeats is laid out once;
///   - an operand whose neighbours lie along another axis, like a transposed one: panels of a cache
///     line's height are turned into scratch first, so that every line is read once.
/// What a large operation writes goes around the caches, see worth_streaming.
template <class Kernel>
void block_loop(const tensor::detail::Iteration& loop, const BlockOperand* operands, int count,
                std::int64_t chunk, Kernel&& kernel) {
  using Body = std::remove_reference_t<Kernel>;
  run_blocks(
      loop, operands, count, chunk,
      [](void* context, void* const* pointers, std::size_t n, std::size_t rows,
         const std::int64_t* steps) {
        Body& body = *static_cast<Body*>(context);
        if constexpr (std::is_invocable_v<Body&, void* const*, std::size_t, std::size_t,
                                          const std::int64_t*>) {
          body(pointers, n, rows, steps);
        } else {
          body(pointers, n);
          if (rows == 1) return;
          void* at[tensor::detail::kMaxOperands];
          for (std::size_t r = 1; r < rows; ++r) {
            for (int i = 0; i < tensor::detail::kMaxOperands; ++i)
              at[i] =
                  static_cast<std::byte*>(pointers[i]) + static_cast<std::int64_t>(r) * steps[i];
            body(at, n);
          }
        }
      },
      const_cast<void*>(static_cast<const void*>(std::addressof(kernel))));
}

}  // namespace lmp::cpu
