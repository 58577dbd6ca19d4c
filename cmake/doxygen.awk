# What doxygen reads in the place of functions.inc: the functions in namespace lmp; an overload
# without a comment of its own shares that of the one above.
BEGIN { print "namespace lmp {" }
/^#define LMP_OPERATOR/, /^#undef LMP_OPERATOR/ { next }
/^\/\/\// { doc = (fresh ? doc : "") $0 "\n"; fresh = 1 }
/^(LMP_API|inline)/ { if (!fresh) printf "%s", doc; fresh = 0 }
{ print }
END { print "}" }
