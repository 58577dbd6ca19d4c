// What is measured on a GPU, written once for every library like the rows of peers/rows.hpp, with
// what each row has to reach: a part of the machine's limit, and a multiple of the peer's speed.
#pragma once

#include <cmath>

#include "../peers/rows.hpp"

namespace peers {

template <class Api>
class GpuTable : public Table<Api> {
  using Base = Table<Api>;
  using typename Base::Shape;
  using typename Base::T;
  using typename Base::V;
  using In = const std::vector<T>&;
  static constexpr std::int64_t kBytes = std::int64_t{128} << 20;  // of an array: out of any cache
  static constexpr double kLevel = 0.98;  // as fast as the peer, but for noise

 public:
  std::vector<Row> make() {
    host();
    contiguous();
    broadcasts();
    arithmetic();
    reductions();
    movement();
    matmul();
    layers();
    return std::move(this->rows_);
  }

 private:
  static constexpr const char* kNames[] = {"Bool",  "UInt8",   "Int8",     "Int16",   "Int32",
                                           "Int64", "Float16", "BFloat16", "Float32", "Float64"};
  static constexpr std::int64_t kSizes[] = {1, 1, 1, 2, 4, 8, 2, 2, 4, 8};
  static constexpr Type kTypes[] = {Type::Bool,    Type::UInt8,  Type::Int8,    Type::Int16,
                                    Type::Int32,   Type::Int64,  Type::Float16, Type::BFloat16,
                                    Type::Float32, Type::Float64};
  static std::string name_of(Type type) { return kNames[static_cast<int>(type)]; }
  static std::int64_t size_of(Type type) { return kSizes[static_cast<int>(type)]; }
  static bool is_floating(Type type) { return type >= Type::Float16; }

  static T values(Type type, const Shape& shape) {
    return Api::cast(is_floating(type) ? Api::uniform(shape, 0.5, 3) : Api::uniform(shape, 1, 9),
                     type);
  }

  // ---- What an operation costs the host ----
  void host() {
    const char* const g = "host";
    for (std::int64_t n : {8, 1024}) {
      const std::string at = " {" + std::to_string(n) + "}";
      const auto one = [n] { return std::vector<T>{Api::randn({n})}; };
      const auto two = [n] { return std::vector<T>{Api::randn({n}), Api::randn({n})}; };
      const auto launch = [](Row& row) {
        row.launches = 1;
        row.reaches(1 / 1.15, 1);
      };
      launch(this->forward(g, "add" + at, two, [](In x) { return x[0] + x[1]; }));
      launch(this->forward(g, "exp" + at, one, [](In x) { return exp(x[0]); }));
      this->add(g, "x*x recorded" + at, [n]() -> Body {
        const V x = Api::leaf(Api::randn({n}));
        return [x] { keep(x * x); };
      });
      this->add(g, "sum(x*x) fwd+bwd" + at,
                [n]() -> Body {
                  const V x = Api::leaf(Api::randn({n}));
                  return [x] {
                    Api::backward(sum(x * x));
                    Api::zero_grad(x);
                  };
                })
          .reaches(0, 1 / 0.3);
      this->add(g, "20 mul fwd+bwd" + at,
                [n]() -> Body {
                  const V x = Api::leaf(Api::full({n}, 1.01));
                  const T ones = Api::full({n}, 1);
                  return [x, ones] {
                    V y = x;
                    for (int i = 0; i < 20; ++i) y = y * x;
                    Api::backward(y, ones);
                    Api::zero_grad(x);
                  };
                })
          .reaches(0, 1 / 0.3);
    }
    for (const bool adam : {false, true})
      this->add(g, std::string("MLP 784-512-10 batch 128 step, ") + (adam ? "Adam" : "SGD"),
                [adam] {
                  return Base::mlp({784, 512, 10}, 128, adam, Loss::CrossEntropy);
                })
          .reaches(0, adam ? kLevel : 1 / 0.35);
    this->add(g, "MLP 784-512-10 batch 128 step, SGD, as a graph",
              [] {
                return Api::graph(Base::mlp({784, 512, 10}, 128, false, Loss::CrossEntropy));
              })
        .reaches(0, 1 / 0.6);
  }

