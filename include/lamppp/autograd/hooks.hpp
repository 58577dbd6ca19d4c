#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "lamppp/autograd/variable.hpp"

namespace lmp::autograd {

namespace detail {

/// What a pack hook left in the place of a saved tensor.
class LMP_API PackedTensor {
 public:
  PackedTensor() = default;
  PackedTensor(const PackedTensor&) = delete;
  PackedTensor& operator=(const PackedTensor&) = delete;
  virtual ~PackedTensor();
  /// For the operation of this name.
  virtual Tensor unpack(const char* operation) = 0;
};

class LMP_API SavedTensorHooks {
 public:
  SavedTensorHooks() = default;
  SavedTensorHooks(const SavedTensorHooks&) = delete;
  SavedTensorHooks& operator=(const SavedTensorHooks&) = delete;
  virtual ~SavedTensorHooks();
  /// Null leaves the tensor as it is.
  virtual std::shared_ptr<PackedTensor> pack(const Tensor& tensor) = 0;
};

/// From here on the thread's graph keeps what `hooks` make of the tensors that it saves.
class LMP_API SavedTensorHooksScope {
 public:
  explicit SavedTensorHooksScope(SavedTensorHooks& hooks) noexcept;
  SavedTensorHooksScope(const SavedTensorHooksScope&) = delete;
  SavedTensorHooksScope& operator=(const SavedTensorHooksScope&) = delete;
  ~SavedTensorHooksScope();

 private:
  SavedTensorHooks* previous_;
};

/// The version at which `kept`, where it is the memory that was saved or a part of it, has to be
/// when it is read again.
class LMP_API KeptVersion {
 public:
  KeptVersion(const Tensor& saved, const Tensor& kept);
  void check(const Tensor& kept, const char* operation) const;

 private:
  bool same_memory_;
  std::uint32_t version_;
};

// What is kept of a pack hook's result: of an optional, what it holds.
template <class T>
struct KeptType {
  using type = T;
};
template <class T>
struct KeptType<std::optional<T>> {
  using type = T;
};

}  // namespace detail

/// While one is alive on a thread, every tensor that the graph saves for its backward pass is given
/// to `pack(const Tensor&)`, and what that returns is kept instead: a smaller type, a place in a
/// file. A pack that returns a `std::optional` leaves a tensor as it is by nullopt. When a pass
/// needs the tensor, `unpack(kept)` has to return it, in its shape and type (AutogradError
/// otherwise). Guards nest, the innermost one packs. The hooks run without recording; they outlive
/// the guard, as long as the graph does. A tensor kept as it is stays protected against being
/// changed in place; what pack makes of it is up to pack. Inside jvp and vmap nothing is packed.
template <class Pack, class Unpack>
class SavedTensorHooksGuard {
  using Packing = std::invoke_result_t<Pack&, const Tensor&>;
  using Kept = typename detail::KeptType<Packing>::type;
  struct Functions {
    Pack pack;
    Unpack unpack;
  };
  class Packed final : public detail::PackedTensor {
   public:
    Packed(std::shared_ptr<Functions> functions, Kept kept, const Tensor& saved)
        : functions_(std::move(functions)), kept_(std::move(kept)), version_(check(saved)) {}
    Tensor unpack(const char* operation) override {
      if constexpr (std::is_same_v<Kept, Tensor>) version_.check(kept_, operation);
      return functions_->unpack(kept_);
    }

   private:
    detail::KeptVersion check(const Tensor& saved) const {
      if constexpr (std::is_same_v<Kept, Tensor>)
        return {saved, kept_};
      else
        return {saved, Tensor()};
    }
    std::shared_ptr<Functions> functions_;
    Kept kept_;
    detail::KeptVersion version_;
  };
  class Hooks final : public detail::SavedTensorHooks {
   public:
    Hooks(Pack pack, Unpack unpack)
        : functions_(std::make_shared<Functions>(Functions{std::move(pack), std::move(unpack)})) {}
    std::shared_ptr<detail::PackedTensor> pack(const Tensor& tensor) override {
      Packing kept = functions_->pack(tensor);
      if constexpr (std::is_same_v<Packing, Kept>) {
        return std::make_shared<Packed>(functions_, std::move(kept), tensor);
      } else {
        if (!kept) return nullptr;
        return std::make_shared<Packed>(functions_, std::move(*kept), tensor);
      }
    }

   private:
    std::shared_ptr<Functions> functions_;
  };

 public:
  /// From here on; see the class.
  SavedTensorHooksGuard(Pack pack, Unpack unpack)
      : hooks_(std::move(pack), std::move(unpack)), scope_(hooks_) {}

 private:
  Hooks hooks_;
  detail::SavedTensorHooksScope scope_;
};

/// A hook of a node: called in every backward pass with the gradients that the node computed for
/// its inputs (undefined where none was asked for) and the gradient of its result; gradients that
/// it returns replace those of the inputs (an undefined one leaves what was there). `hook` is a
/// callable of `(const std::vector<Variable>& input_gradients, const Variable& gradient)` that
/// returns nothing or a `std::vector<Variable>`. See Variable::register_hook for the gradient of a
/// result alone. Throws AutogradError for a leaf.
template <class F>
HookHandle register_node_hook(const Node& node, F hook);

namespace detail {

class LMP_API NodeHook {
 public:
  NodeHook() = default;
  NodeHook(const NodeHook&) = delete;
  NodeHook& operator=(const NodeHook&) = delete;
  virtual ~NodeHook();
  virtual std::vector<Variable> run(const std::vector<Variable>& inputs,
                                    const Variable& result) = 0;
};
LMP_API HookHandle register_node_hook(const Node& node, std::shared_ptr<NodeHook> hook);

template <class F>
class NodeHookOf final : public NodeHook {
 public:
  explicit NodeHookOf(F f) : f_(std::move(f)) {}
  std::vector<Variable> run(const std::vector<Variable>& inputs, const Variable& result) override {
    if constexpr (std::is_void_v<
                      std::invoke_result_t<F&, const std::vector<Variable>&, const Variable&>>) {
      f_(inputs, result);
      return {};
    } else {
      return f_(inputs, result);
    }
  }

 private:
  F f_;
};

}  // namespace detail

template <class F>
HookHandle register_node_hook(const Node& node, F hook) {
  return detail::register_node_hook(node, std::make_shared<detail::NodeHookOf<F>>(std::move(hook)));
}

}  // namespace lmp::autograd
