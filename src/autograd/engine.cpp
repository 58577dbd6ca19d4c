#include "autograd/engine.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "autograd/hook_list.hpp"
#include "autograd/trace.hpp"
#include "lamppp/autograd/ops.hpp"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"
#include "tensor/profile_scope.hpp"

namespace lmp::autograd {

using tensor::TensorAccess;
using tensor::detail::concat;

namespace {

// Memory of a pass comes from the library's allocator, which costs a few nanoseconds where malloc
// costs tens.
template <class T>
struct PoolAllocator {
  using value_type = T;
  PoolAllocator() = default;
  template <class U>
  PoolAllocator(const PoolAllocator<U>&) noexcept {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(
        tensor::detail::cpu_allocate(n * sizeof(T)));  // NOLINT(bugprone-sizeof-expression)
  }
  void deallocate(T* p, std::size_t n) noexcept {
    tensor::detail::cpu_deallocate(p, n * sizeof(T));  // NOLINT(bugprone-sizeof-expression)
  }
  friend bool operator==(PoolAllocator, PoolAllocator) { return true; }
};
template <class T>
using PoolVector = std::vector<T, PoolAllocator<T>>;
template <class K, class T>
using PoolMap =
    std::unordered_map<K, T, std::hash<K>, std::equal_to<K>, PoolAllocator<std::pair<const K, T>>>;

// What a gradient that an AnomalyGuard looks at is; else the number of the operand that an
// operation computed it for.
enum : int { kSeed = -1, kSum = -2, kHook = -3 };

// Throws, naming the first element of `gradient` that is not finite.
[[noreturn]] void not_finite(const Node& node, int what, const Tensor& gradient) {
  const std::vector<double> values = gradient.to_vector<double>();
  std::size_t at = 0;
  while (std::isfinite(values[at])) ++at;
  IntList index(gradient.shape());
  std::size_t rest = at;
  for (std::size_t d = index.size(); d-- > 0; rest /= gradient.shape()[d])
    index[d] = static_cast<std::int64_t>(rest % gradient.shape()[d]);
  const NodeExtras* extras = node.extras();
  std::string name = concat("'", node.name(), "'");
  if (extras && extras->site.line() != 0)
    name += concat(", called at ", extras->site.file(), ":", extras->site.line(), ",");
  else if (!node.is_leaf())
    name += extras ? " (its line is not known)"
                   : " (called outside any AnomalyGuard: its line is not known)";
  const std::string value = std::isnan(values[at]) ? "nan" : values[at] > 0 ? "inf" : "-inf";
  const std::string described =
      what == kSeed   ? concat("the gradient of ", name, " that the backward pass starts from")
      : what == kSum  ? concat("the sum of the gradients for the result of ", name)
      : what == kHook ? concat("the gradient that a hook of ", name, " returned")
                      : concat("the gradient that ", name, " computes for operand ", what);
  throw AutogradError(
      concat("anomaly: ", described, " is ", value, " at ", index, " of shape ", gradient.shape()));
}

/// `g` summed over the axes along which `shape` was broadcast to its shape.
template <class V>
V sum_to(const V& g, const Shape& shape) {
  const int lead = g.ndim() - shape.ndim();
  IntList axes;
  for (int d = 0; d < g.ndim(); ++d)
    if (d < lead || (shape.dim(d - lead) == 1 && g.shape().dim(d) != 1)) axes.push_back(d);
  const V summed = axes.empty() ? g : sum(g, axes);
  return summed.shape() == shape ? summed : reshape(summed, shape);
}

/// Note [Passes]
/// Nodes run in descending order of their sequence numbers, so each has its whole gradient when its
/// turn comes. Gradients on their way wait in slots of the pass. A node that is waited for names
/// the pass and its slot in itself; if another pass on another thread works on the same graph at
/// the time, the later one keeps its slots in a map instead. The pass owns (has a reference to)
/// every node that waits.
template <class V>
class Engine final : public Pass<V> {
 public:
  Engine(std::vector<Capture<V>>* captures, bool retain_graph, bool create_graph)
      : Pass<V>(retain_graph, create_graph),
        captures_(captures),
        anomaly_(autograd_thread.anomaly > 0) {
    slots_.reserve(4);
    heap_.reserve(8);
  }
  Engine(const Engine&) = delete;
  ~Engine() override {
    for (const Waiting& w : heap_) abandon(w.node);
    if (tensor::detail::current_queues != home_) [[unlikely]]
      go_home();
  }

  void start(std::span<Root<V>> roots) {
    if (captures_) find_needed(roots);
    for (Root<V>& r : roots) {
      if (!needed(r.node)) continue;
      if (anomaly_) check_finite(r.node, kSeed, r.seed);
      receive(r.node, std::move(r.seed));
    }
  }