  // ---- Bound by memory: one pass over dense arrays, in every type ----
  void contiguous() {
    const char* const g = "contiguous";
    for (const Type type : kTypes) {
      const auto size = static_cast<double>(kBytes);
      const std::int64_t n = kBytes / size_of(type);
      const double elements = static_cast<double>(n);
      const std::string at = ' ' + name_of(type);
      const auto one = [=] { return std::vector<T>{values(type, {n})}; };
      const auto two = [=] { return std::vector<T>{values(type, {n}), values(type, {n})}; };
      const auto row = [&](const char* name, auto make, auto f, double in, double out) {
        this->forward(g, name + at, make, f).moves(in + out, out).reaches(0.9, kLevel);
      };
      if (type != Type::Bool) {
        row(
            "add", two, [](In x) { return x[0] + x[1]; }, 2 * size, size);
        row(
            "mul", two, [](In x) { return x[0] * x[1]; }, 2 * size, size);
        row(
            "neg", one, [](In x) { return -x[0]; }, size, size);
        row(
            "with a number", one, [](In x) { return x[0] * 2; }, size, size);
      }
      if (is_floating(type)) {
        row(
            "relu", one, [](In x) { return relu(x[0]); }, size, size);
        if (type != Type::Float64) {
          row(
              "exp", one, [](In x) { return exp(x[0]); }, size, size);
          row(
              "sqrt", one, [](In x) { return sqrt(x[0]); }, size, size);
        }
      }
      row(
          "x > y", two, [](In x) { return x[0] > x[1]; }, 2 * size, elements);
      const auto choice = [=] {
        auto x = two();
        x.push_back(x[0] > x[1]);
        return x;
      };
      row(
          "where", choice, [](In x) { return where(x[2], x[0], x[1]); }, 2 * size + elements, size);
      for (const Type to : {Type::Float32, Type::BFloat16, Type::Int32, Type::Int8})
        if (to != type)
          row(("to " + name_of(to) + " from").c_str(), one,
              [to](In x) { return Api::cast(x[0], to); }, size,
              elements * static_cast<double>(size_of(to)));
    }
  }

  // ---- Bound by memory: broadcasts, strides and mixed types ----
  void broadcasts() {
    const char* const g = "broadcast";
    const std::int64_t columns = 4096;
    for (const Type type : {Type::Float32, Type::BFloat16, Type::Float64, Type::Int32}) {
      const std::int64_t rows = kBytes / size_of(type) / columns;
      const auto size = static_cast<double>(kBytes);
      const std::string at = ' ' + name_of(type);
      const auto with = [&](const char* name, const Shape& other, double in, auto f) {
        this->forward(
                g, name + at,
                [=] {
                  return std::vector<T>{values(type, {rows, columns}), values(type, other)};
                },
                f)
            .moves(size * (in + 1), size)
            .reaches(0.8, kLevel);
      };
      with("with a row", {columns}, 1, [](In x) { return x[0] + x[1]; });
      with("with a column", {rows, 1}, 1, [](In x) { return x[0] + x[1]; });
      with("with a transposed", {columns, rows}, 2,
           [](In x) { return x[0] + Api::transpose(x[1]); });
    }
    const std::pair<Type, Type> mixed[] = {
        {Type::Float32, Type::BFloat16}, {Type::Float32, Type::Float16},
        {Type::Float32, Type::Int32},    {Type::BFloat16, Type::Int8},
        {Type::Int64, Type::Int32},      {Type::Float64, Type::Float32}};
    for (const auto& [a, b] : mixed) {
      const std::int64_t n = kBytes / size_of(a);
      const double bytes = static_cast<double>(n * (2 * size_of(a) + size_of(b)));
      this->forward(
              "mixed types", "add " + name_of(a) + ' ' + name_of(b),
              [=, a = a, b = b] {
                return std::vector<T>{values(a, {n}), values(b, {n})};
              },
              [](In x) { return x[0] + x[1]; })
          .moves(bytes, static_cast<double>(kBytes))
          .reaches(0.6, kLevel);
    }
  }

