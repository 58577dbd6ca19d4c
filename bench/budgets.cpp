// What the smallest and the largest operations cost, against the budgets of docs/design.md:
// nanoseconds an op on 8 elements, GB/s on 16 Mi elements, GFLOP/s of products. Runs on the threads
// the library was given (LAMPPP_NUM_THREADS=1 for one).

#include <benchmark/benchmark.h>

#include <lamppp/lamppp.hpp>

namespace {

using lmp::DataType;
using lmp::DeviceType;
using lmp::Tensor;
using lmp::Variable;

void add_small(benchmark::State& state) {
  const Tensor a = lmp::rand({8}), b = lmp::rand({8});
  for (auto _ : state) benchmark::DoNotOptimize((a + b).data());
}
BENCHMARK(add_small);

void add_number_small(benchmark::State& state) {
  const Tensor a = lmp::rand({8});
  for (auto _ : state) benchmark::DoNotOptimize((a + 1).data());
}
BENCHMARK(add_number_small);

void exp_small(benchmark::State& state) {
  const Tensor a = lmp::rand({8});
  for (auto _ : state) benchmark::DoNotOptimize(lmp::exp(a).data());
}
BENCHMARK(exp_small);

void square_recorded(benchmark::State& state) {
  const Variable x(lmp::rand({8}), true);
  for (auto _ : state) benchmark::DoNotOptimize((x * x).data().data());
}
BENCHMARK(square_recorded);

void sum_of_squares_backward(benchmark::State& state) {
  const Variable x(lmp::rand({8}), true);
  for (auto _ : state) {
    x.zero_grad();
    lmp::sum(x * x).backward();
  }
}
BENCHMARK(sum_of_squares_backward);

void chain_of_20_backward(benchmark::State& state) {
  const Variable x(lmp::rand({8}), true);
  for (auto _ : state) {
    x.zero_grad();
    Variable y = x;
    for (int i = 0; i < 20; ++i) y = y * x;
    y.backward();
  }
}
BENCHMARK(chain_of_20_backward);

constexpr std::int64_t kLarge = 16 << 20;

void bandwidth(benchmark::State& state, double arrays) {
  state.counters["GB/s"] = benchmark::Counter(static_cast<double>(kLarge) * 4 * arrays,
                                              benchmark::Counter::kIsIterationInvariantRate,
                                              benchmark::Counter::OneK::kIs1000);
}

void copy_large(benchmark::State& state) {
  const Tensor a = lmp::rand({kLarge}), b = lmp::empty({kLarge});
  for (auto _ : state) b.copy(a);
  bandwidth(state, 2);
}
BENCHMARK(copy_large)->UseRealTime();

void add_large(benchmark::State& state) {
  const Tensor a = lmp::rand({kLarge}), b = lmp::rand({kLarge});
  for (auto _ : state) benchmark::DoNotOptimize((a + b).data());
  bandwidth(state, 3);
}
BENCHMARK(add_large)->UseRealTime();

void exp_large(benchmark::State& state) {
  const Tensor a = lmp::rand({kLarge});
  for (auto _ : state) benchmark::DoNotOptimize(lmp::exp(a).data());
  bandwidth(state, 2);
}
BENCHMARK(exp_large)->UseRealTime();

void sum_large(benchmark::State& state) {
  const Tensor a = lmp::rand({kLarge});
  for (auto _ : state) benchmark::DoNotOptimize(lmp::sum(a).data());
  bandwidth(state, 1);
}
BENCHMARK(sum_large)->UseRealTime();

void matmul(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  const auto type = static_cast<DataType>(state.range(1));
  const Tensor a = lmp::rand({n, n}, DeviceType::CPU, type),
               b = lmp::rand({n, n}, DeviceType::CPU, type);
  for (auto _ : state) benchmark::DoNotOptimize(lmp::matmul(a, b).data());
  state.counters["GFLOP/s"] = benchmark::Counter(
      2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n),
      benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::OneK::kIs1000);
}
BENCHMARK(matmul)
    ->ArgsProduct({{16, 64, 256, 1024},
                   {static_cast<int>(DataType::Float32), static_cast<int>(DataType::Float64)}})
    ->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
