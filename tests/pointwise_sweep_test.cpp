// Every op of the table, every type, every layout, against references written here.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>

#include "layouts.hpp"
#include "ops/pointwise_run.hpp"
#include "tensor/checks.hpp"

namespace {

using layouts::Layout;
using lmp::DataType;
using lmp::Number;
using lmp::Tensor;
using lmp::table::OpId;
using lmp::table::Promote;
using Real = long double;

constexpr DataType kTypes[] = {DataType::Bool,    DataType::UInt8,    DataType::Int8,    DataType::Int16,
                               DataType::Int32,   DataType::Int64,    DataType::Float16, DataType::BFloat16,
                               DataType::Float32, DataType::Float64};
constexpr DataType kFloats[] = {DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64};

Real sigmoid(Real x) { return 1 / (1 + std::exp(-x)); }
Real kPi = 3.14159265358979323846264338327950288L;

// The definitions of the ops, as one would look them up. A new op needs a line here: its value for real
// operands (a and b; a third is c).
struct Reference {
  std::function<Real(Real)> unary;
  std::function<Real(Real, Real)> binary;
  std::function<Real(Real, Real, Real)> ternary;
};
Reference u(std::function<Real(Real)> f) { return {std::move(f), {}, {}}; }
Reference b(std::function<Real(Real, Real)> f) { return {{}, std::move(f), {}}; }
Reference t(std::function<Real(Real, Real, Real)> f) { return {{}, {}, std::move(f)}; }

const std::map<std::string, Reference>& references() {
  static const std::map<std::string, Reference> table = {
      {"add", b([](Real x, Real y) { return x + y; })},
      {"sub", b([](Real x, Real y) { return x - y; })},
      {"mul", b([](Real x, Real y) { return x * y; })},
      {"div", b([](Real x, Real y) { return x / y; })},
      {"pow", b([](Real x, Real y) { return std::pow(x, y); })},
      {"remainder", b([](Real x, Real y) {
         const Real r = std::fmod(x, y);
         return r != 0 && (r < 0) != (y < 0) ? r + y : r;
       })},
      {"maximum", b([](Real x, Real y) { return std::isnan(x) ? x : std::isnan(y) || y > x ? y : x; })},
      {"minimum", b([](Real x, Real y) { return std::isnan(x) ? x : std::isnan(y) || y < x ? y : x; })},
      {"atan2", b([](Real x, Real y) { return std::atan2(x, y); })},
      {"leaky_relu", b([](Real x, Real s) { return x > 0 ? x : x * s; })},
      {"eq", b([](Real x, Real y) { return x == y; })},
      {"ne", b([](Real x, Real y) { return x != y; })},
      {"gt", b([](Real x, Real y) { return x > y; })},
      {"ge", b([](Real x, Real y) { return x >= y; })},
      {"lt", b([](Real x, Real y) { return x < y; })},
      {"le", b([](Real x, Real y) { return x <= y; })},
      {"logical_and", b([](Real x, Real y) { return x != 0 && y != 0; })},
      {"logical_or", b([](Real x, Real y) { return x != 0 || y != 0; })},
      {"logical_xor", b([](Real x, Real y) { return (x != 0) != (y != 0); })},
      {"neg", u([](Real x) { return -x; })},
      {"abs", u([](Real x) { return std::fabs(x); })},
      {"sign", u([](Real x) { return std::isnan(x) ? x : Real(x > 0) - Real(x < 0); })},
      {"square", u([](Real x) { return x * x; })},
      {"reciprocal", u([](Real x) { return 1 / x; })},
      {"sqrt", u([](Real x) { return std::sqrt(x); })},
      {"rsqrt", u([](Real x) { return 1 / std::sqrt(x); })},
      {"exp", u([](Real x) { return std::exp(x); })},
      {"exp2", u([](Real x) { return std::exp2(x); })},
      {"expm1", u([](Real x) { return std::expm1(x); })},
      {"log", u([](Real x) { return std::log(x); })},
      {"log2", u([](Real x) { return std::log2(x); })},
      {"log10", u([](Real x) { return std::log10(x); })},
      {"log1p", u([](Real x) { return std::log1p(x); })},
      {"sin", u([](Real x) { return std::sin(x); })},
      {"cos", u([](Real x) { return std::cos(x); })},
      {"tan", u([](Real x) { return std::tan(x); })},
      {"sinh", u([](Real x) { return std::sinh(x); })},
      {"cosh", u([](Real x) { return std::cosh(x); })},
      {"tanh", u([](Real x) { return std::tanh(x); })},
      {"asin", u([](Real x) { return std::asin(x); })},
      {"acos", u([](Real x) { return std::acos(x); })},
      {"atan", u([](Real x) { return std::atan(x); })},
      {"erf", u([](Real x) { return std::erf(x); })},
      {"floor", u([](Real x) { return std::floor(x); })},
      {"ceil", u([](Real x) { return std::ceil(x); })},
      {"round", u([](Real x) { return std::nearbyint(x); })},
      {"sigmoid", u(sigmoid)},
      {"softplus", u([](Real x) { return x > 40 ? x : std::log1p(std::exp(x)); })},
      {"relu", u([](Real x) { return x < 0 ? 0 : x; })},
      {"gelu", u([](Real x) { return std::isinf(x) ? (x > 0 ? x : NAN) : x * std::erfc(-x / std::sqrt(Real(2))) / 2; })},
      {"gelu_tanh", u([](Real x) {
         return std::isinf(x) ? (x > 0 ? x : NAN)
                              : x * sigmoid(2 * std::sqrt(2 / kPi) * (x + Real(0.044715) * x * x * x));
       })},
      {"silu", u([](Real x) { return std::isinf(x) && x < 0 ? NAN : x * sigmoid(x); })},
      {"softsign", u([](Real x) { return std::isinf(x) ? NAN : x / (1 + std::fabs(x)); })},
      {"isnan", u([](Real x) { return std::isnan(x); })},
      {"isinf", u([](Real x) { return std::isinf(x); })},
      {"isfinite", u([](Real x) { return std::isfinite(x); })},
      {"logical_not", u([](Real x) { return x == 0; })},
      {"where", t([](Real c, Real x, Real y) { return c != 0 ? x : y; })},
      {"clamp", t([](Real x, Real low, Real high) {
         const Real raised = x < low ? low : x;
         return raised > high ? high : raised;
       })},
  };
  return table;
}

// In units of the result's last place.
double tolerance_of(const std::string& op, DataType type) {
  if (op == "pow" || op == "sigmoid" || op == "softplus" || op == "silu" || op.starts_with("gelu")) return 4;
  return type == DataType::Float64 ? 3 : 2;
}

struct Op {
  OpId id;
  const lmp::table::PointwiseOp& info;
  const char* name() const { return info.info.name; }
};

std::vector<Op> all_ops() {
  std::vector<Op> ops;
  for (int i = 0; i < lmp::table::kOpCount; ++i)
    ops.push_back({static_cast<OpId>(i), lmp::table::pointwise_op(static_cast<OpId>(i))});
  return ops;
}

// Seeded shapes for each op, type and layout.
constexpr int kShapes = 20;

class Pointwise : public testing::TestWithParam<Op> {};

DataType promoted(const std::vector<DataType>& types) {
  DataType out = types.front();
  for (DataType type : types) out = lmp::tensor::type_upcast(out, type);
  return out;
}

double spacing(Real value, DataType type) {
  const int digits = type == DataType::Float16 ? 11 : type == DataType::BFloat16 ? 8 : type == DataType::Float32 ? 24 : 53;
  const int lowest = type == DataType::Float16 ? -14 : type == DataType::Float64 ? -1022 : -126;
  int exponent;
  std::frexp(value, &exponent);
  return static_cast<double>(std::ldexp(Real(1), std::max(exponent - 1, lowest) - (digits - 1)));
}

Real largest(DataType type) {
  switch (type) {
    case DataType::Float16: return 65504;
    case DataType::BFloat16: return 0x1.fep127L;
    case DataType::Float32: return 0x1.fffffep127L;
    default: return std::numeric_limits<double>::max();
  }
}

// What the factor beside x in gelu (1 + erf, which cancels) and silu (a sigmoid that may be subnormal) can be
// off by.
Real slack_of(const std::string& op, Real x, DataType type) {
  if (op.starts_with("gelu")) return 2 * std::fabs(x) * spacing(1, type);
  if (op == "silu") return std::fabs(x) * spacing(0, type);
  return 0;
}

// Whether `found` is `wanted` as `type` can hold it; x is the first operand.
bool agrees(const std::string& op, Real found, Real wanted, DataType type, Real x) {
  if (std::isnan(wanted)) return std::isnan(found);
  if (std::isinf(wanted)) return found == wanted;
  if (type == DataType::Bool) return (found != 0) == (wanted != 0);
  if (!is_floating(type)) return found == wanted;
  const double unit = spacing(wanted, type);
  if (std::fabs(wanted) >= largest(type)) return std::isinf(found) || std::fabs(found - wanted) <= 2 * unit;
  const bool half = type == DataType::Float16 || type == DataType::BFloat16;
  const double units = half ? 0.5 + tolerance_of(op, type) * 0x1p-12 : tolerance_of(op, type);
  return std::fabs(found - wanted) <= units * unit + slack_of(op, x, half ? DataType::Float32 : type);
}

// An integer result wraps around.
Real wrapped(Real value, DataType type) {
  if (type == DataType::Bool) return value != 0;
  if (!is_integer(type)) return value;
  const int bits = static_cast<int>(size_of(type)) * 8;
  const Real range = std::ldexp(Real(1), bits);
  Real v = std::fmod(value, range);
  if (v < 0) v += range;
  return type != DataType::UInt8 && v >= range / 2 ? v - range : v;
}

std::vector<double> values_of(const Tensor& x) { return x.to_vector<double>(); }

Real reference(const Reference& ref, const std::vector<double>& x) {
  if (ref.unary) return ref.unary(x[0]);
  if (ref.binary) return ref.binary(x[0], x[1]);
  return ref.ternary(x[0], x[1], x[2]);
}

Tensor run(const Op& op, const std::vector<Tensor>& operands) {
  const lmp::tensor::detail::Operand in[3] = {operands[0], operands.size() > 1 ? operands[1] : operands[0],
                                              operands.size() > 2 ? operands[2] : operands[0]};
  return lmp::tensor::ops::pointwise(op.id, in, op.info.arity);
}

// Compares a result with the reference element by element, at most one failure a call.
void check(const Op& op, const std::vector<Tensor>& operands, const std::string& what) {
  const auto found_ref = references().find(op.name());
  ASSERT_NE(found_ref, references().end())
      << "no reference for " << op.name() << "; add its definition to references() in " << __FILE__;
  std::vector<DataType> types;
  lmp::Shape shape = operands.front().shape();
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (!(op.info.info.condition >> i & 1)) types.push_back(operands[i].type());
    shape = lmp::tensor::detail::broadcast_shapes("test", shape, operands[i].shape());
  }
  DataType compute = promoted(types);
  if (op.info.info.promote == Promote::Float && !is_floating(compute)) compute = DataType::Float32;
  const DataType result = op.info.info.promote == Promote::Compare ? DataType::Bool : compute;

