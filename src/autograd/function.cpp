#include "lamppp/autograd/function.hpp"

#include <cxxabi.h>

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <optional>

#include "autograd/intercept.hpp"
#include "autograd/pass.hpp"
#include "lamppp/autograd/ops.hpp"
#include "lamppp/tensor/random.hpp"
#include "tensor/checks.hpp"
#include "tensor/random_scope.hpp"

namespace lmp::autograd {

using tensor::is_floating;
using tensor::detail::concat;

struct FunctionAccess {
  static std::vector<Variable>& saved(FunctionContext& c) { return c.saved_; }
  static const std::vector<Variable>& non_differentiable(const FunctionContext& c) {
    return c.non_differentiable_;
  }
  static std::vector<bool>& needs(FunctionContext& c) { return c.needs_; }
};

namespace detail {
AnyFunction::~AnyFunction() = default;

std::string demangled(const char* name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string out = status == 0 ? text : name;
  std::free(text);
  return out;
}
}  // namespace detail

namespace {

using detail::AnyFunction;

/// What a saved value is: operand or result of this number, or a constant.
struct Origin {
  enum Kind { Operand, Result, Constant } kind;
  std::size_t number;
};

struct ResultInfo {
  Shape shape;
  DataType type;
  Device device;
};

std::string result_name(const AnyFunction& f, std::size_t k) { return concat(f.name, "[", k, "]"); }

class FunctionNode;

/// One result of a function that has several: hands its gradient to the function's node, which it
/// owns. That one knows its results without owning them, for gradients that read a result.
class ResultNode final : public Node {
 public:
  ResultNode(FunctionNode& function, std::size_t number) : function_(function), number_(number) {
    known_weakly_ = true;
  }
  ~ResultNode() override;
  const char* name() const noexcept override;
  void backward(Pass<Tensor>& pass) override { run(pass); }
  void backward(Pass<Variable>& pass) override { run(pass); }

 private:
  template <class V>
  void run(Pass<V>& pass);
  FunctionNode& function_;
  std::size_t number_;
};

class FunctionNode final : public Node {
 public:
  FunctionNode(std::shared_ptr<AnyFunction> f, std::vector<Origin> origins,
               std::vector<ResultInfo> results)
      : f_(std::move(f)), origins_(std::move(origins)), results_(std::move(results)) {
    if (results_.size() == 1) return;
    for (std::size_t k = 0; k < results_.size(); ++k) names_.push_back(result_name(*f_, k));
    nodes_.resize(results_.size());
  }
  const char* name() const noexcept override { return f_->name.c_str(); }
  const char* name_of_result(std::size_t k) const noexcept { return names_[k].c_str(); }
  std::size_t num_results() const noexcept { return results_.size(); }

  /// The node of result k of several: the one that is there, or a new one.
  detail::NodeHandle result_node(std::size_t k) {
    {
      const std::lock_guard lock(mutex_);
      if (nodes_[k] && nodes_[k]->try_retain(kHandleUnit)) return detail::NodeHandle(nodes_[k]);
    }
    NodeBuilder builder = NodeBuilder::make<ResultNode>(1, 0, *this, k);
    builder.add_edge(this, results_[k].shape, results_[k].type);
    detail::NodeHandle made = builder.finish();
    const std::lock_guard lock(mutex_);
    nodes_[k] = static_cast<ResultNode*>(made.get());
    return made;
  }
  void forget(std::size_t k, const Node* node) noexcept {
    const std::lock_guard lock(mutex_);
    if (nodes_[k] == node) nodes_[k] = nullptr;
  }

  void backward(Pass<Tensor>& pass) override { run(pass); }
  void backward(Pass<Variable>& pass) override { run(pass); }

