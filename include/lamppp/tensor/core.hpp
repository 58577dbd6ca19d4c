#pragma once

#include "lamppp/tensor/data_type.hpp"
#include "lamppp/tensor/device_type.hpp"
#include "lamppp/tensor/memory.hpp"
#include "lamppp/tensor/ops.hpp"
#include "lamppp/tensor/random.hpp"
#include "lamppp/tensor/shape.hpp"
#include "lamppp/tensor/tensor.hpp"
#include "lamppp/tensor/threads.hpp"
#include "lamppp/tensor/update.hpp"