  const Tensor out = run(op, operands);
  ASSERT_EQ(out.type(), result) << what;
  ASSERT_EQ(out.shape(), shape) << what;
  const std::vector<double> found = values_of(out);
  std::vector<std::vector<double>> in;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    // What the kernel sees: operands in the type that it computes in.
    const DataType seen = op.info.info.condition >> i & 1 ? DataType::Bool
                          : is_floating(compute) && size_of(compute) == 2 ? DataType::Float32
                                                                          : compute;
    in.push_back(values_of(operands[i].broadcast_to(shape).astype(seen)));
  }
  for (std::size_t e = 0; e < found.size(); ++e) {
    std::vector<double> x;
    for (const auto& operand : in) x.push_back(operand[e]);
    const Real wanted = wrapped(reference(found_ref->second, x), result);
    if (agrees(op.name(), found[e], wanted, result, x[0])) continue;
    std::string args;
    for (double v : x) args += (args.empty() ? "" : ", ") + std::to_string(v);
    FAIL() << op.name() << "(" << args << ") gives " << found[e] << " instead of " << static_cast<double>(wanted)
           << " at element " << e << ", " << what;
  }
}

std::function<double()> drawer(const Op& op, std::size_t operand, DataType type, std::mt19937& random) {
  const lmp::table::Domain domain = op.info.info.domains[operand];
  const bool integer_power = std::string(op.name()) == "pow" && !is_floating(type);
  return [=, &random]() mutable {
    const double v = std::uniform_real_distribution(domain.low, domain.high)(random);
    if (is_floating(type)) return v;
    if (integer_power) return std::floor(std::fabs(v));
    const bool divisor = operand == 1 && domain.low > 0;
    const double whole = std::round(v * 3);
    return type == DataType::UInt8 || divisor ? std::fabs(whole) + (divisor && whole == 0 ? 1 : 0) : whole;
  };
}

