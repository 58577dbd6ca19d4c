// The pointwise ops: forward and gradient of each, side by side. The names and kinds are listed in
// include/lamppp/tensor/pointwise.def; together that is all an op needs.
//
// Included once per instruction set and once for the device inside a namespace of its own, after
// ops/math.hpp, with LMP_FN set to the qualifiers of a function; hence no include guard, no
// includes and no namespace here. `fwd` runs on numbers. `grad` takes the incoming gradient, the
// operands and the result; it runs on numbers (backward kernels), on Variables (gradients of
// gradients) and on a probe that finds out what it touches (so that only that is saved). It selects
// with `where` instead of branching; constants that are not integers come from of(like, value), in
// the type of `like`.

using lmp::table::Domain;
using lmp::table::Grads;
using lmp::table::None;
using lmp::table::OpInfo;
using lmp::table::Promote;

template <class T>
inline constexpr bool kIsFloat = static_cast<T>(0.5) != static_cast<T>(0) &&
                                 static_cast<T>(2.5) != static_cast<T>(2) &&
                                 static_cast<T>(0.5) != static_cast<T>(1);

LMP_FN float of(float, double value) { return static_cast<float>(value); }
LMP_FN double of(double, double value) { return value; }
LMP_FN float zero(float) { return 0; }
LMP_FN double zero(double) { return 0; }
template <class A, class B>
LMP_FN auto where(bool condition, A a, B b) {
  using T = decltype(true ? A() : B());
  return condition ? static_cast<T>(a) : static_cast<T>(b);
}

inline constexpr double kSqrt2OverPi = 0.797884560802865355880;  // sqrt(2 / pi)
inline constexpr double kGeluCubic =
    0.044715;  // Hendrycks and Gimpel, "Gaussian error linear units", 2016

// Arithmetic. Integers wrap around.

struct Add {
  static constexpr OpInfo info{
      .name = "add", .formula = "a + b", .promote = Promote::Common, .light = true};
  LMP_FN static auto fwd(auto a, auto b) { return add(a, b); }
  LMP_FN static auto grad(auto g, auto, auto, auto) { return Grads{g, g}; }
};

struct Sub {
  static constexpr OpInfo info{.name = "sub",
                               .formula = "a - b",
                               .promote = Promote::Common,
                               .takes_bool = false,
                               .light = true};
  LMP_FN static auto fwd(auto a, auto b) { return sub(a, b); }
  LMP_FN static auto grad(auto g, auto, auto, auto) { return Grads{g, -g}; }
};

struct Mul {
  static constexpr OpInfo info{
      .name = "mul", .formula = "a * b", .promote = Promote::Common, .light = true};
  LMP_FN static auto fwd(auto a, auto b) { return mul(a, b); }
  LMP_FN static auto grad(auto g, auto a, auto b, auto) { return Grads{g * b, g * a}; }
};

struct Div {
  static constexpr OpInfo info{.name = "div",
                               .formula = "a / b",
                               .promote = Promote::Float,
                               .domains = {{-4, 4}, {0.5, 4}},
                               .light = true};
  LMP_FN static auto fwd(auto a, auto b) { return a / b; }
  LMP_FN static auto grad(auto g, auto, auto b, auto y) { return Grads{g / b, -(g / b) * y}; }
};

struct Pow {
  static constexpr OpInfo info{.name = "pow",
                               .formula = "a^b",
                               .promote = Promote::Common,
                               .domains = {{0.1, 3}, {-3, 3}},
                               .takes_bool = false};
  template <class T>
  LMP_FN static auto fwd(T a, T b) {
    if constexpr (kIsFloat<T>)
      return pow(a, b);
    else
      return ipow(a, b);
  }
  // Where b is 0 the first gradient is 0, which must not be 0 * inf; where a is 0 the second is.
  LMP_FN static auto grad(auto g, auto a, auto b, auto y) {
    const auto power = pow(a, b - 1);
    return Grads{g * b * where(b == 0, where(isfinite(power), power, 0), power),
                 g * y * log(where(a == 0, 1, a))};
  }
};

