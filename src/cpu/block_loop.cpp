#include "cpu/block_loop.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace lmp::cpu {

using tensor::detail::Iteration;
using tensor::detail::kMaxOperands;
using tensor::detail::parallel_for;
using tensor::detail::RowWalker;
using tensor::detail::RunWalker;

bool worth_streaming(std::int64_t bytes) noexcept {
  // A virtual machine may report the caches of all its host's processors together.
  constexpr std::int64_t kMost = std::int64_t{32} << 20;
  static const std::int64_t cache = [] {
    long size = -1;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    size = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return size > 0 && size < kMost ? std::int64_t{size} : kMost;
  }();
  return bytes > cache;
}

namespace {

constexpr std::int64_t kLongRow = kBlock / 4;  // from here on a block stays inside a row
constexpr std::int64_t kLine = 64;             // bytes, of a cache line
// Streamed blocks are shorter: reading and writing alternate often enough for both to go on.
constexpr std::int64_t kStreamedBlock = kBlock / 2;
constexpr std::int64_t kFewest = 8;     // rows that make a panel worth it,
constexpr std::int64_t kPanelRow = 64;  // and elements in each

class BlockLoop {
 public:
  BlockLoop(const Iteration& loop, const BlockOperand* operands, int count, std::int64_t chunk,
            BlockKernel kernel, void* context)
      : loop_(loop),
        operands_(operands),
        count_(count),
        inner_(loop.ndim - 1),
        row_(loop.ndim == 0 ? 1 : loop.sizes[loop.ndim - 1]),
        chunk_(chunk),
        kernel_(kernel),
        context_(context) {
    std::int64_t bytes = 0;
    for (int i = 0; i < count; ++i) {
      const BlockOperand& o = operands[i];
      stride_[i] = loop.ndim == 0 ? 1 : loop.strides[i][inner_];
      constant_[i] = loop.ndim > 0 && !o.output && loop.constant(i);
      scalar_rows_ = scalar_rows_ || (o.scalar && !constant_[i]);
      dense_[i] = o.native() && in_order(i);
      whole_ = whole_ && (dense_[i] || (o.scalar && constant_[i]));
      if (!constant_[i]) bytes += loop.numel * o.size();
    }
    in_place_ = true;
    for (int i = 0; i < count; ++i)
      in_place_ = in_place_ && (operands[i].scalar || (operands[i].native() && stride_[i] == 1));
    // A load is all the identity needs.
    if (kernel == nullptr) in_place_ = operands[0].native() && stride_[0] == 1;
    if (!worth_streaming(bytes)) return;
    for (int i = 0; i < count; ++i) {
      streams_[i] = operands[i].output && !operands[i].accumulate && stride_[i] == 1 &&
                    (dense_[i] || row_ >= kLongRow);
      for (int j = 0; j < count; ++j)
        streams_[i] = streams_[i] && (j == i || operands[j].data != operands[i].data);
      if (streams_[i]) {
        block_ = kStreamedBlock;
        in_place_ = false;
      }
      // What repeats in each row is in a cache; to ask for it would hold up what is not.
      ahead_[i] = !operands[i].output && !operands[i].scalar && (inner_ == 0 || !repeats(i));
    }
  }

  void run() const {
    if (whole_ && block_ == kBlock) return run_whole();
    if (const int axis = panel_axis(); axis >= 0) return run_panels(axis);
    if (scalar_rows_ || row_ >= (in_place_ || gathers() ? kLongRow : kBlock)) return run_rows();
    run_short_rows();
  }

 private:
  // True where the operand's elements lie in memory in the order of the loop, without gaps.
  bool in_order(int i) const {
    std::int64_t expected = 1;
    for (int d = inner_; d >= 0; expected *= loop_.sizes[d--])
      if (loop_.strides[i][d] != expected) return false;
    return true;
  }

