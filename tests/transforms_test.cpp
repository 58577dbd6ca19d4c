// jvp, vjp, jacobian, hessian and hvp against each other in every nesting, and what they leave
// behind. Closed forms and vmap have files of their own.

#include <array>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>

#include "transforms_support.hpp"

namespace lmp {
namespace {

using testing::contains;
using testing::expect_near;
using testing::Function;
using testing::leaf;
using testing::live_bytes;
using testing::message_of;
using testing::scalar;
using testing::uniform;
using testing::Values;
using testing::values;
using testing::vector_of;

// ---- Every nesting ----

/// A derivative of a scalar function along t, as a function again: all the ways there are.
struct Way {
  const char* name;
  Function (*derivative)(Function f, Variable t);
};
const Way kWays[] = {
    {"jvp",
     [](Function f, Variable t) -> Function {
       return [=](const Variable& x) { return jvp(f, x, t).tangent; };
     }},
    {"value_and_grad",
     [](Function f, Variable t) -> Function {
       return [=](const Variable& x) { return lmp::sum(value_and_grad(f)(x).gradient * t); };
     }},
    {"vjp",
     [](Function f, Variable t) -> Function {
       return [=](const Variable& x) { return lmp::sum(vjp(f, x)(scalar(1)) * t); };
     }},
    {"pullback of a pullback",
     [](Function f, Variable t) -> Function {
       return [=](const Variable& x) {
         const auto pullback = vjp(f, x);
         return vjp([&](const Variable& g) { return pullback(g); }, scalar(1))(t);
       };
     }},
    {"jacobian",
     [](Function f, Variable t) -> Function {
       return [=](const Variable& x) { return lmp::sum(jacobian(f)(x) * t); };
     }},
    {"jacobian by columns",
     [](Function f, Variable t) -> Function {
       return [=](const Variable& x) {
         const Function wide = [f](const Variable& at) {
           return lmp::outer(lmp::reshape(f(at), {1}), Variable(lmp::ones({40})));
         };
         return lmp::sum(jacobian(wide)(x)[0][0] * t);
       };
     }},
    {"jvp under vmap",
     [](Function f, Variable t) -> Function {
       return [=](const Variable& x) {
         const Variable lanes = lmp::stack({0 * t, t, 3 * t});
         return vmap([&](const Variable& along) { return jvp(f, x, along).tangent; })(lanes)[1];
       };
     }},
    {"value_and_grad under vmap",
     [](Function f, Variable t) -> Function {
       return [=](const Variable& x) {
         const auto both = vmap(value_and_grad(f))(lmp::stack({x, x * 2}));
         return lmp::sum(both.gradient[0] * t);
       };
     }},
    {"grad",
     [](Function f, Variable t) -> Function {
       return [=](const Variable& x) {
         // A leaf of its own, connected by hand: x + 0 * leaf.
         const Variable step = autograd::zeros(x.shape(), DeviceType::CPU, DataType::Float64, true);
         return lmp::sum(
             lmp::grad({f(x + step) + 0 * lmp::sum(step)}, {step}, {.create_graph = true})[0] * t);
       };
     }},
};

/// Smooth functions R^4 -> R, each a chain of steps drawn at random.
Function random_function(Generator& generator) {
  std::vector<int> steps;
  for (const double r : values(uniform(generator, {6}, 0, 12)))
    steps.push_back(static_cast<int>(r));
  const Variable w(uniform(generator, {4, 4}, -0.7, 0.7)), v(uniform(generator, {4}, 0.5, 1));
  return [=](const Variable& x) {
    Variable a = x, b = lmp::tanh(x);
    for (const int step : steps) {
      Variable next;
      switch (step) {
        case 0:
          next = lmp::sin(a) * b;
          break;
        case 1:
          next = lmp::matmul(w, a);
          break;
        case 2:
          next = lmp::softmax(a) + b;
          break;
        case 3:
          next = a / (1 + lmp::square(b));
          break;
        case 4:
          next = lmp::cumsum(a, 0) * 0.5;
          break;
        case 5:
          next = lmp::logsumexp(a) * lmp::flip(b, {0});
          break;
        case 6:
          next = lmp::roll(a, 1, 0) - v * b;
          break;
        case 7:
          next = lmp::gather(lmp::exp(lmp::tanh(a)), 0, Tensor({3, 0, 0, 2}, {4}));
          break;
        case 8:
          next = lmp::reshape(lmp::matmul(lmp::reshape(a, {2, 2}), lmp::reshape(b, {2, 2})), {4});
          break;
        case 9:
          next = lmp::pad(a.narrow(0, 1, 3), {{1, 0}}) + lmp::norm(v + a * a);
          break;
        case 10:
          next = lmp::solve(lmp::outer(lmp::tanh(a), lmp::tanh(b)) * 0.1 +
                                Variable(lmp::eye(4, 4, DeviceType::CPU, DataType::Float64)),
                            b);
          break;
        default:
          next = lmp::where(lmp::gt(a, 0.1), lmp::atan2(a, v + b * b), lmp::gelu(b));
          break;
      }
      b = a;
      a = next;
    }
    return lmp::sum(a * v) + lmp::mean(b);
  };
}

TEST(Nestings, ForwardAgreesWithReverse) {
  Generator generator(11);
  for (int k = 0; k < 40; ++k) {
    SCOPED_TRACE(k);
    const Function f = random_function(generator);
    const Variable x(uniform(generator, {4})), t(uniform(generator, {4}));
    const double expected = kWays[0].derivative(f, t)(x).item();
    ASSERT_TRUE(std::isfinite(expected));
    for (const Way& way : kWays) {
      SCOPED_TRACE(way.name);
      EXPECT_NEAR(way.derivative(f, t)(x).item(), expected, 1e-11 * (1 + std::abs(expected)));
    }
    // <g, J t> = <J^T g, t> for a vector of values.
    const Function many = [&](const Variable& at) {
      return lmp::stack({f(at), f(2 * at), f(at * at)});
    };
    const Variable g(uniform(generator, {3}));
    EXPECT_NEAR(lmp::sum(g * jvp(many, x, t).tangent).item(), lmp::sum(vjp(many, x)(g) * t).item(),
                1e-10 * (1 + std::abs(expected)));
  }
}

TEST(Nestings, SecondDerivatives) {
  Generator generator(12);
  for (int k = 0; k < 12; ++k) {
    const Function f = random_function(generator);
    const Variable x(uniform(generator, {4})), t(uniform(generator, {4})),
        u(uniform(generator, {4}));
    const double expected = kWays[1].derivative(kWays[1].derivative(f, t), u)(x).item();
    const Values h = values(hessian(f)(x)), a = values(t), b = values(u);
    double by_hessian = 0;
    for (std::size_t i = 0; i < 16; ++i) by_hessian += h[i] * a[i / 4] * b[i % 4];
    EXPECT_NEAR(by_hessian, expected, 1e-9 * (1 + std::abs(expected)));
    for (const Way& outer : kWays)
      for (const Way& inner : kWays) {
        SCOPED_TRACE(std::string(outer.name) + " of " + inner.name);
        EXPECT_NEAR(outer.derivative(inner.derivative(f, t), u)(x).item(), expected,
                    1e-9 * (1 + std::abs(expected)));
      }
  }
}

TEST(Nestings, ThirdDerivatives) {
  Generator generator(13);
  for (int k = 0; k < 2; ++k) {
    const Function f = random_function(generator);
    const Variable x(uniform(generator, {4})), t(uniform(generator, {4})),
        u(uniform(generator, {4})), v(uniform(generator, {4}));
    const double expected =
        kWays[0].derivative(kWays[0].derivative(kWays[0].derivative(f, t), u), v)(x).item();
    for (const Way& outer : kWays)
      for (const Way& middle : kWays)
        for (const Way& inner : kWays) {
          SCOPED_TRACE(std::string(outer.name) + " of " + middle.name + " of " + inner.name);
          const Function derivative =
              outer.derivative(middle.derivative(inner.derivative(f, t), u), v);
          EXPECT_NEAR(derivative(x).item(), expected, 1e-8 * (1 + std::abs(expected)));
        }
  }
}

TEST(Nestings, PerturbationsAreNotConfused) {
  const Variable one = scalar(1);
  const auto derivative = [&](const Way& way, Function f) { return way.derivative(f, one); };
  for (const Way& outer : kWays)
    for (const Way& inner : kWays) {
      SCOPED_TRACE(std::string(outer.name) + " of " + inner.name);
      // d/dx x (d/dy (x + y)) = 1
      const Function sum_case = derivative(outer, [&](const Variable& x) {
        return x * derivative(inner, [&](const Variable& y) { return x + y; })(scalar(2));
      });
      EXPECT_EQ(sum_case(scalar(3)).item(), 1);
      // d/dx x (d/dy x y) = 2 x, with y = x too.
      const Function product = derivative(outer, [&](const Variable& x) {
        return x * derivative(inner, [&](const Variable& y) { return x * y; })(x);
      });
      EXPECT_EQ(product(scalar(3)).item(), 6);
      // d/dx (d/dy x y^2 at y = x^2) = d/dx 2 x^3 = 6 x^2
      const Function chained = derivative(outer, [&](const Variable& x) {
        return derivative(inner, [&](const Variable& y) { return x * y * y; })(x * x);
      });
      EXPECT_NEAR(chained(scalar(3)).item(), 54, 1e-12);
      for (const Way& third : kWays) {
        // d/dx x (d/dy y (d/dz x y z)) = d/dx x (2 x y) = 4 x y
        const Function deep = derivative(outer, [&](const Variable& x) {
          return x * derivative(inner, [&](const Variable& y) {
                   return y * derivative(third,
                                         [&](const Variable& z) { return x * y * z; })(scalar(0.5));
                 })(scalar(5));
        });
        EXPECT_NEAR(deep(scalar(3)).item(), 60, 1e-12) << third.name;
      }
    }
}

TEST(Nestings, CapturedLeavesGetDerivatives) {
  // sum_i d/dx sin(w x_i) = w cos(w x_i); by w: cos(w x_i) - w x_i sin(w x_i).
  const Values at = {0.5, -1, 2};
  double by_w = 0;
  for (double x : at) by_w += std::cos(1.5 * x) - 1.5 * x * std::sin(1.5 * x);
  const Variable xs = vector_of(at);
  const auto slope_by = [](const Way& way, const Variable& w) {
    return way.derivative([w](const Variable& x) { return lmp::sin(w * x); }, scalar(1));
  };
  for (const Way& way : kWays) {
    SCOPED_TRACE(way.name);
    {  // captured at the outermost level, then backward()
      const Variable w = testing::scalar_leaf(1.5);
      const Variable slopes = vmap(slope_by(way, w))(xs);
      ASSERT_TRUE(slopes.requires_grad());
      lmp::sum(slopes).backward();
      EXPECT_NEAR(w.grad().item(), by_w, 1e-12);
    }
    {  // through a recorded result
      const Variable w = testing::scalar_leaf(0.5);
      lmp::sum(vmap(slope_by(way, 3 * w))(xs)).backward();
      EXPECT_NEAR(w.grad().item(), 3 * by_w, 1e-11);
    }
    for (const Way& outer : kWays) {  // captured as an argument of an outer transform
      SCOPED_TRACE(outer.name);
      const Function total_slope = [&](const Variable& w) {
        return lmp::sum(vmap(slope_by(way, w))(xs));
      };
      const Variable leaf_w = testing::scalar_leaf(1.5);
      EXPECT_NEAR(outer.derivative(total_slope, scalar(1))(scalar(1.5)).item(), by_w, 1e-12);
      const Variable again = outer.derivative(total_slope, scalar(1))(leaf_w);
      EXPECT_NEAR(again.item(), by_w, 1e-12);
      // and once more by the leaf: d2/dw2 of w cos(w x) is -2 x sin(w x) - w x^2 cos(w x)
      ASSERT_TRUE(again.requires_grad());
      again.backward();
      double second = 0;
      for (double x : at) second += -2 * x * std::sin(1.5 * x) - 1.5 * x * x * std::cos(1.5 * x);
      EXPECT_NEAR(leaf_w.grad().item(), second, 1e-11);
    }
    {  // mapped at an outer level: the slope at every x for every w
      const Variable ws = vector_of({1.5, -0.5});
      const Variable table =
          vmap([&](const Variable& w) { return vmap(slope_by(way, w))(xs); })(ws);
      for (std::size_t i = 0; i < 2; ++i)
        for (std::size_t j = 0; j < 3; ++j) {
          const double w = values(ws)[i], x = at[j];
          EXPECT_NEAR(values(table)[3 * i + j], w * std::cos(w * x), 1e-12);
        }
    }
  }
}

TEST(Nestings, CapturedLeavesReachWhatNoLaneChanges) {
  // Inside the transform, but of a value that it knows nothing of: (w y) y at y = 3.
  const Variable xs = vector_of({1, 2});
  for (const Way& way : kWays) {
    SCOPED_TRACE(way.name);
    const Variable w = testing::scalar_leaf(2);
    const Function quadratic = [&](const Variable& y) { return (w * y) * y; };
    const auto weighed = [&](const Variable& x) {
      const Variable slope = way.derivative(quadratic, scalar(1))(scalar(3));  // 6 w
      const Variable value = value_and_grad(quadratic)(scalar(3)).value;       // 9 w
      const Variable bend = hessian(quadratic)(scalar(3));                     // 2 w
      return x * (slope + 10 * value + 100 * bend);                            // 296 w x
    };
    const Variable in_lanes = vmap(weighed)(xs);
    expect_near(in_lanes, vector_of({592, 1184}));
    ASSERT_TRUE(in_lanes.requires_grad());
    lmp::sum(in_lanes).backward();
    EXPECT_NEAR(w.grad().item(), 3 * 296, 1e-10);
    w.zero_grad();
    const Variable moved = jvp(weighed, scalar(5), scalar(1)).tangent;
    EXPECT_NEAR(moved.item(), 592, 1e-10);
    moved.backward();
    EXPECT_NEAR(w.grad().item(), 296, 1e-10);
  }
}

TEST(Nestings, ArgumentsThatAreRecordedAtEveryLevel) {
  // The same Variable as argument, as captured value and as what is differentiated outside.
  const Variable w = testing::scalar_leaf(2);
  const auto cube = [](const Variable& x) { return x * x * x; };
  const auto [value, gradient] = value_and_grad([&](const Variable& x) { return w * cube(x); })(w);
  EXPECT_EQ(value.item(), 16);                // w x^3
  EXPECT_EQ(gradient.item(), 24);             // 3 w x^2, that is 3 w^3: by w 9 w^2
  gradient.backward({.retain_graph = true});  // it shares a graph with the value
  EXPECT_EQ(w.grad().item(), 36);
  w.zero_grad();
  value.backward();  // w^4: 4 w^3
  EXPECT_EQ(w.grad().item(), 32);
  w.zero_grad();
  const auto [v, tangent] = jvp([&](const Variable& x) { return w * cube(x); }, w, w);
  EXPECT_EQ(tangent.item(), 48);  // 3 w x^2 t = 3 w^4: 12 w^3
  tangent.backward();
  EXPECT_EQ(w.grad().item(), 96);
  w.zero_grad();
  const auto pullback = vjp([&](const Variable& x) { return w * cube(x); }, w);
  pullback(w).backward();
  EXPECT_EQ(w.grad().item(), 96);
  w.zero_grad();
  hessian([&](const Variable& x) { return w * cube(x); })(w).backward();  // 6 w x = 6 w^2
  EXPECT_EQ(w.grad().item(), 24);
}

TEST(Nestings, PullbackIsDifferentiableByItsGradient) {
  const Variable x = vector_of({1, 2}), g = leaf({3, 4});
  const auto pullback = vjp([](const Variable& v) { return v * v * v; }, x);
  const Variable back = pullback(g);
  expect_near(values(back), {9, 48});
  ASSERT_TRUE(back.requires_grad());
  lmp::sum(back).backward();
  expect_near(values(g.grad()), {3, 12});
  expect_near(jacobian([&](const Variable& v) { return pullback(v); })(g.detach()),
              vector_of({3, 0, 0, 12}, {2, 2}));
  expect_near(
      jvp([&](const Variable& v) { return pullback(v); }, g.detach(), vector_of({1, 1})).tangent,
      vector_of({3, 12}));
}

// ---- Lists, tuples and further arguments ----

TEST(Transforms, ArgumentsOfEveryMake) {
  const Variable a = vector_of({1, 2}), b = scalar(3);
  const auto loss = [](const std::vector<Variable>& p) { return lmp::sum(p[0] * p[0]) * p[1]; };
  const auto [value, gradient] = value_and_grad(loss)(std::vector<Variable>{a, b});
  EXPECT_EQ(value.item(), 15);
  ASSERT_EQ(gradient.size(), 2u);
  expect_near(values(gradient[0]), {6, 12});
  EXPECT_EQ(gradient[1].item(), 5);

  // Tensors become Variables, in any container.
  const auto in_array = value_and_grad([](const std::array<Variable, 2>& p) {
    return lmp::sum(p[0] * p[1]);
  })(std::array<Tensor, 2>{Tensor({1.0, 2.0}, {2}), Tensor({3.0, 4.0}, {2})});
  expect_near(values(in_array.gradient[0]), {3, 4});
  const auto in_pair = value_and_grad([](const std::pair<Variable, std::vector<Variable>>& p) {
    return lmp::sum(p.first * p.second[0]);
  })(std::pair<Tensor, std::vector<Tensor>>{Tensor({1.0, 2.0}, {2}), {Tensor({3.0, 4.0}, {2})}});
  expect_near(values(in_pair.gradient.second[0]), {1, 2});

  // By argument number; what is not differentiated is handed on as it is.
  const auto f = [](const Variable& x, int n, const Variable& y, const std::string& what) {
    EXPECT_EQ(what, "further");
    return lmp::sum(x * x * y) * n;
  };
  const auto both = value_and_grad<0, 2>(f)(a, 10, vector_of({5, 7}), std::string("further"));
  expect_near(values(std::get<0>(both.gradient)), {100, 280});
  expect_near(values(std::get<1>(both.gradient)), {10, 40});
  const auto second = value_and_grad<2>(f)(a, 10, vector_of({5, 7}), std::string("further"));
  expect_near(values(second.gradient), {10, 40});
  const auto swapped = value_and_grad<2, 0>(f)(a, 10, vector_of({5, 7}), std::string("further"));
  expect_near(values(std::get<0>(swapped.gradient)), {10, 40});

  const auto tuple = std::make_tuple(a, b);
  const auto [moved, tangent] = jvp(
      [](const auto& p) {
        return std::pair(std::get<0>(p) * std::get<1>(p), std::vector<Variable>{std::get<1>(p)});
      },
      tuple, std::make_tuple(vector_of({1, 0}), scalar(10)));
  expect_near(values(moved.first), {3, 6});
  expect_near(values(tangent.first), {13, 20});
  EXPECT_EQ(tangent.second[0].item(), 10);

  const auto pullback = vjp([](const auto& p) { return std::get<0>(p) * std::get<1>(p); }, tuple);
  const auto back = pullback(vector_of({1, 100}));
  expect_near(values(std::get<0>(back)), {3, 300});
  EXPECT_EQ(std::get<1>(back).item(), 201);
  const auto product =
      hvp(loss, std::vector<Variable>{a, b}, std::vector<Variable>{vector_of({1, 0}), scalar(1)});
  expect_near(values(product[0]), {2 * 3 + 2, 4});
  EXPECT_EQ(product[1].item(), 2);
  expect_near(values(jacobian([](const Variable& x, double k, const Variable& y) {
                return x * y * k;
              })(a, 2.0, vector_of({5, 7}))),
              {10, 0, 0, 14});
  expect_near(values(hessian([](const Variable& x, const Variable& y) {
                return lmp::sum(x * x * y);
              })(a, vector_of({5, 7}))),
              {10, 0, 0, 14});
}

TEST(Transforms, WhatDoesNotDependHasZeros) {
  const Variable x = vector_of({1, 2});
  const Variable w = testing::scalar_leaf(3);
  const auto constant = [](const Variable&) { return scalar(7); };
  const auto captured = [&](const Variable&) { return 1 * w; };
  for (const Function& f : {Function(constant), Function(captured)}) {
    const auto both = value_and_grad(f)(x);
    expect_near(values(both.gradient), {0, 0});
    expect_near(values(jvp(f, x, x).tangent), {0});
    expect_near(values(vjp(f, x)(scalar(1))), {0, 0});
    expect_near(values(jacobian(f)(x)), {0, 0});
    expect_near(values(hessian(f)(x)), {0, 0, 0, 0});
    expect_near(values(hvp(f, x, x)), {0, 0});
  }
  // The argument itself, and a part of it.
  expect_near(values(jacobian([](const Variable& v) { return v; })(x)), {1, 0, 0, 1});
  EXPECT_EQ(value_and_grad([](const Variable& v) { return v; })(scalar(5)).gradient.item(), 1);
  expect_near(values(jvp([](const Variable& v) { return v; }, x, vector_of({3, 4})).tangent),
              {3, 4});
  expect_near(values(hessian([](const Variable& v) { return lmp::sum(v); })(x)), {0, 0, 0, 0});
  // No elements at all.
  const Variable none(lmp::zeros({0}, DeviceType::CPU, DataType::Float64));
  EXPECT_EQ(jacobian([](const Variable& v) { return v * 2; })(none).shape(), Shape({0, 0}));
  EXPECT_EQ(jacobian([](const Variable& v) { return lmp::sum(v) + lmp::zeros({3}); })(none).shape(),
            Shape({3, 0}));
  EXPECT_EQ(jacobian([](const Variable& v) { return v.narrow(0, 0, 0); })(x).shape(),
            Shape({0, 2}));
  EXPECT_EQ(hessian([](const Variable& v) { return lmp::sum(v * v); })(none).shape(),
            Shape({0, 0}));
}

// ---- Control flow and values ----

TEST(ControlFlow, JvpReadsValues) {
  const auto f = [](const Variable& x) {
    Variable y = x;
    int steps = 0;
    while (y.item() < 100) {
      y = y * x;
      ++steps;
    }
    EXPECT_EQ(steps, 4);
    EXPECT_EQ(x.to_vector<double>(), (Values{3}));
    return x.item() > 2 ? y : -y;
  };
  const auto [value, tangent] = jvp(f, scalar(3), scalar(1));
  EXPECT_EQ(value.item(), 243);
  EXPECT_EQ(tangent.item(), 5 * 81);
  EXPECT_EQ(
      jvp([&](const Variable& x) { return jvp(f, x, scalar(1)).tangent; }, scalar(3), scalar(1))
          .tangent.item(),
      5 * 4 * 27);
  EXPECT_EQ(value_and_grad(f)(scalar(3)).gradient.item(), 5 * 81);
  // Work on its Tensor has no derivative.
  const auto on_tensor = [](const Variable& x) { return Variable(x.data() * 2) * x; };
  EXPECT_EQ(jvp(on_tensor, scalar(3), scalar(1)).tangent.item(), 6);
}

TEST(ControlFlow, DetachStopsEveryLevel) {
  for (const Way& outer : kWays)
    for (const Way& inner : kWays) {
      SCOPED_TRACE(std::string(outer.name) + " of " + inner.name);
      const auto f = [](const Variable& x) { return x.detach() * x * x; };
      // d/dx = 2 c x, d2/dx2 = 2 c with c = x held.
      EXPECT_EQ(inner.derivative(f, scalar(1))(scalar(3)).item(), 18);
      EXPECT_EQ(outer.derivative(inner.derivative(f, scalar(1)), scalar(1))(scalar(3)).item(), 6);
      // Detached inside, of an outer level: nothing is left.
      const Function held = outer.derivative(
          [&](const Variable& x) {
            return inner.derivative([&](const Variable& y) { return x.detach() * y; },
                                    scalar(1))(x);
          },
          scalar(1));
      EXPECT_EQ(held(scalar(3)).item(), 0);
    }
  const Variable xs = leaf({1, 2});
  const Variable out = vmap([](const Variable& x) { return x.detach() * x; })(xs);
  lmp::sum(out).backward();
  expect_near(values(xs.grad()), {1, 2});
}

TEST(ControlFlow, NoGradInside) {
  const auto f = [](const Variable& x) {
    Variable held;
    {
      const NoGradGuard guard;
      held = x * x;
    }
    return held * x;
  };
  EXPECT_EQ(value_and_grad(f)(scalar(3)).gradient.item(), 9);
  const Variable w = testing::scalar_leaf(3);
  f(w).backward();
  EXPECT_EQ(w.grad().item(), 9);
  // Forward mode records nothing and follows values, whatever is recorded.
  EXPECT_EQ(jvp(f, scalar(3), scalar(1)).tangent.item(), 27);
}

TEST(ControlFlow, NoGradOutsideLeavesNoGraph) {
  const Variable w = leaf({1, 2});
  const auto f = [&](const Variable& x) { return lmp::sum(x * x * w); };
  const std::int64_t before = live_bytes();
  {
    const NoGradGuard guard;
    const auto [value, gradient] = value_and_grad(f)(w);
    expect_near(values(gradient), {2, 8});
    const auto pullback = vjp(f, w);
    for (const Variable& v :
         {value, gradient, pullback.value, pullback(scalar(1)), jacobian(f)(w), hessian(f)(w),
          jacobian([&](const Variable& x) { return lmp::outer(x * w, x); })(w), hvp(f, w, w),
          jvp(f, w, w).tangent, vmap(value_and_grad(f))(lmp::stack({w, w})).gradient,
          vmap(value_and_grad(f))(lmp::stack({w, w})).value,
          jvp([&](const Variable& x) { return value_and_grad(f)(x).value; }, w, w).tangent})
      EXPECT_FALSE(v.requires_grad()) << v;
    EXPECT_FALSE(is_grad_enabled());
    // Inside, it records again: the inner derivative is seen by the outer one.
    const auto nested = [&](const Variable& x) {
      return lmp::sum(value_and_grad(f)(x).gradient * x);  // 2 w x^2: 4 w x
    };
    expect_near(values(value_and_grad(nested)(w).gradient), {4, 16});
  }
  EXPECT_EQ(live_bytes(), before);
  EXPECT_TRUE(is_grad_enabled());
  EXPECT_FALSE(w.has_grad());
}

TEST(ControlFlow, AccumulatingRebinds) {
  const auto f = [](const Variable& x) {
    Variable acc(lmp::zeros({}, DeviceType::CPU, DataType::Float64)), product = x;
    const Variable first = acc;
    for (int i = 1; i <= 3; ++i) {
      acc += x * i;
      product *= x;
      acc -= 1;
    }
    EXPECT_EQ(first.item(), 0);  // the handle was rebound, nothing was written
    return acc + product;        // 6 x - 3 + x^4
  };
  for (const Way& way : kWays) {
    SCOPED_TRACE(way.name);
    EXPECT_EQ(way.derivative(f, scalar(1))(scalar(2)).item(), 38);
  }
  expect_near(values(vmap(f)(vector_of({1, 2, 3}))), {4, 25, 96});
}

TEST(ControlFlow, WritingInsideIsAnError) {
  const Variable xs = vector_of({1, 2});
  const auto refused = [&](const Function& write) {
    for (const auto& run : {std::function<void()>([&] { jvp(write, xs, xs); }),
                            std::function<void()>([&] { vmap(write)(xs); })}) {
      const std::string message = message_of<AutogradError>(run);
      EXPECT_TRUE(contains(message, "cannot be written in place")) << message;
      EXPECT_TRUE(contains(message, "compute a new one")) << message;
    }
    expect_near(values(xs), {1, 2});
  };
  refused([](const Variable& x) { return x.fill(3), x; });
  refused([](const Variable& x) { return x.copy(lmp::ones(x.shape())), x; });
  refused([](const Variable& x) { return x.data() += 1, x; });
  refused([](const Variable& x) { return x.data() *= x.data(), x; });
  refused([](const Variable& x) { return (x * 2).data().fill(1), x; });
}

TEST(ControlFlow, LeavesAreNotRebound) {
  Variable w = leaf({1, 2});
  const auto add = [&](const Variable& x) {
    w += x;
    return w;
  };
  const Variable x = vector_of({1, 2});
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { jvp(add, x, x); }), "in place on a leaf"));
  EXPECT_TRUE(contains(message_of<AutogradError>([&] {
                         vmap(add)(lmp::ones({3, 2}));
                       }),
                       "in place on a leaf"));
  EXPECT_TRUE(w.is_leaf() && w.requires_grad());
  expect_near(values(w), {1, 2});
}

