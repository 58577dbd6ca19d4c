#include "cuda/matmul.hpp"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>

#include "cuda/backend.hpp"
#include "cuda/capture.hpp"
#include "lamppp/error.hpp"
#include "tensor/constant.hpp"
#include "tensor/format.hpp"

namespace lmp::cuda {

using table::OpId;
using tensor::detail::concat;

namespace {

constinit std::atomic<bool> tf32 = false;
constinit std::atomic<bool> deterministic = false;

// ---- The library ----

// cuBLASLt, opened at the first product: it is large, and a program may do without.
struct Library {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtGetStatusName) status_name;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
};

constexpr const char* kRemedy =
    "; install cuBLAS of CUDA 13 (or 12), or name the directory of libcublasLt.so.13 in "
    "LD_LIBRARY_PATH";

void* open_library() {
  std::string said;
  const auto open = [&](const std::string& path) {
    void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library && said.empty()) said = dlerror();
    return library;
  };
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    if (void* const library = open(name)) return library;
#ifdef LAMPPP_CUDA_LIBRARY_DIR
    if (void* const library = open(concat(LAMPPP_CUDA_LIBRARY_DIR, "/", name))) return library;
#endif
    for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
      if (const char* home = std::getenv(variable))
        if (void* const library = open(concat(home, "/lib64/", name))) return library;
    if (void* const library = open(concat("/usr/local/cuda/lib64/", name))) return library;
  }
  throw DeviceError(concat("matmul: cuBLASLt, which computes products on GPUs, cannot be opened (",
                           said, ")", kRemedy));
}

