#include "cpu/kernels/table.hpp"

namespace lmp::cpu::LMP_ISA {
namespace {

// What sums add up one after the other; longer ones are halved.
constexpr std::size_t kStraight = 4096;

// The sum of term(i) over [begin, begin + n), in lanes that a fixed tree joins: the result depends
// on n alone.
template <class T, class F>
T sum_of(const F& term, std::size_t begin, std::size_t n) {
  constexpr std::size_t kLanes = 128 / sizeof(T);
  if (n > kStraight) {
    const std::size_t half = (n / 2 + kStraight - 1) / kStraight * kStraight;
    return sum_of<T>(term, begin, half) + sum_of<T>(term, begin + half, n - half);
  }
  T total{};
  std::size_t i = 0;
  if (n >= kLanes) {
    T lanes[kLanes] = {};
    for (; i + kLanes <= n; i += kLanes)
      for (std::size_t j = 0; j < kLanes; ++j) lanes[j] += term(begin + i + j);
    for (std::size_t width = kLanes / 2; width > 0; width /= 2)
      for (std::size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
    total = lanes[0];
  }
  for (; i < n; ++i) total += term(begin + i);
  return total;
}

template <class T>
[[gnu::always_inline]] inline T max_of(const T* x, std::size_t n) {
  constexpr std::size_t kLanes = 128 / sizeof(T);
  T top = x[0];
  std::size_t i = 0;
  if (n >= kLanes) {
    T lanes[kLanes];
    for (std::size_t j = 0; j < kLanes; ++j) lanes[j] = top;
    for (; i + kLanes <= n; i += kLanes)
      for (std::size_t j = 0; j < kLanes; ++j) lanes[j] = maximum(x[i + j], lanes[j]);
    for (std::size_t width = kLanes / 2; width > 0; width /= 2)
      for (std::size_t j = 0; j < width; ++j) lanes[j] = maximum(lanes[j], lanes[j + width]);
    top = lanes[0];
  }
  for (; i < n; ++i) top = maximum(x[i], top);
  return top;
}

template <class T>
void add_bias(void* out, const void* bias, std::size_t rows, std::size_t columns) {
  const auto* b = static_cast<const T*>(bias);
  for (std::size_t r = 0; r < rows; ++r) {
    T* o = static_cast<T*>(out) + r * columns;
    LMP_VECTORIZE
    for (std::size_t c = 0; c < columns; ++c) o[c] += b[c];
  }
}

// ---- Cross-entropy ----

// exp(logit - largest), over the sum of that if kNormalised, for whole rows at a time, as many as
// fit a block, so that few classes fill vectors as well as many do: use(row, first column, values,
// how many). The largest is subtracted first, which is exact where it matters.
template <class T, bool kNormalised, class Use>
[[gnu::always_inline]] inline void exp_rows(const CrossEntropyArgs& a, Use use) {
  constexpr auto kWidth = static_cast<std::size_t>(kBlock);
  const auto* x = static_cast<const T*>(a.logits);
  const auto* stats = static_cast<const T*>(a.stats);
  alignas(64) T values[kWidth];
  const std::size_t together = a.classes < kWidth ? kWidth / a.classes : 1;
  for (std::size_t first = 0; first < a.rows; first += together) {
    const std::size_t count = first + together < a.rows ? together : a.rows - first;
    for (std::size_t column = 0; column < a.classes; column += kWidth) {
      const std::size_t n = column + kWidth < a.classes ? kWidth : a.classes - column;
      for (std::size_t r = 0; r < count; ++r) {
        const T* const row = x + (first + r) * a.classes + column;
        const T top = stats[2 * (first + r)];
        const T log_sum = kNormalised ? stats[2 * (first + r) + 1] : T{};
        LMP_VECTORIZE
        for (std::size_t c = 0; c < n; ++c) values[r * n + c] = row[c] - top - log_sum;
      }
      const std::size_t all = count * n;
      LMP_VECTORIZE
      for (std::size_t i = 0; i < all; ++i) values[i] = exp(values[i]);
      for (std::size_t r = 0; r < count; ++r) use(first + r, column, values + r * n, n);
    }
  }
}

// What label smoothing gives each class of the target.
template <class T>
T spread_of(const CrossEntropyArgs& a) {
  return static_cast<T>(a.smoothing / static_cast<double>(a.classes));
}

template <class T>
void cross_entropy(void* losses, void* gradient, const CrossEntropyArgs& a) {
  const auto* x = static_cast<const T*>(a.logits);
  auto* const stats = static_cast<T*>(a.stats);
  for (std::size_t r = 0; r < a.rows; ++r) {
    stats[2 * r] = max_of(x + r * a.classes, a.classes);
    stats[2 * r + 1] = 0;
  }
  auto* const slopes = static_cast<T*>(gradient);
  exp_rows<T, false>(a, [&](std::size_t r, std::size_t column, const T* e, std::size_t n) {
    stats[2 * r + 1] += sum_of<T>([e](std::size_t i) { return e[i]; }, 0, n);
    if (!slopes) return;
    T* const to = slopes + r * a.classes + column;
    LMP_VECTORIZE
    for (std::size_t c = 0; c < n; ++c) to[c] = e[c];
  });
  const T scale = static_cast<T>(a.scale), spread = scale * spread_of<T>(a);
  for (std::size_t r = 0; slopes && r < a.rows; ++r) {
    T* const to = slopes + r * a.classes;
    const bool kept = a.labels[r] != a.ignored;
    const T by = scale / stats[2 * r + 1];
    LMP_VECTORIZE
    for (std::size_t c = 0; c < a.classes; ++c) to[c] = kept ? by * to[c] - spread : T{};
    if (kept) to[a.labels[r]] -= scale * static_cast<T>(1 - a.smoothing);
  }
  LMP_VECTORIZE
  for (std::size_t r = 0; r < a.rows; ++r) stats[2 * r + 1] = log(stats[2 * r + 1]);
  auto* const loss = static_cast<T*>(losses);
  const T smoothing = static_cast<T>(a.smoothing);
  for (std::size_t r = 0; r < a.rows; ++r) {
    if (a.labels[r] == a.ignored) {
      loss[r] = 0;
      continue;
    }
    const T* const row = x + r * a.classes;
    const T top = stats[2 * r], log_sum = stats[2 * r + 1];
    loss[r] = log_sum - (row[a.labels[r]] - top);
    if (a.smoothing == 0) continue;
    const T all = sum_of<T>([row, top](std::size_t i) { return row[i] - top; }, 0, a.classes);
    loss[r] = (1 - smoothing) * loss[r] + smoothing * (log_sum - all / static_cast<T>(a.classes));
  }
}

template <class T>
void cross_entropy_backward(void* out, const void* gradient, const CrossEntropyArgs& a) {
  const auto* g = static_cast<const T*>(gradient);
  auto* const o = static_cast<T*>(out);
  const T spread = spread_of<T>(a);
  const T picked = static_cast<T>(1 - a.smoothing);
  exp_rows<T, true>(a, [&](std::size_t r, std::size_t column, const T* p, std::size_t n) {
    T* const to = o + r * a.classes + column;
    const bool kept = a.labels[r] != a.ignored;
    const T by = g[r];
    LMP_VECTORIZE
    for (std::size_t c = 0; c < n; ++c) to[c] = kept ? by * (p[c] - spread) : T{};
    const std::size_t label = static_cast<std::size_t>(a.labels[r]) - column;
    if (kept && label < n) to[label] = by * (p[label] - spread - picked);
  });
}

// ---- Normalisation ----

template <bool kCentered, class T>
void normalize(void* out, const NormalizeArgs& a) {
  const auto* w = static_cast<const T*>(a.weight);
  const auto* b = static_cast<const T*>(a.bias);
  const std::size_t n = a.columns;
  const T count = static_cast<T>(n);
  for (std::size_t r = 0; r < a.rows; ++r) {
    const T* const x = static_cast<const T*>(a.x) + r * n;
    T* const o = static_cast<T*>(out) + r * n;
    T* const stats = static_cast<T*>(a.stats) + 2 * r;
    T mean{};
    if constexpr (kCentered) mean = sum_of<T>([x](std::size_t i) { return x[i]; }, 0, n) / count;
    const T squares = sum_of<T>(
        [x, mean](std::size_t i) {
          const T d = x[i] - mean;
          return d * d;
        },
        0, n);
    const T scale = 1 / sqrt(squares / count + static_cast<T>(a.eps));
    stats[0] = mean;
    stats[1] = scale;
    if (kCentered && b) {
      LMP_VECTORIZE
      for (std::size_t i = 0; i < n; ++i) o[i] = (x[i] - mean) * scale * w[i] + b[i];
    } else {
      LMP_VECTORIZE
      for (std::size_t i = 0; i < n; ++i) o[i] = (x[i] - mean) * scale * w[i];
    }
  }
}

template <bool kCentered, class T>
void normalize_backward(void* gx, bool add, void* gw, void* gb, const void* gradient,
                        const NormalizeArgs& a) {
  const auto* w = static_cast<const T*>(a.weight);
  auto* const to_weight = static_cast<T*>(gw);
  auto* const to_bias = static_cast<T*>(gb);
  const std::size_t n = a.columns;
  const T count = static_cast<T>(n);
  for (std::size_t r = 0; r < a.rows; ++r) {
    const T* const x = static_cast<const T*>(a.x) + r * n;
    const T* const g = static_cast<const T*>(gradient) + r * n;
    const T mean = static_cast<const T*>(a.stats)[2 * r];
    const T scale = static_cast<const T*>(a.stats)[2 * r + 1];
    if (gx) {
      T* const o = static_cast<T*>(gx) + r * n;
      const T along =
          sum_of<T>([=](std::size_t i) { return g[i] * w[i] * ((x[i] - mean) * scale); }, 0, n) /
          count;
      T shift{};
      if constexpr (kCentered)
        shift = sum_of<T>([=](std::size_t i) { return g[i] * w[i]; }, 0, n) / count;
      const auto slope = [=](std::size_t i) {
        return scale * (g[i] * w[i] - shift - (x[i] - mean) * scale * along);
      };
      if (add) {
        LMP_VECTORIZE
        for (std::size_t i = 0; i < n; ++i) o[i] += slope(i);
      } else {
        LMP_VECTORIZE
        for (std::size_t i = 0; i < n; ++i) o[i] = slope(i);
      }
    }
    if (to_weight) {
      LMP_VECTORIZE
      for (std::size_t i = 0; i < n; ++i) to_weight[i] += g[i] * ((x[i] - mean) * scale);
    }
    if (to_bias) {
      LMP_VECTORIZE
      for (std::size_t i = 0; i < n; ++i) to_bias[i] += g[i];
    }
  }
}

// ---- Dropout ----

template <class T>
void drop(void* out, const void* in, const std::uint32_t* words, double keep, std::size_t n) {
  auto* o = static_cast<T*>(out);
  const auto* x = static_cast<const T*>(in);
  const float below = static_cast<float>(keep);
  const T scale = static_cast<T>(1 / keep);
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) {
    // The number that rand() makes of the word.
    o[i] = uniform_at<float>(words, i) < below ? x[i] * scale : T{};
  }
}

// ---- Steps of optimisers ----

// The gradient of what goes down. A decay of 0 leaves out a parameter that may be infinite.
template <class T>
[[gnu::always_inline]] inline T downhill(T g, T p, T sign, T decay) {
  return decay != 0 ? sign * g + decay * p : sign * g;
}

template <class T>
void sgd(void* parameter, const void* gradient, void* momentum, const SgdArgs& a, std::size_t n) {
  auto* p = static_cast<T*>(parameter);
  const auto* g = static_cast<const T*>(gradient);
  auto* m = static_cast<T*>(momentum);
  const T sign = a.maximize ? T{-1} : T{1};
  const T lr = static_cast<T>(a.lr), decay = static_cast<T>(a.weight_decay);
  const T mu = static_cast<T>(a.momentum), taken = static_cast<T>(1 - a.dampening);
  if (!m) {
    LMP_VECTORIZE
    for (std::size_t i = 0; i < n; ++i) p[i] -= lr * downhill(g[i], p[i], sign, decay);
    return;
  }
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) {
    const T d = downhill(g[i], p[i], sign, decay);
    const T moved = mu * m[i] + taken * d;
    m[i] = moved;
    p[i] -= lr * (a.nesterov ? d + mu * moved : moved);
  }
}

template <class T>
void adam(void* parameter, const void* gradient, void* first, void* second, const AdamArgs& a,
          std::size_t n) {
  auto* p = static_cast<T*>(parameter);
  const auto* g = static_cast<const T*>(gradient);
  auto* m = static_cast<T*>(first);
  auto* v = static_cast<T*>(second);
  const T sign = a.maximize ? T{-1} : T{1};
  const T decay = static_cast<T>(a.weight_decay), kept = static_cast<T>(a.kept);
  const T b1 = static_cast<T>(1 - a.beta1), b2 = static_cast<T>(a.beta2);
  const T b2_rest = static_cast<T>(1 - a.beta2), eps = static_cast<T>(a.eps);
  const T rate = static_cast<T>(a.rate), root = static_cast<T>(a.root);
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) {
    const T d = downhill(g[i], p[i], sign, decay);
    const T mean = m[i] + b1 * (d - m[i]);
    const T square = b2 * v[i] + b2_rest * (d * d);
    m[i] = mean;
    v[i] = square;
    p[i] = p[i] * kept - rate * mean / (sqrt(square) * root + eps);
  }
}

template <class T>
constexpr CompositeKernels composites() {
  return {&add_bias<T>,
          &cross_entropy<T>,
          &cross_entropy_backward<T>,
          {&normalize<false, T>, &normalize<true, T>},
          {&normalize_backward<false, T>, &normalize_backward<true, T>},
          &drop<T>,
          &sgd<T>,
          &adam<T>};
}

}  // namespace

void fill_composites(Kernels& kernels) {
  kernels.composites[0] = composites<float>();
  kernels.composites[1] = composites<double>();
}

}  // namespace lmp::cpu::LMP_ISA
