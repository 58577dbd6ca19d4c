#pragma once

#include "tensor/backend.hpp"

/// The entries of the CPU's backend table; see tensor/backend.hpp.
namespace lmp::cpu {

using tensor::DataType;
using tensor::Tensor;

void forward(table::OpId op, DataType compute, const Tensor& out, const tensor::detail::Operand* in,
             int count);
void backward(table::OpId op, const tensor::detail::GradientTarget* out, const Tensor& g,
              const tensor::detail::Operand* in, int count, const Tensor& result);
void copy(const Tensor& to, const Tensor& from);
void fill(const Tensor& to, tensor::Number value);
void reduce(table::Reduction reduction, const Tensor& out, const Tensor& x, const Tensor& with);
void spread(table::Spread op, const Tensor& out, const Tensor& x, const Tensor& with,
            const Tensor& a, const Tensor& b);
void softmax(bool log, const Tensor& out, const Tensor& x, int axis);
void softmax_gradient(bool log, const Tensor& out, const Tensor& y, const Tensor& g, int axis);
void arg_extreme(bool largest, const Tensor& out, const Tensor& x, int axis);
void cumsum(const Tensor& out, const Tensor& x, int axis);
void index_select(const char* op, const Tensor& out, const Tensor& x, int axis,
                  const Tensor& index);
void index_add(const char* op, const Tensor& out, int axis, const Tensor& index,
               const Tensor& source);
void gather(const char* op, const Tensor& out, const Tensor& x, int axis, const Tensor& index);
void scatter(const char* op, const Tensor& out, int axis, const Tensor& index, const Tensor& source,
             bool add);
void argsort(const Tensor& out, const Tensor& x, int axis, bool descending);
std::size_t count_nonzero(const Tensor& x);
void nonzero(const Tensor& out, const Tensor& x);
void random(tensor::detail::Distribution distribution, const Tensor& out, std::uint64_t seed,
            std::uint64_t offset, double mean, double deviation);
void random_words(std::uint32_t* out, std::size_t blocks, std::uint64_t seed, std::uint64_t offset);

void bias_activation(const Tensor& x, const Tensor& bias, table::OpId activation);
std::int64_t cross_entropy(const Tensor& loss, const Tensor& stats, const Tensor& logits,
                           const Tensor& labels, const tensor::CrossEntropyOptions& options);
void cross_entropy_backward(const Tensor& out, const Tensor& g, double scale, const Tensor& stats,
                            const Tensor& logits, const Tensor& labels,
                            const tensor::CrossEntropyOptions& options);
void normalize(bool centered, const Tensor& out, const Tensor& stats, const Tensor& x,
               const Tensor& weight, const Tensor& bias, double eps);
void normalize_backward(bool centered, const Tensor& gx, const Tensor& gw, const Tensor& gb,
                        const Tensor& g, const Tensor& stats, const Tensor& x,
                        const Tensor& weight);
void dropout(const Tensor& out, const Tensor& x, double keep, std::uint64_t seed,
             std::uint64_t offset);
void sgd_step(const std::vector<tensor::ParameterUpdate>& updates, const tensor::SgdRule& rule);
void adam_step(const std::vector<tensor::ParameterUpdate>& updates, const tensor::AdamRule& rule);

tensor::detail::BadMatrix solve(const Tensor& out, const Tensor& a, const Tensor& b);
tensor::detail::BadMatrix inverse(const Tensor& out, const Tensor& a);
tensor::detail::BadMatrix cholesky(const Tensor& out, const Tensor& a);
void determinant(bool log, const Tensor& out, const Tensor& a);

}  // namespace lmp::cpu
