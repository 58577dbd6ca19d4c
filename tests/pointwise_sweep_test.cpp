#include <gtest/gtest.h>

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "ops/pointwise_run.hpp"
#include "pointwise_reference.hpp"
#include "sweep.hpp"

// Every op of include/lamppp/tensor/pointwise.def: what it takes and returns follows from its
// `info`, what it computes from pointwise_reference.hpp.
namespace {

using namespace sweep;
using lmp::table::OpId;
using lmp::table::OpInfo;
using lmp::table::Promote;
using lmp::tensor::Half, lmp::tensor::BFloat16;
using lmp::tensor::is_floating, lmp::tensor::is_integer;
using lmp::tensor::Number;

struct Function {
  OpId id;
  Tensor (*unary)(const Tensor&) = nullptr;
  Tensor (*binary)(const Tensor&, const Tensor&) = nullptr;
  Tensor (*with_number)(const Tensor&, Number) = nullptr;
  Tensor (*number_with)(Number, const Tensor&) = nullptr;
  Tensor (*ternary)(const Tensor&, const Tensor&, const Tensor&) = nullptr;

  const OpInfo& info() const { return lmp::table::pointwise_op(id).info; }
  int arity() const { return unary ? 1 : binary ? 2 : 3; }
  bool is_condition(int operand) const { return info().condition >> operand & 1; }
};
void PrintTo(const Function& f, std::ostream* out) { *out << f.info().name; }

#define LMP_UNARY(function, Op) {.id = OpId::Op, .unary = &lmp::tensor::ops::function},
#define LMP_BINARY(function, Op)               \
  {.id = OpId::Op,                             \
   .binary = &lmp::tensor::ops::function,      \
   .with_number = &lmp::tensor::ops::function, \
   .number_with = &lmp::tensor::ops::function},
#define LMP_TERNARY(function, Op) {.id = OpId::Op, .ternary = &lmp::tensor::ops::function},
const Function kFunctions[] = {
#include "lamppp/tensor/pointwise.def"
};

struct Argument {
  Tensor tensor;
  std::optional<Number> number = {};
};

Tensor apply(const Function& f, const std::vector<Argument>& in) {
  if (f.unary) return f.unary(in[0].tensor);
  if (f.ternary) return f.ternary(in[0].tensor, in[1].tensor, in[2].tensor);
  if (in[0].number) return f.number_with(*in[0].number, in[1].tensor);
  if (in[1].number) return f.with_number(in[0].tensor, *in[1].number);
  return f.binary(in[0].tensor, in[1].tensor);
}

// Rows and columns in the order of kTypes; a digit is a position there.
constexpr const char* kPromotion[] = {"0123456789", "1133456789", "2323456789", "3333456789",
                                      "4444456789", "5555556789", "6666666889", "7777778789",
                                      "8888888889", "9999999999"};
DataType promote(DataType a, DataType b) {
  return kTypes[kPromotion[static_cast<int>(a)][static_cast<int>(b)] - '0'];
}
DataType promote(DataType tensor, Number number) {
  if (number.kind() == Number::Kind::Integer && tensor == DataType::Bool) return DataType::Int64;
  if (number.kind() == Number::Kind::Float && !is_floating(tensor)) return DataType::Float32;
  return tensor;
}

/// The type that the operands promote to, and that the op computes in.
DataType common_type(const Function& f, const std::vector<Argument>& in) {
  std::optional<DataType> type;
  for (int i = 0; i < f.arity(); ++i) {
    const Argument& a = in[static_cast<std::size_t>(i)];
    if (!a.number && !f.is_condition(i))
      type = type ? promote(*type, a.tensor.type()) : a.tensor.type();
  }
  for (const Argument& a : in)
    if (a.number) type = promote(*type, *a.number);
  if (f.info().promote == Promote::Float && !is_floating(*type)) return DataType::Float32;
  return *type;
}

Shape common_shape(const std::vector<Argument>& in) {
  IntList sizes;
  for (const Argument& a : in) {
    if (a.number) continue;
    IntList wider(a.tensor.shape());
    if (wider.size() < sizes.size()) std::swap(wider, sizes);
    const std::size_t added = wider.size() - sizes.size();
    for (std::size_t d = 0; d < sizes.size(); ++d)
      if (wider[added + d] == 1) wider[added + d] = sizes[d];
    sizes = wider;
  }
  return Shape(sizes);
}

/// What an element should be, and how far it may be from that.
struct Expected {
  Wide exact;
  double allowed = 0;
  Wide scale = 0;
};

Expected expect_element(const Reference& r, Promote kind, DataType compute, const Wide* x) {
  if (!is_floating(compute)) {
    Int whole[3];
    for (int i = 0; i < 3; ++i) whole[i] = static_cast<Int>(x[i]);
    const Int y = r.whole(whole);
    if (kind == Promote::Compare) return {y != 0 ? Wide{1} : Wide{0}};
    return {visit(compute, [&]<class T>(T) -> Wide {
      if constexpr (std::is_integral_v<T>) return static_cast<T>(y);
      return 0;
    })};
  }
  const bool wide = compute == DataType::Float64;
  Wide in[3];
  double narrow[3];
  for (int i = 0; i < 3; ++i) {
    in[i] = round_to(wide ? compute : DataType::Float32, x[i]);
    narrow[i] = static_cast<double>(in[i]);
  }
  if (r.ulp32 != 0)
    return {wide ? r.wide(in) : r.exact(narrow), wide ? r.ulp64 : r.ulp32, r.scale(in[0])};
  const double y = r.exact(narrow);
  if (kind == Promote::Compare) return {y};
  // Twice the digits of float and two more: rounding double's result once more is rounding once.
  return {round_to(compute, wide ? y : static_cast<Wide>(static_cast<float>(y)))};
}

/// In units of the last place of `type`; 0 for a half that is some allowed float rounded once.
double error_of(DataType type, Wide got, const Expected& e) {
  if (!is_floating(type)) return got == e.exact ? 0 : std::numeric_limits<double>::infinity();
  if (e.allowed > 0 && (type == DataType::Float16 || type == DataType::BFloat16) &&
      !std::isnan(e.exact)) {
    const Wide slack =
        e.allowed * format(DataType::Float32).ulp(std::max(std::abs(e.exact), e.scale));
    const auto half = [&](Wide x) { return round_to(type, round_to(DataType::Float32, x)); };
    if (half(e.exact - slack) <= got && got <= half(e.exact + slack)) return 0;
    return e.allowed + ulps(type, got, e.exact);
  }
  return ulps(type, got, e.exact, e.scale);
}

class PointwiseSweep : public testing::TestWithParam<Function> {
 protected:
  void SetUp() override {
    const auto found = references().find(name());
    ASSERT_TRUE(found != references().end())
        << "no reference for \"" << name() << "\": add a line r[\"" << name()
        << "\"] to references() in tests/pointwise_reference.hpp";
    reference_ = found->second;
    ASSERT_TRUE(info().promote == Promote::Float || reference_.whole)
        << name() << " is defined for integers, and so has to be its reference: use exact()";
  }
  void TearDown() override {
    for (DataType type : kTypes) {
      const double worst = worst_[static_cast<int>(type)];
      if (worst > 0) RecordProperty(std::string("ulp_") + name_of(type), std::to_string(worst));
    }
  }

