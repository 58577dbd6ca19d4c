#include "lamppp/autograd/hooks.hpp"

#include "autograd/hook_list.hpp"
#include "lamppp/autograd/ops.hpp"
#include "tensor/format.hpp"

namespace lmp::autograd {

using tensor::detail::concat;

namespace detail {
GradientHook::~GradientHook() = default;
NodeHook::~NodeHook() = default;
PackedTensor::~PackedTensor() = default;
SavedTensorHooks::~SavedTensorHooks() = default;

SavedTensorHooksScope::SavedTensorHooksScope(SavedTensorHooks& hooks) noexcept
    : previous_(std::exchange(autograd_thread.saved, &hooks)) {
  autograd_thread.update();
}
SavedTensorHooksScope::~SavedTensorHooksScope() {
  autograd_thread.saved = previous_;
  autograd_thread.update();
}

KeptVersion::KeptVersion(const Tensor& saved, const Tensor& kept)
    : same_memory_(kept.shares_storage(saved)), version_(saved.version()) {}

void KeptVersion::check(const Tensor& kept, const char* operation) const {
  if (same_memory_ && kept.version() != version_)
    throw AutogradError(
        concat(operation, ": a value of shape ", kept.shape(),
               " that its gradient needs was changed in place after saved-tensor hooks packed it "
               "(version ",
               kept.version(), ", saved at ", version_,
               "); change a clone(), run backward first, or let pack keep a copy"));
}

HookHandle register_node_hook(const Node& node, std::shared_ptr<NodeHook> hook) {
  if (node.is_leaf())
    throw AutogradError(
        "register_node_hook: a leaf computes no gradients; use Variable::register_hook");
  return HookList::add(const_cast<Node&>(node), HookList::Kind::Node, std::move(hook));
}
}  // namespace detail

HookHandle HookList::add(Node& node, Kind kind, std::shared_ptr<void> hook, Tensor leaf) {
  const std::shared_ptr<HookList>& list = node.need_extras().hooks;
  const std::lock_guard lock(list->mutex_);
  list->entries_.push_back({++list->last_, kind, std::move(hook), std::move(leaf)});
  return HookHandle(list, list->last_);
}

void HookList::remove(std::uint64_t id) {
  Entry removed{};  // destroyed outside the lock: a hook may own anything
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].id != id) continue;
    removed = std::move(entries_[i]);
    entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(i));
    return;
  }
}

void HookHandle::remove() {
  if (const std::shared_ptr<HookList> list = list_.lock()) list->remove(id_);
  list_.reset();
}

std::vector<HookList::Entry> HookList::of(Kind kind) {
  std::vector<Entry> found;
  const std::lock_guard lock(mutex_);
  for (const Entry& e : entries_)
    if (e.kind == kind) found.push_back(e);
  return found;
}

bool HookList::has_node_hooks() {
  const std::lock_guard lock(mutex_);
  for (const Entry& e : entries_)
    if (e.kind == Kind::Node) return true;
  return false;
}

namespace {

const Tensor& plain(const Tensor& t) { return t; }
const Tensor& plain(const Variable& v) { return v.data(); }

// What a hook returned in the place of a gradient, in its shape and type.
template <class V>
V replacement(const char* what, const Node& node, const V& old, Variable made, const Shape& shape,
              DataType type) {
  if (made.shape() != shape)
    throw ShapeError(concat(what, " of '", node.name(), "' returned a gradient of shape ",
                            made.shape(), " in the place of one of shape ", shape));
  if (made.device() != plain(old).device())
    throw DeviceError(concat(what, " of '", node.name(), "' returned a gradient on ", made.device(),
                             " in the place of one on ", plain(old).device()));
  if (made.type() != type) made = astype(made, type);
  if constexpr (std::is_same_v<V, Tensor>)
    return std::move(made).data();
  else
    return made;
}

}  // namespace

template <class V>
void HookList::run_gradient(V& gradient, const Node& node) {
  if (!gradient.defined()) return;
  for (const Entry& e : of(Kind::Gradient)) {
    Variable made = static_cast<detail::GradientHook*>(e.hook.get())->run(Variable(gradient));
    if (made.defined())
      gradient = replacement<V>("a hook", node, gradient, std::move(made), Shape(gradient.shape()),
                                gradient.type());
  }
}

void HookList::run_accumulated(Node& leaf) {
  for (const Entry& e : of(Kind::Accumulated)) {
    leaf.retain(Node::kHandleUnit);
    const Variable v = VariableAccess::make(e.leaf, detail::NodeHandle(&leaf));
    static_cast<detail::GradientHook*>(e.hook.get())->run(v);
  }
}

template <class V>
void HookList::run_node(std::vector<V>& inputs, const V& result, const Node& node) {
  for (const Entry& e : of(Kind::Node)) {
    std::vector<Variable> now(inputs.begin(), inputs.end());
    std::vector<Variable> made =
        static_cast<detail::NodeHook*>(e.hook.get())->run(now, Variable(result));
    if (made.empty()) continue;
    if (made.size() != inputs.size())
      throw ValueError(concat("a node hook of '", node.name(), "' returned ", made.size(),
                              " gradients for ", inputs.size(),
                              " operands; return none, or one for each (undefined: unchanged)"));
    for (std::size_t i = 0; i < made.size(); ++i) {
      if (!made[i].defined()) continue;
      if (!inputs[i].defined())
        throw ValueError(concat("a node hook of '", node.name(),
                                "' returned a gradient for operand ", i, ", which wants none"));
      inputs[i] = replacement<V>("a node hook", node, inputs[i], std::move(made[i]),
                                 Shape(inputs[i].shape()), inputs[i].type());
    }
  }
}

template void HookList::run_gradient(Tensor&, const Node&);
template void HookList::run_gradient(Variable&, const Node&);
template void HookList::run_node(std::vector<Tensor>&, const Tensor&, const Node&);
template void HookList::run_node(std::vector<Variable>&, const Variable&, const Node&);

namespace {
Node& hooked(const char* what, const Variable& v) {
  if (!v.requires_grad())
    throw AutogradError(concat(what,
                               ": this Variable requires no gradient, so there is none to see; "
                               "make it with Variable(tensor, true)"));
  return *VariableAccess::node(v);
}
}  // namespace

HookHandle Variable::add_gradient_hook(std::shared_ptr<detail::GradientHook> hook) const {
  return HookList::add(hooked("register_hook", *this), HookList::Kind::Gradient, std::move(hook));
}

HookHandle Variable::add_post_accumulate_hook(std::shared_ptr<detail::GradientHook> hook) const {
  Node& node = hooked("register_post_accumulate_hook", *this);
  if (!node.is_leaf())
    throw AutogradError(concat("register_post_accumulate_hook: this is the result of '",
                               node.name(), "', and only leaves accumulate; use register_hook"));
  return HookList::add(node, HookList::Kind::Accumulated, std::move(hook), data_);
}

}  // namespace lmp::autograd