TEST(ControlFlow, BackwardInsideSaysThatItIsInside) {
  const Variable w = leaf({1, 2}), x = vector_of({1, 2});
  const auto f = [&](const Variable& at) {
    const Variable loss = lmp::sum(w * at);
    loss.backward();
    return loss;
  };
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { jvp(f, x, x); }), "inside jvp or vmap"));
}

TEST(ControlFlow, TangentsWrittenBeforeTheyAreReadAreAnError) {
  const Function cube = [](const Variable& x) { return x * x * x; };
  const auto written_in = [&](const auto& run) {
    const Variable t = vector_of({1, 0.5});
    const std::string message = message_of<AutogradError>([&] {
      run(vector_of({1, 2}), t, [&] { t.fill(100); });
    });
    EXPECT_TRUE(contains(message, "changed in place")) << message;
  };
  written_in([&](const Variable& x, const Variable& t, const auto& write) {
    jvp(
        [&](const Variable& at) {
          const auto pullback = vjp(cube, at);
          write();
          return pullback(lmp::ones({2}));
        },
        x, t);
  });
  written_in([&](const Variable& x, const Variable& t, const auto& write) {
    vmap([&](const Variable& row) {
      return jvp(
                 [&](const Variable& at) {
                   const auto pullback = vjp(cube, at);
                   write();
                   return pullback(lmp::ones({2}));
                 },
                 row, t)
          .tangent;
    })(expand_dims(x, 0));
  });
}

