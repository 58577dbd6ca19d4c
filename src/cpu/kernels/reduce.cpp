#include "cpu/kernels/table.hpp"

namespace lmp::cpu::LMP_ISA {
namespace {

struct SumOf {
  template <class T>
  [[gnu::always_inline]] static T apply(T a, T b) {
    return add(a, b);
  }
};
struct ProdOf {
  template <class T>
  [[gnu::always_inline]] static T apply(T a, T b) {
    return mul(a, b);
  }
};
struct MaxOf {
  template <class T>
  [[gnu::always_inline]] static T apply(T a, T b) {
    return maximum(a, b);
  }
};
struct MinOf {
  template <class T>
  [[gnu::always_inline]] static T apply(T a, T b) {
    return minimum(a, b);
  }
};

// Lanes that each take every kLanes-th element: enough to keep the adders of four wide vectors
// busy. The tree that joins them is fixed, so the result depends on n alone.
template <class Op, class T>
void reduce(void* out, const void* in, std::size_t n) {
  constexpr std::size_t kLanes = 256 / sizeof(T);
  const auto* x = static_cast<const T*>(in);
  if (n < kLanes) {
    T total = x[0];
    for (std::size_t i = 1; i < n; ++i) total = Op::apply(total, x[i]);
    *static_cast<T*>(out) = total;
    return;
  }
  T lanes[kLanes];
  for (std::size_t j = 0; j < kLanes; ++j) lanes[j] = x[j];
  std::size_t i = kLanes;
  for (; i + kLanes <= n; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) lanes[j] = Op::apply(lanes[j], x[i + j]);
  for (std::size_t j = 0; i + j < n; ++j) lanes[j] = Op::apply(lanes[j], x[i + j]);
  for (std::size_t width = kLanes / 2; width > 0; width /= 2)
    for (std::size_t j = 0; j < width; ++j) lanes[j] = Op::apply(lanes[j], lanes[j + width]);
  *static_cast<T*>(out) = lanes[0];
}

template <bool kMax, class T>
[[gnu::always_inline]] inline bool beats(T candidate, T best) {
  if constexpr (kIsFloat<T>) {
    if (isnan(best)) return false;
    if (isnan(candidate)) return true;
  }
  return kMax ? candidate > best : candidate < best;
}

template <bool kMax, class T>
void arg_row(void* best, std::int64_t* index, const void* in, std::int64_t position,
             std::size_t n) {
  const auto* x = static_cast<const T*>(in);
  T top = *static_cast<T*>(best);
  for (std::size_t i = 0; i < n; ++i) {
    if (*index < 0 || beats<kMax>(x[i], top)) {
      top = x[i];
      *index = position + static_cast<std::int64_t>(i);
    }
  }
  *static_cast<T*>(best) = top;
}

template <bool kMax, class T>
void arg_columns(void* best, std::int64_t* index, const void* in, std::int64_t position,
                 std::size_t n) {
  const auto* x = static_cast<const T*>(in);
  auto* top = static_cast<T*>(best);
  for (std::size_t i = 0; i < n; ++i) {
    const bool wins = position == 0 || beats<kMax>(x[i], top[i]);
    top[i] = wins ? x[i] : top[i];
    index[i] = wins ? position : index[i];
  }
}

template <class T>
void cumsum(void* out, const void* in, std::size_t n) {
  // A running float sum would lose what a pairwise one keeps, so it runs in double.
  auto* o = static_cast<T*>(out);
  const auto* x = static_cast<const T*>(in);
  if constexpr (kIsFloat<T>) {
    double total = 0;
    for (std::size_t i = 0; i < n; ++i) o[i] = static_cast<T>(total += static_cast<double>(x[i]));
  } else {
    T total{};
    for (std::size_t i = 0; i < n; ++i) o[i] = total = add(total, x[i]);
  }
}

}  // namespace

void fill_reduce(Kernels& kernels) {
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    using T = ComputeType<k>;
    kernels.reduce[static_cast<int>(Reduction::Max)][k] = &reduce<MaxOf, T>;
    kernels.reduce[static_cast<int>(Reduction::Min)][k] = &reduce<MinOf, T>;
    kernels.arg_row[0][k] = &arg_row<true, T>;
    kernels.arg_row[1][k] = &arg_row<false, T>;
    kernels.arg_columns[0][k] = &arg_columns<true, T>;
    kernels.arg_columns[1][k] = &arg_columns<false, T>;
    if constexpr (k >= 5) {
      kernels.reduce[static_cast<int>(Reduction::Sum)][k] = &reduce<SumOf, T>;
      kernels.reduce[static_cast<int>(Reduction::Prod)][k] = &reduce<ProdOf, T>;
      kernels.cumsum[k] = &cumsum<T>;
    }
  });
}

}  // namespace lmp::cpu::LMP_ISA
