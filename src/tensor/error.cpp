#include "lamppp/error.hpp"

// Out of line, so that each has one vtable, which the shared library exports.
namespace lmp {
Error::~Error() = default;
ShapeError::~ShapeError() = default;
TypeError::~TypeError() = default;
IndexError::~IndexError() = default;
ValueError::~ValueError() = default;
LinAlgError::~LinAlgError() = default;
DeviceError::~DeviceError() = default;
DeviceLostError::~DeviceLostError() = default;
AutogradError::~AutogradError() = default;
OutOfMemoryError::~OutOfMemoryError() = default;
FileError::~FileError() = default;
}  // namespace lmp
