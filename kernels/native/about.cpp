// What a library was built from and with; the loader asks before it trusts one.

extern "C" const char *gengauge_sources() { return GENGAUGE_SOURCES; }

extern "C" int gengauge_openmp() {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}