struct Remainder {
  static constexpr OpInfo info{.name = "remainder",
                               .formula = "a - b * floor(a / b)",
                               .promote = Promote::Common,
                               .domains = {{-4, 4}, {0.5, 4}},
                               .takes_bool = false};
  LMP_FN static auto fwd(auto a, auto b) { return remainder(a, b); }
  LMP_FN static auto grad(auto g, auto a, auto b, auto) { return Grads{g, -(g * floor(a / b))}; }
};

struct Maximum {
  static constexpr OpInfo info{.name = "maximum",
                               .formula = "the larger of a and b; NaN wins",
                               .promote = Promote::Common,
                               .light = true};
  LMP_FN static auto fwd(auto a, auto b) { return maximum(a, b); }
  LMP_FN static auto grad(auto g, auto a, auto b, auto) {
    return Grads{where(a > b, g, where(a == b, g / 2, 0)),
                 where(b > a, g, where(a == b, g / 2, 0))};
  }
};

struct Minimum {
  static constexpr OpInfo info{.name = "minimum",
                               .formula = "the smaller of a and b; NaN wins",
                               .promote = Promote::Common,
                               .light = true};
  LMP_FN static auto fwd(auto a, auto b) { return minimum(a, b); }
  LMP_FN static auto grad(auto g, auto a, auto b, auto) {
    return Grads{where(a < b, g, where(a == b, g / 2, 0)),
                 where(b < a, g, where(a == b, g / 2, 0))};
  }
};

struct Atan2 {
  static constexpr OpInfo info{
      "atan2", "angle of the point (b, a)", Promote::Float, {{-4, 4}, {0.5, 4}}};
  LMP_FN static auto fwd(auto a, auto b) { return atan2(a, b); }
  LMP_FN static auto grad(auto g, auto a, auto b, auto) {
    return Grads{g * b / (a * a + b * b), -(g * a) / (a * a + b * b)};
  }
};

struct Neg {
  static constexpr OpInfo info{.name = "neg",
                               .formula = "-x",
                               .promote = Promote::Common,
                               .takes_bool = false,
                               .light = true};
  LMP_FN static auto fwd(auto x) { return neg(x); }
  LMP_FN static auto grad(auto g, auto, auto) { return Grads{-g}; }
};

struct Abs {
  static constexpr OpInfo info{
      .name = "abs", .formula = "|x|", .promote = Promote::Common, .light = true};
  LMP_FN static auto fwd(auto x) { return abs(x); }
  LMP_FN static auto grad(auto g, auto x, auto) {
    return Grads{where(x > 0, g, where(x < 0, -g, 0))};
  }
};

struct Sign {
  static constexpr OpInfo info{"sign", "-1, 0 or 1", Promote::Common};
  template <class T>
  LMP_FN static auto fwd(T x) {
    return where(x > T(0), T(1), where(x < T(0), static_cast<T>(-1), x));
  }
  LMP_FN static auto grad(auto g, auto, auto) { return Grads{zero(g)}; }
};

struct Square {
  static constexpr OpInfo info{
      .name = "square", .formula = "x^2", .promote = Promote::Common, .light = true};
  LMP_FN static auto fwd(auto x) { return mul(x, x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{2 * g * x}; }
};

struct Reciprocal {
  static constexpr OpInfo info{"reciprocal", "1 / x", Promote::Float, {{0.5, 4}}};
  LMP_FN static auto fwd(auto x) { return 1 / x; }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{-(g * y * y)}; }
};

struct Sqrt {
  static constexpr OpInfo info{"sqrt", "x^(1/2)", Promote::Float, {{0.1, 8}}};
  LMP_FN static auto fwd(auto x) { return sqrt(x); }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{g / (2 * y)}; }
};

struct Rsqrt {
  static constexpr OpInfo info{"rsqrt", "x^(-1/2)", Promote::Float, {{0.1, 8}}};
  LMP_FN static auto fwd(auto x) { return rsqrt(x); }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{-(g * y * y * y) / 2}; }
};

// Exponentials and logarithms.

struct Exp {
  static constexpr OpInfo info{
      .name = "exp", .formula = "e^x", .promote = Promote::Float, .near = kMathNearExp};
  LMP_FN static auto fwd(auto x) { return exp(x); }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{g * y}; }
};

