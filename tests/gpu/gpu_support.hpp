#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <optional>
#include <string>

#include "autograd_support.hpp"
#include "cuda/runtime.hpp"
#include "lamppp/cuda.hpp"
#include "sweep.hpp"
#include "tensor/access.hpp"

/// What the tests that need a GPU share.
namespace lmp::testing {

/// Set, the tests compare the CPU with itself: a rehearsal where there is no GPU.
inline bool rehearsing() { return std::getenv("LAMPPP_GPU_REHEARSAL") != nullptr; }
/// Set, sweeps run a case or two of each kind, for tools that slow everything down.
inline bool quick() { return std::getenv("LAMPPP_GPU_QUICK") != nullptr; }
inline int rounds(int all) { return quick() ? (all + 9) / 10 : all; }

inline bool have_gpu() { return rehearsing() || cuda::device_count() > 0; }
inline Device gpu() { return rehearsing() ? DeviceType::CPU : DeviceType::CUDA; }

/// Skips itself by name where there is no GPU.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!have_gpu()) GTEST_SKIP() << "there is no GPU here";
    cuda::set_deterministic(true);
  }
};
template <class T>
class GpuTestWith : public GpuTest, public ::testing::WithParamInterface<T> {};

inline Tensor on_cpu(const Tensor& x) { return x.to(DeviceType::CPU); }
inline Variable on_cpu(const Variable& x) { return x.detach().to(DeviceType::CPU); }

/// The whole memory that x is a view of, as it lies on x's device.
inline Tensor memory_of(const Tensor& x) {
  const tensor::detail::Storage* storage = tensor::TensorAccess::storage(x);
  const auto n = static_cast<std::int64_t>(storage->bytes / size_of(x.type()));
  const auto first =
      (static_cast<std::byte*>(x.data()) - storage->data) / static_cast<long>(size_of(x.type()));
  return tensor::TensorAccess::view(x, -first, Shape{n}, IntList{1});
}

/// The same view of a copy of the same memory on the GPU.
inline Tensor mirror(const Tensor& x) {
  const Tensor memory = memory_of(x);
  const std::int64_t offset =
      (static_cast<std::byte*>(x.data()) - static_cast<std::byte*>(memory.data())) /
      static_cast<long>(size_of(x.type()));
  return tensor::TensorAccess::view(rehearsing() ? memory.clone() : memory.to(gpu()), offset,
                                    x.shape(), x.strides());
}

/// How far a GPU may be from the CPU: |gpu - cpu| <= absolute + relative * |cpu|.
struct Tolerance {
  double relative = 0, absolute = 0;
};
inline Tolerance tolerance(DataType type) {
  switch (type) {
    case DataType::Float16:
      return {1e-3, 1e-5};
    case DataType::BFloat16:
      return {1.6e-2, 1e-5};
    case DataType::Float32:
      return {1.3e-6, 1e-5};
    case DataType::Float64:
      return {1e-7, 1e-7};
    default:
      return {};
  }
}
/// For gradients and whatever else rounds several times on the way.
inline Tolerance loose(DataType type) {
  switch (type) {
    case DataType::Float16:
      return {4e-3, 4e-3};
    case DataType::BFloat16:
      return {3e-2, 3e-2};
    case DataType::Float32:
      return {1e-5, 1e-5};
    default:
      return tolerance(type);
  }
}

/// The same type, shape and values, NaN for NaN; without a tolerance the same bits but for NaN's.
inline ::testing::AssertionResult close(const Tensor& cpu, const Tensor& on_gpu,
                                        std::optional<Tolerance> allowed = std::nullopt) {
  if (cpu.type() != on_gpu.type() || cpu.shape() != on_gpu.shape())
    return ::testing::AssertionFailure() << "the GPU gives " << on_gpu.type() << on_gpu.shape()
                                         << ", the CPU " << cpu.type() << cpu.shape();
  if (on_gpu.device() != gpu())
    return ::testing::AssertionFailure() << "the result is on " << on_gpu.device();
  const Tolerance bound = allowed.value_or(tolerance(cpu.type()));
  const bool exact = bound.relative == 0 && bound.absolute == 0;
  const std::vector<sweep::Wide> want = sweep::read(cpu), got = sweep::read(on_cpu(on_gpu));
  double worst = 0;
  std::size_t where = 0, count = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const sweep::Wide a = want[i], b = got[i];
    double excess = 0;
    if (exact) {
      const bool same =
          std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
      excess = same ? 0 : 2;
    } else if (std::isnan(a) || std::isnan(b) || std::isinf(a) || std::isinf(b)) {
      excess = a == b || (std::isnan(a) && std::isnan(b)) ? 0 : 2;
    } else {
      const sweep::Wide limit = bound.absolute + bound.relative * std::abs(a);
      excess = static_cast<double>(std::abs(a - b) / limit);
    }
    if (excess <= 1) continue;
    ++count;
    if (excess > worst) worst = excess, where = i;
  }
  if (count == 0) return ::testing::AssertionSuccess();
  ::testing::AssertionResult failure = ::testing::AssertionFailure();
  failure << count << " of " << want.size() << " elements of " << cpu.type() << cpu.shape()
          << " differ; worst is element " << where << ": CPU " << static_cast<double>(want[where])
          << ", GPU " << static_cast<double>(got[where]);
  return failure;
}
inline ::testing::AssertionResult same(const Tensor& cpu, const Tensor& on_gpu) {
  return close(cpu, on_gpu, Tolerance{});
}

/// What f returns, or what it throws.
struct Outcome {
  std::vector<Tensor> values;
  std::string error;
};
inline Outcome outcome(const std::function<std::vector<Tensor>()>& f) {
  try {
    return {f(), {}};
  } catch (const Error& error) {
    return {{}, error.what()};
  }
}
/// f of the CPU's tensors and of the GPU's: both give close results, or both throw the same.
inline void expect_alike(const std::string& what,
                         const std::function<std::vector<Tensor>(const std::vector<Tensor>&)>& f,
                         const std::vector<Tensor>& in,
                         std::function<Tolerance(DataType)> allowed = tolerance) {
  std::vector<Tensor> mirrored;
  for (const Tensor& x : in) mirrored.push_back(x.defined() ? mirror(x) : x);
  const Outcome cpu = outcome([&] { return f(in); });
  const Outcome other = outcome([&] { return f(mirrored); });
  ASSERT_EQ(other.error, cpu.error) << what;
  ASSERT_EQ(other.values.size(), cpu.values.size()) << what;
  for (std::size_t i = 0; i < cpu.values.size(); ++i)
    EXPECT_TRUE(close(cpu.values[i], other.values[i], allowed(cpu.values[i].type())))
        << what << ", result " << i;
}

}  // namespace lmp::testing
