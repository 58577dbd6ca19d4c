// The structured ops against what NumPy says (golden/make_golden.py), in every type that holds the
// inputs, in every layout, on Tensor and on Variable.

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>

#include "lamppp/lamppp.hpp"

namespace {

using lmp::DataType;
using lmp::DeviceType;
using lmp::IntList;
using lmp::Shape;
using lmp::Tensor;
using lmp::Variable;

struct Array {
  std::vector<std::int64_t> shape;
  std::vector<double> values;
};

struct Case {
  std::string name;
  std::vector<Array> inputs;
  Array out;
};

std::vector<Case> read_cases() {
  std::ifstream file(std::string(LAMPPP_TEST_DIR) + "/golden/golden.txt");
  std::vector<Case> cases;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word, shape, colon;
    words >> word;
    if (word == "case") {
      cases.push_back({line.substr(5), {}, {}});
    } else if (word == "in" || word == "out") {
      Array array;
      words >> shape >> colon;
      std::istringstream sizes(shape == "-" ? "" : shape);
      for (std::string size; std::getline(sizes, size, ',');)
        array.shape.push_back(std::stoll(size));
      for (std::string value; words >> value;) array.values.push_back(std::stod(value));
      if (word == "in")
        cases.back().inputs.push_back(array);
      else
        cases.back().out = array;
    }
  }
  return cases;
}

const Tensor& value_of(const Tensor& t) { return t; }
const Tensor& value_of(const Variable& v) { return v.data(); }

struct Function {
  std::function<Tensor(const std::vector<Tensor>&)> on_tensors;
  std::function<Tensor(const std::vector<Variable>&)> on_variables;
};

template <class F>
Function both(F f) {
  return {[f](const std::vector<Tensor>& x) { return Tensor(value_of(f(x))); },
          [f](const std::vector<Variable>& x) { return Tensor(value_of(f(x))); }};
}

#define CALL(expression) both([=](const auto& x) { return expression; })

// What an optimiser makes of the first of x by the gradients that follow.
template <class Optimizer, class Rule, class X>
Tensor trained(const Rule& rule, const std::vector<X>& x) {
  const Variable p(value_of(x[0]).clone(), true);
  Optimizer optimizer({p}, rule);
  for (std::size_t i = 1; i < x.size(); ++i) {
    optimizer.zero_grad();
    p.incr_grad(value_of(x[i]));
    optimizer.step();
  }
  return p.data();
}

// The gradients x, clipped, and their norm, joined.
template <class X>
Tensor clipped(const std::vector<X>& x, double max_norm) {
  std::vector<Variable> parameters;
  for (const X& g : x) {
    parameters.emplace_back(lmp::zeros_like(value_of(g)), true);
    parameters.back().incr_grad(value_of(g));
  }
  const double norm = lmp::optim::clip_grad_norm(parameters, max_norm).item();
  std::vector<Tensor> out;
  for (const Variable& p : parameters) out.push_back(p.grad().flatten().astype(DataType::Float64));
  out.push_back(lmp::full({1}, norm, DeviceType::CPU, DataType::Float64));
  return lmp::cat(out);
}

Tensor index_of(const Tensor& t) { return t.astype(DataType::Int64); }
Tensor index_of(const Variable& v) { return v.data().astype(DataType::Int64); }
Tensor mask_of(const Tensor& t) { return t != 0; }
Tensor mask_of(const Variable& v) { return v.data() != 0; }

// Linear algebra takes Float32 and Float64 alone.
template <class V>
V wide(const V& v) {
  return v.type() == DataType::Float64 ? v : lmp::astype(v, DataType::Float32);
}