  // Scratch for one task: a buffer of a block for each operand, and one to add into old values.
  class Buffers {
   public:
    Buffers(const BlockLoop& l, std::int64_t elements)
        : slot_((elements * 8 + kLine - 1) / kLine * kLine),
          count_(l.count_),
          scratch_(static_cast<std::size_t>(slot_ * (l.count_ + 1))) {}
    std::byte* of(int i) const { return static_cast<std::byte*>(scratch_.data()) + slot_ * i; }
    std::byte* old() const { return of(count_); }

   private:
    std::int64_t slot_;
    int count_;
    Scratch scratch_;
  };

  void call(void* const* pointers, std::int64_t n) const {
    if (kernel_ != nullptr)
      return kernel_(context_, pointers, static_cast<std::size_t>(n), 1, nullptr);
    std::memcpy(pointers[0], pointers[1],
                static_cast<std::size_t>(n) * tensor::size_of(operands_[0].compute));
  }

  void load(int i, void* to, const std::byte* from, std::int64_t stride, std::int64_t n) const {
    const BlockOperand& o = operands_[i];
    k_.load[static_cast<int>(o.type)][compute_index(o.compute)](to, from, stride,
                                                                static_cast<std::size_t>(n));
  }

  // Where the kernel finds n neighbours of operand i along the innermost axis, `at` being the
  // first.
  void* fetch(int i, std::byte* at, std::int64_t n, const Buffers& buffers) const {
    const BlockOperand& o = operands_[i];
    if (o.scalar) return at;
    if (constant_[i] || streams_[i]) return buffers.of(i);
    if (o.native() && stride_[i] == 1) return at;
    if (!o.output) load(i, buffers.of(i), at, stride_[i], n);
    return buffers.of(i);
  }

  // Inputs of the next block, for `stream` to fetch.
  struct Ahead {
    const void* at[kMaxOperands];
    int count = 0;
  };

  // Brings what the kernel left in a buffer to where it belongs.
  void flush(int i, std::byte* at, std::byte* from, std::int64_t n, const Buffers& buffers,
             const Ahead& ahead) const {
    const BlockOperand& o = operands_[i];
    if (streams_[i]) {
      if (!o.native()) {
        k_.store[static_cast<int>(o.type)](buffers.old(), 1, from, static_cast<std::size_t>(n));
        from = buffers.old();
      }
      k_.stream(at, from, static_cast<std::size_t>(n * o.size()), ahead.at, ahead.count);
      return;
    }
    if (o.accumulate) {
      const int c = compute_index(o.compute);
      load(i, buffers.old(), at, stride_[i], n);
      const void* terms[2] = {from, buffers.old()};
      k_.forward[static_cast<int>(OpId::Add)][c](from, terms, static_cast<std::size_t>(n));
    }
    k_.store[static_cast<int>(o.type)](at, stride_[i], from, static_cast<std::size_t>(n));
  }

  // Buffers of a task, whose streamed results are there for others when it ends.
  struct Task : Buffers {
    using Buffers::Buffers;
    ~Task() { kernels().stream_fence(); }
  };

  void fill_constants(const Buffers& buffers, std::int64_t n) const {
    for (int i = 0; i < count_; ++i)
      if (constant_[i] && !operands_[i].scalar) load(i, buffers.of(i), operands_[i].data, 0, n);
  }

  void run_whole() const {
    parallel_for(loop_.numel, chunk_, [&](std::int64_t begin, std::int64_t end) {
      void* pointers[kMaxOperands];
      for (int i = 0; i < count_; ++i)
        pointers[i] = operands_[i].data + (constant_[i] ? 0 : begin * operands_[i].size());
      call(pointers, end - begin);
    });
  }

  // The identity, from neighbours `stride` apart to a row of the output, with as few copies as
  // casts and strides allow.
  void copy_piece(std::byte* to, std::byte* from, std::int64_t stride, std::int64_t n,
                  const Buffers& buffers, const Ahead& ahead) const {
    const bool direct = operands_[0].native() && stride_[0] == 1 && !streams_[0];
    if (constant_[1]) {
      from = buffers.of(1);
    } else if (direct || !operands_[1].native() || stride != 1) {
      std::byte* const loaded = direct ? to : buffers.of(1);
      load(1, loaded, from, stride, n);
      from = loaded;
    }
    if (!direct) flush(0, to, from, n, buffers, ahead);
  }

