// Matrix product in register tiles over packed panels, after K. Goto and R. van de Geijn, "Anatomy
// of high-performance matrix multiplication", ACM TOMS 34(3), 2008. An element of c is summed term
// after term within blocks of `depth` terms, whatever tile it lies in.
#include "cpu/matmul.hpp"

#include "cpu/kernels/tiles.hpp"

namespace lmp::cpu::LMP_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kAccumulators = 28;  // of 32 registers
#else
constexpr int kAccumulators = 12;  // of 16 registers
#endif

template <class T>
constexpr bool kFloating = T(0.5) != T(0);

// Integers get few tile sizes, to keep the object small.
template <class T>
constexpr int kMaxRows = kFloating<T> ? kAccumulators / 2 : 4;
template <class T>
constexpr int kMaxVectors = kFloating<T> ? 4 : 2;

// x * y + z, rounded once where the instruction set can.
template <class T>
LMP_FLAT inline Vector<T> multiply_add(Vector<T> x, Vector<T> y, Vector<T> z) {
#if defined(__AVX512F__)
  if constexpr (__is_same(T, float)) return _mm512_fmadd_ps(x, y, z);
  if constexpr (__is_same(T, double)) return _mm512_fmadd_pd(x, y, z);
#elif defined(__AVX2__)
  if constexpr (__is_same(T, float)) return _mm256_fmadd_ps(x, y, z);
  if constexpr (__is_same(T, double)) return _mm256_fmadd_pd(x, y, z);
#endif
  return x * y + z;
}

// Storage types of halves; computed with as float.
struct __attribute__((may_alias)) Binary16 {
  std::uint16_t bits;
};
struct __attribute__((may_alias)) Brain16 {
  std::uint16_t bits;
};
using Bits = Vector<std::uint32_t>;
using HalfBits = VectorOf<std::uint16_t, kVectorBytes / 2>::Type;

template <class T, class S>
LMP_FLAT inline Vector<T> load(const S* from) {
  if constexpr (__is_same(T, S)) {
    Vector<T> v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  } else {
    HalfBits narrow;
    __builtin_memcpy(&narrow, from, sizeof narrow);
    const Bits half = __builtin_convertvector(narrow, Bits);
    if constexpr (__is_same(S, Brain16)) return (Vector<float>)(half << 16);
    // Exponent and mantissa at their places in a float, then the exponents' bias put right, which
    // also scales subnormals; infinities and NaN get the largest exponent.
    const Bits magnitude = (Bits)((Vector<float>)((half & 0x7fffu) << 13) * 0x1p112f);
    const Bits special = (Bits)((half & 0x7c00u) == 0x7c00u) & 0x7f800000u;
    return (Vector<float>)(magnitude | special | (half & 0x8000u) << 16);
  }
}

template <class S, class T>
LMP_FLAT inline void store(S* to, Vector<T> v) {
  if constexpr (__is_same(T, S)) {
    __builtin_memcpy(to, &v, sizeof v);
  } else {
    const Bits bits = (Bits)v, sign = bits & 0x80000000u, magnitude = bits ^ sign;
    const Bits nan = (Bits)(magnitude > 0x7f800000u);
    Bits half;
    if constexpr (__is_same(S, Brain16)) {
      const Bits rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
      half = (nan & (bits >> 16 | 0x40u)) | (~nan & rounded);
    } else {
      // Below 2^-14 an addition that puts the last place of a subnormal half at that of a float
      // rounds; above, the bias is put right and the mantissa rounded to even, overflow ending at
      // infinity.
      const Bits small = (Bits)(magnitude < 0x38800000u), large = (Bits)(magnitude >= 0x47800000u);
      const Bits subnormal = (Bits)((Vector<float>)magnitude + 0.5f) - 0x3f000000u;
      const Bits normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
      const Bits finite = (small & subnormal) | (~small & normal);
      const Bits special = 0x7c00u | (nan & (0x200u | (magnitude >> 13 & 0x3ffu)));
      half = (large & special) | (~large & finite) | sign >> 16;
    }
    const HalfBits narrow = __builtin_convertvector(half, HalfBits);
    __builtin_memcpy(to, &narrow, sizeof narrow);
  }
}