  // ---- Bound by arithmetic ----
  void arithmetic() {
    const char* const g = "arithmetic";
    const auto rows = [&](Type type) {
      const std::int64_t n = kBytes / size_of(type);
      const auto size = static_cast<double>(kBytes);
      const std::string at = ' ' + name_of(type);
      const auto one = [=] { return std::vector<T>{values(type, {n})}; };
      const auto two = [=] { return std::vector<T>{values(type, {n}), values(type, {n})}; };
#define LMP_ROW(name, in, make, expression)                          \
  this->forward(g, name + at, make, [](In x) { return expression; }) \
      .moves(size*(in + 1), size)                                    \
      .reaches(0, kLevel)
      if (!is_floating(type)) {
        LMP_ROW("remainder", 2, two, remainder(x[0], x[1]));
        return;
      }
      LMP_ROW("div", 2, two, x[0] / x[1]);
      LMP_ROW("pow", 2, two, pow(x[0], x[1]));
      LMP_ROW("erf", 1, one, erf(x[0]));
      LMP_ROW("gelu", 1, one, Api::gelu(x[0]));
      LMP_ROW("sin", 1, one, sin(x[0]));
      LMP_ROW("cos", 1, one, cos(x[0]));
      LMP_ROW("tanh", 1, one, tanh(x[0]));
      LMP_ROW("sigmoid", 1, one, sigmoid(x[0]));
      LMP_ROW("log", 1, one, log(x[0]));
      LMP_ROW("log1p", 1, one, log1p(x[0]));
      LMP_ROW("remainder", 2, two, remainder(x[0], x[1]));
      if (type != Type::Float64) return;
      LMP_ROW("exp", 1, one, exp(x[0]));
      LMP_ROW("sqrt", 1, one, sqrt(x[0]));
#undef LMP_ROW
    };
    for (const Type type :
         {Type::Float32, Type::BFloat16, Type::Float64, Type::Int32, Type::Int64, Type::UInt8})
      rows(type);
  }

  // ---- Reductions ----
  void reductions() {
    const std::pair<Type, std::pair<std::int64_t, std::int64_t>> shapes[] = {
        {Type::Float32, {8192, 4096}}, {Type::Float32, {512, 65536}},
        {Type::Float32, {524288, 64}}, {Type::BFloat16, {8192, 8192}},
        {Type::Float64, {4096, 4096}}, {Type::Int32, {8192, 4096}}};
    for (const auto& [type, shape] : shapes) {
      const auto [rows, columns] = shape;
      const auto size = static_cast<double>(rows * columns * size_of(type));
      const std::string of =
          ' ' + name_of(type) + " {" + std::to_string(rows) + "," + std::to_string(columns) + "}";
      const auto make = [type = type, rows = rows, columns = columns] {
        return std::vector<T>{values(type, {rows, columns})};
      };
      for (int axis = 1; axis >= -1; --axis) {
        const std::string at = of + (axis < 0 ? " all" : " axis " + std::to_string(axis));
        const auto row = [&](const char* name, double part, auto f) {
          this->forward("reductions", name + at, make, f).moves(size, 0).reaches(part, kLevel);
        };
        row("sum", 0.8, [axis](In x) { return Api::sum(x[0], axis); });
        row("max", 0.8, [axis](In x) { return Api::max(x[0], axis); });
        row("argmax", 0.8, [axis](In x) { return Api::argmax(x[0], axis); });
        if (!is_floating(type)) continue;
        row("mean", 0.8, [axis](In x) { return Api::mean(x[0], axis); });
        row("var", 0, [axis](In x) { return Api::var(x[0], axis); });
        if (axis < 0) continue;
        const auto soft = [&](const char* name, auto f) {
          this->forward("softmax", name + at, make, f)
              .moves(2 * size, size)
              .reaches(axis == 1 ? 0.8 : 0.55, kLevel);
        };
        soft("softmax", [axis](In x) { return softmax(x[0], axis); });
        soft("log_softmax", [axis](In x) { return log_softmax(x[0], axis); });
      }
    }
  }

