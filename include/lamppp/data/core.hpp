#pragma once

#include "lamppp/data/data_loader.hpp"
#include "lamppp/data/idx.hpp"
#include "lamppp/data/mnist.hpp"
