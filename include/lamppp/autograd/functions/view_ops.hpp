#pragma once

#include "lamppp/autograd/ops.hpp"