// Structs are taken apart where they say how, and are refused by the compiler where they do not.
struct Layer {
  Variable weight, bias;
  template <class F>
  void each_variable(F&& f) {
    f(weight);
    f(bias);
  }
};
struct Opaque {
  Variable weight;
};
static_assert(autograd::detail::holds_variables<Layer>() &&
              autograd::detail::holds_variables<std::vector<Layer>>());
static_assert(autograd::detail::holds_variables<std::map<std::string, Variable>>());
static_assert(autograd::detail::holds_variables<std::tuple<int, Variable>>());
static_assert(!autograd::detail::holds_variables<Opaque>() &&
              !autograd::detail::holds_variables<double>() &&
              !autograd::detail::holds_variables<std::vector<int>>() &&
              !autograd::detail::holds_variables<std::string>() &&
              !autograd::detail::holds_variables<std::tuple<>>() &&
              !autograd::detail::holds_variables<std::map<std::string, Tensor>>());

TEST(Transforms, StructsThatListTheirVariables) {
  const auto f = [](const Layer& l) { return lmp::sum(l.weight * l.weight * l.bias); };
  const Layer at{vector_of({1, 2}), vector_of({3, 4})};
  const Layer gradient = value_and_grad(f)(at).gradient;
  expect_near(values(gradient.weight), {6, 16});
  expect_near(values(gradient.bias), {1, 4});
  const Layer along{vector_of({1, 0}), vector_of({0, 1})};
  EXPECT_EQ(jvp(f, at, along).tangent.item(), 10);
  const std::map<std::string, Variable> named{{"w", vector_of({1, 2})}};
  expect_near(
      values(value_and_grad([](const auto& p) { return lmp::sum(p.at("w") * p.at("w")); })(named)
                 .gradient.at("w")),
      {2, 4});
}

