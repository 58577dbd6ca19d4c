#pragma once

#include <stdexcept>
#include <string>

#include "lamppp/export.hpp"

namespace lmp {

/// Base of everything Lamp++ throws. The message names the op, the shapes or types involved and the
/// remedy. After an exception every object is as it was before the call, but for the gradients and
/// the graph of a backward pass that broke off (see Variable::backward).
class LMP_API Error : public std::runtime_error {
 public:
  /// `message` is what what() returns.
  explicit Error(const std::string& message) : std::runtime_error(message) {}
  ~Error() override;
};

/// Shapes, ranks or sizes that do not fit together.
class LMP_API ShapeError : public Error {
 public:
  using Error::Error;
  ~ShapeError() override;
};

/// An element type that an operation does not take, or raw access as the wrong type.
class LMP_API TypeError : public Error {
 public:
  using Error::Error;
  ~TypeError() override;
};

/// An axis or an index out of range.
class LMP_API IndexError : public Error {
 public:
  using Error::Error;
  ~IndexError() override;
};

/// A number or an option outside what an operation accepts.
class LMP_API ValueError : public Error {
 public:
  using Error::Error;
  ~ValueError() override;
};

/// A matrix that linear algebra has no result for: singular, or not positive definite; names the
/// first one of the batch.
class LMP_API LinAlgError : public Error {
 public:
  using Error::Error;
  ~LinAlgError() override;
};

/// A device that is not there, or operands on different devices.
class LMP_API DeviceError : public Error {
 public:
  using Error::Error;
  ~DeviceError() override;
};

/// A GPU that failed in a way that no later call survives. What failed may be an op before the one
/// that throws; later calls on that GPU throw it too.
class LMP_API DeviceLostError : public DeviceError {
 public:
  using DeviceError::DeviceError;
  ~DeviceLostError() override;
};

/// Misuse of the graph: no gradient to compute, a released graph, a value changed after it was
/// saved.
class LMP_API AutogradError : public Error {
 public:
  using Error::Error;
  ~AutogradError() override;
};

/// Memory exhausted after cached blocks were returned and the request tried again.
class LMP_API OutOfMemoryError : public Error {
 public:
  using Error::Error;
  ~OutOfMemoryError() override;
};

/// A file that is missing, truncated or not what its format says; names the file, the offset and
/// the rule.
class LMP_API FileError : public Error {
 public:
  using Error::Error;
  ~FileError() override;
};

}  // namespace lmp
