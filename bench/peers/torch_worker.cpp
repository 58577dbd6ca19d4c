// PyTorch's C++ API, on the number of threads given as the argument.

#include <torch/torch.h>
#ifdef LAMPPP_HAVE_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#endif

#include <cstdlib>

#include "../gpu/rows.hpp"
#include "worker.hpp"

namespace {

struct Torch {
  using Tensor = at::Tensor;
  using Variable = at::Tensor;
  using Shape = std::vector<std::int64_t>;

  static inline at::DeviceType device = at::kCPU;
  static at::TensorOptions options(at::ScalarType type) {
    return at::TensorOptions(device).dtype(type);
  }

  static Tensor randn(const Shape& shape) { return at::randn(shape, options(at::kFloat)); }
  static Tensor uniform(const Shape& shape, double low, double high) {
    return at::rand(shape, options(at::kFloat)) * (high - low) + low;
  }
  static Tensor full(const Shape& shape, double value) {
    return at::full(shape, value, options(at::kFloat));
  }
  static Tensor integers(const Shape& shape) {
    return at::randint(-1000, 1000, shape, options(at::kInt));
  }
  static Tensor indices(const Shape& shape, std::int64_t size) {
    return at::randint(0, size, shape, options(at::kLong));
  }
  static Tensor cast(const Tensor& x, peers::Type type) {
    constexpr at::ScalarType types[] = {at::kBool,  at::kByte,  at::kChar, at::kShort,
                                        at::kInt,   at::kLong,  at::kHalf, at::kBFloat16,
                                        at::kFloat, at::kDouble};
    return x.to(types[static_cast<int>(type)]);
  }
  static std::pair<Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual,
                                                  const Tensor& weight, const Tensor& bias) {
    const Tensor sum = x + residual;
    return {at::layer_norm(sum, weight.sizes(), weight, bias), sum};
  }
  static Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias) {
    return at::layer_norm(x, weight.sizes(), weight, bias);
  }
  static Tensor cross_entropy(const Tensor& logits, const Tensor& labels) {
    return at::cross_entropy_loss(logits, labels);
  }
  static void tf32(bool allowed) { at::globalContext().setAllowTF32CuBLAS(allowed); }
  /// The body as a CUDA graph, where that can be.
  static peers::Body graph(const peers::Body& body) {
#ifdef LAMPPP_HAVE_CUDA
    auto made = std::make_shared<at::cuda::CUDAGraph>();
    const c10::cuda::CUDAStreamGuard guard(at::cuda::getStreamFromPool());
    for (int i = 0; i < 3; ++i) body();
    made->capture_begin();
    body();
    made->capture_end();
    return [=] { static_cast<void>(body), made->replay(); };
#else
    return body;
#endif
  }
  /// The fused one, which the C++ front end has no optimiser for.
  class AdamW {
   public:
    explicit AdamW(const std::vector<Shape>& shapes) {
      for (const Shape& shape : shapes) {
        parameters_.push_back(randn(shape));
        gradients_.push_back(randn(shape));
        first_.push_back(full(shape, 0));
        second_.push_back(full(shape, 0));
        steps_.push_back(full({}, 1));
      }
    }
    void step() {
      at::_foreach_add_(steps_, 1);
      at::_fused_adamw_(parameters_, gradients_, first_, second_, {}, steps_, 1e-3, 0.9, 0.999,
                        0.01, 1e-8, false, false);
    }

   private:
    std::vector<Tensor> parameters_, gradients_, first_, second_, steps_;
  };
  static Tensor ones_like(const Tensor& x) { return at::ones_like(x.detach()); }
  static Tensor float64(const Tensor& x) { return x.to(at::kDouble); }
  static Tensor bfloat16(const Tensor& x) { return x.to(at::kBFloat16); }
  static Tensor int32(const Tensor& x) { return x.to(at::kInt); }

  static Variable leaf(const Tensor& x) { return x.detach().clone().requires_grad_(true); }
  static Variable constant(const Tensor& x) { return x; }
  static void backward(const Variable& y) { y.backward(); }
  static void backward(const Variable& y, const Tensor& gradient) { y.backward(gradient); }
  static void zero_grad(const Variable& x) { x.mutable_grad() = Tensor(); }

  static Tensor gelu(const Tensor& x) { return at::gelu(x); }
  static Tensor transpose(const Tensor& x) { return x.transpose(-1, -2); }
  static Tensor contiguous(const Tensor& x) { return x.contiguous(); }
  static Tensor every_second(const Tensor& x, int axis) {
    return x.slice(axis, c10::nullopt, c10::nullopt, 2);
  }
  static Tensor cat(const Tensor& a, const Tensor& b, int axis) { return at::cat({a, b}, axis); }
  static Tensor index_select(const Tensor& x, int axis, const Tensor& i) {
    return at::index_select(x, axis, i);
  }
  static Tensor gather(const Tensor& x, int axis, const Tensor& i) {
    return at::gather(x, axis, i);
  }
  static Tensor sort(const Tensor& x, int axis) { return std::get<0>(at::sort(x, axis)); }
  static Tensor sum(const Tensor& x, int axis) { return axis < 0 ? at::sum(x) : at::sum(x, axis); }
  static Tensor mean(const Tensor& x, int axis) {
    return axis < 0 ? at::mean(x) : at::mean(x, axis);
  }
  static Tensor max(const Tensor& x, int axis) { return axis < 0 ? at::max(x) : at::amax(x, axis); }
  static Tensor var(const Tensor& x, int axis) {
    return axis < 0 ? at::var(x, true) : at::var(x, at::IntArrayRef{axis}, true);
  }
  static Tensor argmax(const Tensor& x, int axis) {
    return axis < 0 ? at::argmax(x) : at::argmax(x, axis);
  }

  class Mlp {
   public:
    Mlp(const Shape& sizes, bool adam, peers::Loss loss) : loss_(loss) {
      for (std::size_t i = 0; i + 1 < sizes.size(); ++i) {
        weights_.push_back(
            (randn({sizes[i + 1], sizes[i]}) / std::sqrt(sizes[i])).requires_grad_(true));
        biases_.push_back(full({sizes[i + 1]}, 0).requires_grad_(true));
      }
      std::vector<Tensor> parameters = weights_;
      parameters.insert(parameters.end(), biases_.begin(), biases_.end());
      if (adam)
        optimizer_ =
            std::make_unique<torch::optim::Adam>(parameters, torch::optim::AdamOptions(1e-3));
      else
        optimizer_ =
            std::make_unique<torch::optim::SGD>(parameters, torch::optim::SGDOptions(0.01));
    }
    void step(const Tensor& x, const Tensor& y) {
      Tensor h = x;
      for (std::size_t i = 0; i < weights_.size(); ++i) {
        h = at::linear(h, weights_[i], biases_[i]);
        if (i + 1 < weights_.size()) h = at::relu(h);
      }
      const Tensor loss = loss_ == peers::Loss::CrossEntropy ? at::cross_entropy_loss(h, y)
                          : loss_ == peers::Loss::Logistic
                              ? at::binary_cross_entropy_with_logits(h, y)
                              : at::mse_loss(h, y);
      loss.backward();
      optimizer_->step();
      optimizer_->zero_grad();
    }

   private:
    std::vector<Tensor> weights_, biases_;
    std::unique_ptr<torch::optim::Optimizer> optimizer_;
    peers::Loss loss_;
  };
};

}  // namespace

int main(int count, char** arguments) {
  if (count > 1 && std::string(arguments[1]) == "cuda") {
    Torch::device = at::kCUDA;
    return peers::serve(peers::GpuTable<Torch>().make(), [] { torch::cuda::synchronize(); });
  }
  at::set_num_threads(count > 1 ? std::atoi(arguments[1]) : 1);
  return peers::serve(peers::Table<Torch>().make());
}
