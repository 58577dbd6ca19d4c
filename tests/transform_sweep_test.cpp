// Forward mode and vmap of every differentiable op: tangents against central differences and
// against the gradient, second derivatives by every nesting, lanes against a loop.

#include <gtest/gtest.h>

#include <cmath>

#include "gradient_cases.hpp"

namespace lmp {
namespace {

using testing::Function;
using testing::Inputs;
using testing::kLayouts;
using testing::Layout;
using testing::uniform;

/// An op at inputs drawn from where it is smooth.
struct Case {
  std::string name;
  Function call;
  std::vector<Shape> shapes;
  std::vector<table::Domain> domains;
  std::vector<bool> conditions;  // inputs without a gradient

  Inputs draw(Generator& generator) const {
    Inputs in;
    for (std::size_t i = 0; i < shapes.size(); ++i)
      in.emplace_back(uniform(generator, shapes[i], domains[i].low, domains[i].high));
    return in;
  }
  Inputs directions(Generator& generator) const {
    Inputs t;
    for (const Shape& shape : shapes) t.emplace_back(uniform(generator, shape, -1, 1));
    return t;
  }
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const testing::PointwiseCase& p : testing::differentiable_cases()) {
    const auto shaped = [&](const std::string& name, const std::vector<Shape>& shapes) {
      Case c{p.name + name, p.call, {}, {}, {}};
      for (int i = 0; i < p.op().arity; ++i) {
        c.shapes.push_back(shapes[static_cast<std::size_t>(i)]);
        c.domains.push_back(p.op().info.domains[i]);
        c.conditions.push_back(p.op().info.condition >> i & 1);
      }
      cases.push_back(c);
    };
    shaped("", {{2, 3}, {2, 3}, {2, 3}});
    if (p.op().arity > 1) {
      shaped(" broadcast", {{2, 1}, {3}, {1, 3}});
      shaped(" of ranks", {{}, {2, 3}, {3}});
    }
    if (p.right) {
      const double number = p.op().info.domains[1].low * 0.3 + p.op().info.domains[1].high * 0.7;
      cases.push_back({p.name + " number on the right",
                       [p, number](const Inputs& in) { return p.right(in[0], number); },
                       {{4}},
                       {p.op().info.domains[0]},
                       {false}});
      const double left = p.op().info.domains[0].low * 0.3 + p.op().info.domains[0].high * 0.7;
      cases.push_back({p.name + " number on the left",
                       [p, left](const Inputs& in) { return p.left(in[0], left); },
                       {{4}},
                       {p.op().info.domains[1]},
                       {false}});
    }
  }
  for (const testing::StructuredCase& s : testing::structured_cases())
    cases.push_back({s.function, s.call, s.shapes,
                     std::vector<table::Domain>(s.shapes.size(), {s.low, s.high}),
                     std::vector<bool>(s.shapes.size(), false)});
  return cases;
}

Inputs moved(const Inputs& x, const Inputs& t, double by) {
  Inputs out;
  for (std::size_t i = 0; i < x.size(); ++i) out.emplace_back(x[i].data() + by * t[i].data());
  return out;
}

void expect_close(const Variable& found, const Variable& expected, double relative,
                  const std::string& what) {
  ASSERT_EQ(found.shape(), expected.shape()) << what;
  EXPECT_TRUE(allclose(found, expected, relative, relative)) << what << '\n'
                                                             << found << '\n'
                                                             << expected;
}

/// The gradient of sum(weights * f) as a list.
auto weighted_gradient(const Function& f, const Variable& weights) {
  return [f, weights](const Inputs& x) {
    return value_and_grad([&](const Inputs& in) { return sum(f(in) * weights); })(x).gradient;
  };
}

void check_forward(const Case& c, const Function& f, const Inputs& x, const Inputs& t) {
  constexpr double kStep = 1e-6;
  const auto tangent_at = [&](const Inputs& at) { return jvp(f, at, t).tangent; };
  const auto [value, tangent] = jvp(f, x, t);
  expect_close(value, f(x), 0, c.name + ": value");
  EXPECT_FALSE(value.requires_grad() || tangent.requires_grad()) << c.name;
  EXPECT_EQ(tangent.type(), value.type()) << c.name;
  expect_close(tangent,
               (f(moved(x, t, kStep)).data() - f(moved(x, t, -kStep)).data()) / (2 * kStep), 2e-7,
               c.name + ": tangent against differences");

  // <g, J t> = <J^T g, t>
  const Variable weights(uniform(
      *[] {
        static Generator generator(3);
        return &generator;
      }(),
      value.shape(), 0.5, 1.5));
  const auto gradient = weighted_gradient(f, weights);
  const Inputs g = gradient(x);
  double forward = sum(weights * tangent).item(), reverse = 0;
  for (std::size_t i = 0; i < x.size(); ++i) reverse += sum(g[i] * t[i]).item();
  EXPECT_NEAR(forward, reverse, 1e-11 * (1 + std::abs(reverse))) << c.name;

  // Second derivatives along t: forward over forward, forward over reverse, reverse over forward.
  const Variable curved = jvp(tangent_at, x, t).tangent;
  expect_close(curved,
               (tangent_at(moved(x, t, kStep)).data() - tangent_at(moved(x, t, -kStep)).data()) /
                   (2 * kStep),
               2e-6, c.name + ": forward over forward");
  const Inputs over = jvp(gradient, x, t).tangent;
  double along = 0;
  for (std::size_t i = 0; i < x.size(); ++i) along += sum(over[i] * t[i]).item();
  const double expected = sum(weights * curved).item();
  EXPECT_NEAR(along, expected, 1e-10 * (1 + std::abs(expected)))
      << c.name << ": forward over reverse";
  const Inputs under =
      value_and_grad([&](const Inputs& in) { return sum(jvp(f, in, t).tangent * weights); })(x)
          .gradient;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (!c.conditions[i]) expect_close(under[i], over[i], 1e-10, c.name + ": reverse over forward");
}

TEST(TransformSweep, ForwardMode) {
  Generator generator(11);
  for (const Case& c : all_cases()) {
    SCOPED_TRACE(c.name);
    try {
      check_forward(c, c.call, c.draw(generator), c.directions(generator));
    } catch (const Error& error) {
      ADD_FAILURE() << c.name << ": " << error.what();
    }
  }
}

TEST(TransformSweep, ForwardModeThroughViews) {
  Generator generator(12);
  for (const Case& c : all_cases()) {
    SCOPED_TRACE(c.name);
    for (const Layout& layout : kLayouts) {
      Case viewed = c;
      for (Shape& shape : viewed.shapes) shape = layout.base(shape);
      viewed.name += std::string(" ") + layout.name;
      const Function f = [&](const Inputs& in) {
        Inputs x;
        for (std::size_t i = 0; i < in.size(); ++i) x.push_back(layout.view(in[i], c.shapes[i]));
        return c.call(x);
      };
      try {
        check_forward(viewed, f, viewed.draw(generator), viewed.directions(generator));
      } catch (const Error& error) {
        ADD_FAILURE() << viewed.name << ": " << error.what();
      }
    }
  }
}

/// The inputs of one lane: those that `mapped` says are taken from `stacks`, the others as they
/// are.
Inputs lane(const Inputs& x, const std::vector<Inputs>& lanes, std::size_t number,
            unsigned mapped) {
  Inputs in;
  for (std::size_t i = 0; i < x.size(); ++i)
    in.push_back(mapped >> i & 1 ? lanes[number][i] : x[i]);
  return in;
}

/// f under vmap with the inputs of `mapped` along `axis`, as a function of those alone.
template <class F>
auto under_vmap(const F& f, const Inputs& x, const std::vector<Inputs>& lanes, unsigned mapped,
                bool last) {
  Inputs stacks;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!(mapped >> i & 1)) continue;
    std::vector<Variable> parts;
    for (const Inputs& in : lanes) parts.push_back(in[i]);
    stacks.push_back(stack(parts, last ? -1 : 0));
  }
  const auto partial = [&](const Inputs& some) {
    Inputs all;
    std::size_t next = 0;
    for (std::size_t i = 0; i < x.size(); ++i) all.push_back(mapped >> i & 1 ? some[next++] : x[i]);
    return f(all);
  };
  return vmap(partial, last ? -1 : 0)(stacks);
}