  const Function& op() const { return GetParam(); }
  const OpInfo& info() const { return op().info(); }
  const char* name() const { return info().name; }

  /// A value for operand i. Numbers that integers refuse are left to the test of refusals.
  Wide draw(Rng& rng, int i, DataType type) const {
    const Wide value = draw_value(rng, type, info().domains[i].low, info().domains[i].high);
    return i == 1 && !is_floating(type) && !reference_.takes(static_cast<Int>(value)) ? 1 : value;
  }

  template <class E>
  void expect_refusal(const std::vector<Argument>& in) const {
    try {
      apply(op(), in);
      ADD_FAILURE() << describe(in) << ": accepted";
    } catch (const E& e) {
      EXPECT_NE(std::string(e.what()).find(name()), std::string::npos) << e.what();
    } catch (const std::exception& e) {
      ADD_FAILURE() << describe(in) << ": another kind of error: " << e.what();
    }
  }

  std::string describe(const std::vector<Argument>& in) const {
    std::ostringstream out;
    out << name();
    for (const Argument& a : in) {
      if (a.number)
        out << " number " << a.number->to_double();
      else
        out << ' ' << a.tensor.type() << a.tensor.shape() << " strides " << a.tensor.strides();
    }
    return out.str();
  }

  void check(const std::vector<Argument>& in) {
    const DataType compute = common_type(op(), in);
    if (compute == DataType::Bool && !info().takes_bool) return expect_refusal<lmp::TypeError>(in);
    const Shape shape = common_shape(in);
    const DataType type = info().promote == Promote::Compare ? DataType::Bool : compute;
    const Tensor out = apply(op(), in);
    ASSERT_EQ(out.type(), type) << describe(in);
    ASSERT_EQ(out.shape(), shape) << describe(in);

    const std::vector<Wide> got = read(out);
    std::vector<Wide> values[3];
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (!in[i].number) {
        values[i] = read(in[i].tensor, shape);
      } else {
        const Number n = *in[i].number;
        const Wide value =
            n.kind() == Number::Kind::Float ? Wide{n.to_double()} : Wide(n.integer());
        values[i].assign(got.size(), value);
      }
    }
    double worst = -1;
    std::string what;
    for (std::size_t e = 0; e < got.size(); ++e) {
      Wide x[3] = {};
      for (std::size_t i = 0; i < in.size(); ++i) x[i] = values[i][e];
      const Expected expected = expect_element(reference_, info().promote, compute, x);
      const double error = error_of(type, got[e], expected);
      worst_[static_cast<int>(compute)] = std::max(worst_[static_cast<int>(compute)], error);
      if (error <= expected.allowed || error <= worst) continue;
      worst = error;
      std::ostringstream text;
      text.precision(21);
      text << " element " << e << ": " << name() << '(' << x[0];
      for (std::size_t i = 1; i < in.size(); ++i) text << ", " << x[i];
      text << ") = " << got[e] << ", exact " << expected.exact << ", off by " << error << " ULP of "
           << type << ", allowed " << expected.allowed;
      what = text.str();
    }
    EXPECT_TRUE(what.empty()) << describe(in) << what;
  }

