// Lamp++, on the number of threads given as the last argument, or after "cuda" on a GPU. Its rows
// end with the machine's own limits, on the same threads.

#include <cmath>
#include <cstdlib>
#include <lamppp/lamppp.hpp>
#include <optional>

#include "limits.hpp"
#include "worker.hpp"
#ifdef LAMPPP_HAVE_CUDA
#include <lamppp/cuda.hpp>

#include "../gpu/limits.hpp"
#include "../gpu/rows.hpp"
#endif

namespace {

struct Lamppp {
  using Tensor = lmp::Tensor;
  using Variable = lmp::Variable;
  using Shape = std::vector<std::int64_t>;

  static inline lmp::Device device;

  static Tensor randn(const Shape& shape) { return lmp::randn(0, 1, shape, device); }
  static Tensor uniform(const Shape& shape, double low, double high) {
    return lmp::rand(shape, device) * (high - low) + low;
  }
  static Tensor full(const Shape& shape, double value) {
    return lmp::full(shape, value, device, lmp::DataType::Float32);
  }
  static Tensor integers(const Shape& shape) {
    return (lmp::rand(shape, device) * 2000 - 1000).astype(lmp::DataType::Int32);
  }
  static Tensor indices(const Shape& shape, std::int64_t size) {
    return lmp::randint(0, size, shape, device);
  }
  static Tensor cast(const Tensor& x, peers::Type type) {
    using enum lmp::DataType;
    constexpr lmp::DataType types[] = {Bool,  UInt8,   Int8,     Int16,   Int32,
                                       Int64, Float16, BFloat16, Float32, Float64};
    return x.astype(types[static_cast<int>(type)]);
  }
  static Tensor ones_like(const Variable& x) { return lmp::ones_like(x.data()); }
  static Tensor float64(const Tensor& x) { return x.astype(lmp::DataType::Float64); }
  static Variable float64(const Variable& x) { return x.astype(lmp::DataType::Float64); }
  static Tensor bfloat16(const Tensor& x) { return x.astype(lmp::DataType::BFloat16); }
  static Variable bfloat16(const Variable& x) { return x.astype(lmp::DataType::BFloat16); }
  static Tensor int32(const Tensor& x) { return x.astype(lmp::DataType::Int32); }

  static std::pair<Variable, Variable> add_layer_norm(const Variable& x, const Variable& residual,
                                                      const Variable& weight,
                                                      const Variable& bias) {
    return lmp::add_layer_norm(x, residual, weight, bias);
  }
  static Variable layer_norm(const Variable& x, const Variable& weight, const Variable& bias) {
    return lmp::layer_norm(x, weight, bias);
  }
  static Variable cross_entropy(const Variable& logits, const Tensor& labels) {
    return lmp::cross_entropy(logits, labels);
  }
#ifdef LAMPPP_HAVE_CUDA
  static peers::Body graph(const peers::Body& body) {
    auto made = std::make_shared<lmp::cuda::Graph>();
    for (int i = 0; i < 3; ++i) body();
    made->capture(body);
    return [=] { static_cast<void>(body), made->replay(); };
  }
  static void tf32(bool allowed) {
    using lmp::cuda::MatmulPrecision;
    lmp::cuda::set_float32_matmul_precision(allowed ? MatmulPrecision::High
                                                    : MatmulPrecision::Highest);
  }
#endif
  /// AdamW with gradients that stay as they are.
  class AdamW {
   public:
    explicit AdamW(const std::vector<Shape>& shapes) {
      for (const Shape& shape : shapes) {
        parameters_.emplace_back(randn(shape), true);
        parameters_.back().incr_grad(randn(shape));
      }
      optimizer_.emplace(parameters_);
    }
    void step() { optimizer_->step(); }

   private:
    std::vector<Variable> parameters_;
    std::optional<lmp::optim::AdamW> optimizer_;
  };

