// What is measured against other libraries, written once: each row sets up its operands and gives
// the body to time. `Api` is a library: its tensor type, and the functions whose names or arguments
// differ; the others are found by the operands. See worker.hpp for how rows run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace peers {

using Body = std::function<void()>;

struct Row {
  std::string group, name;
  /// What the operation has to move and compute at least, for the fraction of the machine's limit.
  double bytes = 0, flops = 0;
  /// The bytes that are written, of `bytes`.
  double written = 0;
  /// Kernel launches that it takes at least, for what is bound by them; instead of bytes.
  double launches = 0;
  /// What has to be reached: this part of the machine's limit, and this times the peer's speed.
  double must = 0, ahead = 0;
  Row& reaches(double part, double times) {
    must = part;
    ahead = times;
    return *this;
  }
  Row& moves(double all, double out) {
    bytes = all;
    written = out;
    return *this;
  }
  enum class Unit { Float32, Float64, BFloat16 } unit = Unit::Float32;
  std::function<Body()> setup;
};

/// Types of elements, for rows in each of them.
enum class Type { Bool, UInt8, Int8, Int16, Int32, Int64, Float16, BFloat16, Float32, Float64 };

enum class Loss { Squares, Logistic, CrossEntropy };

/// The compiler has to make this value.
template <class T>
void keep(const T& value) {
  asm volatile("" : : "r"(&value) : "memory");
}

inline std::string size_name(std::int64_t n) {
  if (n % (1 << 20) == 0) return std::to_string(n >> 20) + "Mi";
  if (n % (1 << 10) == 0 && n >= 65536) return std::to_string(n >> 10) + "Ki";
  return std::to_string(n);
}

template <class Api>
class Table {
 public:
  using T = typename Api::Tensor;    // without gradients
  using V = typename Api::Variable;  // with
  using Shape = std::vector<std::int64_t>;

  std::vector<Row> make() {
    small();
    pointwise();
    reductions();
    products();
    movement();
    training();
    return std::move(rows_);
  }

 protected:
  std::vector<Row> rows_;

  Row& add(const char* group, std::string name, std::function<Body()> setup) {
    Row row;
    row.group = group;
    row.name = std::move(name);
    row.setup = std::move(setup);
    rows_.push_back(std::move(row));
    return rows_.back();
  }

  // f of operands that `make` makes, a vector of tensors.
  template <class Make, class F>
  Row& forward(const char* group, std::string name, Make make, F f) {
    return add(group, std::move(name), [make, f]() -> Body {
      auto in = make();
      return [in, f] { keep(f(in)); };
    });
  }

  // The same with gradients of all floating operands: forward, and backward from a gradient of
  // ones.
  template <class Make, class F>
  Row& backward(const char* group, std::string name, Make make, F f) {
    return add(group, std::move(name), [make, f]() -> Body {
      std::vector<V> in;
      for (const T& x : make()) in.push_back(Api::leaf(x));
      const T ones = Api::ones_like(f(in));
      return [in, f, ones] {
        Api::backward(f(in), ones);
        for (const V& x : in) Api::zero_grad(x);
      };
    });
  }

  // ---- Small tensors: what an operation costs beside its arithmetic ----
  void small() {
    const char* const g = "small";
    for (std::int64_t n : {1, 8, 1024}) {
      const std::string at = " {" + std::to_string(n) + "}";
      const auto one = [n] { return std::vector<T>{Api::randn({n})}; };
      const auto two = [n] { return std::vector<T>{Api::randn({n}), Api::randn({n})}; };
      forward(g, "add" + at, two, [](const std::vector<T>& x) { return x[0] + x[1]; });
      forward(g, "exp" + at, one, [](const std::vector<T>& x) { return exp(x[0]); });
      add(g, "x*x recorded" + at, [n]() -> Body {
        const V x = Api::leaf(Api::randn({n}));
        return [x] { keep(x * x); };
      });
      add(g, "sum(x*x) fwd+bwd" + at, [n]() -> Body {
        const V x = Api::leaf(Api::randn({n}));
        return [x] {
          Api::backward(sum(x * x));
          Api::zero_grad(x);
        };
      });
      add(g, "20 mul fwd+bwd" + at, [n]() -> Body {
        const V x = Api::leaf(Api::full({n}, 1.01));
        const T ones = Api::full({n}, 1);
        return [x, ones] {
          V y = x;
          for (int i = 0; i < 20; ++i) y = y * x;
          Api::backward(y, ones);
          Api::zero_grad(x);
        };
      });
    }
    add(g, "MLP 4-16-16-1 batch 8 step", [] {
      return mlp({4, 16, 16, 1}, 8, false, Loss::Squares);
    });
  }