  Reference reference_;
  double worst_[std::size(kTypes)] = {};
};

TEST_P(PointwiseSweep, EveryTypeAndLayout) {
  Rng rng(static_cast<std::uint64_t>(op().id) + 1);
  for (DataType type : kTypes) {
    for (Layout layout : kLayouts) {
      for (int i = 0; i < 25; ++i) {
        const Shape shape = random_shape(rng, layout, i);
        std::vector<Argument> in;
        for (int k = 0; k < op().arity(); ++k) {
          const bool condition = op().is_condition(k);
          const bool leads = k == 0 || (k == 1 && op().is_condition(0));
          const DataType t = condition             ? DataType::Bool
                             : leads || i % 2 == 0 ? type
                                                   : kTypes[rng.integer(0, std::size(kTypes) - 1)];
          const Shape s = op().arity() > 1 && rng.chance(0.4) ? broadcastable(rng, shape) : shape;
          in.push_back({arrange(rng, k == 0 ? layout : random_layout(rng), t, s,
                                [&] { return draw(rng, k, t); })});
        }
        if (op().arity() == 2 && i % 5 == 2) {
          const int side = static_cast<int>(rng.integer(0, 1));
          auto& number = in[static_cast<std::size_t>(side)].number;
          switch (rng.integer(0, 2)) {
            case 0:
              number = rng.chance(0.5) || side == 1;
              break;
            case 1:
              number = rng.integer(side, 100);
              break;
            default:
              number = static_cast<double>(draw(rng, side, DataType::Float64));
          }
        }
        check(in);
        if (HasFailure()) FAIL() << type << ' ' << layout << ", shape number " << i;
      }
    }
  }
}

