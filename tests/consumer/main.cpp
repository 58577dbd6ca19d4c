#include <lamppp/lamppp.hpp>
#include <sstream>

#if defined(_OPENMP) || defined(LAMPPP_HAVE_ONEDNN) || defined(LMP_ISA) || defined(LAMPPP_WERROR)
#error "a flag or macro of the library's own build arrived here"
#endif

bool other_file_agrees(const lmp::Variable& x);

namespace {

int failures = 0;

void check(bool holds, const char* what) {
  if (holds) return;
  std::cerr << "failed: " << what << "\n";
  ++failures;
}

template <class E>
bool shape_error_arrives_as() {
  lmp::Tensor a({1.0f, 2.0f}, {2}), b({1.0f, 2.0f, 3.0f}, {3});
  try {
    a + b;
  } catch (const E& error) {
    return error.what()[0] != '\0';
  }
  return false;
}

}  // namespace

int main() {
  lmp::Tensor data({2.0f}, {1}, lmp::DeviceType::CPU, lmp::DataType::Float32);
  lmp::Variable x(data, true);
  lmp::Variable y = x * x;
  y.backward();
  std::cout << x.grad() << "\n";
  std::ostringstream printed;
  printed << x.grad();
  check(printed.str() == "[4.0]", "the gradient of x * x prints as [4.0]");
  check(other_file_agrees(x), "two files of one program share the library");

  check(shape_error_arrives_as<lmp::ShapeError>(), "a ShapeError is caught by its type");
  check(shape_error_arrives_as<lmp::Error>(), "a ShapeError is caught as an Error");
  check(shape_error_arrives_as<std::runtime_error>(), "a ShapeError is caught as a runtime_error");

  // Also where this file is compiled with -ffast-math: the library makes and sees the NaN.
  lmp::Tensor nan = lmp::log(lmp::Tensor({-1.0f}, {1}));
  check(lmp::isnan(nan).to_vector<bool>()[0], "isnan(log(-1))");
  return failures == 0 ? 0 : 1;
}