  // ---- Pointwise ----
  void pointwise() {
    const char* const g = "pointwise";
    const char* const b = "pointwise bwd";
    using In = const std::vector<T>&;
    using Vin = const std::vector<V>&;
    for (std::int64_t n : {1 << 16, 1 << 20, 1 << 24}) {
      const std::string at = " " + size_name(n);
      const double size = 4.0 * static_cast<double>(n);
      const auto one = [n] { return std::vector<T>{Api::uniform({n}, -4, 4)}; };
      const auto positive = [n] { return std::vector<T>{Api::uniform({n}, 0.1, 8)}; };
      const auto two = [n] {
        return std::vector<T>{Api::uniform({n}, 0.5, 3), Api::uniform({n}, 0.5, 3)};
      };
      const auto both = [&](const char* name, double in, double out, auto make, auto f) {
        forward(g, name + at, make, f).moves(size * (in + out), size * out);
        // Forward reads and writes as above; backward reads the gradient and what was saved (at
        // least the gradient alone), and writes a gradient for each operand.
        backward(b, name + at, make, f).moves(size * (in + out + 1 + in), size * (out + in));
      };
#define LMP_ROW(name, in, make, expression) \
  both(name, in, 1, make, [](const auto& x) { return expression; })
      LMP_ROW("add", 2, two, x[0] + x[1]);
      LMP_ROW("mul", 2, two, x[0] * x[1]);
      LMP_ROW("div", 2, two, x[0] / x[1]);
      LMP_ROW("neg", 1, one, -x[0]);
      LMP_ROW("sqrt", 1, positive, sqrt(x[0]));
      LMP_ROW("exp", 1, one, exp(x[0]));
      LMP_ROW("log", 1, positive, log(x[0]));
      LMP_ROW("sin", 1, one, sin(x[0]));
      LMP_ROW("cos", 1, one, cos(x[0]));
      LMP_ROW("tanh", 1, one, tanh(x[0]));
      LMP_ROW("sigmoid", 1, one, sigmoid(x[0]));
      LMP_ROW("erf", 1, one, erf(x[0]));
      LMP_ROW("gelu", 1, one, Api::gelu(x[0]));
      LMP_ROW("pow", 2, two, pow(x[0], x[1]));
      LMP_ROW("with a number", 1, one, x[0] * 2.5);
#undef LMP_ROW
      const std::int64_t side = std::int64_t{1} << (n == 1 << 16 ? 8 : n == 1 << 20 ? 10 : 12);
      const auto matrix = [side] { return Api::uniform({side, side}, 0.5, 3); };
      both(
          "with a row", 1, 1,
          [=] {
            return std::vector<T>{matrix(), Api::randn({side})};
          },
          [](const auto& x) { return x[0] + x[1]; });
      both(
          "with a column", 1, 1,
          [=] {
            return std::vector<T>{matrix(), Api::randn({side, 1})};
          },
          [](const auto& x) { return x[0] + x[1]; });
      both(
          "with a transposed", 2, 1,
          [=] {
            return std::vector<T>{matrix(), matrix()};
          },
          [](const auto& x) { return x[0] + Api::transpose(x[1]); });
      add(g, "where" + at, [=]() -> Body {
        const auto x = two();
        const T condition = x[0] > x[1];
        return [=] { keep(where(condition, x[0], x[1])); };
      }).moves(size * 3.25, size);
      add(b, "where" + at, [=]() -> Body {
        const auto x = two();
        const T condition = x[0] > x[1];
        const V p = Api::leaf(x[0]), q = Api::leaf(x[1]);
        const T ones = Api::full({n}, 1);
        return [=] {
          Api::backward(where(Api::constant(condition), p, q), ones);
          Api::zero_grad(p);
          Api::zero_grad(q);
        };
      }).moves(size * 6.5, size * 3);
      forward(g, "x > y" + at, two, [](In x) {
        return x[0] > x[1];
      }).moves(size * 2.25, size * 0.25);
      forward(
          g, "Int32 add" + at,
          [n] {
            return std::vector<T>{Api::integers({n}), Api::integers({n})};
          },
          [](In x) { return x[0] + x[1]; })
          .moves(size * 3, size);
      const auto wide = [=] { return std::vector<T>{Api::float64(one()[0])}; };
      const auto halves = [=] {
        const auto x = two();
        return std::vector<T>{Api::bfloat16(x[0]), Api::bfloat16(x[1])};
      };
      forward(g, "Float64 exp" + at, wide, [](In x) {
        return exp(x[0]);
      }).moves(size * 4, size * 2);
      backward(b, "Float64 exp" + at, wide, [](Vin x) {
        return exp(x[0]);
      }).moves(size * 8, size * 4);
      forward(g, "BFloat16 add" + at, halves, [](In x) {
        return x[0] + x[1];
      }).moves(size * 1.5, size * 0.5);
      backward(b, "BFloat16 add" + at, halves, [](Vin x) {
        return x[0] + x[1];
      }).moves(size * 3, size * 1.5);
    }
  }

