#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "lamppp/autograd/hooks.hpp"
#include "lamppp/autograd/variable.hpp"
#include "tensor/allocator.hpp"
#include "tensor/queue.hpp"

namespace lmp::autograd {

struct VariableAccess {
  static Variable make(Tensor&& data, detail::NodeHandle node) {
    return Variable(std::move(data), std::move(node));
  }
  static Variable make(const Tensor& data, detail::NodeHandle node) {
    return Variable(Tensor(data), std::move(node));
  }
  static Node* node(const Variable& v) noexcept { return v.node_.get(); }
  static const detail::NodeHandle& handle(const Variable& v) noexcept { return v.node_; }
};

template <class V>
class Pass;
struct Trace;

/// From a node to the node that made one of its inputs. Keeps the input's shape and type, which
/// gradients are brought back to; the node is null where the input wants no gradient.
struct Edge {
  Node* node = nullptr;
  DataType type = DataType::Float32;
  Shape shape;
};

/// How often the memory behind a tensor was written in place; of a value inside a transform, the
/// memory behind that and behind its tangents.
std::uint32_t version_of(const Tensor& t) noexcept;

/// A tensor (or number) that backward reads, with its version when it was saved.
struct Saved {
  Tensor tensor;
  std::uint32_t version = 0;
  Number number = 0;

  Saved() = default;
  explicit Saved(Tensor t) : tensor(std::move(t)), version(tensor.version()) {}
  explicit Saved(Number n) : number(n) {}
};

/// The hooks of a node, shared with the handles that remove them.
class HookList;

/// What few nodes have: hooks, a place in the program, saved values that hooks packed.
struct NodeExtras {
  CallSite site = CallSite::unknown();
  std::shared_ptr<HookList> hooks;  // never null, so that passes on other threads may look
  /// By saved slot; null where the value is in the slot itself.
  std::vector<std::shared_ptr<detail::PackedTensor>> packed;
  /// What was packed.
  struct Packed {
    Shape shape;
    DataType type;
  };
  std::vector<Packed> given;
};

/// Note [Nodes]
/// A node is one block: the object, its edges, what it saved. It is owned by the edges that lead to
/// it and by the Variables that stand for its results; the two are counted apart, since a result
/// keeps its gradient only while a Variable could ask for it. A node saves Tensors, never
/// Variables, so nodes form no cycles. `sequence` is larger than that of every input's node:
/// descending order is a reverse topological order. A node whose count drops to zero joins a list
/// of its thread and is destroyed from there, so the destruction of a long chain does not recurse.
class Node {
 public:
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  virtual const char* name() const noexcept = 0;
  /// Adds the gradients of the inputs to the pass. May consume the incoming one.
  virtual void backward(Pass<Tensor>& pass) = 0;
  virtual void backward(Pass<Variable>& pass) = 0;
  virtual bool is_leaf() const noexcept { return false; }

  std::uint64_t sequence() const noexcept { return sequence_; }
  /// The streams that the forward ran on; see tensor/queue.hpp.
  std::uint16_t queues() const noexcept { return queues_; }
  int num_edges() const noexcept { return num_edges_; }
  const Edge& edge(int i) const noexcept { return edges_[i]; }
  int num_saved() const noexcept { return num_saved_; }
  const Saved& saved(int i) const noexcept { return saved_[i]; }
  /// Input i as saved. Throws AutogradError where it was changed since.
  const Saved& checked(int i) const {
    const Saved& s = saved_[i];
    if (s.tensor.defined() && s.tensor.version() != s.version) [[unlikely]]
      check_changed(s);
    return s;
  }

  void retain(std::uint64_t unit) noexcept { counts_.fetch_add(unit, std::memory_order_relaxed); }
  void release(std::uint64_t unit) noexcept;
  /// A share in a node that somebody knows without owning it: false where it is on its way out. The
  /// caller sees to it that its memory is still there.
  bool try_retain(std::uint64_t unit) noexcept {
    std::uint64_t count = counts_.load(std::memory_order_relaxed);
    while (count != 0)
      if (counts_.compare_exchange_weak(count, count + unit, std::memory_order_relaxed))
        return true;
    return false;
  }
  static constexpr std::uint64_t kEdgeUnit = 1;
  static constexpr std::uint64_t kHandleUnit = std::uint64_t{1} << 32;
  bool has_handles() const noexcept { return counts_.load(std::memory_order_relaxed) >> 32 != 0; }

  /// A pass says that it reads what was saved, and that it has done so. Without `keep` it is the
  /// last one: end_use drops what was saved. Throws AutogradError where another pass was the last
  /// one, or is at work here while this one wants to be.
  void begin_use(bool keep);
  void end_use(bool keep) noexcept;
  bool released() const noexcept { return uses_.load(std::memory_order_acquire) & kLastUse; }

  /// The gradient kept for the Variables that stand for the result (of a leaf: the accumulated
  /// one); undefined if none.
  Tensor kept_gradient() const;
  void keep_gradient(const Tensor& gradient);
  void add_gradient(Tensor gradient);
  void clear_gradient();

  /// Null where the node has none, which is usual.
  NodeExtras* extras() const noexcept { return extras_.load(std::memory_order_acquire); }
  NodeExtras& need_extras();

