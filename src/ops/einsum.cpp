#include "ops/einsum.hpp"

#include <algorithm>
#include <string>

#include "tensor/checks.hpp"

namespace lmp::table {

using tensor::IntList;
using tensor::detail::concat;

namespace {

[[noreturn]] void refuse(std::string_view equation, const std::string& why) {
  throw ValueError(concat("einsum(\"", std::string(equation), "\"): ", why));
}

// The axes that "..." stands for get letters nobody can write, counted from the last.
constexpr char kFirstHidden = 1;

std::string expand_dots(std::string_view equation, std::string_view term, int ndim, int& hidden) {
  std::string letters;
  std::size_t dots = std::string_view::npos;
  for (std::size_t i = 0; i < term.size(); ++i) {
    if (term.substr(i, 3) == "..." && dots == std::string_view::npos) {
      dots = letters.size();
      i += 2;
    } else if ((term[i] >= 'a' && term[i] <= 'z') || (term[i] >= 'A' && term[i] <= 'Z')) {
      letters.push_back(term[i]);
    } else {
      refuse(equation,
             "letters, commas, one \"...\" an operand and one \"->\" are all it may hold");
    }
  }
  if (ndim < 0)
    ndim = static_cast<int>(letters.size()) + (dots == std::string_view::npos ? 0 : hidden);
  const int extra = ndim - static_cast<int>(letters.size());
  if (extra < 0 || (extra > 0 && dots == std::string_view::npos))
    refuse(equation, concat("\"", std::string(term), "\" names ", letters.size(),
                            " axes, the operand has ", ndim));
  if (dots != std::string_view::npos) {
    hidden = std::max(hidden, extra);
    std::string inserted;
    for (int i = extra; i > 0; --i) inserted.push_back(static_cast<char>(kFirstHidden + i - 1));
    letters.insert(dots, inserted);
  }
  return letters;
}

}  // namespace

EinsumPlan plan_einsum(std::string_view equation, const std::vector<IntList>& shapes) {
  std::string compact;
  for (char c : equation)
    if (c != ' ') compact.push_back(c);
  const std::string_view text = compact;
  const std::size_t arrow = text.find("->");
  std::string_view inputs = text.substr(0, arrow);

  std::vector<std::string> terms;
  int hidden = 0;
  for (std::size_t start = 0, i = 0;; ++i) {
    const std::size_t comma = inputs.find(',', start);
    if (i >= shapes.size())
      refuse(equation, concat("it names more operands than the ", shapes.size(), " given"));
    terms.push_back(expand_dots(equation, inputs.substr(start, comma - start),
                                static_cast<int>(shapes[i].size()), hidden));
    if (comma == std::string_view::npos) break;
    start = comma + 1;
  }
  if (terms.size() != shapes.size())
    refuse(equation, concat("it names ", terms.size(), " operands, ", shapes.size(), " are given"));

  const std::string joined = [&] {
    std::string all;
    for (const std::string& t : terms) all += t;
    return all;
  }();
  std::string out;
  if (arrow == std::string_view::npos) {
    for (int i = hidden; i > 0; --i) out.push_back(static_cast<char>(kFirstHidden + i - 1));
    std::string sorted = joined;
    std::sort(sorted.begin(), sorted.end());
    for (char c : sorted)
      if (c >= 'A' && std::count(joined.begin(), joined.end(), c) == 1) out.push_back(c);
  } else {
    out = expand_dots(equation, text.substr(arrow + 2), -1, hidden);
    for (char c : out) {
      if (std::count(out.begin(), out.end(), c) > 1)
        refuse(equation, "a letter appears twice in the result");
      if (c >= 'A' && joined.find(c) == std::string::npos)
        refuse(equation, "a letter of the result is in no operand");
    }
  }
  std::string axes = out;
  for (char c : joined)
    if (axes.find(c) == std::string::npos) axes.push_back(c);
  if (axes.size() > tensor::kMaxDims) refuse(equation, "more than 8 different letters");

  // Sizes have to agree wherever a letter appears; 1 broadcasts.
  for (char c : axes) {
    std::int64_t size = 1;
    for (std::size_t i = 0; i < terms.size(); ++i)
      for (std::size_t d = 0; d < terms[i].size(); ++d) {
        if (terms[i][d] != c) continue;
        const std::int64_t first = shapes[i][terms[i].find(c)];
        if (shapes[i][d] != first)
          throw ShapeError(concat("einsum(\"", std::string(equation), "\"): a letter that an ",
                                  "operand has twice is for its diagonal, of sizes ", first,
                                  " and ", shapes[i][d], " there is none"));
        if (size != 1 && shapes[i][d] != 1 && shapes[i][d] != size)
          throw ShapeError(concat("einsum(\"", std::string(equation), "\"): sizes ", size, " and ",
                                  shapes[i][d], " of one letter do not agree"));
        size = std::max(size, shapes[i][d]);
      }
  }

  EinsumPlan plan;
  plan.kept = static_cast<int>(out.size());
  plan.summed = static_cast<int>(axes.size() - out.size());
  for (std::string term : terms) {
    auto& diagonals = plan.diagonals.emplace_back();
    for (std::size_t a = 0; a < term.size(); ++a) {
      const std::size_t b = term.find(term[a], a + 1);
      if (b == std::string::npos) continue;
      diagonals.emplace_back(static_cast<int>(a), static_cast<int>(b));
      const char letter = term[a];
      term.erase(b, 1);
      term.erase(a, 1);
      term.push_back(letter);
      a = std::string::npos;  // from the start again
    }
    IntList order, inserted;
    for (std::size_t k = 0; k < axes.size(); ++k) {
      const std::size_t at = term.find(axes[k]);
      if (at == std::string::npos)
        inserted.push_back(static_cast<std::int64_t>(k));
      else
        order.push_back(static_cast<std::int64_t>(at));
    }
    plan.orders.push_back(order);
    plan.inserted.push_back(inserted);
  }
  return plan;
}

}  // namespace lmp::table