  // ---- Reductions: axis -1 means everything ----
  void reductions() {
    const std::pair<std::int64_t, std::int64_t> shapes[] = {
        {4096, 4096}, {64, 65536}, {65536, 64}, {0, 1048576}};
    for (const auto& [rows, columns] : shapes) {
      const Shape shape = rows > 0 ? Shape{rows, columns} : Shape{columns};
      const double size = 4.0 * static_cast<double>(columns * (rows > 0 ? rows : 1));
      const std::string of = rows > 0
                                 ? " {" + std::to_string(rows) + "," + std::to_string(columns) + "}"
                                 : " {" + std::to_string(columns) + "}";
      const auto make = [shape] { return std::vector<T>{Api::randn(shape)}; };
      const auto both = [&](const std::string& name, double forward_bytes, double backward_bytes,
                            auto f) {
        forward("reductions", name, make, f)
            .moves(size * forward_bytes, size * (forward_bytes - 1));
        if (backward_bytes > 0)
          backward("reductions bwd", name, make, f)
              .moves(size * backward_bytes, size * forward_bytes);
      };
      for (int axis = rows > 0 ? 1 : 0; axis >= -1; --axis) {
        if (rows == 0 && axis == 0) continue;
        const std::string at = of + (axis < 0 ? " all" : " axis " + std::to_string(axis));
        both("sum" + at, 1, 2, [axis](const auto& x) { return Api::sum(x[0], axis); });
        both("max" + at, 1, 3, [axis](const auto& x) { return Api::max(x[0], axis); });
        both("mean" + at, 1, 2, [axis](const auto& x) { return Api::mean(x[0], axis); });
        both("var" + at, 1, 3, [axis](const auto& x) { return Api::var(x[0], axis); });
        both("argmax" + at, 1, 0, [axis](const auto& x) { return Api::argmax(x[0], axis); });
        const int over = axis < 0 ? 0 : axis;
        if (axis < 0 && rows > 0) continue;
        both("softmax" + at, 2, 5, [over](const auto& x) { return softmax(x[0], over); });
        both("log_softmax" + at, 2, 5, [over](const auto& x) { return log_softmax(x[0], over); });
      }
    }
  }

