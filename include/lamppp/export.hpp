#pragma once

/// LMP_API marks what the shared library exports; everything else is hidden. It is the one macro
/// that the public headers leave behind.
#if defined(LAMPPP_SHARED) && defined(__GNUC__)
#define LMP_API __attribute__((visibility("default")))
#else
#define LMP_API
#endif