 private:
  template <class V>
  void run(Pass<V>& pass) {
    std::vector<V> arrived(1);
    if (results_.size() == 1)
      arrived[0] = std::move(pass.gradient());
    else
      arrived = pass.results();
    arrived.resize(results_.size());
    std::vector<Variable> gradients;
    for (std::size_t k = 0; k < results_.size(); ++k)
      gradients.push_back(
          arrived[k].defined()
              ? Variable(std::move(arrived[k]))
              : Variable(tensor::zeros(results_[k].shape, results_[k].device, results_[k].type)));
    FunctionContext context;
    for (int i = 0; i < num_edges(); ++i) FunctionAccess::needs(context).push_back(pass.wants(i));
    for (std::size_t i = 0; i < origins_.size(); ++i)
      FunctionAccess::saved(context).push_back(saved_value(pass, i));
    if (std::is_same_v<V, Variable> && !f_->backward_takes_variables)
      refuse_tensors(pass.creates_graph(), gradients, context.saved());

    const std::vector<Variable> made = [&] {
      if (std::is_same_v<V, Variable>) return f_->backward(context, gradients);
      const NoGradGuard unrecorded;
      return f_->backward(context, gradients);
    }();
    if (made.size() != static_cast<std::size_t>(num_edges()))
      throw ValueError(concat("backward of '", name(), "' returned ", made.size(),
                              " gradients for ", num_edges(),
                              " operands; return one for each, undefined where there is none"));
    for (int i = 0; i < num_edges(); ++i) {
      const Variable& g = made[static_cast<std::size_t>(i)];
      if (!g.defined() || !pass.wants(i)) continue;
      if (g.shape() != pass.shape(i))
        throw ShapeError(concat("backward of '", name(), "' returned a gradient of shape ",
                                g.shape(), " for operand ", i, ", which has shape ",
                                pass.shape(i)));
      if constexpr (std::is_same_v<V, Variable>) {
        pass.add(i, g);
      } else {
        tensor::detail::check_defined(name(), g.data());  // no value under vmap
        pass.add(i, g.data());
      }
    }
  }

  template <class V>
  Variable saved_value(Pass<V>& pass, std::size_t which) {
    const int s = static_cast<int>(which);
    const auto number = origins_[which].number;
    if constexpr (std::is_same_v<V, Variable>) {
      if (pass.creates_graph() && origins_[which].kind == Origin::Result) {
        if (results_.size() == 1) return pass.result(s);
        return VariableAccess::make(pass.saved(s).tensor, result_node(number));
      }
      if (origins_[which].kind == Origin::Operand) return pass.input(s, static_cast<int>(number));
    }
    return Variable(pass.saved(s).tensor);
  }

  void refuse_tensors(bool creates_graph, const std::vector<Variable>& gradients,
                      const std::vector<Variable>& saved) const {
    bool inside = creates_graph;
    for (const auto* list : {&gradients, &saved})
      for (const Variable& v : *list) inside |= value_level(v.data()) > 0;
    if (inside)
      throw AutogradError(concat("'", name(),
                                 "': its backward is written in Tensors, so it cannot be "
                                 "differentiated again, nor run inside jvp or vmap; write it in "
                                 "Variables"));
  }