TEST(ControlFlow, WhatOutlivesJvpIsItsValue) {
  Variable dual, recorded;
  const Variable x = vector_of({1, 2});
  jvp(
      [&](const Variable& v) {
        dual = v * 2;
        recorded = Variable(v.data(), true) * v;
        return v;
      },
      x, x);
  expect_near(values(dual), {2, 4});
  expect_near(values(dual + 1), {3, 5});
  EXPECT_FALSE((dual * dual).requires_grad());
  const Variable w = leaf({5, 6});
  lmp::sum(dual * w).backward();
  expect_near(values(w.grad()), {2, 4});
  // In another jvp it is a constant.
  expect_near(values(jvp([&](const Variable& v) { return v * dual; }, x, x).tangent), {2, 8});
  expect_near(values(vmap([&](const Variable& v) { return v * dual; })(x)), {2, 4, 4, 8});
  expect_near(
      values(value_and_grad([&](const Variable& v) { return lmp::sum(v * dual); })(x).gradient),
      {2, 4});
  Variable changed = dual.detach();
  changed += 1;
  expect_near(values(changed), {3, 5});
}

TEST(ControlFlow, AnotherThreadSeesTheValue) {
  const Variable x = vector_of({1, 2});
  const auto f = [](const Variable& v) {
    Variable product;
    std::thread([&] { product = v * v; }).join();
    EXPECT_EQ(values(product), (Values{1, 4}));
    return product + v;
  };
  const auto [value, tangent] = jvp(f, x, vector_of({1, 1}));
  expect_near(values(value), {2, 6});
  expect_near(values(tangent), {1, 1});  // of what this thread computed
  vmap([](const Variable& v) {
    std::thread([&] {
      EXPECT_TRUE(contains(message_of<AutogradError>([&] { v + 1; }), "under vmap"));
    }).join();
    return v;
  })(x);
}

