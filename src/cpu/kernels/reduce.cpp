// Reductions, and the ops that rest on them. See Note [Reductions] in cpu/reduce.cpp for how the
// work is cut into what is done here.
#include "cpu/kernels/table.hpp"
#include "cpu/kernels/vector.hpp"

namespace lmp::cpu::LMP_ISA {
namespace {

template <bool kSecond, class First, class Second>
struct Pick {
  using Type = First;
};
template <class First, class Second>
struct Pick<true, First, Second> {
  using Type = Second;
};

// e^x for x <= 0 or NaN, without what larger ones need; 0 where it is no normal number.
LMP_MATH_FN float exp_below(float x) { return x < -kMathNearExp ? 0.0F : math_exp_normal(x); }
LMP_MATH_FN double exp_below(double x) { return exp(x); }

// ---- What is reduced ----
// term() makes of an element, and of what goes with it, what join() joins. Both are written for
// numbers and for vectors of them.

enum class With { Nothing, Output, Element };

struct Joined {
  static constexpr With with = With::Nothing;
  template <class V>
  LMP_FN static V term(V x, V) {
    return x;
  }
};
struct Added {
  template <class V>
  LMP_FN static V join(V a, V b) {
    return a + b;
  }
};
struct SumOf : Joined, Added {};
struct ProdOf : Joined {
  template <class V>
  LMP_FN static V join(V a, V b) {
    return a * b;
  }
};
struct MaxOf : Joined {
  template <class V>
  LMP_FN static V join(V a, V b) {
    const V larger = b > a ? b : a;
    return b != b ? b : larger;  // a that is NaN stays
  }
  // Of numbers.
  template <class V>
  LMP_FN static V further(V a, V b) {
    return a > b ? a : b;
  }
};
struct MinOf : Joined {
  template <class V>
  LMP_FN static V join(V a, V b) {
    const V smaller = b < a ? b : a;
    return b != b ? b : smaller;
  }
  template <class V>
  LMP_FN static V further(V a, V b) {
    return a < b ? a : b;
  }
};
struct SquaresOf : Added {
  static constexpr With with = With::Output;
  template <class V>
  LMP_FN static V term(V x, V center) {
    return (x - center) * (x - center);
  }
};
struct ExpsOf : Added {
  static constexpr With with = With::Output;
  template <class T>
  LMP_FN static T term(T x, T shift) {
    return exp_below(x - shift);
  }
};
struct ProductsOf : Added {
  static constexpr With with = With::Element;
  template <class V>
  LMP_FN static V term(V x, V other) {
    return x * other;
  }
};
struct EqualsOf : Added {
  static constexpr With with = With::Output;
  template <class V>
  LMP_FN static V term(V x, V value) {
    return x == value ? V{} + 1 : V{};
  }
};

/// The mathematical functions are written for numbers; loops over them vectorise.
template <class Op>
inline constexpr bool kVectorTerm = !__is_same(Op, ExpsOf);

// ---- Rows ----

template <class T, int kBytes, int... kLow>
LMP_MATH_FN auto low_half(typename VectorOf<T, kBytes>::Type v, Indices<kLow...>) {
  return __builtin_shufflevector(v, v, kLow...);
}
template <class T, int kBytes, int... kLow>
LMP_MATH_FN auto high_half(typename VectorOf<T, kBytes>::Type v, Indices<kLow...>) {
  return __builtin_shufflevector(v, v, (kLow + static_cast<int>(sizeof...(kLow)))...);
}

template <class Op, class T, int kBytes = kVectorBytes>
LMP_MATH_FN T join_lanes(typename VectorOf<T, kBytes>::Type v) {
  constexpr int n = VectorOf<T, kBytes>::lanes;
  if constexpr (kBytes > 16) {
    return join_lanes<Op, T, kBytes / 2>(
        Op::join(low_half<T, kBytes>(v, UpTo<n / 2>{}), high_half<T, kBytes>(v, UpTo<n / 2>{})));
  } else {
    T lanes[n];
    __builtin_memcpy(lanes, &v, sizeof lanes);
    for (int width = n / 2; width > 0; width /= 2)
      for (int j = 0; j < width; ++j) lanes[j] = Op::join(lanes[j], lanes[j + width]);
    return lanes[0];
  }
}

// Four vectors of lanes, which keeps the adders busy. The tree that joins them is fixed, so the
// result depends on n alone.
template <class Op, class T>
LMP_MATH_FN T reduce_piece(const T* x, const T* with, std::size_t n) {
  constexpr std::size_t kStep = kLanes<T>;
  const T first = Op::with == With::Output ? *with : T{};
  const auto scalar = [=](std::size_t i) __attribute__((always_inline)) {
    return Op::term(x[i], Op::with == With::Element ? with[i] : first);
  };
  if (n < kStep) {
    T total = scalar(0);
    for (std::size_t i = 1; i < n; ++i) total = Op::join(total, scalar(i));
    return total;
  }
  const Vector<T> all = Vector<T>{} + first;
  const auto at = [=](std::size_t i) __attribute__((always_inline)) {
    if constexpr (Op::with == With::Element)
      return Op::term(load_vector(x + i), load_vector(with + i));
    else
      return Op::term(load_vector(x + i), all);
  };
  Vector<T> a = at(0);
  std::size_t i = kStep;
  if (n >= 4 * kStep) {
    Vector<T> b = at(kStep), c = at(2 * kStep), d = at(3 * kStep);
    for (i = 4 * kStep; i + 4 * kStep <= n; i += 4 * kStep) {
      a = Op::join(a, at(i));
      b = Op::join(b, at(i + kStep));
      c = Op::join(c, at(i + 2 * kStep));
      d = Op::join(d, at(i + 3 * kStep));
    }
    a = Op::join(Op::join(a, b), Op::join(c, d));
  }
  for (; i + kStep <= n; i += kStep) a = Op::join(a, at(i));
  T total = join_lanes<Op, T>(a);
  for (; i < n; ++i) total = Op::join(total, scalar(i));
  return total;
}

// The extreme where no element is NaN or infinite, which x * 0 tells: one instruction for each
// instead of four.
template <class Op, class T>
LMP_MATH_FN bool finite_extreme(T* out, const T* x, std::size_t n) {
  constexpr std::size_t kStep = 4 * kLanes<T>;
  if (n < 2 * kStep) return false;
  Vector<T> top[4], zeros[2] = {};
  for (int k = 0; k < 4; ++k) top[k] = load_vector(x + static_cast<std::size_t>(k) * kLanes<T>);
  const std::size_t last = n - kStep;  // the end is looked at again with what comes before it
  for (std::size_t i = 0;; i = i + kStep < last ? i + kStep : last) {
    const auto take = [&](int k) __attribute__((always_inline)) {
      const Vector<T> v = load_vector(x + i + static_cast<std::size_t>(k) * kLanes<T>);
      top[k] = Op::further(v, top[k]);
      zeros[k % 2] += v * T{0};
    };
    take(0), take(1), take(2), take(3);
    if (i == last) break;
  }
  const T zero = join_lanes<SumOf, T>(zeros[0] + zeros[1]);
  *out = join_lanes<Op, T>(Op::join(Op::join(top[0], top[1]), Op::join(top[2], top[3])));
  return zero == T{0};
}

template <class Op, class T>
T reduce_row_pieces(const T* x, const T* with, std::size_t n);

// Pieces are as long as lets a lane join 64 elements, however wide vectors are, so that sums keep
// their digits, and joined pairwise.
template <class Op, class T>
LMP_MATH_FN T reduce_row(const T* x, const T* with, std::size_t n) {
  if constexpr (kIsFloat<T> && requires { Op::further(T{}, T{}); }) {
    T extreme;
    if (finite_extreme<Op, T>(&extreme, x, n)) return extreme;
  }
  constexpr std::size_t kPiece = 256 * kLanes<T>;
  if (n <= kPiece) return reduce_piece<Op, T>(x, with, n);
  return reduce_row_pieces<Op, T>(x, with, n);
}
template <class Op, class T>
T reduce_row_pieces(const T* x, const T* with, std::size_t n) {
  constexpr std::size_t kPiece = 256 * kLanes<T>;
  if (n <= kPiece) return reduce_piece<Op, T>(x, with, n);
  const std::size_t half = (n / 2 + kPiece - 1) / kPiece * kPiece;
  const T left = reduce_row_pieces<Op, T>(x, with, half);
  return Op::join(left, reduce_row_pieces<Op, T>(
                            x + half, Op::with == With::Element ? with + half : with, n - half));
}

template <class Op, class T>
void reduce_rows(void* out, const void* in, const void* with, std::int64_t stride, std::size_t rows,
                 std::size_t n) {
  auto* o = static_cast<T*>(out);
  const auto *x = static_cast<const T*>(in), *w = static_cast<const T*>(with);
  for (std::size_t r = 0; r < rows; ++r, x += stride) {
    if constexpr (kVectorTerm<Op>) {
      o[r] = reduce_row<Op, T>(x, w, n);
    } else {
      constexpr std::size_t kTerms = 512;
      T terms[kTerms], total{};
      for (std::size_t begin = 0; begin < n; begin += kTerms) {
        const std::size_t count = n - begin < kTerms ? n - begin : kTerms;
        LMP_VECTORIZE
        for (std::size_t i = 0; i < count; ++i) terms[i] = Op::term(x[begin + i], *w);
        total += reduce_row<SumOf, T>(terms, nullptr, count);
      }
      o[r] = total;
    }
    if constexpr (Op::with == With::Output) ++w;
    if constexpr (Op::with == With::Element) w += stride;
  }
}

// ---- Columns ----

constexpr std::size_t kNarrow = 64;  // columns, few enough for four sums of each in registers

// kRows rows into the results, which are read and written once for all of them.
template <class Op, class T, bool kFirst, int... kRow>
LMP_MATH_FN void add_rows(T* out, const T* x, const T* with, std::int64_t stride, std::size_t n,
                          Indices<kRow...>) {
  const auto total_of = [=](std::size_t j, auto load) __attribute__((always_inline)) {
    const auto term = [=](int row) __attribute__((always_inline)) {
      const std::int64_t skip = row * stride;
      return Op::term(load(x + skip + j), Op::with == With::Nothing  ? decltype(load(x)){}
                                          : Op::with == With::Output ? load(with + j)
                                                                     : load(with + skip + j));
    };
    auto total = kFirst ? term(0) : Op::join(load(out + j), term(0));
    ((total = kRow == 0 ? total : Op::join(total, term(kRow))), ...);
    return total;
  };
  std::size_t j = 0;
  if constexpr (kVectorTerm<Op>)
    for (; j + kLanes<T> <= n; j += kLanes<T>)
      store_vector<T>(out + j, total_of(
                                   j, [](const T* p) __attribute__((always_inline)) {
                                     return load_vector(p);
                                   }));
  const std::size_t rest = j;
  LMP_VECTORIZE
  for (std::size_t i = rest; i < n; ++i)
    out[i] = total_of(
        i, [](const T* p) __attribute__((always_inline)) { return *p; });
}

// Few columns: whole vectors of them stay in registers while the rows go by, in four sums each that
// take every fourth row, whatever the width of vectors.
template <class Op, class T, int... kColumn>
LMP_MATH_FN void narrow_columns(T* out, const T* x, const T* with, std::int64_t stride,
                                std::size_t rows, Indices<kColumn...>) {
  constexpr int kColumns = sizeof...(kColumn);
  const auto term = [=](std::size_t row, int column) __attribute__((always_inline)) {
    const std::size_t at = static_cast<std::size_t>(column) * kLanes<T>;
    const T* const from = x + static_cast<std::int64_t>(row) * stride + at;
    return Op::term(load_vector(from),
                    Op::with == With::Nothing ? Vector<T>{} : load_vector(with + at));
  };
  Vector<T> sums[4][kColumns] = {
      {term(0, kColumn)...}, {term(1, kColumn)...}, {term(2, kColumn)...}, {term(3, kColumn)...}};
  std::size_t r = 4;
  for (; r + 4 <= rows; r += 4) {
    ((sums[0][kColumn] = Op::join(sums[0][kColumn], term(r, kColumn))), ...);
    ((sums[1][kColumn] = Op::join(sums[1][kColumn], term(r + 1, kColumn))), ...);
    ((sums[2][kColumn] = Op::join(sums[2][kColumn], term(r + 2, kColumn))), ...);
    ((sums[3][kColumn] = Op::join(sums[3][kColumn], term(r + 3, kColumn))), ...);
  }
  for (; r < rows; ++r)
    ((sums[r % 4][kColumn] = Op::join(sums[r % 4][kColumn], term(r, kColumn))), ...);
  (store_vector<T>(out + kColumn * static_cast<int>(kLanes<T>),
                   Op::join(Op::join(sums[0][kColumn], sums[1][kColumn]),
                            Op::join(sums[2][kColumn], sums[3][kColumn]))),
   ...);
}

template <class Op, class T>
void reduce_columns(void* out, const void* in, const void* with, std::int64_t stride,
                    std::size_t rows, std::size_t n) {
  auto* o = static_cast<T*>(out);
  const auto *x = static_cast<const T*>(in), *w = static_cast<const T*>(with);
  if constexpr (kVectorTerm<Op> && Op::with != With::Element && kIsFloat<T>) {
    constexpr std::size_t kGroup = 4 * kLanes<T>;
    if (n <= kNarrow && n % kLanes<T> == 0 && rows >= 8) {
      std::size_t j = 0;
      for (; j + kGroup <= n; j += kGroup)
        narrow_columns<Op, T>(o + j, x + j, w + (w ? j : 0), stride, rows, UpTo<4>{});
      for (; j < n; j += kLanes<T>)
        narrow_columns<Op, T>(o + j, x + j, w + (w ? j : 0), stride, rows, UpTo<1>{});
      return;
    }
  }
  constexpr int kAtOnce = kVectorTerm<Op> ? 8 : 1;
  const auto next = [&](std::size_t count) {
    x += static_cast<std::int64_t>(count) * stride;
    if constexpr (Op::with == With::Element) w += static_cast<std::int64_t>(count) * stride;
  };
  std::size_t r = 0;
  if (rows >= kAtOnce) {
    add_rows<Op, T, true>(o, x, w, stride, n, UpTo<kAtOnce>{});
    next(r = kAtOnce);
  } else {
    add_rows<Op, T, true>(o, x, w, stride, n, UpTo<1>{});
    next(r = 1);
  }
  for (; r + kAtOnce <= rows; r += kAtOnce, next(kAtOnce))
    add_rows<Op, T, false>(o, x, w, stride, n, UpTo<kAtOnce>{});
  for (; r < rows; ++r, next(1)) add_rows<Op, T, false>(o, x, w, stride, n, UpTo<1>{});
}

// ---- Positions of extremes ----

template <bool kMax, class T>
LMP_MATH_FN bool beats(T candidate, T best) {
  if constexpr (kIsFloat<T>) {
    return !isnan(best) && ((kMax ? candidate > best : candidate < best) || isnan(candidate));
  } else {
    return kMax ? candidate > best : candidate < best;
  }
}

/// Positions as wide as the values, so that vectors of both have the same lanes; there are no
/// vectors for the narrowest.
template <class T>
using Place = typename Pick<(sizeof(T) > 4), std::int32_t, std::int64_t>::Type;
template <class T>
inline constexpr bool kVectorPlace = sizeof(T) == sizeof(Place<T>);

/// Where `value`, or NaN, is first; it is there.
template <class T>
LMP_MATH_FN std::size_t first_place(const T* x, T value, std::size_t n) {
  std::size_t i = 0;
  if constexpr (kVectorPlace<T>) {
    using Places = Vector<Place<T>>;
    Places here{}, first = Places{} + static_cast<Place<T>>(n);
    for (std::size_t j = 0; j < kLanes<T>; ++j) here[j] = static_cast<Place<T>>(j);
    for (; i + kLanes<T> <= n; i += kLanes<T>, here += static_cast<Place<T>>(kLanes<T>)) {
      const Vector<T> v = load_vector(x + i);
      const Places found = ((v == value) | (v != v)) ? here : first;
      first = found < first ? found : first;
    }
    const auto place = static_cast<std::size_t>(join_lanes<MinOf, Place<T>>(first));
    if (place < n) return place;
  }
  while (x[i] != value && !isnan(x[i])) ++i;
  return i;
}

template <bool kMax, class T>
using ExtremeOf = typename Pick<kMax, MinOf, MaxOf>::Type;

template <bool kMax, class T>
void arg_rows(void* best, std::int64_t* index, const void* in, std::int64_t stride,
              std::size_t rows, std::size_t n) {
  constexpr std::size_t kPiece = 2048;
  const auto piece = [=](std::size_t i) { return n - i < kPiece ? n - i : kPiece; };
  auto* top = static_cast<T*>(best);
  const auto* x = static_cast<const T*>(in);
  for (std::size_t r = 0; r < rows; ++r, x += stride) {
    std::size_t place = 0;
    for (std::size_t i = 0; i < n; i += kPiece) {
      const T value = reduce_row<ExtremeOf<kMax, T>, T>(x + i, nullptr, piece(i));
      if (i > 0 && !beats<kMax>(value, top[r])) continue;
      top[r] = value;
      place = i;
    }
    index[r] = static_cast<std::int64_t>(place + first_place(x + place, top[r], piece(place)));
  }
}

template <bool kMax, class T>
void arg_columns(void* best, std::int64_t* index, const void* in, std::int64_t stride,
                 std::size_t rows, std::size_t n) {
  auto* top = static_cast<T*>(best);
  const auto* x = static_cast<const T*>(in);
  Place<T> place[kBlock];
  for (std::size_t j = 0; j < n; ++j) {
    top[j] = x[j];
    place[j] = 0;
  }
  constexpr std::size_t kAtOnce = 8;
  for (std::size_t row = 1; row < rows; row += kAtOnce) {
    const std::size_t end = rows - row < kAtOnce ? rows : row + kAtOnce;
    std::size_t j = 0;
    if constexpr (kVectorPlace<T>) {
      for (; j + kLanes<T> <= n; j += kLanes<T>) {
        Vector<T> value = load_vector(top + j);
        Vector<Place<T>> at = load_vector(place + j);
        const T* from = x + static_cast<std::int64_t>(row) * stride + j;
        for (std::size_t r = row; r < end; ++r, from += stride) {
          const Vector<T> next = load_vector(from);
          auto wins = kMax ? next > value : next < value;
          if constexpr (kIsFloat<T>) wins = (wins | (next != next)) & (value == value);
          value = wins ? next : value;
          at = wins ? Vector<Place<T>>{} + static_cast<Place<T>>(r) : at;
        }
        store_vector<T>(top + j, value);
        store_vector<Place<T>>(place + j, at);
      }
    }
    for (; j < n; ++j) {
      for (std::size_t r = row; r < end; ++r) {
        const T next = x[static_cast<std::int64_t>(r) * stride + static_cast<std::int64_t>(j)];
        if (!beats<kMax>(next, top[j])) continue;
        top[j] = next;
        place[j] = static_cast<Place<T>>(r);
      }
    }
  }
  for (std::size_t j = 0; j < n; ++j) index[j] = place[j];
}

template <bool kMax, class T>
void arg_join(void* best, std::int64_t* index, const void* other, const std::int64_t* other_index,
              std::size_t n) {
  auto* top = static_cast<T*>(best);
  const auto* next = static_cast<const T*>(other);
  for (std::size_t j = 0; j < n; ++j) {
    if (!beats<kMax>(next[j], top[j])) continue;
    top[j] = next[j];
    index[j] = other_index[j];
  }
}

// ---- Running sums ----
// A running float sum would lose what a pairwise one keeps, so it runs in double.

template <class T>
using Running = typename Pick<kIsFloat<T>, T, double>::Type;

template <int kBy, int... kLane>
LMP_MATH_FN auto moved_up(Vector<double> v, Indices<kLane...>) {
  return __builtin_shufflevector(Vector<double>{}, v,
                                 (kLane < kBy ? kLane : kLane - kBy + int{sizeof...(kLane)})...);
}

template <class T>
void cumsum_row(void* out, void* carry, const void* in, std::size_t n) {
  auto* o = static_cast<T*>(out);
  const auto* x = static_cast<const T*>(in);
  auto total = *static_cast<Running<T>*>(carry);
  std::size_t i = 0;
  if constexpr (kIsFloat<T>) {
    // Sums within a vector by doubling steps; from one vector to the next goes one addition.
    constexpr std::size_t kStep = kLanes<double>;
    using Lanes = UpTo<static_cast<int>(kStep)>;
    using Narrow = typename VectorOf<T, static_cast<int>(kStep * sizeof(T))>::Type;
    for (; i + kStep <= n; i += kStep) {
      Narrow narrow;
      __builtin_memcpy(&narrow, x + i, sizeof narrow);
      Vector<double> v = __builtin_convertvector(narrow, Vector<double>);
      v += moved_up<1>(v, Lanes{});
      if constexpr (kStep > 2) v += moved_up<2>(v, Lanes{});
      if constexpr (kStep > 4) v += moved_up<4>(v, Lanes{});
      narrow = __builtin_convertvector(v + total, Narrow);
      __builtin_memcpy(o + i, &narrow, sizeof narrow);
      total += v[kStep - 1];
    }
  }
  for (; i < n; ++i) {
    total = add(total, static_cast<Running<T>>(x[i]));
    o[i] = static_cast<T>(total);
  }
  *static_cast<Running<T>*>(carry) = total;
}

template <class T>
void cumsum_columns(void* out, void* carry, const void* in, std::size_t n) {
  auto* o = static_cast<T*>(out);
  const auto* x = static_cast<const T*>(in);
  auto* totals = static_cast<Running<T>*>(carry);
  LMP_VECTORIZE
  for (std::size_t j = 0; j < n; ++j) {
    totals[j] = add(totals[j], static_cast<Running<T>>(x[j]));
    o[j] = static_cast<T>(totals[j]);
  }
}

// ---- What is made of the elements and of values for each result ----

struct ScaledOf {
  template <class T>
  LMP_FN static T apply(T x, T, T a, T b) {
    return (x - a) * b;
  }
};
struct TiesOf {
  template <class T>
  LMP_FN static T apply(T x, T, T a, T b) {
    return (x == a ? T{1} : T{0}) * b;
  }
};
struct ScaledExpOf {
  template <class T>
  LMP_FN static T apply(T x, T, T a, T b) {
    return exp_below(x - a) * b;
  }
};
struct LessBothOf {
  template <class T>
  LMP_FN static T apply(T x, T, T a, T b) {
    return x - a - b;
  }
};
struct SoftmaxGradientOf {
  template <class T>
  LMP_FN static T apply(T y, T g, T a, T) {
    return y * (g - a);
  }
};
struct LogSoftmaxGradientOf {
  template <class T>
  LMP_FN static T apply(T y, T g, T a, T) {
    return g - exp_below(y) * a;
  }
};

struct RepeatOf {
  template <class T>
  LMP_FN static T apply(T, T, T a, T) {
    return a;
  }
};

template <class Op, class T, bool kColumns>
void spread(void* out, const void* in, const void* with, const void* first, const void* second,
            std::int64_t step, std::size_t rows, std::size_t n) {
  constexpr bool kWith = __is_same(Op, SoftmaxGradientOf) || __is_same(Op, LogSoftmaxGradientOf);
  auto* o = static_cast<T*>(out);
  const auto *x = static_cast<const T*>(in), *w = static_cast<const T*>(kWith ? with : in),
             *a = static_cast<const T*>(first), *b = static_cast<const T*>(second);
  for (std::size_t r = 0; r < rows; ++r, o += n, x += n, w += n, a += step, b += step) {
    if constexpr (kColumns) {
      LMP_VECTORIZE
      for (std::size_t j = 0; j < n; ++j) o[j] = Op::apply(x[j], w[j], a[j], b[j]);
    } else {
      const T low = *a, high = *b;
      LMP_VECTORIZE
      for (std::size_t j = 0; j < n; ++j) o[j] = Op::apply(x[j], w[j], low, high);
    }
  }
}

// ---- Softmax of whole rows, which stay in cache between the steps ----

constexpr std::size_t kSoftmaxBlock = 2048;
constexpr std::size_t kSoftmaxRows = 32;

// Runs group(rows) over groups of rows. The steps of a short row wait for each other; those of
// different rows do not.
template <class F>
LMP_MATH_FN void by_groups(std::size_t rows, std::size_t n, F group) {
  const std::size_t fit = n * kSoftmaxRows <= kSoftmaxBlock ? kSoftmaxRows
                          : n < kSoftmaxBlock               ? kSoftmaxBlock / n
                                                            : 1;
  for (std::size_t r = 0; r < rows; r += fit) group(rows - r < fit ? rows - r : fit);
}

// The sum of what block(begin, count) gives for the blocks of a row.
template <class F>
LMP_MATH_FN double sum_blocks(std::size_t n, F block) {
  double total = 0;
  for (std::size_t begin = 0; begin < n; begin += kSoftmaxBlock)
    total +=
        static_cast<double>(block(begin, n - begin < kSoftmaxBlock ? n - begin : kSoftmaxBlock));
  return total;
}

template <class T, bool kLog>
void softmax_rows(void* out, const void* in, std::size_t rows, std::size_t n) {
  auto* o = static_cast<T*>(out);
  const auto* x = static_cast<const T*>(in);
  by_groups(
      rows, n, [&](std::size_t count) __attribute__((always_inline)) {
        T top[kSoftmaxRows], sum[kSoftmaxRows];
        for (std::size_t r = 0; r < count; ++r)
          top[r] = reduce_row<MaxOf, T>(x + r * n, nullptr, n);
        for (std::size_t r = 0; r < count; ++r) {
          const T *from = x + r * n, shift = top[r];
          T* const to = o + r * n;
          sum[r] = static_cast<T>(sum_blocks(
              n, [=](std::size_t begin, std::size_t size) __attribute__((always_inline)) {
                LMP_VECTORIZE
                for (std::size_t i = begin; i < begin + size; ++i)
                  to[i] = exp_below(from[i] - shift);
                return reduce_row<SumOf, T>(to + begin, nullptr, size);
              }));
        }
        for (std::size_t r = 0; r < count; ++r) sum[r] = kLog ? log(sum[r]) : 1 / sum[r];
        for (std::size_t r = 0; r < count; ++r) {
          const T *from = x + r * n, shift = top[r], last = sum[r];
          T* const to = o + r * n;
          LMP_VECTORIZE
          for (std::size_t i = 0; i < n; ++i) to[i] = kLog ? from[i] - shift - last : to[i] * last;
        }
        o += count * n;
        x += count * n;
      });
}

template <class T, bool kLog>
void softmax_gradient_rows(void* out, const void* result, const void* gradient, std::size_t rows,
                           std::size_t n) {
  using Op = typename Pick<kLog, SoftmaxGradientOf, LogSoftmaxGradientOf>::Type;
  auto* o = static_cast<T*>(out);
  const auto *y = static_cast<const T*>(result), *g = static_cast<const T*>(gradient);
  by_groups(
      rows, n, [&](std::size_t count) __attribute__((always_inline)) {
        T sum[kSoftmaxRows];
        for (std::size_t r = 0; r < count; ++r)
          sum[r] = static_cast<T>(sum_blocks(
              n, [=](std::size_t begin, std::size_t size) __attribute__((always_inline)) {
                const std::size_t i = r * n + begin;
                return kLog ? reduce_row<SumOf, T>(g + i, nullptr, size)
                            : reduce_row<ProductsOf, T>(y + i, g + i, size);
              }));
        spread<Op, T, false>(o, y, g, sum, sum, 1, count, n);
        o += count * n;
        y += count * n;
        g += count * n;
      });
}

template <class Op, class T>
void fill_reduction(Kernels& kernels, Reduction reduction, int type) {
  kernels.reduce[static_cast<int>(reduction)][type] = {&reduce_rows<Op, T>, &reduce_columns<Op, T>};
}
template <class Op, class T>
void fill_spread(Kernels& kernels, Spread op, int type) {
  kernels.spread[static_cast<int>(op)][type] = {&spread<Op, T, false>, &spread<Op, T, true>};
}

}  // namespace

void fill_reduce(Kernels& kernels) {
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    using T = ComputeType<k>;
    // Vectors of bool do not exist, and those of signed integers do not wrap.
    using Ordered = typename Pick<k == 0, T, unsigned char>::Type;
    fill_reduction<MaxOf, Ordered>(kernels, Reduction::Max, k);
    fill_reduction<MinOf, Ordered>(kernels, Reduction::Min, k);
    kernels.arg[0][k] = {&arg_rows<true, Ordered>, &arg_columns<true, Ordered>,
                         &arg_join<true, Ordered>};
    kernels.arg[1][k] = {&arg_rows<false, Ordered>, &arg_columns<false, Ordered>,
                         &arg_join<false, Ordered>};
    if constexpr (k >= 5) {
      using Wrapping = typename Pick<k == 5, T, MathU64>::Type;
      fill_reduction<SumOf, Wrapping>(kernels, Reduction::Sum, k);
      fill_reduction<ProdOf, Wrapping>(kernels, Reduction::Prod, k);
      kernels.cumsum[k] = {&cumsum_row<T>, &cumsum_columns<T>};
    }
    if constexpr (k >= 6) {
      fill_reduction<SquaresOf, T>(kernels, Reduction::Squares, k);
      fill_reduction<ExpsOf, T>(kernels, Reduction::Exps, k);
      fill_reduction<ProductsOf, T>(kernels, Reduction::Products, k);
      fill_reduction<EqualsOf, T>(kernels, Reduction::Equals, k);
      constexpr int f = k - 6;
      fill_spread<ScaledOf, T>(kernels, Spread::Scaled, f);
      fill_spread<TiesOf, T>(kernels, Spread::Ties, f);
      fill_spread<ScaledExpOf, T>(kernels, Spread::ScaledExp, f);
      fill_spread<LessBothOf, T>(kernels, Spread::LessBoth, f);
      fill_spread<SoftmaxGradientOf, T>(kernels, Spread::SoftmaxGradient, f);
      fill_spread<LogSoftmaxGradientOf, T>(kernels, Spread::LogSoftmaxGradient, f);
      fill_spread<RepeatOf, T>(kernels, Spread::Repeat, f);
      kernels.softmax[0][f] = &softmax_rows<T, false>;
      kernels.softmax[1][f] = &softmax_rows<T, true>;
      kernels.softmax_gradient[0][f] = &softmax_gradient_rows<T, false>;
      kernels.softmax_gradient[1][f] = &softmax_gradient_rows<T, true>;
    }
  });
}

}  // namespace lmp::cpu::LMP_ISA