  std::shared_ptr<AnyFunction> f_;
  std::vector<Origin> origins_;
  std::vector<ResultInfo> results_;
  // Of several results: their names, and their nodes where those are alive.
  std::vector<std::string> names_;
  std::mutex mutex_;
  std::vector<ResultNode*> nodes_;
};

ResultNode::~ResultNode() { function_.forget(number_, this); }
const char* ResultNode::name() const noexcept { return function_.name_of_result(number_); }
template <class V>
void ResultNode::run(Pass<V>& pass) {
  pass.add_result(edge(0).node, number_, function_.num_results(), std::move(pass.gradient()));
}

bool same(const Tensor& a, const Tensor& b) {
  return a.shares_storage(b) && a.data() == b.data() && a.shape() == b.shape() &&
         a.strides() == b.strides() && a.type() == b.type();
}

std::size_t find(const std::vector<Variable>& list, const Variable& v) {
  std::size_t i = 0;
  while (i < list.size() && !same(list[i].data(), v.data())) ++i;
  return i;
}

// `operands` are told apart by their tensors when they are saved, so one that shares an earlier
// one's but is another value in the graph is copied for forward.
void tell_apart(std::vector<Variable>& operands, const std::vector<Variable>& in) {
  for (std::size_t i = 1; i < operands.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (same(operands[i].data(), operands[j].data()) &&
          VariableAccess::node(in[i]) != VariableAccess::node(in[j]))
        operands[i] = clone(operands[i]);
}

std::vector<Variable> run_forward(AnyFunction& f, FunctionContext& context,
                                  const std::vector<Variable>& in) {
  std::vector<Variable> out = f.forward(context, in);
  if (out.empty()) throw ValueError(concat("forward of '", f.name, "' returned no result"));
  for (const Variable& v : out)
    if (!v.defined())
      throw ValueError(concat("forward of '", f.name, "' returned an undefined result"));
  return out;
}

// The results in the graph, and the function's node with what it saves. `computed` are the results
// as forward returned them, by which saved ones and those without a gradient are told; `values` are
// what they are in the graph.
std::vector<Variable> record(const std::shared_ptr<AnyFunction>& f, const FunctionContext& context,
                             const std::vector<Variable>& in, const std::vector<Variable>& operands,
                             const std::vector<Variable>& computed,
                             const std::vector<Tensor>& values) {
  std::vector<Origin> origins;
  std::vector<Tensor> saved;
  for (const Variable& v : context.saved()) {
    if (!v.defined())
      throw ValueError(concat("save_for_backward of '", f->name, "': an undefined value"));
    if (const std::size_t i = find(operands, v); i < operands.size()) {
      origins.push_back({Origin::Operand, i});
      saved.push_back(in[i].data());
    } else if (const std::size_t k = find(computed, v); k < computed.size()) {
      origins.push_back({Origin::Result, k});
      saved.push_back(values[k]);
    } else {
      origins.push_back({Origin::Constant, 0});
      saved.push_back(v.data());
    }
  }
  constexpr std::size_t kMost = std::numeric_limits<std::uint16_t>::max();
  if (saved.size() > kMost)
    throw ValueError(concat("save_for_backward of '", f->name, "': ", saved.size(),
                            " values; at most ", kMost, " can be saved, stack() some"));
  std::vector<ResultInfo> infos;
  infos.reserve(values.size());
  for (const Tensor& t : values) infos.push_back({t.shape(), t.type(), t.device()});
  NodeBuilder builder = NodeBuilder::make<FunctionNode>(
      static_cast<int>(in.size()), static_cast<int>(saved.size()), f, std::move(origins), infos);
  for (const Variable& v : in) builder.add_edge(v);
  for (Tensor& t : saved) builder.save(std::move(t));
  const detail::NodeHandle node = builder.finish();

  std::vector<Variable> out;
  for (std::size_t k = 0; k < values.size(); ++k) {
    const std::size_t marked = find(FunctionAccess::non_differentiable(context), computed[k]);
    if (!is_floating(values[k].type()) ||
        marked < FunctionAccess::non_differentiable(context).size())
      out.emplace_back(values[k]);
    else if (values.size() == 1)
      out.push_back(VariableAccess::make(values[k], node));
    else
      out.push_back(
          VariableAccess::make(values[k], static_cast<FunctionNode*>(node.get())->result_node(k)));
  }
  return out;
}

struct Levels {
  int graph = -1;
  int transform = 0;
  explicit Levels(const std::vector<Variable>& in) {
    for (const Variable& v : in) {
      transform = std::max(transform, value_level(v.data()));
      if (records(v)) graph = std::max(graph, node_level(*VariableAccess::node(v)));
    }
  }
};

std::vector<bool> wanted(const std::vector<Variable>& in, int graph) {
  std::vector<bool> needs;
  needs.reserve(in.size());
  for (const Variable& v : in)
    needs.push_back(graph >= 0 && records(v) && node_level(*VariableAccess::node(v)) == graph);
  return needs;
}

std::vector<Variable> apply_any(const std::shared_ptr<AnyFunction>& f,
                                const std::vector<Variable>& in);

[[noreturn]] void refuse_lanes(const AnyFunction& f) {
  throw AutogradError(concat("'", f.name,
                             "' has no rule for vmap: its forward is written in Tensors; write it "
                             "in Variables, or call it for each lane"));
}

bool in_any_lanes(const Variable& v) {
  for (const Traced* t = traced(v.data()); t; t = traced(t->value.data()))
    if (t->mapped) return true;
  return false;
}

// On plain values, outside of all transforms.
std::vector<Variable> apply_plain(const std::shared_ptr<AnyFunction>& f,
                                  const std::vector<Variable>& in, bool graph) {
  std::vector<Variable> operands;
  operands.reserve(in.size());
  for (const Variable& v : in) operands.emplace_back(v.data());
  FunctionContext context;
  FunctionAccess::needs(context) = wanted(in, graph ? 0 : -1);
  std::vector<Variable> computed;
  {
    const NoGradGuard unrecorded;
    tell_apart(operands, in);
    computed = run_forward(*f, context, operands);
  }
  std::vector<Tensor> values;
  values.reserve(computed.size());
  for (const Variable& v : computed) values.push_back(v.data());
  if (graph) return record(f, context, in, operands, computed, values);
  return {values.begin(), values.end()};
}

// In the graph of a level inside transforms.
std::vector<Variable> record_at(int level, const std::shared_ptr<AnyFunction>& f,
                                const std::vector<Variable>& in) {
  const Trace& trace = trace_at(level);
  std::vector<Variable> below, recorded;
  bool plain = true;
  for (const Variable& v : in) {
    const Node* node = VariableAccess::node(v);
    const bool here = node && node_level(*node) == level;
    below.push_back(here ? Variable(v.data()) : node ? lift(trace, v) : v);
    recorded.push_back(here ? v : Variable(below.back().data()));
    plain &= value_level(below.back().data()) == 0;
    if (!f->forward_takes_variables && in_any_lanes(below.back())) refuse_lanes(*f);
  }
  tell_apart(below, in);
  FunctionContext context;
  FunctionAccess::needs(context) = wanted(in, level);
  std::vector<Variable> computed, results;
  if (plain) {
    computed = results = run_forward(*f, context, below);
  } else {
    // What forward computes on stand-ins says what to save; the results follow the function's own
    // derivative and not those of the operations inside. Both draw the same random numbers.
    const tensor::Generator start = tensor::default_generator();
    std::uint64_t drawn = 0;
    {
      const tensor::detail::RandomScope random(start);
      computed = run_forward(*f, context, below);
    }
    {
      const tensor::detail::RandomScope random(start);
      results = apply_any(f, below);
      drawn = tensor::default_generator().offset() - start.offset();
    }
    if (drawn != 0) {
      tensor::Generator now = tensor::default_generator();
      now.set_offset(now.offset() + drawn);
      tensor::set_default_generator(now);
    }
  }
  if (!plain && !f->forward_takes_variables)
    for (const Variable& v : context.saved())
      if (find(below, v) == below.size() && find(computed, v) == computed.size())
        throw AutogradError(concat("'", f->name,
                                   "': forward is written in Tensors and saves what is neither "
                                   "operand nor result, which loses its derivative inside jvp or "
                                   "vmap; write it in Variables"));
  std::vector<Tensor> values;
  values.reserve(results.size());
  for (const Variable& v : results)
    values.push_back(v.requires_grad() ? lift(trace, v).data() : v.data());
  return record(f, context, recorded, below, computed, values);
}

// The tangents of the results: the transposed map of backward, which is linear in the gradient.
std::vector<Variable> with_tangents(const Trace& trace, const std::shared_ptr<AnyFunction>& f,
                                    const std::vector<Variable>& in) {
  std::vector<Variable> x, t, moving, directions;
  for (const Variable& v : in) {
    const Traced* dual = traced_at(v, trace.level);
    x.push_back(dual ? dual->value : v);
    t.push_back(dual ? dual->tangent : Variable());
  }
  const Replaced<Trace*> down(&AutogradThread::trace, trace.outer);
  detail::ReverseInputs inputs("jvp");
  std::vector<Variable> results, tangents;
  {
    const EnableGradGuard recording;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (!t[i].defined()) continue;
      moving.push_back(x[i] = inputs.make(x[i]));
      directions.push_back(t[i]);
    }
    results = apply_any(f, x);
    std::vector<Variable> outputs, seeds;
    std::vector<std::size_t> places;
    for (std::size_t k = 0; k < results.size(); ++k) {
      if (!results[k].requires_grad()) continue;
      outputs.push_back(results[k]);
      places.push_back(k);
      seeds.push_back(inputs.make(
          Variable(tensor::zeros(results[k].shape(), results[k].device(), results[k].type()))));
    }
    tangents.resize(results.size());
    if (!outputs.empty() && !moving.empty()) {
      const std::vector<Variable> back = grad(
          outputs, moving, {.grad_outputs = seeds, .create_graph = true, .allow_unused = true});
      std::vector<Variable> linear, along;
      for (std::size_t i = 0; i < back.size(); ++i) {
        if (!back[i].defined() || !back[i].requires_grad()) continue;
        linear.push_back(back[i]);
        along.push_back(directions[i]);
      }
      if (!linear.empty()) {
        const std::vector<Variable> found = grad(
            linear, seeds, {.grad_outputs = along, .create_graph = true, .allow_unused = true});
        for (std::size_t k = 0; k < found.size(); ++k)
          if (found[k].defined()) tangents[places[k]] = inputs.outer(found[k]);
      }
    }
    for (Variable& v : results) v = inputs.outer(v);
  }
  for (std::size_t k = 0; k < results.size(); ++k)
    if (tangents[k].defined()) results[k] = make_dual(trace, results[k], tangents[k]);
  return results;
}

/// A function on all lanes of a vmap at once, as a function of what its stand-ins are made of: what
/// differentiates from outside of the vmap follows the derivative of one's own there too.
class LanesFunction final : public AnyFunction {
 public:
  LanesFunction(std::shared_ptr<AnyFunction> f, Trace& trace, std::vector<bool> mapped)
      : f_(std::move(f)), trace_(&trace), lanes_(trace.lanes), mapped_(std::move(mapped)) {
    name = f_->name;
    forward_takes_variables = true;
    backward_takes_variables = f_->backward_takes_variables;
  }
  void forget_trace() { trace_ = nullptr; }