// Loads and stores of the first `count` lanes where the instruction set has them.
#if defined(__AVX512F__)
template <class T>
constexpr bool kMasks = __is_same(T, float) || __is_same(T, double);
LMP_FLAT inline unsigned mask(Index count) { return (1u << count) - 1; }
LMP_FLAT inline Vector<float> masked_load(const float* from, Index count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask(count)), from);
}
LMP_FLAT inline Vector<double> masked_load(const double* from, Index count) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask(count)), from);
}
LMP_FLAT inline void masked_store(float* to, Vector<float> v, Index count) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask(count)), v);
}
LMP_FLAT inline void masked_store(double* to, Vector<double> v, Index count) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>(mask(count)), v);
}
#elif defined(__AVX2__)
template <class T>
constexpr bool kMasks = __is_same(T, float) || __is_same(T, double);
LMP_FLAT inline __m256i mask(float, Index count) {
  return (__m256i)(Vector<int>{0, 1, 2, 3, 4, 5, 6, 7} < static_cast<int>(count));
}
LMP_FLAT inline __m256i mask(double, Index count) {
  return (__m256i)(Vector<long long>{0, 1, 2, 3} < static_cast<long long>(count));
}
LMP_FLAT inline Vector<float> masked_load(const float* from, Index count) {
  return _mm256_maskload_ps(from, mask(0.0f, count));
}
LMP_FLAT inline Vector<double> masked_load(const double* from, Index count) {
  return _mm256_maskload_pd(from, mask(0.0, count));
}
LMP_FLAT inline void masked_store(float* to, Vector<float> v, Index count) {
  _mm256_maskstore_ps(to, mask(0.0f, count), v);
}
LMP_FLAT inline void masked_store(double* to, Vector<double> v, Index count) {
  _mm256_maskstore_pd(to, mask(0.0, count), v);
}
#else
template <class T>
constexpr bool kMasks = false;
#endif

// The first `count` lanes, `stride` apart in memory; the others are zero.
template <class T, class S>
LMP_FLAT inline Vector<T> load_some(const S* from, Index stride, Index count) {
  if constexpr (kMasks<S>) {
    if (stride == 1) return masked_load(from, count);
  }
  S lanes[kWidth<T>] = {};
  for (Index i = 0; i < count; ++i) lanes[i] = from[i * stride];
  return load<T>(lanes);
}

template <class S, class T>
LMP_FLAT inline void store_some(S* to, Vector<T> v, Index count) {
  if constexpr (kMasks<S>) {
    masked_store(to, v, count);
  } else {
    S lanes[kWidth<T>];
    store<S, T>(lanes, v);
    for (Index i = 0; i < count; ++i) to[i] = lanes[i];
  }
}

// Copies a line, writing up to a vector more; lanes beyond it are zero.
template <class T, class S>
LMP_FLAT inline void pack_line(T* to, const S* from, Index stride, Index count) {
  constexpr int lanes = kWidth<T>;
  for (Index i = 0; i < count; i += lanes, from += lanes * stride) {
    const bool whole = stride == 1 && count - i >= lanes;
    store<T, T>(to + i,
                whole ? load<T>(from) : load_some<T>(from, stride, minimum(lanes, count - i)));
  }
}

// Copies the transpose of cols x depth, whose rows are contiguous.
template <class T, class S>
void pack_transposed(T* panel, Index width, const S* b, Index b_col, Index depth, Index cols) {
  constexpr int lanes = kWidth<T>;
  for (Index j = 0; j < width; j += lanes, b += lanes * b_col) {
    const Index count = minimum(lanes, cols - j);
    for (Index p = 0; p < depth; p += lanes) {
      const Index some = minimum(lanes, depth - p);
      Vector<T> square[lanes] = {};
      if (some == lanes && count == lanes) {
        repeat<lanes>([&](auto i) LMP_FLAT { square[i.value] = load<T>(b + p + i.value * b_col); });
      } else {
        for (Index i = 0; i < count; ++i) square[i] = load_some<T>(b + p + i * b_col, 1, some);
      }
      transpose<T>(square);
      if (some == lanes) {
        repeat<lanes>([&](auto i) LMP_FLAT {
          store<T, T>(panel + (p + i.value) * width + j, square[i.value]);
        });
      } else {
        for (Index i = 0; i < some; ++i) store<T, T>(panel + (p + i) * width + j, square[i]);
      }
    }
  }
}

