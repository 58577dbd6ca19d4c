#include "autograd/trace.hpp"

#include <atomic>
#include <memory>
#include <utility>

#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"

namespace lmp::autograd {

using tensor::TensorAccess;
using tensor::detail::Access;
using tensor::detail::Storage;

namespace {

std::uint32_t next_id() noexcept {
  static std::atomic<std::uint32_t> last{0};
  std::uint32_t id;
  do {
    id = last.fetch_add(1, std::memory_order_relaxed) + 1;
  } while (id == 0);  // 0 is "no transform"
  return id;
}

void release(void*, void* context) { delete static_cast<Traced*>(context); }

// A tensor of `shape` that stands for what `traced` says; `like` has its type, device and, where
// the value can be read, its memory.
Variable stand_in(Traced traced, const Shape& shape, const Tensor& like, bool readable) {
  auto storage = std::make_unique<Storage>();
  const auto from = TensorAccess::storage(like);
  storage->data = readable ? from->data : nullptr;
  storage->bytes = readable ? from->bytes : 0;
  storage->device = from->device;
  storage->access = readable ? Access::Read : Access::None;
  storage->deleter = &release;
  storage->context = new Traced(std::move(traced));
  tensor::detail::StorageRef owned(storage.release());
  if (readable)
    return Variable(TensorAccess::make(std::move(owned), static_cast<std::byte*>(like.data()),
                                       shape, like.strides(), like.type(), like.is_contiguous()));
  return Variable(TensorAccess::make(std::move(owned), nullptr, shape,
                                     tensor::detail::dense_strides(shape), like.type(), false));
}

bool readable(const Tensor& t) noexcept { return TensorAccess::storage(t)->access != Access::None; }

}  // namespace

Trace::Trace(Kind of, std::int64_t count)
    : kind(of),
      lanes(count),
      id(next_id()),
      level(autograd_thread.trace ? autograd_thread.trace->level + 1 : 1),
      outer(autograd_thread.trace) {
  autograd_thread.trace = this;
  autograd_thread.update();
}

Trace::~Trace() {
  autograd_thread.trace = outer;
  autograd_thread.update();
}

const Traced* traced(const Tensor& t) noexcept {
  const Storage* storage = TensorAccess::storage(t);
  return storage && storage->deleter == &release ? static_cast<const Traced*>(storage->context)
                                                 : nullptr;
}

Trace* running(std::uint32_t id) noexcept {
  for (Trace* t = autograd_thread.trace; t; t = t->outer)
    if (t->id == id) return t;
  return nullptr;
}

Trace& trace_at(int level) noexcept {
  Trace* t = autograd_thread.trace;
  while (t->level != level) t = t->outer;
  return *t;
}

int value_level(const Tensor& t) noexcept {
  const Traced* what = traced(t);
  const Trace* trace = what ? running(what->trace) : nullptr;
  return trace ? trace->level : 0;
}

int node_level(const Node& node) noexcept {
  const Trace* trace = node.trace == 0 ? nullptr : running(node.trace);
  return trace ? trace->level : 0;
}

const Traced* traced_at(const Variable& v, int level) noexcept {
  return value_level(v.data()) == level ? traced(v.data()) : nullptr;
}

Variable make_dual(const Trace& trace, Variable primal, Variable tangent) {
  const Tensor like = primal.data();
  return stand_in({trace.id, trace.kind, false, std::move(primal), std::move(tangent)},
                  like.shape(), like, readable(like));
}

Variable make_mapped(const Trace& trace, Variable physical) {
  const Tensor like = physical.data();
  IntList shape;
  for (int d = 1; d < like.ndim(); ++d) shape.push_back(like.shape().dim(d));
  return stand_in({trace.id, trace.kind, true, std::move(physical), {}}, Shape(shape), like, false);
}

Variable lift(const Trace& trace, const Variable& v) {
  const Tensor& like = v.data();
  return stand_in({trace.id, trace.kind, false, v, {}}, like.shape(), like, readable(like));
}

Variable unrecorded(const Variable& v) {
  const Traced* what = traced(v.data());
  const Trace* trace = what ? running(what->trace) : nullptr;
  if (!trace) return Variable(v.data());
  if (what->mapped) return make_mapped(*trace, unrecorded(what->value));
  if (!what->tangent.defined()) return unrecorded(what->value);
  return make_dual(*trace, unrecorded(what->value), unrecorded(what->tangent));
}

Variable below_level(const Variable& v, int level) {
  const Node* node = VariableAccess::node(v);
  return node && node_level(*node) >= level ? Variable(v.data()) : v;
}

Variable detached(const Variable& v) {
  const Traced* what = traced(v.data());
  if (!what) return Variable(v.data());
  if (!what->mapped) return detached(what->value);
  const Trace* trace = running(what->trace);
  return trace ? make_mapped(*trace, detached(what->value)) : Variable(v.data());
}

const Tensor& plain_value(const Variable& v) noexcept {
  const Tensor* t = &v.data();
  while (const Traced* what = traced(*t)) t = &what->value.data();
  return *t;
}

std::uint32_t version_of(const Tensor& t) noexcept {
  const Traced* what = traced(t);
  if (!what) return t.version();
  // Versions only grow, so the sum changes where the memory of the value or of a tangent does.
  const std::uint32_t value = version_of(what->value.data());
  return what->tangent.defined() ? value + version_of(what->tangent.data()) : value;
}

Variable Variable::detach() const { return detached(*this); }

}  // namespace lmp::autograd