  // n neighbours along the innermost axis, the operands beginning at the bytes in `at`.
  void piece(std::byte* const* at, std::int64_t n, const Buffers& buffers) const {
    if (kernel_ == nullptr) {
      Ahead ahead;
      if (stride_[1] == 1) ahead.at[ahead.count++] = at[1] + n * operands_[1].size();
      return copy_piece(at[0], at[1], stride_[1], n, buffers, ahead);
    }
    void* pointers[kMaxOperands];
    for (int i = 0; i < count_; ++i) pointers[i] = fetch(i, at[i], n, buffers);
    call(pointers, n);
    Ahead ahead;
    for (int i = 0; i < count_ && block_ != kBlock; ++i)
      if (pointers[i] == at[i] && ahead_[i])
        ahead.at[ahead.count++] = at[i] + n * operands_[i].size();
    for (int i = 0; i < count_; ++i)
      if (operands_[i].output && pointers[i] != at[i])
        flush(i, at[i], static_cast<std::byte*>(pointers[i]), n, buffers, ahead);
  }

  // Rows that the kernel takes where they are, as many at once as lie evenly.
  void run_rows_in_place() const {
    std::int64_t steps[kMaxOperands] = {};
    for (int i = 0; i < count_ && inner_ > 0; ++i)
      steps[i] = loop_.strides[i][inner_ - 1] * operands_[i].size();
    parallel_for(loop_.numel, chunk_, [&](std::int64_t begin, std::int64_t end) {
      RowWalker walker(loop_, count_, begin / row_);
      std::int64_t column = begin % row_;
      for (std::int64_t at = begin; at < end;) {
        const std::int64_t n = std::min(row_ - column, end - at);
        const std::int64_t rows = n < row_ ? 1 : std::min((end - at) / row_, walker.left());
        void* pointers[kMaxOperands] = {};
        for (int i = 0; i < count_; ++i)
          pointers[i] =
              operands_[i].data + (walker.offset(i) + column * stride_[i]) * operands_[i].size();
        take_rows(pointers, n, rows, steps);
        at += n * rows;
        column = 0;
        walker.next(rows);
      }
    });
  }

  void take_rows(void* const* pointers, std::int64_t n, std::int64_t rows,
                 const std::int64_t* steps) const {
    if (kernel_ != nullptr)
      return kernel_(context_, pointers, static_cast<std::size_t>(n),
                     static_cast<std::size_t>(rows), steps);
    auto *to = static_cast<std::byte*>(pointers[0]), *from = static_cast<std::byte*>(pointers[1]);
    for (std::int64_t r = 0; r < rows; ++r)
      load(1, to + r * steps[0], from + r * steps[1], stride_[1], n);
  }

  void run_rows() const {
    if (in_place_) return run_rows_in_place();
    parallel_for(loop_.numel, chunk_, [&](std::int64_t begin, std::int64_t end) {
      const Task buffers(*this, block_);
      fill_constants(buffers, std::min(block_, end - begin));
      RowWalker walker(loop_, count_, begin / row_);
      std::int64_t column = begin % row_;
      for (std::int64_t at = begin; at < end;) {
        const std::int64_t n = std::min({block_, row_ - column, end - at});
        std::byte* starts[kMaxOperands];
        for (int i = 0; i < count_; ++i)
          starts[i] =
              operands_[i].data + (walker.offset(i) + column * stride_[i]) * operands_[i].size();
        piece(starts, n, buffers);
        at += n;
        column += n;
        if (column < row_) continue;
        column = 0;
        walker.next();
      }
    });
  }

  // True where blocks of several rows would have to be put together for some operand.
  bool gathers() const {
    for (int i = 0; i < count_; ++i)
      if (!dense_[i] && !constant_[i] && !repeats(i)) return true;
    return false;
  }

  // True for an input of which every row is the same elements.
  bool repeats(int i) const {
    if (operands_[i].output || constant_[i]) return false;
    for (int d = 0; d < inner_; ++d)
      if (loop_.strides[i][d] != 0) return false;
    return true;
  }