std::string describe(const Op& op, const std::vector<Tensor>& operands, Layout layout) {
  std::string text = std::string(op.name()) + " of " + layouts::name_of(layout);
  for (const Tensor& x : operands) {
    std::ostringstream part;
    part << " " << x.type() << x.shape();
    text += part.str();
  }
  return text;
}

TEST_P(Pointwise, EveryTypeAndLayout) {
  const Op op = GetParam();
  std::mt19937 random(1234);
  for (DataType type : kTypes) {
    if (type == DataType::Bool && !op.info.info.takes_bool) continue;
    for (Layout layout : layouts::kAll) {
      for (int round = 0; round < kShapes; ++round) {
        const auto shape = layouts::random_shape(layout, random);
        std::vector<Tensor> operands;
        for (int i = 0; i < op.info.arity; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const DataType mine = op.info.info.condition >> i & 1 ? DataType::Bool : type;
          // Operands after the first take other layouts in turn.
          const Layout other = i == 0 || shape.empty() || layout == Layout::Empty
                                   ? layout
                                   : layouts::kAll[(static_cast<std::size_t>(round) + at) % 6];
          operands.push_back(layouts::make(other, shape, mine, drawer(op, at, mine, random)));
        }
        check(op, operands, describe(op, operands, layout));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(Pointwise, BroadcastAndMixedTypes) {
  const Op op = GetParam();
  if (op.info.arity < 2) return;
  std::mt19937 random(99);
  // Any two of a group broadcast.
  const std::vector<std::vector<std::int64_t>> groups[] = {
      {{3, 1, 5}, {1, 4, 1}, {5}, {}, {1}, {4, 5}, {3, 4, 5}}, {{300, 7}, {7}, {300, 1}, {}}, {{2, 1500}, {1500}, {2, 1}}};
  for (int round = 0; round < 60; ++round) {
    std::vector<Tensor> operands;
    bool any_bool = true;
    for (int i = 0; i < op.info.arity; ++i) {
      const auto& group = groups[round % 3];
      const auto& shape = group[random() % group.size()];
      const DataType type = op.info.info.condition >> i & 1 ? DataType::Bool : kTypes[random() % 10];
      if (!(op.info.info.condition >> i & 1)) any_bool &= type == DataType::Bool;
      operands.push_back(layouts::make(Layout::Contiguous, shape, type, drawer(op, static_cast<std::size_t>(i), type, random)));
    }
    if (any_bool && !op.info.info.takes_bool) continue;
    // Integer operands of pow and remainder keep to exponents and divisors that have an answer.
    std::vector<DataType> types;
    for (std::size_t i = 0; i < operands.size(); ++i) types.push_back(operands[i].type());
    const std::string name = op.name();
    if ((name == "pow" || name == "remainder") && !is_floating(promoted(types)) && operands[1].type() == DataType::Bool)
      continue;
    check(op, operands, describe(op, operands, Layout::Contiguous));
    if (HasFatalFailure()) return;
  }
}

TEST_P(Pointwise, NumbersOnEitherSide) {
  const Op op = GetParam();
  if (op.info.arity != 2) return;
  std::mt19937 random(7);
  for (DataType type : kFloats) {
    for (std::int64_t n : {1, 5, 64, 65, 1500}) {
      const double number = std::string(op.name()) == "leaky_relu" ? 0.25 : 1.5;
      const Tensor x = layouts::make(Layout::Contiguous, {n}, type, drawer(op, 0, type, random));
      const Tensor y = layouts::make(Layout::Contiguous, {n}, type, drawer(op, 1, type, random));
      const Tensor constant = lmp::full({n}, number, lmp::DeviceType::CPU, type);
      const lmp::tensor::detail::Operand right[2] = {x, Number(number)}, left[2] = {Number(number), y};
      const Tensor a = lmp::tensor::ops::pointwise(op.id, right, 2), b2 = lmp::tensor::ops::pointwise(op.id, left, 2);
      EXPECT_TRUE(lmp::allclose(a, run(op, {x, constant}), 0, 0, true)) << op.name() << " " << x.type();
      EXPECT_TRUE(lmp::allclose(b2, run(op, {constant, y}), 0, 0, true)) << op.name() << " " << x.type();
      EXPECT_EQ(a.type(), run(op, {x, constant}).type());
    }
  }
}

TEST_P(Pointwise, EdgesOfFloats) {
  const Op op = GetParam();
  for (DataType type : {DataType::Float32, DataType::Float64}) {
    const bool wide = type == DataType::Float64;
    const double tiny = wide ? 5e-324 : 0x1p-149, normal = wide ? std::numeric_limits<double>::min() : 0x1p-126;
    const double most = static_cast<double>(largest(type)), infinity = std::numeric_limits<double>::infinity();
    std::vector<double> grid;
    for (double v : {0.0, tiny, normal, 0.5, 1.0, 1.5, 2.0, 3.0, 100.0, 1e10, most, infinity}) {
      grid.push_back(v);
      grid.push_back(-v);
    }
    grid.push_back(std::numeric_limits<double>::quiet_NaN());
    const auto n = static_cast<std::int64_t>(grid.size());
    const Tensor x(grid, {n}, lmp::DeviceType::CPU, type);
    std::vector<Tensor> operands = {x};
    if (op.info.arity >= 2) operands = {x.expand_dims(1), x.expand_dims(0)};
    if (op.info.arity == 3) {
      const Tensor first = op.info.info.condition & 1 ? Tensor(std::vector<bool>{true, false}, {2, 1, 1}) : x.reshape({n, 1, 1});
      operands = {first, x.expand_dims(1), x.expand_dims(0)};
    }
    const std::string name = op.name();
    // Overflow of an intermediate product is the definition's own; finite in exact arithmetic.
    if (name == "gelu_tanh" || name == "remainder") continue;
    check(op, operands, name + " at the edges");
    if (HasFatalFailure()) return;
  }
}

TEST_P(Pointwise, EdgesOfIntegers) {
  const Op op = GetParam();
  const std::string name = op.name();
  if (op.info.info.promote == Promote::Float || name == "pow") return;
  for (DataType type : {DataType::UInt8, DataType::Int8, DataType::Int16, DataType::Int32}) {
    const int bits = static_cast<int>(size_of(type)) * 8;
    const double high = type == DataType::UInt8 ? 255 : std::ldexp(1, bits - 1) - 1;
    const double low = type == DataType::UInt8 ? 0 : -std::ldexp(1, bits - 1);
    std::vector<double> grid = {low, low + 1, 0, 1, 2, 7, high - 1, high};
    if (type != DataType::UInt8) grid.insert(grid.end(), {-1, -2, -7});
    const auto n = static_cast<std::int64_t>(grid.size());
    const Tensor x(grid, {n}, lmp::DeviceType::CPU, type);
    std::vector<double> divisors;
    for (double v : grid)
      if (v != 0) divisors.push_back(v);
    const Tensor y = name == "remainder" ? Tensor(divisors, {divisors.size()}, lmp::DeviceType::CPU, type) : x;
    std::vector<Tensor> operands = {x};
    if (op.info.arity >= 2) operands = {x.expand_dims(1), y.expand_dims(0)};
    if (op.info.arity == 3) {
      const Tensor first = op.info.info.condition & 1 ? Tensor(std::vector<bool>{true, false}, {2, 1, 1}) : x.reshape({n, 1, 1});
      operands = {first, x.expand_dims(1), x.expand_dims(0)};
    }
    check(op, operands, name + " at the limits of integers");
    if (HasFatalFailure()) return;
  }
}

TEST_P(Pointwise, EveryHalf) {
  const Op op = GetParam();
  if (op.info.arity != 1) return;
  std::vector<std::int16_t> bits(65536);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::int16_t>(i);
  for (DataType type : {DataType::Float16, DataType::BFloat16}) {
    const Tensor x = Tensor::from_blob(bits.data(), {65536}, type);
    // The op on halves is the op on floats, rounded once.
    const Tensor wanted = run(op, {x.astype(DataType::Float32)});
    const Tensor rounded = wanted.type() == DataType::Bool ? wanted : wanted.astype(type);
    EXPECT_TRUE(lmp::allclose(run(op, {x}), rounded, 0, 0, true)) << op.name() << " " << type;
  }
}

TEST_P(Pointwise, RefusesWhatItCannotDo) {
  const Op op = GetParam();
  if (op.info.info.takes_bool) return;
  const Tensor x = lmp::full({2}, true);
  try {
    run(op, {x, x, x});
    FAIL() << op.name() << " took Bool";
  } catch (const lmp::TypeError& e) {
    EXPECT_NE(std::string(e.what()).find(op.name()), std::string::npos) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Table, Pointwise, testing::ValuesIn(all_ops()),
                         [](const auto& param) { return std::string(param.param.name()); });

void PrintTo(const Op& op, std::ostream* out) { *out << op.name(); }

TEST(PointwiseRules, IntegersWithoutAnAnswerThrow) {
  const Tensor x({1, 2}, {2}), zero({1, 0}, {2}), negative({1, -1}, {2});
  EXPECT_THROW(lmp::remainder(x, zero), lmp::ValueError);
  EXPECT_THROW(lmp::remainder(x, 0), lmp::ValueError);
  EXPECT_THROW(lmp::pow(x, negative), lmp::ValueError);
  EXPECT_THROW(lmp::pow(x, -1), lmp::ValueError);
  EXPECT_EQ(lmp::pow(x, 10).to_vector<std::int64_t>(), (std::vector<std::int64_t>{1, 1024}));
}

TEST(PointwiseRules, NumbersKeepTheTensorsCategory) {
  const Tensor i({1, 2, 3}, {3}), f = i.astype(DataType::Float32), h = i.astype(DataType::Float16);
  EXPECT_EQ((i * 2).type(), DataType::Int32);
  EXPECT_EQ((i * 0.5).type(), DataType::Float32);
  EXPECT_EQ((i * 0.5).to_vector<float>(), (std::vector<float>{0.5f, 1, 1.5f}));
  EXPECT_EQ((f * 2).type(), DataType::Float32);
  EXPECT_EQ((2.0 * h).type(), DataType::Float16);
  EXPECT_EQ((i / 2).type(), DataType::Float32);
  EXPECT_EQ((i == 2).to_vector<bool>(), (std::vector<bool>{false, true, false}));
  EXPECT_EQ((2 == i).to_vector<bool>(), (std::vector<bool>{false, true, false}));
  EXPECT_EQ((2 < i).to_vector<bool>(), (std::vector<bool>{false, false, true}));
  const std::int64_t large = (std::int64_t{1} << 53) + 1;
  EXPECT_EQ((lmp::full({1}, large) + 2).item<std::int64_t>(), large + 2);
  EXPECT_EQ((lmp::full({1}, true) + 1).type(), DataType::Int64);
  EXPECT_EQ((lmp::full({1}, true) + lmp::full({1}, true)).type(), DataType::Bool);
}

TEST(PointwiseRules, NumbersThatDoNotFitThrow) {
  const Tensor u8 = lmp::full({2}, 1, lmp::DeviceType::CPU, DataType::UInt8);
  EXPECT_THROW(u8 + 256, lmp::ValueError);
  EXPECT_THROW(u8 * -1, lmp::ValueError);
  EXPECT_THROW(u8 + (~0ULL), lmp::ValueError);
  EXPECT_EQ((u8 < 300).to_vector<bool>(), (std::vector<bool>{true, true}));
  EXPECT_EQ((u8 == -1).to_vector<bool>(), (std::vector<bool>{false, false}));
}

TEST(PointwiseRules, ClampWithOneSideOpen) {
  for (DataType type : kTypes) {
    if (type == DataType::Bool) continue;
    const Tensor x({1, 5, 9}, {3}, lmp::DeviceType::CPU, type);
    EXPECT_EQ(lmp::clamp(x, 3, std::nullopt).to_vector<double>(), (std::vector<double>{3, 5, 9}));
    EXPECT_EQ(lmp::clamp(x, std::nullopt, 6).to_vector<double>(), (std::vector<double>{1, 5, 6}));
    EXPECT_EQ(lmp::clamp(x, 3, 6).type(), type);
  }
  EXPECT_THROW(lmp::clamp(lmp::ones({2}), std::nullopt, std::nullopt), lmp::ValueError);
}

TEST(PointwiseRules, WhereTakesNumbers) {
  const Tensor mask(std::vector<bool>{true, false}, {2}), x({1.5f, 2.5f}, {2});
  EXPECT_EQ(lmp::where(mask, x, 0).to_vector<float>(), (std::vector<float>{1.5f, 0}));
  EXPECT_EQ(lmp::where(mask, 7, x).to_vector<float>(), (std::vector<float>{7, 2.5f}));
  EXPECT_EQ(lmp::where(mask, 1, 2).type(), DataType::Int64);
  EXPECT_THROW(lmp::where(x, x, x), lmp::TypeError);
}

TEST(PointwiseRules, TypesPromoteByCategory) {
  using lmp::tensor::type_upcast;
  EXPECT_EQ(type_upcast(DataType::UInt8, DataType::Int8), DataType::Int16);
  EXPECT_EQ(type_upcast(DataType::Float16, DataType::BFloat16), DataType::Float32);
  EXPECT_EQ(type_upcast(DataType::Int64, DataType::Float16), DataType::Float16);
  EXPECT_EQ(type_upcast(DataType::Bool, DataType::UInt8), DataType::UInt8);
  for (DataType a : kTypes)
    for (DataType b2 : kTypes) EXPECT_EQ(type_upcast(a, b2), type_upcast(b2, a));
}

}  // namespace