  // Where the pass that works on this node has its incoming gradient; see Note [Passes].
  std::atomic<const void*> owner{nullptr};
  std::uint32_t slot = 0;
  /// The transform inside which it was made (Note [Transforms]), 0 outside of all.
  std::uint32_t trace = 0;

 protected:
  Node() = default;
  virtual ~Node();

 private:
  friend class NodeBuilder;
  static void dispose(Node* node) noexcept;
  void drop_saved() noexcept;
  void check_changed(const Saved& s) const;
  Tensor& gradient_slot();  // under the lock
  struct Lock;
  static constexpr std::uint32_t kLastUse = 1, kReader = 2;

  std::atomic<std::uint64_t> counts_{kHandleUnit};
  std::uint64_t sequence_ = 0;
  Edge* edges_ = nullptr;
  Saved* saved_ = nullptr;
  Tensor* gradient_ = nullptr;
  std::atomic<NodeExtras*> extras_{nullptr};
  Node* next_disposed_ = nullptr;
  std::size_t bytes_ = 0;
  std::int32_t num_edges_ = 0;
  std::atomic<std::uint32_t> uses_{0};
  std::uint16_t num_saved_ = 0;
  std::uint16_t queues_ = tensor::detail::current_queues;
  mutable std::atomic<bool> locked_{false};

 protected:
  bool known_weakly_ = false;  // try_retain may be called
};

/// Fills in a new node's edges and saved values.
class NodeBuilder {
 public:
  template <class T, class... A>
  [[gnu::always_inline]] static NodeBuilder make(int edges, int saved, A&&... args) {
    static_assert(std::is_base_of_v<Node, T> && alignof(T) <= 64);
    constexpr std::size_t kAlign = alignof(std::max_align_t);
    const std::size_t head = (sizeof(T) + kAlign - 1) / kAlign * kAlign;
    const std::size_t bytes = head + static_cast<std::size_t>(edges) * sizeof(Edge) +
                              static_cast<std::size_t>(saved) * sizeof(Saved);
    void* block = tensor::detail::cpu_allocate(bytes);
    T* node;
    try {
      node = new (block) T(std::forward<A>(args)...);
    } catch (...) {
      tensor::detail::cpu_deallocate(block, bytes);
      throw;
    }
    node->bytes_ = bytes;
    node->edges_ = reinterpret_cast<Edge*>(static_cast<std::byte*>(block) + head);
    node->saved_ = reinterpret_cast<Saved*>(node->edges_ + edges);
    return NodeBuilder(node);
  }
  /// The next input. Numbers and values without a gradient get an edge to nowhere.
  void add_edge(const Variable& input);
  void add_edge(const Tensor& input);
  void add_edge();
  /// An edge to `to` for a value of this shape and type.
  void add_edge(Node* to, const Shape& shape, DataType type);
  template <class T>
  void save(T&& value) {
    new (node_->saved_ + node_->num_saved_) Saved(std::forward<T>(value));
    ++node_->num_saved_;
  }
  /// The node, numbered after its inputs, and one handle to it.
  detail::NodeHandle finish();

 private:
  explicit NodeBuilder(Node* node) : node_(node), owner_(node) {}
  void finish_intercepted();
  Node* node_;
  detail::NodeHandle owner_;
  std::uint64_t after_ = 0;
};

/// A leaf: where a gradient comes to rest.
class LeafNode final : public Node {
 public:
  explicit LeafNode(const Tensor& value)
      : shape(value.shape()), type(value.type()), device(value.device()) {}
  const char* name() const noexcept override { return "leaf"; }
  void backward(Pass<Tensor>&) override {}
  void backward(Pass<Variable>&) override {}
  bool is_leaf() const noexcept override { return true; }
  const Shape shape;
  const DataType type;
  const Device device;
};

/// held += gradient, of one shape and type, into dense memory that nobody else holds.
void accumulate(const Tensor& held, const Tensor& gradient);

/// What a thread knows: whether it records, the last sequence number, nodes on their way out, and
/// whoever looks at its operations.
struct AutogradThread {
  bool recording = true;
  /// Whether anything below is set: then operations on Variables take the long way. See
  /// intercept.hpp.
  bool intercepted = false;
  bool inference = false;
  bool disposing = false;
  int anomaly = 0;
  std::uint64_t sequence = 0;
  Node* disposed = nullptr;
  Trace* trace = nullptr;                     // the innermost transform
  detail::SavedTensorHooks* saved = nullptr;  // the innermost pair of hooks
  const CallSite* site = nullptr;             // of the outermost call that is running

  void update() noexcept { intercepted = trace || saved || anomaly > 0; }
};
extern constinit thread_local AutogradThread autograd_thread
    __attribute__((tls_model("initial-exec")));

/// Sets a thread's member for a while.
template <class T>
class Replaced {
 public:
  Replaced(T AutogradThread::*member, T value)
      : member_(member), previous_(std::exchange(autograd_thread.*member, value)) {
    autograd_thread.update();
  }
  Replaced(const Replaced&) = delete;
  ~Replaced() {
    autograd_thread.*member_ = previous_;
    autograd_thread.update();
  }

 private:
  T AutogradThread::*member_;
  T previous_;
};

/// Whether an op on these inputs is recorded.
inline bool records(const Variable& v) noexcept {
  return v.requires_grad() && autograd_thread.recording;
}

}  // namespace lmp::autograd
