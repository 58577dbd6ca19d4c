// Reductions, softmax, running sums and positions of extremes on the GPU beside the CPU, at sizes
// where warps, blocks and passes end in the middle.

#include "gpu_support.hpp"

namespace lmp::testing {
namespace {

using sweep::arrange, sweep::Layout, sweep::Rng, sweep::Wide;

struct Reduction {
  const char* name;
  Tensor (*over)(const Tensor&, const IntList&);
  Variable (*gradient)(const Variable&, const IntList&);  // null where there is none
};
#define LMP_WITH_GRADIENT(name)                                                                  \
  {                                                                                              \
#name, [](const Tensor& x,                                                                   \
              const IntList&                                                                     \
                  a) { return lmp::name(x, a); },                                                \
                                               [](const Variable& x,                             \
                                                  const IntList&                                 \
                                                      a) { return autograd::name(x, a, false); } \
  }
#define LMP_WITHOUT(name)                                                             \
  {                                                                                   \
#name, [](const Tensor& x, const IntList& a) { return lmp::name(x, a); }, nullptr \
  }
const Reduction kReductions[] = {
    LMP_WITH_GRADIENT(sum), LMP_WITH_GRADIENT(mean), LMP_WITH_GRADIENT(prod),
    LMP_WITH_GRADIENT(max), LMP_WITH_GRADIENT(min),  LMP_WITH_GRADIENT(var),
    LMP_WITH_GRADIENT(std), LMP_WITH_GRADIENT(norm), LMP_WITH_GRADIENT(logsumexp),
    LMP_WITHOUT(any),       LMP_WITHOUT(all)};

/// Along one axis, in the place of x or instead of that axis.
struct AlongAxis {
  const char* name;
  Tensor (*along)(const Tensor&, int);
  Variable (*gradient)(const Variable&, int);
};
const AlongAxis kAlongAxis[] = {
    {"softmax", [](const Tensor& x, int a) { return lmp::softmax(x, a); },
     [](const Variable& x, int a) { return autograd::softmax(x, a); }},
    {"log_softmax", [](const Tensor& x, int a) { return lmp::log_softmax(x, a); },
     [](const Variable& x, int a) { return autograd::log_softmax(x, a); }},
    {"cumsum", [](const Tensor& x, int a) { return lmp::cumsum(x, a); },
     [](const Variable& x, int a) { return autograd::cumsum(x, a); }},
    {"argmax", [](const Tensor& x, int a) { return lmp::argmax(x, a); }, nullptr},
    {"argmin", [](const Tensor& x, int a) { return lmp::argmin(x, a); }, nullptr}};

/// Every choice of axes that one would write.
std::vector<IntList> axes_of(const Shape& shape) {
  std::vector<IntList> all{IntList()};
  for (int d = 0; d < shape.ndim(); ++d) all.push_back(IntList{d});
  if (shape.ndim() > 2) all.insert(all.end(), {IntList{0, -1}, IntList{0, 1}, IntList{1, 2}});
  return all;
}

const Shape kSmall[] = {{},     {1},       {5},      {3, 5},     {7, 1},      {2, 3, 4},
                        {0, 3}, {3, 0, 2}, {33, 65}, {5, 33, 9}, {2, 1, 3, 2}};
const Shape kLarge[] = {{70001}, {3, 40003}, {40003, 3}, {129, 257}, {1025, 64}, {6, 70, 130}};

std::vector<Shape> gradient_shapes() {
  if (quick()) return {{33, 65}, {3001}, {3, 9, 70}};
  return {{301, 517}, {40003}, {5, 33, 300}};
}

/// Rounds of a sum of n; positive values, so nothing cancels.
std::function<Tolerance(DataType)> summed(double n, double scale = 1) {
  return [=](DataType type) {
    Tolerance t = tolerance(type);
    if (is_floating(type)) t.relative *= scale * (1 + std::sqrt(n) / 100), t.absolute *= scale;
    return t;
  };
}

Tensor positive(DataType type, const Shape& shape, double low, double high) {
  Generator generator(5);
  const Tensor x = uniform(generator, shape, low, high);
  return type == DataType::Bool ? x > (low + high) / 2
         : is_integer(type)     ? (x * 3).astype(type)
                                : x.astype(type);
}

class GpuSharedReductions : public GpuTestWith<Reduction> {};
void PrintTo(const Reduction& r, std::ostream* out) { *out << r.name; }

TEST_P(GpuSharedReductions, SmallInEveryLayout) {
  const Reduction& r = GetParam();
  Rng rng(17);
  for (DataType type : sweep::kTypes) {
    for (const Shape& shape : kSmall) {
      for (Layout layout : sweep::kLayouts) {
        if (layout > Layout::Offset || (quick() && rng.chance(0.8))) continue;
        int count = 0;
        const Tensor x = arrange(rng, layout, type, shape, [&]() -> Wide {
          if (is_floating(type) && ++count == 29) return std::numeric_limits<Wide>::quiet_NaN();
          if (type == DataType::Bool) return rng.chance(0.8);
          if (is_integer(type)) return rng.integer(type == DataType::UInt8 ? 0 : -3, 5);
          return sweep::round_to(type, rng.real(-2, 2));
        });
        for (const IntList& axes : axes_of(shape)) {
          std::ostringstream what;
          what << r.name << ' ' << type << shape << " axes " << axes << ' ' << layout;
          expect_alike(
              what.str(),
              [&](const std::vector<Tensor>& in) { return std::vector{r.over(in[0], axes)}; }, {x},
              summed(100, std::string(r.name) == "prod" ? 3 : 1));
        }
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(GpuSharedReductions, Large) {
  const Reduction& r = GetParam();
  const bool product = std::string(r.name) == "prod";
  for (DataType type : sweep::kTypes) {
    for (const Shape& shape : kLarge) {
      if (quick() && shape.numel() > 50000) continue;
      const Tensor x = product && is_floating(type) ? positive(type, shape, 0.998, 1.002)
                                                    : positive(type, shape, 0.5, 1.5);
      for (const IntList& axes : axes_of(shape)) {
        for (const bool transposed : {false, true}) {
          std::ostringstream what;
          what << r.name << ' ' << type << shape << " axes " << axes << (transposed ? " T" : "");
          expect_alike(
              what.str(),
              [&](const std::vector<Tensor>& in) {
                const Tensor& t = in[0];
                return std::vector{
                    r.over(transposed && t.ndim() > 1 ? t.transpose(0, -1) : t, axes)};
              },
              {x}, summed(product ? 1e6 : 100, product ? 3 : 1));
        }
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(GpuSharedReductions, RunToRunTheSameBits) {
  const Reduction& r = GetParam();
  for (DataType type : {DataType::Float32, DataType::Float16, DataType::Float64}) {
    for (const Shape& shape : {Shape{300007}, Shape{1031, 517}}) {
      Generator generator(23);
      const Tensor x = uniform(generator, shape).astype(type).to(gpu());
      for (const IntList& axes : axes_of(shape)) {
        const Tensor first = on_cpu(r.over(x, axes));
        for (int i = 0; i < rounds(10); ++i) ASSERT_TRUE(same(first, r.over(x, axes))) << r.name;
      }
    }
  }
}

TEST_P(GpuSharedReductions, LargeGradients) {
  const Reduction& r = GetParam();
  if (!r.gradient) return;
  const bool product = std::string(r.name) == "prod";
  for (DataType type :
       {DataType::Float32, DataType::Float64, DataType::Float16, DataType::BFloat16}) {
    for (const Shape& shape : gradient_shapes()) {
      const Tensor x = positive(type, shape, product ? 0.998 : 0.5, product ? 1.002 : 1.5);
      for (const IntList& axes : axes_of(shape)) {
        std::ostringstream what;
        what << r.name << ' ' << type << shape << " axes " << axes;
        expect_alike(
            what.str(),
            [&](const std::vector<Tensor>& in) {
              const Variable v(in[0].clone(), true);
              const Variable y = r.gradient(v, axes);
              sum(y * y).backward();
              return std::vector{v.grad()};
            },
            {x},
            [&](DataType t) {
              Tolerance bound = loose(t);
              if (product) bound.relative *= 10;
              return bound;
            });
        if (HasFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Table, GpuSharedReductions, ::testing::ValuesIn(kReductions),
                         [](const auto& p) { return std::string(p.param.name); });

class GpuSharedAlongAxis : public GpuTestWith<AlongAxis> {};
void PrintTo(const AlongAxis& a, std::ostream* out) { *out << a.name; }

TEST_P(GpuSharedAlongAxis, SmallInEveryLayout) {
  Rng rng(19);
  for (DataType type : sweep::kTypes) {
    for (const Shape& shape : kSmall) {
      for (Layout layout : sweep::kLayouts) {
        if (layout > Layout::Offset || (quick() && rng.chance(0.8))) continue;
        // Few values: ties everywhere; NaN and infinities among them.
        const Tensor x = arrange(rng, layout, type, shape, [&]() -> Wide {
          if (type == DataType::Bool) return rng.chance(0.5);
          if (is_integer(type)) return rng.integer(type == DataType::UInt8 ? 0 : -1, 3);
          if (rng.chance(0.02)) return std::numeric_limits<Wide>::quiet_NaN();
          if (rng.chance(0.05)) return -std::numeric_limits<Wide>::infinity();
          return static_cast<Wide>(rng.integer(-3, 3));
        });
        for (int axis = 0; axis < std::max(1, shape.ndim()); ++axis) {
          std::ostringstream what;
          what << GetParam().name << ' ' << type << shape << " axis " << axis << ' ' << layout;
          expect_alike(
              what.str(),
              [&](const std::vector<Tensor>& in) {
                return std::vector{GetParam().along(in[0], axis)};
              },
              {x}, summed(100));
        }
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(GpuSharedAlongAxis, Large) {
  for (DataType type : sweep::kTypes) {
    for (const Shape& shape : kLarge) {
      if (quick() && shape.numel() > 50000) continue;
      const Tensor x = positive(type, shape, 0.5, 1.5);
      for (int axis = 0; axis < shape.ndim(); ++axis) {
        for (const bool transposed : {false, true}) {
          std::ostringstream what;
          what << GetParam().name << ' ' << type << shape << " axis " << axis;
          expect_alike(
              what.str(),
              [&](const std::vector<Tensor>& in) {
                return std::vector{GetParam().along(
                    transposed && in[0].ndim() > 1 ? in[0].transpose(0, -1) : in[0], axis)};
              },
              {x},
              [](DataType t) {
                return t == DataType::Float32 ? Tolerance{2e-5, 1e-5} : tolerance(t);
              });
        }
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(GpuSharedAlongAxis, LargeGradients) {
  if (!GetParam().gradient) return;
  for (DataType type :
       {DataType::Float32, DataType::Float64, DataType::Float16, DataType::BFloat16}) {
    for (const Shape& shape : gradient_shapes()) {
      const Tensor x = positive(type, shape, -1.5, 1.5);
      for (int axis = 0; axis < shape.ndim(); ++axis) {
        std::ostringstream what;
        what << GetParam().name << ' ' << type << shape << " axis " << axis;
        expect_alike(
            what.str(),
            [&](const std::vector<Tensor>& in) {
              const Variable v(in[0].clone(), true);
              const Tensor weights = lmp::linspace(0.5, 1.5, static_cast<std::int64_t>(v.numel()))
                                         .astype(type)
                                         .to(v.device())
                                         .reshape(IntList(shape));
              GetParam().gradient(v, axis).backward(weights);
              return std::vector{v.grad()};
            },
            {x},
            [](DataType t) {
              return t == DataType::Float32 ? Tolerance{2e-5, 2e-4} : loose(t);
            });
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(GpuSharedAlongAxis, RunToRunTheSameBits) {
  for (const Shape& shape : {Shape{300007}, Shape{1031, 517}}) {
    Generator generator(29);
    const Tensor x = uniform(generator, shape).astype(DataType::Float32).to(gpu());
    for (int axis = 0; axis < shape.ndim(); ++axis) {
      const Tensor first = on_cpu(GetParam().along(x, axis));
      for (int i = 0; i < rounds(10); ++i) ASSERT_TRUE(same(first, GetParam().along(x, axis)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Table, GpuSharedAlongAxis, ::testing::ValuesIn(kAlongAxis),
                         [](const auto& p) { return std::string(p.param.name); });

class GpuSharedExtremes : public GpuTest {};

TEST_F(GpuSharedExtremes, TheFirstOfManyAndNanWherever) {
  for (DataType type : sweep::kTypes) {
    for (const std::int64_t n : {31, 32, 1025, 70001}) {
      Tensor x = lmp::zeros({n}, DeviceType::CPU, type);
      for (const std::int64_t at : {n - 1, n / 2, std::int64_t{7}}) {
        lmp::narrow(x, 0, at, n - at).fill(1);
        EXPECT_EQ(lmp::argmax(mirror(x)).item(), static_cast<double>(at)) << type << n;
        EXPECT_EQ(lmp::argmin(mirror(x)).item(), 0) << type << n;
        EXPECT_EQ(lmp::max(mirror(x)).item(), 1) << type << n;
      }
      if (!is_floating(type)) continue;
      x.select(0, n - 2).fill(std::numeric_limits<double>::quiet_NaN());
      EXPECT_EQ(lmp::argmax(mirror(x)).item(), static_cast<double>(n - 2)) << type << n;
      EXPECT_EQ(lmp::argmin(mirror(x)).item(), static_cast<double>(n - 2)) << type << n;
      EXPECT_TRUE(std::isnan(lmp::min(mirror(x)).item())) << type << n;
    }
  }
}

}  // namespace
}  // namespace lmp::testing