  static Variable leaf(const Tensor& x) { return Variable(x.clone(), true); }
  static Variable constant(const Tensor& x) { return Variable(x); }
  static void backward(const Variable& y) { y.backward(); }
  static void backward(const Variable& y, const Tensor& gradient) { y.backward(gradient); }
  static void zero_grad(const Variable& x) { x.zero_grad(); }

  template <class X>
  static X gelu(const X& x) {
    return lmp::gelu(x);
  }
  template <class X>
  static X transpose(const X& x) {
    return lmp::transpose(x);
  }
  template <class X>
  static X contiguous(const X& x) {
    return x.contiguous();
  }
  template <class X>
  static X every_second(const X& x, int axis) {
    return lmp::slice(x, axis, std::nullopt, std::nullopt, 2);
  }
  template <class X>
  static X cat(const X& a, const X& b, int axis) {
    return lmp::cat({a, b}, axis);
  }
  template <class X>
  static X index_select(const X& x, int axis, const Tensor& i) {
    return lmp::index_select(x, axis, i);
  }
  template <class X>
  static X gather(const X& x, int axis, const Tensor& i) {
    return lmp::gather(x, axis, i);
  }
  template <class X>
  static X sort(const X& x, int axis) {
    return lmp::sort(x, axis).first;
  }
#define LMP_REDUCTION(name)                                     \
  template <class X>                                            \
  static auto name(const X& x, int axis) {                      \
    return axis < 0 ? lmp::name(x) : lmp::name(x, axis, false); \
  }
  LMP_REDUCTION(sum)
  LMP_REDUCTION(mean)
  LMP_REDUCTION(max)
  LMP_REDUCTION(var)
  LMP_REDUCTION(argmax)
#undef LMP_REDUCTION

  class Mlp {
   public:
    Mlp(const Shape& sizes, bool adam, peers::Loss loss) : loss_(loss) {
      for (std::size_t i = 0; i + 1 < sizes.size(); ++i) {
        weights_.emplace_back(
            randn({sizes[i + 1], sizes[i]}) / std::sqrt(static_cast<double>(sizes[i])), true);
        biases_.emplace_back(lmp::zeros({sizes[i + 1]}, device), true);
      }
      std::vector<Variable> parameters = weights_;
      parameters.insert(parameters.end(), biases_.begin(), biases_.end());
      if (adam)
        adam_.emplace(parameters);
      else
        sgd_.emplace(parameters, lmp::SgdRule{.lr = 0.01});
    }
    void step(const Tensor& x, const Tensor& y) {
      Variable h = x;
      for (std::size_t i = 0; i < weights_.size(); ++i)
        h = lmp::linear(h, weights_[i], biases_[i],
                        i + 1 < weights_.size() ? lmp::Activation::Relu : lmp::Activation::None);
      Variable loss;
      if (loss_ == peers::Loss::CrossEntropy)
        loss = lmp::cross_entropy(h, y);
      else if (loss_ == peers::Loss::Logistic)
        loss = lmp::mean(lmp::softplus(h) - h * y);
      else
        loss = lmp::mean(lmp::square(h - y));
      loss.backward();
      if (adam_) take(*adam_);
      if (sgd_) take(*sgd_);
    }

   private:
    static void take(auto& optimizer) {
      optimizer.step();
      optimizer.zero_grad();
    }
    std::vector<Variable> weights_, biases_;
    std::optional<lmp::optim::Adam> adam_;
    std::optional<lmp::optim::SGD> sgd_;
    peers::Loss loss_;
  };
};

}  // namespace

int main(int count, char** arguments) {
#ifdef LAMPPP_HAVE_CUDA
  if (count > 1 && std::string(arguments[1]) == "cuda") {
    Lamppp::device = lmp::DeviceType::CUDA;
    std::vector<peers::Row> rows = peers::GpuTable<Lamppp>().make();
    peers::add_gpu_limits(rows);
    return peers::serve(rows, [] { lmp::cuda::synchronize(); });
  }
#endif
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  lmp::set_num_threads(threads);
  std::vector<peers::Row> rows = peers::Table<Lamppp>().make();
  peers::add_limits(rows, threads);
  return peers::serve(rows);
}
