// Random programs that write in place into what others read or saved, also through views: the
// backward pass throws, or the gradient is that of the same program without in-place writes. Never
// another one.

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "autograd_support.hpp"

namespace lmp {
namespace {

using testing::values;

constexpr std::size_t kSide = 3;

/// A value of the program, and its twin in a program that never writes in place: after a write, the
/// twin of every alias is the new value plus a zero that carries the gradient.
struct Value {
  Variable actual, twin;
};

class Program {
 public:
  explicit Program(unsigned seed) : random_(seed), generator_(seed) {
    for (int i = 0; i < 3; ++i) {
      const Tensor data = fresh();
      leaves_.push_back({Variable(data, true), Variable(data.clone(), true)});
      pool_.push_back(leaves_.back());
    }
    const Tensor data = fresh();
    pool_.push_back({Variable(data), Variable(data.clone())});
  }

  /// True where the pass succeeded; its gradients are then compared.
  bool run() {
    const int length = 4 + pick(14);
    for (int i = 0; i < length; ++i) {
      if (pick(5) == 0)
        write();
      else
        compute();
    }
    Variable actual = sum(pool_.back().actual), twin = sum(pool_.back().twin);
    for (int i = 0; i < 2; ++i) {
      const Value& v = any();
      actual = actual + sum(v.actual * 0.5);
      twin = twin + sum(v.twin * 0.5);
    }
    if (pick(3) == 0) write();
    EXPECT_NEAR(actual.item(), twin.item(), 1e-9 * (1 + std::abs(twin.item())));
    if (!twin.requires_grad()) {
      EXPECT_FALSE(actual.requires_grad());
      return true;
    }
    const bool higher = pick(4) == 0;
    std::vector<Variable> inputs, twins;
    for (const Value& v : leaves_) {
      inputs.push_back(v.actual);
      twins.push_back(v.twin);
    }
    const GradOptions options{.create_graph = higher, .allow_unused = true};
    const std::vector<Variable> expected = grad({twin}, twins, options);
    std::vector<Variable> found;
    try {
      found = grad({actual}, inputs, options);
    } catch (const AutogradError& error) {
      EXPECT_TRUE(testing::contains(error.what(), "in place")) << error.what();
      return false;
    }
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].defined(), expected[i].defined());
      if (found[i].defined()) {
        EXPECT_TRUE(allclose(found[i], expected[i], 1e-7, 1e-9)) << found[i] << '\n' << expected[i];
      }
    }
    return true;
  }

 private:
  int pick(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  Value& any() { return pool_[static_cast<std::size_t>(pick(static_cast<int>(pool_.size())))]; }
  Tensor fresh() { return testing::uniform(generator_, {kSide, kSide}, 0.3, 1.7); }

  void compute() {
    const Value a = any(), b = any();
    const int op = pick(24);
    const Tensor index({2, 0, 1}, {3}, DeviceType::CPU, DataType::Int64);
    const auto apply = [&](const Variable& x, const Variable& y, const Tensor& at) -> Variable {
      switch (op) {
        case 0:
          return x + y;
        case 1:
          return x - y * 0.5;
        case 2:
          return x * y;
        case 3:
          return x / (1.5 + y * y);
        case 4:
          return sin(x);
        case 5:
          return exp(-x * x);
        case 6:
          return tanh(x);
        case 7:
          return sigmoid(x);
        case 8:
          return square(x) * 0.3;
        case 9:
          return matmul(x, y) * 0.3;
        case 10:
          return softmax(x, pick_axis_);
        case 11:
          return log_softmax(x, pick_axis_) * 0.5;
        case 12:
          return transpose(x);
        case 13:
          return flip(x, {pick_axis_});
        case 14:
          return reshape(reshape(x, {-1}), {kSide, kSide});
        case 15:
          return x * sum(y, pick_axis_) * 0.3;
        case 16:
          return x + prod(y, pick_axis_) * 0.2;
        case 17:
          return x * norm(y) * 0.2;
        case 18:
          return cumsum(x, pick_axis_) * 0.5;
        case 19:
          return index_select(x, pick_axis_, at);
        case 20:
          return cat({narrow(x, 0, 0, 1), narrow(y, 0, 1, 2)});
        case 21:
          return where(x > y, x, y * 0.5);
        case 22:
          return clone(x);
        default:
          return x * 0.5 + logsumexp(x, pick_axis_) * y[0] * 0.2;
      }
    };
    pick_axis_ = pick(2);
    pool_.push_back({apply(a.actual, b.actual, index), apply(a.twin, b.twin, index.clone())});
    if (pick(8) == 0) index.fill(0);
    if (pick(6) == 0) accumulate();
  }

  /// `x += y` on Variables: recorded where a gradient flows, else a write.
  void accumulate() {
    Value& x = any();
    const Value y = any();
    if (x.actual.requires_grad() && x.actual.is_leaf()) return;
    const bool recorded = x.actual.requires_grad() || y.actual.requires_grad();
    x.actual += y.actual;
    if (recorded)
      x.twin = x.twin + y.twin;
    else
      follow(x.actual.data());
  }

  void write() {
    const Value& target = any();
    const Tensor other = pick(2) ? any().actual.data() : fresh();
    Tensor view = target.actual.data();
    switch (pick(5)) {
      case 0:
        view = view.transpose();
        break;
      case 1:
        view = view.slice(1, std::nullopt, std::nullopt, -2);
        break;
      case 2:
        view = view[pick(3)];
        break;
      case 3:
        view = view.diagonal();
        break;
      default:
        break;
    }
    const Tensor source = view.ndim() == 1
                              ? other[pick(3)]
                              : other.narrow(1, 0, static_cast<std::int64_t>(view.size(1)));
    switch (pick(6)) {
      case 0:
        view.fill(0.25 + 0.5 * pick(3));
        break;
      case 1:
        view.copy(source);
        break;
      case 2:
        view += source;
        break;
      case 3:
        view *= 0.75;
        break;
      case 4:
        view -= 0.125;
        break;
      default: {
        const NoGradGuard guard;
        Variable handle = target.actual;
        handle *= 0.5;
        view = handle.data();
      }
    }
    follow(view);
  }

  void follow(const Tensor& written) {
    for (Value& v : pool_)
      if (v.actual.data().shares_storage(written))
        v.twin = v.actual.data().clone() + (v.twin - v.twin.detach());
  }

  std::mt19937 random_;
  Generator generator_;
  int pick_axis_ = 0;
  std::vector<Value> leaves_, pool_;
};

TEST(InPlace, AnErrorOrTheRightGradient) {
  int right = 0, refused = 0;
  for (unsigned seed = 0; seed < 6000 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    ++(Program(seed).run() ? right : refused);
  }
  EXPECT_GT(right, 1000);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace lmp