  // ---- Matrix products ----
  struct Product {
    std::int64_t batch, m, k, n;
    bool a_transposed, b_transposed;
  };
  void product(const std::string& name, const Product& p, int type, bool gradient) {
    using Unit = typename Row::Unit;
    const auto make = [p, type] {
      const auto one = [&](std::int64_t r, std::int64_t c, bool transposed) {
        const Shape shape = transposed ? Shape{c, r} : Shape{r, c};
        Shape whole = shape;
        if (p.batch > 0) whole.insert(whole.begin(), p.batch);
        T x = Api::randn(whole);
        if (type == 1) x = Api::float64(x);
        if (type == 2) x = Api::bfloat16(x);
        return x;
      };
      return std::vector<T>{one(p.m, p.k, p.a_transposed), one(p.k, p.n, p.b_transposed)};
    };
    const auto f = [p](const auto& x) {
      return matmul(p.a_transposed ? Api::transpose(x[0]) : x[0],
                    p.b_transposed ? Api::transpose(x[1]) : x[1]);
    };
    const double flops = 2.0 * static_cast<double>((p.batch > 0 ? p.batch : 1) * p.m * p.k * p.n);
    const Unit unit = type == 1 ? Unit::Float64 : type == 2 ? Unit::BFloat16 : Unit::Float32;
    Row& row = gradient ? backward("matmul bwd", name, make, f) : forward("matmul", name, make, f);
    row.flops = gradient ? 3 * flops : flops;
    row.unit = unit;
  }
  void products() {
    const char* const types[] = {"fp32 ", "fp64 ", "bf16 "};
    for (int type = 0; type < 3; ++type) {
      for (std::int64_t n : {16, 32, 64, 128, 256, 512, 1024, 2048}) {
        const std::string name = types[type] + std::to_string(n);
        for (int order = 0; order < 4; ++order) {
          const bool a = order & 2, b = order & 1;
          if (order > 0 && (type != 0 && n != 256)) continue;
          product(name + (a ? " T" : " N") + (b ? "T" : "N"), {0, n, n, n, a, b}, type, false);
        }
        if (n <= 1024) product(name, {0, n, n, n, false, false}, type, true);
      }
    }
    const auto several = [&](const std::string& name, const Product& p) {
      product(name, p, 0, false);
      product(name, p, 0, true);
    };
    for (int order = 0; order < 3; ++order) {
      const bool a = order == 2, b = order == 1;
      const std::string at = order == 0 ? " NN" : order == 1 ? " NT" : " TN";
      several("128x784x512" + at, {0, 128, 784, 512, a, b});
      several("64x768x3072" + at, {0, 64, 768, 3072, a, b});
      several("4096x64x64" + at, {0, 4096, 64, 64, a, b});
    }
    several("128x512x10 NN", {0, 128, 512, 10, false, false});
    several("1x1024x1024 NN", {0, 1, 1024, 1024, false, false});
    several("1024x1024x1 NN", {0, 1024, 1024, 1, false, false});
    several("96 x 64x64x64 NN", {96, 64, 64, 64, false, false});
    several("96 x 64x64x64 NT", {96, 64, 64, 64, false, true});
    several("12 x 256x64x256 NT", {12, 256, 64, 256, false, true});
  }

