#include "lamppp/autograd/checkpoint.hpp"

#include <atomic>
#include <cstring>
#include <mutex>

#include "autograd/trace.hpp"
#include "lamppp/autograd/hooks.hpp"
#include "lamppp/autograd/ops.hpp"
#include "tensor/checks.hpp"
#include "tensor/format.hpp"
#include "tensor/parallel.hpp"
#include "tensor/random_scope.hpp"

namespace lmp::autograd::detail {

using tensor::detail::concat;

namespace {

constexpr const char* kRemedy =
    "; it has to compute the same both times: change nothing that it reads before the backward "
    "pass, and draw random numbers from the default stream alone";

/// An input: in the hands of an outer region's (or a user's) hooks where there are any.
struct Input {
  Tensor tensor;
  std::shared_ptr<PackedTensor> packed;
  std::uint32_t version = 0;
  bool requires_grad = false;

  explicit Input(const Variable& v)
      : tensor(v.data()), version(tensor.version()), requires_grad(v.requires_grad()) {
    SavedTensorHooks* outer = autograd_thread.saved;
    if (!outer) return;
    const Replaced<SavedTensorHooks*> off(&AutogradThread::saved, nullptr);
    const NoGradGuard unrecorded;
    packed = outer->pack(tensor);
    if (packed) tensor = Tensor();
  }
  Variable get() const {
    if (packed) return Variable(packed->unpack("checkpoint"), requires_grad);
    if (tensor.version() != version)
      throw AutogradError(concat("checkpoint: an input of shape ", tensor.shape(),
                                 " was changed in place since the first call", kRemedy));
    return Variable(tensor, requires_grad);
  }
};

// The halves of a product, which all bits of both factors reach.
std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a ^ 0x9E3779B97F4A7C15u) * (b ^ 0xD1B54A32D192ED03u);
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t hash_of(const unsigned char* at, std::size_t bytes) {
  constexpr std::size_t kLanes = 4, kStep = kLanes * 2 * sizeof(std::uint64_t);  // at a time
  std::uint64_t lanes[kLanes] = {1, 2, 3, 4};
  std::size_t i = 0;
  for (; i + kStep <= bytes; i += kStep) {
    std::uint64_t words[2 * kLanes];
    std::memcpy(words, at + i, kStep);
    for (std::size_t k = 0; k < kLanes; ++k)
      lanes[k] = mix(lanes[k] ^ words[2 * k], words[2 * k + 1]);
  }
  for (; i < bytes; ++i) lanes[0] = mix(lanes[0], at[i]);
  return mix(mix(lanes[0], lanes[1]), mix(lanes[2], lanes[3]));
}

// A number that differs where any bit of any element does, as good as always. A result can be the
// same by chance, such as zero, where what the gradient reads is not.
std::uint64_t hash_of(const Tensor& t) {
  constexpr std::int64_t kChunk = 1 << 16;
  const Tensor dense = t.to(DeviceType::CPU).contiguous();
  const auto bytes = static_cast<std::int64_t>(dense.numel() * tensor::size_of(dense.type()));
  const auto* at = static_cast<const unsigned char*>(dense.data());
  std::atomic<std::uint64_t> sum = 0;  // in any order
  tensor::detail::parallel_for(bytes, kChunk, [&](std::int64_t begin, std::int64_t end) {
    sum += mix(hash_of(at + begin, static_cast<std::size_t>(end - begin)),
               static_cast<std::uint64_t>(begin));
  });
  return sum;
}

// Of one saved tensor, or one result: what has to be the same the second time.
struct Seen {
  Shape shape;
  DataType type;
  std::uint32_t version = 0;
  std::uint64_t bits = 0;
  Seen(const Tensor& t, std::uint32_t in_version, std::uint64_t in_bits)
      : shape(t.shape()), type(t.type()), version(in_version), bits(in_bits) {}
  bool operator==(const Seen&) const = default;
};

// Of other devices every saved tensor would have to come here first.
Seen saved(const Tensor& t) {
  return {t, t.version(), t.device() == DeviceType::CPU ? hash_of(t) : 0};
}
std::vector<Seen> seen(const std::vector<Variable>& results) {
  std::vector<Seen> out;
  for (const Variable& v : results) {
    tensor::detail::check_defined("checkpoint", v.data());
    out.emplace_back(v.data(), 0, hash_of(v.data()));
  }
  return out;
}

}  // namespace

