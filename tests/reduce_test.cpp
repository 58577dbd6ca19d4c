// Reductions and what rests on them, at sizes where rows, columns and segments are cut apart,
// against loops in double.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "autograd_support.hpp"

namespace lmp::testing {
namespace {

using Line = std::vector<double>;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Runs f on every line of x along `axis`; what it gives, one value or as many as there are, makes
// the result.
Tensor along(const Tensor& x, int axis, const std::function<Line(const Line&)>& f) {
  const Tensor lines = lmp::transpose(x, axis, -1);
  const Line all = values(lines);
  const std::size_t n = lines.shape().back();
  Line out;
  for (std::size_t i = 0; i < all.size(); i += n) {
    const Line line = f(Line(all.begin() + static_cast<std::ptrdiff_t>(i),
                             all.begin() + static_cast<std::ptrdiff_t>(i + n)));
    out.insert(out.end(), line.begin(), line.end());
  }
  std::vector<std::int64_t> shape(lines.shape().begin(), lines.shape().end());
  shape.back() = static_cast<std::int64_t>(n * out.size() / all.size());
  return lmp::transpose(Tensor(out, Shape(IntList(shape)), DeviceType::CPU, DataType::Float64),
                        axis, -1);
}

double sum_of(const Line& x) { return std::accumulate(x.begin(), x.end(), 0.0); }
double max_of(const Line& x) { return *std::max_element(x.begin(), x.end()); }
double squares_of(const Line& x, double center) {
  double total = 0;
  for (double v : x) total += (v - center) * (v - center);
  return total;
}
double variance_of(const Line& x) {
  return squares_of(x, sum_of(x) / static_cast<double>(x.size())) /
         (static_cast<double>(x.size()) - 1);
}
double logsumexp_of(const Line& x) {
  const double top = max_of(x);
  double total = 0;
  for (double v : x) total += std::exp(v - top);
  return std::log(total) + top;
}
Line each(Line x, const std::function<double(double)>& f) {
  std::transform(x.begin(), x.end(), x.begin(), f);
  return x;
}
double place_of(const Line& x, double value) {
  return static_cast<double>(std::find(x.begin(), x.end(), value) - x.begin());
}

struct Case {
  const char* name;
  Variable (*f)(const Variable&, int axis);
  Line (*oracle)(const Line&);
};
const Case kCases[] = {
    {"sum", [](const Variable& x, int a) { return lmp::sum(x, a); },
     [](const Line& x) { return Line{sum_of(x)}; }},
    {"mean", [](const Variable& x, int a) { return lmp::mean(x, a); },
     [](const Line& x) { return Line{sum_of(x) / static_cast<double>(x.size())}; }},
    {"max", [](const Variable& x, int a) { return lmp::max(x, a); },
     [](const Line& x) { return Line{max_of(x)}; }},
    {"min", [](const Variable& x, int a) { return lmp::min(x, a); },
     [](const Line& x) { return Line{*std::min_element(x.begin(), x.end())}; }},
    {"var", [](const Variable& x, int a) { return lmp::var(x, a); },
     [](const Line& x) { return Line{variance_of(x)}; }},
    {"std", [](const Variable& x, int a) { return lmp::std(x, a); },
     [](const Line& x) { return Line{std::sqrt(variance_of(x))}; }},
    {"norm", [](const Variable& x, int a) { return lmp::norm(x, a); },
     [](const Line& x) { return Line{std::sqrt(squares_of(x, 0))}; }},
    {"logsumexp", [](const Variable& x, int a) { return lmp::logsumexp(x, a); },
     [](const Line& x) { return Line{logsumexp_of(x)}; }},
    {"softmax", [](const Variable& x, int a) { return lmp::softmax(x, a); },
     [](const Line& x) {
       return each(x, [z = logsumexp_of(x)](double v) { return std::exp(v - z); });
     }},
    {"log_softmax", [](const Variable& x, int a) { return lmp::log_softmax(x, a); },
     [](const Line& x) { return each(x, [z = logsumexp_of(x)](double v) { return v - z; }); }},
    {"cumsum", [](const Variable& x, int a) { return lmp::cumsum(x, a); },
     [](const Line& x) {
       Line sums(x.size());
       std::partial_sum(x.begin(), x.end(), sums.begin());
       return sums;
     }},
    {"argmax",
     [](const Variable& x, int a) {
       return Variable(lmp::argmax(x.data(), a, true).astype(x.type()));
     },
     [](const Line& x) { return Line{place_of(x, max_of(x))}; }},
    {"argmin",
     [](const Variable& x, int a) {
       return Variable(lmp::argmin(x.data(), a, true).astype(x.type()));
     },
     [](const Line& x) { return Line{place_of(x, *std::min_element(x.begin(), x.end()))}; }},
};

const Shape kShapes[] = {{5, 7},     {3, 1000},    {1000, 3},    {40, 2049}, {2, 70001},
                         {70001, 2}, {300, 1100},  {4, 33, 70},  {300001},   {9, 64},
                         {64, 9},    {2, 3000, 5}, {3, 1, 67, 1}};

Tensor drawn(Generator& generator, const Shape& shape, DataType type = DataType::Float64) {
  // Steps of 1/64, so that there are ties and float holds what double does.
  return (lmp::floor(uniform(generator, shape, -300, 300)) / 64).astype(type);
}
// Views of other memory that have the shape.
struct Layout {
  const char* name;
  Tensor (*of)(Generator&, const Shape&, DataType);
};
const Layout kLayouts[] = {
    {"dense", &drawn},
    {"transposed",
     [](Generator& g, const Shape& s, DataType type) {
       std::vector<std::int64_t> back(s.begin(), s.end());
       std::reverse(back.begin(), back.end());
       return lmp::permute(drawn(g, Shape(IntList(back)), type), [&] {
         IntList axes;
         for (int d = s.ndim(); d-- > 0;) axes.push_back(d);
         return axes;
       }());
     }},
    {"every second",
     [](Generator& g, const Shape& s, DataType type) {
       std::vector<std::int64_t> twice(s.begin(), s.end());
       twice.back() *= 2;
       return lmp::slice(drawn(g, Shape(IntList(twice)), type), -1, 0, std::nullopt, 2);
     }},
    {"reversed", [](Generator& g, const Shape& s,
                    DataType type) { return lmp::flip(drawn(g, s, type), {-1}); }},
};

TEST(Reduce, MatchesLoopsInDouble) {
  Generator generator(3);
  for (const Shape& shape : kShapes) {
    for (const Layout& layout : kLayouts) {
      if (layout.of != &drawn && shape.numel() > 100000) continue;  // to be quick
      for (const DataType type : {DataType::Float32, DataType::Float64}) {
        const Tensor x = layout.of(generator, shape, type);
        ASSERT_EQ(x.shape(), shape);
        const double tolerance = type == DataType::Float32 ? 2e-5 : 1e-11;
        for (int axis = 0; axis < shape.ndim(); ++axis) {
          if (shape.dim(axis) < 2) continue;
          for (const Case& c : kCases) {
            const Tensor got = c.f(Variable(x), axis).data().astype(DataType::Float64);
            EXPECT_TRUE(lmp::allclose(got, along(x, axis, c.oracle), tolerance, tolerance))
                << c.name << " over axis " << axis << " of " << layout.name << " " << shape << " "
                << type;
          }
        }
      }
    }
  }
}

TEST(Reduce, OverSeveralAxesAndEverything) {
  Generator generator(5);
  for (const Shape& shape : {Shape{6, 50, 700}, Shape{300, 40, 3}, Shape{2, 3, 5}}) {
    const Tensor x = drawn(generator, shape).astype(DataType::Float32);
    const Tensor ends = lmp::permute(x, {1, 0, 2}).contiguous().reshape({shape.dim(1), -1});
    EXPECT_TRUE(lmp::allclose(lmp::var(x, {0, 2}, false), lmp::var(ends, 1, false), 1e-5, 1e-6));
    EXPECT_TRUE(
        lmp::allclose(lmp::logsumexp(x, {0, 2}, false), lmp::logsumexp(ends, 1, false), 1e-6, 0));
    EXPECT_TRUE(lmp::array_equal(lmp::max(x, {0, 2}, false), lmp::max(ends, 1, false)));
    const Line all = values(x);
    EXPECT_NEAR(lmp::var(x).item(), variance_of(all), 1e-5 * variance_of(all));
    EXPECT_NEAR(lmp::norm(x).item(), std::sqrt(squares_of(all, 0)), 1e-3);
    EXPECT_NEAR(lmp::logsumexp(x).item(), logsumexp_of(all), 1e-5);
    EXPECT_EQ(lmp::argmax(x).item(), place_of(all, max_of(all)));
  }
}

TEST(Reduce, VarianceOfFarNumbersKeepsItsDigits) {
  Generator generator(6);
  const Tensor x = (lmp::floor(uniform(generator, {300, 5000}, 0, 64)) + 100000);
  for (int axis : {0, 1})
    EXPECT_TRUE(lmp::allclose(lmp::var(x.astype(DataType::Float32), axis).astype(DataType::Float64),
                              along(x, axis, [](const Line& l) { return Line{variance_of(l)}; }),
                              1e-4, 0));
}

// Gradients in one pass against those of the ops they are made of, which a graph of them needs.
TEST(Reduce, GradientsMatchThoseWithAGraph) {
  Generator generator(7);
  for (const DataType type : {DataType::Float32, DataType::Float64}) {
    const double tolerance = type == DataType::Float32 ? 2e-5 : 1e-12;
    for (const Shape& shape : {Shape{40, 2049}, Shape{2049, 40}, Shape{3, 70001}, Shape{4, 33, 70},
                               Shape{70001, 2}, Shape{2, 3}}) {
      for (int axis = 0; axis < shape.ndim(); ++axis) {
        for (const Case& c : kCases) {
          const Variable x((drawn(generator, shape) / 2).astype(type), true);
          const Variable y = c.f(x, axis);
          if (!y.requires_grad()) continue;
          const Variable g(uniform(generator, y.shape()).astype(type));
          const Variable graph =
              lmp::grad({y}, {x}, {.grad_outputs = {g}, .create_graph = true})[0];
          y.backward(g.data());
          EXPECT_TRUE(lmp::allclose(x.grad(), graph.data(), tolerance, tolerance))
              << c.name << " over axis " << axis << " of " << shape << " " << type;
        }
      }
    }
  }
}

Tensor with(const Tensor& x, std::initializer_list<std::pair<std::int64_t, Number>> changes) {
  const Tensor out = x.clone();
  for (const auto& [i, value] : changes) out[i].fill(value);
  return out;
}

TEST(Reduce, FirstExtremeAndNanWin) {
  for (const DataType type : {DataType::Float32, DataType::Float64, DataType::Int8, DataType::Int16,
                              DataType::Int32, DataType::Int64}) {
    for (const std::int64_t n : {1, 2, 5, 16, 40, 64, 100, 2100, 5000, 140000}) {
      const Tensor zeros = lmp::zeros({n}, DeviceType::CPU, type);
      for (const std::int64_t i : {std::int64_t{0}, n / 3, n / 2, n - 1}) {
        const std::int64_t later = std::min(n - 1, i + n / 4);
        const auto check = [&](const Tensor& x, bool largest) {
          const auto place = [&](const Tensor& t, int axis) {
            return (largest ? lmp::argmax(t, axis, false) : lmp::argmin(t, axis, false));
          };
          EXPECT_EQ(place(x, 0).item(), static_cast<double>(i)) << type << " of " << n;
          const Tensor columns = lmp::stack({x, x, zeros, x}, 1);
          for (const int column : {0, 1, 3})
            EXPECT_EQ(place(columns, 0)[column].item(), static_cast<double>(i)) << type << " " << n;
          EXPECT_EQ(place(columns, 0)[2].item(), 0);
        };
        check(with(zeros, {{i, 3}, {later, 3}}), true);
        check(with(zeros, {{i, -3}, {later, -3}}), false);
        if (!is_floating(type)) continue;
        const Tensor nan = with(zeros, {{n - 1, 9}, {later, kNan}, {i, kNan}});
        check(nan, true);
        check(nan, false);
        EXPECT_TRUE(std::isnan(lmp::max(nan).item()) && std::isnan(lmp::min(nan).item()));
      }
    }
  }
}

TEST(Reduce, SoftmaxOfInfinitiesAndNan) {
  for (const DataType type : {DataType::Float32, DataType::Float64, DataType::Float16}) {
    for (const std::int64_t n : {3, 64, 70000}) {
      const Tensor zeros = lmp::zeros({n}, DeviceType::CPU, DataType::Float64);
      const Tensor lowest = lmp::full({n}, -kInf, DeviceType::CPU, DataType::Float64);
      const Tensor rows =
          lmp::stack({lowest, with(zeros, {{1, -kInf}}), with(zeros, {{1, kInf}}),
                      with(zeros, {{2, kNan}}), with(lowest, {{2, 5}}), with(zeros, {{0, -1000}})})
              .astype(type);
      for (const bool by_columns : {false, true}) {
        const Tensor x = by_columns ? lmp::transpose(rows).contiguous() : rows;
        const auto row = [&](const Tensor& y, int i) {
          return by_columns ? lmp::select(y, 1, i) : y[i];
        };
        const int axis = by_columns ? 0 : 1;
        const Tensor y = lmp::softmax(x, axis), log = lmp::log_softmax(x, axis);
        for (const int i : {0, 2, 3}) {
          EXPECT_TRUE(lmp::all(lmp::isnan(row(y, i))).item() != 0 || i == 2) << i << " of " << n;
          EXPECT_TRUE(std::isnan(row(y, i)[i == 0 ? 0 : i - 1].item()));
        }
        EXPECT_EQ(row(y, 1)[1].item(), 0);
        EXPECT_EQ(row(log, 1)[1].item(), -kInf);
        EXPECT_NEAR(row(y, 1)[0].item() * static_cast<double>(n - 1), 1, 2e-3);
        EXPECT_EQ(row(y, 4)[2].item(), 1);
        EXPECT_EQ(row(y, 4)[0].item(), 0);
        EXPECT_EQ(row(log, 4)[2].item(), 0);
        EXPECT_EQ(row(y, 5)[0].item(), 0);
        const Tensor z = lmp::logsumexp(x, axis, false);
        EXPECT_EQ(z[0].item(), -kInf);
        EXPECT_EQ(z[2].item(), kInf);
        EXPECT_TRUE(std::isnan(z[3].item()));
        EXPECT_EQ(z[4].item(), 5);
      }
    }
  }
}

TEST(Reduce, HalvesAreComputedInFloatAndRoundedOnce) {
  Generator generator(8);
  for (const DataType type : {DataType::Float16, DataType::BFloat16}) {
    for (const Shape& shape : {Shape{30, 300}, Shape{300, 30}, Shape{2, 70000}}) {
      const Tensor x = (drawn(generator, shape) / 4).astype(type);
      const Tensor wide = x.astype(DataType::Float32);
      for (int axis : {0, 1}) {
        for (const Case& c : kCases) {
          if (std::string(c.name).starts_with("arg")) continue;
          const Tensor got = c.f(Variable(x), axis).data();
          EXPECT_EQ(got.type(), type);
          const Tensor once = c.f(Variable(wide), axis).data().astype(type);
          EXPECT_TRUE(lmp::array_equal(got, once))
              << c.name << " over axis " << axis << " of " << shape << " " << type;
        }
      }
    }
  }
}

TEST(Reduce, SameBitsOnAnyNumberOfThreads) {
  Generator generator(9);
  std::vector<Tensor> inputs;
  for (const Shape& shape :
       {Shape{3, 150000}, Shape{150000, 3}, Shape{600, 700}, Shape{400000}, Shape{70, 1100, 3}})
    inputs.push_back(uniform(generator, shape).astype(DataType::Float32));
  const auto results = [&] {
    std::vector<Tensor> out;
    for (const Tensor& data : inputs) {
      for (int axis = 0; axis < data.ndim(); ++axis) {
        for (const Case& c : kCases) {
          const Variable x(data, true);
          const Variable y = c.f(x, axis);
          out.push_back(y.data());
          if (!y.requires_grad()) continue;
          y.backward(lmp::cos(y.data()));
          out.push_back(x.grad());
        }
      }
      out.push_back(lmp::var(data));
      out.push_back(lmp::logsumexp(data));
      out.push_back(lmp::argmax(data));
    }
    return out;
  };
  const int before = get_num_threads();
  set_num_threads(1);
  const std::vector<Tensor> one = results();
  for (const int threads : {2, 3, 8}) {
    set_num_threads(threads);
    const std::vector<Tensor> many = results();
    for (std::size_t i = 0; i < one.size(); ++i)
      EXPECT_TRUE(lmp::array_equal(many[i], one[i])) << "result " << i << " on " << threads;
  }
  set_num_threads(before);
}

TEST(Reduce, OfNothing) {
  for (const Shape& shape : {Shape{0, 3}, Shape{3, 0}}) {
    const Tensor x = lmp::zeros(shape);
    for (int axis : {0, 1}) {
      for (const Tensor& y :
           {lmp::softmax(x, axis), lmp::log_softmax(x, axis), lmp::cumsum(x, axis)})
        EXPECT_EQ(y.shape(), shape);
      const bool none = shape.dim(axis) == 0;
      EXPECT_EQ(lmp::norm(x, axis).numel(), none ? 3u : 0u);
      if (!none) continue;
      EXPECT_EQ(lmp::logsumexp(x, axis, false)[0].item(), -kInf);
      EXPECT_TRUE(std::isnan(lmp::var(x, axis, false)[0].item()));
    }
  }
}

}  // namespace
}  // namespace lmp::testing
