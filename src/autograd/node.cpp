#include "autograd/node.hpp"

#include <algorithm>
#include <memory>
#include <thread>

#include "autograd/hook_list.hpp"
#include "autograd/trace.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"
#include "tensor/format.hpp"

namespace lmp::autograd {

using tensor::TensorAccess;
using tensor::detail::concat;

constinit thread_local AutogradThread autograd_thread;

const char* name_of(const Node& node) noexcept { return node.name(); }

void accumulate(const Tensor& held, const Tensor& gradient) {
  const tensor::detail::Operand terms[2] = {held, gradient};
  tensor::detail::backend(held.device()).forward(table::OpId::Add, held.type(), held, terms, 2);
}

namespace detail {
void retain_handle(Node* node) noexcept { node->retain(Node::kHandleUnit); }
void release_handle(Node* node) noexcept { node->release(Node::kHandleUnit); }
}  // namespace detail

struct Node::Lock {
  explicit Lock(const Node& node) : flag(node.locked_) {
    while (flag.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
  }
  Lock(const Lock&) = delete;
  ~Lock() { flag.store(false, std::memory_order_release); }
  std::atomic<bool>& flag;
};

Node::~Node() {
  if (num_saved_ != 0) drop_saved();
  if (NodeExtras* more = extras_.load(std::memory_order_relaxed)) [[unlikely]]
    delete more;
  if (gradient_) {
    gradient_->~Tensor();
    tensor::detail::cpu_deallocate(gradient_, sizeof(Tensor));
  }
  for (int i = 0; i < num_edges_; ++i) {
    if (edges_[i].node) edges_[i].node->release(kEdgeUnit);
    edges_[i].~Edge();
  }
}

void Node::release(std::uint64_t unit) noexcept {
  // The only owner left needs no atomic read-modify-write; see StorageRef.
  if ((counts_.load(std::memory_order_acquire) == unit && !known_weakly_) ||
      counts_.fetch_sub(unit, std::memory_order_acq_rel) == unit)
    dispose(this);
}

void Node::dispose(Node* node) noexcept {
  AutogradThread& thread = autograd_thread;
  node->next_disposed_ = thread.disposed;
  thread.disposed = node;
  if (thread.disposing) return;
  thread.disposing = true;
  while (Node* next = thread.disposed) {
    thread.disposed = next->next_disposed_;
    const std::size_t bytes = next->bytes_;
    next->~Node();
    tensor::detail::cpu_deallocate(next, bytes);
  }
  thread.disposing = false;
}

void Node::drop_saved() noexcept {
  for (int i = 0; i < num_saved_; ++i) saved_[i].~Saved();
  num_saved_ = 0;
  if (NodeExtras* more = extras()) [[unlikely]]
    more->packed.clear();
}

void Node::begin_use(bool keep) {
  const std::uint32_t before = keep ? uses_.fetch_add(kReader, std::memory_order_acq_rel)
                                    : uses_.fetch_or(kLastUse, std::memory_order_acq_rel);
  if (before == 0 || (keep && !(before & kLastUse))) [[likely]]
    return;
  if (keep) uses_.fetch_sub(kReader, std::memory_order_acq_rel);
  if (before & kLastUse)
    throw AutogradError(concat("backward: the graph was released by an earlier pass at '", name(),
                               "'; give retain_graph = true to the first pass to run it again"));
  uses_.fetch_and(~kLastUse, std::memory_order_acq_rel);
  throw AutogradError(concat("backward: another thread runs a pass through '", name(),
                             "', which this one would release; give retain_graph = true to passes "
                             "that share a part of a graph"));
}

void Node::end_use(bool keep) noexcept {
  if (keep)
    uses_.fetch_sub(kReader, std::memory_order_acq_rel);
  else
    drop_saved();
}

void Node::check_changed(const Saved& s) const {
  // A stand-in's own version says nothing; see finish_intercepted.
  const std::uint32_t now = version_of(s.tensor);
  if (traced(s.tensor) && ~now == s.version) {
    if (value_level(s.tensor) == 0) tensor::detail::check_defined(name(), s.tensor);
    return;
  }
  throw AutogradError(concat(name(), ": a value of shape ", s.tensor.shape(),
                             " that its gradient needs was changed in place after it was saved "
                             "(version ",
                             now, ", saved at ", traced(s.tensor) ? ~s.version : s.version,
                             "); change a clone(), or run backward first"));
}

NodeExtras& Node::need_extras() {
  NodeExtras* present = extras();
  if (present) return *present;
  auto made = std::make_unique<NodeExtras>();
  made->hooks = std::make_shared<HookList>();
  if (extras_.compare_exchange_strong(present, made.get(), std::memory_order_acq_rel))
    present = made.release();
  return *present;
}

Tensor Node::kept_gradient() const {
  const Lock lock(*this);
  return gradient_ ? *gradient_ : Tensor();
}

Tensor& Node::gradient_slot() {
  if (!gradient_) gradient_ = new (tensor::detail::cpu_allocate(sizeof(Tensor))) Tensor;
  return *gradient_;
}

void Node::keep_gradient(const Tensor& gradient) {
  Tensor old;  // freed outside the lock
  const Lock lock(*this);
  Tensor& held = gradient_slot();
  old = std::move(held);
  held = gradient;
}

void Node::add_gradient(Tensor gradient) {
  const Lock lock(*this);
  Tensor& held = gradient_slot();
  if (!held.defined()) {
    const bool ours = TensorAccess::unique(gradient) && gradient.is_contiguous();
    held = ours ? std::move(gradient) : gradient.clone();
  } else if (TensorAccess::unique(held) && held.is_contiguous()) {
    accumulate(held, gradient);
  } else {
    held = held + gradient;
  }
}

void Node::clear_gradient() {
  Tensor old;  // freed outside the lock
  const Lock lock(*this);
  if (gradient_) old = std::move(*gradient_);
}

void NodeBuilder::add_edge(const Variable& input) {
  Node* to = VariableAccess::node(input);
  new (node_->edges_ + node_->num_edges_) Edge{to, input.type(), input.shape()};
  ++node_->num_edges_;
  if (!to) return;
  to->retain(Node::kEdgeUnit);
  after_ = std::max(after_, to->sequence());
}

void NodeBuilder::add_edge(Node* to, const Shape& shape, DataType type) {
  new (node_->edges_ + node_->num_edges_) Edge{to, type, shape};
  ++node_->num_edges_;
  to->retain(Node::kEdgeUnit);
  after_ = std::max(after_, to->sequence());
}

void NodeBuilder::add_edge(const Tensor& input) {
  new (node_->edges_ + node_->num_edges_) Edge{nullptr, input.type(), input.shape()};
  ++node_->num_edges_;
}

void NodeBuilder::add_edge() {
  new (node_->edges_ + node_->num_edges_) Edge;
  ++node_->num_edges_;
}

detail::NodeHandle NodeBuilder::finish() {
  AutogradThread& thread = autograd_thread;
  thread.sequence = std::max(thread.sequence, after_) + 1;
  node_->sequence_ = thread.sequence;
  if (thread.intercepted) [[unlikely]]
    finish_intercepted();
  return std::move(owner_);
}

void NodeBuilder::finish_intercepted() {
  AutogradThread& thread = autograd_thread;
  if (node_->is_leaf()) {
    node_->trace = thread.trace ? thread.trace->id : 0;
    return;
  }
  int level = 0;
  for (int i = 0; i < node_->num_edges_; ++i)
    if (const Node* to = node_->edges_[i].node) level = std::max(level, node_level(*to));
  node_->trace = level == 0 ? 0 : trace_at(level).id;
  if (thread.anomaly > 0) {
    NodeExtras& extras = node_->need_extras();
    if (thread.site) extras.site = *thread.site;
  }

  bool plain = true;
  for (int i = 0; i < node_->num_saved_; ++i) {
    Saved& s = node_->saved_[i];
    if (!traced(s.tensor)) continue;
    plain = false;
    s.version = ~version_of(s.tensor);  // never the stand-in's own, which is 0: checked() looks on
  }
  if (!thread.saved || !plain) return;
  detail::SavedTensorHooks& hooks = *thread.saved;
  const Replaced<detail::SavedTensorHooks*> off(&AutogradThread::saved, nullptr);
  const NoGradGuard unrecorded;
  std::vector<std::shared_ptr<detail::PackedTensor>> packed;
  std::vector<NodeExtras::Packed> given;
  bool any = false;
  for (int i = 0; i < node_->num_saved_; ++i) {
    const Tensor& t = node_->saved_[i].tensor;
    given.push_back({t.shape(), t.type()});
    packed.push_back(t.defined() ? hooks.pack(t) : nullptr);
    any |= packed.back() != nullptr;
  }
  if (!any) return;
  for (std::size_t i = 0; i < packed.size(); ++i)
    if (packed[i]) node_->saved_[i].tensor = Tensor();
  node_->need_extras().packed = std::move(packed);
  node_->need_extras().given = std::move(given);
}

}  // namespace lmp::autograd
