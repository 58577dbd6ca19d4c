// What moves elements on the GPU, beside the CPU: copies and casts, joining, indexing, sorting, and
// the streams of random numbers.

#include <algorithm>

#include "gpu_support.hpp"

namespace lmp::testing {
namespace {

using sweep::arrange, sweep::Layout, sweep::Rng, sweep::Wide;
using Tensors = std::vector<Tensor>;

Tolerance none(DataType) { return {}; }

Tensor numbers(DataType type, const Shape& shape, std::uint64_t seed = 3) {
  Generator generator(seed);
  const Tensor x = uniform(generator, shape, -8, 8);
  return type == DataType::Bool ? x > 0 : (type == DataType::UInt8 ? x + 8 : x).astype(type);
}
/// -n .. n - 1, each value several times.
Tensor places(std::int64_t n, const Shape& shape, std::uint64_t seed = 5) {
  Generator generator(seed);
  return lmp::randint(generator, -n, n, shape);
}

class GpuSharedMoves : public GpuTest {};

TEST_F(GpuSharedMoves, CastsBetweenAllTypesAndLayouts) {
  Rng rng(41);
  for (DataType from : sweep::kTypes) {
    const Tensor edges =
        sweep::dense(from, {sweep::edges(from, false).size()}, sweep::edges(from, false));
    for (DataType to : sweep::kTypes) {
      std::ostringstream what;
      what << from << " to " << to;
      const auto cast = [&](const Tensors& x) { return Tensors{x[0].astype(to)}; };
      expect_alike(what.str(), cast, {edges}, none);
      for (Layout layout : sweep::kLayouts)
        for (int i = 0; i < rounds(4); ++i)
          expect_alike(what.str(), cast,
                       {arrange(rng, layout, from, random_shape(rng, layout, i * 3),
                                [&] { return draw_value(rng, from); })},
                       none);
      expect_alike(what.str(), cast, {numbers(from, {quick() ? 5001 : 100003})}, none);
    }
  }
}

TEST_F(GpuSharedMoves, CopiesOfViews) {
  for (DataType type : sweep::kTypes) {
    const Tensor x = numbers(type, {67, 130, 9});
    const auto contiguous = [&](const std::string& what, Tensor (*view)(const Tensor&)) {
      expect_alike(
          what,
          [&](const Tensors& in) {
            return Tensors{view(in[0]).contiguous(), view(in[0]).clone()};
          },
          {x}, none);
    };
    contiguous("transpose", [](const Tensor& t) { return t.transpose(); });
    contiguous("transpose 0 1", [](const Tensor& t) { return t.transpose(0, 1); });
    contiguous("permute", [](const Tensor& t) { return t.permute({2, 0, 1}); });
    contiguous("reversed", [](const Tensor& t) { return t.permute({2, 1, 0}); });
    contiguous("flip", [](const Tensor& t) { return t.flip({0, 2}); });
    contiguous("step", [](const Tensor& t) { return t.slice(1, 1, std::nullopt, 3); });
    contiguous("select", [](const Tensor& t) { return t.select(2, 4); });
    contiguous("narrow", [](const Tensor& t) { return t.narrow(2, 1, 5); });
    contiguous("diagonal", [](const Tensor& t) { return t.diagonal(-3); });
    contiguous("expand", [](const Tensor& t) { return t.select(0, 1).expand({3, 130, 9}); });
  }
}

TEST_F(GpuSharedMoves, MatrixTransposes) {
  for (DataType type : {DataType::Int8, DataType::BFloat16, DataType::Float32, DataType::Float64})
    for (const Shape& shape :
         {Shape{1, 500}, Shape{31, 33}, Shape{257, 129}, Shape{64, 1000}, Shape{132, 260}})
      expect_alike(
          "transpose", [](const Tensors& x) { return Tensors{x[0].transpose().contiguous()}; },
          {numbers(type, shape)}, none);
}

TEST_F(GpuSharedMoves, WritesIntoViews) {
  Rng rng(43);
  for (DataType type : sweep::kTypes) {
    for (DataType source : {type, DataType::Float32, DataType::Int64, DataType::BFloat16}) {
      for (Layout layout : sweep::kLayouts) {
        if (layout == Layout::Expanded) continue;
        for (int i = 0; i < rounds(6); ++i) {
          const Shape shape = random_shape(rng, layout, quick() ? 9 : i * 2 + 1);
          const Tensor to =
              arrange(rng, layout, type, shape, [&] { return draw_value(rng, type); });
          const Tensor from = arrange(rng, random_layout(rng), source, broadcastable(rng, shape),
                                      [&] { return draw_value(rng, source); });
          expect_alike(
              "copy", [](const Tensors& x) { return Tensors{memory_of(x[0].copy(x[1]))}; },
              {to, from}, none);
          // From the other device, and to it.
          const Tensor there = mirror(to), expected = to.clone();
          there.copy(from);
          expected.copy(from);
          EXPECT_TRUE(same(expected, there));
          const Tensor host = to.clone();
          host.copy(mirror(from));
          EXPECT_TRUE(same(host, there));
          expect_alike(
              "fill", [](const Tensors& x) { return Tensors{memory_of(x[0].fill(1))}; }, {to},
              none);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(GpuSharedMoves, JoinsAndRepeats) {
  for (DataType type : sweep::kTypes) {
    const Tensor a = numbers(type, {33, 5, 7}), b = numbers(type, {33, 2, 7}, 4);
    expect_alike(
        "joining",
        [](const Tensors& x) {
          return Tensors{lmp::cat({x[0], x[1], x[0]}, 1),
                         lmp::stack({x[0], x[0]}, -1),
                         lmp::repeat(x[1], {2, 1, 3}),
                         lmp::roll(x[0], -2, 2),
                         lmp::tril(x[0], -1),
                         lmp::triu(x[0], 1),
                         lmp::pad(x[0], {{1, 0}, {0, 2}, {3, 3}}, 1)};
        },
        {a, b}, none);
  }
  expect_alike(
      "mixed",
      [](const Tensors& x) {
        return Tensors{lmp::cat({x[0], x[1]})};
      },
      {numbers(DataType::Float16, {5, 3}), numbers(DataType::Int32, {4, 3})}, none);
}

TEST_F(GpuSharedMoves, Creation) {
  for (DataType type : sweep::kTypes) {
    if (type == DataType::Bool) continue;
    const auto each = [&](Device device) {
      return Tensors{lmp::zeros({3, 5}, device, type),
                     lmp::ones({7}, device, type),
                     lmp::full({2, 2}, 3, device, type),
                     lmp::arange(0, 50, 3, device, type),
                     lmp::linspace(0, 9, 31, device, type),
                     lmp::eye(5, 7, device, type),
                     lmp::zeros_like(lmp::ones({2}, device, type))};
    };
    const Tensors cpu = each(DeviceType::CPU), there = each(gpu());
    for (std::size_t i = 0; i < cpu.size(); ++i) EXPECT_TRUE(close(cpu[i], there[i])) << type << i;
  }
}

class GpuSharedIndexing : public GpuTest {
 protected:
  /// f beside the CPU, and twice on the GPU for the same bits.
  static void check(const std::string& what, const std::function<Tensors(const Tensors&)>& f,
                    const Tensors& in, std::function<Tolerance(DataType)> allowed = none) {
    expect_alike(what, f, in, allowed);
    Tensors there;
    for (const Tensor& x : in) there.push_back(mirror(x));
    const Outcome first = outcome([&] { return f(there); });
    const Outcome second = outcome([&] { return f(there); });
    for (std::size_t i = 0; i < first.values.size(); ++i)
      EXPECT_TRUE(same(on_cpu(first.values[i]), second.values[i])) << what << ", run to run";
  }
};

TEST_F(GpuSharedIndexing, Reads) {
  for (DataType type : sweep::kTypes) {
    const Tensor x = numbers(type, {130, 67, 3});
    for (int axis = 0; axis < 3; ++axis) {
      const auto n = static_cast<std::int64_t>(x.size(axis));
      check("index_select",
            [=](const Tensors& in) { return Tensors{lmp::index_select(in[0], axis, in[1])}; },
            {x, places(n, {501})});
      check("index_select",
            [=](const Tensors& in) {
              return Tensors{
                  lmp::index_select(lmp::permute(in[0], {2, 0, 1}), (axis + 1) % 3, in[1])};
            },
            {x, places(n, {7})});
      check("gather", [=](const Tensors& in) { return Tensors{lmp::gather(in[0], axis, in[1])}; },
            {x, places(n, {axis == 0 ? 40 : 130, axis == 1 ? 90 : 67, 3})});
    }
    check("take",
          [](const Tensors& in) {
            return Tensors{lmp::take(in[0], {in[1], in[2]})};
          },
          {x, places(130, {9, 1}), places(67, {5})});
    check("operator[]", [](const Tensors& in) { return Tensors{in[0][in[1]]}; },
          {x, places(130, {4, 6}).astype(DataType::Int32)});
    check("mask",
          [](const Tensors& in) {
            return Tensors{lmp::masked_select(in[0], in[1]), in[0][in[1]],
                           lmp::masked_fill(in[0], in[1], 1), lmp::nonzero(in[0])};
          },
          {x, numbers(DataType::Bool, {130, 67, 3}, 9)});
    check("embedding",
          [](const Tensors& in) { return Tensors{lmp::index_select(in[0], 0, in[1])}; },
          {numbers(type, {1000, 64}), places(1000, {300})});
    // Rows that are copied in pieces, some not of 16 bytes; panels of a gather with ends over.
    for (const std::int64_t width : {9000, 20001})
      check("wide rows",
            [](const Tensors& in) { return Tensors{lmp::index_select(in[0], 1, in[1])}; },
            {numbers(type, {2, 5, width}), places(5, {8})});
    check("gather in panels",
          [](const Tensors& in) { return Tensors{lmp::gather(in[0], 1, in[1])}; },
          {numbers(type, {3, 50, 150}), places(50, {2, 75, 131})});
  }
  check("gather down wide rows",
        [](const Tensors& in) { return Tensors{lmp::gather(in[0], 0, in[1])}; },
        {numbers(DataType::Float32, {7, 2048}), places(7, {11, 2048})});
  check("one_hot", [](const Tensors& in) { return Tensors{lmp::one_hot(in[0], 9)}; },
        {(places(4, {5, 3}) + 4)});
}

TEST_F(GpuSharedIndexing, WritesWithDuplicates) {
  for (DataType type : sweep::kTypes) {
    const Tensor x = numbers(type, {130, 67});
    for (int axis = 0; axis < 2; ++axis) {
      const Shape shape = axis == 0 ? Shape{901, 67} : Shape{130, 901};
      const Tensor at = places(axis == 0 ? 130 : 67, shape), source = numbers(type, shape, 6);
      check("scatter",
            [=](const Tensors& in) { return Tensors{lmp::scatter(in[0], axis, in[1], in[2])}; },
            {x, at, source});
      check(
          "scatter_add",
          [=](const Tensors& in) { return Tensors{lmp::scatter_add(in[0], axis, in[1], in[2])}; },
          {x, at, source}, loose);
    }
    if (!is_floating(type)) continue;
    // All to a few places: long runs of additions.
    for (const std::int64_t n : {2, 50, 5000}) {
      check(
          "gradient of index_select",
          [&](const Tensors& in) {
            const Variable v(in[0].clone(), true);
            autograd::index_select(v, 0, in[1]).backward(in[2]);
            return Tensors{v.grad()};
          },
          {numbers(type, {n, 33}), places(n, {3001}), numbers(type, {3001, 33}, 8)},
          [](DataType t) {
            Tolerance bound = loose(t);
            bound.absolute *= 100;
            return bound;
          });
    }
  }
}

TEST_F(GpuSharedIndexing, IntegersWithoutAnAnswerAreThrownAtTheNextRead) {
  for (const DataType type : {DataType::UInt8, DataType::Int16, DataType::Int32, DataType::Int64}) {
    const Tensor x = lmp::ones({1003}, gpu()).astype(type);
    // The last element of a tensor that no pack divides, and one of a view that goes by elements.
    for (const std::int64_t at : {1002, 500}) {
      Tensor zero = x.clone();
      zero.narrow(0, at, 1).fill(0);
      const std::string message =
          message_of<ValueError>([&] { lmp::remainder(x, zero).to_vector<int>(); });
      EXPECT_TRUE(contains(message, "division by zero")) << type << ": " << message;
      EXPECT_THROW(lmp::remainder(x.flip({0}), zero).to_vector<int>(), ValueError) << type;
      EXPECT_NO_THROW(lmp::remainder(zero, x).to_vector<int>()) << "it is thrown once";
      if (type == DataType::UInt8) continue;
      const std::string power = message_of<ValueError>(
          [&] { lmp::pow(x, zero - 1 + lmp::ne(zero, 0).astype(type)).to_vector<int>(); });
      EXPECT_TRUE(contains(power, "negative power")) << type << ": " << power;
    }
    // What lies behind the end is nobody's.
    Tensor behind = lmp::zeros({64}, gpu()).astype(type);
    Tensor front = behind.narrow(0, 0, 19);
    front.fill(3);
    EXPECT_NO_THROW(lmp::remainder(front, front).to_vector<int>()) << type;
  }
}

TEST_F(GpuSharedIndexing, IndicesOutOfRangeAreThrownAtTheNextRead) {
  const Tensor x = numbers(DataType::Float32, {5, 3}).to(gpu());
  const Tensor bad = Tensor({0, 7, 1}, {3}).astype(DataType::Int64).to(gpu());
  const Tensor wide = lmp::expand(lmp::expand_dims(bad, 1), {3, 3}).contiguous();
  const auto refused = [&](const char* op, const std::function<Tensor()>& f) {
    const std::string message = message_of<IndexError>([&] { f().to_vector<float>(); });
    EXPECT_TRUE(contains(message, op) && contains(message, "7")) << op << ": " << message;
    // Reported once; the GPU goes on.
    EXPECT_EQ((x + x).to_vector<float>().size(), 15u);
  };
  refused("index_select", [&] { return lmp::index_select(x, 0, bad); });
  refused("gather", [&] { return lmp::gather(x, 0, wide); });
  refused("scatter",
          [&] { return lmp::scatter(x, 0, wide, lmp::ones_like(wide).astype(DataType::Float32)); });
  refused("scatter_add", [&] {
    return lmp::scatter_add(x, 0, wide, lmp::ones_like(wide).astype(DataType::Float32));
  });
  refused("index_select", [&] { return lmp::embedding(Variable(x), bad).data(); });
  refused("cross_entropy",
          [&] { return lmp::cross_entropy(Variable(x.narrow(0, 0, 3)), bad).data(); });
}

class GpuSharedSort : public GpuTestWith<DataType> {};

TEST_P(GpuSharedSort, AxesAndTies) {
  const DataType type = GetParam();
  Rng rng(47);
  const Shape shapes[] = {{1},     {7, 5},    {3, 1025}, {2, 3, 70}, {900, 3},  {0, 4},
                          {40001}, {3, 9000}, {5, 300},  {3, 2049},  {4096, 3}, {3, 4097}};
  for (const Shape& shape : shapes) {
    if (quick() && shape.numel() > 5000) continue;
    for (const bool ties : {false, true}) {
      const Tensor x =
          arrange(rng, ties ? random_layout(rng) : Layout::Contiguous, type, shape, [&]() -> Wide {
            if (is_floating(type) && rng.chance(0.03))
              return std::numeric_limits<Wide>::quiet_NaN();
            if (is_floating(type) && rng.chance(0.03)) return rng.chance(0.5) ? -0.0L : 0.0L;
            if (ties && type != DataType::Bool)
              return static_cast<Wide>(rng.integer(type == DataType::UInt8 ? 0 : -2, 3));
            return draw_value(rng, type);
          });
      for (int axis = 0; axis < shape.ndim(); ++axis) {
        const std::int64_t k = std::min<std::int64_t>(3, x.shape().dim(axis));
        std::ostringstream what;
        what << "sort " << type << shape << " axis " << axis << (ties ? " ties" : "");
        expect_alike(
            what.str(),
            [&](const Tensors& in) {
              Tensors out{lmp::argsort(in[0], axis), lmp::argsort(in[0], axis, true)};
              for (const bool descending : {false, true}) {
                const auto [values, at] = lmp::sort(in[0], axis, descending);
                out.insert(out.end(), {values, at});
              }
              const auto [values, at] = lmp::topk(in[0], k, axis);
              out.insert(out.end(), {values, at});
              return out;
            },
            {x}, none);
      }
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GpuSharedSort, ::testing::ValuesIn(sweep::kTypes),
                         ::testing::PrintToStringParamName());

class GpuSort : public GpuTest {};

TEST_F(GpuSort, AMillion) {
  if (quick()) return;
  Generator generator(53);
  for (DataType type : {DataType::Float32, DataType::Int64, DataType::Int8})
    expect_alike(
        "sort",
        [](const Tensors& x) {
          return Tensors{lmp::sort(x[0]).first, lmp::argsort(x[0])};
        },
        {(uniform(generator, {1 << 20}, -100, 100) * 1000).astype(type)}, none);
}

class GpuRandom : public GpuTest {};

TEST_F(GpuRandom, TheSameStreamsAsOnTheCpu) {
  for (const Shape& shape :
       {Shape{1}, Shape{3}, Shape{5, 7}, Shape{1025}, Shape{70001}, Shape{0}}) {
    for (DataType type :
         {DataType::Float32, DataType::Float64, DataType::Float16, DataType::BFloat16}) {
      Generator cpu(77), there(77);
      cpu.set_offset(12345), there.set_offset(12345);
      for (int i = 0; i < 3; ++i) {  // goes on where it was
        EXPECT_TRUE(same(lmp::rand(cpu, shape, DeviceType::CPU, type),
                         lmp::rand(there, shape, gpu(), type)));
        EXPECT_TRUE(close(lmp::randn(cpu, 1, 2, shape, DeviceType::CPU, type),
                          lmp::randn(there, 1, 2, shape, gpu(), type)));
        EXPECT_TRUE(same(lmp::bernoulli(cpu, 0.3, shape, DeviceType::CPU, type),
                         lmp::bernoulli(there, 0.3, shape, gpu(), type)));
        EXPECT_EQ(cpu.offset(), there.offset());
      }
    }
    for (DataType type : {DataType::Int64, DataType::Int32, DataType::UInt8}) {
      Generator cpu(78), there(78);
      EXPECT_TRUE(same(lmp::randint(cpu, 0, 200, shape, DeviceType::CPU, type),
                       lmp::randint(there, 0, 200, shape, gpu(), type)));
    }
  }
  for (const std::int64_t n : {0, 1, 5, 1000, 70001}) {
    Generator cpu(79), there(79);
    EXPECT_TRUE(same(lmp::permutation(cpu, n), lmp::permutation(there, n, gpu()))) << n;
  }
  manual_seed(7);
  const Tensor x = lmp::rand({5});
  manual_seed(7);
  EXPECT_TRUE(same(x, lmp::rand({5}, gpu())));
}

TEST_F(GpuRandom, DropoutDropsTheSame) {
  for (DataType type :
       {DataType::Float32, DataType::Float64, DataType::Float16, DataType::BFloat16})
    expect_alike(
        "dropout",
        [](const Tensors& x) {
          manual_seed(3);
          const Variable v(x[0], true);
          const Variable y = autograd::dropout(v, 0.3);
          sum(y).backward();
          return Tensors{y.data(), v.grad()};
        },
        {numbers(type, {33, 1001})}, none);
}

class GpuPrinting : public GpuTest {};

TEST_F(GpuPrinting, AsOnTheCpu) {
  for (DataType type : sweep::kTypes)
    for (const Shape& shape : {Shape{}, Shape{3}, Shape{2, 3}, Shape{0}, Shape{50, 50}}) {
      std::ostringstream cpu, there;
      cpu << numbers(type, shape);
      there << numbers(type, shape).to(gpu());
      EXPECT_EQ(cpu.str(), there.str());
    }
  EXPECT_EQ(numbers(DataType::Float32, {2, 3}).index({1, 2}),
            numbers(DataType::Float32, {2, 3}).to(gpu()).index({1, 2}));
}

}  // namespace
}  // namespace lmp::testing