  void run_short_rows() const {
    const std::int64_t width = std::min(loop_.numel, block_);
    parallel_for(loop_.numel, chunk_, [&](std::int64_t begin, std::int64_t end) {
      const Task buffers(*this, width + row_);
      fill_constants(buffers, width);
      void* pointers[kMaxOperands];
      bool repeated[kMaxOperands];
      RunWalker* walker[kMaxOperands];
      alignas(RunWalker) std::byte walkers[kMaxOperands * sizeof(RunWalker)];
      for (int i = 0; i < count_; ++i) {
        walker[i] = new (walkers + static_cast<std::size_t>(i) * sizeof(RunWalker))
            RunWalker(loop_.sizes, loop_.strides[i], loop_.ndim, begin);
        repeated[i] = repeats(i);
        if (!repeated[i]) continue;
        const auto size = static_cast<std::int64_t>(tensor::size_of(operands_[i].compute));
        for (std::int64_t done = 0; done < width + row_; done += row_)
          load(i, buffers.of(i) + done * size, operands_[i].data, stride_[i],
               std::min(row_, width + row_ - done));
      }
      // Calls f(start, done, run) for the runs that the next n elements of operand i are made of.
      const auto for_runs = [&](int i, std::int64_t n, auto&& f) {
        for (std::int64_t done = 0; done < n;) {
          const std::int64_t run = std::min(n - done, walker[i]->left());
          f(operands_[i].data + walker[i]->offset() * operands_[i].size(),
            done * static_cast<std::int64_t>(tensor::size_of(operands_[i].compute)), run);
          walker[i]->advance(run);
          done += run;
        }
      };
      for (std::int64_t at = begin; at < end;) {
        const std::int64_t n = std::min(end - at, block_);
        for (int i = 0; i < count_; ++i) {
          const BlockOperand& o = operands_[i];
          pointers[i] = o.scalar ? o.data : buffers.of(i);
          if (constant_[i]) continue;
          if (repeated[i])
            pointers[i] =
                buffers.of(i) + at % row_ * static_cast<std::int64_t>(tensor::size_of(o.compute));
          else if (dense_[i] && !streams_[i])
            pointers[i] = o.data + at * o.size();
          else if (!o.output)
            for_runs(i, n, [&](std::byte* from, std::int64_t offset, std::int64_t run) {
              load(i, buffers.of(i) + offset, from, stride_[i], run);
            });
        }
        call(pointers, n);
        for (int i = 0; i < count_; ++i) {
          if (!operands_[i].output || pointers[i] != buffers.of(i)) continue;
          if (dense_[i]) {
            flush(i, operands_[i].data + at * operands_[i].size(), buffers.of(i), n, buffers,
                  Ahead());
            continue;
          }
          for_runs(i, n, [&](std::byte* to, std::int64_t offset, std::int64_t run) {
            flush(i, to, buffers.of(i) + offset, run, buffers, Ahead());
          });
        }
        at += n;
      }
    });
  }

  bool turned(int i, int axis) const {
    return !operands_[i].output && !constant_[i] && stride_[i] != 0 && stride_[i] != 1 &&
           loop_.strides[i][axis] == 1;
  }

  // The axis along which an input's neighbours lie, if that is not the innermost; -1 if there is
  // none.
  int panel_axis() const {
    for (int i = 0; i < count_; ++i)
      for (int d = 0; d < inner_; ++d)
        if (turned(i, d) && loop_.sizes[d] >= kFewest && row_ >= kPanelRow) return d;
    return -1;
  }

