#pragma once

#include "lamppp/export.hpp"

namespace lmp::tensor {

/// How many threads one operation may use, from 1 to 1024; anything else is a ValueError. Results
/// do not depend on it. Threads have a floating-point state of their own: a rounding mode or
/// flush-to-zero set by the caller does not reach them.
LMP_API void set_num_threads(int count);

/// Defaults to the cores this process may run on, or fewer if the environment's LAMPPP_NUM_THREADS
/// or OMP_NUM_THREADS says so. 1 in a process forked from one that has used threads.
LMP_API int get_num_threads() noexcept;

}  // namespace lmp::tensor