// Copies depth x cols of b to panels `width` wide; the last one's rows are whole vectors, filled up
// with zeros. Rows are copied at full length, so memory is read in its order.
template <class T, class S>
void pack_panels(T* panels, Index width, const S* b, Index b_row, Index b_col, Index depth,
                 Index cols) {
  const auto pitch = [&](Index j) {
    return ceil_div(minimum(width, cols - j), kWidth<T>) * kWidth<T>;
  };
  if constexpr (kFloating<T>) {
    if (b_row == 1 && b_col != 1) {
      for (Index j = 0; j < cols; j += width) {
        pack_transposed(panels + j * depth, pitch(j), b + j * b_col, b_col, depth,
                        minimum(width, cols - j));
      }
      return;
    }
  }
  for (Index p = 0; p < depth; ++p) {
    for (Index j = 0; j < cols; j += width) {
      pack_line(panels + j * depth + p * pitch(j), b + p * b_row + j * b_col, b_col,
                minimum(width, cols - j));
    }
  }
}

// Stores rows x cols of a tile whose rows are `width` long, a multiple of the lanes.
template <class T>
__attribute__((noinline)) void store_narrow(T* c, Index c_row, const T* sums, Index rows,
                                            Index cols, Index width, bool add) {
  constexpr int lanes = kWidth<T>;
  for (Index i = 0; i < rows; ++i, c += c_row, sums += width) {
    for (Index j = 0; j < cols; j += lanes) {
      const Index count = minimum(lanes, cols - j);
      Vector<T> sum = load<T>(sums + j);
      if (add) sum += load_some<T>(c + j, 1, count);
      store_some<T, T>(c + j, sum, count);
    }
  }
}

// A tile of c, M x N vectors, of the last of which `last` lanes count.
template <class T, int M, int N>
void tile(Index depth, const T* a, Index a_row, Index a_col, const T* b, Index b_row, T* c,
          Index c_row, Index last, bool add) {
  constexpr int lanes = kWidth<T>;
  constexpr int groups = (M + 3) / 4;  // one pointer for four rows: pointers need registers too
  const T* rows[groups];
  repeat<groups>([&](auto i) LMP_FLAT { rows[i.value] = a + i.value * 4 * a_row; });
  Vector<T> sum[M * N] = {};
  for (Index p = 0; p < depth; ++p, b += b_row) {
    Vector<T> right[N];
    repeat<N>([&](auto j) LMP_FLAT { right[j.value] = load<T>(b + j.value * lanes); });
    repeat<M>([&](auto i) LMP_FLAT {
      const Vector<T> left = rows[i.value / 4][i.value % 4 * a_row] - Vector<T>{};
      repeat<N>([&](auto j) LMP_FLAT {
        Vector<T>& s = sum[i.value * N + j.value];
        s = multiply_add<T>(left, right[j.value], s);
      });
    });
    repeat<groups>([&](auto i) LMP_FLAT { rows[i.value] += a_col; });
  }
  if (last < lanes) {
    T sums[M * N * lanes];
    repeat<M * N>([&](auto i) LMP_FLAT { store<T, T>(sums + i.value * lanes, sum[i.value]); });
    store_narrow(c, c_row, sums, M, (N - 1) * lanes + last, N * lanes, add);
    return;
  }
  if (add) {
    repeat<M * N>([&](auto i) LMP_FLAT {
      sum[i.value] += load<T>(c + i.value / N * c_row + i.value % N * lanes);
    });
  }
  repeat<M * N>([&](auto i) LMP_FLAT {
    store<T, T>(c + i.value / N * c_row + i.value % N * lanes, sum[i.value]);
  });
}

template <class T>
using Tile = void (*)(Index, const T*, Index, Index, const T*, Index, T*, Index, Index, bool);

