# lamppp_private_options(target): what every target of ours is compiled with and no user's ever is.
function(lamppp_private_options target)
  set_target_properties(${target} PROPERTIES
    CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON
    POSITION_INDEPENDENT_CODE ON)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow $<$<BOOL:${LAMPPP_WERROR}>:-Werror>
    # A parent project may have set -ffast-math for all below it; here a NaN stays a NaN.
    -fno-fast-math -fno-math-errno -ffp-contract=off)
  if(LAMPPP_SANITIZE)
    list(JOIN LAMPPP_SANITIZE "," sanitizers)
    target_compile_options(${target} PRIVATE
      -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer
      # What a sanitizer adds makes gcc see uninitialised reads in the standard library.
      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_link_options(${target} PRIVATE -fsanitize=${sanitizers})
  endif()
endfunction()

# lamppp_programs(out room folder libraries...): an executable for every source in the folder, built
# to ROOM/NAME in the build tree; the targets, each ROOM_NAME, are left in `out`.
function(lamppp_programs out room folder)
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cpp)
  set(targets)
  foreach(source IN LISTS sources)
    cmake_path(GET source STEM name)
    set(target ${room}_${name})
    add_executable(${target} ${source})
    set_target_properties(${target} PROPERTIES
      OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/${room})
    target_link_libraries(${target} PRIVATE ${ARGN})
    lamppp_private_options(${target})
    list(APPEND targets ${target})
  endforeach()
  set(${out} ${targets} PARENT_SCOPE)
endfunction()