  void run() {
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      const Waiting top = heap_.back();
      heap_.pop_back();
      const std::uint32_t slot = take_slot(top.node);
      const EdgeRef reference{top.node};
      this->node_ = top.node;
      this->gradient_ = std::move(slots_[slot]);
      free_.push_back(slot);
      visit();
    }
  }

  void add(int input, V gradient) override {
    const Edge& edge = this->node_->edge(input);
    if (!edge.node || !needed(edge.node)) return;
    if (gradient.shape() != edge.shape) gradient = sum_to(gradient, edge.shape);
    if (gradient.type() != edge.type) gradient = astype(gradient, edge.type);
    if (anomaly_) [[unlikely]]
      check_finite(this->node_, input, gradient);
    if (collected_) [[unlikely]] {
      V& held = (*collected_)[static_cast<std::size_t>(input)];
      held = held.defined() ? held + gradient : std::move(gradient);
      return;
    }
    receive(edge.node, std::move(gradient));
  }

  const Tensor* pending(int input, const Shape& shape, DataType type) override {
    if constexpr (std::is_same_v<V, Tensor>) {
      if (collected_ || anomaly_) return nullptr;
      const Edge& edge = this->node_->edge(input);
      if (edge.shape != shape || edge.type != type) return nullptr;
      const std::uint32_t* slot = find_slot(edge.node);
      if (!slot) return nullptr;
      const Tensor& t = slots_[*slot];
      return t.is_contiguous() && t.type() == type && TensorAccess::unique(t) ? &t : nullptr;
    } else {
      (void)input;
      (void)shape;
      (void)type;
      return nullptr;
    }
  }

  bool meet(int a, int b, const Tensor& like) const override {
    const Edge &x = this->node_->edge(a), &y = this->node_->edge(b);
    return !collected_ && !anomaly_ && x.node == y.node && x.shape == like.shape() &&
           y.shape == like.shape() && x.type == like.type() && y.type == like.type();
  }

  void add_result(Node* to, std::size_t k, std::size_t count, V gradient) override {
    if (!needed(to)) return;
    if (collected_) [[unlikely]] {
      collected_->front() = std::move(gradient);
      of_result_ = {k, count};
      return;
    }
    std::vector<V>& held = rare().results[to];
    held.resize(count);
    held[k] = held[k].defined() ? held[k] + gradient : std::move(gradient);
    if (!find_slot(to)) receive(to, V());
  }

  std::vector<V> results() override {
    auto found = rare().results.extract(this->node_);
    return found.empty() ? std::vector<V>() : std::move(found.mapped());
  }

 private:
  struct Waiting {
    std::uint64_t sequence;
    std::uint64_t order;
    Node* node;
    bool operator<(const Waiting& other) const noexcept {
      return sequence != other.sequence ? sequence < other.sequence : order > other.order;
    }
  };
  struct EdgeRef {
    Node* node;
    ~EdgeRef() { node->release(Node::kEdgeUnit); }
  };

  void visit() {
    Node& node = *this->node_;
    // Leaves, and what is done to gradients on the way, go where the pass was started.
    const std::uint16_t queues = node.is_leaf() ? home_ : node.queues();
    if (queues != tensor::detail::current_queues) [[unlikely]]
      tensor::detail::change_queues(queues);
    NodeExtras* const extras = node.extras();
    if (anomaly_ && this->gradient_.defined()) [[unlikely]]
      check_finite(&node, kSum, this->gradient_);
    if (extras) [[unlikely]] {
      extras->hooks->run_gradient(this->gradient_, node);
      if (anomaly_ && this->gradient_.defined()) check_finite(&node, kHook, this->gradient_);
    }
    if (captures_) {
      const Mark& mark = wanted_->marks.find(&node)->second;
      for (std::int32_t c = mark.capture; c >= 0; c = wanted_->next[static_cast<std::size_t>(c)])
        (*captures_)[static_cast<std::size_t>(c)].gradient = this->gradient_;
      if (!mark.leads) return;
    } else if constexpr (std::is_same_v<V, Tensor>) {
      if (node.is_leaf()) {
        node.add_gradient(std::move(this->gradient_));
        if (extras) extras->hooks->run_accumulated(node);
        return;
      }
      if (node.has_handles() && this->gradient_.defined()) node.keep_gradient(this->gradient_);
    }
    if constexpr (std::is_same_v<V, Tensor>)
      if (node.trace != 0) [[unlikely]]
        refuse_lanes(node);
    node.begin_use(this->retain_graph_);
    const Use use{node, this->retain_graph_};
    // What gradients record belongs to the line of the operation itself.
    static constexpr CallSite kUnknown = CallSite::unknown();
    std::optional<Replaced<const CallSite*>> site;
    if (anomaly_) [[unlikely]]
      site.emplace(&AutogradThread::site, extras ? &extras->site : &kUnknown);
    tensor::detail::profiled(node, [&] {
      if (extras) [[unlikely]]
        backward_with(*extras);
      else
        node.backward(*this);
    });
    this->gradient_ = V();
  }