struct Exp2 {
  static constexpr OpInfo info{"exp2", "2^x", Promote::Float};
  LMP_FN static auto fwd(auto x) { return exp2(x); }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{g * y * of(g, kLn2)}; }
};

struct Expm1 {
  static constexpr OpInfo info{"expm1", "e^x - 1", Promote::Float};
  LMP_FN static auto fwd(auto x) { return expm1(x); }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{g * (y + 1)}; }
};

struct Log {
  static constexpr OpInfo info{"log", "ln(x)", Promote::Float, {{0.1, 8}}};
  LMP_FN static auto fwd(auto x) { return log(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g / x}; }
};

struct Log2 {
  static constexpr OpInfo info{"log2", "ln(x) / ln(2)", Promote::Float, {{0.1, 8}}};
  LMP_FN static auto fwd(auto x) { return log2(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g / (x * of(g, kLn2))}; }
};

struct Log10 {
  static constexpr OpInfo info{"log10", "ln(x) / ln(10)", Promote::Float, {{0.1, 8}}};
  LMP_FN static auto fwd(auto x) { return log10(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g / (x * of(g, kLn10))}; }
};

struct Log1p {
  static constexpr OpInfo info{"log1p", "ln(1 + x)", Promote::Float, {{-0.9, 8}}};
  LMP_FN static auto fwd(auto x) { return log1p(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g / (1 + x)}; }
};

// Trigonometric and hyperbolic functions.

struct Sin {
  static constexpr OpInfo info{.name = "sin",
                               .formula = "sin(x)",
                               .promote = Promote::Float,
                               .near = kMathNearTurns,
                               .near_gradient = true};
  LMP_FN static auto fwd(auto x) { return sin(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g * cos(x)}; }
};

struct Cos {
  static constexpr OpInfo info{.name = "cos",
                               .formula = "cos(x)",
                               .promote = Promote::Float,
                               .near = kMathNearTurns,
                               .near_gradient = true};
  LMP_FN static auto fwd(auto x) { return cos(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{-(g * sin(x))}; }
};

struct Tan {
  static constexpr OpInfo info{"tan", "tan(x)", Promote::Float, {{-1.2, 1.2}}};
  LMP_FN static auto fwd(auto x) { return tan(x); }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{g * (1 + y * y)}; }
};

struct Sinh {
  static constexpr OpInfo info{"sinh", "(e^x - e^-x) / 2", Promote::Float};
  LMP_FN static auto fwd(auto x) { return sinh(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g * cosh(x)}; }
};

struct Cosh {
  static constexpr OpInfo info{"cosh", "(e^x + e^-x) / 2", Promote::Float};
  LMP_FN static auto fwd(auto x) { return cosh(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g * sinh(x)}; }
};

struct Tanh {
  static constexpr OpInfo info{"tanh", "sinh(x) / cosh(x)", Promote::Float};
  LMP_FN static auto fwd(auto x) { return tanh(x); }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{g * (1 - y * y)}; }
};

struct Asin {
  static constexpr OpInfo info{"asin", "arc sine", Promote::Float, {{-0.9, 0.9}}};
  LMP_FN static auto fwd(auto x) { return asin(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g / sqrt(1 - x * x)}; }
};