struct Stop : std::runtime_error {
  Stop() : std::runtime_error("stop") {}
};

TEST(ControlFlow, ExceptionsLeaveTheThreadAsItWas) {
  const Variable w = testing::scalar_leaf(1.5), xs = vector_of({1, 2, 3});
  const Variable one = scalar(1);
  (1 * w).backward();  // room for the gradient, which stays
  w.zero_grad();
  const std::int64_t before = live_bytes();
  for (const Way& outer : kWays)
    for (const Way& inner : kWays) {
      SCOPED_TRACE(std::string(outer.name) + " of " + inner.name);
      for (const bool library : {false, true}) {
        const Function f = outer.derivative(inner.derivative(
                                                [&](const Variable& x) -> Variable {
                                                  const Variable y = lmp::sin(w * x) * x;
                                                  if (!library) throw Stop();
                                                  return lmp::matmul(y, y);
                                                },
                                                one),
                                            one);
        if (library)
          EXPECT_THROW(vmap(f)(xs), Error);
        else
          EXPECT_THROW(vmap(f)(xs), Stop);
        EXPECT_TRUE(is_grad_enabled());
      }
      {
        // As if nothing had been: values can be read and written, results are recorded at level 0.
        Variable y = w * w;
        EXPECT_EQ(y.item(), 2.25);
        y.backward();
        EXPECT_EQ(w.grad().item(), 3);
        w.zero_grad();
        EXPECT_FALSE((xs * xs).requires_grad());
        xs.data() += 0;
        const auto both = value_and_grad([](const Variable& x) { return x * x; })(scalar(4));
        EXPECT_EQ(both.gradient.item(), 8);
        EXPECT_FALSE(both.value.requires_grad());
      }
      EXPECT_EQ(live_bytes(), before);
    }
}