template <class T>
struct Tiles {
  Tile<T> at[kMaxRows<T> * kMaxVectors<T>];
};

template <class T, int M, int N>
constexpr Tile<T> tile_or_null() {
  if constexpr (N <= 2 || M * kMaxVectors<T> <= 2 * kMaxRows<T>) return tile<T, M, N>;
  return nullptr;
}

template <class T, int... I>
constexpr Tiles<T> make_tiles(Indices<I...>) {
  return {{tile_or_null<T, I / kMaxVectors<T> + 1, I % kMaxVectors<T> + 1>()...}};
}

template <class T>
constexpr Tiles<T> kTiles = make_tiles<T>(UpTo<kMaxRows<T> * kMaxVectors<T>>{});

// Dot products of a line of a with up to kDots columns of b, all contiguous.
constexpr Index kDots = 4;

template <class T, class S>
void dots(Index depth, const T* a, const S* b, Index b_col, Index cols, T* c, bool add) {
  constexpr int lanes = kWidth<T>, ways = 2;
  const S* from[kDots];
  repeat<kDots>([&](auto i) LMP_FLAT { from[i.value] = b + minimum(i.value, cols - 1) * b_col; });
  Vector<T> sum[kDots * ways] = {};
  Index p = 0;
  for (; p + ways * lanes <= depth; p += ways * lanes) {
    repeat<kDots * ways>([&](auto i) LMP_FLAT {
      const Index at = p + i.value % ways * lanes;
      Vector<T>& s = sum[i.value];
      s = multiply_add<T>(load<T>(a + at), load<T>(from[i.value / ways] + at), s);
    });
  }
  for (; p < depth; p += lanes) {
    const Index some = minimum(lanes, depth - p);
    const Vector<T> left = load_some<T>(a + p, 1, some);
    repeat<kDots>([&](auto i) LMP_FLAT {
      Vector<T>& s = sum[i.value * ways];
      s = multiply_add<T>(left, load_some<T>(from[i.value] + p, 1, some), s);
    });
  }
  repeat<kDots>([&](auto i) LMP_FLAT {
    if (i.value >= cols) return;
    T part[lanes];
    store<T, T>(part, sum[i.value * ways] + sum[i.value * ways + 1]);
    for (int half = lanes / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) part[l] = static_cast<T>(part[l] + part[l + half]);
    }
    c[i.value] = add ? static_cast<T>(c[i.value] + part[0]) : part[0];
  });
}