struct Acos {
  static constexpr OpInfo info{"acos", "arc cosine", Promote::Float, {{-0.9, 0.9}}};
  LMP_FN static auto fwd(auto x) { return acos(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{-(g / sqrt(1 - x * x))}; }
};

struct Atan {
  static constexpr OpInfo info{"atan", "arc tangent", Promote::Float};
  LMP_FN static auto fwd(auto x) { return atan(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g / (1 + x * x)}; }
};

struct Erf {
  static constexpr OpInfo info{"erf", "2 / sqrt(pi) * integral of e^(-t^2) from 0 to x",
                               Promote::Float};
  LMP_FN static auto fwd(auto x) { return erf(x); }
  LMP_FN static auto grad(auto g, auto x, auto) {
    return Grads{g * of(g, kTwoOverSqrtPi) * exp(-(x * x))};
  }
};

// Rounding. The gradient is 0 almost everywhere, and taken as 0.

struct Floor {
  static constexpr OpInfo info{"floor", "largest integer <= x", Promote::Common};
  template <class T>
  LMP_FN static auto fwd(T x) {
    if constexpr (kIsFloat<T>)
      return floor(x);
    else
      return x;
  }
  LMP_FN static auto grad(auto g, auto, auto) { return Grads{zero(g)}; }
};

struct Ceil {
  static constexpr OpInfo info{"ceil", "smallest integer >= x", Promote::Common};
  template <class T>
  LMP_FN static auto fwd(T x) {
    if constexpr (kIsFloat<T>)
      return ceil(x);
    else
      return x;
  }
  LMP_FN static auto grad(auto g, auto, auto) { return Grads{zero(g)}; }
};

struct Round {
  static constexpr OpInfo info{"round", "nearest integer, halves to even", Promote::Common};
  template <class T>
  LMP_FN static auto fwd(T x) {
    if constexpr (kIsFloat<T>)
      return round(x);
    else
      return x;
  }
  LMP_FN static auto grad(auto g, auto, auto) { return Grads{zero(g)}; }
};

// Activations.

struct Sigmoid {
  static constexpr OpInfo info{.name = "sigmoid",
                               .formula = "1 / (1 + e^-x)",
                               .promote = Promote::Float,
                               .near = kMathNearExp};
  LMP_FN static auto fwd(auto x) { return sigmoid(x); }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{g * y * (1 - y)}; }
};

struct Softplus {
  static constexpr OpInfo info{"softplus", "ln(1 + e^x)", Promote::Float};
  LMP_FN static auto fwd(auto x) { return softplus(x); }
  LMP_FN static auto grad(auto g, auto x, auto) { return Grads{g * sigmoid(x)}; }
};

struct Relu {
  static constexpr OpInfo info{
      .name = "relu", .formula = "max(x, 0)", .promote = Promote::Common, .light = true};
  template <class T>
  LMP_FN static auto fwd(T x) {
    return where(x < T(0), T(0), x);
  }
  LMP_FN static auto grad(auto g, auto, auto y) { return Grads{where(y > 0, g, 0)}; }
};

struct LeakyRelu {
  static constexpr OpInfo info{.name = "leaky_relu",
                               .formula = "x where x > 0, else slope * x",
                               .promote = Promote::Float,
                               .light = true};
  LMP_FN static auto fwd(auto x, auto slope) { return where(x > 0, x, x * slope); }
  LMP_FN static auto grad(auto g, auto x, auto slope, auto) {
    return Grads{where(x > 0, g, g * slope), where(x > 0, 0, g * x)};
  }
};

struct Gelu {
  static constexpr OpInfo info{"gelu", "x * (1 + erf(x / sqrt(2))) / 2", Promote::Float};
  LMP_FN static auto fwd(auto x) { return x * normal_cdf(x); }
  LMP_FN static auto grad(auto g, auto x, auto) {
    return Grads{g * (normal_cdf(x) + x * normal_density(x))};
  }
};

struct GeluTanh {
  static constexpr OpInfo info{"gelu_tanh", "x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2",
                               Promote::Float};
  LMP_FN static auto inner(auto x) {
    return of(x, kSqrt2OverPi) * (x + of(x, kGeluCubic) * x * x * x);
  }
  LMP_FN static auto fwd(auto x) { return x * ((1 + tanh(inner(x))) / 2); }
  LMP_FN static auto grad(auto g, auto x, auto) {
    auto t = tanh(inner(x));
    return Grads{
        g *
        ((1 + t) + x * (1 - t * t) * of(x, kSqrt2OverPi) * (1 + of(x, 3 * kGeluCubic) * x * x)) /
        2};
  }
};

struct Silu {
  static constexpr OpInfo info{.name = "silu",
                               .formula = "x / (1 + e^-x)",
                               .promote = Promote::Float,
                               .near = kMathNearExp,
                               .near_gradient = true};
  LMP_FN static auto fwd(auto x) { return silu(x); }
  LMP_FN static auto grad(auto g, auto x, auto) {
    auto s = sigmoid(x);
    return Grads{g * s * (1 + x * (1 - s))};
  }
};