// ---- What is left behind ----

TEST(Graphs, NoneWhereNothingOutsideRequiresOne) {
  const Variable x = vector_of({1, 2});
  const Variable w = leaf({3, 4});
  const auto results = [](const auto& f, const Variable& at) {
    const auto both = value_and_grad(f)(at);
    const auto pullback = vjp(f, at);
    const auto moved = jvp(f, at, Variable(at.data()));
    const auto many = [&](const Variable& v) { return lmp::outer(f(v) * v, v); };
    return std::vector<Variable>{both.value,
                                 both.gradient,
                                 pullback.value,
                                 pullback(scalar(1)),
                                 moved.value,
                                 moved.tangent,
                                 jacobian(f)(at),
                                 jacobian(many)(at),
                                 hessian(f)(at),
                                 hvp(f, at, Variable(at.data())),
                                 vmap(value_and_grad(f))(lmp::stack({at, at})).gradient};
  };
  const auto plain = [](const Variable& v) { return lmp::sum(v * v * v); };
  const auto weighed = [&](const Variable& v) { return lmp::sum(v * v * v * w); };
  for (const Variable& v : results(plain, x)) EXPECT_FALSE(v.requires_grad());
  int k = 0;
  for (const Variable& v : results(weighed, x)) {
    SCOPED_TRACE(k++);
    ASSERT_TRUE(v.requires_grad());
    w.zero_grad();
    lmp::sum(v).backward({.retain_graph = true});  // they share graphs
    // Each is linear in w.
    EXPECT_NEAR(lmp::sum(w.grad() * w.data()).item(), lmp::sum(v).item(), 1e-12);
  }
  // The degree of each in its argument, by Euler: <x, grad> = degree * value.
  const int degrees[] = {3, 2, 3, 2, 3, 2, 2, 4, 1, 1, 2};
  const Variable at = leaf({1, 2});
  k = 0;
  for (const Variable& v : results(plain, at)) {
    SCOPED_TRACE(k);
    ASSERT_TRUE(v.requires_grad());
    at.zero_grad();
    lmp::sum(v).backward({.retain_graph = true});
    // jvp and hvp were given a direction that does not move with the argument.
    EXPECT_NEAR(lmp::sum(at.grad() * at.data()).item(), degrees[k] * lmp::sum(v).item(), 1e-11);
    ++k;
  }
}

