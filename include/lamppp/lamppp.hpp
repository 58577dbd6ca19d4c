#pragma once

#include <algorithm>
#include <cmath>
#include <iostream>
#include <vector>

#include "lamppp/autograd/core.hpp"
#include "lamppp/data/core.hpp"
#include "lamppp/error.hpp"
#include "lamppp/optim/optim.hpp"
#include "lamppp/profiler.hpp"
#include "lamppp/tensor/core.hpp"

/// Everyday names of Lamp++. The ops take a Tensor or a Variable alike: `lmp::exp(x)`.
namespace lmp {

using tensor::Activation;
using tensor::AdamRule;
using tensor::BFloat16;
using tensor::CrossEntropyOptions;
using tensor::DataType;
using tensor::Device;
using tensor::DeviceType;
using tensor::Generator;
using tensor::Half;
using tensor::IntList;
using tensor::LossReduction;
using tensor::Number;
using tensor::Scalar;
using tensor::SgdRule;
using tensor::Shape;
using tensor::Tensor;

using tensor::default_generator;
using tensor::empty_cache;
using tensor::get_num_threads;
using tensor::manual_seed;
using tensor::memory_stats;
using tensor::set_default_generator;
using tensor::set_memory_limit;
using tensor::set_num_threads;

using autograd::AnomalyGuard;
using autograd::apply;
using autograd::Axes;
using autograd::BackwardOptions;
using autograd::checkpoint;
using autograd::draw_graph;
using autograd::DrawOptions;
using autograd::EnableGradGuard;
using autograd::FunctionContext;
using autograd::grad;
using autograd::gradcheck;
using autograd::gradgradcheck;
using autograd::GradOptions;
using autograd::GraphDrawing;
using autograd::hessian;
using autograd::HookHandle;
using autograd::hvp;
using autograd::InferenceModeGuard;
using autograd::is_grad_enabled;
using autograd::is_inference_mode;
using autograd::jacobian;
using autograd::jvp;
using autograd::NoGradGuard;
using autograd::register_node_hook;
using autograd::SavedTensorHooksGuard;
using autograd::value_and_grad;
using autograd::ValueAndGrad;
using autograd::ValueAndTangent;
using autograd::Variable;
using autograd::Vjp;
using autograd::vjp;
using autograd::vmap;

// Found as lmp::name: the ops of both types and the constructors of Tensor. Their twins in
// lmp::autograd that make Variables stay there.
using namespace tensor::ops;
using namespace autograd::ops;

}  // namespace lmp
