#include "cpu/onednn.hpp"

#include <dnnl.h>
#include <omp.h>

#include <array>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "cpu/scratch.hpp"
#include "lamppp/error.hpp"
#include "lamppp/tensor/threads.hpp"
#include "tensor/parallel.hpp"

namespace lmp::cpu::onednn {
namespace {

void check(dnnl_status_t status, const char* what) {
  if (status == dnnl_success) return;
  if (status == dnnl_out_of_memory) throw OutOfMemoryError("matmul: oneDNN ran out of memory");
  throw Error(std::string("matmul: oneDNN failed in ") + what + " (status " +
              std::to_string(status) + ")");
}

// Owns an object of oneDNN's C API.
template <class T, dnnl_status_t (*destroy)(T)>
class Handle {
 public:
  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (object_ != nullptr) destroy(object_);
  }
  T* out() { return &object_; }
  T get() const { return object_; }

 private:
  T object_ = nullptr;
};

using PostOps = Handle<dnnl_post_ops_t, dnnl_post_ops_destroy>;
using Attributes = Handle<dnnl_primitive_attr_t, dnnl_primitive_attr_destroy>;
using Description = Handle<dnnl_primitive_desc_t, dnnl_primitive_desc_destroy>;
using Primitive = Handle<dnnl_primitive_t, dnnl_primitive_destroy>;
using Memory = Handle<dnnl_memory_t, dnnl_memory_destroy>;
using Stream = Handle<dnnl_stream_t, dnnl_stream_destroy>;

dnnl_engine_t engine() {
  static const dnnl_engine_t only = [] {
    dnnl_engine_t made = nullptr;
    check(dnnl_engine_create(&made, dnnl_cpu, 0), "dnnl_engine_create");
    return made;  // never destroyed: products may still run while the process ends
  }();
  return only;
}

// What a primitive is made for: type, accumulate, threads, batch, m, n, k and the strides.
using Key = std::array<std::int64_t, 13>;

struct KeyHash {
  std::size_t operator()(const Key& key) const noexcept {
    std::uint64_t hash = 0;
    for (const std::int64_t part : key) {
      hash = (hash ^ static_cast<std::uint64_t>(part)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 32;
    }
    return static_cast<std::size_t>(hash);
  }
};

struct Product {
  dnnl_memory_desc_t a, b, c, scratch;
  Primitive primitive;  // empty where oneDNN has none that suits
};

class Cache {
 public:
  std::shared_ptr<const Product> find(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->second;
  }

  void insert(const Key& key, std::shared_ptr<const Product> product) {
    const std::lock_guard lock(mutex_);
    if (index_.contains(key)) return;  // another thread was faster
    entries_.emplace_front(key, std::move(product));
    index_.emplace(key, entries_.begin());
    if (entries_.size() <= kCapacity) return;
    index_.erase(entries_.back().first);
    entries_.pop_back();
  }

 private:
  static constexpr std::size_t kCapacity = 1024;
  using Entries = std::list<std::pair<Key, std::shared_ptr<const Product>>>;
  std::mutex mutex_;
  Entries entries_;  // most recently used first
  std::unordered_map<Key, Entries::iterator, KeyHash> index_;
};

Cache& cache() {
  static Cache& only = *new Cache;
  return only;
}

// oneDNN reads the number of threads from OpenMP, when it makes a primitive and when it runs one.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(omp_get_max_threads()), threads_(threads) {
    if (before_ != threads_) omp_set_num_threads(threads_);
  }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;
  ~ThreadCount() {
    if (before_ != threads_) omp_set_num_threads(before_);
  }

 private:
  int before_, threads_;
};

dnnl_memory_desc_t describe(tensor::DataType type, std::array<dnnl_dim_t, 3> sizes,
                            std::array<dnnl_dim_t, 3> strides, int skip) {
  dnnl_memory_desc_t description;
  check(dnnl_memory_desc_init_by_strides(&description, 3 - skip, sizes.data() + skip,
                                         type == tensor::DataType::Float32 ? dnnl_f32 : dnnl_bf16,
                                         strides.data() + skip),
        "dnnl_memory_desc_init_by_strides");
  return description;
}