  std::vector<Variable> forward(FunctionContext& context,
                                const std::vector<Variable>& in) override {
    const Inside inside(*this);
    FunctionContext lane;
    FunctionAccess::needs(lane) = FunctionAccess::needs(context);
    std::vector<Variable> operands;
    for (std::size_t i = 0; i < in.size(); ++i)
      operands.push_back(mapped_[i] ? make_mapped(inside.trace, in[i]) : in[i]);
    const std::vector<Variable> results = run_forward(*f_, lane, operands);
    std::vector<Variable> out, saved, unwanted;
    for (const Variable& v : results) out.push_back(stacked(inside.below(v), lanes_));
    saved_mapped_.clear();
    for (const Variable& v : lane.saved()) {
      const std::size_t k = v.defined() ? find(results, v) : results.size();
      const Mapped value = k < results.size() && find(operands, v) == operands.size()
                               ? Mapped{out[k], true}
                               : inside.below(v);
      saved.push_back(value.value);
      saved_mapped_.push_back(value.mapped);
    }
    for (const Variable& v : FunctionAccess::non_differentiable(lane))
      if (const std::size_t k = find(results, v); k < out.size()) unwanted.push_back(out[k]);
    context.save_for_backward(std::move(saved));
    context.mark_non_differentiable(std::move(unwanted));
    return out;
  }