TEST(Graphs, RepeatedCallsKeepNoMemory) {
  const Variable w = leaf({3, 4}), x = vector_of({1, 2}), t = vector_of({0.5, 1});
  const auto f = [&](const Variable& v) { return lmp::sum(lmp::sin(v * w) * v); };
  const auto round = [&] {
    value_and_grad(f)(x);
    vjp(f, x)(scalar(1));
    jvp(f, x, t);
    jacobian(f)(x);
    hessian(f)(x);
    hvp(f, x, t);
    vmap(value_and_grad(f))(lmp::stack({x, t}));
    vmap(hessian(f))(lmp::stack({x, t}));
    lmp::sum(hessian(f)(w)).backward();
    w.zero_grad();
  };
  round();
  const std::int64_t before = live_bytes();
  for (int i = 0; i < 50; ++i) round();
  EXPECT_EQ(live_bytes(), before);
}

TEST(Graphs, PullbackOutlivesWhatItWasMadeOf) {
  const std::int64_t before = live_bytes();
  {
    const auto pullback = [] {
      const Variable x = vector_of({1, 2});
      return vjp([](const Variable& v) { return lmp::exp(v) * v; }, x);
    }();
    for (int i = 0; i < 3; ++i)
      expect_near(values(pullback(vector_of({1, 1}))), {2 * std::exp(1.0), 3 * std::exp(2.0)});
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST(Graphs, ManyThreadsOverSharedLeaves) {
  const Variable w = leaf({0.5, -1.5});
  const auto f = [&](const Variable& x) { return lmp::sum(lmp::sin(w * x)); };
  const Variable x = vector_of({1, 2}), batch = vector_of({1, 2, 3, 4, 5, 6}, {3, 2});
  const Values gradient = values(value_and_grad(f)(x).gradient), second = values(hessian(f)(x)),
               rows = values(vmap(value_and_grad(f))(batch).gradient);
  w.zero_grad();
  lmp::sum(value_and_grad(f)(x).gradient).backward();
  const Values by_w = values(w.grad());
  w.zero_grad();
  std::vector<int> wrong(8);
  std::vector<std::thread> threads;
  for (std::size_t k = 0; k < 8; ++k)
    threads.emplace_back([&, k] {
      for (int i = 0; i < 20; ++i) {
        const auto both = value_and_grad(f)(x);
        wrong[k] += values(both.gradient) != gradient;
        wrong[k] += values(hessian(f)(x)) != second;
        wrong[k] += values(vmap(value_and_grad(f))(batch).gradient) != rows;
        wrong[k] += values(jvp(f, x, vector_of({1, 0})).tangent)[0] != gradient[0];
        lmp::sum(both.gradient).backward();
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, std::vector<int>(8));
  for (std::size_t i = 0; i < 2; ++i) EXPECT_NEAR(values(w.grad())[i], 160 * by_w[i], 1e-9);
}

// ---- Types ----

TEST(Types, TangentsHaveTheTypeOfValues) {
  for (const DataType type :
       {DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64}) {
    SCOPED_TRACE(static_cast<int>(type));
    const Variable x(Tensor({0.5, 2.0}, {2}, DeviceType::CPU, type));
    const Variable wide = vector_of({1, 4});
    const auto f = [](const Variable& v) { return lmp::sum(v * v * v); };
    const auto [value, tangent] = jvp(f, x, wide);  // a tangent of another type is converted
    EXPECT_EQ(value.type(), type);
    EXPECT_EQ(tangent.type(), type);
    EXPECT_NEAR(tangent.item(), 3 * 0.25 + 4 * 3 * 4, 0.26);
    const auto mixed = [&](const Variable& v) { return v * wide; };
    const auto up = jvp(mixed, x, x);
    EXPECT_EQ(up.value.type(), DataType::Float64);
    EXPECT_EQ(up.tangent.type(), DataType::Float64);
    expect_near(values(up.tangent), {0.5, 8});
    const auto down = jvp([&](const Variable& v) { return (v * wide).astype(type); }, x, x);
    EXPECT_EQ(down.tangent.type(), type);
    const auto both = value_and_grad(f)(x);
    EXPECT_EQ(both.gradient.type(), type);
    EXPECT_EQ(
        value_and_grad([&](const Variable& v) { return lmp::sum(mixed(v)); })(x).gradient.type(),
        type);
    EXPECT_EQ(vjp(mixed, x)(wide).type(), type);
    EXPECT_EQ(hvp(f, x, wide).type(), type);
    EXPECT_EQ(hessian(f)(x).type(), type);
    expect_near(values(hessian(f)(x)), {3, 0, 0, 12}, 0.01);
    EXPECT_EQ(vmap([](const Variable& v) { return v * 2; })(x).type(), type);
    EXPECT_EQ(vmap(value_and_grad([](const Variable& v) { return v * v; }))(x).gradient.type(),
              type);
    // Every direction of a mixed product, where the other side moves.
    const auto other = jvp([&](const Variable& v) { return x * v + x; }, wide, wide);
    EXPECT_EQ(other.tangent.type(), DataType::Float64);
    expect_near(values(other.tangent), {0.5, 8});
    const auto pair = jvp([](const auto& p) { return lmp::where(p.first > 1, p.first, p.second); },
                          std::pair(x, wide), std::pair(x, wide));
    EXPECT_EQ(pair.tangent.type(), DataType::Float64);
    expect_near(values(pair.tangent), {1, 2});
  }
}

TEST(Types, IntegersHaveNoDerivative) {
  const auto f = [](const Variable& v) { return lmp::sum(v); };
  const auto in_list = [](const std::vector<Variable>& v) { return lmp::sum(v[0]); };
  for (const DataType type : {DataType::Int64, DataType::Int32, DataType::Bool}) {
    const Variable n(Tensor({1, 0}, {2}).astype(type));
    const Variable t = vector_of({1, 1});
    const auto refused = [&](const char* name, const std::function<void()>& call) {
      const std::string message = message_of<TypeError>(call);
      EXPECT_TRUE(message.starts_with(std::string(name) + ": the argument is")) << message;
      EXPECT_TRUE(contains(message, "astype(Float32)")) << message;
    };
    refused("jvp", [&] { jvp(f, n, t); });
    refused("vjp", [&] { vjp(f, n); });
    refused("value_and_grad", [&] { value_and_grad(f)(n); });
    refused("jacobian", [&] { jacobian(f)(n); });
    refused("hessian", [&] { hessian(f)(n); });
    refused("hvp", [&] { hvp(f, n, t); });
    refused("value_and_grad", [&] { value_and_grad(in_list)(std::vector<Variable>{t, n}); });
  }
  // As further arguments and as values beside others they are fine.
  const Variable x = vector_of({3, 1, 2});
  const auto [value, tangent] = jvp([](const Variable& v) { return lmp::sort(v); }, x, x * 10);
  expect_near(values(value.first), {1, 2, 3});
  expect_near(values(tangent.first), {10, 20, 30});
  EXPECT_EQ(tangent.second.type(), DataType::Int64);
  expect_near(values(tangent.second), {0, 0, 0});
  EXPECT_EQ(jvp([](const Variable& v) { return lmp::argmax(v); }, x, x).tangent.item(), 0);
  EXPECT_EQ(value_and_grad([](const Variable& v, const Variable& at) {
              return v[at.data()].sum();
            })(x, Tensor({1, 1}, {2}))
                .gradient.to_vector<double>(),
            (Values{0, 2, 0}));
}

// ---- Errors ----

TEST(TransformErrors, SayWhatWasGivenAndWhatToDo) {
  const Variable x = vector_of({1, 2, 3}), w = leaf({1, 2, 3});
  const auto twice = [](const Variable& v) { return v * 2; };
  const auto total_of = [](const Variable& v) { return lmp::sum(v * v); };
  const auto says = [](const std::string& message, const std::vector<std::string>& parts) {
    for (const std::string& part : parts)
      EXPECT_TRUE(contains(message, part))
          << "\"" << message << "\" does not say \"" << part << "\"";
  };
  const std::vector<std::string> single = {"returned shape (3)", "single element", "sum()"};
  const auto single_of = [&](const std::string& name) {
    std::vector<std::string> parts = single;
    parts.push_back(name + ": ");
    return parts;
  };
  says(message_of<ShapeError>([&] { value_and_grad(twice)(x); }), single_of("value_and_grad"));
  says(message_of<ShapeError>([&] { hessian(twice)(x); }), single_of("hessian"));
  says(message_of<ShapeError>([&] { hvp(twice, x, x); }), single_of("hvp"));
  says(message_of<ShapeError>([&] { vjp(twice, x)(lmp::ones({2})); }),
       {"vjp: ", "shape (2)", "shape (3)", "have to be the same"});
  says(message_of<ShapeError>([&] { vjp([](const Variable&) { return vector_of({1}); }, x)(x); }),
       {"vjp: ", "shape (3)", "shape (1)"});
  says(message_of<ShapeError>([&] {
         jvp(twice, x, lmp::ones({3, 1}));
       }),
       {"jvp: ", "tangent of shape (3, 1)", "argument of shape (3)", "have to be the same"});
  says(message_of<ShapeError>([&] { hvp(total_of, x, lmp::ones({2})); }),
       {"hvp: ", "tangent of shape (2)", "argument of shape (3)"});
  says(message_of<ValueError>([&] {
         jvp([](const std::vector<Variable>& v) { return v[0]; }, std::vector<Variable>{x, x},
             std::vector<Variable>{x});
       }),
       {"jvp: ", "1 tangents for 2", "give one for each"});
  says(message_of<TypeError>(
           [&] { jacobian([](const Variable& v) { return v.astype(DataType::Int64); })(x); }),
       {"jacobian: ", "the function's value is Int64", "astype(Float32)"});
  says(message_of<TypeError>(
           [&] { value_and_grad([](const Variable& v) { return lmp::argmax(v); })(x); }),
       {"value_and_grad: ", "the function's value is Int64"});
  const auto nothing = [](const Variable&) { return Variable(); };
  for (const auto& [name, call] : std::vector<std::pair<std::string, std::function<void()>>>{
           {"value_and_grad", [&] { value_and_grad(nothing)(x); }},
           {"value_and_grad", [&] { value_and_grad(total_of)(Variable()); }},
           {"jvp", [&] { jvp(nothing, x, x); }},
           {"jvp", [&] { jvp(twice, Variable(), x); }},
           {"jvp", [&] { jvp(twice, x, Variable()); }},
           {"vjp", [&] { vjp(twice, Variable()); }},
           {"vjp", [&] { vjp(twice, x)(Variable()); }},
           {"vjp", [&] { vjp(nothing, x)(x); }},
           {"jacobian", [&] { jacobian(nothing)(x); }},
           {"jacobian", [&] { jacobian(twice)(Variable()); }},
           {"hessian", [&] { hessian(nothing)(x); }},
           {"hessian", [&] { hessian(total_of)(Variable()); }}})
    says(message_of<Error>(call), {name + ": undefined tensor"});
  {
    const InferenceModeGuard guard;
    for (const auto& [name, call] : std::vector<std::pair<std::string, std::function<void()>>>{
             {"value_and_grad", [&] { value_and_grad(total_of)(x); }},
             {"vjp", [&] { vjp(twice, x); }},
             {"jacobian", [&] { jacobian(twice)(x); }},
             {"hessian", [&] { hessian(total_of)(x); }},
             {"hvp", [&] { hvp(total_of, x, x); }}})
      says(message_of<AutogradError>(call),
           {name + ": not inside an InferenceModeGuard", "end it"});
    expect_near(values(jvp(twice, x, x).tangent), {2, 4, 6});
    expect_near(values(vmap(twice)(x)), {2, 4, 6});
  }
  says(message_of<AutogradError>([&] {
         vmap([&](const Variable& v) { return lmp::grad({lmp::sum(w * v)}, {w})[0]; })(x);
       }),
       {"grad: output 0", "outside this jvp or vmap", "value_and_grad"});
  says(message_of<AutogradError>([&] {
         jvp(
             [&](const Variable& v) {
               Variable(v.data(), true).sum().backward();
               return v;
             },
             x, x);
       }),
       {"backward: inside jvp or vmap", "use grad or value_and_grad"});
}

}  // namespace
}  // namespace lmp