Library load_library() {
  void* const handle = open_library();
  Library library{};
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    if (!function) throw DeviceError(concat("matmul: cuBLASLt has no ", name, kRemedy));
  };
  find(library.create, "cublasLtCreate");
  find(library.version, "cublasLtGetVersion");
  find(library.status_name, "cublasLtGetStatusName");
  find(library.matmul, "cublasLtMatmul");
  find(library.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(library.desc_create, "cublasLtMatmulDescCreate");
  find(library.desc_destroy, "cublasLtMatmulDescDestroy");
  find(library.desc_set, "cublasLtMatmulDescSetAttribute");
  find(library.layout_create, "cublasLtMatrixLayoutCreate");
  find(library.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(library.layout_set, "cublasLtMatrixLayoutSetAttribute");
  find(library.preference_create, "cublasLtMatmulPreferenceCreate");
  find(library.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(library.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  if (library.version() < 120000)
    throw DeviceError(
        concat("matmul: cuBLASLt ", library.version(), " is older than CUDA 12", kRemedy));
  return library;
}

const Library& lib() {
  static const Library library = load_library();
  return library;
}

void check_library(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  check(cudaGetLastError(), "matmul");
  const std::string said = concat("matmul: cuBLASLt returned ", lib().status_name(status));
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw OutOfMemoryError(said);
  throw DeviceError(said);
}

constexpr int kMaxDevices = 64;

constinit std::array<std::atomic<cublasLtHandle_t>, kMaxDevices> handles{};

// The library's handle for the current GPU; for all threads, and never destroyed.
cublasLtHandle_t handle_of(int device) {
  static std::mutex mutex;
  auto& slot = handles[static_cast<std::size_t>(device)];
  if (const cublasLtHandle_t known = slot.load(std::memory_order_acquire)) [[likely]]
    return known;
  const std::lock_guard lock(mutex);
  if (const cublasLtHandle_t known = slot.load(std::memory_order_relaxed)) return known;
  cublasLtHandle_t made = nullptr;
  check_library(lib().create(&made));
  slot.store(made, std::memory_order_release);
  return made;
}

// ---- What is known of a shape ----

// How a matrix lies in memory: row by row, or turned, column by column.
struct Order {
  bool turned;
  std::int64_t leading;
};

// False where neither it nor its transpose has neighbours in memory and lines that do not overlap.
bool order_of(std::int64_t rows, std::int64_t cols, std::int64_t row, std::int64_t col,
              Order& order) {
  if ((cols > 1 ? col == 1 : row != 1) && (rows == 1 || row >= cols)) {
    order = {false, rows == 1 ? cols : row};
    return true;
  }
  if ((rows == 1 || row == 1) && (cols == 1 || col >= rows)) {
    order = {true, cols == 1 ? rows : col};
    return true;
  }
  return false;
}

bool takes(const Tensor& x) {
  for (int d = 0; d < x.ndim(); ++d)
    if (x.strides()[static_cast<std::size_t>(d)] < 0) return false;
  const auto r = static_cast<std::size_t>(x.ndim() - 2);
  Order order{};
  return order_of(x.shape().dim(x.ndim() - 2), x.shape().dim(x.ndim() - 1), x.strides()[r],
                  x.strides()[r + 1], order);
}

// All that the choice of an algorithm depends on.
using Key = std::array<std::int64_t, 9>;
struct HashOfKey {
  std::size_t operator()(const Key& key) const noexcept {
    std::uint64_t h = 0;
    for (const std::int64_t part : key) {
      h = (h ^ static_cast<std::uint64_t>(part)) * 0x9E3779B97F4A7C15u;
      h ^= h >> 29;
    }
    return h;
  }
};

constexpr int kCandidates = 8;
constexpr std::size_t kWorkspace = std::size_t{32} << 20;

// The descriptors of a product, and the ways to compute it that the library suggests, none where it
// has none.
struct Plan {
  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    for (const cublasLtMatrixLayout_t layout : {a, b, c})
      if (layout) lib().layout_destroy(layout);
    if (desc) lib().desc_destroy(desc);
  }
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  std::array<cublasLtMatmulHeuristicResult_t, kCandidates> candidates;
  int count = 0;
  std::atomic<int> uses = 0;
  std::atomic<int> chosen = 0;
  std::atomic<bool> timed = false;
  std::mutex mutex;  // of the bias in desc, and of timing
};

// A product as the library sees it, by columns: c^T = b^T a^T, its first factor our second.
struct Product {
  MatmulArgs args;
  Order a, b;
  cublasLtEpilogue_t epilogue;
  const void* bias;
  bool tf32;
};

int log_alignment(const void* pointer) {
  return std::min(std::countr_zero(reinterpret_cast<std::uintptr_t>(pointer) | 256), 8);
}

Key key_of(int device, const Product& p) {
  const MatmulArgs& g = p.args;
  std::int64_t flags = 0;
  const auto put = [&](int bits, std::int64_t value) { flags = flags << bits | value; };
  put(8, device);
  put(4, static_cast<int>(g.type));
  put(1, p.a.turned);
  put(1, p.b.turned);
  put(1, g.accumulate);
  put(1, p.tf32);
  put(10, p.epilogue);
  for (const void* pointer : {g.a, g.b, static_cast<const void*>(g.c)})
    put(4, log_alignment(pointer));
  return {g.batch, g.m, g.n, g.k, p.a.leading, p.b.leading, g.a_batch, g.b_batch, flags};
}

cudaDataType_t type_of(DataType type) {
  switch (type) {
    case DataType::Float16:
      return CUDA_R_16F;
    case DataType::BFloat16:
      return CUDA_R_16BF;
    case DataType::Float32:
      return CUDA_R_32F;
    default:
      return CUDA_R_64F;
  }
}

// The stored matrix of rows x cols elements, by columns.
cublasLtMatrixLayout_t layout_of(const Product& p, std::int64_t rows, std::int64_t cols,
                                 std::int64_t leading, std::int64_t batch_stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_library(lib().layout_create(&layout, type_of(p.args.type), static_cast<std::uint64_t>(rows),
                                    static_cast<std::uint64_t>(cols), leading));
  const auto batch = static_cast<std::int32_t>(p.args.batch);
  if (batch > 1) {
    check_library(
        lib().layout_set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch));
    check_library(lib().layout_set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                   &batch_stride, sizeof batch_stride));
  }
  return layout;
}