  std::vector<Variable> backward(FunctionContext& context,
                                 const std::vector<Variable>& gradients) override {
    if (!backward_takes_variables)
      throw AutogradError(concat("'", name,
                                 "': its backward is written in Tensors, so it cannot run inside "
                                 "vmap; write it in Variables"));
    const Inside inside(*this);
    FunctionContext lane;
    FunctionAccess::needs(lane) = FunctionAccess::needs(context);
    for (std::size_t i = 0; i < context.saved().size(); ++i)
      FunctionAccess::saved(lane).push_back(
          saved_mapped_[i] ? make_mapped(inside.trace, context.saved()[i]) : context.saved()[i]);
    std::vector<Variable> arrived;
    arrived.reserve(gradients.size());
    for (const Variable& g : gradients) arrived.push_back(make_mapped(inside.trace, g));
    std::vector<Variable> made = f_->backward(lane, arrived);
    if (made.size() != mapped_.size()) return std::vector<Variable>(made.size());
    for (std::size_t i = 0; i < made.size(); ++i) {
      if (!made[i].defined()) continue;
      made[i] = stacked(inside.below(made[i]), lanes_);
      if (!mapped_[i]) made[i] = sum(made[i], {0}, false);
    }
    return made;
  }

 private:
  // The vmap that the function was called in, or where that is not at hand one like it.
  struct Inside {
    explicit Inside(const LanesFunction& f)
        : again(f.trace_ && f.trace_->outer == autograd_thread.trace),
          own(again ? std::optional<Trace>()
                    : std::optional<Trace>(std::in_place, Trace::Kind::Vmap, f.lanes_)),
          trace(again ? *f.trace_ : *own),
          entered(&AutogradThread::trace, &trace) {}
    Mapped below(const Variable& v) const {
      const Traced* lanes = v.defined() ? traced_at(v, trace.level) : nullptr;
      return lanes ? Mapped{lanes->value, lanes->mapped} : Mapped{v, false};
    }
    const bool again;
    std::optional<Trace> own;
    Trace& trace;
    const Replaced<Trace*> entered;
  };