  void run_panels(int axis) const {
    bool turns[kMaxOperands];
    std::int64_t widest = 1;
    int turned_count = 0;
    for (int i = 0; i < count_; ++i) {
      turns[i] = turned(i, axis);
      turned_count += turns[i];
      if (turns[i]) widest = std::max(widest, operands_[i].size());
    }
    const std::int64_t rows = loop_.sizes[axis], height = std::min(rows, kLine / widest);
    const std::int64_t width = std::min(row_, block_);
    const std::int64_t down = (rows + height - 1) / height, across = (row_ + width - 1) / width;
    const std::int64_t outer = loop_.numel / (rows * row_);
    const std::int64_t pitch = width + kLine;  // not a power of two, or rows share cache sets
    const std::int64_t at_once = std::max<std::int64_t>(1, chunk_ / (height * width));

    parallel_for(outer * across * down, at_once, [&](std::int64_t begin, std::int64_t end) {
      const Task buffers(*this, width);
      const std::int64_t panel_bytes = height * pitch * 8;
      const Scratch panels(static_cast<std::size_t>(panel_bytes * turned_count));
      fill_constants(buffers, width);
      for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t top = p % down * height, left = p / down % across * width;
        const std::int64_t high = std::min(height, rows - top), n = std::min(width, row_ - left);
        std::byte* corner[kMaxOperands];
        std::byte* panel[kMaxOperands];
        auto* space = static_cast<std::byte*>(panels.data());
        for (int i = 0; i < count_; ++i) {
          std::int64_t offset = top * loop_.strides[i][axis] + left * stride_[i];
          std::int64_t rest = p / (down * across);
          for (int d = inner_ - 1; d >= 0; --d) {
            if (d == axis) continue;
            offset += rest % loop_.sizes[d] * loop_.strides[i][d];
            rest /= loop_.sizes[d];
          }
          const std::int64_t size = operands_[i].size();
          corner[i] = operands_[i].data + offset * size;
          if (!turns[i]) continue;
          panel[i] = space;
          space += panel_bytes;
          k_.transpose[__builtin_ctzll(static_cast<unsigned long long>(size))](
              panel[i], pitch, corner[i], stride_[i], high, n);
        }
        if (kernel_ == nullptr) {
          for (std::int64_t r = 0; r < high; ++r)
            copy_piece(corner[0] + r * loop_.strides[0][axis] * operands_[0].size(),
                       panel[1] + r * pitch * operands_[1].size(), 1, n, buffers, Ahead());
          continue;
        }
        for (std::int64_t r = 0; r < high; ++r) {
          std::byte* at[kMaxOperands];
          void* pointers[kMaxOperands];
          for (int i = 0; i < count_; ++i) {
            const std::int64_t size = operands_[i].size();
            if (turns[i]) {
              at[i] = panel[i] + r * pitch * size;
              pointers[i] = at[i];
              if (operands_[i].native()) continue;
              load(i, buffers.of(i), at[i], 1, n);
              pointers[i] = buffers.of(i);
            } else {
              at[i] = corner[i] + r * loop_.strides[i][axis] * size;
              pointers[i] = fetch(i, at[i], n, buffers);
            }
          }
          call(pointers, n);
          for (int i = 0; i < count_; ++i)
            if (operands_[i].output && pointers[i] != at[i])
              flush(i, at[i], static_cast<std::byte*>(pointers[i]), n, buffers, Ahead());
        }
      }
    });
  }

  const Kernels& k_ = kernels();
  const Iteration& loop_;
  const BlockOperand* operands_;
  int count_;
  int inner_;
  std::int64_t row_;
  std::int64_t chunk_;
  BlockKernel kernel_;
  void* context_;
  std::int64_t stride_[kMaxOperands] = {};  // along the innermost axis
  bool constant_[kMaxOperands] = {};
  bool dense_[kMaxOperands] = {};
  bool streams_[kMaxOperands] = {};
  bool ahead_[kMaxOperands] = {};  // fetched while a result is streamed
  bool whole_ = true;
  bool scalar_rows_ = false;
  bool in_place_ = false;  // the kernel takes every operand where it is, row by row
  std::int64_t block_ = kBlock;
};

}  // namespace

void run_blocks(const Iteration& loop, const BlockOperand* operands, int count, std::int64_t chunk,
                BlockKernel kernel, void* context) {
  if (loop.numel > 0) BlockLoop(loop, operands, count, chunk, kernel, context).run();
}

}  // namespace lmp::cpu
