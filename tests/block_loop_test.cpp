// How operands are walked must not show: every path of a block loop against plain loops, and blocks
// of moderate numbers against the same numbers among extreme ones.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <lamppp/lamppp.hpp>
#include <limits>
#include <string>
#include <vector>

namespace {

using lmp::DataType;
using lmp::Tensor;
using lmp::Variable;

// Whole numbers, so that sums and products are exact in every type.
Tensor numbers(const lmp::Shape& shape, DataType type = DataType::Float32) {
  const auto n = static_cast<std::int64_t>(shape.numel());
  return (lmp::remainder(lmp::arange(0, n) * 7, 11) + 1).reshape(shape).astype(type);
}

std::vector<double> values(const Tensor& t) { return t.to_vector<double>(); }

// The value of a 2-D tensor of any layout, read element by element.
double at(const Tensor& t, std::int64_t i, std::int64_t j) { return t.index({i, j}); }

TEST(BlockLoop, TransposedOperandsOfEveryTypeAndSize) {
  for (DataType type :
       {DataType::Bool, DataType::UInt8, DataType::Int16, DataType::Int32, DataType::Int64,
        DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64}) {
    for (auto [rows, columns] : {std::pair<std::int64_t, std::int64_t>{9, 65},
                                 {16, 64},
                                 {7, 200},
                                 {33, 1031},
                                 {130, 70}}) {
      const Tensor x = numbers({columns, rows}, type), y = numbers({rows, columns}, type);
      const std::vector<double> copied = values(x.transpose().contiguous());
      const std::vector<double> sum = values(lmp::maximum(y, x.transpose()));
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j) {
          const auto k = static_cast<std::size_t>(i * columns + j);
          ASSERT_EQ(copied[k], at(x, j, i)) << type << " " << rows << "x" << columns;
          ASSERT_EQ(sum[k], std::max(at(x, j, i), at(y, i, j))) << type;
        }
    }
  }
}

