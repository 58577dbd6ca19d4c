// What docs/ says of the op table is what the table says.

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "ops/pointwise_run.hpp"

namespace {

std::string read(const std::string& path) {
  std::ifstream file(std::string(LAMPPP_TEST_DIR) + "/../" + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string table_of_ops() {
  using lmp::table::Promote;
  std::ostringstream out;
  out << "# Pointwise operations\n\n"
         "Each takes a Tensor or a Variable, `lmp::exp(x)`, and broadcasts. A second or third "
         "operand may be a plain\n"
         "number. *Result*: the promoted type of the operands, Float32 where that is an integer "
         "type (\"float\"), or\n"
         "Bool. This page is made from the table in `src/ops/pointwise.hpp`: "
         "`LAMPPP_UPDATE_DOCS=1` in the\n"
         "environment of the tests writes it anew.\n\n"
         "| operation | value | result | gradient | takes Bool |\n|---|---|---|---|---|\n";
  for (int i = 0; i < lmp::table::kOpCount; ++i) {
    const lmp::table::PointwiseOp& op = lmp::table::pointwise_op(static_cast<lmp::table::OpId>(i));
    const bool x_named = op.arity == 1;
    std::string formula = op.info.formula;
    for (std::size_t at = 0; (at = formula.find('|', at)) != std::string::npos; at += 2)
      formula.insert(at, "\\");
    out << "| `" << op.info.name
        << (x_named             ? "(x)"
            : op.arity == 2     ? "(a, b)"
            : op.info.condition ? "(condition, a, b)"
                                : "(x, low, high)")
        << "` | " << formula << " | "
        << (op.info.promote == Promote::Compare ? "Bool"
            : op.info.promote == Promote::Float ? "float"
                                                : "promoted")
        << " | " << (op.differentiable ? "yes" : "-") << " | "
        << (op.info.takes_bool ? "yes" : "no") << " |\n";
  }
  return out.str();
}

TEST(Docs, OpsPageIsTheTable) {
  if (std::getenv("LAMPPP_UPDATE_DOCS")) {
    std::ofstream(std::string(LAMPPP_TEST_DIR) + "/../docs/ops.md") << table_of_ops();
  }
  EXPECT_EQ(read("docs/ops.md"), table_of_ops())
      << "run the tests with LAMPPP_UPDATE_DOCS=1 to write it anew";
}

TEST(Docs, TheExampleOpStandsInTheSource) {
  const std::string page = read("docs/adding_an_op.md"), source = read("src/ops/pointwise.hpp"),
                    list = read("include/lamppp/tensor/pointwise.def");
  const std::string fence = "```c++\nstruct ";
  const std::size_t begin = page.find(fence);
  ASSERT_NE(begin, std::string::npos);
  const std::size_t from = begin + fence.size() - 7;
  const std::string quoted = page.substr(from, page.find("```", from) - from);
  EXPECT_NE(source.find(quoted), std::string::npos) << quoted;
  EXPECT_NE(list.find("LMP_UNARY(softsign, Softsign)"), std::string::npos);
}

}  // namespace
