include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lamppp)
set(generated ${PROJECT_BINARY_DIR}/package)

install(TARGETS lamppp EXPORT lamppp FILE_SET HEADERS)
install(EXPORT lamppp NAMESPACE lamppp:: FILE lamppp-targets.cmake DESTINATION ${package_dir})

# A static library leaves its dependencies to whoever links it; a shared one has them already.
get_target_property(type lamppp TYPE)
set(config_dependencies "")
set(pc_definitions "-DLAMPPP_SHARED")
set(pc_requires_private "")
set(pc_libs_private "")
if(type STREQUAL "STATIC_LIBRARY")
  set(dependencies "find_dependency(ZLIB)")
  set(pc_definitions "")
  set(pc_requires_private "zlib")
  set(pc_libs_private "-lstdc++ -lm -pthread")
  if("OpenMP::OpenMP_CXX" IN_LIST LAMPPP_PRIVATE_LIBRARIES)
    list(APPEND dependencies "find_dependency(OpenMP COMPONENTS CXX)")
    list(TRANSFORM OpenMP_CXX_LIB_NAMES PREPEND " -l" OUTPUT_VARIABLE openmp_libs)
    string(APPEND pc_libs_private ${openmp_libs})
  else()
    list(APPEND dependencies "find_dependency(Threads)")
  endif()
  if(LAMPPP_HAVE_ONEDNN)
    list(APPEND dependencies "find_dependency(oneDNN)")
    string(APPEND pc_libs_private " -ldnnl")
    install(FILES cmake/FindoneDNN.cmake DESTINATION ${package_dir})
  endif()
  if(LAMPPP_HAVE_CUDA)
    list(APPEND dependencies "find_dependency(CUDAToolkit)")
    string(APPEND pc_libs_private " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt")
  endif()
  list(JOIN dependencies "\n" config_dependencies)
endif()

configure_package_config_file(cmake/lamppp-config.cmake.in ${generated}/lamppp-config.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${generated}/lamppp-config-version.cmake
  COMPATIBILITY SameMinorVersion)
# From where the file lies, so that `cmake --install --prefix` may put the package anywhere.
file(RELATIVE_PATH pc_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/lamppp.pc.in ${generated}/lamppp.pc @ONLY)

install(FILES ${generated}/lamppp-config.cmake ${generated}/lamppp-config-version.cmake
        DESTINATION ${package_dir})
install(FILES ${generated}/lamppp.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
