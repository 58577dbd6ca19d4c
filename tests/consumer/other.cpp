#include <lamppp/lamppp.hpp>

bool other_file_agrees(const lmp::Variable& x);

bool other_file_agrees(const lmp::Variable& x) { return x.grad().to_vector<float>()[0] == 4.0f; }