template <class T, class S>
void product(const MatmulArgs& g, const GemmTile& t) {
  constexpr int lanes = kWidth<T>;
  const S* a = static_cast<const S*>(g.a) + t.batch * g.a_batch + t.row_begin * g.a_row;
  const S* b = static_cast<const S*>(g.b) + t.batch * g.b_batch + t.col_begin * g.b_col;
  S* c = static_cast<S*>(g.c) + (t.batch * g.m + t.row_begin) * g.n + t.col_begin;
  const Index rows = t.row_end - t.row_begin, cols = t.col_end - t.col_begin;

  // Rows go into tiles as even as possible, and few rows into wide tiles.
  const Index tile_rows = ceil_div(rows, ceil_div(rows, kMaxRows<T>));
  const Index tile_vectors = tile_rows * kMaxVectors<T> <= 2 * kMaxRows<T> ? kMaxVectors<T> : 2;
  const Index width = tile_vectors * lanes;
  const bool by_dots = g.m <= 4 && g.b_row == 1 && g.b_col != 1;

  constexpr bool converts = !__is_same(T, S);
  const bool read_a =
      !converts && (by_dots ? g.a_col == 1 : cols <= 2 * width || rows * g.k <= 4096);
  const bool read_b = !converts && g.b_col == 1 && (rows <= 3 * tile_rows || g.k * cols <= 4096);

  // Columns of b read where they are: all, none, or all but a last panel that ends within a vector.
  const Index in_place = !read_b ? 0 : cols % lanes == 0 ? cols : cols - cols % width;
  // Panels packed at once: several where that reads memory in its order.
  const Index group = g.b_row == 1 ? width : 4 * width;

  T* panels = static_cast<T*>(t.scratch);
  T* block = panels + t.depth * (cols + lanes);
  T* sums = block + (rows + 64) * (t.depth + 64);
  T* out;
  Index out_row;
  if constexpr (converts) {
    out = sums;
    out_row = cols;
  } else {
    out = c;
    out_row = g.n;
  }

  for (Index p = 0; p < g.k; p += t.depth) {
    const Index depth = minimum(t.depth, g.k - p);
    const bool add = p > 0 || (!converts && g.accumulate);
    const T* left = nullptr;
    Index left_row = g.a_row, left_col = g.a_col;
    if constexpr (!converts) left = a + p * g.a_col;
    if (!read_a) {
      const bool by_columns = !by_dots && g.a_row == 1 && g.a_col != 1;
      const Index lines = by_columns ? depth : rows, length = by_columns ? rows : depth;
      const Index pitch = ceil_div(length, lanes) * lanes + lanes;  // no power of two
      const S* from = a + p * g.a_col;
      for (Index i = 0; i < lines; ++i) {
        pack_line(block + i * pitch, from + i * (by_columns ? g.a_col : g.a_row),
                  by_columns ? g.a_row : g.a_col, length);
      }
      left = block;
      left_row = by_columns ? 1 : pitch;
      left_col = by_columns ? pitch : 1;
    }
    const S* from = b + p * g.b_row;
    if (by_dots) {
      for (Index j = 0; j < cols; j += kDots) {
        for (Index i = 0; i < rows; ++i) {
          dots(depth, left + i * left_row, from + j * g.b_col, g.b_col, minimum(kDots, cols - j),
               out + i * out_row + j, add);
        }
      }
      continue;
    }
    for (Index j = 0; j < cols; j += width) {
      if (j % group == 0 && j + minimum(group, cols - j) > in_place) {
        const Index start = j > in_place ? j : in_place;
        pack_panels(panels + (start - j) * depth, width, from + start * g.b_col, g.b_row, g.b_col,
                    depth, minimum(j + group, cols) - start);
      }
      const Index count = minimum(width, cols - j), vectors = ceil_div(count, lanes);
      const Index last = count - (vectors - 1) * lanes;
      const T* right = panels + j % group * depth;
      Index right_row = vectors * lanes;
      if constexpr (!converts) {
        if (j < in_place) {
          right = from + j;
          right_row = g.b_row;
        }
      }
      for (Index i = 0; i < rows; i += tile_rows) {
        const Index some = minimum(tile_rows, rows - i);
        kTiles<T>.at[(some - 1) * kMaxVectors<T> + vectors - 1](
            depth, left + i * left_row, left_row, left_col, right, right_row, out + i * out_row + j,
            out_row, last, add);
      }
    }
  }

  if constexpr (converts) {
    for (Index i = 0; i < rows; ++i, c += g.n, out += out_row) {
      for (Index j = 0; j < cols; j += lanes) {
        const Index count = minimum(lanes, cols - j);
        Vector<T> v = load_some<T>(out + j, 1, count);
        if (g.accumulate) v += load_some<T>(c + j, 1, count);
        store_some<S, T>(c + j, v, count);
      }
    }
  }
}

}  // namespace

void gemm(const MatmulArgs& args, const GemmTile& tile) {
  using tensor::DataType;
  switch (args.type) {
    case DataType::Float32:
      return product<float, float>(args, tile);
    case DataType::Float64:
      return product<double, double>(args, tile);
    case DataType::Float16:
      return product<float, Binary16>(args, tile);
    case DataType::BFloat16:
      return product<float, Brain16>(args, tile);
    case DataType::Int16:
      return product<std::uint16_t, std::uint16_t>(args, tile);
    case DataType::Int32:
      return product<std::uint32_t, std::uint32_t>(args, tile);
    case DataType::Int64:
      return product<std::uint64_t, std::uint64_t>(args, tile);
    case DataType::UInt8:
    case DataType::Int8:
      return product<std::uint8_t, std::uint8_t>(args, tile);
    case DataType::Bool:
      return;
  }
}

}  // namespace lmp::cpu::LMP_ISA
