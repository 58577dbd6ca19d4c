#pragma once

#include <cstdint>

namespace lmp::tensor::detail {

/// Which streams of GPUs a thread's ops go to, as a number that stands for one stream of each: 0
/// for the default ones. Always 0 where no GPU is used.
extern constinit thread_local std::uint16_t current_queues
    __attribute__((tls_model("initial-exec")));

/// This thread's ops go to the streams `queues` from now on, after all that it gave to the ones
/// before.
void change_queues(std::uint16_t queues);

}  // namespace lmp::tensor::detail