  // ---- Movement ----
  void movement() {
    const char* const g = "movement";
    for (const Type type : {Type::Float32, Type::BFloat16, Type::Float64, Type::Int8}) {
      const std::int64_t side = 8192;
      const auto size = static_cast<double>(side * side * size_of(type));
      this->forward(
              g, "transpose copy " + name_of(type),
              [=] {
                return std::vector<T>{values(type, {side, side})};
              },
              [](In x) { return Api::contiguous(Api::transpose(x[0])); })
          .moves(2 * size, size)
          .reaches(0.8, kLevel);
    }
    // The rest is told, and has no bound but the peer.
    const std::int64_t side = 4096;
    const auto size = static_cast<double>(side * side * 4);
    const auto one = [=] { return std::vector<T>{Api::randn({side, side})}; };
    const auto told = [&](const std::string& name, double bytes, auto make, auto f) {
      this->forward(g, name, make, f).moves(bytes, bytes / 2).reaches(0, kLevel);
    };
    told("slice step 2, copied", size, one,
         [](In x) { return Api::contiguous(Api::every_second(x[0], 1)); });
    for (int axis : {0, 1}) {
      const std::string over = " axis " + std::to_string(axis);
      told("cat" + over, 4 * size, one, [axis](In x) { return Api::cat(x[0], x[0], axis); });
      told("cumsum" + over, 2 * size, one, [axis](In x) { return cumsum(x[0], axis); });
      told("sort" + over, 0, one, [axis](In x) { return Api::sort(x[0], axis); });
      told(
          "index_select" + over, 2 * size,
          [=] {
            return std::vector<T>{Api::randn({side, side}), Api::indices({side}, side)};
          },
          [axis](In x) { return Api::index_select(x[0], axis, x[1]); });
      told(
          "gather" + over, 4 * size,
          [=] {
            return std::vector<T>{Api::randn({side, side}), Api::indices({side, side}, side)};
          },
          [axis](In x) { return Api::gather(x[0], axis, x[1]); });
    }
    told(
        "sort {16Mi}", 0, [] { return std::vector<T>{Api::randn({1 << 24})}; },
        [](In x) { return Api::sort(x[0], 0); });
  }

  // ---- Matrix products ----
  void matmul() {
    const auto product = [&](const std::string& kind, const std::string& name,
                             const typename Base::Product& p) {
      const bool tf32 = kind == "tf32";
      Base::product(kind + ' ' + name, p, kind == "bf16" ? 2 : 0, false);
      Row& row = this->rows_.back();
      row.reaches(0, kLevel);
      row.setup = [tf32, inner = row.setup] {
        Api::tf32(tf32);
        return inner();
      };
    };
    for (const char* kind : {"fp32", "tf32", "bf16"})
      for (std::int64_t n = 128; n <= 8192; n *= 2)
        for (int order = 0; order < 4; ++order) {
          const bool a = order & 2, b = order & 1;
          if (order == 3 || (order > 0 && n % 1024 != 0)) continue;
          product(kind, std::to_string(n) + (a ? " T" : " N") + (b ? "T" : "N"),
                  {0, n, n, n, a, b});
        }
    // GPT-2 124M, a batch of 32 x 1024: each layer's product, and those of its gradients.
    const std::int64_t tokens = 32768;
    const std::tuple<const char*, std::int64_t, std::int64_t> shapes[] = {{"qkv", 768, 2304},
                                                                          {"proj", 768, 768},
                                                                          {"up", 768, 3072},
                                                                          {"down", 3072, 768},
                                                                          {"head", 768, 50304}};
    for (const auto& [name, in, out] : shapes) {
      const std::string layer = std::string("GPT-2 ") + name;
      product("bf16", layer + " forward", {0, tokens, in, out, false, true});
      product("bf16", layer + " gradient of x", {0, tokens, out, in, false, false});
      product("bf16", layer + " gradient of the weight", {0, out, tokens, in, true, false});
    }
    product("bf16", "batched 384 x 1024x64x1024 NT", {384, 1024, 64, 1024, false, true});
    product("fp32", "batched 384 x 256x64x256 NN", {384, 256, 64, 256, false, false});
  }