TEST_P(PointwiseSweep, Edges) {
  for (DataType type : kTypes) {
    std::vector<Wide> choices[3];
    std::size_t count = 1;
    for (int k = 0; k < op().arity(); ++k) {
      const DataType t = op().is_condition(k) ? DataType::Bool : type;
      for (Wide v : edges(t, op().arity() == 3))
        if (k != 1 || is_floating(t) || reference_.takes(static_cast<Int>(v)))
          choices[k].push_back(v);
      count *= choices[k].size();
    }
    std::vector<Argument> in;
    std::size_t inner = count;
    for (int k = 0; k < op().arity(); ++k) {
      inner /= choices[k].size();
      std::vector<Wide> values;
      for (std::size_t e = 0; e < count; ++e)
        values.push_back(choices[k][e / inner % choices[k].size()]);
      in.push_back({dense(op().is_condition(k) ? DataType::Bool : type, Shape{count}, values)});
    }
    check(in);
  }
}

TEST_P(PointwiseSweep, Refusals) {
  const auto one = [](DataType type, int value) {
    return Argument{dense(type, {1}, {Wide(value)})};
  };
  for (DataType type : kTypes) {
    if (op().arity() == 2 && is_integer(type)) {
      for (const int bad : {0, -1}) {
        if (reference_.takes(bad) || (bad < 0 && type == DataType::UInt8)) continue;
        expect_refusal<lmp::ValueError>({one(type, 2), one(type, bad)});
        expect_refusal<lmp::ValueError>({one(type, 2), {{}, Number(bad)}});
        expect_refusal<lmp::ValueError>({{{}, Number(2)}, one(type, bad)});
      }
    }
    if ((info().condition & 1) != 0 && type != DataType::Bool)
      expect_refusal<lmp::TypeError>({one(type, 1), one(type, 1), one(type, 1)});
  }
  if (op().arity() > 1) {
    std::vector<Argument> in(static_cast<std::size_t>(op().arity()), one(DataType::Bool, 1));
    in[0].tensor = lmp::zeros({2, 3}, lmp::DeviceType::CPU, DataType::Bool);
    in[1].tensor = lmp::zeros({2, 4}, lmp::DeviceType::CPU, DataType::Bool);
    expect_refusal<lmp::ShapeError>(in);
  }
  expect_refusal<lmp::Error>(std::vector<Argument>(static_cast<std::size_t>(op().arity())));
}

class PointwiseHalves : public PointwiseSweep {};

TEST_P(PointwiseHalves, EveryInput) {
  std::vector<Half> half(65536);
  std::vector<BFloat16> brain(65536);
  for (std::size_t i = 0; i < half.size(); ++i)
    half[i].bits = brain[i].bits = static_cast<std::uint16_t>(i);
  for (const Tensor& x : {Tensor(half, {256, 256}), Tensor(brain, {256, 256})}) {
    check({{x}});
    const Tensor out = op().unary(x), in_float = op().unary(x.astype(DataType::Float32));
    EXPECT_TRUE(lmp::allclose(out, in_float.astype(out.type()), 0, 0, true))
        << "not float's, rounded";
  }
}

std::vector<Function> unary_functions() {
  std::vector<Function> all;
  for (const Function& f : kFunctions)
    if (f.unary) all.push_back(f);
  return all;
}
std::string name_of_function(const testing::TestParamInfo<Function>& f) {
  return f.param.info().name;
}
INSTANTIATE_TEST_SUITE_P(Table, PointwiseSweep, testing::ValuesIn(kFunctions), name_of_function);
INSTANTIATE_TEST_SUITE_P(Table, PointwiseHalves, testing::ValuesIn(unary_functions()),
                         name_of_function);

}  // namespace