std::map<std::string, Function> functions() {
  std::map<std::string, Function> f;
#define REDUCTION(name)                                        \
  for (int axis = 0; axis < 3; ++axis) {                       \
    const std::string key = #name "_" + std::to_string(axis);  \
    f[key] = CALL(lmp::name(x[0], axis));                      \
    f[key + "_drop"] = CALL(lmp::name(x[0], axis - 3, false)); \
  }                                                            \
  f[#name "_02"] = CALL(lmp::name(x[0], {0, 2}));              \
  f[#name "_02_drop"] = CALL(x[0].name({-1, 0}, false));       \
  f[#name "_all"] = CALL(lmp::name(x[0]));                     \
  f[#name "_all_drop"] = CALL(lmp::name(x[0], {0, 1, 2}, false));
  REDUCTION(sum)
  REDUCTION(mean)
  REDUCTION(prod)
  REDUCTION(max)
  REDUCTION(min)
  REDUCTION(var)
  REDUCTION(std)
  REDUCTION(norm)
  REDUCTION(logsumexp)
  REDUCTION(any)
  REDUCTION(all)
#undef REDUCTION
  f["argmax_all"] = CALL(lmp::argmax(x[0]));
  f["argmin_all"] = CALL(lmp::argmin(x[0]));
  for (int axis = 0; axis < 3; ++axis) {
    const std::string at = "_" + std::to_string(axis);
    f["argmax" + at] = CALL(lmp::argmax(x[0], axis));
    f["argmin" + at] = CALL(lmp::argmin(x[0], axis));
    f["cumsum" + at] = CALL(lmp::cumsum(x[0], axis));
    f["softmax" + at] = CALL(lmp::softmax(x[0], axis));
    f["log_softmax" + at] = CALL(lmp::log_softmax(x[0], axis - 3));
    f["cat" + at] = CALL(lmp::cat({x[0], x[1]}, axis));
    f["flip" + at] = CALL(lmp::flip(x[0], axis));
    f["roll" + at] = CALL(lmp::roll(x[0], 3, axis));
    f["roll_back" + at] = CALL(lmp::roll(x[0], -1, axis));
    f["gather" + at] = CALL(lmp::gather(x[0], axis, index_of(x[1])));
    f["scatter_add" + at] = CALL(lmp::scatter_add(x[0], axis, index_of(x[1]), x[2]));
    f["scatter" + at] = CALL(lmp::scatter(x[0], axis, index_of(x[1]), x[2]));
    f["sort" + at] = CALL(lmp::sort(x[0], axis).first);
    f["argsort" + at] = CALL(lmp::argsort(x[0], axis));
    f["sort_descending" + at] = CALL(lmp::sort(x[0], axis, true).first);
    f["argsort_descending" + at] = CALL(lmp::sort(x[0], axis, true).second);
    f["topk" + at] = CALL(lmp::topk(x[0], 2, axis).first);
  }
  for (int axis = 0; axis < 4; ++axis) {
    f["stack_" + std::to_string(axis)] = CALL(lmp::stack({x[0], x[1]}, axis));
    f["expand_dims_" + std::to_string(axis)] = CALL(lmp::expand_dims(x[0], axis));
  }
  for (const char* shapes :
       {"2d", "vector_matrix", "matrix_vector", "vectors", "batched", "broadcast",
        "batch_by_matrix", "matrix_by_batch", "empty_inner", "large", "vector_batch"})
    f[std::string("matmul_") + shapes] = CALL(lmp::matmul(x[0], x[1]));
  f["dot"] = CALL(lmp::dot(x[0], x[1]));
  f["outer"] = CALL(lmp::outer(x[0], x[1]));
  f["repeat"] = CALL(lmp::repeat(x[0], {2, 1, 3}));
  f["repeat_leading"] = CALL(lmp::repeat(x[0], {3, 1, 2, 1}));
  f["pad"] = CALL(lmp::pad(x[0], {{1, 0}, {0, 2}, {1, 1}}));
  f["pad_value"] = CALL(lmp::pad(x[0], {{0, 1}, {2, 0}, {0, 0}}, 1.5));
  f["movedim_0_2"] = CALL(lmp::movedim(x[0], 0, 2));
  f["movedim_2_0"] = CALL(x[0].movedim(-1, 0));
  f["permute"] = CALL(lmp::permute(x[0], {2, 0, 1}));
  f["transpose"] = CALL(lmp::transpose(x[0]));
  f["transpose_0_2"] = CALL(lmp::transpose(x[0], 0, -1));
  f["reshape"] = CALL(lmp::reshape(x[0], {4, -1}));
  f["flatten_0_1"] = CALL(lmp::flatten(x[0], 0, 1));
  f["slice_step"] = CALL(lmp::slice(x[0], 2, 1, std::nullopt, 2));
  f["slice_reverse"] = CALL(lmp::slice(x[0], 2, std::nullopt, std::nullopt, -2));
  f["slice_negative"] = CALL(lmp::slice(x[0], 1, -2, -1));
  f["slice_huge"] = CALL(lmp::slice(x[0], 2, -100, 100, 3));
  f["slice_empty"] = CALL(lmp::slice(x[0], 1, 2, 1));
  f["select"] = CALL(lmp::select(x[0], 1, -1));
  f["narrow"] = CALL(lmp::narrow(x[0], 1, 1, 2));
  f["squeeze"] = CALL(lmp::squeeze(x[0]));
  f["squeeze_0"] = CALL(lmp::squeeze(x[0], 0));
  f["broadcast_to"] = CALL(lmp::broadcast_to(x[0], {2, 3, 4}));
  f["split_0"] = CALL(lmp::split(x[0], {2, 1}, 1)[0]);
  f["split_1"] = CALL(lmp::split(x[0], 2, 1)[1]);
  for (std::size_t n = 0; n < 3; ++n)
    f["chunk_" + std::to_string(n)] = CALL(lmp::chunk(x[0], 3)[n]);
  for (int k : {-1, 0, 2}) {
    const std::string at = "_" + std::to_string(k);
    f["tril" + at] = CALL(lmp::tril(x[0], k));
    f["triu" + at] = CALL(lmp::triu(x[0], k));
    f["diagonal" + at] = CALL(lmp::diagonal(x[0], k));
  }
  f["index_select"] = CALL(lmp::index_select(x[0], 1, index_of(x[1])));
  f["masked_select"] = CALL(lmp::masked_select(x[0], mask_of(x[1])));
  f["masked_fill"] = CALL(lmp::masked_fill(x[0], mask_of(x[1]), -2.5));
  f["by_mask"] = CALL(x[0][mask_of(x[1])]);
  f["by_index"] = CALL(x[0][index_of(x[1])]);
  f["take"] = CALL(lmp::take(x[0], {index_of(x[1]), index_of(x[2])}));
  for (const char* kind : {"_matrix", "_batched", "_broadcast", "_vector"}) {
    const std::string of = kind;
    f["solve" + of] = CALL(lmp::solve(wide(x[0]), wide(x[1])));
    f["inv" + of] = CALL(lmp::inv(wide(x[0])));
    f["det" + of] = CALL(lmp::det(wide(x[0])));
    f["slogdet_sign" + of] = CALL(lmp::slogdet(wide(x[0])).first);
    f["slogdet_log" + of] = CALL(lmp::slogdet(wide(x[0])).second);
    f["cholesky" + of] = CALL(lmp::cholesky(wide(x[0])));
  }
  f["nonzero"] = CALL(lmp::nonzero(x[0]));
  f["one_hot"] = CALL(lmp::one_hot(index_of(x[0]), 5));
  using lmp::optim::Adam, lmp::optim::AdamW, lmp::optim::SGD;
  const auto sgd = [](const lmp::SgdRule& rule) { return CALL(trained<SGD>(rule, x)); };
  const auto adam = [](const lmp::AdamRule& rule) { return CALL(trained<Adam>(rule, x)); };
  const auto adamw = [](const lmp::optim::AdamWOptions& rule) {
    return CALL(trained<AdamW>(rule, x));
  };
  f["sgd"] = sgd({.lr = 0.1});
  f["sgd_momentum"] = sgd({.lr = 0.1, .momentum = 0.9, .dampening = 0.25, .weight_decay = 0.05});
  f["sgd_nesterov"] = sgd({.lr = 0.05, .momentum = 0.8, .weight_decay = 0.1, .nesterov = true});
  f["adam"] = adam({.lr = 0.1});
  f["adam_options"] =
      adam({.lr = 0.05, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3, .weight_decay = 0.1});
  f["adamw"] = adamw({.lr = 0.1});
  f["adamw_options"] =
      adamw({.lr = 0.05, .beta1 = 0.7, .beta2 = 0.9, .eps = 1e-4, .weight_decay = 0.2});
  f["clip_grad_norm"] = CALL(clipped(x, 2.5));
  f["clip_grad_norm_below"] = CALL(clipped(x, 100));
  return f;
}

// The same values in another layout.
enum class Layout { Dense, Transposed, Sliced, Reversed, Offset };

Tensor laid_out(const Tensor& x, Layout layout) {
  if (x.ndim() == 0) return x;
  switch (layout) {
    case Layout::Transposed:
      return x.ndim() < 2 ? x : x.transpose(0, -1).clone().transpose(0, -1);
    case Layout::Sliced: {
      IntList shape(x.shape());
      shape[shape.size() - 1] = 2 * shape[shape.size() - 1] + 1;
      const Tensor view =
          lmp::full(Shape(shape), 77, DeviceType::CPU, x.type()).slice(-1, 1, std::nullopt, 2);
      view.copy(x);
      return view;
    }
    case Layout::Reversed:
      return x.flip({}).clone().flip({});
    case Layout::Offset:
      return lmp::cat({x, x}, 0).narrow(0, static_cast<std::int64_t>(x.shape()[0]),
                                        x.shape().dim(0));
    default:
      return x;
  }
}

class Golden : public testing::TestWithParam<Case> {};

double tolerance(DataType type) {
  return type == DataType::Float64   ? 1e-12
         : type == DataType::Float32 ? 2e-6
         : type == DataType::Float16 ? 4e-3
                                     : 4e-2;
}

TEST_P(Golden, AgreesWithNumPy) {
  const Case& c = GetParam();
  static const std::map<std::string, Function> table = functions();
  Function f;
  if (c.name.starts_with("einsum ")) {
    const std::string equation = c.name.substr(7);
    f = both([equation](const auto& x) { return lmp::einsum(equation, x); });
  } else {
    const auto found = table.find(c.name);
    ASSERT_NE(found, table.end()) << "no function for " << c.name;
    f = found->second;
  }
  // Halves of integers; whole ones take integer types too, where the result is whole as well.
  const auto whole = [](const Array& a) {
    return std::all_of(a.values.begin(), a.values.end(),
                       [](double v) { return v == std::floor(v); });
  };
  std::vector<DataType> types = {DataType::Float64, DataType::Float32, DataType::Float16,
                                 DataType::BFloat16};
  if (std::all_of(c.inputs.begin(), c.inputs.end(), whole) && whole(c.out))
    types.push_back(DataType::Int32);
  for (DataType type : types) {
    for (Layout layout :
         {Layout::Dense, Layout::Transposed, Layout::Sliced, Layout::Reversed, Layout::Offset}) {
      std::vector<Tensor> inputs;
      std::vector<Variable> variables;
      for (const Array& a : c.inputs) {
        inputs.push_back(laid_out(Tensor(a.values, a.shape, DeviceType::CPU, type), layout));
        variables.emplace_back(inputs.back(), is_floating(type));
      }
      const Tensor out = f.on_tensors(inputs);
      ASSERT_EQ(out.shape(), Shape(IntList(c.out.shape)));
      const std::vector<double> found = out.to_vector<double>();
      for (std::size_t i = 0; i < found.size(); ++i)
        ASSERT_NEAR(found[i], c.out.values[i], tolerance(type) * (1 + std::abs(c.out.values[i])))
            << c.name << " of " << type << ", layout " << static_cast<int>(layout) << ", element "
            << i;
      ASSERT_TRUE(lmp::array_equal(f.on_variables(variables), out))
          << c.name << " of Variables of " << type;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(NumPy, Golden, testing::ValuesIn(read_cases()), [](const auto& param) {
  std::string name;
  for (char c : param.param.name) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name + "_" + std::to_string(param.index);
});

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

}  // namespace
