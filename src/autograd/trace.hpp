#pragma once

#include <cstdint>

#include "autograd/node.hpp"

namespace lmp::autograd {

/// Note [Transforms]
/// jvp and vmap run a function on stand-ins. A stand-in is a Variable whose tensor has a storage of
/// its own kind, with a Traced behind it: for jvp a value and its tangent, for vmap the values of
/// all lanes stacked along a new first axis. What it is made of are Variables again, of what lies
/// outside the transform: plain ones, recorded ones, stand-ins of outer transforms.
///
/// Transforms nest on a thread's stack of Traces and have levels 1, 2, ... from the outside in. The
/// graph takes part: a node made inside transform n belongs to n (Node::trace), above its stand-ins
/// and below those of n + 1. An operation is interpreted from the top down: at the highest level
/// that any operand belongs to, be it a graph, which records and computes the value one step down,
/// or a transform, whose rule is made of operations one step down; see intercept().
///
/// A node saves tensors and never Variables. So what a tensor stands for at lower levels has to be
/// in the tensor: an operand that a lower graph records is lifted into a stand-in first.
///
/// A stand-in that outlives its transform is stale: under vmap its value cannot be had any more,
/// and any use throws; under jvp it is just the value.
struct Trace {
  enum class Kind : std::uint8_t { Jvp, Vmap };

  Trace(Kind kind, std::int64_t lanes);
  Trace(const Trace&) = delete;
  ~Trace();

  const Kind kind;
  const std::int64_t lanes;  // of vmap
  const std::uint32_t id;
  const int level;
  Trace* const outer;
};

struct Traced {
  std::uint32_t trace;
  Trace::Kind kind;
  bool mapped;       // vmap: whether lanes differ; if so, axis 0 of `value` runs over them
  Variable value;    // jvp: the primal
  Variable tangent;  // jvp: undefined where it is zero
};

/// What a tensor stands for; null for plain ones.
const Traced* traced(const Tensor& t) noexcept;
/// The running transform of this id; null where there is none on this thread.
Trace* running(std::uint32_t id) noexcept;
/// The running transform at a level of 1 and up.
Trace& trace_at(int level) noexcept;

/// The level of the transform that a value is a stand-in of; 0 for plain and stale ones.
int value_level(const Tensor& t) noexcept;
/// The level of a node; 0 outside of all transforms that run.
int node_level(const Node& node) noexcept;
/// What `v` stands for at this level, or null.
const Traced* traced_at(const Variable& v, int level) noexcept;

/// Stand-ins of a transform. `physical` has the lanes along its first axis.
Variable make_dual(const Trace& trace, Variable primal, Variable tangent);
Variable make_mapped(const Trace& trace, Variable physical);
/// A stand-in for `v` of a lower level: without a tangent, or the same in every lane.
Variable lift(const Trace& trace, const Variable& v);

/// `v` without its place in any graph.
Variable unrecorded(const Variable& v);
/// The same, and at no level with a tangent.
Variable detached(const Variable& v);
/// `v` as what lies below a level sees it: the graphs of that level and above end here.
Variable below_level(const Variable& v, int level);
/// The plain value of `v`: of all lanes, under vmap.
const Tensor& plain_value(const Variable& v) noexcept;

}  // namespace lmp::autograd