  std::shared_ptr<AnyFunction> f_;
  Trace* trace_;  // while the call lasts
  std::int64_t lanes_;
  std::vector<bool> mapped_, saved_mapped_;
};

// Whether something outside of the transform that `v` is of differentiates it.
bool differentiated(const Variable& v) {
  if (records(v)) return true;
  const Traced* t = traced(v.data());
  return t && running(t->trace) && (t->tangent.defined() || differentiated(t->value));
}

std::vector<Variable> in_lanes(Trace& trace, const std::shared_ptr<AnyFunction>& f,
                               const std::vector<Variable>& in) {
  std::vector<Variable> values;
  std::vector<bool> mapped;
  bool any = false, own_derivative = false;
  for (const Variable& v : in) {
    const Traced* lanes = traced_at(v, trace.level);
    values.push_back(lanes ? lanes->value : v);
    mapped.push_back(lanes && lanes->mapped);
    any |= mapped.back();
    own_derivative |= differentiated(values.back());
  }
  if (!any) {
    const Replaced<Trace*> down(&AutogradThread::trace, trace.outer);
    return apply_any(f, values);
  }
  if (!f->forward_takes_variables) refuse_lanes(*f);
  if (own_derivative) {
    const auto all = std::make_shared<LanesFunction>(f, trace, std::move(mapped));
    std::vector<Variable> results;
    {
      const Replaced<Trace*> down(&AutogradThread::trace, trace.outer);
      results = apply_any(all, values);
    }
    all->forget_trace();
    for (Variable& v : results) v = make_mapped(trace, v);
    return results;
  }
  FunctionContext context;
  FunctionAccess::needs(context).resize(in.size());
  return run_forward(*f, context, in);
}

std::vector<Variable> apply_any(const std::shared_ptr<AnyFunction>& f,
                                const std::vector<Variable>& in) {
  const Levels levels(in);
  if (levels.graph >= 1 && levels.graph >= levels.transform) return record_at(levels.graph, f, in);
  if (levels.transform == 0) return apply_plain(f, in, levels.graph == 0);
  Trace& trace = trace_at(levels.transform);
  std::vector<Variable> values;
  values.reserve(in.size());
  for (const Variable& v : in) values.push_back(below_level(v, levels.transform));
  return trace.kind == Trace::Kind::Jvp ? with_tangents(trace, f, values)
                                        : in_lanes(trace, f, values);
}

}  // namespace

std::vector<Variable> detail::apply_function(const std::shared_ptr<AnyFunction>& f,
                                             const std::vector<Variable>& in) {
  for (const Variable& v : in)
    if (!v.defined()) tensor::detail::check_defined(f->name.c_str(), v.data());
  return apply_any(f, in);
}

}  // namespace lmp::autograd
