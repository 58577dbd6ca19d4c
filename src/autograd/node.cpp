#include "autograd/node.hpp"

#include <algorithm>
#include <thread>

#include "tensor/access.hpp"
#include "tensor/backend.hpp"
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
  release_saved();
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
  if (counts_.load(std::memory_order_acquire) == unit ||
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

void Node::release_saved() noexcept {
  if (released_.exchange(true, std::memory_order_acq_rel)) return;
  for (int i = 0; i < num_saved_; ++i) saved_[i].~Saved();
  num_saved_ = 0;
}

const Saved& Node::checked(int i) const {
  const Saved& s = saved_[i];
  if (s.tensor.defined() && s.tensor.version() != s.version)
    throw AutogradError(
        concat(name(), ": a value of shape ", s.tensor.shape(),
               " that its gradient needs was changed in place after it was saved (version ",
               s.tensor.version(), ", saved at ", s.version,
               "); change a clone(), or run backward first"));
  return s;
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
  return std::move(owner_);
}

}  // namespace lmp::autograd