void set_bias(const Plan& plan, const void* bias) {
  check_library(lib().desc_set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
}

std::shared_ptr<Plan> make_plan(const Context& context, const Product& p) {
  const MatmulArgs& g = p.args;
  auto plan = std::make_shared<Plan>();
  const bool wide = g.type == DataType::Float64;
  check_library(lib().desc_create(&plan->desc,
                                  wide     ? CUBLAS_COMPUTE_64F
                                  : p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                           : CUBLAS_COMPUTE_32F,
                                  wide ? CUDA_R_64F : CUDA_R_32F));
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    check_library(lib().desc_set(plan->desc, attribute, &value, sizeof value));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, p.b.turned ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, p.a.turned ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue);
  if (p.bias) set_bias(*plan, p.bias);
  plan->b = p.b.turned ? layout_of(p, g.k, g.n, p.b.leading, g.b_batch)
                       : layout_of(p, g.n, g.k, p.b.leading, g.b_batch);
  plan->a = p.a.turned ? layout_of(p, g.m, g.k, p.a.leading, g.a_batch)
                       : layout_of(p, g.k, g.m, p.a.leading, g.a_batch);
  plan->c = layout_of(p, g.n, g.m, g.n, g.m * g.n);

  cublasLtMatmulPreference_t preference = nullptr;
  check_library(lib().preference_create(&preference));
  const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, decltype(lib().preference_destroy)> owner(
      preference, lib().preference_destroy);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check_library(lib().preference_set(preference, attribute, &value, sizeof value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  // Parts of a sum are joined in the type that it is computed in, and in an order of their own.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  const auto aligned = [](const void* pointer) {
    return std::uint32_t{1} << log_alignment(pointer);
  };
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned(g.b));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned(g.a));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned(g.c));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned(g.c));
  int found = 0;
  const cublasStatus_t status =
      lib().heuristic(handle_of(context.index), plan->desc, plan->b, plan->a, plan->c, plan->c,
                      preference, kCandidates, plan->candidates.data(), &found);
  if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED &&
      status != CUBLAS_STATUS_INVALID_VALUE)
    check_library(status);
  for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < found; ++i)
    if (const auto candidate = plan->candidates[static_cast<std::size_t>(i)];
        candidate.state == CUBLAS_STATUS_SUCCESS && candidate.workspaceSize <= kWorkspace)
      plan->candidates[static_cast<std::size_t>(plan->count++)] = candidate;
  return plan;
}

std::shared_ptr<Plan> plan_of(const Context& context, const Product& p) {
  // Shapes that change from call to call must not pile up.
  constexpr std::size_t kMost = 8192;
  static std::shared_mutex mutex;
  static auto& plans = *new std::unordered_map<Key, std::shared_ptr<Plan>, HashOfKey>;
  const Key key = key_of(context.index, p);
  {
    const std::shared_lock lock(mutex);
    if (const auto known = plans.find(key); known != plans.end()) [[likely]]
      return known->second;
  }
  auto made = make_plan(context, p);
  const std::lock_guard lock(mutex);
  if (plans.size() >= kMost) plans.clear();
  return plans.try_emplace(key, std::move(made)).first->second;
}

// ---- Running it ----

cublasStatus_t start(const Context& context, const Plan& plan, int candidate, const MatmulArgs& g,
                     void* c) {
  const cublasLtMatmulHeuristicResult_t& way = plan.candidates[static_cast<std::size_t>(candidate)];
  constexpr float kOne = 1, kZero = 0;
  constexpr double kWideOne = 1, kWideZero = 0;
  const bool wide = g.type == DataType::Float64;
  const void* const one = wide ? static_cast<const void*>(&kWideOne) : &kOne;
  const void* const zero = wide ? static_cast<const void*>(&kWideZero) : &kZero;
  const auto run = [&](void* workspace) {
    return lib().matmul(handle_of(context.index), plan.desc, one, g.b, plan.b, g.a, plan.a,
                        g.accumulate ? one : zero, c, plan.c, c, plan.c, &way.algo, workspace,
                        way.workspaceSize, context.stream);
  };
  if (way.workspaceSize == 0) return run(nullptr);
  const Scratch workspace(context, way.workspaceSize);
  return run(workspace.as<void>());
}

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  cudaEvent_t get() const noexcept { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Milliseconds that `repeats` runs take; negative where the candidate does not run.
float time_of(const Context& context, const Plan& plan, int candidate, const MatmulArgs& g, void* c,
              int repeats) {
  const Event begin, end;
  hold_stream(context, 20 + 8 * repeats);
  check(cudaEventRecord(begin.get(), context.stream), "matmul");
  for (int i = 0; i < repeats; ++i) {
    if (start(context, plan, candidate, g, c) != CUBLAS_STATUS_SUCCESS) {
      cudaGetLastError();
      return -1;
    }
  }
  check(cudaEventRecord(end.get(), context.stream), "matmul");
  check(cudaEventSynchronize(end.get()), "matmul");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "matmul");
  return milliseconds;
}