  // Kernels read memory, and a value under vmap has none; a graph that outlived its vmap may hold
  // such values.
  static void refuse_lanes(const Node& node) {
    for (int i = 0; i < node.num_saved(); ++i)
      if (const Tensor& t = node.saved(i).tensor; t.defined())
        tensor::detail::check_defined(node.name(), t);
  }

  struct Use {
    Node& node;
    bool keep;
    ~Use() { node.end_use(keep); }
  };

  // Gives back what hooks packed, and runs the node's own hooks.
  void backward_with(const NodeExtras& extras) {
    Node& node = *this->node_;
    struct Clear {
      Engine& engine;
      ~Clear() {
        engine.unpacked_ = nullptr;
        engine.collected_ = nullptr;
        engine.of_result_ = {};
      }
    } const clear{*this};
    std::vector<Saved> unpacked;
    for (std::size_t i = 0; i < extras.packed.size(); ++i)
      unpacked.push_back(extras.packed[i] ? unpack(*extras.packed[i], static_cast<int>(i))
                                          : node.checked(static_cast<int>(i)));
    if (!unpacked.empty()) this->unpacked_ = &unpacked;
    if (!extras.hooks->has_node_hooks()) return node.backward(*this);
    std::vector<V> made(static_cast<std::size_t>(node.num_edges()));
    const V result = this->gradient_;
    collected_ = &made;
    node.backward(*this);
    collected_ = nullptr;
    extras.hooks->run_node(made, result, node);
    if (anomaly_)
      for (const V& gradient : made)
        if (gradient.defined()) check_finite(&node, kHook, gradient);
    if (const auto [k, count] = std::exchange(of_result_, {}); count != 0) {
      if (made.front().defined()) add_result(node.edge(0).node, k, count, std::move(made.front()));
      return;
    }
    for (int i = 0; i < node.num_edges(); ++i)
      if (V& gradient = made[static_cast<std::size_t>(i)]; gradient.defined())
        receive(node.edge(i).node, std::move(gradient));
  }

  // What hooks give back for a slot has to be what they were given, but for its memory.
  Saved unpack(detail::PackedTensor& packed, int slot) const {
    const Node& node = *this->node_;
    const Replaced<detail::SavedTensorHooks*> off(&AutogradThread::saved, nullptr);
    const NoGradGuard unrecorded;
    Tensor t = packed.unpack(node.name());
    const NodeExtras::Packed& given = node.extras()->given[static_cast<std::size_t>(slot)];
    if (!t.defined() || t.shape() != given.shape || t.type() != given.type)
      throw AutogradError(concat(
          "saved-tensor hooks: unpack returned ",
          t.defined() ? concat(t.type(), " of shape ", t.shape()) : std::string("nothing"),
          " for a tensor of '", node.name(), "' that was ", given.type, " of shape ", given.shape));
    tensor::detail::check_defined(node.name(), t);  // no value under vmap
    return Saved(std::move(t));
  }

  // Throws where `gradient`, for operand `what` of `node` or what else that says, is not finite.
  static void check_finite(const Node* node, int what, const V& gradient) {
    if constexpr (std::is_same_v<V, Variable>) {
      // Inside transforms: all lanes, and tangents too.
      for (const Traced* at = traced(gradient.data()); at; at = traced(at->value.data()))
        if (at->tangent.defined()) check_finite(node, what, at->tangent);
      check_plain(node, what, plain_value(gradient));
    } else {
      check_plain(node, what, gradient);
    }
  }
  static void check_plain(const Node* node, int what, const Tensor& t) {
    if (tensor::ops::all(tensor::ops::isfinite(t)).item() == 0) not_finite(*node, what, t);
  }

  std::uint32_t* find_slot(Node* node) {
    if (node->owner.load(std::memory_order_acquire) == this) return &node->slot;
    if (!rare_) [[likely]]
      return nullptr;
    const auto found = rare_->shared.find(node);
    return found == rare_->shared.end() ? nullptr : &found->second;
  }

  std::uint32_t take_slot(Node* node) {
    if (node->owner.load(std::memory_order_acquire) == this) {
      const std::uint32_t slot = node->slot;
      node->owner.store(nullptr, std::memory_order_release);
      return slot;
    }
    const auto found = rare_->shared.find(node);
    const std::uint32_t slot = found->second;
    rare_->shared.erase(found);
    return slot;
  }

  void abandon(Node* node) noexcept {
    if (node->owner.load(std::memory_order_acquire) == this)
      node->owner.store(nullptr, std::memory_order_release);
    node->release(Node::kEdgeUnit);
  }

