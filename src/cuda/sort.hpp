#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/runtime.hpp"

/// Sorting pairs of keys and positions, for the entries that are made of it.
namespace lmp::cuda {

/// Room for pairs that are sorted: they stand in keys() and positions(). There are multiples of 128
/// places for each, so that packs may be read past the last.
template <class Key, class Position>
class Pairs {
 public:
  Pairs(const Context& context, std::size_t count)
      : room_((count + 127) / 128 * 128),
        scratch_(context, 2 * room_ * (sizeof(Key) + sizeof(Position))) {}
  Key* keys() const noexcept { return keys(second_keys_); }
  Position* positions() const noexcept { return positions(second_positions_); }
  /// Sorts the first `count` by the low `bits` of their keys; equal ones stay in their order.
  void sort(const Context& context, const char* op, std::size_t count, int bits);

 private:
  Key* keys(bool second) const noexcept { return scratch_.template as<Key>() + second * room_; }
  Position* positions(bool second) const noexcept {
    return reinterpret_cast<Position*>(scratch_.template as<Key>() + 2 * room_) + second * room_;
  }
  std::size_t room_;
  Scratch scratch_;
  bool second_keys_ = false, second_positions_ = false;
};

extern template class Pairs<std::uint32_t, std::uint32_t>;

}  // namespace lmp::cuda
