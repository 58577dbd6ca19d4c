// Products on the GPU beside the CPU: shapes, storage orders, batches, types, strides.

#include "gpu_support.hpp"

namespace lmp::testing {
namespace {

class GpuMatmul : public GpuTest {};

TEST_F(GpuMatmul, Tf32WhereItIsAllowed) {
  if (rehearsing()) GTEST_SKIP() << "only on a GPU";
  Generator generator(13);
  const Tensor a = uniform(generator, {256, 512}).astype(DataType::Float32),
               b = uniform(generator, {512, 128}).astype(DataType::Float32);
  const Tensor exact = lmp::matmul(a, b), x = a.to(gpu()), y = b.to(gpu());
  EXPECT_TRUE(close(exact, lmp::matmul(x, y), Tolerance{1e-5, 1e-4}));
  cuda::set_float32_matmul_precision(cuda::MatmulPrecision::High);
  const Tensor rounded = lmp::matmul(x, y);
  cuda::set_float32_matmul_precision(cuda::MatmulPrecision::Highest);
  EXPECT_TRUE(close(exact, rounded, Tolerance{1e-2, 0.2}));
  EXPECT_TRUE(close(exact, lmp::matmul(x, y), Tolerance{1e-5, 1e-4}));
}

Tolerance of_products(DataType type) {
  switch (type) {
    case DataType::Float16:
      return {2e-3, 5e-3};
    case DataType::BFloat16:
      return {1.6e-2, 3e-2};
    case DataType::Float32:
      return {1e-5, 2e-5};
    default:
      return tolerance(type);
  }
}

Tensor draw(DataType type, const Shape& shape, std::uint64_t seed) {
  Generator generator(seed);
  const Tensor x = uniform(generator, shape, -1, 1);
  return is_integer(type) ? ((x + 1) * 4).astype(type) : x.astype(type);
}

void check(
    const std::string& what, const std::vector<Tensor>& in,
    const std::function<Tensor(const std::vector<Tensor>&)>& f = [](const std::vector<Tensor>& x) {
      return lmp::matmul(x[0], x[1]);
    }) {
  std::ostringstream name;
  name << what << ' ' << in[0].type() << in[0].shape() << ' ' << in[1].type() << in[1].shape();
  expect_alike(
      name.str(), [&](const std::vector<Tensor>& x) { return std::vector{f(x)}; }, in, of_products);
}

TEST_F(GpuMatmul, ShapesOrdersAndTypes) {
  struct Sizes {
    std::int64_t m, k, n;
  };
  const Sizes sizes[] = {{1, 1, 1},     {3, 5, 7},    {16, 16, 16}, {64, 64, 64},
                         {129, 65, 33}, {1, 300, 64}, {513, 1, 7},  {128, 784, 10},
                         {7, 511, 1},   {2, 0, 3},    {0, 4, 5},    {255, 257, 63}};
  for (DataType type : sweep::kTypes) {
    for (const auto& [m, k, n] : sizes) {
      for (int order = 0; order < 4; ++order) {
        const bool left = order & 1, right = order & 2;
        const Tensor a = left ? draw(type, {k, m}, 1) : draw(type, {m, k}, 1);
        const Tensor b = right ? draw(type, {n, k}, 2) : draw(type, {k, n}, 2);
        check("matmul", {a, b}, [=](const std::vector<Tensor>& x) {
          return lmp::matmul(left ? x[0].transpose() : x[0], right ? x[1].transpose() : x[1]);
        });
      }
      if (HasFailure()) return;
    }
  }
}

TEST_F(GpuMatmul, BatchesAndVectors) {
  const std::vector<std::pair<Shape, Shape>> shapes = {{{4, 5, 6}, {4, 6, 7}},
                                                       {{4, 5, 6}, {6, 7}},
                                                       {{5, 6}, {4, 6, 7}},
                                                       {{2, 1, 5, 6}, {3, 6, 7}},
                                                       {{1, 5, 6}, {4, 6, 7}},
                                                       {{6}, {6}},
                                                       {{6}, {6, 7}},
                                                       {{5, 6}, {6}},
                                                       {{6}, {4, 6, 7}},
                                                       {{0, 5, 6}, {0, 6, 7}},
                                                       {{12, 64, 32}, {12, 32, 64}},
                                                       {{3, 4}, {5, 6}},
                                                       {{2, 3, 1, 4}, {2, 3, 4, 1}},
                                                       {{70, 33, 5}, {70, 5, 9}}};
  for (DataType type : sweep::kTypes)
    for (const auto& [a, b] : shapes) check("matmul", {draw(type, a, 3), draw(type, b, 4)});
}

TEST_F(GpuMatmul, Views) {
  sweep::Rng rng(31);
  for (DataType type : {DataType::Float32, DataType::Float64, DataType::Float16, DataType::BFloat16,
                        DataType::Int32}) {
    for (sweep::Layout left : sweep::kLayouts) {
      for (sweep::Layout right : sweep::kLayouts) {
        if (left > sweep::Layout::Offset || right > sweep::Layout::Offset) continue;
        const auto number = [&]() -> sweep::Wide {
          return is_integer(type) ? static_cast<sweep::Wide>(rng.integer(-5, 5))
                                  : sweep::round_to(type, rng.real(-1, 1));
        };
        check("matmul of views", {arrange(rng, left, type, {17, 40}, number),
                                  arrange(rng, right, type, {40, 24}, number)});
        check("matmul of views", {arrange(rng, left, type, {3, 9, 16}, number),
                                  arrange(rng, right, type, {3, 16, 8}, number)});
      }
    }
  }
}

TEST_F(GpuMatmul, MixedTypes) {
  for (DataType a : sweep::kTypes)
    for (DataType b : sweep::kTypes) check("mixed", {draw(a, {9, 16}, 5), draw(b, {16, 8}, 6)});
}

TEST_F(GpuMatmul, InfinitiesAndNan) {
  Tensor a = draw(DataType::Float32, {33, 40}, 7);
  a.select(0, 3).select(0, 5).fill(std::numeric_limits<double>::quiet_NaN());
  a.select(0, 4).select(0, 6).fill(std::numeric_limits<double>::infinity());
  check("NaN", {a, draw(DataType::Float32, {40, 8}, 8)});
}

TEST_F(GpuMatmul, Gradients) {
  for (DataType type :
       {DataType::Float32, DataType::Float64, DataType::Float16, DataType::BFloat16}) {
    for (const auto& [a, b] : std::vector<std::pair<Shape, Shape>>{{{65, 129}, {129, 33}},
                                                                   {{128, 64}, {64, 128}},
                                                                   {{4, 33, 17}, {17, 9}},
                                                                   {{5, 4, 6, 7}, {4, 7, 8}}}) {
      expect_alike(
          "gradients of products",
          [](const std::vector<Tensor>& x) {
            const Variable p(x[0].clone(), true), q(x[1].clone(), true);
            mean(matmul(p, q) * matmul(p, q)).backward();
            return std::vector{p.grad(), q.grad()};
          },
          {draw(type, a, 9), draw(type, b, 10)}, loose);
    }
  }
}

// The third use of a shape may choose another algorithm, which epilogues and sums into a gradient
// have to be right with too.
TEST_F(GpuMatmul, EveryUseOfFewColumns) {
  for (DataType type :
       {DataType::Float32, DataType::Float64, DataType::Float16, DataType::BFloat16})
    for (const auto& [m, k, n] : std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t>>{
             {128, 512, 10}, {1, 33, 2}, {7, 1, 16}, {513, 300, 1}, {300, 40, 17}}) {
      const std::vector<Tensor> in{draw(type, {m, k}, 13), draw(type, {n, k}, 14),
                                   draw(type, {n}, 15), draw(type, {m, n}, 16),
                                   draw(type, {m, k}, 17)};
      std::ostringstream what;
      what << "few columns " << type << ' ' << m << 'x' << k << 'x' << n;
      expect_alike(
          what.str(),
          [](const std::vector<Tensor>& x) {
            const Variable a(x[0]), weight(x[1]), bias(x[2]);
            std::vector<Tensor> out;
            for (int use = 0; use < 5; ++use) {
              const Variable u(x[3], true);  // of whose two gradients the second is added
              (matmul(u, weight) + matmul(u, weight * 0.5)).backward(x[4]);
              out.insert(out.end(),
                         {lmp::matmul(x[0], x[1].transpose()), linear(a, weight, bias).data(),
                          linear(a, weight, bias, Activation::Relu).data(), u.grad()});
            }
            return out;
          },
          in, of_products);
    }
}

TEST_F(GpuMatmul, RunToRunTheSameBits) {
  cuda::set_deterministic(false);
  for (DataType type : {DataType::Float32, DataType::BFloat16}) {
    const Tensor a = draw(type, {300, 517}, 11).to(gpu()), b = draw(type, {517, 259}, 12).to(gpu());
    const Tensor first = on_cpu(lmp::matmul(a, b));
    // The third use of a shape may choose another algorithm.
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(close(first, lmp::matmul(a, b), of_products(type)));
    const Tensor settled = on_cpu(lmp::matmul(a, b));
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(same(settled, lmp::matmul(a, b)));
    cuda::set_deterministic(true);
    const Tensor fixed = on_cpu(lmp::matmul(a, b));
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(same(fixed, lmp::matmul(a, b)));
  }
}

}  // namespace
}  // namespace lmp::testing