struct CheckpointRegion::State {
  std::vector<Input> inputs;
  tensor::detail::RandomPlaces drawn;
  std::vector<Seen> saved, results;
  std::mutex mutex;                // two passes may want the same region at once
  std::vector<Tensor> recomputed;  // each handed out once
  bool running = false;            // the first call: it may run passes of its own
};

namespace {

using State = CheckpointRegion::State;

// Runs the region once more and keeps what its operations save this time.
void compute_again(CheckpointRegion& region, State& state) {
  struct Collect final : SavedTensorHooks {
    std::vector<Tensor> tensors;
    std::shared_ptr<PackedTensor> pack(const Tensor& t) override {
      tensors.push_back(t);
      return nullptr;
    }
  } collect;
  std::vector<Variable> inputs;
  for (const Input& i : state.inputs) inputs.push_back(i.get());
  std::vector<Seen> results;
  {
    // As the first time: outside of transforms, recorded, with the same random numbers.
    const Replaced<Trace*> plain(&AutogradThread::trace, nullptr);
    const EnableGradGuard recording;
    const SavedTensorHooksScope scope(collect);
    const tensor::detail::RandomScope random(state.drawn);
    region.call(inputs);
    results = seen(region.results());
    region.drop_results();
  }
  bool same = state.running
                  ? collect.tensors.size() >= state.saved.size()
                  : results == state.results && collect.tensors.size() == state.saved.size();
  for (std::size_t i = 0; same && i < state.saved.size(); ++i)
    same = saved(collect.tensors[i]) == state.saved[i];
  if (!same)
    throw AutogradError(
        concat("checkpoint: the second call of the function computed something "
               "else than the first",
               kRemedy));
  state.recomputed = std::move(collect.tensors);
}

class Dropped final : public PackedTensor {
 public:
  Dropped(std::shared_ptr<CheckpointRegion> region, State& state, std::size_t number)
      : region_(std::move(region)), state_(state), number_(number) {}
  Tensor unpack(const char*) override {
    const std::lock_guard lock(state_.mutex);
    if (state_.recomputed.empty() || !state_.recomputed[number_].defined())
      compute_again(*region_, state_);
    return std::move(state_.recomputed[number_]);
  }

 private:
  std::shared_ptr<CheckpointRegion> region_;
  State& state_;
  std::size_t number_;
};

}  // namespace

CheckpointRegion::CheckpointRegion() : state_(std::make_unique<State>()) {}
CheckpointRegion::~CheckpointRegion() = default;

void CheckpointRegion::run(const std::vector<Variable>& inputs) {
  struct Drop final : SavedTensorHooks {
    Drop(CheckpointRegion& r, State& s) : region(r), state(s) {}
    CheckpointRegion& region;
    State& state;
    std::shared_ptr<PackedTensor> pack(const Tensor& t) override {
      state.saved.push_back(detail::saved(t));
      return std::make_shared<Dropped>(region.shared_from_this(), state, state.saved.size() - 1);
    }
  } drop(*this, *state_);
  for (const Variable& v : inputs) state_->inputs.emplace_back(v);
  {
    const SavedTensorHooksScope scope(drop);
    const tensor::detail::RandomRecord record(state_->drawn);
    state_->running = true;
    call(inputs);
    state_->running = false;
    state_->recomputed.clear();
  }
  try {
    state_->results = seen(results());
  } catch (...) {
    drop_results();  // whose graph owns this region
    throw;
  }
}

bool checkpoint_saves() noexcept { return autograd_thread.recording && !autograd_thread.trace; }

}  // namespace lmp::autograd::detail