struct Softsign {
  static constexpr OpInfo info{"softsign", "x / (1 + |x|)", Promote::Float};
  LMP_FN static auto fwd(auto x) { return x / (1 + abs(x)); }
  LMP_FN static auto grad(auto g, auto x, auto) {
    auto scale = 1 + abs(x);
    return Grads{g / (scale * scale)};
  }
};

// Comparisons and tests: Bool, no gradient. As IEEE 754 says, NaN equals nothing.

struct Eq {
  static constexpr OpInfo info{"eq", "a == b", Promote::Compare};
  LMP_FN static bool fwd(auto a, auto b) { return a == b; }
};

struct Ne {
  static constexpr OpInfo info{"ne", "a != b", Promote::Compare};
  LMP_FN static bool fwd(auto a, auto b) { return a != b; }
};

struct Gt {
  static constexpr OpInfo info{"gt", "a > b", Promote::Compare};
  LMP_FN static bool fwd(auto a, auto b) { return a > b; }
};

struct Ge {
  static constexpr OpInfo info{"ge", "a >= b", Promote::Compare};
  LMP_FN static bool fwd(auto a, auto b) { return a >= b; }
};

struct Lt {
  static constexpr OpInfo info{"lt", "a < b", Promote::Compare};
  LMP_FN static bool fwd(auto a, auto b) { return a < b; }
};

struct Le {
  static constexpr OpInfo info{"le", "a <= b", Promote::Compare};
  LMP_FN static bool fwd(auto a, auto b) { return a <= b; }
};

struct LogicalAnd {
  static constexpr OpInfo info{"logical_and", "a and b", Promote::Compare};
  LMP_FN static bool fwd(auto a, auto b) { return (a != 0) & (b != 0); }
};

struct LogicalOr {
  static constexpr OpInfo info{"logical_or", "a or b", Promote::Compare};
  LMP_FN static bool fwd(auto a, auto b) { return (a != 0) | (b != 0); }
};

struct LogicalXor {
  static constexpr OpInfo info{"logical_xor", "either a or b", Promote::Compare};
  LMP_FN static bool fwd(auto a, auto b) { return (a != 0) != (b != 0); }
};

struct LogicalNot {
  static constexpr OpInfo info{"logical_not", "not x", Promote::Compare};
  LMP_FN static bool fwd(auto x) { return x == 0; }
};

struct IsNan {
  static constexpr OpInfo info{"isnan", "x is not a number", Promote::Compare};
  LMP_FN static bool fwd(auto x) { return isnan(x); }
};

struct IsInf {
  static constexpr OpInfo info{"isinf", "x is infinite", Promote::Compare};
  LMP_FN static bool fwd(auto x) { return isinf(x); }
};

struct IsFinite {
  static constexpr OpInfo info{"isfinite", "x is neither infinite nor NaN", Promote::Compare};
  LMP_FN static bool fwd(auto x) { return isfinite(x); }
};

// Three operands.

struct Where {
  static constexpr OpInfo info{.name = "where",
                               .formula = "a where the condition holds, else b",
                               .promote = Promote::Common,
                               .condition = 1,
                               .light = true};
  LMP_FN static auto fwd(bool condition, auto a, auto b) { return where(condition, a, b); }
  LMP_FN static auto grad(auto g, auto condition, auto, auto, auto) {
    return Grads{None{}, where(condition, g, 0), where(condition, 0, g)};
  }
};

struct Clamp {
  static constexpr OpInfo info{.name = "clamp",
                               .formula = "min(max(x, low), high)",
                               .promote = Promote::Common,
                               .domains = {{-4, 4}, {-2, 0}, {0, 2}},
                               .light = true};
  LMP_FN static auto fwd(auto x, auto low, auto high) { return minimum(high, maximum(low, x)); }
  LMP_FN static auto grad(auto g, auto x, auto low, auto high, auto) {
    auto inside = where(x < low, 0, where(x > high, 0, g));
    return Grads{inside, where(x < low, where(low > high, 0, g), 0),
                 where(x > high, g, where(low > high, g, 0))};
  }
};