TEST(TransformSweep, Lanes) {
  constexpr std::size_t kLanes = 3;
  Generator generator(13);
  for (const Case& c : all_cases()) {
    SCOPED_TRACE(c.name);
    const Inputs x = c.draw(generator), t = c.directions(generator);
    std::vector<Inputs> lanes;
    for (std::size_t n = 0; n < kLanes; ++n) lanes.push_back(c.draw(generator));
    const Shape shape = c.call(x).shape();
    const Variable weights(uniform(generator, shape, 0.5, 1.5));
    const auto gradient = weighted_gradient(c.call, weights);
    const auto tangent = [&](const Inputs& at) { return jvp(c.call, at, t).tangent; };
    for (unsigned mapped = 1; mapped < 1u << x.size(); ++mapped) {
      for (const bool last : {false, true}) {
        const std::string what =
            c.name + " mapped " + std::to_string(mapped) + (last ? " last axis" : "");
        try {
          const Variable found = under_vmap(c.call, x, lanes, mapped, last);
          ASSERT_EQ(found.size(0), kLanes) << what;
          for (std::size_t n = 0; n < kLanes; ++n)
            expect_close(found[static_cast<std::int64_t>(n)], c.call(lane(x, lanes, n, mapped)),
                         1e-13, what + ": value");
          const Inputs gradients = under_vmap(gradient, x, lanes, mapped, last);
          const Variable tangents = under_vmap(tangent, x, lanes, mapped, last);
          for (std::size_t n = 0; n < kLanes; ++n) {
            const Inputs at = lane(x, lanes, n, mapped);
            const Inputs expected = gradient(at);
            for (std::size_t i = 0; i < x.size(); ++i)
              expect_close(gradients[i][static_cast<std::int64_t>(n)], expected[i], 1e-12,
                           what + ": gradient");
            expect_close(tangents[static_cast<std::int64_t>(n)], tangent(at), 1e-12,
                         what + ": tangent");
          }
        } catch (const Error& error) {
          ADD_FAILURE() << what << ": " << error.what();
        }
      }
    }
  }
}

TEST(TransformSweep, LanesOfLanes) {
  Generator generator(14);
  for (const Case& c : all_cases()) {
    SCOPED_TRACE(c.name);
    std::vector<std::vector<Inputs>> grid(2);
    for (auto& row : grid)
      for (int n = 0; n < 3; ++n) row.push_back(c.draw(generator));
    Inputs stacks;
    for (std::size_t i = 0; i < c.shapes.size(); ++i) {
      std::vector<Variable> rows;
      for (const auto& row : grid) {
        std::vector<Variable> parts;
        for (const Inputs& in : row) parts.push_back(in[i]);
        rows.push_back(stack(parts));
      }
      stacks.push_back(stack(rows));
    }
    try {
      const Variable found = vmap(vmap(c.call))(stacks);
      for (std::size_t r = 0; r < 2; ++r)
        for (std::size_t n = 0; n < 3; ++n)
          expect_close(found[static_cast<std::int64_t>(r)][static_cast<std::int64_t>(n)],
                       c.call(grid[r][n]), 1e-13, c.name);
    } catch (const Error& error) {
      ADD_FAILURE() << c.name << ": " << error.what();
    }
  }
}

}  // namespace
}  // namespace lmp
