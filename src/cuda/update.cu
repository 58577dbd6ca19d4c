#include <cmath>

#include "cuda/backend.hpp"
#include "cuda/capture.hpp"
#include "cuda/launch.cuh"
#include "cuda/types.cuh"

namespace lmp::cuda {

using tensor::AdamRule;
using tensor::ParameterUpdate;
using tensor::SgdRule;

namespace {

// Note [Optimisers on the GPU]
// A launch takes the parameters that a table in the kernel's arguments has room for, as if they lay
// one behind the other: each block finds the parameter it belongs to. Parameters of one type at one
// step share a launch, as the numbers of the rule are the same for them. In a graph these numbers
// lie on the GPU, and a small kernel makes them anew for each replay.

constexpr int kFlying = 2;

template <class S>
constexpr int kPack = sizeof(S) == 8 ? 2 : 4;
template <class S>
constexpr std::int64_t kBlockElements = std::int64_t{kThreads} * kFlying* kPack<S>;

struct Entry {
  void* parameter;
  const void* gradient;
  void* first;
  void* second;
  void* master;
  std::int64_t numel;
  std::uint32_t block;  // the first of its blocks
};

struct Table {
  static constexpr int kMost = 64;
  Entry entries[kMost];
  int count;
  std::uint32_t blocks;
};

/// The gradient of what goes down. A decay of 0 leaves out a parameter that may be infinite.
template <class C>
__device__ __forceinline__ C downhill(C g, C p, C sign, C decay) {
  return decay != 0 ? sign * g + decay * p : sign * g;
}

template <class C>
struct Sgd {
  static constexpr const char* kName = "sgd_step";
  C lr, momentum, taken, decay, sign;
  bool nesterov;
  static __host__ __device__ Sgd at(const SgdRule& rule, const Pace& pace) {
    return {static_cast<C>(pace.lr),
            static_cast<C>(rule.momentum),
            static_cast<C>(1 - (pace.step == 1 ? 0 : rule.dampening)),
            static_cast<C>(rule.weight_decay),
            rule.maximize ? C{-1} : C{1},
            rule.nesterov};
  }
  static bool same(std::int64_t a, std::int64_t b) { return (a == 1) == (b == 1); }
  __device__ __forceinline__ bool has_first() const { return momentum != 0; }
  __device__ __forceinline__ bool has_second() const { return false; }
  __device__ __forceinline__ void step(C& p, C g, C& m, C&) const {
    C d = downhill(g, p, sign, decay);
    if (has_first()) {
      m = momentum * m + taken * d;
      d = nesterov ? d + momentum * m : m;
    }
    p -= lr * d;
  }
};

template <class C>
struct Adam {
  static constexpr const char* kName = "adam_step";
  C first_taken, second_kept, second_taken, eps, decay, kept, rate, root, sign;
  static __host__ __device__ Adam at(const AdamRule& rule, const Pace& pace) {
    const auto t = static_cast<double>(pace.step);
    return {static_cast<C>(1 - rule.beta1),
            static_cast<C>(rule.beta2),
            static_cast<C>(1 - rule.beta2),
            static_cast<C>(rule.eps),
            static_cast<C>(rule.weight_decay),
            static_cast<C>(1 - pace.lr * rule.decoupled_decay),
            static_cast<C>(pace.lr / (1 - pow(rule.beta1, t))),
            static_cast<C>(1 / sqrt(1 - pow(rule.beta2, t))),
            rule.maximize ? C{-1} : C{1}};
  }
  static bool same(std::int64_t a, std::int64_t b) { return a == b; }
  __device__ __forceinline__ bool has_first() const { return true; }
  __device__ __forceinline__ bool has_second() const { return true; }
  __device__ __forceinline__ void step(C& p, C g, C& m, C& v) const {
    const C d = downhill(g, p, sign, decay);
    m += first_taken * (d - m);
    v = second_kept * v + second_taken * (d * d);
    p = p * kept - rate * m / (sqrt(v) * root + eps);
  }
};

__device__ __forceinline__ bool fits(const void* pointer, int bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<unsigned>(bytes) == 0;
}

template <class S, class Rule>
__global__ void __launch_bounds__(kThreads)
    update(const __grid_constant__ Table table, const Rule given, const Rule* moving) {
  using C = Computed<S>;
  const Rule rule = moving ? *moving : given;
  constexpr int kN = kPack<S>;
  int low = 0;
  for (int high = table.count; high - low > 1;) {
    const int middle = (low + high) / 2;
    (table.entries[middle].block <= blockIdx.x ? low : high) = middle;
  }
  const Entry& e = table.entries[low];
  S* const p = static_cast<S*>(e.parameter);
  const S* const g = static_cast<const S*>(e.gradient);
  C* const first = static_cast<C*>(e.first);
  C* const second = static_cast<C*>(e.second);
  C* const master = static_cast<C*>(e.master);
  const std::int64_t begin = std::int64_t{blockIdx.x - e.block} * kBlockElements<S>;
  const bool aligned = fits(p, sizeof(S) * kN) && fits(g, sizeof(S) * kN) &&
                       fits(first, sizeof(C) * kN) && fits(second, sizeof(C) * kN) &&
                       fits(master, sizeof(C) * kN);
  if (!aligned || e.numel < begin + kBlockElements<S>) {
    for (int k = static_cast<int>(threadIdx.x); k < kBlockElements<S>; k += kThreads) {
      const std::int64_t i = begin + k;
      if (i >= e.numel) break;
      C value = master ? master[i] : widen(p[i]), m{}, v{};
      if (rule.has_first()) m = first[i];
      if (rule.has_second()) v = second[i];
      rule.step(value, widen(g[i]), m, v);
      p[i] = convert<S>(value);
      if (master) master[i] = value;
      if (rule.has_first()) first[i] = m;
      if (rule.has_second()) second[i] = v;
    }
    return;
  }
  using Values = Pack<S, kN>;
  using States = Pack<C, kN>;
  Values ps[kFlying], gs[kFlying];
  States ms[kFlying] = {}, vs[kFlying] = {}, masters[kFlying];
  const auto place = [&](int f) {
    return begin / kN + f * kThreads + static_cast<int>(threadIdx.x);
  };
#pragma unroll
  for (int f = 0; f < kFlying; ++f) {
    const std::int64_t at = place(f);
    if (kIsHalf<S> && master)
      masters[f] = reinterpret_cast<const States*>(master)[at];
    else
      ps[f] = reinterpret_cast<const Values*>(p)[at];
    gs[f] = reinterpret_cast<const Values*>(g)[at];
    if (rule.has_first()) ms[f] = reinterpret_cast<const States*>(first)[at];
    if (rule.has_second()) vs[f] = reinterpret_cast<const States*>(second)[at];
  }
#pragma unroll
  for (int f = 0; f < kFlying; ++f) {
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      C value = kIsHalf<S> && master ? masters[f].at[k] : widen(ps[f].at[k]);
      rule.step(value, widen(gs[f].at[k]), ms[f].at[k], vs[f].at[k]);
      ps[f].at[k] = convert<S>(value);
      masters[f].at[k] = value;
    }
    const std::int64_t at = place(f);
    if (kIsHalf<S> && master) reinterpret_cast<States*>(master)[at] = masters[f];
    reinterpret_cast<Values*>(p)[at] = ps[f];
    if (rule.has_first()) reinterpret_cast<States*>(first)[at] = ms[f];
    if (rule.has_second()) reinterpret_cast<States*>(second)[at] = vs[f];
  }
}

template <class Rule, class Options>
__global__ void move_on(Pace* pace, Rule* rule, const Options options) {
  ++pace->step;
  *rule = Rule::at(options, *pace);
}

/// Updates the parameters of type S by Rule::at(options, step), the same for all that
/// Rule::same(step, other).
template <class S, class Rule, class Options>
void update_all(const Context& context, DataType type, const std::vector<ParameterUpdate>& updates,
                const Options& options) {
  static_assert(sizeof(Table) + sizeof(Rule) + sizeof(void*) <= 4096);
  Table table{};
  std::int64_t step = 0;
  const auto flush = [&] {
    if (table.count == 0) return;
    const Rule rule = Rule::at(options, Pace{options.lr, step});
    const Rule* moving = nullptr;
    if (Capture* const capture = current_capture()) {
      Pace* const pace = capture->keep_pace(Pace{options.lr, step - 1});
      Rule* const place = capture->keep(rule);
      launch(context, Rule::kName, &move_on<Rule, Options>, 1, 1, 0, pace, place, options);
      moving = place;
    }
    launch(context, Rule::kName, &update<S, Rule>, table.blocks, kThreads, 0, table, rule, moving);
    table.count = 0;
    table.blocks = 0;
  };
  for (const ParameterUpdate& u : updates) {
    if (!u.gradient.defined() || u.parameter.type() != type || u.parameter.numel() == 0) continue;
    const auto numel = static_cast<std::int64_t>(u.parameter.numel());
    const std::int64_t blocks = ceil_div(numel, kBlockElements<S>);
    if (table.count == Table::kMost || table.blocks + blocks > kLaunchElements ||
        !Rule::same(u.step, step))
      flush();
    step = u.step;
    table.entries[table.count++] = {u.parameter.data(),
                                    u.gradient.data(),
                                    u.first.defined() ? u.first.data() : nullptr,
                                    u.second.defined() ? u.second.data() : nullptr,
                                    u.master.defined() ? u.master.data() : nullptr,
                                    numel,
                                    table.blocks};
    table.blocks += static_cast<std::uint32_t>(blocks);
  }
  flush();
}

/// f(tag, type) for each type that is among the parameters.
template <class F>
void for_types(const std::vector<ParameterUpdate>& updates, F&& f) {
  unsigned done = 0;
  for (const ParameterUpdate& u : updates) {
    if (!u.gradient.defined()) continue;
    const DataType type = u.parameter.type();
    const unsigned bit = 1u << static_cast<int>(type);
    if (done & bit) continue;
    done |= bit;
    visit_floating(type, [&](auto tag) { f(tag, type); });
  }
}

const Tensor* any_of(const std::vector<ParameterUpdate>& updates) {
  for (const ParameterUpdate& u : updates)
    if (u.gradient.defined()) return &u.parameter;
  return nullptr;
}

template <template <class> class Rule, class Options>
void update_types(const std::vector<ParameterUpdate>& updates, const Options& options) {
  const Tensor* const any = any_of(updates);
  if (!any) return;
  const Context context(any->device());
  for_types(updates, [&](auto tag, DataType type) {
    using S = typename decltype(tag)::Type;
    update_all<S, Rule<Computed<S>>>(context, type, updates, options);
  });
}

}  // namespace

void sgd_step(const std::vector<ParameterUpdate>& updates, const SgdRule& rule) {
  update_types<Sgd>(updates, rule);
}

void adam_step(const std::vector<ParameterUpdate>& updates, const AdamRule& rule) {
  update_types<Adam>(updates, rule);
}

}  // namespace lmp::cuda