  void receive(Node* node, V gradient) {
    if (const std::uint32_t* slot = find_slot(node)) {
      V& held = slots_[*slot];
      if constexpr (std::is_same_v<V, Tensor>) {
        if (held.is_contiguous() && TensorAccess::unique(held)) {
          accumulate(held, gradient);
          return;
        }
      }
      held = held + gradient;
      return;
    }
    std::uint32_t slot;
    if (free_.empty()) {
      slot = static_cast<std::uint32_t>(slots_.size());
      slots_.push_back(std::move(gradient));
      free_.reserve(slots_.size());
    } else {
      slot = free_.back();
      free_.pop_back();
      slots_[slot] = std::move(gradient);
    }
    heap_.reserve(heap_.size() + 1 > heap_.capacity() ? 2 * heap_.capacity() : heap_.capacity());
    const void* nobody = nullptr;
    if (node->owner.compare_exchange_strong(nobody, this, std::memory_order_acq_rel)) {
      node->slot = slot;
    } else {
      rare().shared.emplace(node, slot);
    }
    node->retain(Node::kEdgeUnit);
    heap_.push_back({node->sequence(), order_++, node});
    std::push_heap(heap_.begin(), heap_.end());
  }

  void go_home() noexcept {
    try {
      tensor::detail::change_queues(home_);
    } catch (...) {  // the GPU is lost, which the next op will say
    }
  }

  bool needed(Node* node) const {
    if (!captures_) return true;
    const auto found = wanted_->marks.find(node);
    return found != wanted_->marks.end() && found->second.needed();
  }

  // Marks the nodes from which a captured one is reached, by a walk with a stack of its own.
  void find_needed(std::span<const Root<V>> roots) {
    wanted_ = std::make_unique<Wanted>();
    auto& marks = wanted_->marks;
    wanted_->next.resize(captures_->size());
    for (std::size_t c = 0; c < captures_->size(); ++c)
      wanted_->next[c] =
          std::exchange(marks[(*captures_)[c].node].capture, static_cast<std::int32_t>(c));
    struct Step {
      Node* node;
      int next;
      bool leads;
    };
    PoolVector<Step> stack;
    for (const Root<V>& r : roots) {
      if (std::exchange(marks[r.node].seen, true)) continue;
      stack.push_back({r.node, 0, false});
      while (!stack.empty()) {
        Step& step = stack.back();
        if (step.next < step.node->num_edges()) {
          Node* to = step.node->edge(step.next).node;
          if (!to) {
            ++step.next;
            continue;
          }
          Mark& mark = marks[to];
          if (mark.seen) {  // by now also done, since graphs have no cycles
            step.leads |= mark.needed();
            ++step.next;
          } else {
            mark.seen = true;
            stack.push_back({to, 0, false});
          }
          continue;
        }
        marks[step.node].leads = step.leads;
        stack.pop_back();
      }
    }
  }

  std::vector<Capture<V>>* captures_;
  bool anomaly_;
  std::uint16_t home_ = tensor::detail::current_queues;
  std::vector<V>* collected_ = nullptr;  // in the place of add(), where a node has hooks
  std::pair<std::size_t, std::size_t> of_result_{};  // and of add_result(): k and count
  std::uint64_t order_ = 0;
  PoolVector<V> slots_;
  PoolVector<std::uint32_t> free_;
  PoolVector<Waiting> heap_;
  // With captures: what the pass has to know of each node.
  struct Mark {
    std::int32_t capture = -1;  // the last one of this node; Wanted::next has the others
    bool seen = false;
    bool leads = false;  // to a captured node, so that it has to run
    bool needed() const noexcept { return leads || capture >= 0; }
  };
  struct Wanted {
    PoolMap<Node*, Mark> marks;
    std::vector<std::int32_t> next;
  };
  std::unique_ptr<Wanted> wanted_;
  // What most passes do not need: slots of nodes that another pass works on, gradients of nodes
  // with several results.
  struct Rare {
    std::unordered_map<Node*, std::uint32_t> shared;
    std::unordered_map<Node*, std::vector<V>> results;
  };
  Rare& rare() {
    if (!rare_) rare_ = std::make_unique<Rare>();
    return *rare_;
  }
  std::unique_ptr<Rare> rare_;
};

}  // namespace

template <class V>
void run_pass(std::span<Root<V>> roots, std::vector<Capture<V>>* captures, bool retain_graph,
              bool create_graph) {
  Engine<V> engine(captures, retain_graph, create_graph);
  engine.start(roots);
  engine.run();
}

template void run_pass(std::span<Root<Tensor>>, std::vector<Capture<Tensor>>*, bool, bool);
template void run_pass(std::span<Root<Variable>>, std::vector<Capture<Variable>>*, bool, bool);

}  // namespace lmp::autograd
