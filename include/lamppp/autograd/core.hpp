#pragma once

#include "lamppp/autograd/checkpoint.hpp"
#include "lamppp/autograd/constructor.hpp"
#include "lamppp/autograd/draw_graph.hpp"
#include "lamppp/autograd/function.hpp"
#include "lamppp/autograd/grad.hpp"
#include "lamppp/autograd/gradcheck.hpp"
#include "lamppp/autograd/guards.hpp"
#include "lamppp/autograd/hooks.hpp"
#include "lamppp/autograd/ops.hpp"
#include "lamppp/autograd/transforms.hpp"
#include "lamppp/autograd/variable.hpp"
