#pragma once

#include "lamppp/autograd/constructor.hpp"
#include "lamppp/autograd/draw_graph.hpp"
#include "lamppp/autograd/grad.hpp"
#include "lamppp/autograd/gradcheck.hpp"
#include "lamppp/autograd/ops.hpp"
#include "lamppp/autograd/variable.hpp"
