#include "cuda/backend.hpp"
#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"

namespace lmp::cuda {
namespace {

using tensor::detail::BadMatrix;
using CpuBackend = tensor::detail::Backend;

/// Runs f(cpu, to), where `to` is as `out` in the CPU's memory, and uploads what it writes. What
/// these entries return, whether a matrix is bad, has the host wait for the GPU in any case, and a
/// factorisation of one small matrix, the usual case, is no work for a GPU.
template <class F>
BadMatrix on_cpu(const Tensor& out, F&& f) {
  const tensor::Device cpu;
  const Tensor to = tensor::detail::allocate(out.shape(), out.type(), cpu);
  const BadMatrix bad = f(tensor::detail::backend(cpu), to);
  if (bad.index < 0)  // else `out` is not to be used
    tensor::detail::backend(out.device())
        .upload(out, to.data(), to.numel() * tensor::size_of(to.type()));
  return bad;
}

Tensor copied(const Tensor& x) { return x.to(tensor::Device{}); }

}  // namespace

BadMatrix solve(const Tensor& out, const Tensor& a, const Tensor& b) {
  return on_cpu(out, [&](const CpuBackend& cpu, const Tensor& to) {
    return cpu.solve(to, copied(a), copied(b));
  });
}

BadMatrix inverse(const Tensor& out, const Tensor& a) {
  return on_cpu(
      out, [&](const CpuBackend& cpu, const Tensor& to) { return cpu.inverse(to, copied(a)); });
}

BadMatrix cholesky(const Tensor& out, const Tensor& a) {
  return on_cpu(
      out, [&](const CpuBackend& cpu, const Tensor& to) { return cpu.cholesky(to, copied(a)); });
}

void determinant(bool log, const Tensor& out, const Tensor& a) {
  on_cpu(out, [&](const CpuBackend& cpu, const Tensor& to) {
    cpu.determinant(log, to, copied(a));
    return BadMatrix{};
  });
}

}  // namespace lmp::cuda