TEST(BlockLoop, PermutedOperandsOfThreeAxes) {
  const Tensor x = numbers({40, 3, 70});
  const std::vector<std::vector<std::int64_t>> orders = {
      {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (const auto& order : orders) {
    const Tensor view = lmp::permute(x, order);
    const Tensor y = numbers(view.shape());
    const std::vector<double> sum = values(view + y), flipped = values(y - lmp::flip(view, {1}));
    std::size_t k = 0;
    for (std::int64_t a = 0; a < view.shape().dim(0); ++a)
      for (std::int64_t b = 0; b < view.shape().dim(1); ++b)
        for (std::int64_t c = 0; c < view.shape().dim(2); ++c, ++k) {
          ASSERT_EQ(sum[k], view.index({a, b, c}) + y.index({a, b, c}));
          ASSERT_EQ(flipped[k],
                    y.index({a, b, c}) - view.index({a, view.shape().dim(1) - 1 - b, c}));
        }
  }
}

// Chunks begin and end inside of rows.
TEST(BlockLoop, LongRowsOfThreeAxes) {
  const Tensor all = numbers({6, 41, 700}), x = lmp::slice(all, 0, std::nullopt, std::nullopt, 2);
  const Tensor rows = numbers({3, 1, 700}) + 3, columns = numbers({41, 1}) + 5;
  const std::vector<double> a = values(x - rows), b = values(rows - x), c = values(columns - x),
                            d = values(lmp::flip(x, {1}) - x), e = values(x.contiguous()),
                            f = values(x.astype(DataType::Int32)), g = values(-x);
  std::size_t k = 0;
  for (std::int64_t i = 0; i < 3; ++i)
    for (std::int64_t j = 0; j < 41; ++j)
      for (std::int64_t m = 0; m < 700; ++m, ++k) {
        const double p = all.index({2 * i, j, m}), r = rows.index({i, 0, m});
        ASSERT_EQ(a[k], p - r) << k;
        ASSERT_EQ(b[k], r - p) << k;
        ASSERT_EQ(c[k], columns.index({j, 0}) - p) << k;
        ASSERT_EQ(d[k], all.index({2 * i, 40 - j, m}) - p) << k;
        ASSERT_EQ(e[k], p) << k;
        ASSERT_EQ(f[k], p) << k;
        ASSERT_EQ(g[k], -p) << k;
      }
}

TEST(BlockLoop, RowsColumnsAndNumbersOnEitherSide) {
  for (DataType type : {DataType::Float32, DataType::Float64, DataType::BFloat16, DataType::Int32})
    for (std::int64_t columns : {3, 63, 64, 300, 1500}) {
      const std::int64_t rows = 40;
      const Tensor x = numbers({rows, columns}, type), row = numbers({columns}, type) + 3,
                   column = numbers({rows, 1}, type) + 5;
      const std::vector<double> a = values(x - row), b = values(row - x), c = values(x - column),
                                d = values(column - x), e = values(column - row), f = values(x - 4),
                                g = values(4 - x), h = values(column.expand({rows, columns}) - x),
                                compared = values(x > column);
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j) {
          const auto k = static_cast<std::size_t>(i * columns + j);
          const double p = at(x, i, j), r = row.index({j}), q = at(column, i, 0);
          ASSERT_EQ(a[k], p - r) << type << " " << columns;
          ASSERT_EQ(b[k], r - p) << type << " " << columns;
          ASSERT_EQ(c[k], p - q) << type << " " << columns;
          ASSERT_EQ(d[k], q - p) << type << " " << columns;
          ASSERT_EQ(e[k], q - r) << type << " " << columns;
          ASSERT_EQ(f[k], p - 4) << type << " " << columns;
          ASSERT_EQ(g[k], 4 - p) << type << " " << columns;
          ASSERT_EQ(h[k], q - p) << type << " " << columns;
          ASSERT_EQ(compared[k], p > q) << type << " " << columns;
        }
    }
}

// Large enough for results to be written around the caches.
TEST(BlockLoop, LargeResultsOfEveryPath) {
  const std::int64_t rows = 2051, columns = 2053, n = rows * columns;
  const Tensor x = numbers({rows, columns}), y = numbers({rows, columns}) * 2,
               row = numbers({columns}), column = numbers({rows, 1}), t = numbers({columns, rows});
  const Tensor condition = x > 5;
  const Tensor into = lmp::zeros({rows, columns + 3});
  const Tensor inside = lmp::narrow(into, 1, 1, columns);
  inside.copy(x);
  const Tensor updated = x.clone();
  updated += y;
  struct Case {
    const char* name;
    Tensor result;
    std::function<double(double x, double y, double row, double column, double turned)> value;
  };
  const Case cases[] = {
      {"add", x + y, [](double p, double q, double, double, double) { return p + q; }},
      {"neg", -x, [](double p, double, double, double, double) { return -p; }},
      {"number", x - 2, [](double p, double, double, double, double) { return p - 2; }},
      {"row", x - row, [](double p, double, double r, double, double) { return p - r; }},
      {"column", x - column, [](double p, double, double, double c, double) { return p - c; }},
      {"transposed", x - t.transpose(),
       [](double p, double, double, double, double s) { return p - s; }},
      {"compare", x > y, [](double p, double q, double, double, double) { return p > q; }},
      {"where", lmp::where(condition, x, y),
       [](double p, double q, double, double, double) { return p > 5 ? p : q; }},
      {"halves", (x + 1).astype(DataType::BFloat16),
       [](double p, double, double, double, double) { return p + 1; }},
      {"in place", updated, [](double p, double q, double, double, double) { return p + q; }},
      {"into a view", inside, [](double p, double, double, double, double) { return p; }},
  };
  const std::vector<float> xs = x.to_vector<float>(), ys = y.to_vector<float>(),
                           rs = row.to_vector<float>(), cs = column.to_vector<float>(),
                           ts = t.to_vector<float>();
  for (const Case& c : cases) {
    const std::vector<float> got = c.result.to_vector<float>();
    for (std::int64_t k = 0; k < n; ++k) {
      const std::int64_t i = k / columns, j = k % columns;
      const auto u = [](std::int64_t v) { return static_cast<std::size_t>(v); };
      const double want = c.value(static_cast<double>(xs[u(k)]), static_cast<double>(ys[u(k)]),
                                  static_cast<double>(rs[u(j)]), static_cast<double>(cs[u(i)]),
                                  static_cast<double>(ts[u(j * rows + i)]));
      ASSERT_EQ(static_cast<double>(got[u(k)]), want) << c.name << " at " << k;
    }
  }
  const Tensor edge = lmp::sum(into, 0, false);
  EXPECT_EQ(edge.index({0}), 0);
  EXPECT_EQ(edge.index({columns + 1}), 0);
  EXPECT_EQ(edge.index({columns + 2}), 0);
}

TEST(BlockLoop, LargeGradientsAreThoseOfSmallPieces) {
  const std::int64_t n = 5 << 20;
  const Tensor a = lmp::rand({n}) + 0.5, b = lmp::rand({n}) + 0.5;
  const Variable p(a, true), q(b, true);
  lmp::sum(lmp::sin(p) / q).backward();
  for (std::int64_t start : {std::int64_t{0}, std::int64_t{12345}, n - 1000}) {
    const Variable u(lmp::narrow(a, 0, start, 1000).clone(), true);
    const Variable v(lmp::narrow(b, 0, start, 1000).clone(), true);
    lmp::sum(lmp::sin(u) / v).backward();
    EXPECT_TRUE(lmp::array_equal(u.grad(), lmp::narrow(p.grad(), 0, start, 1000)));
    EXPECT_TRUE(lmp::array_equal(v.grad(), lmp::narrow(q.grad(), 0, start, 1000)));
  }
}

// Functions take a shorter way through a block without extreme arguments; the bits are the same.
TEST(BlockLoop, ModerateBlocksAndMixedOnesGiveTheSameBits) {
  const std::int64_t n = 3000;
  using Function = Variable (*)(const Variable&);
  const std::pair<const char*, Function> functions[] = {
      {"exp", [](const Variable& x) { return lmp::exp(x); }},
      {"sin", [](const Variable& x) { return lmp::sin(x); }},
      {"cos", [](const Variable& x) { return lmp::cos(x); }},
      {"sigmoid", [](const Variable& x) { return lmp::sigmoid(x); }},
      {"silu", [](const Variable& x) { return lmp::silu(x); }},
  };
  for (double scale : {1e-3, 4.0, 86.0}) {
    const Tensor x = (lmp::rand({n}) * 2 - 1) * scale;
    for (float extreme : {1e30F, -104.0F, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
      Tensor mixed = x.clone();
      for (std::int64_t i = 0; i < n; i += 700) mixed[i].fill(extreme);
      for (const auto& [name, f] : functions) {
        const Variable u(x, true), v(mixed, true);
        const Variable y = f(u), z = f(v);
        const Tensor ones = lmp::ones({n});
        y.backward(ones);
        z.backward(ones);
        const std::vector<float> alone[] = {y.to_vector<float>(), u.grad().to_vector<float>()};
        const std::vector<float> among[] = {z.to_vector<float>(), v.grad().to_vector<float>()};
        for (int part = 0; part < 2; ++part)
          for (std::int64_t i = 0; i < n; ++i)
            if (i % 700 != 0) {
              ASSERT_EQ(alone[part][static_cast<std::size_t>(i)],
                        among[part][static_cast<std::size_t>(i)])
                  << name << (part == 0 ? "" : "'") << " at " << x.index({i});
            }
      }
    }
  }
}

TEST(Fill, AFloatIntoIntegersIsWhatACastMakesOfIt) {
  for (DataType type :
       {DataType::UInt8, DataType::Int8, DataType::Int16, DataType::Int32, DataType::Int64})
    for (double value : {3.0, 2.9, -1.5, 1e30, -1e30, std::nan("")}) {
      Tensor t = lmp::zeros({3}, lmp::DeviceType::CPU, type);
      t.fill(value);
      EXPECT_TRUE(lmp::array_equal(t, lmp::full({3}, value).astype(type))) << type << " " << value;
    }
}

}  // namespace
