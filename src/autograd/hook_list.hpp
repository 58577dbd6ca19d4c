#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "autograd/node.hpp"

namespace lmp::autograd {

/// The hooks of one node. Passes run a copy of the list, so hooks may be added and removed at any
/// time, by hooks too.
class HookList : public std::enable_shared_from_this<HookList> {
 public:
  enum class Kind { Gradient, Accumulated, Node };

  static HookHandle add(Node& node, Kind kind, std::shared_ptr<void> hook, Tensor leaf = {});
  void remove(std::uint64_t id);

  /// Lets the hooks of the result's gradient change it.
  template <class V>
  void run_gradient(V& gradient, const Node& node);
  /// After a leaf's gradient has changed.
  void run_accumulated(Node& leaf);
  bool has_node_hooks();
  template <class V>
  void run_node(std::vector<V>& inputs, const V& result, const Node& node);

 private:
  struct Entry {
    std::uint64_t id;
    Kind kind;
    std::shared_ptr<void> hook;
    Tensor leaf;  // the value of the leaf that a hook is handed
  };
  std::vector<Entry> of(Kind kind);

  std::mutex mutex_;
  std::uint64_t last_ = 0;
  std::vector<Entry> entries_;
};

extern template void HookList::run_gradient(Tensor&, const Node&);
extern template void HookList::run_gradient(Variable&, const Node&);
extern template void HookList::run_node(std::vector<Tensor>&, const Tensor&, const Node&);
extern template void HookList::run_node(std::vector<Variable>&, const Variable&, const Node&);

}  // namespace lmp::autograd
