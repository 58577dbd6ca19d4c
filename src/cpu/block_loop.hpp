#pragma once

#include <algorithm>
#include <cstring>

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

  bool native() const noexcept { return type == compute && !accumulate; }
  std::size_t size() const noexcept { return tensor::size_of(type); }
};

/// Note [Block loops]
/// Runs kernel(pointers, n) over all elements in blocks of at most kBlock. An operand that lies
/// dense in memory in its compute type is handed over in place; any other is gathered into scratch
/// that stays in the first-level cache (load), or scattered from there (store). So strides,
/// broadcasting and mixed types never multiply kernels.
template <class Kernel>
void block_loop(const tensor::detail::Iteration& loop, const BlockOperand* operands, int count,
                std::int64_t chunk, Kernel&& kernel) {
  using tensor::detail::kMaxOperands;
  using tensor::detail::RunWalker;
  if (loop.numel == 0) return;
  const Kernels& k = kernels();

  bool dense[kMaxOperands], constant[kMaxOperands];
  bool whole = true;
  for (int i = 0; i < count; ++i) {
    constant[i] = !operands[i].output && loop.constant(i);
    dense[i] = loop.dense(i) && operands[i].native();
    if (constant[i] && dense[i] && loop.ndim > 0) dense[i] = false;
    whole &= dense[i];
  }
  if (whole) {
    tensor::detail::parallel_for(loop.numel, chunk, [&](std::int64_t begin, std::int64_t end) {
      void* pointers[kMaxOperands];
      for (int i = 0; i < count; ++i)
        pointers[i] = operands[i].data + begin * static_cast<std::int64_t>(operands[i].size());
      kernel(pointers, static_cast<std::size_t>(end - begin));
    });
    return;
  }

  const std::int64_t row = loop.ndim == 0 ? 1 : loop.sizes[loop.ndim - 1];
  const bool by_rows =
      row >= kBlock / 4;  // then a block stays inside a row, whose operands need no copy
  const auto width = static_cast<std::size_t>(std::min(loop.numel, kBlock));

  tensor::detail::parallel_for(loop.numel, chunk, [&](std::int64_t begin, std::int64_t end) {
    const std::size_t slot = (width * 8 + 63) / 64 * 64;
    Scratch scratch(slot * static_cast<std::size_t>(2 * count));
    void* buffer[kMaxOperands];
    void* pointers[kMaxOperands];
    RunWalker* walker[kMaxOperands];
    alignas(RunWalker) std::byte walkers[kMaxOperands * sizeof(RunWalker)];
    for (int i = 0; i < count; ++i) {
      const BlockOperand& o = operands[i];
      buffer[i] = static_cast<std::byte*>(scratch.data()) + slot * static_cast<std::size_t>(i);
      walker[i] = new (walkers + static_cast<std::size_t>(i) * sizeof(RunWalker))
          RunWalker(loop.sizes, loop.strides[i], loop.ndim, begin);
      if (constant[i])
        k.load[static_cast<int>(o.type)][compute_index(o.compute)](buffer[i], o.data, 0, width);
    }

    for (std::int64_t at = begin; at < end;) {
      std::int64_t n = std::min(end - at, kBlock);
      if (by_rows) n = std::min(n, row - at % row);
      for (int i = 0; i < count; ++i) {
        const BlockOperand& o = operands[i];
        const auto bytes = static_cast<std::int64_t>(o.size());
        pointers[i] = buffer[i];
        if (constant[i]) continue;
        if (dense[i]) {
          pointers[i] = o.data + at * bytes;
        } else if (by_rows && o.native() && loop.strides[i][loop.ndim - 1] == 1) {
          pointers[i] = o.data + walker[i]->offset() * bytes;
          walker[i]->advance(n);
        } else if (!o.output) {
          const LoadFn load = k.load[static_cast<int>(o.type)][compute_index(o.compute)];
          const std::int64_t stride = loop.ndim == 0 ? 1 : loop.strides[i][loop.ndim - 1];
          const std::size_t out_size = tensor::size_of(o.compute);
          for (std::int64_t done = 0; done < n;) {
            const std::int64_t run = std::min(n - done, walker[i]->left());
            load(static_cast<std::byte*>(buffer[i]) + static_cast<std::size_t>(done) * out_size,
                 o.data + walker[i]->offset() * bytes, stride, static_cast<std::size_t>(run));
            walker[i]->advance(run);
            done += run;
          }
        }
      }
      kernel(pointers, static_cast<std::size_t>(n));
      for (int i = 0; i < count; ++i) {
        const BlockOperand& o = operands[i];
        if (!o.output || pointers[i] != buffer[i]) continue;
        const std::int64_t stride = loop.ndim == 0 ? 1 : loop.strides[i][loop.ndim - 1];
        const std::size_t in_size = tensor::size_of(o.compute);
        for (std::int64_t done = 0; done < n;) {
          const std::int64_t run = std::min(n - done, walker[i]->left());
          std::byte* to = o.data + walker[i]->offset() * static_cast<std::int64_t>(o.size());
          void* from =
              static_cast<std::byte*>(buffer[i]) + static_cast<std::size_t>(done) * in_size;
          if (o.accumulate) {
            const int c = compute_index(o.compute);
            void* old = static_cast<std::byte*>(scratch.data()) +
                        slot * static_cast<std::size_t>(count + i);
            k.load[static_cast<int>(o.type)][c](old, to, stride, static_cast<std::size_t>(run));
            const void* terms[2] = {from, old};
            k.forward[static_cast<int>(OpId::Add)][c](from, terms, static_cast<std::size_t>(run));
          }
          k.store[static_cast<int>(o.type)](to, stride, from, static_cast<std::size_t>(run));
          walker[i]->advance(run);
          done += run;
        }
      }
      at += n;
    }
  });
}

}  // namespace lmp::cpu