std::shared_ptr<const Product> make(const MatmulArgs& g) {
  auto product = std::make_shared<Product>();
  const int skip = g.batch == 1 ? 1 : 0;
  // A size of one is oneDNN's way to repeat a matrix over the batch.
  product->a = describe(g.type, {g.a_batch == 0 ? 1 : g.batch, g.m, g.k},
                        {g.a_batch == 0 ? g.m * g.k : g.a_batch, g.a_row, g.a_col}, skip);
  product->b = describe(g.type, {g.b_batch == 0 ? 1 : g.batch, g.k, g.n},
                        {g.b_batch == 0 ? g.k * g.n : g.b_batch, g.b_row, g.b_col}, skip);
  product->c = describe(g.type, {g.batch, g.m, g.n}, {g.m * g.n, g.n, 1}, skip);

  Attributes attributes;
  check(dnnl_primitive_attr_create(attributes.out()), "dnnl_primitive_attr_create");
  // The library's own scratchpad would tie a primitive to one thread at a time.
  check(dnnl_primitive_attr_set_scratchpad_mode(attributes.get(), dnnl_scratchpad_mode_user),
        "dnnl_primitive_attr_set_scratchpad_mode");
  if (g.accumulate) {
    PostOps post_ops;
    check(dnnl_post_ops_create(post_ops.out()), "dnnl_post_ops_create");
    check(dnnl_post_ops_append_sum(post_ops.get(), 1.0f), "dnnl_post_ops_append_sum");
    check(dnnl_primitive_attr_set_post_ops(attributes.get(), post_ops.get()),
          "dnnl_primitive_attr_set_post_ops");
  }

  dnnl_matmul_desc_t operation;
  check(dnnl_matmul_desc_init(&operation, &product->a, &product->b, nullptr, &product->c),
        "dnnl_matmul_desc_init");
  Description description;
  const dnnl_status_t status = dnnl_primitive_desc_create(description.out(), &operation,
                                                          attributes.get(), engine(), nullptr);
  if (status == dnnl_unimplemented) return product;
  check(status, "dnnl_primitive_desc_create");
  const char* implementation = "";
  check(dnnl_primitive_desc_query(description.get(), dnnl_query_impl_info_str, 0, &implementation),
        "dnnl_primitive_desc_query");
  // The others are slow, or split sums by the number of threads in more cases.
  if (!std::string_view(implementation).starts_with("brg")) return product;
  product->scratch = *dnnl_primitive_desc_query_md(description.get(), dnnl_query_scratchpad_md, 0);
  check(dnnl_primitive_create(product->primitive.out(), description.get()),
        "dnnl_primitive_create");
  return product;
}

// A matrix whose lines, rows or columns, are contiguous and do not overlap.
bool is_plain(std::int64_t rows, std::int64_t cols, std::int64_t row, std::int64_t col) {
  return (col == 1 && row >= cols) || (row == 1 && col >= rows);
}

}  // namespace

bool matmul(const MatmulArgs& g) {
  if (g.type != tensor::DataType::Float32 && g.type != tensor::DataType::BFloat16) return false;
  if (!is_plain(g.m, g.k, g.a_row, g.a_col) || !is_plain(g.k, g.n, g.b_row, g.b_col)) return false;
  if (g.a_batch < 0 || g.b_batch < 0) return false;

  const int threads = tensor::detail::in_parallel_region() ? 1 : tensor::get_num_threads();
  const Key key = {static_cast<std::int64_t>(g.type),
                   g.accumulate,
                   threads,
                   g.batch,
                   g.m,
                   g.n,
                   g.k,
                   g.a_batch,
                   g.a_row,
                   g.a_col,
                   g.b_batch,
                   g.b_row,
                   g.b_col};
  const ThreadCount limit(threads);
  std::shared_ptr<const Product> product = cache().find(key);
  if (product == nullptr) {
    product = make(g);
    cache().insert(key, product);
  }
  if (product->primitive.get() == nullptr) return false;

  const Scratch scratch(dnnl_memory_desc_get_size(&product->scratch));
  Memory a, b, c, space;
  Stream stream;
  const auto place = [](Memory& memory, const dnnl_memory_desc_t& description, const void* data) {
    check(dnnl_memory_create(memory.out(), &description, engine(), const_cast<void*>(data)),
          "dnnl_memory_create");
  };
  place(a, product->a, g.a);
  place(b, product->b, g.b);
  place(c, product->c, g.c);
  place(space, product->scratch, scratch.data());
  check(dnnl_stream_create(stream.out(), engine(), dnnl_stream_default_flags),
        "dnnl_stream_create");
  const std::array<dnnl_exec_arg_t, 4> arguments = {{{DNNL_ARG_SRC, a.get()},
                                                     {DNNL_ARG_WEIGHTS, b.get()},
                                                     {DNNL_ARG_DST, c.get()},
                                                     {DNNL_ARG_SCRATCHPAD, space.get()}}};
  check(dnnl_primitive_execute(product->primitive.get(), stream.get(), 4, arguments.data()),
        "dnnl_primitive_execute");
  check(dnnl_stream_wait(stream.get()), "dnnl_stream_wait");
  return true;
}

}  // namespace lmp::cpu::onednn
