#include "cuda/capture.hpp"
#include "lamppp/error.hpp"
#include "lamppp/tensor/random.hpp"
#include "tensor/format.hpp"
#include "tensor/random_scope.hpp"

namespace lmp::cuda {

using tensor::detail::concat;

namespace {

constinit thread_local Capture* capturing = nullptr;

}  // namespace

Capture* current_capture() noexcept { return capturing; }

void check_not_capturing(const char* what) {
  if (capturing) [[unlikely]]
    throw DeviceError(concat(what,
                             ": moves values between the GPU and the program, which a replay of a "
                             "Graph does not do; take it out of the step that is captured"));
}

Capture::~Capture() {
  for (const Memory& m : memory_) free_bytes(m.block);
}

// On a stream of its own, as the one that is captured would only note the copy.
void* Capture::keep_bytes(const void* value, std::size_t bytes) {
  const Stream stream(device_);
  const auto handle = static_cast<cudaStream_t>(stream.handle());
  const Memory& made = memory_.emplace_back(allocate_bytes(device_.index, handle, bytes));
  check(cudaMemcpyAsync(made.data, value, bytes, cudaMemcpyHostToDevice, handle), "Graph");
  check(cudaStreamSynchronize(handle), "Graph");
  return made.data;
}

struct Graph::State {
  explicit State(tensor::Device on) : device(on), stream(on), born(generation(on.index)) {}
  tensor::Device device;
  Stream stream;  // what is captured runs in the memory of this one
  int born;       // in which generation of the GPU
  std::unique_ptr<Capture> capture;
  cudaGraphExec_t exec = nullptr;
  cudaStream_t last = nullptr;  // where it was replayed
  // While it captures:
  std::unique_ptr<Capture> making;
  std::unique_ptr<StreamGuard> guard;
  // Where the default generator's stream was, and how much of it the step draws.
  std::uint64_t drawn_from = 0, drawn = 0;

  cudaStream_t handle() const { return static_cast<cudaStream_t>(stream.handle()); }
  bool is_lost() const { return born != generation(device.index); }
  // What was captured is there to be used.
  void check_ready() const {
    if (!exec) throw DeviceError("Graph: nothing was captured yet; call capture(step) first");
    if (is_lost())
      throw DeviceLostError(concat("Graph: ", device, " was reset since; make a new one"));
  }
  void drop() noexcept {
    if (!exec || is_lost()) return;
    cudaStreamSynchronize(last);
    cudaGraphExecDestroy(exec);
    cudaGetLastError();
    exec = nullptr;
  }
};

Graph::Graph(tensor::Device device) : state_(std::make_unique<State>(device)) {
  keep_memory(device.index, state_->handle(), true);
}

Graph::~Graph() {
  state_->drop();
  state_->capture.reset();
  if (!state_->is_lost()) keep_memory(state_->device.index, state_->handle(), false);
}

void Graph::begin() {
  if (capturing) throw DeviceError("Graph: this thread is capturing already");
  State& s = *state_;
  const Context context(s.device);
  // What the step reads may still be under way.
  s.stream.wait(Stream::current(s.device));
  s.making = std::make_unique<Capture>(s.device);
  s.drawn_from = tensor::default_generator().offset();
  s.guard = std::make_unique<StreamGuard>(s.stream);
  if (const cudaError_t status = cudaStreamBeginCapture(s.handle(), cudaStreamCaptureModeRelaxed);
      status != cudaSuccess) {
    s.guard.reset();
    check(status, "Graph");
  }
  capturing = s.making.get();
}

void Graph::abandon() noexcept {
  State& s = *state_;
  capturing = nullptr;
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(s.handle(), &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
  cudaGetLastError();
  s.guard.reset();
  s.making.reset();
}

void Graph::end() {
  State& s = *state_;
  capturing = nullptr;
  s.guard.reset();
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(s.handle(), &graph), "Graph");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "Graph");
  s.drop();
  s.exec = exec;
  s.capture = std::move(s.making);
  // Nothing was drawn yet: each replay draws. Other generators' numbers move on by as much as the
  // step's ops read, where it draws none from the default one.
  tensor::Generator generator = tensor::default_generator();
  s.drawn = generator.offset() - s.drawn_from;
  if (s.drawn == 0) s.drawn = s.capture->read();
  generator.set_offset(s.drawn_from);
  tensor::set_default_generator(generator);
}

void Graph::replay() {
  State& s = *state_;
  s.check_ready();
  check_not_capturing("Graph::replay");
  const Context context(s.device);
  if (std::uint64_t* const moved = s.capture->moved()) {
    const std::uint64_t by = tensor::detail::claim_blocks(s.drawn).offset() - s.drawn_from;
    check(cudaMemcpyAsync(moved, &by, sizeof by, cudaMemcpyHostToDevice, context.stream),
          "Graph::replay");
  }
  s.last = context.stream;
  check(cudaGraphLaunch(s.exec, context.stream), "Graph::replay");
  count_launch();
}

void Graph::set_lr(double lr) {
  State& s = *state_;
  s.check_ready();
  const Context context(s.device);
  for (Pace* const pace : s.capture->paces())
    check(cudaMemcpyAsync(&pace->lr, &lr, sizeof lr, cudaMemcpyHostToDevice, context.stream),
          "Graph::set_lr");
}

}  // namespace lmp::cuda