// Keeps the fastest candidate. Writes c, unless the product is to be added to it.
void choose(const Context& context, Plan& plan, const MatmulArgs& g) {
  constexpr float kBudget = 50, kEach = 0.5F;  // milliseconds
  // The library knows large products well, and one run says little of many: clocks sink under load.
  constexpr float kLong = 2;
  // Less than this much better may be chance.
  constexpr float kMargin = 0.97F;
  std::unique_ptr<Scratch> scratch;
  void* c = g.c;
  if (g.accumulate) {
    scratch = std::make_unique<Scratch>(
        context, static_cast<std::size_t>(g.batch * g.m * g.n) * tensor::size_of(g.type));
    c = scratch->as<void>();
  }
  float spent = 0, best = 0;
  for (int i = 0; i < plan.count; ++i) {
    if (spent + 2 * best > kBudget) break;
    const float first = time_of(context, plan, i, g, c, 1);
    if (first < 0) continue;
    spent += first;
    if (first > kLong || (best > 0 && first > 2 * best + 0.1F)) {
      if (best == 0) break;  // too long to compare
      continue;
    }
    const int repeats = std::clamp(static_cast<int>(kEach / std::max(first, 1e-3F)), 1, 10);
    const float total = time_of(context, plan, i, g, c, repeats);
    if (total < 0) continue;
    spent += total;
    const float each = total / static_cast<float>(repeats);
    if (best > 0 && each >= best * kMargin) continue;
    best = each;
    plan.chosen.store(i, std::memory_order_relaxed);
  }
}

bool is_captured(const Context& context) {
  if (current_capture()) return true;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(context.stream, &status) == cudaSuccess)
    return status != cudaStreamCaptureStatusNone;
  cudaGetLastError();
  return true;
}

constexpr int kUsesToTime = 3;

// Runs the product and returns true, or returns false where the library cannot.
bool run(const Context& context, const Product& p) {
  const std::shared_ptr<Plan> plan = plan_of(context, p);
  if (plan->count == 0) return false;
  const bool fixed = deterministic.load(std::memory_order_relaxed);
  const bool times = !fixed && !plan->timed.load(std::memory_order_relaxed) && plan->count > 1 &&
                     plan->uses.fetch_add(1, std::memory_order_relaxed) + 1 >= kUsesToTime &&
                     !is_captured(context);
  std::unique_lock lock(plan->mutex, std::defer_lock);
  if (p.bias) {
    lock.lock();
    set_bias(*plan, p.bias);
  } else if (times) {
    static_cast<void>(lock.try_lock());
  }
  if (times && lock.owns_lock() && !plan->timed.load(std::memory_order_relaxed)) {
    try {
      choose(context, *plan, p.args);
    } catch (const OutOfMemoryError&) {
      // What is chosen so far has to do.
    }
    plan->timed.store(true, std::memory_order_relaxed);
  }
  const int way = fixed ? 0 : plan->chosen.load(std::memory_order_relaxed);
  check_library(start(context, *plan, way, p.args, p.args.c));
  count_launch();
  return true;
}

bool take(const MatmulArgs& g, Product& p) {
  p.args = g;
  return order_of(g.m, g.k, g.a_row, g.a_col, p.a) && order_of(g.k, g.n, g.b_row, g.b_col, p.b);
}