  // ---- What transformers are made of ----
  void layers() {
    const char* const g = "layers";
    const auto half = [](const Shape& shape) {
      return Api::cast(Api::randn(shape), Type::BFloat16);
    };
    const std::int64_t rows = 32768, width = 768;
    this->add(g, "layer norm 32768x768 BFloat16 fwd+bwd",
              [=]() -> Body {
                const V x = Api::leaf(half({rows, width})), weight = Api::leaf(half({width})),
                        bias = Api::leaf(half({width}));
                const T gradient = half({rows, width});
                return [=] {
                  Api::backward(Api::layer_norm(x, weight, bias), gradient);
                  Api::zero_grad(x);
                  Api::zero_grad(weight);
                  Api::zero_grad(bias);
                };
              })
        .moves(5.0 * 2 * static_cast<double>(rows * width),
               2.0 * 2 * static_cast<double>(rows * width))
        .reaches(0.8, kLevel);
    // The norm 4 arrays each way; what else uses the sum 5 and 2.
    this->add(g, "residual + layer norm 32768x768 BFloat16 fwd+bwd",
              [=]() -> Body {
                const V x = Api::leaf(half({rows, width})), weight = Api::leaf(half({width})),
                        bias = Api::leaf(half({width}));
                const T residual = half({rows, width}), gradient = half({rows, width});
                return [=] {
                  const auto [y, sum] = Api::add_layer_norm(x, residual, weight, bias);
                  Api::backward(y + sum * 2, gradient);
                  Api::zero_grad(x);
                  Api::zero_grad(weight);
                  Api::zero_grad(bias);
                };
              })
        .moves(15.0 * 2 * static_cast<double>(rows * width),
               6.0 * 2 * static_cast<double>(rows * width))
        .reaches(0, kLevel);
    // Reads the logits and writes their gradient.
    const std::int64_t examples = 8192, classes = 50304;
    this->add(g, "cross_entropy 8192x50304 BFloat16 fwd+bwd",
              [=]() -> Body {
                const V logits = Api::leaf(half({examples, classes}));
                const T labels = Api::indices({examples}, classes);
                return [=] {
                  Api::backward(Api::cross_entropy(logits, labels));
                  Api::zero_grad(logits);
                };
              })
        .moves(2.0 * 2 * static_cast<double>(examples * classes),
               2.0 * static_cast<double>(examples * classes))
        .reaches(0.8, kLevel);
    std::vector<Shape> parameters{{50304, 768}, {1024, 768}, {768}, {768}};
    for (int layer = 0; layer < 12; ++layer)
      for (const Shape& shape : {Shape{768},
                                 {768},
                                 {2304, 768},
                                 {2304},
                                 {768, 768},
                                 {768},
                                 {768},
                                 {768},
                                 {3072, 768},
                                 {3072},
                                 {768, 3072},
                                 {768}})
        parameters.push_back(shape);
    double count = 0;
    for (const Shape& shape : parameters) {
      double n = 1;
      for (std::int64_t size : shape) n *= static_cast<double>(size);
      count += n;
    }
    this->add(g, "AdamW, the 124 M parameters of GPT-2",
              [parameters]() -> Body {
                const auto optimizer = std::make_shared<typename Api::AdamW>(parameters);
                return [optimizer] { optimizer->step(); };
              })
        .moves(28 * count, 12 * count)
        .reaches(0.8, kLevel);
  }
};

}  // namespace peers
