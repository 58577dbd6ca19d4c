#include "tensor/matmul.hpp"

#include "tensor/checks.hpp"
#include "tensor/iteration.hpp"

namespace lmp::tensor::detail {

MatmulArgs transposed(const MatmulArgs& args) {
  MatmulArgs t = args;
  t.m = args.n;
  t.n = args.m;
  t.a = args.b;
  t.a_batch = args.b_batch;
  t.a_row = args.b_col;
  t.a_col = args.b_row;
  t.b = args.a;
  t.b_batch = args.a_batch;
  t.b_row = args.a_col;
  t.b_col = args.a_row;
  return t;
}

void for_matmuls(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate,
                 void (*body)(void*, const MatmulArgs&), void* context) {
  const int n = out.ndim();
  const auto at = [](const IntList& list, int i) { return list[static_cast<std::size_t>(i)]; };
  IntList batch, out_strides, a_batch, b_batch;
  // An operand's strides with its batch axes broadcast to the result's.
  const auto batched = [&](const Tensor& x) {
    IntList shape(out.shape());
    for (int back = 1; back <= 2; ++back)
      shape[static_cast<std::size_t>(n - back)] = x.shape().dim(x.ndim() - back);
    return broadcast_strides(x.shape(), x.strides(), Shape(shape));
  };
  const IntList a_strides = batched(a), b_strides = batched(b);
  for (int d = 0; d < n - 2; ++d) {
    batch.push_back(out.shape().dim(d));
    out_strides.push_back(at(out.strides(), d));
    a_batch.push_back(at(a_strides, d));
    b_batch.push_back(at(b_strides, d));
  }
  const IntList all[3] = {out_strides, a_batch, b_batch};
  const Iteration loop(Shape(batch), all, false);
  const int inner = loop.ndim - 1;
  const auto size = static_cast<std::int64_t>(size_of(out.type()));
  MatmulArgs args{};
  args.type = out.type();
  args.accumulate = accumulate;
  args.batch = loop.ndim == 0 ? 1 : loop.sizes[inner];
  args.m = out.shape().dim(n - 2);
  args.n = out.shape().dim(n - 1);
  args.k = a.shape().dim(a.ndim() - 1);
  args.a_batch = loop.ndim == 0 ? 0 : loop.strides[1][inner];
  args.a_row = at(a_strides, n - 2);
  args.a_col = at(a_strides, n - 1);
  args.b_batch = loop.ndim == 0 ? 0 : loop.strides[2][inner];
  args.b_row = at(b_strides, n - 2);
  args.b_col = at(b_strides, n - 1);
  if (loop.numel == 0) return;
  std::int64_t offsets[3] = {};
  for (std::int64_t done = 0; done < loop.numel; done += args.batch) {
    for (int i = 0; i < 3; ++i)
      offsets[i] = RunWalker(loop.sizes, loop.strides[i], loop.ndim, done).offset() * size;
    args.c = static_cast<std::byte*>(out.data()) + offsets[0];
    args.a = static_cast<const std::byte*>(a.data()) + offsets[1];
    args.b = static_cast<const std::byte*>(b.data()) + offsets[2];
    body(context, args);
  }
}

}  // namespace lmp::tensor::detail