// True where the library has computed it, which it may not do with an epilogue.
bool multiply(const Context& context, const MatmulArgs& g, cublasLtEpilogue_t epilogue,
              const void* bias) {
  Product p{.args = g,
            .a = {},
            .b = {},
            .epilogue = epilogue,
            .bias = bias,
            .tf32 = g.type == DataType::Float32 && tf32.load(std::memory_order_relaxed)};
  return take(g, p) && run(context, p);
}

// A batch that shares b as one matrix with all the rows, where they are as far from each other.
MatmulArgs flattened(const MatmulArgs& args) {
  MatmulArgs g = args;
  if (g.batch == 1 || g.b_batch != 0 || (g.m > 1 && g.a_batch != g.m * g.a_row)) return args;
  if (g.m == 1) g.a_row = g.a_batch;
  g.m *= g.batch;
  g.batch = 1;
  Product taken{};
  return take(g, taken) ? g : args;
}

void multiply_batches(const Context& context, const MatmulArgs& args) {
  if (!is_floating(args.type)) return plain_matmul(context, args);
  constexpr std::int64_t kMostBatches = 65535;
  const MatmulArgs all = flattened(args);
  const auto size = static_cast<std::int64_t>(tensor::size_of(all.type));
  for (std::int64_t done = 0; done < all.batch; done += kMostBatches) {
    MatmulArgs part = all;
    part.batch = std::min(all.batch - done, kMostBatches);
    part.a = static_cast<const std::byte*>(all.a) + done * all.a_batch * size;
    part.b = static_cast<const std::byte*>(all.b) + done * all.b_batch * size;
    part.c = static_cast<std::byte*>(all.c) + done * all.m * all.n * size;
    if (part.batch == 1) part.a_batch = part.b_batch = 0;
    if (part.n == 1 && part.m > 1) part = tensor::detail::transposed(part);
    if (!multiply(context, part, CUBLASLT_EPILOGUE_DEFAULT, nullptr)) plain_matmul(context, part);
  }
}

// The epilogue that ends with this, DEFAULT where there is none. That of relu makes 0 of a NaN in
// some of the kernels for halves.
cublasLtEpilogue_t epilogue_of(bool biased, OpId activation, DataType type) {
  switch (activation) {
    case OpId::Relu:
      if (type != tensor::detail::compute_type(type)) return CUBLASLT_EPILOGUE_DEFAULT;
      return biased ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    case OpId::GeluTanh:
      return biased ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    case OpId::kCount:
      return biased ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    default:
      return CUBLASLT_EPILOGUE_DEFAULT;
  }
}

}  // namespace

void forget_library(int index) noexcept { handles[static_cast<std::size_t>(index)] = nullptr; }

void set_float32_matmul_precision(MatmulPrecision precision) noexcept {
  tf32 = precision == MatmulPrecision::High;
}
void set_deterministic(bool on) noexcept { deterministic = on; }

void matmul(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  if (out.numel() == 0) return;
  if (a.shape().back() == 0) {
    if (!accumulate) fill(out, 0);
    return;
  }
  const Context context(out.device());
  const bool library = is_floating(out.type());
  tensor::detail::for_matmuls(out, library && !takes(a) ? a.contiguous() : a,
                              library && !takes(b) ? b.contiguous() : b, accumulate,
                              [&](const MatmulArgs& args) { multiply_batches(context, args); });
}

void linear(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias,
            OpId activation) {
  if (out.numel() == 0) return;
  const cublasLtEpilogue_t epilogue = epilogue_of(bias.defined(), activation, out.type());
  const void* const added = bias.defined() ? bias.data() : nullptr;
  const bool aligned = reinterpret_cast<std::uintptr_t>(added) % 16 == 0;
  if (epilogue != CUBLASLT_EPILOGUE_DEFAULT && aligned && x.shape().back() > 0 && takes(x) &&
      takes(weight)) {
    const Context context(out.device());
    bool done = false;
    tensor::detail::for_matmuls(out, x, weight, false, [&](const MatmulArgs& args) {
      done = multiply(context, args, epilogue, added);
    });
    if (done) return;
  }
  matmul(out, x, weight, false);
  if (bias.defined() || activation != OpId::kCount) bias_activation(out, bias, activation);
}

}  // namespace lmp::cuda