  // ---- Movement ----
  void movement() {
    const char* const g = "movement";
    const char* const b = "movement bwd";
    using In = const std::vector<T>&;
    for (std::int64_t side : {1024, 4096}) {
      const std::string at = " {" + std::to_string(side) + "," + std::to_string(side) + "}";
      const double size = 4.0 * static_cast<double>(side * side);
      const auto one = [side] { return std::vector<T>{Api::randn({side, side})}; };
      const auto two = [side] {
        return std::vector<T>{Api::randn({side, side}), Api::randn({side, side})};
      };
      const auto both = [&](const std::string& name, double bytes, double backward_bytes, auto make,
                            auto f) {
        forward(g, name + at, make, f).moves(size * bytes, size * bytes / 2);
        backward(b, name + at, make, f).moves(size * backward_bytes, size * backward_bytes / 2);
      };
      both("transpose copy", 2, 4, one,
           [](const auto& x) { return Api::contiguous(Api::transpose(x[0])); });
      both("cat axis 0", 4, 8, two, [](const auto& x) { return Api::cat(x[0], x[1], 0); });
      both("cat axis 1", 4, 8, two, [](const auto& x) { return Api::cat(x[0], x[1], 1); });
      both("slice step 2, copied", 1, 3, one,
           [](const auto& x) { return Api::contiguous(Api::every_second(x[0], 1)); });
      both("slice rows step 2, copied", 1, 3, one,
           [](const auto& x) { return Api::contiguous(Api::every_second(x[0], 0)); });
      both("cumsum axis 0", 2, 4, one, [](const auto& x) { return cumsum(x[0], 0); });
      both("cumsum axis 1", 2, 4, one, [](const auto& x) { return cumsum(x[0], 1); });
      both("astype BFloat16", 1.5, 3, one, [](const auto& x) { return Api::bfloat16(x[0]); });
      both("astype Float64", 3, 6, one, [](const auto& x) { return Api::float64(x[0]); });
      for (int axis : {0, 1}) {
        const std::string over = " axis " + std::to_string(axis);
        const auto indexed = [&](const std::string& name, double bytes, double backward_bytes,
                                 auto index, auto f) {
          add(g, name + over + at, [=]() -> Body {
            const T x = Api::randn({side, side}), i = index();
            return [=] { keep(f(x, i)); };
          }).moves(size * bytes, size * bytes / 2);
          add(b, name + over + at, [=]() -> Body {
            const V x = Api::leaf(Api::randn({side, side}));
            const T i = index(), ones = Api::full({side, side}, 1);
            return [=] {
              Api::backward(f(x, i), ones);
              Api::zero_grad(x);
            };
          }).moves(size * backward_bytes, size * backward_bytes / 2);
        };
        indexed(
            "index_select", 2, 4, [=] { return Api::indices({side}, side); },
            [axis](const auto& x, const T& i) { return Api::index_select(x, axis, i); });
        indexed(
            "gather", 4, 8,
            [=] {
              return Api::indices({side, side}, side);
            },
            [axis](const auto& x, const T& i) { return Api::gather(x, axis, i); });
      }
      if (side == 1024) {
        forward(g, "astype Int32" + at, one, [](In x) {
          return Api::int32(x[0]);
        }).moves(size * 2, size);
        both("sort axis 1", 4, 8, one, [](const auto& x) { return Api::sort(x[0], 1); });
        both("sort axis 0", 4, 8, one, [](const auto& x) { return Api::sort(x[0], 0); });
        forward(
            g, "sort {1048576}", [] { return std::vector<T>{Api::randn({1048576})}; },
            [](In x) { return Api::sort(x[0], 0); });
      }
    }
  }

  // ---- Training steps ----
  static Body mlp(const std::vector<std::int64_t>& sizes, std::int64_t batch, bool adam,
                  Loss loss) {
    auto model = std::make_shared<typename Api::Mlp>(sizes, adam, loss);
    const T x = Api::randn({batch, sizes.front()});
    const T y = loss == Loss::CrossEntropy ? Api::indices({batch}, sizes.back())
                                           : Api::uniform({batch, sizes.back()}, 0, 1);
    return [=] { model->step(x, y); };
  }
  void training() {
    const char* const g = "training";
    const double products = 2.0 * (3 * 512 * 10 + 2 * 784 * 512);
    for (std::int64_t batch : {128, 1024}) {
      for (bool adam : {false, true}) {
        add(g,
            std::string("MLP 784-512-10 ") + (adam ? "Adam" : "SGD") + " batch " +
                std::to_string(batch),
            [=] {
              return mlp({784, 512, 10}, batch, adam, Loss::CrossEntropy);
            })
            .flops = products * static_cast<double>(batch);
      }
    }
    add(g, "logistic regression 64 batch 32", [] {
      return mlp({64, 1}, 32, false, Loss::Logistic);
    });
  }
};

}  // namespace peers
